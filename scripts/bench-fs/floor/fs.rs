//! The floor itself: a tree of nodes in memory, nothing made durable. Only what the workloads use
//! is here: no xattrs beyond "none", no locks of its own, no fallocate. The protocol is not here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexus_fuse_transport::abi::ROOT_ID;
use nexus_fuse_transport::{Attr, CopyRange, Errno, Forget, SetAttr, SetTime, Time};
use parking_lot::RwLock;

use crate::node::{Body, Content, DIRECTORY, Entries, KIND, Node, REGULAR, now};

const SHARDS: usize = 64;

/// Error numbers that the transport has no names for.
const EEXIST: Errno = Errno::new(17);
const ENOTDIR: Errno = Errno::new(20);
const EISDIR: Errno = Errno::new(21);
const ENOTEMPTY: Errno = Errno::new(39);
const ENXIO: Errno = Errno::new(6);

/// `RENAME_NOREPLACE` of renameat2(2); the kernel has looked already.
const RENAME_NOREPLACE: u32 = 1;
/// `SEEK_DATA` of lseek(2).
const SEEK_DATA: u32 = 3;

/// What is asked for may be refused.
pub type Result<T> = std::result::Result<T, Errno>;

/// What a new node is to be, and whose.
#[derive(Clone, Copy, Debug)]
pub struct New {
    /// Kind and permissions, without what the umask takes.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
}

/// The floor.
#[derive(Debug)]
pub struct FloorFs {
    nodes: [RwLock<HashMap<u64, Arc<Node>>>; SHARDS],
    next_ino: AtomicU64,
}

impl FloorFs {
    /// An empty one.
    pub fn new() -> Self {
        let fs = FloorFs { nodes: std::array::from_fn(|_| RwLock::default()), next_ino: AtomicU64::new(ROOT_ID + 1) };
        let body = Body::Dir(RwLock::new(Entries::new(ROOT_ID)));
        let node = Arc::new(Node::new(ROOT_ID, DIRECTORY | 0o755, 0, 0, 0, body));
        fs.shard(ROOT_ID).write().insert(ROOT_ID, node);
        fs
    }

    fn shard(&self, ino: u64) -> &RwLock<HashMap<u64, Arc<Node>>> {
        let [first, ..] = &self.nodes;
        self.nodes.get(ino as usize % SHARDS).unwrap_or(first)
    }

    /// The node of a number.
    pub fn node(&self, ino: u64) -> Result<Arc<Node>> {
        self.shard(ino).read().get(&ino).cloned().ok_or(Errno::ENOENT)
    }

    /// The node of a name, which the kernel now knows once more.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let dir = self.node(parent)?;
        let entries = dir.dir().ok_or(ENOTDIR)?.read();
        let node = entries.get(name).cloned();
        if let Some(node) = &node {
            node.looked_up();
        }
        Ok(node)
    }

    /// Makes a node and its name. Links have their target, other nodes none.
    pub fn make(&self, parent: u64, name: &[u8], new: New, target: Option<&[u8]>) -> Result<Arc<Node>> {
        let body = match (new.mode & KIND, target) {
            (_, Some(target)) => Body::Link(Bytes::copy_from_slice(target)),
            (DIRECTORY, None) => Body::Dir(RwLock::new(Entries::new(parent))),
            (REGULAR, None) => Body::File(RwLock::default()),
            _ => Body::Special,
        };
        let dir = self.node(parent)?;
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(Node::new(ino, new.mode, new.uid, new.gid, new.rdev, body));
        let mut entries = dir.dir().ok_or(ENOTDIR)?.write();
        if entries.get(name).is_some() {
            return Err(EEXIST);
        }
        node.looked_up();
        self.shard(ino).write().insert(ino, node.clone());
        entries.insert(name, node.clone());
        let mut meta = dir.meta.lock();
        meta.touch();
        if node.kind == DIRECTORY {
            meta.nlink += 1;
        }
        Ok(node)
    }

    /// Gives a file a further name.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Arc<Node>> {
        let (node, dir) = (self.node(ino)?, self.node(parent)?);
        dir.dir().ok_or(ENOTDIR)?.write().insert(name, node.clone());
        dir.meta.lock().touch();
        let mut meta = node.meta.lock();
        meta.nlink += 1;
        meta.ctime = now();
        drop(meta);
        node.looked_up();
        Ok(node)
    }

    /// Takes a name away: of a directory, or of anything else.
    pub fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Result<()> {
        let dir = self.node(parent)?;
        let mut entries = dir.dir().ok_or(ENOTDIR)?.write();
        let node = entries.get(name).ok_or(Errno::ENOENT)?.clone();
        match (node.dir(), directory) {
            (Some(inner), true) if inner.read().is_empty() => {}
            (Some(_), true) => return Err(ENOTEMPTY),
            (Some(_), false) => return Err(EISDIR),
            (None, true) => return Err(ENOTDIR),
            (None, false) => {}
        }
        entries.remove(name);
        let mut meta = dir.meta.lock();
        meta.touch();
        if directory {
            meta.nlink = meta.nlink.saturating_sub(1);
        }
        drop(meta);
        drop(entries);
        self.unlinked(&node);
        Ok(())
    }

    /// Takes a link away from a node that has just lost a name.
    fn unlinked(&self, node: &Node) {
        let mut meta = node.meta.lock();
        meta.nlink = if node.kind == DIRECTORY { 0 } else { meta.nlink.saturating_sub(1) };
        meta.ctime = now();
        let gone = meta.nlink == 0;
        drop(meta);
        if gone && node.lookups.load(Ordering::Relaxed) <= 0 {
            self.shard(node.ino).write().remove(&node.ino);
        }
    }

    /// Moves an entry, over another if there is one.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<()> {
        if flags & !RENAME_NOREPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let (source_dir, target_dir) = (self.node(from.0)?, self.node(to.0)?);
        let node = {
            let mut entries = source_dir.dir().ok_or(ENOTDIR)?.write();
            entries.remove(from.1).ok_or(Errno::ENOENT)?
        };
        // The kernel holds both directories' locks, so nothing is seen between the two steps.
        let replaced = {
            let mut entries = target_dir.dir().ok_or(ENOTDIR)?.write();
            let replaced = entries.remove(to.1);
            entries.insert(to.1, node.clone());
            replaced
        };
        if let Some(inner) = node.dir()
            && from.0 != to.0
        {
            inner.write().parent = to.0;
            let mut left = source_dir.meta.lock();
            left.nlink = left.nlink.saturating_sub(1);
            drop(left);
            target_dir.meta.lock().nlink += 1;
        }
        source_dir.meta.lock().touch();
        target_dir.meta.lock().touch();
        if let Some(replaced) = replaced {
            if replaced.kind == DIRECTORY {
                let mut meta = target_dir.meta.lock();
                meta.nlink = meta.nlink.saturating_sub(1);
            }
            self.unlinked(&replaced);
        }
        Ok(())
    }

    /// The kernel let go of a node so many times.
    pub fn forget(&self, forgotten: &Forget) {
        let Ok(node) = self.node(forgotten.node) else { return };
        let times = forgotten.lookups as i64;
        let before = node.lookups.fetch_sub(times, Ordering::Relaxed);
        if before <= times && node.meta.lock().nlink == 0 {
            self.shard(node.ino).write().remove(&node.ino);
        }
    }

    /// Sets what is given.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        let node = self.node(ino)?;
        let mut content = set.size.and_then(|_| node.file()).map(RwLock::write);
        let mut meta = node.meta.lock();
        if let (Some(size), Some(content)) = (set.size, content.as_mut()) {
            content.truncate(size);
            meta.size = size;
            meta.touch();
        }
        meta.mode = set.mode.map_or(meta.mode, |mode| meta.mode & KIND | mode & 0o7777);
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        meta.atime = set.atime.map_or(meta.atime, time);
        meta.mtime = set.mtime.map_or(meta.mtime, time);
        meta.ctime = now();
        drop(meta);
        drop(content);
        Ok(node.attr())
    }

    /// Cuts a file, as opening it may.
    pub fn truncate(&self, ino: u64) -> Result<()> {
        self.setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).map(drop)
    }

    /// Where a link leads.
    pub fn readlink(&self, ino: u64) -> Result<Bytes> {
        match &self.node(ino)?.body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Fills `out` from `offset` on; answers how far the file goes.
    pub fn read(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        let node = self.node(ino)?;
        let content = node.file().ok_or(EISDIR)?.read();
        let left = node.meta.lock().size.saturating_sub(offset);
        let len = left.min(out.len() as u64) as usize;
        content.read(offset, out.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let node = self.node(ino)?;
        Self::store(&node, node.file().ok_or(EISDIR)?, offset, data);
        Ok(data.len() as u32)
    }

    fn store(node: &Node, content: &RwLock<Content>, offset: u64, data: &[u8]) {
        let mut content = content.write();
        content.write(offset, data);
        let mut meta = node.meta.lock();
        meta.size = meta.size.max(offset.saturating_add(data.len() as u64));
        meta.touch();
    }

    /// Copies at most `most` bytes from one file to another.
    pub fn copy(&self, ino: u64, copy: &CopyRange, most: u64) -> Result<u64> {
        let (source, target) = (self.node(ino)?, self.node(copy.node_out)?);
        let (Some(from), Some(to)) = (source.file(), target.file()) else { return Err(Errno::EINVAL) };
        let left = source.meta.lock().size.saturating_sub(copy.offset_in);
        let mut bytes = vec![0; left.min(copy.len).min(most) as usize];
        from.read().read(copy.offset_in, &mut bytes);
        Self::store(&target, to, copy.offset_out, &bytes);
        Ok(bytes.len() as u64)
    }

    /// Where the next data or hole is: files have one hole, after their end.
    pub fn seek(&self, ino: u64, offset: u64, whence: u32) -> Result<u64> {
        let size = self.node(ino)?.meta.lock().size;
        match offset {
            offset if offset >= size => Err(ENXIO),
            offset if whence == SEEK_DATA => Ok(offset),
            _ => Ok(size),
        }
    }

    /// Entries after a cookie, the dots first; the node of `..` is that of the directory itself.
    /// `sink` answers whether it took the entry.
    pub fn list(&self, ino: u64, cookie: u64, mut sink: impl FnMut(&[u8], u64, u64, &Node) -> bool) -> Result<()> {
        let node = self.node(ino)?;
        let entries = node.dir().ok_or(ENOTDIR)?.read();
        let dots = [(1, ino, &b"."[..]), (2, entries.parent, b"..")];
        for (at, ino, name) in dots.into_iter().filter(|(at, ..)| *at > cookie) {
            if !sink(name, ino, at, &node) {
                return Ok(());
            }
        }
        for (at, name, node) in entries.after(cookie) {
            if !sink(name, node.ino, at, node) {
                break;
            }
        }
        Ok(())
    }
}

fn time(value: SetTime) -> Time {
    match value {
        SetTime::At(time) => time,
        SetTime::Now => now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: New = New { mode: REGULAR | 0o644, uid: 0, gid: 0, rdev: 0 };
    const FOLDER: New = New { mode: DIRECTORY | 0o755, ..FILE };

    #[test]
    fn an_unlinked_node_stays_until_the_kernel_forgets_it() {
        let fs = FloorFs::new();
        let ino = fs.make(ROOT_ID, b"a", FILE, None).unwrap().ino;
        fs.lookup(ROOT_ID, b"a").unwrap();
        fs.remove(ROOT_ID, b"a", false).unwrap();
        fs.forget(&Forget { node: ino, lookups: 1 });
        assert_eq!(fs.write(ino, 0, b"xyz"), Ok(3));
        fs.forget(&Forget { node: ino, lookups: 1 });
        assert_eq!(fs.write(ino, 0, b"xyz"), Err(Errno::ENOENT));
    }

    #[test]
    fn a_listing_goes_on_where_it_stopped() {
        let fs = FloorFs::new();
        for name in [b"a", b"b", b"c"] {
            fs.make(ROOT_ID, name, FILE, None).unwrap();
        }
        let mut seen: Vec<(Vec<u8>, u64)> = Vec::new();
        loop {
            let before = seen.len();
            let cookie = seen.last().map_or(0, |(_, at)| *at);
            let two = |name: &[u8], _: u64, at: u64, _: &Node| {
                let room = seen.len() < before + 2;
                if room {
                    seen.push((name.to_owned(), at));
                }
                room
            };
            fs.list(ROOT_ID, cookie, two).unwrap();
            if seen.len() == before {
                break;
            }
        }
        let names: Vec<_> = seen.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [&b"."[..], b"..", b"a", b"b", b"c"]);
    }

    #[test]
    fn links_of_directories_are_counted() {
        let fs = FloorFs::new();
        let one = fs.make(ROOT_ID, b"one", FOLDER, None).unwrap();
        let two = fs.make(ROOT_ID, b"two", FOLDER, None).unwrap();
        fs.make(one.ino, b"inner", FOLDER, None).unwrap();
        let links = |node: &Node| node.attr().nlink;
        assert_eq!((links(&one), links(&two)), (3, 2));
        fs.rename((one.ino, b"inner"), (two.ino, b"inner"), 0).unwrap();
        assert_eq!((links(&one), links(&two)), (2, 3));
        assert_eq!(fs.remove(ROOT_ID, b"two", true), Err(ENOTEMPTY));
        fs.remove(two.ino, b"inner", true).unwrap();
        fs.remove(ROOT_ID, b"two", true).unwrap();
    }
}
