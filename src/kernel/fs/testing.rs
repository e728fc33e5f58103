//! Doubles for the tests of this crate: a metastore and a content store in memory, a clock
//! that tests turn.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::content::{ContentStore, ContentSync, Staged, WriteHint};
use crate::disk::DiskSpace;
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, StoreId};
use crate::metastore::{
    Durability, Key, MetaRead, MetaSnapshot, Metastore, MetastoreStats, Table, Visitor, WriteBatch,
};
use crate::model::Piece;

type Map = BTreeMap<(Table, Key), Bytes>;

/// A metastore in memory, copied when a snapshot is held.
#[derive(Default)]
pub(crate) struct TestMetastore {
    map: Mutex<Arc<Map>>,
    pub(crate) fail_durable: AtomicBool,
}

struct TestSnapshot(Arc<Map>);

impl TestSnapshot {
    fn range(&self, table: Table, start: &[u8], end: &[u8]) -> impl DoubleEndedIterator<Item = (&Key, &Bytes)> {
        let bounds = (Bound::Included((table, Key::from_slice(start))), Bound::Excluded((table, Key::from_slice(end))));
        let range = (start < end).then_some(bounds);
        range.into_iter().flat_map(|bounds| self.0.range(bounds)).map(|((_, key), value)| (key, value))
    }
}

impl MetaRead for TestSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(table, Key::from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let _ = self.range(table, start, end).try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let _ = self.range(table, start, end).rev().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}

impl Metastore for TestMetastore {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        Ok(Arc::new(TestSnapshot(self.map.lock().clone())))
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        if durability == Durability::Durable && self.fail_durable.load(Ordering::SeqCst) {
            return Err(Error::Io("the medium is gone".into()));
        }
        let mut map = self.map.lock();
        if batch.expect.iter().any(|(table, key, value)| map.get(&(*table, key.clone())) != value.as_ref()) {
            return Err(Error::Conflict);
        }
        let map = Arc::make_mut(&mut map);
        for (table, key, value) in &batch.writes {
            match value {
                Some(value) => map.insert((*table, key.clone()), value.clone()),
                None => map.remove(&(*table, key.clone())),
            };
        }
        Ok(())
    }

    fn stats(&self) -> Result<MetastoreStats> {
        Ok(MetastoreStats::default())
    }
}

/// Content in memory. Blobs are small, so that writes take several pieces.
pub(crate) struct TestContent {
    inner: Mutex<Blobs>,
    pub(crate) full: AtomicBool,
    pub(crate) syncs: AtomicU64,
    pub(crate) closed: Mutex<Vec<Ino>>,
    hook: Mutex<Option<ReadHook>>,
    /// Whether it has to be fetched, and what was said to be wanted; no more bytes of it than that.
    pub(crate) fetched: AtomicBool,
    pub(crate) wanted: Mutex<Vec<(BlobId, std::ops::Range<u64>)>>,
    pub(crate) most_wanted: AtomicU64,
}

/// Called before a read, outside of any lock of the store.
pub(crate) type ReadHook = Box<dyn FnMut(BlobId) + Send>;

struct Blobs {
    open: BlobId,
    next: u64,
    blobs: HashMap<BlobId, Vec<u8>>,
}

impl TestContent {
    pub(crate) const BLOB_BYTES: usize = 10_000;

    pub(crate) fn new() -> Arc<TestContent> {
        Arc::new(TestContent {
            inner: Mutex::new(Blobs { open: BlobId(1), next: 2, blobs: HashMap::from([(BlobId(1), Vec::new())]) }),
            full: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            closed: Mutex::default(),
            hook: Mutex::default(),
            fetched: AtomicBool::default(),
            wanted: Mutex::default(),
            most_wanted: AtomicU64::new(u64::MAX),
        })
    }

    /// Sets what happens before each read.
    pub(crate) fn on_read(&self, hook: ReadHook) {
        *self.hook.lock() = Some(hook);
    }

    /// Takes a blob away, as compaction does; answers its bytes.
    pub(crate) fn remove(&self, blob: BlobId) -> Vec<u8> {
        self.inner.lock().blobs.remove(&blob).unwrap()
    }
}

impl ContentSync for TestContent {
    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn verify(&self, piece: &Piece) -> Result<bool> {
        let mut buf = vec![0; piece.len as usize];
        Ok(self.read(piece.blob, piece.blob_offset, &mut buf).is_ok() && crc32c::crc32c(&buf) == piece.crc)
    }
}

impl ContentStore for TestContent {
    fn write(&self, _hint: WriteHint, mut data: &[u8]) -> Result<Staged> {
        self.check_space(data.len() as u64)?;
        let mut inner = self.inner.lock();
        let mut pieces = smallvec::SmallVec::new();
        while !data.is_empty() {
            let used = inner.blobs.get(&inner.open).map_or(Self::BLOB_BYTES, Vec::len);
            if used >= Self::BLOB_BYTES {
                inner.open = BlobId(inner.next);
                inner.next += 1;
            }
            let blob = inner.open;
            let bytes = inner.blobs.entry(blob).or_default();
            let (now, later) = data.split_at(data.len().min(Self::BLOB_BYTES - bytes.len()));
            pieces.push(Piece {
                len: now.len() as u64,
                blob,
                blob_offset: bytes.len() as u64,
                crc: crc32c::crc32c(now),
            });
            bytes.extend_from_slice(now);
            data = later;
        }
        Ok(Staged { pieces, store: StoreId(0), pin: Box::new(()) })
    }

    fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(hook) = self.hook.lock().as_mut() {
            hook(blob);
        }
        let inner = self.inner.lock();
        let Some(bytes) = inner.blobs.get(&blob) else {
            // A store may have got half-way by the time it finds out.
            buf.fill(0xEE);
            return Err(Error::NotFound);
        };
        let from = offset as usize;
        buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or(Error::Corrupt("short blob".into()))?);
        Ok(())
    }

    fn is_fetched(&self, _blob: BlobId) -> bool {
        self.fetched.load(Ordering::SeqCst)
    }

    fn want(&self, blob: BlobId, range: std::ops::Range<u64>) -> bool {
        let mut wanted = self.wanted.lock();
        let bytes: u64 = wanted.iter().map(|(_, range)| range.end - range.start).sum();
        let fits = bytes + (range.end - range.start) <= self.most_wanted.load(Ordering::SeqCst);
        if fits {
            wanted.push((blob, range));
        }
        fits
    }

    fn closed(&self, ino: Ino) {
        self.closed.lock().push(ino);
    }

    fn check_space(&self, _len: u64) -> Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(Error::NoSpace) } else { Ok(()) }
    }

    fn space(&self) -> Result<DiskSpace> {
        Ok(DiskSpace { total: 1 << 30, free: 1 << 29, available: 1 << 28, total_inodes: 1000, free_inodes: 900 })
    }
}

/// A clock that goes on by a second at every look, and when told.
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn new() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicU64::new(1_000_000)))
    }

    pub(crate) fn advance(&self, sec: u64) {
        self.0.fetch_add(sec, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.fetch_add(1, Ordering::SeqCst) as i64, nsec: 0 }
    }
}

/// Numbers from a seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
