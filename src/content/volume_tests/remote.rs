//! Sealed blobs in a store that has no local files.

use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_drivers::object_store::MemoryStore;
use nexus_kernel::Error;

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
    let sums = crate::store::FrameSums::of_file(blob, &*other, len).unwrap().encode();
    let path = std::path::Path::new(super::rig::ROOT).join(format!("sums/{:016x}.sum", blob.0));
    nexus_kernel::disk::Disk::open(&rig.disk, &path).unwrap().write_at(&sums, 0).unwrap();
    assert!(matches!(rig.read(ino), Err(Error::Corrupt(_))));
    assert_eq!(rig.findings(true).len(), 1);
}
