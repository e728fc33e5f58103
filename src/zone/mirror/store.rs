//! All copies on a node, by zone.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nexus_kernel::disk::Disk;
use nexus_kernel::{BlobId, Error, Result, ZoneIndex};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::file::MirrorFile;
use super::ranges::Ranges;

/// Files that stay open, and ranges of theirs that stay in memory, while nobody uses them.
const MOST_OPEN: usize = 128;
const MOST_RANGES: usize = 1 << 18;

/// Some bytes of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The blob.
    pub blob: BlobId,
    /// Where in it they belong.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

type Key = (ZoneIndex, BlobId);

/// Copies of other members' content.
pub struct MirrorStore {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Copies that there are, by blob, as a read knows no zone.
    known: BTreeMap<BlobId, SmallVec<[ZoneIndex; 1]>>,
    open: HashMap<Key, Arc<MirrorFile>>,
    /// Open files, those used last at the end.
    order: VecDeque<Key>,
    /// When something was added last, in this run.
    touched: HashMap<Key, Instant>,
    /// Zones with files whose names are not durable yet.
    new_names: BTreeSet<ZoneIndex>,
}

impl MirrorStore {
    /// With what earlier runs left in `folder`, which is made once something is to be kept.
    pub fn open(disk: Arc<dyn Disk>, folder: PathBuf, zones: &[ZoneIndex]) -> Result<MirrorStore> {
        let mut state = State::default();
        for zone in zones {
            let names = match disk.list(&folder.join(zone.to_string())) {
                Err(Error::NotFound) => continue,
                other => other?,
            };
            for (name, _) in names {
                if let Some(blob) = name.strip_suffix(".mir").and_then(|id| u64::from_str_radix(id, 16).ok()) {
                    state.known.entry(BlobId(blob)).or_default().push(*zone);
                }
            }
        }
        Ok(MirrorStore { disk, folder, state: Mutex::new(state) })
    }

    fn dir(&self, zone: ZoneIndex) -> PathBuf {
        self.folder.join(zone.to_string())
    }

    fn path(&self, (zone, blob): Key) -> PathBuf {
        self.dir(zone).join(format!("{:016x}.mir", blob.0))
    }

    /// Keeps bytes of a zone's blobs, and makes the blobs of `durable` durable, all that was
    /// kept of them before, too.
    pub fn put(&self, zone: ZoneIndex, parts: &[Part], durable: &[BlobId]) -> Result<()> {
        for part in parts {
            self.file((zone, part.blob), true)?.put(part.offset, &part.bytes)?;
        }
        let blobs: BTreeSet<BlobId> = durable.iter().copied().collect();
        for blob in &blobs {
            self.file((zone, *blob), false)?.sync()?;
        }
        // Held, so that nobody takes a name for durable that is not yet.
        let mut state = self.state.lock();
        if !blobs.is_empty() && state.new_names.contains(&zone) {
            self.disk.sync_dir(&self.dir(zone))?;
            state.new_names.remove(&zone);
        }
        Ok(())
    }

    /// Fills `buf`, if a zone's copy has all of it.
    pub fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let zones = self.state.lock().known.get(&blob).cloned().unwrap_or_default();
        for zone in zones {
            match self.file((zone, blob), false) {
                Ok(file) if file.read(offset, buf)? => return Ok(true),
                Ok(_) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What is here of a blob, durably.
    pub fn ranges(&self, zone: ZoneIndex, blob: BlobId) -> Result<Ranges> {
        match self.file((zone, blob), false) {
            Ok(file) => file.durable(),
            Err(Error::NotFound) => Ok(Ranges::default()),
            Err(error) => Err(error),
        }
    }

    /// The blobs that a zone has copies of here, and when something was added to each in this run.
    pub fn blobs(&self, zone: ZoneIndex) -> Vec<(BlobId, Option<Instant>)> {
        let state = self.state.lock();
        let of_zone = state.known.iter().filter(|(_, zones)| zones.contains(&zone));
        of_zone.map(|(blob, _)| (*blob, state.touched.get(&(zone, *blob)).copied())).collect()
    }

    /// Bytes of a zone's files here.
    pub fn bytes(&self, zone: ZoneIndex) -> u64 {
        let names = self.disk.list(&self.dir(zone)).unwrap_or_default();
        names.iter().map(|(_, len)| len).sum()
    }

    /// Deletes the copy of a blob.
    pub fn remove(&self, zone: ZoneIndex, blob: BlobId) -> Result<()> {
        let mut state = self.state.lock();
        state.forget((zone, blob));
        match self.disk.remove(&self.path((zone, blob))) {
            Err(Error::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Deletes all copies of a zone.
    pub fn remove_zone(&self, zone: ZoneIndex) -> Result<()> {
        for (blob, _) in self.blobs(zone) {
            self.remove(zone, blob)?;
        }
        Ok(())
    }

    /// The file of a copy.
    fn file(&self, key: Key, make: bool) -> Result<Arc<MirrorFile>> {
        let mut state = self.state.lock();
        if make {
            state.touched.insert(key, Instant::now());
        }
        if let Some(file) = state.open.get(&key).cloned() {
            state.order.retain(|other| *other != key);
            state.order.push_back(key);
            return Ok(file);
        }
        let is_known = state.known.get(&key.1).is_some_and(|zones| zones.contains(&key.0));
        let path = self.path(key);
        let file = match (is_known, make) {
            (true, _) => self.disk.open(&path)?,
            (false, false) => return Err(Error::NotFound),
            (false, true) => self.make(&path)?,
        };
        let file = Arc::new(MirrorFile::open(key.1, file)?);
        if !is_known {
            state.new_names.insert(key.0);
            state.known.entry(key.1).or_default().push(key.0);
        }
        state.open.insert(key, file.clone());
        state.order.push_back(key);
        state.shrink();
        Ok(file)
    }

    fn make(&self, path: &Path) -> Result<Arc<dyn nexus_kernel::disk::DiskFile>> {
        if let Some(dir) = path.parent() {
            self.disk.create_dir_all(dir)?;
        }
        self.disk.create(path)
    }
}

impl State {
    fn forget(&mut self, key: Key) {
        self.open.remove(&key);
        self.order.retain(|other| *other != key);
        self.touched.remove(&key);
        if let Some(zones) = self.known.get_mut(&key.1) {
            zones.retain(|zone| *zone != key.0);
            if zones.is_empty() {
                self.known.remove(&key.1);
            }
        }
    }

    /// Closes what was not used for longest, where there is much. A file in use stays: two
    /// openings of one would overwrite each other's records.
    fn shrink(&mut self) {
        let mut ranges: usize = self.open.values().map(|file| file.size().1).sum();
        let mut at = 0;
        while self.open.len() > MOST_OPEN || ranges > MOST_RANGES && self.open.len() > 1 {
            let Some(key) = self.order.get(at).copied() else { return };
            match self.open.get(&key) {
                Some(file) if Arc::strong_count(file) > 1 => at += 1,
                Some(file) => {
                    ranges -= file.size().1;
                    self.open.remove(&key);
                    self.order.remove(at);
                }
                None => {
                    self.order.remove(at);
                }
            }
        }
    }
}
