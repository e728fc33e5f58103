//! Syscalls on handles: open, create, flush, release, fsync.

use super::OpenOptions;
use super::{Attr, Caller, NexusFs, answered, directory_inode, live};
use crate::command::{AttrChange, Command, Interest, NewKind};
use crate::error::{Error, Result};
use crate::ids::NodeId;
use crate::model::{FileKind, Inode};
use std::sync::atomic::Ordering;

/// How often `create` starts again when the name comes and goes under its hands.
const CREATE_TRIES: usize = 16;

impl NexusFs {
    /// Opens a regular file; answers the handle.
    pub fn open(&self, node: NodeId, options: OpenOptions) -> Result<u64> {
        let _gate = (!self.caching_client).then(|| self.open_gate.read());
        self.open_node(node, options)
    }

    fn open_node(&self, node: NodeId, options: OpenOptions) -> Result<u64> {
        let (zone, ino) = self.router.resolve(node)?;
        let before = zone.inode(ino)?;
        if self.freshen(&*zone, Interest::Inode(ino))? && before.is_some_and(|inode| inode.nlink > 0) {
            // The client found the file by a name that has another meaning by now: it is to
            // look once more.
            let after = zone.inode(ino)?;
            if after.is_none_or(|inode| inode.nlink == 0) {
                return Err(Error::Stale);
            }
        }
        // Counted first: from here on, the inode stays.
        self.handles.open(node);
        let opened =
            live(&*zone, ino).and_then(|inode| openable(&inode)).and_then(|()| self.truncate_on_open(node, options));
        match opened {
            Ok(()) => Ok(self.next_handle.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                self.close(node);
                Err(error)
            }
        }
    }

    fn truncate_on_open(&self, node: NodeId, options: OpenOptions) -> Result<()> {
        if !options.truncate {
            return Ok(());
        }
        let change = AttrChange { size: Some(0), kill_privileges: options.kill_privileges, ..AttrChange::default() };
        self.setattr(&Caller::ROOT, node, &change).map(|_| ())
    }

    /// Makes and opens a regular file, or opens the one that is there unless `exclusive`.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        options: OpenOptions,
    ) -> Result<(Attr, u64)> {
        let _gate = (!self.caching_client).then(|| self.open_gate.read());
        for _ in 0..CREATE_TRIES {
            match self.make(caller, parent, name, NewKind::Regular, mode) {
                Ok(attr) => {
                    self.handles.open(attr.node);
                    return Ok((attr, self.next_handle.fetch_add(1, Ordering::Relaxed)));
                }
                Err(refused @ (Error::Exists | Error::ReadOnly)) => match self.lookup(parent, name) {
                    Ok(_) if options.exclusive => return Err(Error::Exists),
                    Ok(found) => {
                        let handle = match self.open_node(found.node, options) {
                            // Removed on another node since it was found: the name is free, or another file's.
                            Err(Error::Stale) => continue,
                            opened => opened?,
                        };
                        let attr = if options.truncate { self.getattr(found.node)? } else { found };
                        return Ok((attr, handle));
                    }
                    Err(Error::NotFound) if refused == Error::Exists => {}
                    Err(Error::NotFound) => return Err(refused),
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// Makes a regular file without a name and opens it, as O_TMPFILE does: it goes with its last
    /// user unless it is linked. `parent` is what it inherits from.
    pub fn tmpfile(&self, caller: &Caller, parent: NodeId, mode: u32) -> Result<(Attr, u64)> {
        self.writable()?;
        let (zone, dir) = self.router.resolve(parent)?;
        let command = Command::CreateUnnamed {
            parent: dir,
            ino: zone.allocate_ino()?,
            mode,
            umask: caller.umask,
            uid: caller.uid,
            gid: caller.gid,
            now: zone.now(),
        };
        let outcome = zone.propose(&command)?;
        let attr = answered(parent.zone(), &outcome)?;
        // Open before it counts as an orphan, or it would be gone before it is used.
        self.handles.open(attr.node);
        self.after_removal(parent.zone(), &*zone, &outcome);
        Ok((attr, self.next_handle.fetch_add(1, Ordering::Relaxed)))
    }

    /// A descriptor of the handle is being closed: what was put off of its file's writes is to be with
    /// the other nodes, and what was lost of them is told.
    pub fn flush(&self, node: NodeId, handle: u64) -> Result<()> {
        let zone = self.router.zone(node.zone())?;
        zone.behind().map_or(Ok(()), |behind| behind.flush(node.ino(), handle))
    }

    /// As [`NexusFs::flush`], for who asks for it: what was lost of the handle's writes is told this once.
    pub fn sync_writes(&self, node: NodeId, handle: u64) -> Result<()> {
        let zone = self.router.zone(node.zone())?;
        zone.behind().map_or(Ok(()), |behind| behind.sync(node.ino(), handle))
    }

    /// The handle is gone.
    pub fn release(&self, node: NodeId, handle: u64) -> Result<()> {
        self.unlock_released(node, handle);
        if let Ok(zone) = self.router.zone(node.zone())
            && let Some(behind) = zone.behind()
        {
            behind.released(node.ino(), handle);
        }
        self.close(node);
        Ok(())
    }

    fn close(&self, node: NodeId) {
        if self.handles.close(node) {
            self.content.closed(node.ino());
            self.reaper.closed(node);
        }
    }

    /// Makes the file durable, and with it all that its zone acknowledged before.
    pub fn fsync(&self, node: NodeId, _datasync: bool) -> Result<()> {
        let zone = self.router.zone(node.zone())?;
        zone.sync_file(node.ino())?;
        self.upload_if_asked(&*zone, node.ino())
    }

    /// Opens a directory; answers the handle.
    pub fn opendir(&self, node: NodeId) -> Result<u64> {
        let (zone, ino) = self.router.resolve(node)?;
        self.freshen(&*zone, Interest::Inode(ino))?;
        directory_inode(&self.router, &*zone, ino)?;
        Ok(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    /// The directory handle is gone.
    pub fn releasedir(&self, _node: NodeId, _handle: u64) -> Result<()> {
        Ok(())
    }

    /// Makes the directory durable, and with it all that its zone acknowledged before.
    pub fn fsyncdir(&self, node: NodeId, _datasync: bool) -> Result<()> {
        self.router.zone(node.zone())?.sync_file(node.ino())
    }
}

/// Refuses what the kernel's client never asks a file system to open.
fn openable(inode: &Inode) -> Result<()> {
    match inode.kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory | FileKind::Mount => Err(Error::IsDirectory),
        FileKind::Symlink => Err(Error::LinkLoop),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => Err(Error::NoDevice),
    }
}
