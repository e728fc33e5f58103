//! Layout, reading back, sealing, starting again, limits on open files.

use nexus_kernel::content::{ContentStore, ContentSync, WriteHint};
use nexus_kernel::disk::Disk;
use nexus_kernel::model::{BlobState, Piece};
use nexus_kernel::{Command, Error, Ino, StoreId};

use super::rig::{Model, Rig, memory, small};
use crate::testing::Random;

fn hint(ino: u64, offset: u64) -> WriteHint {
    WriteHint { ino: Ino(ino), offset, size: offset, store: StoreId(0) }
}

#[test]
fn a_sequential_file_has_few_extents() {
    let rig = Rig::new();
    let (big, other) = (rig.create().unwrap(), rig.create().unwrap());
    let mut model = Model::default();
    let mut random = Random::new(1);
    for piece in 0..64u64 {
        // Another file's small writes come between.
        let data = random.bytes(8 << 10);
        rig.write(big, piece * (8 << 10), &data).unwrap();
        model.write(big, piece * (8 << 10), &data);
        rig.write(other, piece * 10, &data[..10]).unwrap();
        model.write(other, piece * 10, &data[..10]);
    }
    model.assert_same(&rig, "written");
    let extents = rig.extents(big).unwrap();
    // Three pieces until it counts as a stream, then one for each segment of 256 KiB.
    assert!(extents.len() <= 3 + 3, "{extents:?}");
    rig.assert_sound("written");
}

#[test]
fn requests_that_overtake_each_other_still_lie_in_order() {
    let rig = Rig::new();
    let ino = rig.create().unwrap();
    let mut model = Model::default();
    let mut random = Random::new(2);
    let order = [0u64, 1, 2, 3, 4, 5, 7, 6, 8, 11, 9, 10, 12, 13, 15, 14];
    for piece in order {
        let data = random.bytes(8 << 10);
        rig.write(ino, piece * (8 << 10), &data).unwrap();
        model.write(ino, piece * (8 << 10), &data);
    }
    model.assert_same(&rig, "written");
    let extents = rig.extents(ino).unwrap();
    let stream: Vec<_> = extents.iter().filter(|(at, _)| *at >= 4 * (8 << 10)).collect();
    let distance = |(at, extent): &&(u64, nexus_kernel::model::Extent)| extent.blob_offset.wrapping_sub(*at);
    assert!(stream.iter().all(|e| e.1.blob == stream[0].1.blob && distance(e) == distance(&stream[0])), "{stream:?}");
}

#[test]
fn pieces_carry_checksums_that_verify() {
    let rig = Rig::new();
    let data = Random::new(3).bytes(150_000);
    let staged = rig.store.write(hint(5, 0), &data).unwrap();
    let mut at = 0;
    for piece in &staged.pieces {
        assert_eq!(piece.crc, crc32c::crc32c(&data[at..at + piece.len as usize]));
        at += piece.len as usize;
        assert_eq!(rig.store.verify(piece), Ok(true));
        assert_eq!(rig.store.verify(&Piece { crc: piece.crc ^ 1, ..*piece }), Ok(false));
    }
    assert_eq!(at, data.len());
    let first = staged.pieces[0];
    assert_eq!(rig.store.verify(&Piece { blob: nexus_kernel::BlobId(77), ..first }), Ok(false), "no such blob");
    assert_eq!(rig.store.verify(&Piece { blob_offset: 1 << 40, ..first }), Ok(false), "beyond the end");
    let mut buf = [0];
    assert_eq!(rig.store.read(nexus_kernel::BlobId(77), 0, &mut buf), Err(Error::NotFound));
}

#[test]
fn what_is_staged_keeps_its_segment_open() {
    let rig = Rig::new();
    let ino = rig.create().unwrap();
    rig.write(ino, 0, b"kept").unwrap();
    let staged = rig.store.write(WriteHint { ino, offset: 4, size: 4, store: StoreId(0) }, b"late").unwrap();
    let blob = staged.pieces[0].blob;
    rig.collect().unwrap();
    assert_eq!(rig.blobs()[&blob].state, BlobState::Open);
    let now = rig.zone.now();
    let (pieces, store) = (staged.pieces.clone(), StoreId(0));
    rig.zone.propose(&Command::Write { ino, offset: 4, pieces, store, kill_privileges: false, now }).unwrap();
    drop(staged);
    let done = rig.collect().unwrap();
    assert_eq!((done.sealed, rig.blobs()[&blob].state), (1, BlobState::Sealed));
    assert_eq!(rig.read(ino).unwrap(), b"keptlate");
    rig.assert_sound("sealed");
}

#[test]
fn sealed_content_reads_the_same_and_survives_a_start() {
    let rig = Rig::new();
    let mut model = Model::default();
    let mut random = Random::new(4);
    for _ in 0..20 {
        let ino = rig.create().unwrap();
        let data = random.some_bytes(60_000);
        rig.write(ino, 0, &data).unwrap();
        model.write(ino, 0, &data);
    }
    let done = rig.collect().unwrap();
    assert!(done.sealed >= 5, "{done:?}");
    assert!(rig.blobs().values().all(|blob| blob.state == BlobState::Sealed));
    model.assert_same(&rig, "sealed");
    let again = rig.killed().unwrap();
    model.assert_same(&again, "started again");
    again.assert_sound("started again");
    for (id, blob) in again.blobs() {
        assert_eq!(again.store.sealed_len(id), Ok(blob.len));
    }
}

#[test]
fn an_open_segment_goes_on_after_a_kill() {
    let mut rig = Rig::new();
    let ino = rig.create().unwrap();
    for round in 0..5u8 {
        rig.write(ino, u64::from(round), &[round]).unwrap();
        rig = rig.killed().unwrap();
    }
    assert_eq!(rig.read(ino).unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(rig.blobs().len(), 1, "one start, one segment would waste files");
    rig.assert_sound("after five kills");
}

#[test]
fn ids_are_never_used_twice() {
    let mut rig = Rig::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let ino = rig.create().unwrap();
        rig.write(ino, 0, &[1; 100]).unwrap();
        let id = rig.extents(ino).unwrap()[0].1.blob;
        assert!(seen.insert(id), "{id} again");
        rig.unlink(ino).unwrap();
        rig.collect().unwrap();
        assert!(rig.blobs().is_empty() && rig.content_files().is_empty(), "{:?}", rig.content_files());
        rig = rig.killed().unwrap();
    }
}

#[test]
fn open_files_are_bounded() {
    let rig = Rig::new();
    let mut model = Model::default();
    let mut random = Random::new(5);
    for _ in 0..60 {
        let ino = rig.create().unwrap();
        let data = random.bytes(50_000);
        rig.write(ino, 0, &data).unwrap();
        model.write(ino, 0, &data);
        // Lanes, closed segments, and the cache.
        assert!(rig.store.open_files() <= 4 + 3 + 4, "{}", rig.store.open_files());
    }
    model.assert_same(&rig, "not sealed");
    assert!(rig.store.open_files() <= 4 + 3 + 4);
    rig.collect().unwrap();
    model.assert_same(&rig, "sealed");
    assert!(rig.store.open_files() <= 4, "{}", rig.store.open_files());
}

#[test]
fn a_missing_or_short_blob_refuses_the_start() {
    let rig = Rig::new();
    let ino = rig.create().unwrap();
    rig.write(ino, 0, &[1; 5000]).unwrap();
    let id = rig.extents(ino).unwrap()[0].1.blob;
    let name = format!("{:016x}", id.0);
    let message = |rig: &Rig, change: &dyn Fn(&nexus_drivers::disk::SimDisk, &std::path::Path)| {
        let disk = rig.disk.fork();
        let (path, _) = disk
            .files()
            .into_iter()
            .find(|(p, _)| p.extension().is_none_or(|e| e == "seg") && p.to_string_lossy().contains(&name))
            .unwrap();
        change(&disk, &path);
        match Rig::open(disk, rig.metadata.clone(), small()) {
            Err(Error::Corrupt(text)) => text,
            other => panic!("not refused: {:?}", other.err()),
        }
    };
    for sealed in [false, true] {
        let gone = message(&rig, &|disk, path| disk.remove(path).unwrap());
        assert!(gone.contains(&name) && gone.contains("missing"), "{gone}");
        let short = message(&rig, &|disk, path| disk.open(path).unwrap().set_len(4000).unwrap());
        assert!(short.contains(&name) && short.contains("4000"), "{short}");
        if !sealed {
            rig.collect().unwrap();
        }
    }
}

#[test]
fn damage_to_a_sealed_blob_is_found_by_a_deep_check() {
    let rig = Rig::new();
    let ino = rig.create().unwrap();
    rig.write(ino, 0, &Random::new(6).bytes(5000)).unwrap();
    rig.collect().unwrap();
    assert_eq!(rig.findings(true), []);
    let id = rig.extents(ino).unwrap()[0].1.blob;
    let (path, _) = rig.disk.files().into_iter().find(|(p, _)| p.ends_with(format!("{:016x}", id.0))).unwrap();
    rig.disk.damage(&path, 4321, 1).unwrap();
    assert_eq!(rig.findings(false), [], "only contents are damaged");
    let found = rig.findings(true);
    assert!(found.len() == 1 && found[0].text.contains(&format!("{:016x}", id.0)), "{found:?}");
}

#[test]
fn writes_wait_for_the_metadata() {
    let rig = Rig::new();
    let disk = std::sync::Arc::new(rig.disk.fork());
    let blobs = std::sync::Arc::new(nexus_drivers::object_store::MemoryStore::new());
    let store =
        crate::SegmentStore::open(disk, blobs, rig.clock.clone(), std::path::Path::new(super::rig::ROOT), small())
            .unwrap();
    assert!(matches!(store.write(hint(1, 0), b"x"), Err(Error::Unavailable(_))));
    let _ = memory();
}

#[test]
fn after_a_failed_sync_writes_are_refused() {
    let rig = Rig::new();
    let ino = rig.create().unwrap();
    rig.write(ino, 0, b"before").unwrap();
    rig.disk.fail_once_after(0, Error::Io("the disk went away".into()));
    assert_eq!(rig.store.sync(), Err(Error::Io("the disk went away".into())));
    assert!(matches!(rig.write(ino, 0, b"after"), Err(Error::Unavailable(_))));
    assert!(matches!(rig.store.sync(), Err(Error::Unavailable(_))));
    assert_eq!(rig.read(ino).unwrap(), b"before");
}

#[test]
fn a_sync_makes_every_segment_durable_with_its_name() {
    let rig = Rig::new();
    let mut random = Random::new(7);
    let mut pieces = Vec::new();
    for ino in 1..40 {
        let staged = rig.store.write(hint(ino, 0), &random.some_bytes(40_000)).unwrap();
        pieces.extend(staged.pieces.iter().copied());
    }
    rig.store.sync().unwrap();
    for seed in 0..20 {
        let cut = rig.disk.power_cut(seed);
        let blobs = std::sync::Arc::new(nexus_drivers::object_store::MemoryStore::new());
        let root = std::path::Path::new(super::rig::ROOT);
        let store =
            crate::SegmentStore::open(std::sync::Arc::new(cut), blobs, rig.clock.clone(), root, small()).unwrap();
        for piece in &pieces {
            assert_eq!(store.verify(piece), Ok(true), "seed {seed}: {piece:?}");
        }
    }
    let points = rig.disk.sync_points();
    rig.store.sync().unwrap();
    assert_eq!(rig.disk.sync_points(), points, "nothing new, nothing to sync");
}
