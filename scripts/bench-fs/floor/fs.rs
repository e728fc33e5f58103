//! The floor's answers to FUSE: everything from memory, nothing made durable. What it cannot do
//! faster is what FUSE costs. Only what the workloads use is here: no xattrs beyond "none", no
//! locks of its own, no fallocate.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;

use crate::node::{Body, Content, Entries, Meta, Node};

/// What is asked of the kernel, and how it may cache.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Let the kernel gather writes.
    pub writeback: bool,
    /// How long the kernel may keep entries and attributes, and the absence of a name.
    pub ttl: Duration,
    /// Be asked at each close.
    pub flush: bool,
    /// Be asked at each opening of a directory; without it the kernel keeps listings.
    pub opendir: bool,
    /// Requests that the kernel may have under way in the background.
    pub max_background: u16,
}

/// Most bytes of one read or write request.
const MAX_WRITE: u32 = 1 << 20;
const SHARDS: usize = 64;
const GENERATION: Generation = Generation(0);
/// What a name that is not there is answered with, so that the kernel keeps its absence.
const ABSENT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// The floor.
#[derive(Debug)]
pub struct FloorFs {
    settings: Settings,
    nodes: [RwLock<HashMap<u64, Arc<Node>>>; SHARDS],
    next_ino: AtomicU64,
}

type Answer<T> = Result<T, Errno>;

impl FloorFs {
    pub fn new(settings: Settings) -> Self {
        let root = INodeNo::ROOT.0;
        let fs =
            FloorFs { settings, nodes: std::array::from_fn(|_| RwLock::default()), next_ino: AtomicU64::new(root + 1) };
        let body = Body::Dir(RwLock::new(Entries::new(root)));
        let node = Arc::new(Node::new(root, FileType::Directory, 0o755, 0, 0, body));
        fs.shard(root).write().insert(root, node);
        fs
    }

    fn shard(&self, ino: u64) -> &RwLock<HashMap<u64, Arc<Node>>> {
        let [first, ..] = &self.nodes;
        self.nodes.get(ino as usize % SHARDS).unwrap_or(first)
    }

    fn node(&self, ino: INodeNo) -> Answer<Arc<Node>> {
        self.shard(ino.0).read().get(&ino.0).cloned().ok_or(Errno::ENOENT)
    }

    fn add(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
        body: Body,
    ) -> Answer<Arc<Node>> {
        let dir = self.node(parent)?;
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let perm = (mode & 0o7777) as u16;
        let node = Arc::new(Node::new(ino, kind, perm, req.uid(), req.gid(), body));
        let mut entries = dir.dir().ok_or(Errno::ENOTDIR)?.write();
        if entries.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        node.looked_up();
        self.shard(ino).write().insert(ino, node.clone());
        entries.insert(name, node.clone());
        let mut meta = dir.meta.lock();
        touch(&mut meta);
        if kind == FileType::Directory {
            meta.nlink += 1;
        }
        Ok(node)
    }

    /// Takes a link away from a node that has just lost a name.
    fn unlinked(&self, node: &Node) {
        let mut meta = node.meta.lock();
        meta.nlink = if node.kind == FileType::Directory { 0 } else { meta.nlink.saturating_sub(1) };
        meta.ctime = SystemTime::now();
        let gone = meta.nlink == 0;
        drop(meta);
        if gone && node.lookups.load(Ordering::Relaxed) <= 0 {
            self.shard(node.ino).write().remove(&node.ino);
        }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, directory: bool) -> Answer<()> {
        let dir = self.node(parent)?;
        let mut entries = dir.dir().ok_or(Errno::ENOTDIR)?.write();
        let node = entries.get(name).ok_or(Errno::ENOENT)?.clone();
        match (node.dir(), directory) {
            (Some(inner), true) if inner.read().is_empty() => {}
            (Some(_), true) => return Err(Errno::ENOTEMPTY),
            (Some(_), false) => return Err(Errno::EISDIR),
            (None, true) => return Err(Errno::ENOTDIR),
            (None, false) => {}
        }
        entries.remove(name);
        let mut meta = dir.meta.lock();
        touch(&mut meta);
        if directory {
            meta.nlink = meta.nlink.saturating_sub(1);
        }
        drop(meta);
        drop(entries);
        self.unlinked(&node);
        Ok(())
    }

    fn move_entry(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> Answer<()> {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return Err(Errno::EINVAL);
        }
        let (source_dir, target_dir) = (self.node(from.0)?, self.node(to.0)?);
        let node = {
            let mut entries = source_dir.dir().ok_or(Errno::ENOTDIR)?.write();
            entries.remove(from.1).ok_or(Errno::ENOENT)?
        };
        // The kernel holds both directories' locks, so nothing is seen between the two steps.
        let replaced = {
            let mut entries = target_dir.dir().ok_or(Errno::ENOTDIR)?.write();
            let replaced = entries.remove(to.1);
            entries.insert(to.1, node.clone());
            replaced
        };
        if let Some(inner) = node.dir() {
            inner.write().parent = to.0.0;
        }
        touch(&mut source_dir.meta.lock());
        touch(&mut target_dir.meta.lock());
        if let Some(replaced) = replaced {
            self.unlinked(&replaced);
        }
        Ok(())
    }

    fn forget_times(&self, ino: INodeNo, times: u64) {
        let Ok(node) = self.node(ino) else { return };
        let before = node.lookups.fetch_sub(times as i64, Ordering::Relaxed);
        if before <= times as i64 && node.meta.lock().nlink == 0 {
            self.shard(ino.0).write().remove(&ino.0);
        }
    }

    fn entry(&self, answer: Answer<Arc<Node>>, reply: ReplyEntry) {
        match answer {
            Ok(node) => reply.entry(&self.settings.ttl, &node.attr(), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }
}

fn touch(meta: &mut Meta) {
    let now = SystemTime::now();
    meta.mtime = now;
    meta.ctime = now;
}

fn empty(answer: Answer<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn time(value: TimeOrNow) -> SystemTime {
    match value {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for FloorFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The same as the adapter of Nexus asks for, so that only what is behind it differs.
        let mut wanted = vec![
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_EXPORT_SUPPORT,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        if self.settings.writeback {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        for flag in wanted {
            // A kernel without one of them is slower, not wrong.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_readahead(MAX_WRITE);
        let _ = config.set_max_background(self.settings.max_background);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = self.node(parent).and_then(|dir| {
            let entries = dir.dir().ok_or(Errno::ENOTDIR)?.read();
            let node = entries.get(name).ok_or(Errno::ENOENT)?.clone();
            node.looked_up();
            Ok(node)
        });
        match answer {
            Err(errno) if errno.code() == Errno::ENOENT.code() => {
                reply.entry(&self.settings.ttl, &ABSENT, GENERATION);
            }
            answer => self.entry(answer, reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.forget_times(ino, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Ok(node) => reply.attr(&self.settings.ttl, &node.attr()),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let mut content = size.and_then(|_| node.file()).map(RwLock::write);
        let mut meta = node.meta.lock();
        if let (Some(size), Some(content)) = (size, content.as_mut()) {
            content.truncate(size);
            meta.size = size;
            touch(&mut meta);
        }
        meta.perm = mode.map_or(meta.perm, |mode| (mode & 0o7777) as u16);
        meta.uid = uid.unwrap_or(meta.uid);
        meta.gid = gid.unwrap_or(meta.gid);
        meta.atime = atime.map_or(meta.atime, time);
        meta.mtime = mtime.map_or(meta.mtime, time);
        meta.ctime = ctime.unwrap_or_else(SystemTime::now);
        drop(meta);
        drop(content);
        reply.attr(&self.settings.ttl, &node.attr());
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Ok(node) => match &node.body {
                Body::Link(target) => reply.data(target.as_os_str().as_encoded_bytes()),
                _ => reply.error(Errno::EINVAL),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let (kind, body) = match mode & 0o170_000 {
            0o010_000 => (FileType::NamedPipe, Body::Special),
            0o020_000 => (FileType::CharDevice, Body::Special),
            0o060_000 => (FileType::BlockDevice, Body::Special),
            0o140_000 => (FileType::Socket, Body::Special),
            _ => (FileType::RegularFile, Body::File(RwLock::default())),
        };
        let answer = self.add(req, parent, name, kind, mode & !umask, body);
        if let Ok(node) = &answer {
            node.meta.lock().rdev = rdev;
        }
        self.entry(answer, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let body = Body::Dir(RwLock::new(Entries::new(parent.0)));
        self.entry(self.add(req, parent, name, FileType::Directory, mode & !umask, body), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.remove(parent, name, true), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let body = Body::Link(target.to_owned());
        self.entry(self.add(req, parent, link_name, FileType::Symlink, 0o777, body), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(self.move_entry((parent, name), (newparent, newname), flags), reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let answer = self.node(ino).and_then(|node| {
            let dir = self.node(newparent)?;
            dir.dir().ok_or(Errno::ENOTDIR)?.write().insert(newname, node.clone());
            node.meta.lock().nlink += 1;
            node.looked_up();
            Ok(node)
        });
        self.entry(answer, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        const O_TRUNC: i32 = rustix::fs::OFlags::TRUNC.bits() as i32;
        match self.node(ino) {
            Ok(node) => {
                if flags.0 & O_TRUNC != 0
                    && let Some(content) = node.file()
                {
                    content.write().truncate(0);
                    let mut meta = node.meta.lock();
                    meta.size = 0;
                    touch(&mut meta);
                }
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let body = Body::File(RwLock::new(Content::default()));
        match self.add(req, parent, name, FileType::RegularFile, mode & !umask, body) {
            Ok(node) => {
                reply.created(&self.settings.ttl, &node.attr(), GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE)
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let Some(content) = node.file() else { return reply.error(Errno::EISDIR) };
        let content = content.read();
        let left = node.meta.lock().size.saturating_sub(offset);
        let len = left.min(u64::from(size)) as usize;
        match content.slice(offset, len) {
            Some(bytes) => reply.data(bytes),
            None => reply.data(&content.read(offset, len)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let Some(content) = node.file() else { return reply.error(Errno::EISDIR) };
        let mut content = content.write();
        content.write(offset, data);
        let mut meta = node.meta.lock();
        meta.size = meta.size.max(offset.saturating_add(data.len() as u64));
        touch(&mut meta);
        drop(meta);
        drop(content);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        if self.settings.flush {
            reply.ok();
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.settings.opendir {
            reply.opened(FileHandle(0), FopenFlags::empty());
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let Some(entries) = node.dir() else { return reply.error(Errno::ENOTDIR) };
        let entries = entries.read();
        let dots = [(1, ino, "."), (2, INodeNo(entries.parent), "..")];
        for (cookie, ino, name) in dots.into_iter().filter(|(cookie, ..)| *cookie > offset) {
            if reply.add(ino, cookie, FileType::Directory, name) {
                return reply.ok();
            }
        }
        for (cookie, name, node) in entries.after(offset) {
            if reply.add(INodeNo(node.ino), cookie, node.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let Some(entries) = node.dir() else { return reply.error(Errno::ENOTDIR) };
        let entries = entries.read();
        let ttl = self.settings.ttl;
        for (cookie, name) in [(1, "."), (2, "..")].into_iter().filter(|(c, _)| *c > offset) {
            // The kernel takes no reference for these two.
            if reply.add(ino, cookie, name, &ttl, &node.attr(), GENERATION) {
                return reply.ok();
            }
        }
        for (cookie, name, node) in entries.after(offset) {
            node.looked_up();
            if reply.add(INodeNo(node.ino), cookie, name, &ttl, &node.attr(), GENERATION) {
                node.lookups.fetch_sub(1, Ordering::Relaxed);
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 28, 1 << 27, 1 << 27, 1 << 30, 1 << 29, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // None is set, but they are supported: the kernel asks as it would ask any file system.
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 {
            reply.size(0);
        } else {
            reply.data(&[]);
        }
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        const SEEK_DATA: i32 = 3;
        let size = match self.node(ino) {
            Ok(node) => node.meta.lock().size as i64,
            Err(errno) => return reply.error(errno),
        };
        if offset >= size {
            reply.error(Errno::ENXIO);
        } else {
            reply.offset(if whence == SEEK_DATA { offset } else { size });
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (source, target) = match (self.node(ino_in), self.node(ino_out)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(errno), _) | (_, Err(errno)) => return reply.error(errno),
        };
        let (Some(from), Some(to)) = (source.file(), target.file()) else {
            return reply.error(Errno::EINVAL);
        };
        let left = source.meta.lock().size.saturating_sub(offset_in);
        let len = left.min(len).min(u64::from(MAX_WRITE));
        let bytes = from.read().read(offset_in, len as usize);
        let mut content = to.write();
        content.write(offset_out, &bytes);
        let mut meta = target.meta.lock();
        meta.size = meta.size.max(offset_out + len);
        touch(&mut meta);
        drop(meta);
        reply.written(len as u32);
    }
}
