//! The fuser transport: unpacks fuser's requests, packs its replies. All that is about
//! the crate fuser stands here and in [`super::fuser_types`].

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ::fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nexus_kernel::fs::Caller;
use nexus_kernel::model::FileKind;
use nexus_kernel::{Error, Name, Result};

use super::fuser_types::{bare_attr, errno, file_attr, file_type, set_time};
use super::ops::{Adapter, SetAttr};
use super::stat::Stat;
use super::sync_queue::SyncQueue;
use super::translate::{XattrAnswer, xattr_answer};
use super::view::Coherence;

/// Node ids are never used twice, so no generation tells two uses apart.
const GENERATION: Generation = Generation(0);

/// Largest READ and WRITE, in bytes; also the most that a thread keeps as its read buffer.
const MAX_TRANSFER: u32 = 1 << 20;

/// Read-ahead and other background requests in flight at the most.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// The session thread's buffer for reads.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An [`Adapter`] behind the crate fuser.
pub struct FuserTransport {
    adapter: Adapter,
    ttl: Duration,
    open_flags: FopenFlags,
    syncs: SyncQueue<(u64, ReplyEmpty)>,
}

impl FuserTransport {
    /// Serves `adapter`.
    pub fn new(adapter: Adapter) -> FuserTransport {
        let keep = if adapter.keeps_cache() { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        FuserTransport { ttl: adapter.view().ttl(), open_flags: keep, syncs: SyncQueue::default(), adapter }
    }

    /// Capabilities to ask for, if the kernel has them. Left out on purpose: ATOMIC_O_TRUNC
    /// (the kernel would have a running program's file cut before it answers ETXTBSY), the writeback
    /// cache (an acknowledged write must survive SIGKILL), POSIX_LOCKS and FLOCK_LOCKS (the
    /// kernel keeps locks itself, OFD ones too), and what fuser 0.18 can't carry:
    /// SETXATTR_EXT (panics), OVER_IO_URING (hangs).
    fn wanted(&self) -> InitFlags {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        match self.adapter.view().coherence {
            Coherence::Sole => wanted,
            Coherence::Shared => wanted | InitFlags::FUSE_AUTO_INVAL_DATA,
        }
    }

    fn reply_entry(&self, what: &str, answer: Result<Stat>, reply: ReplyEntry) {
        match answer {
            Ok(stat) => reply.entry(&self.ttl, &file_attr(&stat), GENERATION),
            Err(error) => reply.error(failed(what, &error)),
        }
    }

    fn sync(&self, batch: Vec<(u64, ReplyEmpty)>) {
        let (nodes, replies): (Vec<u64>, Vec<ReplyEmpty>) = batch.into_iter().unzip();
        for (answer, reply) in self.adapter.fsync_all(&nodes).into_iter().zip(replies) {
            reply_empty("fsync", answer, reply);
        }
    }

    fn reply_attr(&self, what: &str, answer: Result<Stat>, reply: ReplyAttr) {
        match answer {
            Ok(stat) => reply.attr(&self.ttl, &file_attr(&stat)),
            Err(error) => reply.error(failed(what, &error)),
        }
    }
}

/// The errno to answer; what a person should know of is logged here, where it ends.
fn failed(what: &str, error: &Error) -> Errno {
    if matches!(error, Error::Corrupt(_) | Error::Io(_) | Error::Unavailable(_) | Error::UnknownVersion(_)) {
        log::error!("{what} failed: {error}");
    }
    errno(error)
}

fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

fn reply_empty(what: &str, answer: Result<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(what, &error)),
    }
}

fn reply_xattr(what: &str, answer: Result<impl AsRef<[u8]>>, size: u32, reply: ReplyXattr) {
    match answer.as_ref().map_err(Clone::clone).and_then(|value| xattr_answer(value.as_ref(), size)) {
        Ok(XattrAnswer::Size(len)) => reply.size(len),
        Ok(XattrAnswer::Data(data)) => reply.data(data),
        Err(error) => reply.error(failed(what, &error)),
    }
}

impl Filesystem for FuserTransport {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A refused setting leaves the kernel's own, which works too.
        for flag in self.wanted().iter() {
            if config.add_capabilities(flag).is_err() {
                log::debug!("the kernel does not offer {flag:?}");
            }
        }
        if let Err(least) = config.set_max_write(MAX_TRANSFER) {
            let _ = config.set_max_write(least);
        }
        if let Err(most) = config.set_max_readahead(MAX_TRANSFER) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.adapter.lookup(parent.0, name.as_bytes()) {
            // The kernel keeps the absence of a name, too, where nobody else could make it.
            Ok(None) if !self.ttl.is_zero() => reply.entry(&self.ttl, &bare_attr(0, FileKind::Regular), GENERATION),
            Ok(None) => reply.error(failed("lookup", &Error::NotFound)),
            Ok(Some(stat)) => reply.entry(&self.ttl, &file_attr(&stat), GENERATION),
            Err(error) => reply.error(failed("lookup", &error)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, _nlookup: u64) {
        self.adapter.forget(ino.0);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.reply_attr("getattr", self.adapter.getattr(ino.0), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        self.reply_attr("setattr", self.adapter.setattr(&caller(request, 0), ino.0, &set), reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.adapter.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(failed("readlink", &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let answer = self.adapter.mknod(&caller(request, umask), parent.0, name.as_bytes(), mode, rdev);
        self.reply_entry("mknod", answer, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let answer = self.adapter.mkdir(&caller(request, umask), parent.0, name.as_bytes(), mode);
        self.reply_entry("mkdir", answer, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("unlink", self.adapter.unlink(parent.0, name.as_bytes()), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("rmdir", self.adapter.rmdir(parent.0, name.as_bytes()), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let answer = self.adapter.symlink(&caller(request, 0), parent.0, link_name.as_bytes(), target);
        self.reply_entry("symlink", answer, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let answer = self.adapter.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), flags.bits());
        reply_empty("rename", answer, reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.reply_entry("link", self.adapter.link(ino.0, newparent.0, newname.as_bytes()), reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.adapter.open(&caller(request, 0), ino.0, flags.0) {
            Ok(handle) => reply.opened(FileHandle(handle), self.open_flags),
            Err(error) => reply.error(failed("open", &error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.adapter.create(&caller(request, umask), parent.0, name.as_bytes(), mode, flags) {
            Ok((stat, handle)) => {
                reply.created(&self.ttl, &file_attr(&stat), GENERATION, FileHandle(handle), self.open_flags);
            }
            Err(error) => reply.error(failed("create", &error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            match self.adapter.read(ino.0, fh.0, offset, buffer, size.min(MAX_TRANSFER)) {
                Ok(()) => reply.data(buffer),
                Err(error) => reply.error(failed("read", &error)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.adapter.write(ino.0, fh.0, offset, data, kill) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(failed("write", &error)),
        }
    }

    /// Each write is answered with its own fate, so closing has nothing to add; the kernel
    /// asks once, and writes dirty pages of mappings at close all the same.
    fn flush(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty("release", self.adapter.release(ino.0, fh.0), reply);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.syncs.serve((ino.0, reply), |batch| self.sync(batch));
    }

    /// Listings go by cookies and need no handle; the kernel asks once, and then keeps
    /// listings in its page cache until the directory changes.
    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.adapter.view().coherence {
            Coherence::Sole => reply.error(Errno::ENOSYS),
            Coherence::Shared => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let answer = self.adapter.readdir(ino.0, offset, &mut |entry, id, _| {
            let name = OsStr::from_bytes(&entry.name);
            flow(reply.add(INodeNo(id), entry.cookie, file_type(entry.kind), name))
        });
        match answer {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdir", &error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let answer = self.adapter.readdirplus(ino.0, offset, &mut |entry, id, stat| {
            let attr = match stat {
                Some(stat) => file_attr(&stat),
                // The kernel makes no inodes of the dot entries.
                None if matches!(entry.name.as_ref(), b"." | b"..") => bare_attr(id, entry.kind),
                None => bare_attr(0, entry.kind),
            };
            let name = OsStr::from_bytes(&entry.name);
            flow(reply.add(attr.ino, entry.cookie, name, &self.ttl, &attr, GENERATION))
        });
        match answer {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdir", &error)),
        }
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.syncs.serve((ino.0, reply), |batch| self.sync(batch));
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let unit = u64::from(Stat::BLOCK_BYTES);
        match self.adapter.statfs(ino.0) {
            Ok(stats) => reply.statfs(
                stats.total_bytes / unit,
                stats.free_bytes / unit,
                stats.available_bytes / unit,
                stats.used_inodes.saturating_add(stats.free_inodes),
                stats.free_inodes,
                Stat::BLOCK_BYTES,
                Name::MAX_BYTES as u32,
                Stat::BLOCK_BYTES,
            ),
            Err(error) => reply.error(failed("statfs", &error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, pid) = (caller(request, 0), request.pid());
        reply_empty("setxattr", self.adapter.setxattr(&caller, pid, ino.0, name.as_bytes(), value, flags), reply);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr("getxattr", self.adapter.getxattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr("listxattr", self.adapter.listxattr(&caller(request, 0), ino.0), size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("removexattr", self.adapter.removexattr(ino.0, name.as_bytes()), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request, 0);
        reply_empty("fallocate", self.adapter.fallocate(&caller, ino.0, offset, length, mode), reply);
    }

    fn lseek(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.adapter.lseek(ino.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(failed("lseek", &error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
        match self.adapter.copy_file_range(&caller(request, 0), from, to, len, flags.bits()) {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(failed("copy_file_range", &error)),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // What the kernel does itself once it is told that nobody here does.

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _request: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

/// Stops a listing once the reply is full.
fn flow(full: bool) -> ControlFlow<()> {
    if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
