//! Power cuts while segments go to a store that is far away: no segment is made durable for that, so what
//! is in the store and what is on this disk may differ afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::conformance::object_store::Memory;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};
use nexus_kernel::{BlobId, Error, Ino, ObjectStore, Result, block_on};
use parking_lot::Mutex;

use super::rig::{Metadata, Model, Rig, small};
use crate::testing::Random;

type Objects = BTreeMap<BlobId, Bytes>;

/// What a power cut leaves: of the disk, and of the store, which has no part in it.
struct Cut {
    what: String,
    disk: SimDisk,
    objects: Objects,
    /// An object that comes into the store only once the next start has looked.
    late: Option<(BlobId, Bytes)>,
}

/// A bucket, at whose changes the power is cut.
struct Bucket {
    blobs: MemoryStore,
    disk: SimDisk,
    cuts: Mutex<Option<Vec<Cut>>>,
    random: Mutex<Random>,
}

impl Bucket {
    fn new(disk: &SimDisk, seed: u64) -> Arc<Bucket> {
        Arc::new(Bucket {
            blobs: MemoryStore::new(),
            disk: disk.clone(),
            cuts: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
        })
    }

    fn objects(&self) -> Objects {
        let lines = block_on(self.blobs.list(BlobId::NONE, 10_000)).unwrap();
        lines.iter().map(|line| (line.id, block_on(self.blobs.get(line.id, 0..line.len.unwrap())).unwrap())).collect()
    }

    fn put_now(&self, id: BlobId, bytes: &Bytes) {
        let _ = block_on(self.blobs.put(id, &mut Memory::new(bytes.to_vec())));
    }

    fn cut(&self, what: String, late: Option<(BlobId, Bytes)>) {
        let seed = self.random.lock().below(u64::MAX);
        if let Some(cuts) = &mut *self.cuts.lock() {
            cuts.push(Cut { what, disk: self.disk.power_cut(seed), objects: self.objects(), late });
        }
    }
}

impl ObjectStore for Bucket {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        let mut bytes = Vec::new();
        loop {
            match source.next(usize::MAX) {
                Ok(more) if more.is_empty() => break,
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            }
        }
        let bytes = Bytes::from(bytes);
        self.cut(format!("while {id} is on its way"), Some((id, bytes.clone())));
        let put = block_on(self.blobs.put(id, &mut Memory::new(bytes.to_vec())));
        self.cut(format!("after {id} was put"), None);
        Box::pin(std::future::ready(put))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.blobs.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.blobs.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        let deleted = block_on(self.blobs.delete(id));
        self.cut(format!("after {id} was deleted"), None);
        Box::pin(std::future::ready(deleted))
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.blobs.list(after, limit)
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Content of the files that there are.
fn found(rig: &Rig, inos: &BTreeSet<Ino>) -> Result<BTreeMap<Ino, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for ino in inos {
        match rig.read(*ino) {
            Ok(content) => drop(files.insert(*ino, content)),
            Err(Error::Stale) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Passes on the volume with the power cut at each sync and each change of the bucket.
fn cuts_of(rig: &Rig, bucket: &Arc<Bucket>) -> Vec<Cut> {
    *bucket.cuts.lock() = Some(Vec::new());
    let theirs = bucket.clone();
    rig.disk.on_sync(move |_, point| theirs.cut(format!("at {point:?}"), None));
    rig.collect().unwrap();
    rig.disk.clear_hook();
    bucket.cuts.lock().take().unwrap()
}

/// Starts on what a cut left; answers the volume, its store and which state it has.
fn recover(cut: Cut, states: &[Model], from: usize, context: &str) -> (Rig, Arc<Bucket>, usize) {
    let bucket = Bucket::new(&cut.disk, 1);
    cut.objects.iter().for_each(|(id, bytes)| bucket.put_now(*id, bytes));
    let rig = Rig::over(cut.disk, Metadata::Logged, bucket.clone(), small())
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    if let Some((id, bytes)) = &cut.late {
        bucket.put_now(*id, bytes);
    }
    let inos = states.iter().flat_map(|state| state.files.keys().copied()).collect();
    let files = found(&rig, &inos).unwrap_or_else(|error| panic!("{context}: {error}"));
    let state = (from..states.len()).rev().find(|at| states[*at].files == files);
    let state = state.unwrap_or_else(|| panic!("{context}: not the state after any of the operations from {from} on"));
    rig.assert_sound(context);
    (rig, bucket, state)
}

/// What is found after a cut is what was synced, and maybe some of what came after it, in its order; and it
/// is the same once all was sent, and after another cut meanwhile. Nothing else stays in the bucket.
#[test]
fn a_power_cut_while_content_is_sent_loses_nothing_that_was_synced() {
    let mut count = 0;
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new();
        let mut bucket = Bucket::new(&disk, seed);
        let mut rig = Rig::over(disk, Metadata::Logged, bucket.clone(), small()).unwrap();
        let mut states = vec![Model::default()];
        for round in 0..4 {
            let step = |states: &mut Vec<Model>, random: &mut Random| {
                let mut next = states.last().unwrap().clone();
                next.step(&rig, random).unwrap();
                states.push(next);
            };
            for _ in 0..25 {
                step(&mut states, &mut random);
            }
            rig.zone.sync().unwrap();
            let synced = states.len() - 1;
            for _ in 0..10 {
                step(&mut states, &mut random);
            }
            for (number, cut) in cuts_of(&rig, &bucket).into_iter().enumerate() {
                count += 1;
                let context = format!("seed {seed}, round {round}, cut {number} {}", cut.what);
                let (rig, bucket, state) = recover(cut, &states, synced, &context);
                let again = cuts_of(&rig, &bucket);
                states[state].assert_same(&rig, &context);
                rig.assert_sound(&context);
                let there: Vec<_> = bucket.objects().into_keys().collect();
                assert_eq!(there, rig.blobs().into_keys().collect::<Vec<_>>(), "{context}: in the bucket");
                for cut in again.into_iter().enumerate().filter(|(at, _)| at % 7 == number % 7).map(|(_, cut)| cut) {
                    let context = format!("{context}, then {}", cut.what);
                    let (rig, ..) = recover(cut, &states[..=state], state, &context);
                    rig.collect().unwrap();
                    states[state].assert_same(&rig, &context);
                    rig.assert_sound(&context);
                }
            }
            // Go on from a cut, too.
            *bucket.cuts.lock() = Some(Vec::new());
            bucket.cut("at the end".into(), None);
            let cut = bucket.cuts.lock().take().unwrap().pop().unwrap();
            let at;
            (rig, bucket, at) = recover(cut, &states, synced, "between two rounds");
            states = vec![states[at].clone()];
        }
    }
    assert!(count > 100, "only {count} cuts: the test does not reach what it is for");
}
