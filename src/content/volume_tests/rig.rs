//! A small volume on a simulated disk, with the file operations that tests need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::{MemoryMetastore, RedbMetastore, RedbOptions};
use nexus_drivers::object_store::LocalDiskStore;
use nexus_kernel::clock::Timestamp;
use nexus_kernel::command::{AttrChange, NewKind};
use nexus_kernel::content::{ContentStore, WriteHint};
use nexus_kernel::direct_zone::DirectZone;
use nexus_kernel::disk::Disk;
use nexus_kernel::model::{Blob, Extent};
use nexus_kernel::{BlobId, Clock, Command, Error, Ino, ObjectStore, Result, StoreId, Zone, ZoneIndex, machine};
use nexus_zone::{Access, Background, LocalZone, LogConfig, NewZone, NodeLog, Preallocate, ZoneConfig, ZoneParts};

use crate::metadata::zone_blobs;
use crate::testing::Random;
use crate::{ContentConfig, Finding, Progress, ReclaimConfig, Reclaimer, SegmentStore, Severity, check};

/// Time that stands still until it is moved.
#[derive(Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ms = 1_000_000 + self.0.load(Ordering::SeqCst);
        Timestamp { sec: ms / 1000, nsec: (ms % 1000) as u32 * 1_000_000 }
    }
}

/// Sizes small enough that a test meets every limit.
pub fn small() -> ContentConfig {
    ContentConfig {
        writer: 0xabc,
        segment_bytes: 64 << 10,
        stream_segment_bytes: 256 << 10,
        stream_after_bytes: 32 << 10,
        stream_lanes: 2,
        allocate_step_bytes: 16 << 10,
        writeback_step_bytes: 48 << 10,
        reserve_bytes: Some(64 << 10),
        sealed_files: 4,
        closed_files: 2,
        ..ContentConfig::default()
    }
}

pub fn eager() -> ReclaimConfig {
    ReclaimConfig { idle_seal_bytes: 1, drop_grace_ms: 0, moves_per_command: 5, ..ReclaimConfig::default() }
}

pub const ROOT: &str = "/vol";

pub struct Rig {
    pub disk: SimDisk,
    pub clock: Arc<TestClock>,
    pub metadata: Metadata,
    pub store: Arc<SegmentStore>,
    pub zone: Arc<dyn Zone>,
    pub reclaimer: Arc<Reclaimer>,
    pub config: ContentConfig,
}

/// Where the metadata is.
#[derive(Clone)]
pub enum Metadata {
    /// In memory, from where no kill takes it.
    Memory(MemoryMetastore),
    /// On the same disk: a log, and a redb file that it is drained into.
    Logged,
    /// As `Logged`, only to be looked at.
    LoggedReadOnly,
}

pub fn memory() -> Metadata {
    Metadata::Memory(MemoryMetastore::new())
}

fn logged_zone(
    disk: &SimDisk,
    store: Arc<SegmentStore>,
    clock: Arc<TestClock>,
    access: Access,
) -> Result<Arc<dyn Zone>> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let root = Path::new(ROOT);
    let options = RedbOptions { cache_bytes: 1 << 20, verify_up_to_bytes: 0, ..RedbOptions::default() };
    let metastore = Arc::new(RedbMetastore::open_or_create(disk.clone(), &root.join("zone.redb"), options)?);
    let config = LogConfig {
        segment_bytes: 64 << 10,
        max_spares: 2,
        image_bytes: 16 << 10,
        unsettled_bytes: 100 << 10,
        preallocate: Preallocate::Inline,
    };
    let log = NodeLog::open(disk, &root.join("log"), store, config)?;
    let parts = ZoneParts { zone: ZoneIndex(0), log, metastore, clock };
    let config =
        ZoneConfig { access, background: Background::Inline, memtable_bytes: 64 << 10, ..ZoneConfig::default() };
    let new = NewZone { id: [7; 16], hash_seed: 99, mode: 0o755, uid: 0, gid: 0 };
    Ok(Arc::new(match LocalZone::open(parts.clone(), config.clone()) {
        Err(Error::NotFound) => LocalZone::create(parts, config, &new)?,
        other => other?,
    }))
}

impl Rig {
    pub fn new() -> Rig {
        Rig::open(SimDisk::new(), memory(), small()).unwrap()
    }

    pub fn open(disk: SimDisk, metadata: Metadata, config: ContentConfig) -> Result<Rig> {
        let blobs = Arc::new(LocalDiskStore::open(Arc::new(disk.clone()), &Path::new(ROOT).join("blobs"))?);
        Rig::over(disk, metadata, blobs, config)
    }

    pub fn over(disk: SimDisk, metadata: Metadata, blobs: Arc<dyn ObjectStore>, config: ContentConfig) -> Result<Rig> {
        let clock = Arc::new(TestClock::default());
        let store = SegmentStore::open(Arc::new(disk.clone()), blobs, clock.clone(), Path::new(ROOT), config.clone())?;
        let zone: Arc<dyn Zone> = match &metadata {
            Metadata::Memory(memory) => {
                let metastore = Arc::new(memory.clone());
                Arc::new(DirectZone::open_or_format(metastore, store.clone(), clock.clone(), (0, 0))?)
            }
            Metadata::Logged => logged_zone(&disk, store.clone(), clock.clone(), Access::ReadWrite)?,
            Metadata::LoggedReadOnly => logged_zone(&disk, store.clone(), clock.clone(), Access::ReadOnly)?,
        };
        let zones: Vec<Arc<dyn Zone>> = vec![zone.clone()];
        store.attach(&zones)?;
        let reclaimer = Arc::new(Reclaimer::new(store.clone(), crate::ZoneSet::new(zones), clock.clone(), eager()));
        Ok(Rig { disk, clock, metadata, store, zone, reclaimer, config })
    }

    /// The volume as another process finds it after this one was killed.
    pub fn killed(&self) -> Result<Rig> {
        Rig::open(self.disk.fork(), self.metadata.clone(), self.config.clone())
    }

    pub fn create(&self) -> Result<Ino> {
        let ino = self.zone.allocate_ino()?;
        let name = format!("f{}", ino.0).into_bytes().as_slice().into();
        let (parent, kind, now) = (Ino::ROOT, NewKind::Regular, self.clock.now());
        self.zone.propose(&Command::Create { parent, name, ino, kind, mode: 0o644, umask: 0, uid: 0, gid: 0, now })?;
        Ok(ino)
    }

    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        let size = self.zone.inode(ino)?.ok_or(Error::Stale)?.size;
        let staged = self.store.write(WriteHint { ino, offset, size, store: StoreId(0) }, data)?;
        let (pieces, store) = (staged.pieces.clone(), staged.store);
        self.zone.propose(&Command::Write {
            ino,
            offset,
            pieces,
            store,
            kill_privileges: false,
            now: self.clock.now(),
        })?;
        Ok(())
    }

    pub fn truncate(&self, ino: Ino, size: u64) -> Result<()> {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        self.zone.propose(&Command::SetAttr { ino, change, now: self.clock.now() })?;
        Ok(())
    }

    pub fn clone_range(&self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) -> Result<()> {
        let now = self.clock.now();
        self.zone.propose(&Command::Clone { from, from_offset, to, to_offset, len, kill_privileges: false, now })?;
        Ok(())
    }

    pub fn unlink(&self, ino: Ino) -> Result<()> {
        let name = format!("f{}", ino.0).into_bytes().as_slice().into();
        let now = self.clock.now();
        self.zone.propose(&Command::Unlink { parent: Ino::ROOT, name, keep: false, now })?;
        while self.zone.propose(&Command::Reap { inos: vec![ino], budget: 100 })?.count > 0 {}
        Ok(())
    }

    pub fn extents(&self, ino: Ino) -> Result<Vec<(u64, Extent)>> {
        let mut found = Vec::new();
        self.zone.read(&mut |state| {
            found = machine::extents(state, ino, 0, u64::MAX, usize::MAX)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// A file's content, as a reader gets it that starts over when a blob is gone.
    pub fn read(&self, ino: Ino) -> Result<Vec<u8>> {
        for _ in 0..100 {
            let mut inode = None;
            let mut extents = Vec::new();
            self.zone.read(&mut |state| {
                inode = state.inode(ino)?;
                extents = machine::extents(state, ino, 0, u64::MAX, usize::MAX)?;
                Ok(())
            })?;
            let mut content = vec![0; inode.ok_or(Error::Stale)?.size as usize];
            let read = extents.iter().filter(|(_, extent)| extent.blob.is_some()).try_for_each(|(at, extent)| {
                let range = *at as usize..(*at + extent.len) as usize;
                self.store.read(extent.blob, extent.blob_offset, &mut content[range])
            });
            match read {
                Ok(()) => return Ok(content),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Io(format!("the blobs of inode {ino} are gone, again and again")))
    }

    /// The bytes of one extent.
    pub fn store_read(&self, extent: &Extent, out: &mut [u8]) {
        self.store.read(extent.blob, extent.blob_offset, out).unwrap();
    }

    pub fn blobs(&self) -> BTreeMap<BlobId, Blob> {
        zone_blobs(&*self.zone).unwrap()
    }

    /// Passes until nothing is left to do.
    pub fn collect(&self) -> Result<Progress> {
        let mut sum = Progress::default();
        for _ in 0..100 {
            self.clock.advance_ms(1_000_000);
            let pass = self.reclaimer.run_once()?;
            if pass == Progress::default() {
                return Ok(sum);
            }
            sum.sealed += pass.sealed;
            sum.dropped += pass.dropped;
            sum.deleted += pass.deleted;
            sum.freed_bytes += pass.freed_bytes;
            sum.copied_bytes += pass.copied_bytes;
            sum.moved_bytes += pass.moved_bytes;
        }
        panic!("the collector never comes to an end: {sum:?}");
    }

    pub fn findings(&self, deep: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        check(&*self.zone, &self.store, deep, &mut |finding| findings.push(finding)).unwrap();
        findings
    }

    pub fn assert_sound(&self, context: &str) {
        let damage: Vec<_> = self.findings(true).into_iter().filter(|f| f.severity == Severity::Damage).collect();
        assert!(damage.is_empty(), "{context}: {damage:?}");
    }

    /// Files of segments, blobs and sums, by folder.
    pub fn content_files(&self) -> Vec<PathBuf> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files
            .filter(|path| path.extension().is_none_or(|e| e == "seg" || e == "sum") && !path.ends_with("counter"))
            .collect()
    }
}

/// What the files should hold.
#[derive(Clone, Default, PartialEq)]
pub struct Model {
    pub files: BTreeMap<Ino, Vec<u8>>,
}

impl Model {
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        let file = self.files.entry(ino).or_default();
        let end = offset as usize + data.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(data);
    }

    pub fn assert_same(&self, rig: &Rig, context: &str) {
        for (ino, expected) in &self.files {
            let content = rig.read(*ino).unwrap_or_else(|error| panic!("{context}: inode {ino}: {error}"));
            assert_eq!(content.len(), expected.len(), "{context}: length of inode {ino}");
            if let Some(at) = content.iter().zip(expected).position(|(a, b)| a != b) {
                panic!("{context}: inode {ino} differs at byte {at}");
            }
        }
    }

    /// A random change, made in both. An error leaves the model as it was.
    pub fn step(&mut self, rig: &Rig, random: &mut Random) -> Result<()> {
        let inos: Vec<_> = self.files.keys().copied().collect();
        let pick = |random: &mut Random| inos.get(random.below(inos.len().max(1) as u64) as usize).copied();
        match (random.below(20), pick(random)) {
            (0..3, _) | (_, None) => {
                let ino = rig.create()?;
                self.files.insert(ino, Vec::new());
            }
            (3..5, Some(ino)) => {
                rig.unlink(ino)?;
                self.files.remove(&ino);
            }
            (5..7, Some(ino)) => {
                let size = random.below(self.files[&ino].len() as u64 + 1);
                rig.truncate(ino, size)?;
                self.files.get_mut(&ino).unwrap().truncate(size as usize);
            }
            (7..10, Some(from)) => {
                let Some(to) = pick(random).filter(|to| *to != from) else { return Ok(()) };
                let source = self.files[&from].clone();
                let from_offset = random.below(source.len() as u64 + 1);
                let len = random.below(40_000).min(source.len() as u64 - from_offset);
                let to_offset = random.below(self.files[&to].len() as u64 + 1);
                rig.clone_range(from, from_offset, to, to_offset, len)?;
                if len > 0 {
                    self.write(to, to_offset, &source[from_offset as usize..(from_offset + len) as usize]);
                }
            }
            (10..13, Some(ino)) => {
                // Sequential: a stream, once it is long enough.
                for _ in 0..1 + random.below(12) {
                    let data = random.bytes(8192);
                    let at = self.files[&ino].len() as u64;
                    rig.write(ino, at, &data)?;
                    self.write(ino, at, &data);
                }
            }
            (_, Some(ino)) => {
                let offset = random.below(self.files[&ino].len() as u64 + 5000);
                let most = random.pick(&[50, 6000, 30_000]);
                let data = random.some_bytes(most);
                rig.write(ino, offset, &data)?;
                self.write(ino, offset, &data);
            }
        }
        Ok(())
    }
}
