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
    heads: usize,
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
        self.uploads.lock().heads += 1;
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
fn segments_are_sent_side_by_side() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    rig.clock.advance_ms(1_000_000);
    let pass = rig.reclaimer.run_once().unwrap();
    let uploads = far.uploads.lock();
    assert!((2..=8).contains(&uploads.most) && uploads.under_way == 0, "{} at once", uploads.most);
    assert!(pass.sealed >= 4 && pass.sent == pass.sealed && uploads.tries as u64 == pass.sealed, "{pass:?}");
    drop(uploads);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent");
}

/// A list tells of many objects at once; what it does not tell of is asked for.
#[test]
fn a_check_asks_for_no_object_that_is_listed() {
    let far = Arc::new(Far::default());
    let (rig, _) = volume(&far);
    rig.collect().unwrap();
    let blobs: Vec<BlobId> = rig.blobs().into_keys().collect();
    assert!(blobs.len() >= 4);
    far.uploads.lock().heads = 0;
    let findings = rig.findings(false);
    assert_eq!((findings.len(), far.uploads.lock().heads), (0, 0), "{findings:?}");
    nexus_kernel::block_on(far.blobs.delete(blobs[1])).unwrap();
    let (cut, bytes) = (blobs[2], b"short");
    nexus_kernel::block_on(far.blobs.delete(cut)).unwrap();
    nexus_kernel::block_on(far.blobs.put(cut, &mut nexus_kernel::conformance::object_store::Memory::new(&bytes[..])))
        .unwrap();
    let findings = rig.findings(false);
    assert_eq!((findings.len(), far.uploads.lock().heads), (2, 1), "{findings:?}");
}

#[test]
fn a_store_that_is_away_ends_the_pass_and_loses_nothing() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    far.uploads.lock().away = true;
    rig.clock.advance_ms(1_000_000);
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Unavailable(_))));
    // Each of those who send may have begun one.
    assert!((1..=8).contains(&far.uploads.lock().tries));
    far.uploads.lock().away = false;
    assert!(rig.collect().unwrap().sealed >= 4);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.assert_sound("sent later");
}

/// An upload that waits for another one meets the next segment of the file, which is full only later.
#[test]
fn what_is_closed_meanwhile_is_sent_by_the_same_pass() {
    let far = Arc::new(Far::default());
    let config = crate::ContentConfig { stream_segment_bytes: 64 << 10, ..small() };
    let rig = Rig::over(SimDisk::new(), memory(), far.clone(), config).unwrap();
    let (ino, data) = (rig.create().unwrap(), Random::new(1).bytes(256 << 10));
    let begun = |count| {
        let mut uploads = far.uploads.lock();
        far.begun.wait_while_for(&mut uploads, |uploads| uploads.tries < count, PATIENCE);
        uploads.tries >= count
    };
    rig.write(ino, 0, &data[..100 << 10]).unwrap();
    assert_eq!(rig.store.settled().len(), 1, "one is full");
    std::thread::scope(|scope| {
        let pass = scope.spawn(|| rig.reclaimer.run_once().unwrap());
        assert!(begun(1));
        rig.write(ino, 100 << 10, &data[100 << 10..]).unwrap();
        assert!(begun(2), "it was not sent");
        assert!(pass.join().unwrap().sent >= 2);
    });
    assert_eq!(rig.read(ino).unwrap(), data);
    rig.assert_sound("sent while it was written");
}

#[test]
fn who_waits_for_several_segments_has_them_sent_side_by_side() {
    let far = Arc::new(Far::default());
    let (rig, files) = volume(&far);
    let blobs: Vec<_> = crate::metadata::zone_blobs(&*rig.zone).unwrap().into_keys().collect();
    nexus_kernel::ContentStore::upload(&*rig.store, &blobs).unwrap();
    assert!((2..=8).contains(&far.uploads.lock().most));
    assert_eq!(rig.store.unsealed_bytes(u64::MAX), 0);
    for (ino, data) in files {
        assert_eq!(rig.read(ino).unwrap(), data);
    }
    rig.collect().unwrap();
    rig.assert_sound("uploaded");
}

/// What was written is sent a second after the last write. Who writes a little again and again makes few
/// objects so, and one each ten seconds then; nothing waits longer than half a minute.
#[test]
fn what_was_written_is_sent_soon_and_in_few_objects() {
    let far = Arc::new(Far::default());
    far.uploads.lock().most = 2;
    let rig = Rig::over(SimDisk::new(), memory(), far.clone(), small()).unwrap();
    let sent = || far.uploads.lock().tries;
    let pass = |ms| {
        rig.clock.advance_ms(ms);
        rig.reclaimer.run_once().unwrap();
    };
    // Many files that are made one soon after the other go together.
    for _ in 0..10 {
        let ino = rig.create().unwrap();
        rig.write(ino, 0, b"small").unwrap();
        pass(500);
        assert_eq!(sent(), 0, "more came");
    }
    assert!(rig.reclaimer.until_due(10_000) <= 500);
    pass(500);
    assert_eq!((sent(), rig.store.unsealed_bytes(u64::MAX)), (1, 0));
    assert_eq!(rig.reclaimer.until_due(10_000), 10_000, "nothing waits");
    // A line each two seconds, for ten minutes.
    let log = rig.create().unwrap();
    for line in 0..300 {
        rig.write(log, line * 4, b"line").unwrap();
        pass(2_000);
    }
    // Some of them are those that small ones were merged into.
    assert!((50..=80).contains(&sent()), "{} objects", sent());
    // One each half a second is never quiet.
    let before = sent();
    for line in 300..540 {
        rig.write(log, line * 4, b"line").unwrap();
        pass(500);
    }
    assert!((3..=6).contains(&(sent() - before)), "{} objects in two minutes", sent() - before);
    pass(1_000_000);
    assert_eq!(rig.store.unsealed_bytes(u64::MAX), 0);
    assert_eq!(rig.read(log).unwrap(), b"line".repeat(540));
    rig.assert_sound("sent soon");
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
