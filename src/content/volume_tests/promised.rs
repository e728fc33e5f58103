//! What is in a store that is far away stays there: copying out of sparse blobs, merging small ones and
//! migrating may be cut short anywhere, and this disk's own copies be lost, and whatever was sent is there.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::conformance::object_store::Memory;
use nexus_kernel::content::WriteHint;
use nexus_kernel::disk::Disk;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};
use nexus_kernel::{BlobId, Clock, Command, ContentStore, Error, Ino, ObjectStore, Result, StoreId, block_on};
use parking_lot::Mutex;

use super::rig::{Metadata, Model, ROOT, Rig, eager, small};
use crate::store::StoreShape;
use crate::testing::Random;
use crate::{ReclaimConfig, Reclaimer};

/// The disk and the store at some moment.
struct Moment {
    what: String,
    disk: SimDisk,
    blobs: Vec<(BlobId, Bytes)>,
}

/// A bucket that remembers how things stood before and after each change of it.
struct Bucket {
    blobs: MemoryStore,
    disk: SimDisk,
    moments: Mutex<Vec<Moment>>,
    watching: Mutex<bool>,
    /// Takes nothing, but says so only after it looked at all of it.
    refuses: Mutex<bool>,
    puts: Mutex<usize>,
}

impl Bucket {
    fn new(disk: &SimDisk) -> Arc<Bucket> {
        Arc::new(Bucket {
            blobs: MemoryStore::new(),
            disk: disk.clone(),
            moments: Mutex::default(),
            watching: Mutex::default(),
            refuses: Mutex::default(),
            puts: Mutex::default(),
        })
    }

    fn all(&self) -> Vec<(BlobId, Bytes)> {
        let lines = block_on(self.blobs.list(BlobId::NONE, 10_000)).unwrap();
        lines.iter().map(|line| (line.id, block_on(self.blobs.get(line.id, 0..line.len.unwrap())).unwrap())).collect()
    }

    fn note(&self, what: String) {
        if *self.watching.lock() {
            self.moments.lock().push(Moment { what, disk: self.disk.fork(), blobs: self.all() });
        }
    }
}

impl ObjectStore for Bucket {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        self.note(format!("before {id} is put"));
        *self.puts.lock() += 1;
        if *self.refuses.lock() {
            return Box::pin(std::future::ready(Err(Error::Unavailable("it takes nothing".into()))));
        }
        let put = block_on(self.blobs.put(id, source));
        self.note(format!("after {id} was put"));
        Box::pin(std::future::ready(put))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.blobs.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.blobs.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.note(format!("before {id} is deleted"));
        let deleted = block_on(self.blobs.delete(id));
        self.note(format!("after {id} was deleted"));
        Box::pin(std::future::ready(deleted))
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.blobs.list(after, limit)
    }

    fn is_local(&self) -> bool {
        false
    }
}

fn volume() -> (Rig, Arc<Bucket>) {
    let disk = SimDisk::new();
    let bucket = Bucket::new(&disk);
    (Rig::over(disk, Metadata::Logged, bucket.clone(), small()).unwrap(), bucket)
}

/// What fsync of a file does that waits for its store.
fn sync(rig: &Rig, ino: Ino) {
    rig.zone.sync().unwrap();
    let blobs: Vec<_> = rig.extents(ino).unwrap().iter().map(|(_, extent)| extent.blob).collect();
    rig.store.upload(&blobs).unwrap();
    assert!(blobs.iter().all(|blob| !rig.store.is_only_here(*blob)));
}

/// Every moment, as the next start finds it if what this disk alone had of content is gone.
fn assert_kept(moments: Vec<Moment>, model: &Model) {
    assert!(!moments.is_empty());
    for Moment { what, disk, blobs } in moments {
        let store = Bucket::new(&disk);
        for (id, bytes) in blobs {
            block_on(store.blobs.put(id, &mut Memory::new(bytes.to_vec()))).unwrap();
        }
        for (path, _) in disk.files() {
            if path.extension().is_some_and(|extension| extension == "seg") {
                disk.remove(&path).unwrap();
            }
        }
        let rig =
            Rig::over(disk, Metadata::Logged, store.clone(), small()).unwrap_or_else(|error| panic!("{what}: {error}"));
        model.assert_same(&rig, &what);
        rig.assert_sound(&what);
        rig.collect().unwrap();
        model.assert_same(&rig, &what);
        let there: Vec<_> = store.all().into_iter().map(|(id, _)| id).collect();
        assert_eq!(there, rig.blobs().into_keys().collect::<Vec<_>>(), "{what}: what is in the bucket");
    }
}

fn write_and_sync(rig: &Rig, model: &mut Model, seed: u64, bytes: usize) -> Ino {
    let (ino, data) = (rig.create().unwrap(), Random::new(seed).bytes(bytes));
    rig.write(ino, 0, &data).unwrap();
    model.write(ino, 0, &data);
    sync(rig, ino);
    ino
}

fn far_shape() -> StoreShape {
    StoreShape {
        segment_bytes: 64 << 10,
        stream_segment_bytes: 64 << 10,
        idle_seal_ms: 0,
        idle_seal_bytes: 1,
        fsync_uploads: true,
        volatile: false,
    }
}

#[test]
fn what_was_synced_stays_in_the_store_while_sparse_blobs_are_emptied() {
    let (rig, bucket) = volume();
    let mut model = Model::default();
    // Each blob has one file that stays, and three that go.
    for round in 0..6 {
        let inos: Vec<_> = (0..4).map(|_| rig.create().unwrap()).collect();
        for (n, ino) in inos.iter().enumerate() {
            let data = Random::new(round * 10 + n as u64).bytes(9_000);
            rig.write(*ino, 0, &data).unwrap();
            if n == 0 {
                model.write(*ino, 0, &data);
            }
        }
        sync(&rig, inos[0]);
        inos[1..].iter().for_each(|ino| rig.unlink(*ino).unwrap());
    }
    rig.zone.sync().unwrap();
    *bucket.watching.lock() = true;
    let done = rig.collect().unwrap();
    assert!(done.copied_bytes >= 6 * 9_000 && done.deleted >= 6, "{done:?}");
    assert_eq!(bucket.all().len(), 1, "what is left fits into one");
    model.assert_same(&rig, "at last");
    assert_kept(std::mem::take(&mut bucket.moments.lock()), &model);
}

#[test]
fn many_small_syncs_leave_few_objects() {
    let (rig, bucket) = volume();
    let mut model = Model::default();
    for seed in 0..50 {
        write_and_sync(&rig, &mut model, seed, 300);
        if seed % 5 == 4 {
            rig.clock.advance_ms(1_000_000);
            rig.reclaimer.run_once().unwrap();
        }
        assert!(bucket.all().len() <= 2 * eager().merge_blobs, "{} objects after {seed}", bucket.all().len());
    }
    rig.collect().unwrap();
    assert!(bucket.all().len() < eager().merge_blobs + 4, "{} objects", bucket.all().len());
    assert!(*bucket.puts.lock() <= 50 + 50 / eager().merge_blobs + 1, "{} puts", bucket.puts.lock());
    assert_eq!(rig.collect().unwrap().copied_bytes, 0, "it goes on copying");
    model.assert_same(&rig, "merged");
    rig.assert_sound("merged");
}

#[test]
fn a_merge_may_be_cut_short_anywhere() {
    let (rig, bucket) = volume();
    let mut model = Model::default();
    for seed in 0..16 {
        write_and_sync(&rig, &mut model, seed, 300);
    }
    rig.clock.advance_ms(1_000_000);
    rig.reclaimer.seal_once().unwrap();
    rig.zone.sync().unwrap();
    *bucket.watching.lock() = true;
    let done = rig.collect().unwrap();
    assert_eq!((done.copied_bytes, done.deleted), (16 * 300, 16), "{done:?}");
    assert_kept(std::mem::take(&mut bucket.moments.lock()), &model);
}

#[test]
fn a_file_that_moves_to_another_store_is_there_before_it_leaves_the_first() {
    let (rig, bucket) = volume();
    let second = Bucket::new(&rig.disk);
    let target = StoreId(1);
    rig.store.mount_store(target, second.clone(), far_shape()).unwrap();
    let mut model = Model::default();
    let inos: Vec<_> = (0..4).map(|seed| write_and_sync(&rig, &mut model, seed, 50_000)).collect();
    let moved = rig.reclaimer.migrate(&rig.zone, &inos, target, 1 << 30).unwrap();
    assert_eq!((moved.bytes, moved.more), (200_000, false));
    assert!(inos.iter().all(|ino| rig.extents(*ino).unwrap().iter().all(|(_, e)| e.blob.store() == target)));
    let there: usize = second.all().iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(there, 200_000, "all of it is in the second store, nothing on this disk");
    rig.collect().unwrap();
    assert!(bucket.all().is_empty());
    model.assert_same(&rig, "moved");
}

/// Each try reads what it copies, which costs: so it is not tried with each pass.
#[test]
fn a_store_that_takes_nothing_is_left_alone_for_a_while() {
    let (rig, bucket) = volume();
    let mut model = Model::default();
    let inos: Vec<_> = (0..3).map(|_| rig.create().unwrap()).collect();
    for ino in &inos {
        rig.write(*ino, 0, &Random::new(ino.0).bytes(9_000)).unwrap();
    }
    model.write(inos[0], 0, &Random::new(inos[0].0).bytes(9_000));
    sync(&rig, inos[0]);
    rig.reclaimer.seal_once().unwrap();
    inos[1..].iter().for_each(|ino| rig.unlink(*ino).unwrap());
    *bucket.refuses.lock() = true;
    let tries = || *bucket.puts.lock();
    let before = tries();
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))));
    assert_eq!(tries(), before + 1);
    for _ in 0..10 {
        rig.clock.advance_ms(1_000);
        rig.reclaimer.run_once().unwrap();
    }
    assert_eq!(tries(), before + 1, "it was tried again too soon");
    let segments = || {
        rig.disk
            .files()
            .iter()
            .filter(|(path, _)| {
                path.starts_with(Path::new(ROOT).join("segments")) && path.extension().is_some_and(|e| e == "seg")
            })
            .count()
    };
    assert_eq!(segments(), 0, "the copies are of no use");
    model.assert_same(&rig, "refused");
    *bucket.refuses.lock() = false;
    rig.collect().unwrap();
    assert_eq!(bucket.all().len(), 1);
    model.assert_same(&rig, "taken");
}

/// One store that does not answer holds up nothing of another: neither what is sent nor what is deleted.
#[test]
fn a_store_that_is_away_holds_up_no_other() {
    let (rig, bucket) = volume();
    let second = Bucket::new(&rig.disk);
    rig.store.mount_store(StoreId(1), second.clone(), far_shape()).unwrap();
    let mut model = Model::default();
    let stays = write_and_sync(&rig, &mut model, 1, 9_000);
    rig.reclaimer.migrate(&rig.zone, &[stays], StoreId(1), 1 << 20).unwrap();
    let waits = rig.create().unwrap();
    rig.write(waits, 0, &Random::new(2).bytes(9_000)).unwrap();
    let data = Random::new(3).bytes(9_000);
    let ino = rig.create().unwrap();
    let staged = rig.store.write(WriteHint { ino, offset: 0, size: 0, store: StoreId(1) }, &data).unwrap();
    let (pieces, store, now) = (staged.pieces.clone(), staged.store, rig.clock.now());
    rig.zone.propose(&Command::Write { ino, offset: 0, pieces, store, kill_privileges: false, now }).unwrap();
    drop(staged);
    *bucket.refuses.lock() = true;
    rig.clock.advance_ms(1_000_000);
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))));
    assert!(!rig.store.is_only_here(rig.extents(ino).unwrap()[0].1.blob), "the other store was not asked");
    assert!(rig.store.is_only_here(rig.extents(waits).unwrap()[0].1.blob));
}

/// What is to be copied a second has a bound.
#[test]
fn copying_takes_its_time() {
    let (rig, bucket) = volume();
    let mut model = Model::default();
    for seed in 0..40 {
        write_and_sync(&rig, &mut model, seed, 3_000);
    }
    let config = ReclaimConfig { far_copy_bytes_per_s: 3_000, pass_bytes: 6_000, ..eager() };
    let slow =
        Reclaimer::new(rig.store.clone(), crate::ZoneSet::new(vec![rig.zone.clone()]), rig.clock.clone(), config);
    let mut copied = slow.run_once().unwrap().copied_bytes;
    assert_eq!(copied, 6_000, "what was saved up");
    for _ in 0..10 {
        rig.clock.advance_ms(1_000);
        copied += slow.run_once().unwrap().copied_bytes;
    }
    assert!((30_000..=39_000).contains(&copied), "{copied} bytes in ten seconds");
    assert!(bucket.all().len() < 40);
    model.assert_same(&rig, "half way");
}
