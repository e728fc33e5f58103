//! [`Attached`]: what looks at a bucket, and reads and writes its objects as files.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nexus::cloud::{Bucket, ObjectInfo, PAGE_KEYS};
use nexus_fuse_transport::{Attr, SetAttr, Time};
use nexus_kernel::interrupt::Requests;
use nexus_kernel::{Error, Result};
use parking_lot::{Mutex, RwLock};

use super::files::{Reader, Staged};
use super::listing::Listing;
use super::tree::{Found, ROOT, Tree};

/// For so long after a request failed, no other is tried.
const PAUSE: Duration = Duration::from_secs(1);
/// Pages that are looked through for one name.
const LOOK_PAGES: usize = 20;
/// Bytes of an object that are fetched at a time to be staged.
const FETCH: u64 = 8 << 20;

/// How a bucket is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// For so long, what was seen is believed.
    pub refresh: Duration,
    /// Changes are refused.
    pub read_only: bool,
    /// Whose all files are.
    pub uid: u32,
    /// Which group's.
    pub gid: u32,
    /// Where content is staged.
    pub folder: PathBuf,
}

/// An open file.
pub(super) struct Open {
    reader: Mutex<Reader>,
}

/// A bucket that is shown as files.
pub struct Attached {
    pub(super) bucket: Bucket,
    pub(super) view: View,
    pub(super) tree: Mutex<Tree>,
    pub(super) opens: Mutex<HashMap<u64, Arc<Open>>>,
    pub(super) listings: Mutex<HashMap<u64, Arc<Mutex<Listing>>>>,
    /// Directories that this mount saw and that may have no object any more.
    pub(super) held: Mutex<HashSet<String>>,
    /// Read by who stores under a name, written by who changes names.
    pub(super) names: RwLock<()>,
    pub(super) requests: Requests,
    next: AtomicU64,
    failed: Mutex<Option<Instant>>,
    began: SystemTime,
}

impl Attached {
    /// Shows `bucket` as `view` tells.
    pub fn new(bucket: Bucket, view: View) -> Attached {
        Attached {
            bucket,
            view,
            tree: Mutex::new(Tree::new()),
            opens: Mutex::default(),
            listings: Mutex::default(),
            held: Mutex::default(),
            names: RwLock::default(),
            requests: Requests::default(),
            next: AtomicU64::new(1),
            failed: Mutex::default(),
            began: SystemTime::now(),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks the bucket, unless it did not answer a moment ago.
    pub(super) fn ask<T>(&self, request: impl FnOnce(&Bucket) -> Result<T>) -> Result<T> {
        if self.failed.lock().is_some_and(|when| when.elapsed() < PAUSE) {
            return Err(Error::Unavailable("the bucket did not answer a moment ago".to_owned()));
        }
        let answer = request(&self.bucket);
        *self.failed.lock() = matches!(answer, Err(Error::Unavailable(_))).then(Instant::now);
        answer
    }

    pub(super) fn writable(&self) -> Result<()> {
        if self.view.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// What `key` stands for in the bucket.
    pub(super) fn find(&self, key: &str) -> Result<Option<Found>> {
        if key.is_empty() {
            return Ok(Some(Found::Dir));
        }
        let (mut token, mut file) = (None, None);
        let end = format!("{key}/");
        for _ in 0..LOOK_PAGES {
            let page = self.ask(|bucket| bucket.page(key, true, token.take(), PAGE_KEYS))?;
            if page.prefixes.iter().any(|prefix| prefix == key) {
                return Ok(Some(Found::Dir));
            }
            let is_past = page.objects.iter().any(|object| object.key > end);
            file = file.or_else(|| page.objects.into_iter().find(|object| object.key == key));
            token = page.next;
            if token.is_none() || is_past {
                break;
            }
        }
        if file.is_none() && self.held.lock().contains(key) {
            return Ok(Some(Found::Dir));
        }
        Ok(file.map(Found::File))
    }

    pub(super) fn key_of(&self, node: u64) -> Result<String> {
        self.tree.lock().get(node).filter(|node| !node.gone).map(|node| node.key.clone()).ok_or(Error::Stale)
    }

    /// The key of `name` in the directory `parent`.
    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Result<String> {
        if name.len() > 255 {
            return Err(Error::NameTooLong);
        }
        let name = std::str::from_utf8(name).map_err(|_| Error::Invalid)?;
        if name.chars().any(char::is_control) {
            return Err(Error::Invalid);
        }
        Ok(join(&self.key_of(parent)?, name))
    }

    /// A node with content of its own is what it is here; else the bucket tells.
    pub(super) fn look(&self, key: &str) -> Result<Option<Found>> {
        let local = {
            let tree = self.tree.lock();
            tree.id_of(key)
                .and_then(|id| tree.get(id))
                .filter(|node| node.staged.is_some())
                .map(|node| node.found.clone())
        };
        match local {
            Some(found) => Ok(Some(found)),
            None => self.find(key),
        }
    }

    /// LOOKUP.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<(u64, Attr)>> {
        let key = match self.child(parent, name) {
            Err(Error::Invalid) => return Ok(None),
            key => key?,
        };
        match self.look(&key)? {
            Some(found) => {
                let id = self.tree.lock().enter(&key, found);
                Ok(Some((id, self.attr(id)?)))
            }
            None => {
                self.tree.lock().take_name(&key);
                Ok(None)
            }
        }
    }

    /// GETATTR: as seen within the time that this is believed.
    pub fn getattr(&self, id: u64) -> Result<Attr> {
        self.refresh(id)?;
        self.attr(id)
    }

    fn refresh(&self, id: u64) -> Result<()> {
        let node = self.tree.lock().get(id).cloned().ok_or(Error::Stale)?;
        let is_fresh = node.seen.is_some_and(|seen| seen.elapsed() < self.view.refresh);
        if id == ROOT || node.gone || node.staged.is_some() || is_fresh {
            return Ok(());
        }
        let found = self.find(&node.key)?.ok_or(Error::NotFound)?;
        if (found == Found::Dir) != (node.found == Found::Dir) {
            return Err(Error::Stale);
        }
        if let Some(node) = self.tree.lock().get_mut(id) {
            node.found = found;
            node.seen = Some(Instant::now());
        }
        Ok(())
    }

    /// Attributes as they are known here.
    pub(super) fn attr(&self, id: u64) -> Result<Attr> {
        let node = self.tree.lock().get(id).cloned().ok_or(Error::Stale)?;
        let staged = node.staged.as_ref().map(|staged| staged.lock());
        let (mode, size, time) = match (&node.found, staged) {
            (Found::Dir, _) => (0o040_755, 0, time_of(self.began)),
            (Found::File(_), Some(staged)) if staged.ready => (0o100_644, staged.len, time_of(staged.modified)),
            (Found::File(info), _) => (0o100_644, info.size, Time { sec: info.modified.0, nsec: info.modified.1 }),
        };
        Ok(Attr {
            ino: id,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            mode,
            nlink: if mode == 0o040_755 { 2 } else { 1 },
            uid: self.view.uid,
            gid: self.view.gid,
            rdev: 0,
            blksize: 4096,
        })
    }

    /// OPEN; answers the handle.
    pub fn open(&self, id: u64, writes: bool) -> Result<u64> {
        if writes {
            self.writable()?;
        }
        self.refresh(id)?;
        if let Some(node) = self.tree.lock().get_mut(id) {
            node.opens += 1;
        }
        let handle = self.number();
        self.opens.lock().insert(handle, Arc::new(Open { reader: Mutex::default() }));
        Ok(handle)
    }

    /// READ.
    pub fn read(&self, id: u64, handle: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        let (key, info, staged) = {
            let tree = self.tree.lock();
            let node = tree.get(id).ok_or(Error::Stale)?;
            let Found::File(info) = &node.found else { return Err(Error::IsDirectory) };
            (node.key.clone(), info.clone(), node.staged.clone())
        };
        if let Some(staged) = staged {
            let staged = staged.lock();
            if staged.ready {
                let most = (out.len() as u64).min(staged.len.saturating_sub(offset)) as usize;
                let room = out.get_mut(..most).unwrap_or_default();
                staged.file.read_exact_at(room, offset).map_err(|error| Error::from_io("staged content", &error))?;
                return Ok(most);
            }
        }
        let open = self.opens.lock().get(&handle).cloned().ok_or(Error::Stale)?;
        let mut reader = open.reader.lock();
        let fetch = |range| self.ask(|bucket| bucket.read(&key, info.etag.clone(), range));
        reader.read(offset, info.size, out, fetch).map_err(|error| self.changed(id, error))
    }

    /// An object that is another one by now: the next open sees it.
    fn changed(&self, id: u64, error: Error) -> Error {
        if !matches!(error, Error::Conflict | Error::NotFound | Error::Exists) {
            return error;
        }
        if let Some(node) = self.tree.lock().get_mut(id) {
            node.seen = None;
        }
        Error::Stale
    }

    /// Has the content of a file staged, with what the object has if it is to be kept.
    pub(super) fn stage(&self, id: u64, keep: bool) -> Result<Arc<Mutex<Staged>>> {
        self.writable()?;
        let (staged, key, info) = {
            let mut tree = self.tree.lock();
            let node = tree.get_mut(id).ok_or(Error::Stale)?;
            let Found::File(info) = node.found.clone() else { return Err(Error::IsDirectory) };
            let staged = match &node.staged {
                Some(staged) => staged.clone(),
                None => {
                    let staged = Arc::new(Mutex::new(Staged::new(&self.view.folder, true)?));
                    node.staged.insert(staged).clone()
                }
            };
            (staged, node.key.clone(), info)
        };
        let mut guard = staged.lock();
        if !guard.ready {
            if keep && let Err(error) = self.fetch(&key, &info, &mut guard) {
                drop(guard);
                if let Some(node) = self.tree.lock().get_mut(id) {
                    node.staged = None;
                }
                return Err(self.changed(id, error));
            }
            guard.ready = true;
        }
        drop(guard);
        Ok(staged)
    }

    fn fetch(&self, key: &str, info: &ObjectInfo, staged: &mut Staged) -> Result<()> {
        let mut at = 0;
        while at < info.size {
            let range = at..(at + FETCH).min(info.size);
            let bytes = self.ask(|bucket| bucket.read(key, info.etag.clone(), range))?;
            staged.file.write_all_at(&bytes, at).map_err(|error| Error::from_io("cannot stage content", &error))?;
            at += bytes.len() as u64;
        }
        staged.len = info.size;
        Ok(())
    }

    /// WRITE.
    pub fn write(&self, id: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let staged = self.stage(id, true)?;
        let mut staged = staged.lock();
        let end = offset.checked_add(data.len() as u64).ok_or(Error::FileTooLarge)?;
        staged.dirty = true;
        staged.version += 1;
        staged.file.write_all_at(data, offset).map_err(|error| Error::from_io("cannot stage content", &error))?;
        staged.len = staged.len.max(end);
        staged.modified = SystemTime::now();
        Ok(data.len() as u32)
    }

    /// SETATTR: a size is set; modes and times are taken and have no effect; an owner must be
    /// the one that all files have.
    pub fn setattr(&self, id: u64, set: &SetAttr) -> Result<Attr> {
        self.writable()?;
        let (view, other) = (&self.view, |set: Option<u32>, is| set.is_some_and(|set| set != is && set != u32::MAX));
        if other(set.uid, view.uid) || other(set.gid, view.gid) {
            return Err(Error::NotPermitted);
        }
        if let Some(size) = set.size {
            let staged = self.stage(id, size > 0)?;
            {
                let mut staged = staged.lock();
                staged.file.set_len(size).map_err(|error| Error::from_io("cannot stage content", &error))?;
                (staged.len, staged.dirty, staged.modified) = (size, true, SystemTime::now());
                staged.version += 1;
            }
            if self.tree.lock().get(id).is_some_and(|node| node.opens == 0) {
                self.commit(id)?;
                self.unstage(id);
            }
        }
        self.getattr(id)
    }

    /// Stores what is staged, if it is not what the bucket has. FLUSH and FSYNC.
    pub fn commit(&self, id: u64) -> Result<()> {
        let _names = self.names.read();
        self.commit_named(id)
    }

    /// The same, for who keeps names from being changed.
    pub(super) fn commit_named(&self, id: u64) -> Result<()> {
        let Some(node) = self.tree.lock().get(id).cloned() else { return Ok(()) };
        let Some(shared) = node.staged.filter(|_| !node.gone) else { return Ok(()) };
        let _storing = node.storing.lock();
        let (file, len, version) = {
            let staged = shared.lock();
            if !staged.dirty {
                return Ok(());
            }
            let file = staged.file.try_clone().map_err(|error| Error::from_io("staged content", &error))?;
            (file, staged.len, staged.version)
        };
        // Not under the lock, so that others can look at the file meanwhile.
        let etag = self.ask(|bucket| bucket.put(&node.key, &file, len, false))?;
        let mut staged = shared.lock();
        staged.stored = true;
        if staged.version != version {
            // Who wrote meanwhile will store it again.
            return Ok(());
        }
        staged.dirty = false;
        let (size, modified) = (staged.len, time_of(staged.modified));
        drop(staged);
        if let Some(node) = self.tree.lock().get_mut(id) {
            let modified = (modified.sec, modified.nsec);
            node.found = Found::File(ObjectInfo { key: node.key.clone(), size, modified, etag });
            node.seen = None;
        }
        Ok(())
    }

    fn unstage(&self, id: u64) {
        if let Some(node) = self.tree.lock().get_mut(id) {
            node.staged = None;
        }
    }

    /// RELEASE. What was written through a map after the last close is stored now.
    pub fn release(&self, id: u64, handle: u64) {
        self.opens.lock().remove(&handle);
        let last = self.tree.lock().get_mut(id).is_some_and(|node| {
            node.opens = node.opens.saturating_sub(1);
            node.opens == 0
        });
        if last {
            if let Err(error) = self.commit(id) {
                let key = self.key_of(id).unwrap_or_default();
                log::error!("{key} is closed and its last changes are lost: they could not be stored: {error}");
            }
            self.unstage(id);
            self.tree.lock().forget(id, 0);
        }
    }
}

/// The key of `name` in the directory `key`.
pub(super) fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}/{name}") }
}

pub(super) fn time_of(time: SystemTime) -> Time {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { sec: since.as_secs() as i64, nsec: since.subsec_nanos() }
}
