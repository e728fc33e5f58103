//! Opens and closes a volume: puts the drivers, the zone, the content store and the
//! syscalls together in the order that they need each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus_content::{ContentConfig, ReclaimConfig, ReclaimHandle, Reclaimer, RepairPlan, SegmentStore, ZoneSet};
use nexus_drivers::disk::RealDisk;
use nexus_drivers::object_store::{Limiter, LocalDiskStore, MemoryStore, TransferMemory};
use nexus_kernel::disk::{Disk, DiskSpace};
use nexus_kernel::fs::FsOptions;
use nexus_kernel::metastore::{Durability, WriteBatch};
use nexus_kernel::model::{FsyncLevel, Usage, ZoneInfo};
use nexus_kernel::zone::ZoneStats;
use nexus_kernel::{Clock, ContentStore, Metastore, NexusFs, ObjectStore, StoreId, SystemClock, Zone, ZoneIndex};
use nexus_services::{Context, ServiceRegistry, UsageLog};
use nexus_zone::node::{SharedContent, ZoneNode};
use nexus_zone::raft::Patience;
use nexus_zone::{Access, LocalZone, LogConfig, NodeLog, ZoneConfig, ZoneParts};
use parking_lot::Mutex;

use crate::config::{Config, ObjectStoreKind};
use crate::error::{Error, Result};
use crate::folder::{DataFolder, Identity, Layout};
use crate::limits::SharedLimiter;
use crate::memory::MemoryPlan;
use crate::root_zone;
use crate::stores::StoreList;
use crate::zones::{self, NodeMakings, Watch};

/// Findings that a check tells one by one.
pub const MAX_FINDINGS: usize = 10_000;
/// Passes of the collector that one `reclaim` makes at the most.
const RECLAIM_PASSES: usize = 10_000;
/// Bytes that one step of a flush sends, about: enough that two segments are under way in it.
const FLUSH_BYTES: u64 = 128 << 20;
/// How often the usage log looks.
const USAGE_INTERVAL: Duration = Duration::from_secs(600);

/// An open volume.
pub struct Volume {
    pub(crate) config: Config,
    pub(crate) stores: Mutex<StoreList>,
    pub(crate) limiters: Mutex<BTreeMap<StoreId, SharedLimiter>>,
    pub(crate) transfers: Arc<TransferMemory>,
    away: Vec<String>,
    services: ServiceRegistry,
    collector: Mutex<Option<ReclaimHandle>>,
    pub(crate) fs: Arc<NexusFs>,
    pub(crate) root: Arc<LocalZone>,
    pub(crate) node: Mutex<Option<Arc<ZoneNode>>>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) patience: Arc<Patience>,
    pub(crate) shared: Arc<SharedContent>,
    /// Held while a directory becomes a zone.
    pub(crate) sharing: Mutex<()>,
    pub(crate) log: Arc<NodeLog>,
    pub(crate) content: Arc<SegmentStore>,
    pub(crate) zones: ZoneSet,
    pub(crate) clock: Arc<dyn Clock>,
    // Last, so that the lock is let go of when all files are closed.
    pub(crate) folder: DataFolder,
}

/// How a volume is.
#[derive(Clone, Debug, Default)]
pub struct VolumeState {
    /// Its zones.
    pub zones: Vec<ZoneState>,
    /// Its content.
    pub content: ContentState,
    /// The disk below.
    pub space: DiskSpace,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// How a zone is.
#[derive(Clone, Debug)]
pub struct ZoneState {
    /// Its place in the mount table.
    pub index: ZoneIndex,
    /// What never changes.
    pub info: ZoneInfo,
    /// What it holds.
    pub usage: Usage,
    /// Its log and metastore.
    pub stats: ZoneStats,
}

/// What content takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentState {
    /// Segments that are not sealed yet.
    pub segments: u64,
    /// Bytes that they take.
    pub segment_bytes: u64,
    /// Sealed blobs.
    pub blobs: u64,
    /// Bytes in them.
    pub blob_bytes: u64,
    /// Bytes of both that files refer to.
    pub live_bytes: u64,
}

/// How far a flush has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flushed {
    /// Bytes that were written before the flush began and are still only on this disk.
    pub left_bytes: u64,
    /// What tells them from what was written since.
    pub mark: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// A line for each finding, beginning with `damage:` or `note:`.
    pub findings: Vec<String>,
    /// What was looked at.
    pub checked: String,
}

/// What a volume is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Serve,
    Check,
    /// To plan a repair (`Check`), or to make one: the log is drained, and nobody is served.
    Repair,
}

/// What is called with a plan before it is carried out.
pub(crate) type BeforeRepair<'a> = dyn FnMut(&RepairPlan) -> Result<()> + 'a;

/// What every purpose needs of a volume, with its zone recovered.
struct Parts {
    clock: Arc<dyn Clock>,
    content: Arc<SegmentStore>,
    stores: StoreList,
    limiters: BTreeMap<StoreId, SharedLimiter>,
    transfers: Arc<TransferMemory>,
    away: Vec<String>,
    metastore: Arc<dyn Metastore>,
    log: Arc<NodeLog>,
    root: Arc<LocalZone>,
}

impl Volume {
    /// Opens the volume in `folder`, making what is missing if it is a new one.
    pub fn open(folder: DataFolder, config: &Config, options: FsOptions) -> Result<Volume> {
        Self::open_as(folder, config, options, Purpose::Serve)
    }

    /// Opens the volume in `folder` for looking only. What the log is ahead of the metastore
    /// is seen, but written nowhere.
    pub fn open_to_check(folder: DataFolder, config: &Config) -> Result<Volume> {
        let options = FsOptions { read_only: true, ..FsOptions::default() };
        Self::open_as(folder, config, options, Purpose::Check)
    }

    /// What is to be repaired in the volume in `folder`; `apply` is called before the changes are
    /// made, and may refuse. `None` only looks.
    pub(crate) fn repair(
        folder: &DataFolder,
        config: &Config,
        apply: Option<&mut BeforeRepair<'_>>,
    ) -> Result<RepairPlan> {
        let purpose = if apply.is_some() { Purpose::Repair } else { Purpose::Check };
        let parts = Self::open_parts(folder, config, purpose)?;
        let failed = |error| Error::kernel(folder.path(), format!("repair {}", folder.path().display()), error);
        if apply.is_some() {
            parts.root.checkpoint().map_err(failed)?;
        }
        let plan = nexus_content::plan_repair(&*parts.root, &parts.content).map_err(failed)?;
        let Some(apply) = apply else { return Ok(plan) };
        parts.root.close().map_err(failed)?;
        parts.log.close().map_err(failed)?;
        if !plan.writes.is_empty() {
            apply(&plan)?;
            let batch = WriteBatch { expect: Vec::new(), writes: plan.writes.clone() };
            parts.metastore.commit(&batch, Durability::Durable).map_err(failed)?;
        }
        Ok(plan)
    }

    fn open_parts(folder: &DataFolder, config: &Config, purpose: Purpose) -> Result<Parts> {
        let path = folder.path().to_owned();
        let layout = Layout::of(&path);
        let drivers = folder.identity().drivers;
        if folder.identity().is_throwaway() {
            root_zone::clear(&layout)?;
        }
        let failed = |what: &'static str| {
            let path = path.clone();
            move |error| Error::kernel(&path, format!("{what} in {}", path.display()), error)
        };
        let plan = MemoryPlan::divide(config.memory, config.cache);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        if drivers.object_store != ObjectStoreKind::Cloud {
            crate::cloud::check_local(config)?;
        }
        let transfers = TransferMemory::new(plan.content);
        let share = |limiter| crate::cloud::Share { limiter, memory: transfers.share() };
        let mut stores = StoreList::load(&path)?;
        let (mut limiters, mut away) = (BTreeMap::new(), Vec::new());
        let blobs: Arc<dyn ObjectStore> = match drivers.object_store {
            ObjectStoreKind::Local => {
                Arc::new(LocalDiskStore::open(disk.clone(), &layout.blobs).map_err(failed("open the object store"))?)
            }
            ObjectStoreKind::Memory => Arc::new(MemoryStore::new()),
            ObjectStoreKind::Cloud => {
                let access = match purpose {
                    Purpose::Serve => crate::cloud::Access::Change { new: !folder.is_finished() },
                    Purpose::Check | Purpose::Repair => crate::cloud::Access::Look,
                };
                let limits = config.store_limits.over(stores.default_limits());
                if purpose == Purpose::Serve {
                    stores.set_limits(StoreId(0), limits)?;
                }
                let limiter = Limiter::new(limits);
                limiters.insert(StoreId(0), limiter.clone());
                let opened = crate::cloud::open(folder, config, &layout, access, share(limiter))?;
                away.extend(opened.away);
                opened.objects
            }
        };
        let far = drivers.object_store == ObjectStoreKind::Cloud;
        let content_config = if far { crate::cloud::content_config() } else { ContentConfig::default() };
        let content_config = ContentConfig {
            writer: folder.identity().writer,
            fsync_uploads: config.store_fsync != FsyncLevel::Local,
            ..content_config
        };
        let content = SegmentStore::open(disk.clone(), blobs, clock.clone(), &path, content_config)
            .map_err(failed("open the content store"))?;
        for store in stores.stores() {
            let access = match purpose {
                Purpose::Serve => crate::cloud::Access::Change { new: false },
                Purpose::Check | Purpose::Repair => crate::cloud::Access::Look,
            };
            let limiter = Limiter::new(store.limits);
            limiters.insert(store.id, limiter.clone());
            let place = (store.id, &store.place);
            let opened = crate::cloud::open_place(folder, config, place, &layout, access, share(limiter))?;
            away.extend(opened.away);
            content
                .mount_store(store.id, opened.objects, crate::cloud::shape(store.fsync, &store.place))
                .map_err(failed("mount a store"))?;
        }
        let metastore = root_zone::open_metastore(folder, &layout, &disk, &plan)?;
        let log =
            NodeLog::open(disk, &layout.log, content.clone(), LogConfig::default()).map_err(failed("open the log"))?;
        let zone_config = ZoneConfig {
            access: match purpose {
                Purpose::Serve | Purpose::Repair => Access::ReadWrite,
                Purpose::Check => Access::ReadOnly,
            },
            memtable_bytes: plan.pending / 3,
            cache_bytes: plan.inode_cache,
            ..ZoneConfig::default()
        };
        let zone = ZoneIndex(0);
        let parts = ZoneParts { zone, log: log.clone(), metastore: metastore.clone(), clock: clock.clone() };
        let root = Arc::new(root_zone::open_zone(folder, parts, zone_config)?);
        Ok(Parts { clock, content, stores, limiters, transfers, away, metastore, log, root })
    }

    fn open_as(mut folder: DataFolder, config: &Config, options: FsOptions, purpose: Purpose) -> Result<Volume> {
        let path = folder.path().to_owned();
        let failed = |what: &'static str| {
            let path = path.clone();
            move |error| Error::kernel(&path, format!("{what} in {}", path.display()), error)
        };
        let far = folder.identity().drivers.object_store == ObjectStoreKind::Cloud;
        let Parts { clock, content, stores, limiters, transfers, away, log, root, .. } =
            Self::open_parts(&folder, config, purpose)?;
        let mut zones: Vec<Arc<dyn Zone>> = vec![root.clone()];
        let writer = folder.identity().writer;
        let (shared, watch) = (SharedContent::new(content.clone(), writer), Arc::<Watch>::default());
        let patience = Arc::<Patience>::default();
        let mut joined = Vec::new();
        let node = match purpose {
            Purpose::Serve if zones::has_zones(&path) => {
                let makings = NodeMakings {
                    log: log.clone(),
                    content: content.clone(),
                    shared: shared.clone(),
                    writer,
                    memory: config.memory,
                    name: config.node_name(),
                    watch: watch.clone(),
                    clock: clock.clone(),
                    patience: patience.clone(),
                };
                let node = zones::make_node(&path, &makings).map_err(failed("take part in zones"))?;
                joined = node.open();
                Some(node)
            }
            _ => None,
        };
        // A witness has no files to show, nor content to keep.
        let joined: Vec<_> = joined.into_iter().filter(|joined| !joined.is_witness()).collect();
        zones.extend(joined.iter().map(|joined| joined.zone().clone() as Arc<dyn Zone>));
        let zones = ZoneSet::new(zones);
        let closed = node.as_ref().map(|node| node.closed()).unwrap_or_default();
        zones::hold_closed(&zones, &closed);
        content.attach_held(&zones).map_err(failed("attach the content store"))?;
        let fs = NexusFs::with_zone(root.clone(), shared.clone(), options).map_err(failed("start the file system"))?;
        let fs = Arc::new(fs);
        fs.router().set_closed(closed.iter().map(|zone| zone.id.map(|id| id.0)).collect());
        watch.of(&fs);
        if purpose == Purpose::Serve
            && !fs.is_read_only()
            && let Err(error) = fs.empty_detached(ZoneIndex(0))
        {
            log::warn!("what a zone was put in place of is not removed yet: {error}");
        }
        let collector = Reclaimer::new(content.clone(), zones.clone(), clock.clone(), reclaim_config(far));
        let (collector, weak) = (collector.reading(shared.clone()), Arc::downgrade(&fs));
        watch.adopt_with(Arc::new(move |index, writer| {
            let fs = weak.upgrade().ok_or(nexus_kernel::Error::Stale)?;
            collector.adopt(&fs.router().zone(index)?, writer).map(drop)
        }));
        for joined in &joined {
            fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed("attach a zone"))?;
        }
        if purpose == Purpose::Serve && !folder.is_finished() {
            root.checkpoint().map_err(failed("write the new volume"))?;
            folder.finish()?;
        }
        let collector = match purpose {
            Purpose::Serve => Some(
                Reclaimer::new(content.clone(), zones.clone(), clock.clone(), reclaim_config(far))
                    .spawn()
                    .map_err(failed("start the collector"))?,
            ),
            Purpose::Check | Purpose::Repair => None,
        };
        let services = ServiceRegistry::new(Context { router: fs.router().clone() });
        if purpose == Purpose::Serve {
            services.load(Arc::new(UsageLog::new(USAGE_INTERVAL))).map_err(failed("start the usage log"))?;
        }
        Ok(Volume {
            config: config.clone(),
            stores: Mutex::new(stores),
            limiters: Mutex::new(limiters),
            transfers,
            away,
            services,
            collector: Mutex::new(collector),
            fs,
            node: Mutex::new(node),
            watch,
            patience,
            shared,
            sharing: Mutex::new(()),
            root,
            log,
            content,
            zones,
            clock,
            folder,
        })
    }

    /// The syscalls.
    pub fn fs(&self) -> &Arc<NexusFs> {
        &self.fs
    }

    /// The services that run beside it.
    pub fn services(&self) -> &ServiceRegistry {
        &self.services
    }

    /// The data folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Who this volume is.
    pub fn identity(&self) -> &Identity {
        self.folder.identity()
    }

    /// What is to be told of stores that did not answer when the volume was opened, a sentence each.
    pub fn away(&self) -> &[String] {
        &self.away
    }

    /// Tells others where the volume is mounted.
    pub fn note_mounts(&self, mounts: &[PathBuf]) -> Result<()> {
        self.folder.note_mounts(mounts)
    }

    /// How it is, without waiting for anything slow.
    pub fn state(&self) -> VolumeState {
        let mut state = VolumeState::default();
        for (index, zone) in self.fs.router().zones() {
            match zone.usage().and_then(|usage| Ok((usage, zone.stats()?))) {
                Ok((usage, stats)) => state.zones.push(ZoneState { index, info: zone.info(), usage, stats }),
                Err(error) => state.problems.push(format!("zone {index}: {error}")),
            }
            if let Err(error) = zones::count_content(&*zone, &mut state.content) {
                state.problems.push(format!("content of zone {index}: {error}"));
            }
        }
        state.problems.extend(self.closed_problems());
        state.problems.extend(self.missing_problem());
        if let Err(error) = self.log.check() {
            state.problems.push(format!("log: {error}"));
        }
        match self.content.space() {
            Ok(space) => state.space = space,
            Err(error) => state.problems.push(format!("content: {error}")),
        }
        if self.content.check_space(1).is_err() {
            state.problems.push("the disk below is full, so writes are refused until there is space".to_owned());
        }
        state
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        self.root.sync().map_err(|error| self.failed("sync", error))
    }

    /// Writes the newest state into the metastore.
    pub fn checkpoint(&self) -> Result<()> {
        self.root.checkpoint().map_err(|error| self.failed("checkpoint", error))
    }

    /// Frees what nobody uses any more, now; answers how many bytes of the disk that gave back.
    pub fn reclaim(&self) -> Result<u64> {
        self.fs.reap_now().map_err(|error| self.failed("reap", error))?;
        self.checkpoint()?;
        let far = self.identity().drivers.object_store == ObjectStoreKind::Cloud;
        let config = ReclaimConfig { drop_grace_ms: 0, idle_seal_ms: 0, ..reclaim_config(far) };
        let collector = self.collector(config);
        let mut freed = 0u64;
        for _ in 0..RECLAIM_PASSES {
            let progress = collector.make_room().map_err(|error| self.failed("collect", error))?;
            freed = freed.saturating_add(progress.freed_bytes);
            if !progress.more {
                break;
            }
        }
        Ok(freed)
    }

    /// Has a part of what is only on this disk sealed, which for a store in the cloud means to
    /// send it there. To be called until nothing is left of what there was at first: with no
    /// `mark`, then with the one of the first answer.
    pub fn flush(&self, mark: Option<u64>) -> Result<Flushed> {
        let newest = mark.unwrap_or_else(|| self.content.newest_segment());
        self.sync()?;
        let config =
            ReclaimConfig { idle_seal_ms: 0, idle_seal_bytes: 1, pass_bytes: FLUSH_BYTES, ..ReclaimConfig::default() };
        let collector = self.collector(config);
        collector.seal_once().map_err(|error| self.failed("flush", error))?;
        Ok(Flushed { left_bytes: self.content.unsealed_bytes(newest), mark: newest })
    }

    /// Ends the services and the collector, takes no more changes, and leaves the metastore up to date, so
    /// that the next start has nothing to recover.
    pub fn close(&self) -> Result<()> {
        self.services.unload_all();
        // Whoever waits for other nodes, which may be gone, is to wait no longer.
        if let Some(node) = self.node_if_any() {
            node.stop_waiting();
        }
        if let Some(collector) = self.collector.lock().take() {
            collector.stop();
        }
        if !self.fs.is_read_only()
            && let Err(error) = self.fs.reap_now()
        {
            log::warn!("what was deleted but still in use is freed at the next start: {error}");
        }
        self.fs.set_read_only(true).map_err(|error| self.failed("close", error))?;
        if let Some(node) = self.node.lock().take() {
            node.close().map_err(|error| self.failed("close the zones of", error))?;
        }
        self.root.close().map_err(|error| self.failed("close the root zone of", error))?;
        self.log.close().map_err(|error| self.failed("close the log of", error))
    }

    /// A collector beside the one that runs by itself.
    pub(crate) fn collector(&self, config: ReclaimConfig) -> Reclaimer {
        Reclaimer::new(self.content.clone(), self.zones.clone(), self.clock.clone(), config)
    }

    pub(crate) fn failed(&self, what: &str, error: nexus_kernel::Error) -> Error {
        Error::kernel(self.path(), format!("{what} {}", self.path().display()), error)
    }
}

fn reclaim_config(far: bool) -> ReclaimConfig {
    if far { crate::cloud::reclaim_config() } else { ReclaimConfig::default() }
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
