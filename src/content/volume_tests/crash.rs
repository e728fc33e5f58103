//! Kills and power cuts at every step of sealing, dropping and compacting.

use std::sync::{Arc, Mutex};

use nexus_drivers::disk::SimDisk;
use nexus_kernel::Error;

use super::rig::{Metadata, Model, Rig, memory, small};
use crate::testing::Random;

/// A volume with segments to seal, blobs to drop and blobs to compact.
fn prepared(rig: &Rig, random: &mut Random) -> Model {
    let mut model = Model::default();
    let mut files = Vec::new();
    for _ in 0..12 {
        let ino = rig.create().unwrap();
        let data = random.bytes(20_000);
        rig.write(ino, 0, &data).unwrap();
        model.write(ino, 0, &data);
        files.push(ino);
    }
    rig.collect().unwrap();
    for ino in files.drain(..8) {
        rig.unlink(ino).unwrap();
        model.files.remove(&ino);
    }
    rig.clone_range(files[0], 500, files[1], 0, 3000).unwrap();
    let shared = model.files[&files[0]][500..3500].to_vec();
    model.write(files[1], 0, &shared);
    for ino in files {
        let data = random.bytes(3000);
        rig.write(ino, 15_000, &data).unwrap();
        model.write(ino, 15_000, &data);
    }
    model
}

#[test]
fn a_kill_at_any_step_leaves_nothing_that_the_next_pass_does_not_finish() {
    let mut steps = 0;
    for step in 0.. {
        let rig = Rig::new();
        let model = prepared(&rig, &mut Random::new(21));
        rig.disk.fail_after(step, Error::Io("killed".into()));
        let whole = rig.collect();
        rig.disk.heal();
        let again = rig.killed().unwrap();
        let context = format!("killed at step {step}");
        model.assert_same(&again, &context);
        again.assert_sound(&context);
        again.collect().unwrap();
        model.assert_same(&again, &context);
        again.assert_sound(&context);
        let blobs: Vec<_> = again.blobs().keys().copied().collect();
        let mut files = again.content_files();
        files.retain(|path| !blobs.iter().any(|id| path.to_string_lossy().contains(&format!("{:016x}", id.0))));
        assert!(files.is_empty(), "{context}: left over: {files:?}");
        if whole.is_ok() {
            steps = step;
            break;
        }
    }
    assert!(steps > 30, "only {steps} steps: the test does not reach what it is for");
}

#[test]
fn a_failure_at_any_step_is_survived_without_a_restart_or_refuses_writes() {
    for step in 0..200 {
        let rig = Rig::new();
        let mut model = prepared(&rig, &mut Random::new(22));
        rig.disk.fail_once_after(step, Error::NoSpace);
        let _ = rig.collect();
        rig.disk.heal();
        let context = format!("failed at step {step}");
        model.assert_same(&rig, &context);
        let ino = *model.files.keys().next().unwrap();
        match rig.write(ino, 7, b"afterwards") {
            Ok(()) => {
                model.write(ino, 7, b"afterwards");
                rig.collect().unwrap();
                rig.assert_sound(&context);
            }
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{context}: {error}"),
        }
        model.assert_same(&rig, &context);
    }
}

/// I2, I3 and I5 under power cuts, with metadata on the same disk.
#[test]
fn a_power_cut_at_any_sync_of_a_pass_loses_nothing_that_was_synced() {
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let mut rig = Rig::open(SimDisk::new(), Metadata::Logged, small()).unwrap();
        let mut model = Model::default();
        for round in 0..6 {
            for _ in 0..40 {
                model.step(&rig, &mut random).unwrap();
            }
            rig.zone.sync().unwrap();
            let images = Arc::new(Mutex::new(Vec::new()));
            let sink = images.clone();
            rig.disk.on_sync(move |disk, point| sink.lock().unwrap().push(disk.power_cut(seed ^ point.number)));
            rig.collect().unwrap();
            rig.disk.clear_hook();
            let images = std::mem::take(&mut *images.lock().unwrap());
            assert!(images.len() > 3, "seed {seed}, round {round}");
            for (point, image) in images.into_iter().enumerate() {
                let context = format!("seed {seed}, round {round}, cut at sync {point}");
                let cut =
                    Rig::open(image, Metadata::Logged, small()).unwrap_or_else(|error| panic!("{context}: {error}"));
                model.assert_same(&cut, &context);
                cut.assert_sound(&context);
                cut.collect().unwrap();
                model.assert_same(&cut, &context);
                cut.assert_sound(&context);
            }
            // Go on from a cut, too.
            rig.zone.sync().unwrap();
            let image = rig.disk.power_cut(seed * 31 + round);
            rig = Rig::open(image, Metadata::Logged, small()).unwrap();
            model.assert_same(&rig, &format!("seed {seed}, round {round}, cut after it"));
        }
    }
}

/// A log holds what it does not know to be durable against the content. That content may be
/// gone by then, with all that referred to it.
#[test]
fn no_recovery_misses_content_that_was_dropped() {
    for seed in 0..30 {
        let rig = Rig::open(SimDisk::new(), Metadata::Logged, small()).unwrap();
        let mut random = Random::new(seed);
        let mut model = Model::default();
        let (kept, gone) = (rig.create().unwrap(), rig.create().unwrap());
        // In a segment of its own, and nobody syncs.
        for piece in 0..12 {
            rig.write(gone, piece * 8192, &random.bytes(8192)).unwrap();
        }
        rig.unlink(gone).unwrap();
        // I1: this was acknowledged, and comes behind in the log.
        let data = random.bytes(5000);
        rig.write(kept, 0, &data).unwrap();
        model.write(kept, 0, &data);
        let before = rig.content_files().len();
        rig.reclaimer.make_room().unwrap();
        assert!(rig.content_files().len() < before);
        let images = [rig.killed(), Rig::open(rig.disk.power_cut(seed), Metadata::Logged, small())];
        for (image, how) in images.into_iter().zip(["killed", "power cut"]) {
            let (image, context) = (image.unwrap(), format!("seed {seed}, {how}"));
            model.assert_same(&image, &context);
            image.assert_sound(&context);
            assert_eq!(image.zone.inode(gone).unwrap(), None, "{context}");
        }
    }
}

#[test]
fn what_no_metadata_knows_is_deleted_and_nothing_else() {
    let rig = Rig::new();
    let model = prepared(&rig, &mut Random::new(23));
    // The content of a volume whose last commands were lost: here, all of them.
    let other = Rig::open(rig.disk.fork(), memory(), small()).unwrap();
    other.collect().unwrap();
    assert!(other.content_files().is_empty(), "{:?}", other.content_files());
    model.assert_same(&rig, "the first one is not touched");
}
