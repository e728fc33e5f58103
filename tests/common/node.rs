//! A whole node, metastore, log, zone, content and syscalls, on a simulated disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nexus_content::{ContentConfig, ReclaimConfig, Reclaimer, SegmentStore, Severity};
use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_drivers::object_store::LocalDiskStore;
use nexus_kernel::disk::Disk;
use nexus_kernel::fs::FsOptions;
use nexus_kernel::{Clock, Error, Metastore, NexusFs, ObjectStore, Result, Timestamp, Zone, ZoneIndex};
use nexus_zone::{Background, LocalZone, LogConfig, NewZone, NodeLog, Preallocate, ZoneConfig, ZoneParts};

/// A clock that goes on by a millisecond each time it is read, and otherwise as tests say.
#[derive(Default)]
pub struct StepClock(AtomicI64);

impl StepClock {
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        let ms = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp { sec: 1_700_000_000 + ms / 1000, nsec: (ms % 1000) as u32 * 1_000_000 }
    }
}

/// A node that does everything in the caller's thread, but for reaping. Sizes are so small
/// that segments fill, logs roll over and memory tables drain all the time.
pub struct Node {
    pub fs: NexusFs,
    pub zone: Arc<dyn Zone>,
    pub content: Arc<SegmentStore>,
    pub reclaimer: Reclaimer,
}

impl Node {
    /// Opens the node on `disk`, making it if the disk is empty.
    pub fn open(disk: &SimDisk, clock: Arc<StepClock>) -> Result<Node> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let root = Path::new("/data");
        disk.create_dir_all(root)?;
        let blobs: Arc<dyn ObjectStore> = Arc::new(LocalDiskStore::open(disk.clone(), &root.join("blobs"))?);
        let config = ContentConfig {
            segment_bytes: 256 << 10,
            stream_segment_bytes: 512 << 10,
            stream_after_bytes: 64 << 10,
            allocate_step_bytes: 64 << 10,
            writeback_step_bytes: 64 << 10,
            ..ContentConfig::default()
        };
        let content = SegmentStore::open(disk.clone(), blobs, clock.clone(), root, config)?;
        let options = RedbOptions { cache_bytes: 1 << 20, verify_up_to_bytes: 0, reserve_bytes: 512 << 10 };
        let metastore = Arc::new(RedbMetastore::open_or_create(disk.clone(), &root.join("meta.redb"), options)?);
        let zone = open_zone(&disk, root, metastore, content.clone(), clock.clone())?;
        content.attach(std::slice::from_ref(&zone))?;
        let options = FsOptions { caching_client: true, ..FsOptions::default() };
        let fs = NexusFs::with_zone(zone.clone(), content.clone(), options)?;
        let config = ReclaimConfig {
            idle_seal_ms: 50,
            idle_seal_bytes: 1,
            drop_grace_ms: 20,
            moves_per_command: 4,
            ..ReclaimConfig::default()
        };
        let reclaimer = Reclaimer::new(content.clone(), nexus_content::ZoneSet::new(vec![zone.clone()]), clock, config);
        Ok(Node { fs, zone, content, reclaimer })
    }

    /// Holds metadata against itself and against content; answers what is damaged.
    pub fn damage(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        nexus_content::check(&*self.zone, &self.content, true, &mut |finding| {
            if finding.severity == Severity::Damage {
                found.push(finding.text);
            }
        })?;
        Ok(found)
    }
}

fn open_zone(
    disk: &Arc<dyn Disk>,
    root: &Path,
    metastore: Arc<dyn Metastore>,
    content: Arc<SegmentStore>,
    clock: Arc<StepClock>,
) -> Result<Arc<dyn Zone>> {
    let config = LogConfig {
        segment_bytes: 64 << 10,
        max_spares: 2,
        image_bytes: 16 << 10,
        unsettled_bytes: 100 << 10,
        preallocate: Preallocate::Inline,
    };
    let log = NodeLog::open(disk.clone(), &root.join("log"), content, config)?;
    let parts = ZoneParts { zone: ZoneIndex(0), log, metastore, clock };
    let config = ZoneConfig {
        background: Background::Inline,
        memtable_bytes: 16 << 10,
        checkpoint_log_bytes: 100 << 10,
        cache_bytes: 64 << 10,
        ..ZoneConfig::default()
    };
    let zone = match LocalZone::open(parts.clone(), config.clone()) {
        Err(Error::NotFound) => {
            LocalZone::create(parts, config, &NewZone { id: [7; 16], hash_seed: 99, mode: 0o755, uid: 0, gid: 0 })?
        }
        other => other?,
    };
    Ok(Arc::new(zone))
}
