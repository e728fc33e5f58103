//! The requests of the FUSE protocol, in its own terms but without a transport: each
//! method is one opcode, mapped to the syscall that does the work.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use nexus_fuse_transport::{Attr, Fallocate, FileLock, Header, LockRequest, SetAttr, SetTime};
use nexus_kernel::command::{AttrChange, NewKind};
use nexus_kernel::error::Errno;
use nexus_kernel::fs::{Caller, DirEntry, FsStats, LockAsk, LockTicket, XattrFlags};
use nexus_kernel::model::{FileKind, Inode, InodeFlags, mode};
use nexus_kernel::{Error, NexusFs, NodeId, Result, Timestamp};

use super::groups::process_in_group;
use super::translate;
use super::translate::LockKind;
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

/// Takes an entry of a listing with its id and attributes; breaks when the reply is full.
pub type ListingSink<'a> = dyn FnMut(&DirEntry, u64, Option<Attr>) -> ControlFlow<()> + 'a;

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

    /// The errno that an error is answered by.
    pub fn errno(&self, error: &Error) -> Errno {
        self.fs.errno(error)
    }

    /// Whether the mount promises readers of zones that they miss nothing.
    pub fn is_strict(&self) -> bool {
        self.fs.is_strict()
    }

    /// LOOKUP. A name that is not there is `None`, so that its absence can be cached.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>> {
        let parent = self.view.node(parent);
        let attr = match name {
            b".." if parent == self.view.root => self.fs.getattr(parent),
            name => self.fs.lookup(parent, name),
        };
        match attr {
            Ok(attr) => Ok(Some(self.view.attr(&attr))),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// FORGET.
    pub fn forget(&self, nodes: impl Iterator<Item = u64>) {
        let nodes: Vec<NodeId> = nodes.map(|node| self.view.node(node)).collect();
        self.fs.forget(&nodes);
    }

    /// GETATTR.
    pub fn getattr(&self, node: u64) -> Result<Attr> {
        Ok(self.view.attr(&self.fs.getattr(self.view.node(node))?))
    }

    /// SETATTR. The kernel has checked the rights.
    pub fn setattr(&self, who: &Header, node: u64, set: &SetAttr) -> Result<Attr> {
        let node = self.view.node(node);
        if let (Some(handle), Some(_)) = (set.handle, set.size) {
            self.fs.check_locks(node, handle)?;
        }
        let gives = (set.uid.is_some() || set.gid.is_some()) && set.mode.is_none() && who.uid != 0;
        if gives || set.kill_privileges && set.size.is_some() {
            self.drop_bare_setgid(who, node)?;
        }
        let (uid, gid) = self.view.owner.accept(set.uid, set.gid)?;
        let change = AttrChange {
            mode: set.mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size: set.size,
            atime: self.time(node, set.atime)?,
            mtime: self.time(node, set.mtime)?,
            kill_privileges: set.kill_privileges,
        };
        let attr = self.fs.setattr(&caller(who), node, &change)?;
        if self.options.sync_attributes {
            self.fs.fsync(node, false)?;
        }
        Ok(self.view.attr(&attr))
    }

    fn time(&self, node: NodeId, time: Option<SetTime>) -> Result<Option<Timestamp>> {
        match time {
            None => Ok(None),
            Some(SetTime::At(time)) => Ok(Some(Timestamp { sec: time.sec, nsec: time.nsec })),
            Some(SetTime::Now) => Ok(Some(self.fs.router().resolve(node)?.0.now())),
        }
    }

    /// READLINK.
    pub fn readlink(&self, node: u64) -> Result<Bytes> {
        self.fs.readlink(self.view.node(node))
    }

    /// MKNOD.
    pub fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Result<Attr> {
        self.make(caller, parent, name, translate::node_kind(mode, rdev)?, mode)
    }

    /// MKDIR.
    pub fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.make(caller, parent, name, NewKind::Directory, mode)
    }

    /// SYMLINK.
    pub fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.make(caller, parent, name, NewKind::Symlink(target.to_vec()), 0o777)
    }

    fn make(&self, caller: &Caller, parent: u64, name: &[u8], kind: NewKind, mode: u32) -> Result<Attr> {
        let parent = self.view.node(parent);
        let attr = self.fs.make(caller, parent, name, kind, mode & 0o7777)?;
        self.names_changed(parent)?;
        Ok(self.view.attr(&attr))
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
    pub fn link(&self, node: u64, new_parent: u64, new_name: &[u8]) -> Result<Attr> {
        let new_parent = self.view.node(new_parent);
        let attr = self.fs.link(self.view.node(node), new_parent, new_name)?;
        self.names_changed(new_parent)?;
        Ok(self.view.attr(&attr))
    }

    fn names_changed(&self, parent: NodeId) -> Result<()> {
        if self.options.sync_names { self.fs.fsyncdir(parent, false) } else { Ok(()) }
    }

    /// OPEN; answers the handle.
    pub fn open(&self, who: &Header, node: u64, flags: u32, kill_privileges: bool) -> Result<u64> {
        let (node, options) = (self.view.node(node), translate::open_options(flags, kill_privileges));
        if options.kill_privileges {
            self.drop_bare_setgid(who, node)?;
        }
        self.fs.open(node, options)
    }

    /// CREATE; answers the handle, too.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: u32,
        kill_privileges: bool,
    ) -> Result<(Attr, u64)> {
        let parent = self.view.node(parent);
        let options = translate::open_options(flags, kill_privileges);
        let (attr, handle) = self.fs.create(caller, parent, name, mode & 0o7777, options)?;
        self.names_changed(parent)?;
        Ok((self.view.attr(&attr), handle))
    }

    /// TMPFILE; answers the handle, too.
    pub fn tmpfile(&self, caller: &Caller, parent: u64, mode: u32) -> Result<(Attr, u64)> {
        let (attr, handle) = self.fs.tmpfile(caller, self.view.node(parent), mode & 0o7777)?;
        Ok((self.view.attr(&attr), handle))
    }

    /// READ, into `out`; answers how many bytes there were.
    pub fn read(&self, node: u64, handle: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.fs.read(self.view.node(node), handle, offset, out)
    }

    /// WRITE.
    pub fn write(
        &self,
        who: &Header,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        kill_privileges: bool,
    ) -> Result<u32> {
        if kill_privileges {
            self.drop_bare_setgid(who, self.view.node(node))?;
        }
        let written = self.fs.write(self.view.node(node), handle, offset, data, kill_privileges)?;
        u32::try_from(written).map_err(|_| Error::Invalid)
    }

    /// WRITE through a descriptor that appends, where others append, too.
    pub fn append(&self, who: &Header, node: u64, handle: u64, data: &[u8], kill_privileges: bool) -> Result<u32> {
        let node = self.view.node(node);
        if kill_privileges {
            self.drop_bare_setgid(who, node)?;
        }
        u32::try_from(self.fs.append(node, handle, data, kill_privileges)?).map_err(|_| Error::Invalid)
    }

    /// RELEASE.
    pub fn release(&self, node: u64, handle: u64) -> Result<()> {
        self.fs.release(self.view.node(node), handle)
    }

    /// FLUSH: a process closes a descriptor, and so gives up what it has locked with fcntl(2).
    pub fn flush(&self, node: u64, handle: u64, owner: u64) -> Result<()> {
        let node = self.view.node(node);
        let flushed = self.fs.flush(node, handle);
        self.fs.unlock_closed(node, owner)?;
        flushed
    }

    /// GETLK.
    pub fn getlk(&self, node: u64, request: &LockRequest) -> Result<FileLock> {
        let LockKind::Take { exclusive } = translate::lock_kind(request.lock.kind)? else {
            return Err(Error::Invalid);
        };
        let found = self.fs.lock_in_way(self.view.node(node), &lock_ask(request, exclusive))?;
        Ok(translate::lock_answer(&request.lock, found))
    }

    /// SETLK, and with a ticket SETLKW.
    pub fn setlk(&self, node: u64, request: &LockRequest, wait: Option<&LockTicket>) -> Result<()> {
        let node = self.view.node(node);
        match translate::lock_kind(request.lock.kind)? {
            LockKind::Take { exclusive } => self.fs.lock(node, request.handle, &lock_ask(request, exclusive), wait),
            LockKind::Release => self.fs.unlock(node, &lock_ask(request, false)),
        }
    }

    /// FSYNC. Callers that meet share the disk's work, further down.
    pub fn fsync(&self, node: u64, handle: u64, data_only: bool) -> Result<()> {
        let node = self.view.node(node);
        self.fs.check_locks(node, handle)?;
        self.fs.sync_writes(node, handle)?;
        self.fs.fsync(node, data_only)
    }

    /// FSYNCDIR.
    pub fn fsyncdir(&self, node: u64, data_only: bool) -> Result<()> {
        self.fs.fsyncdir(self.view.node(node), data_only)
    }

    /// Takes setuid, setgid and capabilities from a file that somebody unprivileged changes
    /// in a way for which the protocol has no flag to ask for it.
    fn drop_privileges(&self, who: &Header, node: NodeId) -> Result<()> {
        let privileged = |inode: &Inode| {
            inode.mode & (mode::S_ISUID | mode::S_ISGID) != 0 || inode.flags.has(InodeFlags::CAPABILITY)
        };
        if who.uid != 0 && privileged(&self.fs.getattr(node)?.inode) {
            let change = AttrChange { kill_privileges: true, ..AttrChange::default() };
            self.fs.setattr(&caller(who), node, &change)?;
            self.drop_bare_setgid(who, node)?;
        }
        Ok(())
    }

    /// Takes setgid from a file without group-execute that somebody outside its group changes.
    /// The kernel leaves that to the file system together with the rest (HANDLE_KILLPRIV_V2), but
    /// its flag speaks of files with group-execute only, and does not tell who is in the group.
    fn drop_bare_setgid(&self, who: &Header, node: NodeId) -> Result<()> {
        let inode = self.fs.getattr(node)?.inode;
        let bare = inode.kind != FileKind::Directory && inode.mode & (mode::S_ISGID | 0o010) == mode::S_ISGID;
        if bare && who.gid != inode.gid && !process_in_group(who.pid, inode.gid) {
            let change = AttrChange { mode: Some(inode.mode & !mode::S_ISGID), ..AttrChange::default() };
            self.fs.setattr(&Caller::ROOT, node, &change)?;
        }
        Ok(())
    }

    /// FALLOCATE.
    pub fn fallocate(&self, who: &Header, node: u64, ask: &Fallocate) -> Result<()> {
        let (node, Fallocate { handle, offset, length: len, mode }) = (self.view.node(node), *ask);
        self.fs.check_locks(node, handle)?;
        let op = translate::range_op(mode)?;
        self.drop_privileges(who, node)?;
        self.fs.fallocate(node, op, offset, len)?;
        if self.options.sync_attributes { self.fs.fsync(node, false) } else { Ok(()) }
    }

    /// LSEEK.
    pub fn lseek(&self, node: u64, offset: u64, whence: u32) -> Result<u64> {
        let what = translate::seek(whence)?;
        if i64::try_from(offset).is_err() {
            return Err(Error::NoSuchOffset);
        }
        self.fs.seek(self.view.node(node), offset, what)
    }

    /// COPY_FILE_RANGE; answers how much was copied, at most `len`.
    pub fn copy_file_range(
        &self,
        who: &Header,
        (from, from_offset): (u64, u64),
        (to, to_handle, to_offset): (u64, u64, u64),
        len: u64,
        flags: u64,
    ) -> Result<u64> {
        if flags != 0 {
            return Err(Error::Invalid);
        }
        let (from, to) = (self.view.node(from), self.view.node(to));
        self.fs.check_locks(to, to_handle)?;
        self.drop_privileges(who, to)?;
        let copied = self.fs.copy_file_range(from, from_offset, to, to_offset, len)?;
        if self.options.sync_attributes {
            self.fs.fsync(to, false)?;
        }
        Ok(copied)
    }

    /// READDIR, or with attributes READDIRPLUS. An entry whose attributes could not be had has
    /// none.
    pub fn list(&self, node: u64, cookie: u64, with_attr: bool, sink: &mut ListingSink<'_>) -> Result<()> {
        let node = self.view.node(node);
        self.fs.readdir(node, cookie, with_attr, &mut |entry| {
            let id = self.entry_id(node, &entry);
            let attr = entry.attr.as_ref().map(|attr| self.view.attr(attr));
            sink(&entry, id, attr)
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

    /// SETXATTR.
    pub fn setxattr(&self, node: u64, name: &[u8], value: &[u8], flags: u32, kill_setgid: bool) -> Result<()> {
        let flags = XattrFlags { mode: translate::xattr_mode(flags)?, kill_setgid };
        self.fs.setxattr(self.view.node(node), name, value, flags)
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

fn lock_ask(request: &LockRequest, exclusive: bool) -> LockAsk {
    let FileLock { start, end, pid, .. } = request.lock;
    LockAsk { owner: request.owner, flock: request.flock, pid, exclusive, start, end }
}

/// Who asks, where no file mode creation mask counts.
fn caller(who: &Header) -> Caller {
    Caller { uid: who.uid, gid: who.gid, umask: 0 }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
