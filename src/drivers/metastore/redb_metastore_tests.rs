//! The redb driver: conformance on a real and a simulated disk, damage and failures.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::redb_backend::{FileFacts, RedbBackend};
use super::*;
use crate::disk::{RealDisk, SimDisk};
use nexus_kernel::conformance::metastore::{Medium, run};
use nexus_kernel::metastore::Key;

const PATH: &str = "/zone/meta.redb";

struct Simulated(SimDisk);

impl Simulated {
    fn new() -> Simulated {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/zone")).unwrap();
        Simulated(disk)
    }

    fn store(&self) -> Result<RedbMetastore> {
        RedbMetastore::open_or_create(Arc::new(self.0.clone()), Path::new(PATH), options())
    }
}

/// A cache so small that pages are evicted, and written before their commit.
fn options() -> RedbOptions {
    RedbOptions { cache_bytes: 256 << 10, reserve_bytes: 0, ..RedbOptions::default() }
}

impl Medium for Simulated {
    fn open(&self) -> Arc<dyn Metastore> {
        Arc::new(self.store().unwrap())
    }

    fn killed(&self) -> Option<Box<dyn Medium>> {
        Some(Box::new(Simulated(self.0.fork())))
    }

    fn power_cut(&self, seed: u64) -> Option<Box<dyn Medium>> {
        Some(Box::new(Simulated(self.0.power_cut(seed))))
    }

    fn set_full(&self, full: bool) -> bool {
        self.0.set_capacity(full.then(|| self.0.used_bytes()));
        true
    }
}

struct Real(tempfile::TempDir);

impl Medium for Real {
    fn open(&self) -> Arc<dyn Metastore> {
        let path = self.0.path().join("meta.redb");
        Arc::new(RedbMetastore::open_or_create(Arc::new(RealDisk::new()), &path, options()).unwrap())
    }

    fn killed(&self) -> Option<Box<dyn Medium>> {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.0.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        Some(Box::new(Real(copy)))
    }
}

#[test]
fn conforms_on_a_simulated_disk() {
    run(&|| Box::new(Simulated::new()));
}

#[test]
fn conforms_on_a_real_disk() {
    run(&|| Box::new(Real(tempfile::tempdir().unwrap())));
}

fn put(key: u64, value: &[u8]) -> WriteBatch {
    let writes = vec![(Table::Inode, Key::from_slice(&key.to_be_bytes()), Some(Bytes::copy_from_slice(value)))];
    WriteBatch { expect: vec![], writes }
}

fn value(store: &RedbMetastore, key: u64) -> Option<Bytes> {
    store.snapshot().unwrap().get(Table::Inode, &key.to_be_bytes()).unwrap()
}

#[test]
fn a_power_cut_at_any_sync_of_making_one_leaves_it_whole_or_absent() {
    let simulated = Simulated::new();
    let images = Arc::new(Mutex::new(Vec::new()));
    let sink = images.clone();
    simulated.0.on_sync(move |disk, point| {
        for seed in 0..8 {
            sink.lock().push((point.clone(), seed, disk.power_cut(point.number * 100 + seed)));
        }
    });
    simulated.store().unwrap().commit(&put(1, b"one"), Durability::Durable).unwrap();
    simulated.0.clear_hook();
    let images = images.lock();
    assert!(images.len() > 8 * 4, "only {} images", images.len());
    for (point, seed, image) in images.iter() {
        let store = Simulated(image.clone()).store().unwrap_or_else(|e| panic!("{point:?} seed {seed}: {e}"));
        store.commit(&put(2, b"two"), Durability::Durable).unwrap();
    }
}

#[test]
fn one_file_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let open = || RedbMetastore::open_or_create(Arc::new(RealDisk::new()), &path, options());
    let first = open().unwrap();
    let text = match open().err().unwrap() {
        Error::Unavailable(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.contains("meta.redb") && text.contains("in use"), "{text}");
    drop(first);
    open().unwrap();
}

#[test]
fn files_of_other_kinds_are_refused_and_left_alone() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("empty", vec![]),
        ("text", b"hello, this is no database at all".repeat(300)),
        ("zeros", vec![0; 100_000]),
        ("short", b"redb".to_vec()),
    ];
    for (name, bytes) in cases {
        let simulated = Simulated::new();
        simulated.0.create(Path::new(PATH)).unwrap().write_at(&bytes, 0).unwrap();
        match simulated.store().err() {
            Some(Error::Corrupt(text)) => assert!(text.contains(PATH), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
        let file = simulated.0.open(Path::new(PATH)).unwrap();
        let mut left = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut left, 0).unwrap();
        assert!(left == bytes, "{name}: the file was changed");
    }
}

#[test]
fn another_format_is_refused_by_name() {
    let simulated = Simulated::new();
    drop(simulated.store().unwrap());
    let file = simulated.0.open(Path::new(PATH)).unwrap();
    let database =
        redb::Database::builder().create_with_backend(RedbBackend(FileFacts::new(file, Path::new(PATH)))).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("nexus")).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    match simulated.store().err() {
        Some(Error::UnknownVersion(text)) => assert!(text.contains(PATH) && text.contains("format 2"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// Fills a store, closes it well, and answers its disk.
fn filled() -> Simulated {
    let simulated = Simulated::new();
    let store = simulated.store().unwrap();
    for key in 0..300 {
        store.commit(&put(key, &[key as u8; 200]), Durability::Buffered).unwrap();
    }
    store.commit(&put(0, b"end"), Durability::Durable).unwrap();
    simulated
}

#[test]
fn cut_files_are_refused() {
    let simulated = filled();
    let len = simulated.0.files().first().unwrap().1;
    for cut in [1, 100, 319, 320, 4096, 5000, len / 4, len / 2, len - 4096, len - 1] {
        let image = Simulated(simulated.0.fork());
        image.0.open(Path::new(PATH)).unwrap().set_len(cut).unwrap();
        match image.store().err() {
            Some(Error::Corrupt(text)) => assert!(text.contains(PATH), "{cut}: {text}"),
            other => panic!("cut to {cut} of {len}: {other:?}"),
        }
    }
}

/// Each flipped bit is refused with a clear error, or hits bytes that nothing uses: then the
/// content is all there.
#[test]
fn flipped_bits_never_go_unseen_and_never_panic() {
    let simulated = filled();
    let len = simulated.0.files().first().unwrap().1;
    let mut random = crate::disk::Random::new(7);
    let mut refused = 0;
    for round in 0..400 {
        let image = Simulated(simulated.0.fork());
        let offset = if round < 100 { random.up_to(511) } else { random.up_to(len - 1) };
        image.0.damage(Path::new(PATH), offset, 1 << random.up_to(7)).unwrap();
        match image.store() {
            Err(Error::Corrupt(text) | Error::UnknownVersion(text)) => {
                assert!(text.contains(PATH), "byte {offset}: {text}");
                refused += 1;
            }
            Err(other) => panic!("byte {offset}: {other:?}"),
            Ok(store) => {
                assert_eq!(value(&store, 0).unwrap(), "end", "byte {offset}");
                for key in 1..300 {
                    assert_eq!(value(&store, key).unwrap(), vec![key as u8; 200], "byte {offset}");
                }
            }
        }
    }
    assert!(refused > 40, "only {refused} refused");
}

#[test]
fn damage_met_while_reading_is_an_error_and_ends_commits() {
    let simulated = filled();
    let len = simulated.0.files().first().unwrap().1;
    let mut met = 0;
    for page in 1..len / 4096 {
        let image = Simulated(simulated.0.fork());
        let options = RedbOptions { cache_bytes: 0, verify_up_to_bytes: 0, reserve_bytes: 0 };
        let store = RedbMetastore::open(Arc::new(image.0.clone()), Path::new(PATH), options).unwrap();
        for byte in 0..4 {
            image.0.damage(Path::new(PATH), page * 4096 + byte, 0xff).unwrap();
        }
        let read = store.snapshot().unwrap();
        let mut results: Vec<Result<()>> =
            (0..300u64).map(|key| read.get(Table::Inode, &key.to_be_bytes()).map(drop)).collect();
        results.push(read.scan(Table::Inode, &[], &[0xff; 9], &mut |_, _| std::ops::ControlFlow::Continue(())));
        if results.iter().all(Result::is_ok) {
            // Closing it would write, and meet what reading has not.
            std::mem::forget(store);
            continue;
        }
        met += 1;
        assert!(
            results
                .into_iter()
                .filter_map(Result::err)
                .all(|e| matches!(&e, Error::Corrupt(text) if text.contains(PATH)))
        );
        assert!(matches!(store.commit(&put(1, b"new"), Durability::Durable), Err(Error::Corrupt(_))));
    }
    assert!(met > 5, "damage was met {met} times");
}

#[test]
fn a_failed_write_ends_commits_but_not_reads() {
    let simulated = filled();
    let store = simulated.store().unwrap();
    store.commit(&put(1, b"buffered"), Durability::Buffered).unwrap();
    simulated.0.fail_after(1, Error::Io("the medium is gone".into()));
    assert_eq!(store.commit(&put(2, b"lost"), Durability::Durable), Err(Error::Io("the medium is gone".into())));
    simulated.0.heal();
    match store.commit(&put(3, b"refused"), Durability::Durable) {
        Err(Error::Unavailable(text)) => assert!(text.contains("the medium is gone"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&store, 0).unwrap(), "end");
    drop(store);
    let again = simulated.store().unwrap();
    assert_eq!(value(&again, 0).unwrap(), "end");
    assert_eq!(value(&again, 2).unwrap(), vec![2; 200]);
}

/// Fails each single operation of a durable commit in turn, for want of space. Only a failed
/// sync ends commits, and after opening anew the state is one that was acknowledged, or the
/// one that was tried.
#[test]
fn want_of_space_at_any_operation_changes_nothing_and_heals() {
    let simulated = filled();
    let (mut healed, mut refused) = (0, 0);
    for operations in 0.. {
        let image = Simulated(simulated.0.fork());
        let store = image.store().unwrap();
        store.commit(&put(1, b"buffered"), Durability::Buffered).unwrap();
        let before = store.snapshot().unwrap();
        image.0.fail_once_after(operations, Error::NoSpace);
        let result = store.commit(&put(2, b"late"), Durability::Durable);
        image.0.heal();
        if result.is_ok() {
            assert_eq!((value(&store, 1).unwrap(), value(&store, 2).unwrap()), ("buffered".into(), "late".into()));
            break;
        }
        assert_eq!(result, Err(Error::NoSpace), "after {operations}");
        if store.inner.writer.lock().refused.is_some() {
            refused += 1;
            assert!(matches!(store.commit(&put(3, b"no"), Durability::Buffered), Err(Error::Unavailable(_))));
            drop((before, store));
            let again = Simulated(image.0.power_cut(operations)).store().unwrap();
            assert!(value(&again, 2).unwrap() == "late" || value(&again, 2).unwrap() == vec![2; 200]);
            continue;
        }
        healed += 1;
        for key in 2..300u64 {
            let read = before.get(Table::Inode, &key.to_be_bytes()).unwrap();
            assert_eq!(read.unwrap(), vec![key as u8; 200], "after {operations}");
        }
        assert_eq!(before.get(Table::Inode, &1u64.to_be_bytes()).unwrap().unwrap(), "buffered", "a snapshot reads on");
        assert_eq!((value(&store, 1).unwrap(), value(&store, 2).unwrap()), ("buffered".into(), vec![2; 200].into()));
        store.commit(&put(2, b"late"), Durability::Durable).unwrap();
        let again = Simulated(image.0.power_cut(operations)).store().unwrap();
        assert_eq!((value(&again, 1).unwrap(), value(&again, 2).unwrap()), ("buffered".into(), "late".into()));
    }
    assert!(healed > 3 && refused == 2, "{healed} healed, {refused} refused");
}

/// A full disk takes a commit that frees something, out of what was kept back for it; the
/// reserve comes back with the space.
#[test]
fn a_full_disk_takes_deletions() {
    let simulated = Simulated::new();
    let reserved = || RedbOptions { reserve_bytes: 1 << 20, ..options() };
    let open =
        |disk: &SimDisk| RedbMetastore::open_or_create(Arc::new(disk.clone()), Path::new(PATH), reserved()).unwrap();
    let reserve = Path::new("/zone/meta.redb.reserve");
    let store = open(&simulated.0);
    let fill = |round: u64| {
        let writes = (0..500).flat_map(|key| put(round * 1000 + key, &[round as u8; 300]).writes).collect();
        store.commit(&WriteBatch { expect: vec![], writes }, Durability::Durable)
    };
    fill(1).unwrap();
    simulated.0.set_capacity(Some(simulated.0.used_bytes()));
    let full = (2..20).find(|round| fill(*round).is_err()).unwrap();
    assert_eq!(fill(full), Err(Error::NoSpace));
    assert!(simulated.0.open(reserve).is_ok(), "what frees nothing is kept off the reserve");
    let delete = |range: std::ops::Range<u64>| {
        let writes = range.map(|key| (Table::Inode, Key::from_slice(&key.to_be_bytes()), None)).collect();
        store.commit(&WriteBatch { expect: vec![], writes }, Durability::Durable)
    };
    delete(1000..1500).unwrap();
    assert_eq!(value(&store, 1001), None);
    assert!(simulated.0.open(reserve).is_err(), "the reserve was not needed");
    simulated.0.set_capacity(None);
    fill(full).unwrap();
    assert!(simulated.0.open(reserve).is_ok(), "the reserve did not come back");
    drop(store);
    assert_eq!(value(&open(&simulated.0.power_cut(1)), full * 1000 + 1).unwrap(), vec![full as u8; 300]);
}

/// While the disk takes no writes at all, the durable state can be read, from a file that is
/// in the cache only in part.
#[test]
fn reads_go_on_while_the_disk_takes_no_writes() {
    let simulated = filled();
    let store = RedbMetastore::open(
        Arc::new(simulated.0.clone()),
        Path::new(PATH),
        RedbOptions { cache_bytes: 0, ..options() },
    )
    .unwrap();
    store.commit(&put(1, b"durable"), Durability::Durable).unwrap();
    let before = store.snapshot().unwrap();
    simulated.0.fail_after(0, Error::Io("read-only".into()));
    assert_eq!(store.commit(&put(2, b"lost"), Durability::Durable), Err(Error::Io("read-only".into())));
    assert_eq!(value(&store, 1).unwrap(), "durable");
    for key in 2..300u64 {
        assert_eq!(value(&store, key).unwrap(), vec![key as u8; 200]);
        assert_eq!(before.get(Table::Inode, &key.to_be_bytes()).unwrap().unwrap(), vec![key as u8; 200]);
    }
    simulated.0.heal();
    assert_eq!(value(&store, 3).unwrap(), vec![3; 200]);
}

fn bytes(disk: &SimDisk) -> Vec<u8> {
    let file = disk.open(Path::new(PATH)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_read_only_metastore_reads_what_is_there_and_changes_nothing() {
    let simulated = filled();
    let store = simulated.store().unwrap();
    store.commit(&put(7, b"seven"), Durability::Durable).unwrap();
    let killed = simulated.0.fork();
    let before = bytes(&killed);
    killed.fail_after(0, Error::ReadOnly);
    let reader = RedbMetastore::open_read_only(Arc::new(killed.clone()), Path::new(PATH), options()).unwrap();
    assert_eq!(value(&reader, 7).unwrap(), "seven");
    assert_eq!(reader.commit(&put(8, b"no"), Durability::Buffered), Err(Error::ReadOnly));
    assert_eq!(reader.stats().unwrap().stored_bytes, before.len() as u64);
    drop(reader);
    assert!(bytes(&killed) == before);
}

#[test]
fn fsck_finds_damage_and_changes_nothing_of_a_killed_file() {
    let simulated = filled();
    RedbMetastore::check_integrity(&simulated.0, Path::new(PATH)).unwrap();
    let store = simulated.store().unwrap();
    store.commit(&put(5, b"five"), Durability::Durable).unwrap();
    let killed = Simulated(simulated.0.fork());
    let before = bytes(&killed.0);
    RedbMetastore::check_integrity(&killed.0, Path::new(PATH)).unwrap();
    assert!(bytes(&killed.0) == before);
    assert_eq!(value(&killed.store().unwrap(), 5).unwrap(), "five");
    drop(store);

    let len = simulated.0.files().first().unwrap().1;
    let found = (1..len / 4096).filter(|page| {
        let image = simulated.0.fork();
        image.damage(Path::new(PATH), page * 4096 + 20, 0x04).unwrap();
        RedbMetastore::check_integrity(&image, Path::new(PATH)).is_err()
    });
    assert!(found.count() > 5);
}

#[test]
fn buffered_commits_become_durable_when_too_many_wait() {
    let simulated = Simulated::new();
    let store = simulated.store().unwrap();
    let big = vec![1; 1 << 20];
    let before = simulated.0.sync_points();
    for key in 0..40 {
        store.commit(&put(key, &big), Durability::Buffered).unwrap();
    }
    assert!(simulated.0.sync_points() > before, "no commit was made durable");
    assert!(store.inner.writer.lock().retained_bytes <= RETAINED_BYTES + (1 << 20) + 100);
}

#[test]
fn threads_read_while_one_commits() {
    let store = Simulated::new().store().unwrap();
    store.commit(&put(0, &0u64.to_be_bytes()), Durability::Buffered).unwrap();
    let newest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let acknowledged = newest.load(Ordering::SeqCst);
                    let seen = u64::from_be_bytes(value(&store, 0).unwrap()[..].try_into().unwrap());
                    assert!(seen >= acknowledged, "read {seen} after {acknowledged} was acknowledged");
                    if acknowledged == 200 {
                        break;
                    }
                }
            });
        }
        for number in 1..=200u64 {
            let durability = if number % 20 == 0 { Durability::Durable } else { Durability::Buffered };
            store.commit(&put(0, &number.to_be_bytes()), durability).unwrap();
            newest.store(number, Ordering::SeqCst);
        }
    });
}
