//! Full disks below the metastore, and bounded memory.

use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::Error;
use nexus_kernel::metastore::{Durability, MetaSnapshot, MetastoreStats, WriteBatch};
use parking_lot::Mutex;

use super::*;

/// A metastore whose commits fail when told to.
#[derive(Default)]
pub struct Moody {
    store: MemoryMetastore,
    pub mood: Mutex<Option<Error>>,
}

impl Metastore for Moody {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        self.store.snapshot()
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        match &*self.mood.lock() {
            Some(error) => Err(error.clone()),
            None => self.store.commit(batch, durability),
        }
    }

    fn stats(&self) -> Result<MetastoreStats> {
        self.store.stats()
    }
}

fn with_moody(config: ZoneConfig) -> (SimDisk, Arc<Moody>, LocalZone) {
    let disk = SimDisk::new();
    let metastore = Arc::new(Moody::default());
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let zone = LocalZone::create(parts(log, metastore.clone()), config, &NEW).unwrap();
    (disk, metastore, zone)
}

#[test]
fn a_full_metastore_refuses_growth_in_time_and_recovers() {
    let limit = 20_000;
    let (disk, metastore, zone) = with_moody(ZoneConfig { memtable_bytes: limit, ..zone_config() });
    *metastore.mood.lock() = Some(Error::NoSpace);
    let mut ino = 2;
    let refused = loop {
        match zone.propose(&create(ino, &format!("file {ino}"))) {
            Ok(_) => ino += 1,
            Err(error) => break error,
        }
        assert!(ino < 10_000, "memory without bound");
    };
    assert_eq!(refused, Error::NoSpace);
    let stats = zone.stats().unwrap();
    assert!(stats.pending_bytes > 2 * limit && stats.pending_bytes <= 3 * limit + 2000, "{stats:?}");
    for known in 2..ino {
        assert!(zone.inode(Ino(known)).unwrap().is_some(), "reads go on");
    }
    assert_eq!(zone.inode(Ino(ino)).unwrap(), None, "a refused command changed something");
    zone.sync().unwrap();
    let unlink = |ino: u64| Command::Unlink {
        parent: Ino::ROOT,
        name: name(&format!("file {ino}")),
        keep: false,
        now: Timestamp::default(),
    };
    zone.propose(&unlink(2)).unwrap();
    assert_eq!(zone.propose(&create(ino, "more")), Err(Error::NoSpace));
    let mut freed = 3;
    while zone.propose(&unlink(freed)).is_ok() {
        freed += 1;
        assert!(freed < ino || zone.stats().unwrap().pending_bytes < 6 * limit);
    }
    assert!(zone.stats().unwrap().pending_bytes < 6 * limit);
    let digest = zone.digest().unwrap();
    *metastore.mood.lock() = None;
    zone.propose(&create(ino, "space again")).unwrap();
    zone.propose(&Command::Unlink {
        parent: Ino::ROOT,
        name: name("space again"),
        keep: false,
        now: Timestamp::default(),
    })
    .unwrap();
    zone.checkpoint().unwrap();
    assert_eq!(zone.stats().unwrap().pending_bytes, 0);
    assert_ne!(digest, zone.digest().unwrap(), "times and numbers differ");
    let expected = zone.digest().unwrap();
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let found = LocalZone::open(parts(log, metastore), zone_config()).unwrap();
    assert_eq!(found.digest().unwrap(), expected);
}

#[test]
fn closing_with_a_full_metastore_keeps_everything_in_the_log() {
    let (disk, metastore, zone) = with_moody(zone_config());
    zone.propose(&create(2, "file")).unwrap();
    *metastore.mood.lock() = Some(Error::QuotaExceeded);
    let digest = zone.digest().unwrap();
    zone.close().unwrap();
    assert_eq!(zone.stats().unwrap().durable, zone.stats().unwrap().last);
    *metastore.mood.lock() = None;
    let left = disk.power_cut(1);
    let log = open_log(&left, FileContent::open(&left)).unwrap();
    let found = LocalZone::open(parts(log, metastore), zone_config()).unwrap();
    assert_eq!(found.digest().unwrap(), digest);
}

#[test]
fn a_metastore_that_fails_ends_changes_but_not_reads() {
    let (_disk, metastore, zone) = with_moody(zone_config());
    zone.propose(&create(2, "file")).unwrap();
    *metastore.mood.lock() = Some(Error::Io("the medium is gone".into()));
    assert_eq!(zone.checkpoint(), Err(Error::Io("the medium is gone".into())));
    *metastore.mood.lock() = None;
    for _ in 0..2 {
        let refused = zone.propose(&create(3, "other"));
        assert!(matches!(refused, Err(Error::Unavailable(text)) if text.contains("medium is gone")));
    }
    assert!(zone.inode(Ino(2)).unwrap().is_some());
    assert!(zone.sync().is_ok(), "the log still works");
}

#[test]
fn a_full_log_disk_lets_files_be_deleted() {
    let disk = SimDisk::new();
    let (zone, _) = on_disk(&disk, zone_config()).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let mut ino = 2;
    let refused = loop {
        match zone.propose(&create(ino, &format!("file {ino}"))) {
            Ok(_) => ino += 1,
            Err(error) => break error,
        }
        assert!(ino < 10_000, "the log grows on a full disk");
    };
    assert_eq!(refused, Error::NoSpace);
    for gone in 2..40 {
        let name = name(&format!("file {gone}"));
        zone.propose(&Command::Unlink { parent: Ino::ROOT, name, keep: false, now: Timestamp::default() }).unwrap();
    }
    disk.set_capacity(None);
    zone.propose(&create(ino, "space again")).unwrap();
    zone.sync().unwrap();
    let digest = zone.digest().unwrap();
    assert_eq!(on_disk(&disk.power_cut(3), zone_config()).unwrap().0.digest().unwrap(), digest);
}

#[test]
fn segments_are_given_back_by_checkpoints() {
    let disk = SimDisk::new();
    let config = ZoneConfig { checkpoint_log_bytes: 20 << 10, ..zone_config() };
    let (zone, _) = on_disk(&disk, config).unwrap();
    for ino in 2..4000 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    assert!(zone.stats().unwrap().log_bytes <= 7 * (16 << 10), "{:?}", zone.stats().unwrap());
    assert!(zone.stats().unwrap().checkpoint.0 > 3000);
}
