//! The requests of the FUSE protocol, in its own terms but without a transport: each
//! method is one opcode, mapped to the syscall that does the work.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::command::{AttrChange, NewKind};
use nexus_kernel::fs::{Caller, DirEntry, FsStats, XattrFlags};
use nexus_kernel::model::{Inode, InodeFlags, XATTR_ACL_ACCESS, mode};
use nexus_kernel::{Error, NexusFs, NodeId, Result, Timestamp, ZoneIndex};
use smallvec::SmallVec;

use super::groups::process_in_group;
use super::stat::Stat;
use super::translate;
use super::view::{Coherence, View};

/// What a mount asks of its adapter beside its view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AdapterOptions {
    /// Changes of names are durable before they are acknowledged (`dirsync`, `sync`).
    pub sync_names: bool,
    /// Changes of attributes and sizes, too (`sync`; the kernel itself follows writes with fsync).
    pub sync_attributes: bool,
    /// Every open sees fresh reads, so that each is noted (`strictatime`).
    pub note_every_read: bool,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This one.
    At(Timestamp),
}

/// SETATTR's arguments; `None` leaves as is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of struct stat")]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// Takes an entry of a listing with its id and attributes; breaks when the reply is full.
pub type ListingSink<'a> = dyn FnMut(&DirEntry, u64, Option<Stat>) -> ControlFlow<()> + 'a;

/// One mount's requests, over a file system.
pub struct Adapter {
    fs: Arc<NexusFs>,
    view: View,
    options: AdapterOptions,
}

impl Adapter {
    /// An adapter that shows `fs` as `view` tells.
    pub fn new(fs: Arc<NexusFs>, view: View, options: AdapterOptions) -> Adapter {
        Adapter { fs, view, options }
    }

    /// The mount's view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether pages of a file may stay cached from one open to the next.
    pub fn keeps_cache(&self) -> bool {
        self.view.coherence == Coherence::Sole && !self.options.note_every_read
    }

    /// LOOKUP. A name that is not there is `None`, so that its absence can be cached.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Stat>> {
        let parent = self.view.node(parent);
        let attr = match name {
            b".." if parent == self.view.root => self.fs.getattr(parent),
            name => self.fs.lookup(parent, name),
        };
        match attr {
            Ok(attr) => Ok(Some(self.view.stat(&attr))),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// FORGET.
    pub fn forget(&self, node: u64) {
        self.fs.forget(&[self.view.node(node)]);
    }

    /// GETATTR.
    pub fn getattr(&self, node: u64) -> Result<Stat> {
        Ok(self.view.stat(&self.fs.getattr(self.view.node(node))?))
    }

    /// SETATTR. The kernel has checked the rights; what it can't tell is that somebody
    /// unprivileged cuts a setuid file, because fuser drops that flag.
    pub fn setattr(&self, caller: &Caller, node: u64, set: &SetAttr) -> Result<Stat> {
        let node = self.view.node(node);
        let (uid, gid) = self.view.owner.accept(set.uid, set.gid)?;
        let change = AttrChange {
            mode: set.mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size: set.size,
            atime: self.time(node, set.atime)?,
            mtime: self.time(node, set.mtime)?,
            kill_privileges: set.size.is_some() && caller.uid != 0,
        };
        let attr = self.fs.setattr(caller, node, &change)?;
        if self.options.sync_attributes {
            self.fs.fsync(node, false)?;
        }
        Ok(self.view.stat(&attr))
    }

    fn time(&self, node: NodeId, time: Option<SetTime>) -> Result<Option<Timestamp>> {
        match time {
            None => Ok(None),
            Some(SetTime::At(time)) => Ok(Some(time)),
            Some(SetTime::Now) => Ok(Some(self.fs.router().resolve(node)?.0.now())),
        }
    }

    /// READLINK.
    pub fn readlink(&self, node: u64) -> Result<Bytes> {
        self.fs.readlink(self.view.node(node))
    }

    /// MKNOD.
    pub fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Result<Stat> {
        self.make(caller, parent, name, translate::node_kind(mode, rdev)?, mode)
    }

    /// MKDIR.
    pub fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Stat> {
        self.make(caller, parent, name, NewKind::Directory, mode)
    }

    /// SYMLINK.
    pub fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Stat> {
        self.make(caller, parent, name, NewKind::Symlink(target.to_vec()), 0o777)
    }

    fn make(&self, caller: &Caller, parent: u64, name: &[u8], kind: NewKind, mode: u32) -> Result<Stat> {
        let parent = self.view.node(parent);
        let attr = self.fs.make(caller, parent, name, kind, mode & 0o7777)?;
        self.names_changed(parent)?;
        Ok(self.view.stat(&attr))
    }

    /// UNLINK.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.view.node(parent);
        self.fs.unlink(parent, name)?;
        self.names_changed(parent)
    }

    /// RMDIR.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.view.node(parent);
        self.fs.rmdir(parent, name)?;
        self.names_changed(parent)
    }

    /// RENAME and RENAME2.
    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: u32) -> Result<()> {
        let (mode, whiteout) = translate::rename_mode(flags)?;
        let new_parent = self.view.node(new_parent);
        self.fs.rename(self.view.node(parent), name, new_parent, new_name, mode, whiteout)?;
        self.names_changed(new_parent)
    }

    /// LINK.
    pub fn link(&self, node: u64, new_parent: u64, new_name: &[u8]) -> Result<Stat> {
        let new_parent = self.view.node(new_parent);
        let attr = self.fs.link(self.view.node(node), new_parent, new_name)?;
        self.names_changed(new_parent)?;
        Ok(self.view.stat(&attr))
    }

    fn names_changed(&self, parent: NodeId) -> Result<()> {
        if self.options.sync_names { self.fs.fsyncdir(parent, false) } else { Ok(()) }
    }

    /// OPEN; answers the handle.
    pub fn open(&self, caller: &Caller, node: u64, flags: i32) -> Result<u64> {
        self.fs.open(self.view.node(node), translate::open_options(flags, caller.uid))
    }

    /// CREATE; answers the handle, too.
    pub fn create(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, flags: i32) -> Result<(Stat, u64)> {
        let parent = self.view.node(parent);
        let options = translate::open_options(flags, caller.uid);
        let (attr, handle) = self.fs.create(caller, parent, name, mode & 0o7777, options)?;
        self.names_changed(parent)?;
        Ok((self.view.stat(&attr), handle))
    }

    /// READ, to the end of `buf`.
    pub fn read(&self, node: u64, handle: u64, offset: u64, buf: &mut Vec<u8>, len: u32) -> Result<()> {
        self.fs.read(self.view.node(node), handle, offset, buf, len as usize)
    }

    /// WRITE.
    pub fn write(&self, node: u64, handle: u64, offset: u64, data: &[u8], kill_privileges: bool) -> Result<u32> {
        let written = self.fs.write(self.view.node(node), handle, offset, data, kill_privileges)?;
        u32::try_from(written).map_err(|_| Error::Invalid)
    }

    /// RELEASE.
    pub fn release(&self, node: u64, handle: u64) -> Result<()> {
        self.fs.release(self.view.node(node), handle)
    }

    /// FSYNC and FSYNCDIR of several files at once: one sync makes durable what their zone
    /// acknowledged before, so each zone among them is synced once. Answers in order.
    pub fn fsync_all(&self, nodes: &[u64]) -> Vec<Result<()>> {
        let mut zones: SmallVec<[(ZoneIndex, Result<()>); 2]> = SmallVec::new();
        let sync = |&node: &u64| {
            let node = self.view.node(node);
            if let Some((_, outcome)) = zones.iter().find(|(zone, _)| *zone == node.zone()) {
                return outcome.clone();
            }
            let outcome = self.fs.fsync(node, false);
            zones.push((node.zone(), outcome.clone()));
            outcome
        };
        nodes.iter().map(sync).collect()
    }

    /// Takes setuid, setgid and capabilities from a file that somebody unprivileged changes
    /// in a way for which the protocol has no flag to ask for it.
    fn drop_privileges(&self, caller: &Caller, node: NodeId) -> Result<()> {
        let privileged = |inode: &Inode| {
            inode.mode & (mode::S_ISUID | mode::S_ISGID) != 0 || inode.flags.has(InodeFlags::CAPABILITY)
        };
        if caller.uid != 0 && privileged(&self.fs.getattr(node)?.inode) {
            self.fs.setattr(caller, node, &AttrChange { kill_privileges: true, ..AttrChange::default() })?;
        }
        Ok(())
    }

    /// FALLOCATE.
    pub fn fallocate(&self, caller: &Caller, node: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let node = self.view.node(node);
        let op = translate::range_op(mode)?;
        self.drop_privileges(caller, node)?;
        self.fs.fallocate(node, op, offset, len)?;
        if self.options.sync_attributes { self.fs.fsync(node, false) } else { Ok(()) }
    }

    /// LSEEK.
    pub fn lseek(&self, node: u64, offset: i64, whence: i32) -> Result<i64> {
        let what = translate::seek(whence)?;
        let offset = u64::try_from(offset).map_err(|_| Error::NoSuchOffset)?;
        let found = self.fs.seek(self.view.node(node), offset, what)?;
        i64::try_from(found).map_err(|_| Error::FileTooLarge)
    }

    /// COPY_FILE_RANGE. The answer has 32 bits, so longer copies are cut at a whole page.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
        flags: u64,
    ) -> Result<u32> {
        const MOST: u64 = 0xffff_f000;
        if flags != 0 {
            return Err(Error::Invalid);
        }
        let (from, to) = (self.view.node(from), self.view.node(to));
        self.drop_privileges(caller, to)?;
        let copied = self.fs.copy_file_range(from, from_offset, to, to_offset, len.min(MOST))?;
        if self.options.sync_attributes {
            self.fs.fsync(to, false)?;
        }
        u32::try_from(copied).map_err(|_| Error::Invalid)
    }

    /// READDIR: names only.
    pub fn readdir(&self, node: u64, cookie: u64, sink: &mut ListingSink<'_>) -> Result<()> {
        self.list(node, cookie, false, sink)
    }

    /// READDIRPLUS: names with attributes. An entry whose attributes could not be had has none.
    pub fn readdirplus(&self, node: u64, cookie: u64, sink: &mut ListingSink<'_>) -> Result<()> {
        self.list(node, cookie, true, sink)
    }

    fn list(&self, node: u64, cookie: u64, with_attr: bool, sink: &mut ListingSink<'_>) -> Result<()> {
        let node = self.view.node(node);
        self.fs.readdir(node, cookie, with_attr, &mut |entry| {
            let id = self.entry_id(node, &entry);
            let stat = entry.attr.as_ref().map(|attr| self.view.stat(attr));
            sink(&entry, id, stat)
        })
    }

    /// An entry's id. The mounted directory's parent lies outside and is shown as itself.
    fn entry_id(&self, directory: NodeId, entry: &DirEntry) -> u64 {
        let outside = directory == self.view.root && entry.name.as_ref() == b"..";
        self.view.fuse_id(if outside { directory } else { entry.node })
    }

    /// STATFS.
    pub fn statfs(&self, node: u64) -> Result<FsStats> {
        self.fs.statfs(self.view.node(node))
    }

    /// SETXATTR, by process `pid`. Whoever sets an ACL from outside the file's group loses
    /// the set-group-id bit; groups are looked up for this case only.
    pub fn setxattr(&self, caller: &Caller, pid: u32, node: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = self.view.node(node);
        let kill_setgid = name == XATTR_ACL_ACCESS && caller.uid != 0 && {
            let gid = self.fs.getattr(node)?.inode.gid;
            gid != caller.gid && !process_in_group(pid, gid)
        };
        self.fs.setxattr(node, name, value, XattrFlags { mode: translate::xattr_mode(flags)?, kill_setgid })
    }

    /// GETXATTR.
    pub fn getxattr(&self, node: u64, name: &[u8]) -> Result<Bytes> {
        self.fs.getxattr(self.view.node(node), name)
    }

    /// LISTXATTR.
    pub fn listxattr(&self, caller: &Caller, node: u64) -> Result<Vec<u8>> {
        self.fs.listxattr(caller, self.view.node(node))
    }

    /// REMOVEXATTR.
    pub fn removexattr(&self, node: u64, name: &[u8]) -> Result<()> {
        self.fs.removexattr(self.view.node(node), name)
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
