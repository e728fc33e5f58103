//! A full disk: writers are told, nothing is lost, and space that is given back is used again.

use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_kernel::content::ContentStore;
use nexus_kernel::{Error, Zone};

use super::rig::{Model, Rig, eager, memory, small};
use crate::testing::Random;
use crate::{ContentConfig, ReclaimConfig, Reclaimer};

const CAPACITY: u64 = 4 << 20;

fn full_rig() -> (Rig, Model) {
    let disk = SimDisk::new();
    disk.set_capacity(Some(CAPACITY));
    let rig = Rig::open(disk, memory(), small()).unwrap();
    let mut model = Model::default();
    let mut random = Random::new(31);
    loop {
        let ino = rig.create().unwrap();
        model.files.insert(ino, Vec::new());
        let data = random.bytes(30_000);
        match rig.write(ino, 0, &data) {
            Ok(()) => model.write(ino, 0, &data),
            Err(Error::NoSpace) => return (rig, model),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_a_reserve() {
    let (rig, model) = full_rig();
    assert!(model.files.len() > 100, "only {} files", model.files.len());
    let free = CAPACITY - rig.disk.used_bytes();
    assert!(free >= 32 << 10, "{free} bytes left of the reserve");
    assert_eq!(rig.store.check_space(1 << 20), Err(Error::NoSpace));
    assert!(rig.store.space().unwrap().available < 64 << 10);
    model.assert_same(&rig, "full");
    rig.collect().unwrap();
    model.assert_same(&rig, "full, and sealed");
    rig.assert_sound("full");
}

#[test]
fn deleting_makes_room() {
    let (rig, mut model) = full_rig();
    // Every other file: no blob dies as a whole, so all of it has to be compacted.
    let victims: Vec<_> = model.files.keys().copied().step_by(2).collect();
    for ino in victims {
        rig.unlink(ino).unwrap();
        model.files.remove(&ino);
    }
    for _ in 0..3 {
        rig.reclaimer.make_room().unwrap();
    }
    model.assert_same(&rig, "room made");
    let mut written = 0;
    let mut random = Random::new(32);
    let ino = rig.create().unwrap();
    while rig.store.check_space(100_000).is_ok() {
        let data = random.bytes(10_000);
        rig.write(ino, written, &data).unwrap();
        model.write(ino, written, &data);
        written += 10_000;
    }
    assert!(written > CAPACITY / 4, "only {written} bytes could be written again");
    model.assert_same(&rig, "full again");
    rig.assert_sound("full again");
}

#[test]
fn a_writer_waits_for_the_collector_to_make_room() {
    let (rig, mut model) = full_rig();
    let patient = ContentConfig { full_wait_ms: 60_000, ..small() };
    let rig = Rig::open(rig.disk.fork(), rig.metadata.clone(), patient).unwrap();
    let victims: Vec<_> = model.files.keys().copied().take(40).collect();
    for ino in victims {
        rig.unlink(ino).unwrap();
        model.files.remove(&ino);
    }
    let zones: Vec<Arc<dyn Zone>> = vec![rig.zone.clone()];
    let config = ReclaimConfig { interval_ms: 3_600_000, ..eager() };
    let thread =
        Reclaimer::new(rig.store.clone(), crate::ZoneSet::new(zones), rig.clock.clone(), config).spawn().unwrap();
    // The thread listens from its first pass on; until then a full disk is told at once.
    let ino = rig.create().unwrap();
    let data = Random::new(33).bytes(50_000);
    let wrote = (0..1_000_000).any(|_| rig.write(ino, 0, &data).is_ok());
    assert!(wrote, "no room was made");
    model.write(ino, 0, &data);
    thread.stop();
    model.assert_same(&rig, "room was made");
    rig.assert_sound("room was made");
}

#[test]
fn compaction_on_a_full_disk_gives_up_without_harm() {
    let (rig, mut model) = full_rig();
    rig.collect().unwrap();
    let victims: Vec<_> = model.files.keys().copied().step_by(2).collect();
    for ino in victims {
        rig.unlink(ino).unwrap();
        model.files.remove(&ino);
    }
    // Somebody else takes all that is left.
    rig.disk.set_capacity(Some(rig.disk.used_bytes()));
    rig.clock.advance_ms(10_000);
    rig.reclaimer.make_room().unwrap();
    model.assert_same(&rig, "no room for copies");
    rig.disk.set_capacity(Some(CAPACITY));
    rig.clock.advance_ms(10_000);
    let done = rig.reclaimer.make_room().unwrap();
    assert!(done.freed_bytes > CAPACITY / 8, "{done:?}");
    model.assert_same(&rig, "compacted");
    rig.assert_sound("compacted");
}
