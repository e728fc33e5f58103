//! Many callers at once: drains in the way, exact caches, and the zone's own threads.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::metastore::{Durability, MetaSnapshot, MetastoreStats, Visitor, WriteBatch};
use nexus_kernel::{Error, Name};

use super::*;
use crate::testing::Gate;

/// A metastore whose commits wait at a gate.
#[derive(Default)]
struct Gated {
    store: MemoryMetastore,
    gate: Gate,
}

impl Metastore for Gated {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        self.store.snapshot()
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        self.gate.pass();
        self.store.commit(batch, durability)
    }

    fn stats(&self) -> Result<MetastoreStats> {
        self.store.stats()
    }
}

#[test]
fn reads_and_writes_go_on_during_a_drain() {
    let disk = SimDisk::new();
    let metastore = Arc::new(Gated::default());
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let zone = LocalZone::create(parts(log, metastore.clone()), zone_config(), &NEW).unwrap();
    for ino in 2..50 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    metastore.gate.shut();
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| zone.checkpoint());
        metastore.gate.await_visitor();
        // The drain is at the gate; nobody else waits for it.
        for ino in 50..90 {
            zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
        }
        zone.propose(&Command::Unlink {
            parent: Ino::ROOT,
            name: name("file 7"),
            keep: false,
            now: Timestamp::default(),
        })
        .unwrap();
        zone.sync().unwrap();
        for ino in 2..90 {
            assert_eq!(zone.inode(Ino(ino)).unwrap().is_some(), ino != 7);
            let found = zone.lookup(Ino::ROOT, Name::new(format!("file {ino}").as_bytes()).unwrap()).unwrap();
            assert_eq!(found.map(|(_, dentry)| dentry.ino), (ino != 7).then_some(Ino(ino)));
        }
        let before = zone.digest().unwrap();
        metastore.gate.open();
        drain.join().unwrap().unwrap();
        assert_eq!(zone.digest().unwrap(), before, "a drain changed the state");
    });
    let digest = zone.digest().unwrap();
    zone.checkpoint().unwrap();
    assert_eq!(zone.digest().unwrap(), digest);
    assert_eq!(crate::digest(&*metastore.snapshot().unwrap()).unwrap(), digest);
}

/// A metastore that loses its older states at each commit, as one does that had to open its
/// file anew, and waits at a gate after that.
#[derive(Default)]
struct Forgetful {
    store: MemoryMetastore,
    commits: Arc<AtomicU64>,
    gate: Gate,
}

struct Forgotten {
    state: Arc<dyn MetaSnapshot>,
    commit: u64,
    commits: Arc<AtomicU64>,
}

impl Forgotten {
    fn is_lost(&self) -> bool {
        self.commits.load(Ordering::SeqCst) != self.commit
    }

    /// Shows two pairs of a lost state, then fails.
    fn scan(&self, scan: &dyn Fn(&mut Visitor<'_>) -> Result<()>, visit: &mut Visitor<'_>) -> Result<()> {
        if !self.is_lost() {
            return scan(visit);
        }
        let mut left = 2;
        scan(&mut |key, value| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            visit(key, value)
        })?;
        Err(Error::Unavailable("the state was lost".into()))
    }
}

impl MetaRead for Forgotten {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>> {
        if self.is_lost() { Err(Error::Unavailable("the state was lost".into())) } else { self.state.get(table, key) }
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        self.scan(&|visit| self.state.scan(table, start, end, visit), visit)
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        self.scan(&|visit| self.state.scan_back(table, start, end, visit), visit)
    }
}

impl Metastore for Forgetful {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        let commit = self.commits.load(Ordering::SeqCst);
        Ok(Arc::new(Forgotten { state: self.store.snapshot()?, commit, commits: self.commits.clone() }))
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        self.store.commit(batch, durability)?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.gate.pass();
        Ok(())
    }

    fn stats(&self) -> Result<MetastoreStats> {
        self.store.stats()
    }
}

/// Between a drain's commit and the zone's next base, the base may be lost.
#[test]
fn reads_go_on_when_a_drain_costs_the_metastore_its_older_states() {
    let disk = SimDisk::new();
    let metastore = Arc::new(Forgetful::default());
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let config = ZoneConfig { cache_bytes: 0, ..zone_config() };
    let zone = LocalZone::create(parts(log, metastore.clone()), config, &NEW).unwrap();
    for ino in 2..20 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    zone.checkpoint().unwrap();
    for ino in 20..40 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    zone.propose(&Command::Unlink { parent: Ino::ROOT, name: name("file 7"), keep: false, now: Timestamp::default() })
        .unwrap();
    let backwards = || {
        let mut seen = Vec::new();
        let read = zone.read(&mut |state| {
            state.scan_back(Table::Inode, &[], &[0xff; 9], &mut |key, _| {
                seen.push(key.to_vec());
                ControlFlow::Continue(())
            })
        });
        read.map(|()| seen)
    };
    let (before, listed) = (zone.digest().unwrap(), backwards().unwrap());
    metastore.gate.shut();
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| zone.checkpoint());
        metastore.gate.await_visitor();
        let digest = zone.digest();
        let found: Vec<_> = (2..40).map(|ino| zone.inode(Ino(ino))).collect();
        let again = backwards();
        metastore.gate.open();
        drain.join().unwrap().unwrap();
        assert_eq!(digest.unwrap(), before);
        assert_eq!(again.unwrap(), listed);
        for (ino, found) in (2..40).zip(found) {
            assert_eq!(found.unwrap().is_some(), ino != 7, "inode {ino}");
        }
    });
    assert_eq!(zone.digest().unwrap(), before);
}

/// A metastore that does not come on holds writers up before memory is full, and no longer.
#[test]
fn writers_wait_for_a_slow_drain() {
    const LIMIT: u64 = 20_000;
    let disk = SimDisk::new();
    let metastore = Arc::new(Gated::default());
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let config = ZoneConfig { background: Background::Thread, memtable_bytes: LIMIT, ..ZoneConfig::default() };
    let zone = LocalZone::create(parts(log, metastore.clone()), config, &NEW).unwrap();
    metastore.gate.shut();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for ino in 2..1000 {
                zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
                let pending = zone.stats().unwrap().pending_bytes;
                assert!(pending < 3 * LIMIT + 2000, "{pending} bytes wait");
            }
        });
        while zone.stats().unwrap().pending_bytes < 3 * LIMIT && !writer.is_finished() {
            std::thread::yield_now();
        }
        assert!(!writer.is_finished(), "nothing held the writer up");
        assert!(zone.inode(Ino(2)).unwrap().is_some());
        metastore.gate.open();
        writer.join().unwrap();
    });
    assert!(zone.inode(Ino(999)).unwrap().is_some());
}

/// A writer grows a file step by step; readers must never see it shrink, by whatever way they
/// look, though the caches are tiny and drains run all the time.
#[test]
fn readers_never_see_an_older_state_than_before() {
    let disk = SimDisk::new();
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let config = ZoneConfig { cache_bytes: 0, memtable_bytes: 4_000, ..zone_config() };
    let zone = LocalZone::create(parts(log, Arc::new(MemoryMetastore::new())), config, &NEW).unwrap();
    const FILES: u64 = 200;
    for ino in 2..2 + FILES {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    zone.checkpoint().unwrap();
    let done = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..FILES).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3u64)
            .map(|seed| {
                let (zone, done, acknowledged) = (&zone, &done, &acknowledged);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    let mut seen = vec![0; FILES as usize];
                    let mut looks = 0u64;
                    while !done.load(Ordering::Acquire) || looks < 1000 {
                        let file = random.below(FILES);
                        let at_least = acknowledged[file as usize].load(Ordering::Acquire);
                        let mut size = 0;
                        if random.below(2) == 0 {
                            size = zone.inode(Ino(2 + file)).unwrap().unwrap().size;
                        } else {
                            zone.read(&mut |state| {
                                size = state.inode(Ino(2 + file))?.unwrap().size;
                                // Within one read, the record and the decoded inode agree.
                                let bytes = state.get(Table::Inode, &keys::ino(Ino(2 + file)))?.unwrap();
                                let stored: nexus_kernel::model::Inode = nexus_kernel::model::decode("inode", &bytes)?;
                                assert_eq!(stored.size, size);
                                Ok(())
                            })
                            .unwrap();
                        }
                        assert!(size >= seen[file as usize] && size >= at_least, "file {file} went back to {size}");
                        seen[file as usize] = size;
                        looks += 1;
                    }
                })
            })
            .collect();
        let mut random = Random(99);
        for size in 1..=4000 {
            let file = random.below(FILES);
            let change = AttrChange { size: Some(size), ..AttrChange::default() };
            zone.propose(&Command::SetAttr { ino: Ino(2 + file), change, now: Timestamp::default() }).unwrap();
            acknowledged[file as usize].store(size, Ordering::Release);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// Names come and go; a name that is acknowledged is found, one that is taken away is not.
#[test]
fn lookups_are_exact_under_load() {
    let disk = SimDisk::new();
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let config = ZoneConfig { cache_bytes: 0, memtable_bytes: 8_000, ..zone_config() };
    let zone = LocalZone::create(parts(log, Arc::new(MemoryMetastore::new())), config, &NEW).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let zone = &zone;
            scope.spawn(move || {
                let mut random = Random(thread);
                let mut there = [None; 20];
                for _ in 0..800 {
                    let which = random.below(20) as usize;
                    let text = format!("{thread} {which}");
                    let found = zone.lookup(Ino::ROOT, Name::new(text.as_bytes()).unwrap()).unwrap();
                    assert_eq!(found.map(|(_, dentry)| dentry.ino), there[which], "{text}");
                    match there[which] {
                        None => {
                            let ino = zone.allocate_ino().unwrap();
                            zone.propose(&create(ino.0, &text)).unwrap();
                            there[which] = Some(ino);
                        }
                        Some(_) => {
                            let unlink = Command::Unlink {
                                parent: Ino::ROOT,
                                name: name(&text),
                                keep: false,
                                now: Timestamp::default(),
                            };
                            zone.propose(&unlink).unwrap();
                            there[which] = None;
                        }
                    }
                }
            });
        }
    });
}

/// The whole of it as the daemon runs it: real files, all threads, several callers.
#[test]
fn survives_a_crash_after_a_busy_time() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::new());
    let open = |config: &ZoneConfig| {
        let log_config = LogConfig { segment_bytes: 256 << 10, ..LogConfig::default() };
        let log = NodeLog::open(disk(), &folder.path().join("log"), Arc::new(NoContent), log_config).unwrap();
        let path = folder.path().join("meta.redb");
        let metastore = Arc::new(RedbMetastore::open_or_create(disk(), &path, RedbOptions::default()).unwrap());
        let parts = parts(log, metastore);
        match LocalZone::open(parts.clone(), config.clone()) {
            Err(Error::NotFound) => LocalZone::create(parts, config.clone(), &NEW),
            other => other,
        }
        .unwrap()
    };
    let config = ZoneConfig {
        background: Background::Thread,
        memtable_bytes: 1 << 20,
        sync_interval: Duration::from_millis(5),
        checkpoint_idle: Duration::from_millis(5),
        ..ZoneConfig::default()
    };
    let mut digest = None;
    for round in 0..3u64 {
        let zone = open(&config);
        if let Some(digest) = digest {
            assert_eq!(zone.digest().unwrap(), digest, "round {round}");
        }
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let zone = &zone;
                scope.spawn(move || {
                    for i in 0..3000 {
                        let ino = zone.allocate_ino().unwrap();
                        zone.propose(&create(ino.0, &format!("{round} {thread} {i}"))).unwrap();
                        if i % 300 == 0 {
                            zone.sync().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(zone.usage().unwrap().inodes, 1 + (round + 1) * 12_000);
        digest = Some(zone.digest().unwrap());
    }
    let zone = open(&config);
    assert_eq!(Some(zone.digest().unwrap()), digest);
    zone.close().unwrap();
    assert_eq!(zone.stats().unwrap().pending_bytes, 0);
}
