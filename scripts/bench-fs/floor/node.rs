//! What the floor keeps in memory: inodes, their content and directory entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nexus_fuse_transport::{Attr, Time};
use parking_lot::{Mutex, RwLock};

/// The bits of `st_mode` that tell kinds apart, and those of directories and links.
pub const KIND: u32 = 0o170_000;
pub const DIRECTORY: u32 = 0o040_000;
pub const LINK: u32 = 0o120_000;
pub const REGULAR: u32 = 0o100_000;

/// The current time.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { sec: since.as_secs() as i64, nsec: since.subsec_nanos() }
}

/// The part of an inode that `stat` shows and changes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub size: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

impl Meta {
    /// The content changed, or the entries.
    pub fn touch(&mut self) {
        let now = now();
        self.mtime = now;
        self.ctime = now;
    }
}

/// What an inode holds. A body's lock is taken before the inode's `meta`.
#[derive(Debug)]
pub enum Body {
    File(RwLock<Content>),
    Dir(RwLock<Entries>),
    Link(Bytes),
    Special,
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    pub ino: u64,
    /// The kind of file, as in `st_mode`.
    pub kind: u32,
    pub btime: Time,
    pub meta: Mutex<Meta>,
    pub body: Body,
    /// References that the kernel holds and has not forgotten.
    pub lookups: AtomicI64,
}

impl Node {
    pub fn new(ino: u64, mode: u32, uid: u32, gid: u32, rdev: u32, body: Body) -> Self {
        let now = now();
        let kind = mode & KIND;
        let nlink = if kind == DIRECTORY { 2 } else { 1 };
        let size = match &body {
            Body::Link(target) => target.len() as u64,
            _ => 0,
        };
        let meta = Meta { mode, uid, gid, nlink, rdev, size, atime: now, mtime: now, ctime: now };
        Node { ino, kind, btime: now, meta: Mutex::new(meta), body, lookups: AtomicI64::new(0) }
    }

    pub fn attr(&self) -> Attr {
        let meta = *self.meta.lock();
        Attr {
            ino: self.ino,
            size: meta.size,
            blocks: meta.size.div_ceil(4096) * 8,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            btime: self.btime,
            mode: meta.mode,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            blksize: 4096,
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
    by_name: HashMap<Arc<[u8]>, u64>,
    by_cookie: BTreeMap<u64, (Arc<[u8]>, Arc<Node>)>,
    next_cookie: u64,
}

impl Entries {
    /// Cookies of the entries start here; those below stand for `.` and `..`.
    const FIRST_COOKIE: u64 = 3;

    pub fn new(parent: u64) -> Self {
        Entries { parent, by_name: HashMap::new(), by_cookie: BTreeMap::new(), next_cookie: Self::FIRST_COOKIE }
    }

    pub fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        let cookie = self.by_name.get(name)?;
        self.by_cookie.get(cookie).map(|(_, node)| node)
    }

    pub fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let name: Arc<[u8]> = name.into();
        self.by_name.insert(Arc::clone(&name), cookie);
        self.by_cookie.insert(cookie, (name, node));
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let cookie = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie).map(|(_, node)| node)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Entries after a cookie, in order.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], &Arc<Node>)> {
        self.by_cookie.range(cookie.saturating_add(1)..).map(|(cookie, (name, node))| (*cookie, name.as_ref(), node))
    }
}

/// A file's bytes, in chunks; a chunk that is short or absent reads as zeros.
#[derive(Debug, Default)]
pub struct Content(BTreeMap<u64, Vec<u8>>);

impl Content {
    /// As large as the largest request, so that an aligned read is one copy.
    const CHUNK: u64 = 1 << 20;

    /// Fills `out` with the bytes from `offset` on.
    pub fn read(&self, offset: u64, mut out: &mut [u8]) {
        let mut at = offset;
        while !out.is_empty() {
            let within = (at % Self::CHUNK) as usize;
            let want = out.len().min(Self::CHUNK as usize - within);
            let (now, rest) = out.split_at_mut(want);
            let chunk = self.0.get(&(at / Self::CHUNK)).and_then(|chunk| chunk.get(within..)).unwrap_or_default();
            let (filled, hole) = now.split_at_mut(chunk.len().min(want));
            filled.copy_from_slice(chunk.get(..filled.len()).unwrap_or_default());
            hole.fill(0);
            out = rest;
            at += want as u64;
        }
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

    fn read(content: &Content, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0xff; len];
        content.read(offset, &mut out);
        out
    }

    #[test]
    fn content_reads_back_across_chunks_and_holes() {
        let mut content = Content::default();
        let at = Content::CHUNK - 3;
        content.write(at, b"abcdef");
        assert_eq!(read(&content, at - 2, 10), b"\0\0abcdef\0\0");
        assert_eq!(read(&content, at, 3), b"abc");
        assert_eq!(read(&content, 10 * Content::CHUNK, 3), b"\0\0\0");
        content.truncate(at + 1);
        assert_eq!(read(&content, at, 6), b"a\0\0\0\0\0");
    }

    #[test]
    fn cookies_stay_while_entries_come_and_go() {
        let node = |ino| Arc::new(Node::new(ino, REGULAR | 0o644, 0, 0, 0, Body::Special));
        let mut entries = Entries::new(1);
        for (name, ino) in [(b"a", 10), (b"b", 11), (b"c", 12)] {
            entries.insert(name, node(ino));
        }
        let first = entries.after(0).next().unwrap().0;
        entries.remove(b"b");
        entries.insert(b"d", node(13));
        let names: Vec<_> = entries.after(first).map(|(_, name, _)| name.to_owned()).collect();
        assert_eq!(names, [b"c", b"d"]);
        assert_eq!(entries.get(b"d").unwrap().ino, 13);
        assert!(entries.get(b"b").is_none());
    }
}
