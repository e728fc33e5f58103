//! Random files against a model, while the collector seals, drops and compacts.

use nexus_kernel::Error;
use nexus_kernel::disk::Disk;

use super::rig::{Model, Rig};
use crate::testing::Random;

#[test]
fn files_stay_as_they_are_whatever_is_collected() {
    for seed in 0..25 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new();
        let mut model = Model::default();
        for step in 0..300 {
            let context = format!("seed {seed}, step {step}");
            match random.below(40) {
                0 => {
                    rig.collect().unwrap();
                }
                1 => {
                    rig.reclaimer.make_room().unwrap();
                }
                2 => {
                    rig.reclaimer.run_once().unwrap();
                }
                3 => rig = rig.killed().unwrap(),
                _ => model.step(&rig, &mut random).unwrap(),
            }
            if step % 25 == 0 {
                model.assert_same(&rig, &context);
                rig.assert_sound(&context);
            }
        }
        rig.collect().unwrap();
        model.assert_same(&rig, &format!("seed {seed}, end"));
        rig.assert_sound(&format!("seed {seed}, end"));
        // I5, the other half: what is dead does not stay.
        for (id, blob) in rig.blobs() {
            assert!(blob.live > 0, "seed {seed}: blob {id} is dead: {blob:?}");
            let sparse = blob.live * 2 < blob.len;
            assert!(
                !sparse || blob.state == nexus_kernel::model::BlobState::Open,
                "seed {seed}: blob {id} is sparse: {blob:?}"
            );
        }
        for ino in model.files.keys().copied().collect::<Vec<_>>() {
            rig.unlink(ino).unwrap();
        }
        rig.collect().unwrap();
        assert!(rig.content_files().is_empty(), "seed {seed}: {:?}", rig.content_files());
    }
}

#[test]
fn compaction_keeps_shared_content_shared() {
    let rig = Rig::new();
    let mut random = Random::new(11);
    let keep = rig.create().unwrap();
    let data = random.bytes(10_000);
    rig.write(keep, 0, &data).unwrap();
    let dead = [rig.create().unwrap(), rig.create().unwrap()];
    for ino in dead {
        rig.write(ino, 0, &random.bytes(25_000)).unwrap();
    }
    let clones: Vec<_> = (0..8)
        .map(|n| {
            let ino = rig.create().unwrap();
            rig.clone_range(keep, n * 100, ino, 0, 5_000).unwrap();
            ino
        })
        .collect();
    rig.collect().unwrap();
    let before = rig.extents(keep).unwrap()[0].1.blob;
    dead.iter().for_each(|ino| rig.unlink(*ino).unwrap());
    // Shared bytes count once for each file, so the blob is not sparse yet.
    assert_eq!(rig.collect().unwrap().copied_bytes, 0);
    for ino in &clones[2..] {
        rig.unlink(*ino).unwrap();
    }
    let done = rig.collect().unwrap();
    assert_eq!((done.copied_bytes, done.moved_bytes), (10_000, 20_000), "each byte once, for three files");
    let after: Vec<_> = [keep, clones[0], clones[1]].iter().map(|ino| rig.extents(*ino).unwrap()[0].1).collect();
    assert!(after.iter().all(|extent| extent.blob == after[0].blob && extent.blob != before));
    assert_eq!(after[2].blob_offset, after[0].blob_offset + 100);
    assert_eq!(rig.read(keep).unwrap(), data);
    assert_eq!(rig.read(clones[1]).unwrap(), data[100..5_100]);
    rig.assert_sound("compacted");
}

#[test]
fn a_blob_that_cannot_be_read_does_not_hold_up_the_others() {
    let rig = Rig::new();
    let mut random = Random::new(12);
    // Four segments with six files each.
    let files: Vec<_> = (0..24)
        .map(|_| {
            let ino = rig.create().unwrap();
            rig.write(ino, 0, &random.bytes(10_000)).unwrap();
            ino
        })
        .collect();
    rig.collect().unwrap();
    let lost = rig.extents(files[0]).unwrap()[0].1.blob;
    let (path, _) = rig.disk.files().into_iter().find(|(p, _)| p.ends_with(format!("{:016x}", lost.0))).unwrap();
    rig.disk.open(&path).unwrap().set_len(100).unwrap();
    for ino in files.iter().enumerate().filter(|(n, _)| n % 6 != 0).map(|(_, ino)| ino) {
        rig.unlink(*ino).unwrap();
    }
    assert!(matches!(rig.reclaimer.run_once(), Err(Error::Corrupt(_))), "it is told");
    let done = rig.collect().unwrap();
    assert_eq!(done.copied_bytes, 0, "the others were compacted at once");
    let blobs = rig.blobs();
    assert!(blobs.contains_key(&lost));
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    for ino in files.iter().step_by(6).skip(1) {
        assert_eq!(rig.read(*ino).unwrap().len(), 10_000);
    }
    assert!(matches!(rig.read(files[0]), Err(Error::Corrupt(_))));
}
