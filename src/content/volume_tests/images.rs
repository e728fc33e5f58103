//! Little content is synced by the log alone: what that must not break.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nexus_drivers::disk::SimDisk;

use super::rig::{Metadata, Model, ROOT, Rig, small};
use crate::testing::Random;

fn open(disk: SimDisk, context: &str) -> Rig {
    Rig::open(disk, Metadata::Logged, small()).unwrap_or_else(|error| panic!("{context}: {error}"))
}

fn watch(disk: &SimDisk) -> Arc<Mutex<Vec<PathBuf>>> {
    let synced = Arc::<Mutex<Vec<PathBuf>>>::default();
    let sink = synced.clone();
    disk.on_sync(move |_, point| sink.lock().unwrap().push(point.path.clone()));
    synced
}

#[test]
fn a_small_write_is_synced_by_one_sync_of_the_log() {
    let rig = open(SimDisk::new(), "new");
    let ino = rig.create().unwrap();
    rig.write(ino, 0, b"the first write makes a segment").unwrap();
    let synced = watch(&rig.disk);
    let take = || std::mem::take(&mut *synced.lock().unwrap());
    rig.zone.sync().unwrap();
    let segments = Path::new(ROOT).join("segments");
    assert!(take().contains(&segments), "the name of a segment is durable before it has images");
    for round in 0..5u64 {
        rig.write(ino, round * 4096, &[round as u8; 4096]).unwrap();
        rig.zone.sync().unwrap();
        let paths = take();
        assert!(paths.len() == 1 && paths[0].starts_with(Path::new(ROOT).join("log")), "{paths:?}");
        rig.zone.sync().unwrap();
        assert!(take().is_empty(), "nothing is new");
    }
    rig.create().unwrap();
    rig.zone.sync().unwrap();
    assert_eq!(take().len(), 1, "no content is new");
    rig.write(ino, 0, &[7; 20_000]).unwrap();
    rig.zone.sync().unwrap();
    let paths = take();
    assert!(paths.iter().any(|path| path.starts_with(&segments)), "too much for the log: {paths:?}");
}

/// Small synced writes, with sealing, dropping and checkpoints in between. The power is cut
/// after each sync, at every sync of the recovery from that, and once more.
#[test]
fn small_syncs_survive_power_cuts_and_power_cuts_while_recovering() {
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let mut rig = open(SimDisk::new(), "new");
        let mut model = Model::default();
        for _ in 0..10 {
            model.step(&rig, &mut random).unwrap();
        }
        for round in 0..60u64 {
            let context = format!("seed {seed}, round {round}");
            for _ in 0..1 + random.below(2) {
                model.step(&rig, &mut random).unwrap();
            }
            rig.zone.sync().unwrap();
            match random.below(8) {
                0 => drop(rig.collect().unwrap()),
                1 => rig.zone.checkpoint().unwrap(),
                _ => {}
            }
            let cut = rig.disk.power_cut(seed * 1000 + round);
            let recoveries = Arc::new(Mutex::new(Vec::new()));
            let sink = recoveries.clone();
            cut.on_sync(move |disk, point| {
                sink.lock().unwrap().push((point.clone(), disk.power_cut(round + point.number)));
            });
            let once = open(cut.clone(), &context);
            cut.clear_hook();
            recoveries.lock().unwrap().truncate(12);
            model.assert_same(&once, &context);
            once.assert_sound(&context);
            for (point, again) in recoveries.lock().unwrap().drain(..) {
                let context = format!("{context}, cut again at {point:?}");
                let again = open(again, &context);
                model.assert_same(&again, &context);
                again.assert_sound(&context);
            }
            if random.below(4) == 0 {
                // Places that nobody knows are used anew; then on from a second cut.
                let ino = once.create().unwrap();
                let data = random.bytes(5000);
                once.write(ino, 0, &data).unwrap();
                model.write(ino, 0, &data);
                once.zone.sync().unwrap();
                rig = open(once.disk.power_cut(round), &context);
                model.assert_same(&rig, &context);
            }
        }
    }
}

#[test]
fn a_volume_that_is_only_looked_at_shows_images_and_is_not_changed() {
    let mut seen = 0;
    for seed in 0..20 {
        let rig = open(SimDisk::new(), "new");
        let mut model = Model::default();
        let mut random = Random::new(seed);
        let ino = rig.create().unwrap();
        rig.write(ino, 0, b"a segment").unwrap();
        model.write(ino, 0, b"a segment");
        rig.zone.sync().unwrap();
        for _ in 0..10 {
            let (at, data) = (random.below(9000), random.bytes(2000));
            rig.write(ino, at, &data).unwrap();
            model.write(ino, at, &data);
            rig.zone.sync().unwrap();
        }
        let left = rig.disk.power_cut(seed);
        let segments = |disk: &SimDisk| {
            let files = disk.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
            files.map(|(path, len)| (read(disk, &path, len), path)).collect::<Vec<_>>()
        };
        let before = segments(&left);
        let found = Rig::open(left.clone(), Metadata::LoggedReadOnly, small()).unwrap();
        model.assert_same(&found, "looked at");
        found.assert_sound("looked at");
        assert!(segments(&left) == before, "seed {seed}: a segment was changed");
        let recovered = open(left.clone(), "recovered");
        model.assert_same(&recovered, "recovered");
        seen += usize::from(segments(&left) != before);
    }
    assert!(seen > 5, "hardly any cut lost content: {seen} of 20");
}

fn read(disk: &SimDisk, path: &Path, len: u64) -> Vec<u8> {
    use nexus_kernel::disk::Disk;
    let mut bytes = vec![0; len as usize];
    disk.open(path).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes
}
