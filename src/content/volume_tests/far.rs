//! Segments on their way to a store that is far away, which takes its time or does not answer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};
use nexus_kernel::{BlobId, Error, Ino, ObjectStore, Result};
use parking_lot::{Condvar, Mutex};

use super::rig::{Rig, memory, small};
use crate::testing::Random;

/// Longest that an upload waits for another one, so that the test ends if none comes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Far {
    blobs: MemoryStore,
    uploads: Mutex<Uploads>,
    begun: Condvar,
}

#[derive(Default)]
struct Uploads {
    away: bool,
    /// What is put is there, and whoever put it is not told.
    mute: bool,
    tries: usize,
    under_way: usize,
    most: usize,
}

impl ObjectStore for Far {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        let mut uploads = self.uploads.lock();
        uploads.tries += 1;
        if uploads.away {
            return Box::pin(std::future::ready(Err(Error::Unavailable("away".into()))));
        }
        uploads.under_way += 1;
        uploads.most = uploads.most.max(uploads.under_way);
        self.begun.notify_all();
        self.begun.wait_while_for(&mut uploads, |uploads| uploads.most < 2, PATIENCE);
        drop(uploads);
        let put = nexus_kernel::block_on(self.blobs.put(id, source));
        let mut uploads = self.uploads.lock();
        uploads.under_way -= 1;
        let mute = put.is_ok() && uploads.mute;
        Box::pin(std::future::ready(if mute { Err(Error::Unavailable("no answer".into())) } else { put }))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.blobs.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.blobs.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.blobs.delete(id)
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        if self.uploads.lock().away {
            return Box::pin(std::future::ready(Err(Error::Unavailable("away".into()))));
        }
        self.blobs.list(after, limit)
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// A volume with several segments to seal, and its files with their content.
fn volume(far: &Arc<Far>) -> (Rig, Vec<(Ino, Vec<u8>)>) {
    let rig = Rig::over(SimDisk::new(), memory(), far.clone(), small()).unwrap();
    let write = |seed| {
        let (ino, data) = (rig.create().unwrap(), Random::new(seed).bytes(30_000));
        rig.write(ino, 0, &data).unwrap();
        (ino, data)
    };
    let files = (0..12).map(write).collect();
    (rig, files)
}

#[test]
fn two_segments_are_sent_side_by_side() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    rig.clock.advance_ms(1_000_000);
    let pass = rig.reclaimer.run_once().unwrap();
    let uploads = far.uploads.lock();
    assert_eq!((uploads.most, uploads.under_way), (2, 0));
    assert!(pass.sealed >= 4 && pass.sent == pass.sealed && uploads.tries as u64 == pass.sealed, "{pass:?}");
    drop(uploads);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent");
}

#[test]
fn a_store_that_is_away_ends_the_pass_and_loses_nothing() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    far.uploads.lock().away = true;
    rig.clock.advance_ms(1_000_000);
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))));
    // Each of the two who send may have begun one.
    assert!((1..=2).contains(&far.uploads.lock().tries));
    far.uploads.lock().away = false;
    assert!(rig.collect().unwrap().sealed >= 4);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent later");
}

/// A flush of files sends what there is of them, waits for nothing that is written later, and
/// leaves other files' segments alone.
#[test]
fn files_are_flushed_without_others() {
    let far = Arc::new(Far::default());
    // Nobody waits for a second upload.
    far.uploads.lock().most = 2;
    let rig = Rig::over(SimDisk::new(), memory(), far, small()).unwrap();
    let zone = rig.zone.as_ref();
    let (wanted, other) = (rig.create().unwrap(), rig.create().unwrap());
    rig.write(wanted, 0, &Random::new(1).bytes(50_000)).unwrap();
    rig.write(other, 0, &Random::new(2).bytes(200_000)).unwrap();
    let mark = rig.store.newest_segment();
    assert_eq!(rig.store.flush_files(zone, &[wanted], mark, false).unwrap(), 50_000);
    rig.store.flush_files(zone, &[wanted], mark, true).unwrap();
    // More than fits into what is left of the segments that are meant.
    rig.write(wanted, 50_000, &Random::new(3).bytes(200_000)).unwrap();
    let mut steps = 0;
    while rig.store.flush_files(zone, &[wanted], mark, true).unwrap() > 0 {
        steps += 1;
        assert!(steps < 100, "it does not end");
    }
    assert!(rig.store.residency(zone, &[wanted]).unwrap().only_here > 0, "what came later was waited for");
    assert!(rig.store.residency(zone, &[other]).unwrap().only_here > 0, "others were sent, too");
    assert_eq!(rig.store.flush_files(zone, &[wanted, other], 0, true).unwrap(), 0);
}

/// The daemon ends before it is told that an object was stored, and the store is away when the next one
/// starts: what is written then must not go into the segment that is stored already.
#[test]
fn a_segment_that_may_be_stored_takes_no_more_writes() {
    for (mute, away) in [(true, true), (true, false), (false, true)] {
        let far = Arc::new(Far::default());
        *far.uploads.lock() = Uploads { mute, away: !mute, most: 2, ..Uploads::default() };
        let disk = SimDisk::new();
        let metadata = memory();
        let old = Random::new(1).bytes(30_000);
        let new = Random::new(2).bytes(20_000);
        let rig = Rig::over(disk.clone(), metadata.clone(), far.clone(), small()).unwrap();
        let ino = rig.create().unwrap();
        rig.write(ino, 0, &old).unwrap();
        rig.clock.advance_ms(1_000_000);
        assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))), "mute {mute} away {away}");
        drop(rig);
        far.uploads.lock().away = away;
        let rig = Rig::over(disk, metadata, far.clone(), small()).unwrap();
        rig.write(ino, 30_000, &new).unwrap();
        *far.uploads.lock() = Uploads { most: 2, ..Uploads::default() };
        rig.clock.advance_ms(1_000_000);
        rig.collect().unwrap();
        assert_eq!(rig.store.residency(&*rig.zone, &[ino]).unwrap().only_here, 0, "mute {mute} away {away}");
        assert_eq!(rig.read(ino).unwrap(), [old, new].concat(), "mute {mute} away {away}");
        rig.assert_sound("sent by the next");
    }
}
