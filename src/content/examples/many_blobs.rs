//! Prints what a store with many objects costs in time, requests and memory: `cargo run --release -p
//! nexus-content --example many_blobs [OBJECTS [FOLDER]]`. The metadata is real, in a temporary folder below
//! FOLDER; the store is made up: it lists objects of 8 MiB, 131,072 of them (1 TiB) if nothing else is said,
//! and answers at once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool for measuring, which may stop at any error")]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use nexus_content::{ContentConfig, ReclaimConfig, Reclaimer, SegmentStore, ZoneSet, check};
use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_kernel::command::NewKind;
use nexus_kernel::model::Piece;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};
use nexus_kernel::{
    BlobId, Clock, Command, Error, Ino, ObjectStore, Result, StoreId, SystemClock, Zone, ZoneIndex,
};
use nexus_zone::{LocalZone, LogConfig, NewZone, NodeLog, ZoneConfig, ZoneParts};

const WRITER: u32 = 7;
const OBJECT: u64 = 8 << 20;
/// Objects of one file.
const EACH: u64 = 128;

/// A store that lists objects.
struct Listing {
    objects: u64,
    lists: AtomicU64,
    heads: AtomicU64,
}

fn blob(number: u64) -> BlobId {
    BlobId::in_store(WRITER, StoreId(0), number)
}

impl ObjectStore for Listing {
    fn put<'a>(&'a self, _: BlobId, _: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Err(Error::ReadOnly)))
    }

    fn get<'a>(&'a self, _: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(std::future::ready(Ok(vec![0; (range.end - range.start) as usize].into())))
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(BlobInfo { id, len: OBJECT })))
    }

    fn delete<'a>(&'a self, _: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        // As services do, a thousand at a time.
        self.lists.fetch_add((limit as u64).div_ceil(1000), Ordering::Relaxed);
        let from = if after == BlobId::NONE { 1 } else { after.origin().1 + 1 };
        let to = (self.objects + 1).min(from + limit as u64);
        let page = (from..to).map(|number| Listed { id: blob(number), len: Some(OBJECT) }).collect();
        Box::pin(std::future::ready(Ok(page)))
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Memory of this process that is not in files, now and at the most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (line("RssAnon:") >> 10, line("VmHWM:") >> 10)
}

fn open_zone(folder: &Path, store: &Arc<SegmentStore>) -> Arc<dyn Zone> {
    let disk = Arc::new(RealDisk::new());
    let log = NodeLog::open(disk.clone(), &folder.join("log"), store.clone(), LogConfig::default()).unwrap();
    let options = RedbOptions::default();
    let metastore = Arc::new(RedbMetastore::open_or_create(disk, &folder.join("meta.redb"), options).unwrap());
    let parts = ZoneParts { zone: ZoneIndex(0), log, metastore, clock: Arc::new(SystemClock) };
    match LocalZone::open(parts.clone(), ZoneConfig::default()) {
        Ok(zone) => Arc::new(zone),
        Err(_) => {
            let new = NewZone { id: [1; 16], hash_seed: 12345, mode: 0o755, uid: 0, gid: 0 };
            Arc::new(LocalZone::create(parts, ZoneConfig::default(), &new).unwrap())
        }
    }
}

fn open_store(folder: &Path, objects: &Arc<Listing>) -> Arc<SegmentStore> {
    let config = ContentConfig { writer: WRITER, ..ContentConfig::default() };
    SegmentStore::open(Arc::new(RealDisk::new()), objects.clone(), Arc::new(SystemClock), folder, config).unwrap()
}

/// Files that have all objects between them.
fn fill(zone: &dyn Zone, objects: u64) {
    let now = SystemClock.now();
    for first in (1..=objects).step_by(EACH as usize) {
        let ino = zone.allocate_ino().unwrap();
        let (parent, kind) = (Ino::ROOT, NewKind::Regular);
        let name = format!("file{first}").into_bytes().as_slice().into();
        zone.propose(&Command::Create { parent, name, ino, kind, mode: 0o644, umask: 0, uid: 0, gid: 0, now }).unwrap();
        for number in first..(first + EACH).min(objects + 1) {
            let pieces = [Piece { len: OBJECT, blob: blob(number), blob_offset: 0, crc: 0 }].into_iter().collect();
            let (offset, store) = ((number - first) * OBJECT, StoreId(0));
            zone.propose(&Command::Write { ino, offset, pieces, store, kill_privileges: false, now }).unwrap();
            zone.propose(&Command::SealBlob { blob: blob(number), len: OBJECT }).unwrap();
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(131_072, |text| text.parse().unwrap());
    let folder = match arguments.next() {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let objects = Arc::new(Listing { objects: count, lists: AtomicU64::new(0), heads: AtomicU64::new(0) });
    let part = |name: &str, work: &mut dyn FnMut()| {
        let (lists, heads) = (objects.lists.swap(0, Ordering::Relaxed), objects.heads.swap(0, Ordering::Relaxed));
        drop((lists, heads));
        let started = Instant::now();
        work();
        let took = started.elapsed().as_millis();
        let (lists, heads) = (objects.lists.load(Ordering::Relaxed), objects.heads.load(Ordering::Relaxed));
        let (now, most) = memory();
        println!("{name}: {took} ms, {lists} lists, {heads} heads, {now} MiB, {most} MiB at the most");
    };
    if std::env::var_os("MANY_BLOBS_FILLED").is_none() {
        // In a process of its own, so that what filling takes is not counted.
        part("filling, in another process", &mut || {
            let store = open_store(folder.path(), &objects);
            let zone = open_zone(folder.path(), &store);
            fill(&*zone, count);
            zone.sync().and_then(|()| zone.settle()).unwrap();
        });
        let this = std::env::current_exe().unwrap();
        let mut again = std::process::Command::new(this);
        again.arg(count.to_string()).arg(folder.path()).env("MANY_BLOBS_FILLED", folder.path());
        assert!(again.status().unwrap().success());
        return;
    }
    let folder = std::env::var_os("MANY_BLOBS_FILLED").unwrap();
    let folder = Path::new(&folder);
    println!("{count} objects");
    let (mut store, mut zone) = (None, None);
    part("opening", &mut || {
        let opened = open_store(folder, &objects);
        zone = Some(open_zone(folder, &opened));
        store = Some(opened);
    });
    let (store, zone) = (store.unwrap(), zone.unwrap());
    let zones = vec![zone.clone()];
    part("holding content against metadata", &mut || store.attach(&zones).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let reclaimer = Reclaimer::new(store.clone(), ZoneSet::new(zones.clone()), clock, ReclaimConfig::default());
    part("a collector's pass with nothing to do", &mut || drop(reclaimer.run_once().unwrap()));
    part("gc --dry-run", &mut || drop(reclaimer.survey().unwrap()));
    part("gc", &mut || drop(reclaimer.make_room().unwrap()));
    part("fsck", &mut || drop(check(&*zone, &store, false, &mut |finding| println!("{}", finding.text)).unwrap()));
}
