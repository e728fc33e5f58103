//! What the daemon does for the command line.

use std::sync::Arc;
use std::time::Instant;

use nexus::coding::{Coding, KeyUse, parse_compression};
use nexus::config::{CloudPlace, CredentialsFile};
use nexus::folder::id_text;
use nexus::limits::{LimitsChange, StoreLimits};
use nexus::place::{Garbage, StoreState};
use nexus::residency::{Cursor, Residency};
use nexus::stores::{DEFAULT_STORE, parse_fsync};
use nexus::{Config, Volume};
use nexus_kernel::object_store::Traffic;
use nexus_kernel::{BlobId, NodeId, StoreId};

use super::run::check_outside;
use crate::attach::Attachments;
use crate::control::{
    AttachmentStatus, ContentStatus, Handler, Health, MountStatus, Reply, Request, SpaceStatus, Status,
    StoreLimitsText, StorePlace, StoreStatus, ZoneStatus,
};
use crate::mount::{MountOptions, Mounted, Unmount};
use crate::zones::ZoneMounts;

/// Answers control requests.
pub struct DaemonHandler {
    volume: Arc<Volume>,
    mounted: Arc<Mounted>,
    attachments: Arc<Attachments>,
    zones: Arc<ZoneMounts>,
    config: Config,
    started: Instant,
}

impl DaemonHandler {
    /// A handler for a daemon that starts now.
    pub fn new(
        volume: Arc<Volume>,
        mounted: Arc<Mounted>,
        attachments: Arc<Attachments>,
        zones: Arc<ZoneMounts>,
        config: Config,
    ) -> DaemonHandler {
        DaemonHandler { volume, mounted, attachments, zones, config, started: Instant::now() }
    }

    fn status(&self) -> Status {
        let identity = self.volume.identity();
        let state = self.volume.state();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_sec: self.started.elapsed().as_secs(),
            data: self.volume.path().to_owned(),
            volume: id_text(&identity.id),
            metastore: identity.drivers.metastore.to_string(),
            object_store: identity.drivers.object_store.to_string(),
            health: Health { ok: state.problems.is_empty(), problems: state.problems },
            mounts: vec![MountStatus {
                target: self.mounted.target().to_owned(),
                source: self.mounted.source().to_owned(),
                options: self.config.options.clone(),
                read_only: self.volume.fs().is_read_only(),
                transport: self.mounted.transport().to_string(),
                transport_note: self.mounted.why_not_ring().map(str::to_owned),
            }],
            attachments: self.attachments(),
            zones: state
                .zones
                .iter()
                .map(|zone| ZoneStatus {
                    index: zone.index.0,
                    id: id_text(&zone.info.id),
                    inodes: zone.usage.inodes,
                    content_bytes: zone.usage.allocated,
                    log_last: zone.stats.last.0,
                    log_durable: zone.stats.durable.0,
                    log_checkpoint: zone.stats.checkpoint.0,
                    log_bytes: zone.stats.log_bytes,
                    pending_bytes: zone.stats.pending_bytes,
                    metastore_bytes: zone.stats.metastore_bytes,
                })
                .collect(),
            elsewhere: self.zones.elsewhere(),
            content: ContentStatus {
                segments: state.content.segments,
                segment_bytes: state.content.segment_bytes,
                blobs: state.content.blobs,
                blob_bytes: state.content.blob_bytes,
                live_bytes: state.content.live_bytes,
            },
            store: self.store(),
            stores: self.stores(),
            space: SpaceStatus { total_bytes: state.space.total, available_bytes: state.space.available },
            memory_limit_bytes: self.config.memory,
            memory_used_bytes: memory_used(),
            services: self.volume.services().list(),
        }
    }

    fn attachments(&self) -> Vec<AttachmentStatus> {
        let told = |found: crate::attach::Listed| AttachmentStatus {
            store: requests(&found.target.to_string_lossy(), &found.spec.url, found.spec.limits.into(), &found.traffic),
            target: found.target,
            url: found.spec.url,
            read_only: found.spec.read_only,
            mounted: found.is_served,
            limits: found.spec.limits,
        };
        self.attachments.list().into_iter().map(told).collect()
    }

    fn store(&self) -> Option<StoreStatus> {
        let place = self.volume.identity().cloud.as_ref()?;
        let traffic = self.volume.traffic().unwrap_or_default();
        let limits = self.volume.limits(StoreId(0));
        Some(store_status(DEFAULT_STORE, place, limits, self.volume.waiting_bytes(), &traffic))
    }

    fn stores(&self) -> Vec<StoreStatus> {
        let stores = self.volume.stores();
        let status = |state: &StoreState| {
            store_status(&state.store.name, &state.store.place, state.limits, state.waiting_bytes, &state.traffic)
        };
        stores.iter().map(status).collect()
    }

    fn add_store(&self, name: &str, place: StorePlace, fsync: &str, limits: &StoreLimitsText) -> Result<Reply, String> {
        let key = place.key.map(|source| Ok::<_, String>(KeyUse { source: source.parse()?, mark: String::new() }));
        let compression = place.compression.as_deref().map_or(Ok(Default::default()), parse_compression)?;
        let coding = Coding { compression, key: key.transpose()? };
        let credentials = place.credentials.map(|file| CredentialsFile { file, profile: place.profile });
        let (url, endpoint, region) = (place.url.parse()?, place.endpoint, place.region);
        let place = CloudPlace { coding, url, endpoint, region, credentials };
        let limits = limits_change(limits)?.over(StoreLimits::default());
        if let Some(folder) = place.url.folder() {
            let real = nexus::folders::real(folder).map_err(|error| error.to_string())?;
            check_outside(&[real], None).map_err(|problem| problem.to_string())?;
        }
        self.volume.add_store(name, place, parse_fsync(fsync)?, limits).map(|()| Reply::Done).map_err(|e| e.to_string())
    }

    fn nodes(&self, inodes: &[u64]) -> Vec<NodeId> {
        inodes.iter().map(|ino| self.mounted.node(*ino)).collect()
    }

    fn place(&self, inodes: &[u64], store: Option<&str>, fsync: Option<&str>) -> Result<Reply, String> {
        let fsync = fsync.map(parse_fsync).transpose()?;
        let changed = self.volume.place(&self.nodes(inodes), store, fsync).map_err(|error| error.to_string())?;
        Ok(Reply::Placed { changed })
    }

    /// Takes away what is mounted in the mount.
    fn suspend(&self, how: Unmount) -> Result<(), String> {
        self.attachments.suspend(how)?;
        self.zones.suspend(how).inspect_err(|_| self.attachments.resume())
    }

    fn resume(&self) {
        self.zones.resume();
        self.attachments.resume();
    }

    fn remount(&self, options: &str) -> Result<Reply, String> {
        let options = MountOptions::parse(options).map_err(|error| error.to_string())?;
        if let Some(read_only) = options.read_only {
            self.volume.fs().set_read_only(read_only).map_err(|error| error.to_string())?;
        }
        if let Some(policy) = options.atime {
            self.volume.fs().set_atime_policy(policy);
        }
        if let Some(consistency) = options.consistency {
            self.volume.fs().set_consistency(consistency);
        }
        if let Some(timeout) = options.zone_timeout {
            self.volume.set_zone_timeout(timeout);
        }
        if let Some(read_only) = options.zone_read_only {
            self.volume.fs().set_no_majority_read_only(read_only);
        }
        self.volume.set_room_policy(options.room_policy(self.volume.room_policy()));
        Ok(Reply::Done)
    }
}

impl Handler for DaemonHandler {
    fn handle(&self, request: Request) -> Result<Reply, String> {
        log::debug!("asked for {request:?}");
        let text = |error: nexus::Error| error.to_string();
        match request {
            Request::Status => Ok(Reply::Status(Box::new(self.status()))),
            Request::Sync => self.volume.sync().map(|()| Reply::Done).map_err(text),
            Request::Checkpoint => self.volume.checkpoint().map(|()| Reply::Done).map_err(text),
            Request::Gc => self.volume.reclaim().map(|bytes| Reply::Reclaimed { bytes }).map_err(text),
            Request::Garbage => {
                let Garbage { dead, dead_bytes, sparse, sparse_bytes, unknown } =
                    self.volume.garbage().map_err(text)?;
                Ok(Reply::Garbage { dead, dead_bytes, sparse, sparse_bytes, unknown })
            }
            Request::Scrub { after } => {
                let done = self.volume.scrub(BlobId(after)).map_err(text)?;
                let (after, damage) = (done.after.map(|id| id.0), done.damage);
                Ok(Reply::Scrubbed { after, blobs: done.blobs, bytes: done.bytes, left_bytes: done.left_bytes, damage })
            }
            Request::Flush { mark } => {
                let flushed = self.volume.flush(mark).map_err(text)?;
                Ok(Reply::Flushed { left_bytes: flushed.left_bytes, mark: flushed.mark })
            }
            Request::FlushFiles { inodes, mark, send } => {
                let flushed = self.volume.flush_files(&self.nodes(&inodes), mark, send).map_err(text)?;
                Ok(Reply::Flushed { left_bytes: flushed.left_bytes, mark: flushed.mark })
            }
            Request::Check { deep } => {
                let report = self.volume.check(deep).map_err(text)?;
                Ok(Reply::Findings { findings: report.findings, checked: report.checked })
            }
            Request::StoreAdd { name, place, fsync, limits } => self.add_store(&name, place, &fsync, &limits),
            Request::StoreSet { name, limits } => {
                self.volume.set_limits(&name, limits_change(&limits)?).map(|_| Reply::Done).map_err(text)
            }
            Request::StoreRemove { name } => {
                let note = self.volume.remove_store(&name).map_err(text)?;
                Ok(note.map_or(Reply::Done, |text| Reply::Text { text }))
            }
            Request::Place { inodes, store, fsync } => self.place(&inodes, store.as_deref(), fsync.as_deref()),
            Request::Placement { inode } => {
                let (store, fsync) = self.volume.placement(self.mounted.node(inode)).map_err(text)?;
                Ok(Reply::Placement { store, fsync: fsync.to_owned() })
            }
            Request::Residency { inodes } => {
                let Residency { bytes, cached, only_here } =
                    self.volume.residency(&self.nodes(&inodes)).map_err(text)?;
                Ok(Reply::Residency { bytes, cached, only_here, limit: self.volume.cache_limit() })
            }
            Request::Warm { inodes, file, offset } => {
                let from = Cursor { file, offset };
                let (bytes, next) = self.volume.warm(&self.nodes(&inodes), from).map_err(text)?;
                Ok(Reply::Warmed { bytes, next: next.map(|cursor| (cursor.file, cursor.offset)) })
            }
            Request::Evict { inodes } => {
                let bytes = self.volume.evict(&self.nodes(&inodes)).map_err(text)?;
                Ok(Reply::Evicted { bytes })
            }
            Request::Migrate { inodes, store } => {
                let migrated = self.volume.migrate(&self.nodes(&inodes), &store).map_err(text)?;
                Ok(Reply::Migrated { bytes: migrated.bytes, more: migrated.more })
            }
            Request::Attach { target, spec } => self.attachments.attach(&target, spec).map(|()| Reply::Done),
            Request::AttachmentSet { target, limits } => {
                let limits = self.attachments.set_limits(&target, limits_change(&limits)?)?;
                Ok(Reply::Limits { limits })
            }
            Request::Detach { target } => self.attachments.detach(&target).map(|()| Reply::Done),
            Request::Suspend { lazy } => {
                let how = if lazy { Unmount::Lazy } else { Unmount::WhenIdle };
                self.suspend(how).map(|()| Reply::Done)
            }
            Request::Resume => {
                self.resume();
                Ok(Reply::Done)
            }
            Request::Zone { ask } => self.zones.handle(ask, |inode| self.mounted.node(inode)),
            Request::Remount { options } => self.remount(&options),
            Request::Unmount => {
                self.suspend(Unmount::WhenIdle)?;
                self.mounted.unmount(Unmount::WhenIdle).map(|()| Reply::Done).map_err(|error| {
                    self.resume();
                    error.to_string()
                })
            }
        }
    }
}

fn limits_change(text: &StoreLimitsText) -> Result<LimitsChange, String> {
    Ok(LimitsChange {
        max_requests: text.max_requests.as_deref().map(str::parse).transpose()?,
        upload: text.upload.as_deref().map(str::parse).transpose()?,
        download: text.download.as_deref().map(str::parse).transpose()?,
    })
}

fn store_status(
    name: &str,
    place: &CloudPlace,
    limits: StoreLimits,
    waiting_bytes: u64,
    traffic: &Traffic,
) -> StoreStatus {
    StoreStatus {
        volatile: place.url.is_volatile(),
        waiting_bytes,
        ..requests(name, &place.url.to_string(), limits, traffic)
    }
}

/// What a store or an attached bucket was asked for.
fn requests(name: &str, url: &str, limits: StoreLimits, traffic: &Traffic) -> StoreStatus {
    StoreStatus {
        name: name.to_owned(),
        url: url.to_owned(),
        volatile: false,
        max_requests: limits.max_requests,
        upload_limit: limits.upload,
        download_limit: limits.download,
        waiting_bytes: 0,
        cached_bytes: traffic.cached_bytes,
        puts: traffic.puts,
        gets: traffic.gets,
        heads: traffic.heads,
        lists: traffic.lists,
        deletes: traffic.deletes,
        failures: traffic.failures,
        failed_tries: traffic.failed_tries,
        throttled: traffic.throttled,
        throttled_ms: traffic.throttled_ms,
        cache_hits: traffic.cache_hits,
        cache_hit_bytes: traffic.cache_hit_bytes,
        cache_misses: traffic.cache_misses,
        cache_miss_bytes: traffic.cache_miss_bytes,
        bytes_up: traffic.bytes_up,
        bytes_down: traffic.bytes_down,
    }
}

/// Resident memory of this process in bytes; 0 if the system does not tell.
fn memory_used() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok()));
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_memory() {
        assert!(super::memory_used() > 1 << 20);
    }
}
