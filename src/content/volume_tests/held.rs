//! Content of zones that are not open.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_drivers::object_store::LocalDiskStore;
use nexus_kernel::direct_zone::DirectZone;
use nexus_kernel::{BlobId, Zone};

use super::rig::{ROOT, Rig, TestClock, eager, small};
use crate::testing::Random;
use crate::{Held, Reclaimer, SegmentStore, ZoneSet};

/// A start at which the zone that has the content is not open, but another one.
struct Without {
    disk: SimDisk,
    clock: Arc<TestClock>,
    zones: ZoneSet,
    reclaimer: Reclaimer,
}

impl Without {
    fn new(rig: &Rig, held: Held) -> Without {
        let (disk, clock) = (rig.disk.clone(), Arc::new(TestClock::default()));
        let blobs = LocalDiskStore::open(Arc::new(disk.clone()), &Path::new(ROOT).join("blobs")).unwrap();
        let opened =
            SegmentStore::open(Arc::new(disk.clone()), Arc::new(blobs), clock.clone(), Path::new(ROOT), small());
        let store = opened.unwrap();
        let metastore = Arc::new(MemoryMetastore::new());
        let zone: Arc<dyn Zone> =
            Arc::new(DirectZone::open_or_format(metastore, store.clone(), clock.clone(), (0, 0)).unwrap());
        let zones = ZoneSet::new(vec![zone]);
        zones.hold("other", held);
        store.attach_held(&zones).unwrap();
        let reclaimer = Reclaimer::new(store, zones.clone(), clock.clone(), eager());
        Without { disk, clock, zones, reclaimer }
    }

    fn collect(&self) -> u64 {
        let mut deleted = 0;
        for _ in 0..5 {
            self.clock.advance_ms(1_000_000);
            deleted += self.reclaimer.run_once().unwrap().deleted;
            deleted += self.reclaimer.make_room().unwrap().deleted;
        }
        deleted
    }

    fn killed(self) -> SimDisk {
        self.disk
    }
}

fn rig_with_files() -> (Rig, Vec<(nexus_kernel::Ino, Vec<u8>)>) {
    let rig = Rig::new();
    let mut random = Random::new(5);
    let mut files = Vec::new();
    for round in 0..8 {
        let (ino, data) = (rig.create().unwrap(), random.bytes(20_000));
        rig.write(ino, 0, &data).unwrap();
        files.push((ino, data));
        if round == 5 {
            // Some of it in sealed blobs, some in a segment that is open.
            rig.collect().unwrap();
        }
    }
    (rig, files)
}

#[test]
fn nothing_is_deleted_while_a_zone_that_may_have_anything_is_not_open() {
    let (rig, files) = rig_with_files();
    let before = rig.content_files();
    let without = Without::new(&rig, Held::Everything);
    assert_eq!(without.collect(), 0);
    assert_eq!(rig.content_files(), before);
    assert!(without.zones.holds(BlobId(77)) && without.zones.holds_everything());
    // It is open again at the next start, and has all.
    without.killed();
    let again = rig.killed().unwrap();
    again.collect().unwrap();
    for (ino, data) in &files {
        assert_eq!(again.read(*ino).unwrap(), *data);
    }
    again.assert_sound("open again");
}

#[test]
fn of_a_zone_whose_blobs_are_known_those_stay_and_no_others() {
    let (rig, _) = rig_with_files();
    let blobs: Vec<BlobId> = rig.blobs().keys().copied().collect();
    let (kept, gone) = blobs.split_at(1);
    let without = Without::new(&rig, Held::Blobs(BTreeSet::from_iter(kept.iter().copied())));
    assert_eq!(without.collect(), gone.len() as u64);
    let left =
        |id: &BlobId| rig.content_files().iter().any(|path| path.to_string_lossy().contains(&format!("{:016x}", id.0)));
    assert!(kept.iter().all(left) && !gone.iter().any(left));
    // Given up, they are garbage as any at the next start.
    let Some(Held::Blobs(held)) = without.zones.let_go("other") else { panic!("it was held") };
    assert_eq!(held.iter().copied().collect::<Vec<_>>(), kept);
    let last = Without::new(&rig, Held::Blobs(BTreeSet::new()));
    assert_eq!(last.collect(), 1);
    assert!(!kept.iter().any(left));
}
