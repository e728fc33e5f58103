//! The floor as a session serves it: requests unpacked, replies packed, with the settings of
//! Nexus's own adapter, so that only what is behind it differs.

use std::time::Duration;

use bytes::Bytes;
use nexus_fuse_transport::abi::{fopen, init};
use nexus_fuse_transport::{
    Answer, Bulk, Entry, Errno, Forget, FsStat, Handler, Header, Listing, ListingEntry, Opened, Operation, Settings,
};
use std::sync::atomic::Ordering;

use crate::fs::{FloorFs, New, Result};
use crate::node::{DIRECTORY, LINK, Node, REGULAR};

/// Most bytes of one copy.
const MOST_COPIED: u64 = 1 << 20;
const ENODATA: Errno = Errno::new(61);
const O_TRUNC: u32 = rustix::fs::OFlags::TRUNC.bits();

/// What differs from Nexus's settings only when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Let the kernel gather writes.
    pub writeback: bool,
    /// How long the kernel may keep entries and attributes, and the absence of a name.
    pub ttl: Duration,
    /// Be asked at each opening and creation of a file, and told of its release.
    pub open: bool,
    /// Be asked at each close.
    pub flush: bool,
    /// Be asked at each opening of a directory; without it the kernel keeps listings.
    pub opendir: bool,
    /// Requests that the kernel may have under way in the background.
    pub max_background: u16,
}

/// A [`FloorFs`] behind a session.
#[derive(Debug)]
pub struct Served {
    fs: FloorFs,
    profile: Profile,
}

impl Served {
    /// An empty floor.
    pub fn new(profile: Profile) -> Served {
        Served { fs: FloorFs::new(), profile }
    }

    /// What to ask of the kernel: what the adapter of Nexus asks for.
    pub fn settings(&self) -> Settings {
        let wanted = init::ASYNC_READ
            | init::EXPORT_SUPPORT
            | init::PARALLEL_DIROPS
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::DONT_MASK
            | init::POSIX_ACL
            | init::HANDLE_KILLPRIV_V2
            | init::CACHE_SYMLINKS
            | init::ASYNC_DIO
            | init::NO_OPENDIR_SUPPORT
            | init::CREATE_SUPP_GROUP
            | init::HAS_EXPIRE_ONLY;
        let writeback = if self.profile.writeback { init::WRITEBACK_CACHE } else { 0 };
        Settings { wanted: wanted | writeback, max_background: self.profile.max_background, ..Settings::default() }
    }

    fn entry(&self, node: &Node) -> Entry {
        Entry { node: node.ino, attr: node.attr(), ttl: self.profile.ttl }
    }

    fn opened(&self) -> Opened {
        Opened { handle: 0, flags: fopen::KEEP_CACHE }
    }

    fn answer(&self, header: &Header, operation: Operation<'_>) -> Result<Answer> {
        let (fs, node, ttl) = (&self.fs, header.node, self.profile.ttl);
        let new = |mode, rdev| New { mode, uid: header.uid, gid: header.gid, rdev };
        match operation {
            Operation::Lookup { name } => Ok(Answer::Entry(match fs.lookup(node, name)? {
                Some(node) => self.entry(&node),
                // The kernel keeps the absence of a name, too.
                None => Entry { ttl, ..Entry::default() },
            })),
            Operation::Getattr { .. } => Ok(Answer::Attr(fs.node(node)?.attr(), ttl)),
            Operation::Statx { .. } => Ok(Answer::Statx(fs.node(node)?.attr(), ttl)),
            Operation::Setattr(set) => Ok(Answer::Attr(fs.setattr(node, &set)?, ttl)),
            Operation::Readlink => Ok(Answer::Data(fs.readlink(node)?)),
            Operation::Symlink { name, target, .. } => {
                let made = fs.make(node, name, new(LINK | 0o777, 0), Some(target))?;
                Ok(Answer::Entry(self.entry(&made)))
            }
            Operation::Mknod { name, mode, rdev, umask, .. } => {
                let made = fs.make(node, name, new(mode & !umask, rdev), None)?;
                Ok(Answer::Entry(self.entry(&made)))
            }
            Operation::Mkdir { name, mode, umask, .. } => {
                let made = fs.make(node, name, new(DIRECTORY | mode & 0o7777 & !umask, 0), None)?;
                Ok(Answer::Entry(self.entry(&made)))
            }
            // The kernel makes the file with MKNOD then, and opens it by itself.
            Operation::Create { .. } | Operation::Open { .. } if !self.profile.open => Err(Errno::ENOSYS),
            Operation::Create { name, mode, umask, .. } => {
                let made = fs.make(node, name, new(REGULAR | mode & 0o7777 & !umask, 0), None)?;
                Ok(Answer::Created(self.entry(&made), self.opened()))
            }
            Operation::Unlink { name } => fs.remove(node, name, false).map(|()| Answer::Done),
            Operation::Rmdir { name } => fs.remove(node, name, true).map(|()| Answer::Done),
            Operation::Rename { name, new_parent, new_name, flags } => {
                fs.rename((node, name), (new_parent, new_name), flags).map(|()| Answer::Done)
            }
            Operation::Link { node: file, name } => Ok(Answer::Entry(self.entry(&*fs.link(file, node, name)?))),
            Operation::Open { flags, .. } => {
                if flags & O_TRUNC != 0 {
                    fs.truncate(node)?;
                }
                Ok(Answer::Opened(self.opened()))
            }
            Operation::Write { offset, data, .. } => fs.write(node, offset, data).map(Answer::Written),
            Operation::Flush { .. } if self.profile.flush => Ok(Answer::Done),
            Operation::Opendir { .. } if self.profile.opendir => Ok(Answer::Opened(Opened::default())),
            Operation::Release { .. }
            | Operation::Releasedir { .. }
            | Operation::Fsync { .. }
            | Operation::Fsyncdir { .. }
            | Operation::Syncfs
            | Operation::Destroy => Ok(Answer::Done),
            Operation::Statfs => Ok(Answer::Statfs(SPACE)),
            // None is set, but they are supported: the kernel asks as it would ask any file system.
            Operation::Getxattr { .. } => Err(ENODATA),
            Operation::Listxattr { size: 0 } => Ok(Answer::XattrSize(0)),
            Operation::Listxattr { .. } => Ok(Answer::Data(Bytes::new())),
            Operation::Lseek { offset, whence, .. } => fs.seek(node, offset, whence).map(Answer::Offset),
            Operation::CopyFileRange(copy) => {
                let copied = fs.copy(node, &copy, MOST_COPIED)?;
                Ok(if copy.wide { Answer::Copied(copied) } else { Answer::Written(copied as u32) })
            }
            Operation::Ioctl { .. } => Err(Errno::ENOTTY),
            Operation::Flush { .. }
            | Operation::Opendir { .. }
            | Operation::Tmpfile { .. }
            | Operation::Setxattr(_)
            | Operation::Removexattr { .. }
            | Operation::Access { .. }
            | Operation::Fallocate(_)
            | Operation::Getlk(_)
            | Operation::Setlk { .. }
            | Operation::Unknown => Err(Errno::ENOSYS),
        }
    }

    fn list(&self, ino: u64, cookie: u64, with_attr: bool, out: &mut [u8]) -> Result<usize> {
        let mut listing = Listing::new(out);
        self.fs.list(ino, cookie, |name, ino, next, node| {
            let line = ListingEntry { name, ino, next, mode: node.kind };
            if !with_attr {
                return listing.add(&line);
            }
            // The kernel takes no reference for the dots.
            let counts = !matches!(name, b"." | b"..");
            let entry = if counts { self.entry(node) } else { Entry::unknown(ino, node.kind) };
            // Before it is told: its FORGET could not come earlier, but a look at the count could.
            if counts {
                node.looked_up();
            }
            let added = listing.add_plus(&line, &entry);
            if counts && !added {
                node.lookups.fetch_sub(1, Ordering::Relaxed);
            }
            added
        })?;
        Ok(listing.len())
    }
}

const SPACE: FsStat = FsStat {
    blocks: 1 << 28,
    bfree: 1 << 27,
    bavail: 1 << 27,
    files: 1 << 30,
    ffree: 1 << 29,
    bsize: 4096,
    namelen: 255,
};

impl Handler for Served {
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer {
        self.answer(header, operation).unwrap_or_else(Answer::Error)
    }

    fn fill(&self, header: &Header, bulk: Bulk, out: &mut [u8]) -> Result<usize> {
        match bulk {
            Bulk::Read { offset, .. } => self.fs.read(header.node, offset, out),
            Bulk::Readdir { offset, .. } => self.list(header.node, offset, false, out),
            Bulk::Readdirplus { offset, .. } => self.list(header.node, offset, true, out),
        }
    }

    fn forget(&self, forgotten: &[Forget]) {
        for forget in forgotten {
            self.fs.forget(forget);
        }
    }
}
