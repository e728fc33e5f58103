//! What the floor keeps in memory: inodes, their content and directory entries.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::{Mutex, RwLock};

/// The part of an inode that `stat` shows and changes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub size: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
}

/// What an inode holds. A body's lock is taken before the inode's `meta`.
#[derive(Debug)]
pub enum Body {
    File(RwLock<Content>),
    Dir(RwLock<Entries>),
    Link(PathBuf),
    Special,
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    pub ino: u64,
    pub kind: FileType,
    pub meta: Mutex<Meta>,
    pub body: Body,
    /// References that the kernel holds and has not forgotten.
    pub lookups: AtomicI64,
}

impl Node {
    pub fn new(ino: u64, kind: FileType, perm: u16, uid: u32, gid: u32, body: Body) -> Self {
        let now = SystemTime::now();
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        let size = match &body {
            Body::Link(target) => target.as_os_str().len() as u64,
            _ => 0,
        };
        let meta = Meta { perm, uid, gid, nlink, rdev: 0, size, atime: now, mtime: now, ctime: now };
        Node { ino, kind, meta: Mutex::new(meta), body, lookups: AtomicI64::new(0) }
    }

    pub fn attr(&self) -> FileAttr {
        let meta = *self.meta.lock();
        FileAttr {
            ino: INodeNo(self.ino),
            size: meta.size,
            blocks: meta.size.div_ceil(4096) * 8,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            crtime: meta.ctime,
            kind: self.kind,
            perm: meta.perm,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            blksize: 4096,
            flags: 0,
        }
    }

    pub fn dir(&self) -> Option<&RwLock<Entries>> {
        match &self.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn file(&self) -> Option<&RwLock<Content>> {
        match &self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    /// The kernel got hold of this node once more.
    pub fn looked_up(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }
}

/// A directory's entries, with cookies that stay.
#[derive(Debug)]
pub struct Entries {
    pub parent: u64,
    by_name: HashMap<OsString, u64>,
    by_cookie: BTreeMap<u64, (OsString, Arc<Node>)>,
    next_cookie: u64,
}

impl Entries {
    /// Cookies of the entries start here; those below stand for `.` and `..`.
    const FIRST_COOKIE: u64 = 3;

    pub fn new(parent: u64) -> Self {
        Entries { parent, by_name: HashMap::new(), by_cookie: BTreeMap::new(), next_cookie: Self::FIRST_COOKIE }
    }

    pub fn get(&self, name: &OsStr) -> Option<&Arc<Node>> {
        let cookie = self.by_name.get(name)?;
        self.by_cookie.get(cookie).map(|(_, node)| node)
    }

    pub fn insert(&mut self, name: &OsStr, node: Arc<Node>) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.by_name.insert(name.to_owned(), cookie);
        self.by_cookie.insert(cookie, (name.to_owned(), node));
    }

    pub fn remove(&mut self, name: &OsStr) -> Option<Arc<Node>> {
        let cookie = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie).map(|(_, node)| node)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Entries after a cookie, in order.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &OsStr, &Arc<Node>)> {
        self.by_cookie.range(cookie.saturating_add(1)..).map(|(cookie, (name, node))| (*cookie, name.as_os_str(), node))
    }
}

/// A file's bytes, in chunks; a chunk that is short or absent reads as zeros.
#[derive(Debug, Default)]
pub struct Content(BTreeMap<u64, Vec<u8>>);

impl Content {
    /// As large as the largest request, so that an aligned read needs no copy.
    const CHUNK: u64 = 1 << 20;

    /// The bytes at a range without a copy, where one chunk has them all.
    pub fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let within = (offset % Self::CHUNK) as usize;
        self.0.get(&(offset / Self::CHUNK))?.get(within..within.checked_add(len)?)
    }

    /// A copy of a range.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        let mut at = offset;
        while out.len() < len {
            let within = (at % Self::CHUNK) as usize;
            let want = (len - out.len()).min(Self::CHUNK as usize - within);
            let end = out.len() + want;
            if let Some(chunk) = self.0.get(&(at / Self::CHUNK)) {
                let from = within.min(chunk.len());
                let to = (within + want).min(chunk.len());
                out.extend_from_slice(chunk.get(from..to).unwrap_or_default());
            }
            out.resize(end, 0);
            at += want as u64;
        }
        out
    }

    pub fn write(&mut self, offset: u64, mut data: &[u8]) {
        let mut at = offset;
        while !data.is_empty() {
            let within = (at % Self::CHUNK) as usize;
            let (now, rest) = data.split_at(data.len().min(Self::CHUNK as usize - within));
            let chunk = self.0.entry(at / Self::CHUNK).or_default();
            if chunk.len() < within + now.len() {
                chunk.resize(within + now.len(), 0);
            }
            if let Some(to) = chunk.get_mut(within..within + now.len()) {
                to.copy_from_slice(now);
            }
            at += now.len() as u64;
            data = rest;
        }
    }

    pub fn truncate(&mut self, size: u64) {
        let last = size / Self::CHUNK;
        self.0.split_off(&(last + 1));
        if let Some(chunk) = self.0.get_mut(&last) {
            chunk.truncate((size % Self::CHUNK) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_reads_back_across_chunks_and_holes() {
        let mut content = Content::default();
        let at = Content::CHUNK - 3;
        content.write(at, b"abcdef");
        assert_eq!(content.read(at - 2, 10), b"\0\0abcdef\0\0");
        assert_eq!(content.slice(at, 3), Some(&b"abc"[..]));
        assert_eq!(content.slice(at, 4), None);
        content.truncate(at + 1);
        assert_eq!(content.read(at, 6), b"a\0\0\0\0\0");
    }

    #[test]
    fn cookies_stay_while_entries_come_and_go() {
        let node = |ino| Arc::new(Node::new(ino, FileType::RegularFile, 0o644, 0, 0, Body::Special));
        let mut entries = Entries::new(1);
        for (name, ino) in [("a", 10), ("b", 11), ("c", 12)] {
            entries.insert(OsStr::new(name), node(ino));
        }
        let first = entries.after(0).next().unwrap().0;
        entries.remove(OsStr::new("b"));
        entries.insert(OsStr::new("d"), node(13));
        let names: Vec<_> = entries.after(first).map(|(_, name, _)| name.to_owned()).collect();
        assert_eq!(names, ["c", "d"]);
        assert_eq!(entries.get(OsStr::new("d")).unwrap().ino, 13);
        assert!(entries.get(OsStr::new("b")).is_none());
    }
}
