//! Sealed blobs in a store that has no local files.

use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::conformance::object_store::Memory;
use nexus_kernel::{BlobId, Error, ObjectStore, block_on};

use super::rig::{Model, Rig, memory, small};
use crate::testing::Random;

#[test]
fn reads_are_checked_frame_by_frame() {
    let blobs = Arc::new(MemoryStore::new());
    let rig = Rig::over(SimDisk::new(), memory(), blobs, small()).unwrap();
    let mut model = Model::default();
    let mut random = Random::new(41);
    for _ in 0..60 {
        model.step(&rig, &mut random).unwrap();
    }
    rig.collect().unwrap();
    assert!(rig.blobs().keys().all(|id| rig.store.place_of(*id) == crate::store::Where::Elsewhere));
    assert!(
        rig.disk.files().iter().all(|(path, _)| path.extension().is_none_or(|e| e != "seg")),
        "local copies are gone"
    );
    model.assert_same(&rig, "from the store");
    rig.assert_sound("from the store");
}

#[test]
fn a_wrong_checksum_is_an_error_not_wrong_data() {
    let rig = Rig::over(SimDisk::new(), memory(), Arc::new(MemoryStore::new()), small()).unwrap();
    let ino = rig.create().unwrap();
    let data = Random::new(42).bytes(20_000);
    rig.write(ino, 0, &data).unwrap();
    rig.collect().unwrap();
    let blob = rig.extents(ino).unwrap()[0].1.blob;
    let len = rig.blobs()[&blob].len;
    // Checksums that are right in themselves, for other bytes.
    let other = nexus_kernel::disk::Disk::create(&rig.disk, std::path::Path::new("/other")).unwrap();
    other.write_at(&vec![1; len as usize], 0).unwrap();
    let sums = crate::store::FrameSums::of_file(blob, &*other, len, 4096).unwrap().encode();
    let path = std::path::Path::new(super::rig::ROOT).join(format!("sums/{:016x}.sum", blob.0));
    nexus_kernel::disk::Disk::open(&rig.disk, &path).unwrap().write_at(&sums, 0).unwrap();
    assert!(matches!(rig.read(ino), Err(Error::Corrupt(_))));
    assert_eq!(rig.findings(true).len(), 1);
}

/// What a survey counts is what a collection then frees, and a scrub goes over every blob, in
/// as many steps as it takes.
#[test]
fn a_survey_counts_and_a_scrub_reads_all() {
    let blobs = Arc::new(MemoryStore::new());
    let rig = Rig::over(SimDisk::new(), memory(), blobs.clone(), small()).unwrap();
    let inos: Vec<_> = (0..6).map(|_| rig.create().unwrap()).collect();
    for (n, ino) in inos.iter().enumerate() {
        rig.write(*ino, 0, &Random::new(n as u64).bytes(30_000)).unwrap();
        rig.collect().unwrap();
    }
    let collector = &rig.reclaimer;
    assert_eq!(collector.survey().unwrap(), crate::Garbage::default());
    let scrub = || {
        let (mut at, mut steps, mut damage, mut bytes) = (BlobId::NONE, 0, Vec::new(), 0);
        loop {
            let done = collector.scrub(at, 1).unwrap();
            steps += 1;
            bytes += done.bytes;
            damage.extend(done.damage);
            match done.after {
                Some(after) => at = after,
                None => return (steps, bytes, damage),
            }
        }
    };
    let known = rig.blobs();
    let (steps, bytes, damage) = scrub();
    assert_eq!((steps, damage.len()), (known.len(), 0));
    assert_eq!(bytes, known.values().map(|blob| blob.len).sum::<u64>());
    // One object loses its content.
    let wrong = *known.keys().next_back().unwrap();
    let len = known[&wrong].len as usize;
    block_on(blobs.delete(wrong)).unwrap();
    block_on(blobs.put(wrong, &mut Memory::new(vec![0; len]))).unwrap();
    assert_eq!(scrub().2.len(), 1);
    rig.unlink(inos[0]).unwrap();
    let dead = collector.survey().unwrap();
    assert!(dead.dead + dead.sparse > 0 && dead.dead_bytes + dead.sparse_bytes >= 30_000, "{dead:?}");
}
