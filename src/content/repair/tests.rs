//! Every kind of damage that the checker knows is put right, and nothing else changes.

use bytes::Bytes;
use nexus_kernel::command::NewKind;
use nexus_kernel::direct_zone::DirectZone;
use nexus_kernel::metastore::{Durability, Metastore, WriteBatch};
use nexus_kernel::model::{Extent, FileKind, MountTarget, keys};
use nexus_kernel::scan::stands_in;
use nexus_kernel::{BlobId, Command, Error, Ino, MetaRead, Name, Table};

use super::{RepairPlan, plan_repair};
use crate::Severity;
use crate::check::tests::{DAMAGES, Volume, make, volume};
use crate::volume_tests::rig::Metadata;

/// The one damage that nothing can be made of: the seed of all positions is gone.
const HOPELESS: &str = "does not know its own id";

fn plan(volume: &Volume) -> RepairPlan {
    plan_repair(&*volume.rig.zone, &volume.rig.store).unwrap()
}

/// Plans, makes the changes, and sees that the checker finds nothing any more.
fn repair(volume: &Volume, context: &str) -> RepairPlan {
    let plan = plan(volume);
    let Metadata::Memory(memory) = &volume.rig.metadata else { panic!("not in memory") };
    let batch = WriteBatch { expect: Vec::new(), writes: plan.writes.clone() };
    memory.commit(&batch, Durability::Durable).unwrap();
    let damage: Vec<_> = volume.rig.findings(true).into_iter().filter(|f| f.severity == Severity::Damage).collect();
    assert!(damage.is_empty(), "{context}: still {damage:?} after {:#?}", plan.repairs);
    let again = self::plan(volume);
    assert!(again.writes.is_empty() && again.repairs.is_empty(), "{context}: it is not at rest: {:?}", again.repairs);
    plan
}

fn find(volume: &Volume, path: &[&str]) -> Option<Ino> {
    path.iter().try_fold(Ino::ROOT, |parent, name| {
        let name = Name::new(name.as_bytes()).unwrap();
        volume.rig.zone.lookup(parent, name).unwrap().map(|(_, dentry)| dentry.ino)
    })
}

fn read(volume: &Volume, ino: Ino) -> Vec<u8> {
    volume.rig.read(ino).unwrap()
}

#[test]
fn a_sound_volume_needs_no_repair() {
    let volume = volume();
    let one = plan(&volume);
    assert!(one.writes.is_empty() && one.repairs.is_empty() && one.lossy.is_empty(), "{one:?}");
    volume.rig.collect().unwrap();
    let one = plan(&volume);
    assert!(one.writes.is_empty() && one.repairs.is_empty(), "{one:?}");
}

#[test]
fn every_damage_is_put_right() {
    let mut repaired = 0;
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        let volume = volume();
        let beside = make(&volume.rig, Ino::ROOT, "beside", NewKind::Directory);
        let quiet = make(&volume.rig, beside, "quiet", NewKind::Regular);
        volume.rig.write(quiet, 0, &[9; 3000]).unwrap();
        let before = volume.rig.zone.inode(quiet).unwrap();
        damage(&volume);
        if *what == HOPELESS {
            assert!(matches!(plan_repair(&*volume.rig.zone, &volume.rig.store), Err(Error::Corrupt(_))));
            continue;
        }
        let context = format!("damage {number}: {what}");
        assert!(volume.rig.findings(false).iter().any(|f| f.severity == Severity::Damage), "{context}");
        let plan = repair(&volume, &context);
        assert!(!plan.repairs.is_empty() && !plan.writes.is_empty(), "{context}: {plan:?}");
        assert_eq!(find(&volume, &["beside", "quiet"]), Some(quiet), "{context}");
        assert_eq!(volume.rig.zone.inode(quiet).unwrap(), before, "{context}");
        assert_eq!(read(&volume, quiet), [9; 3000], "{context}");
        repaired += 1;
    }
    assert_eq!(repaired, DAMAGES.len() - 1);
}

/// A zone stands at `sub`, beside damage; and so it does after the repair, wherever its directory came to be.
#[test]
fn zones_stand_where_they_stood() {
    let mounted = || {
        let volume = volume();
        let outer = make(&volume.rig, Ino::ROOT, "outer", NewKind::Directory);
        let place = make(&volume.rig, outer, "place", NewKind::Directory);
        let target = MountTarget { zone: [7; 16], name: "inner".into(), addresses: vec!["a:1".into()] };
        let target = nexus_kernel::model::encode(&target).unwrap().to_vec();
        let (name, now) = (b"place"[..].into(), volume.rig.zone.now());
        let command = Command::MountZone { parent: outer, name, replace: false, target, now };
        volume.rig.zone.propose(&command).unwrap();
        (volume, outer, place)
    };
    let (volume, _, place) = mounted();
    assert!(plan_repair(&*volume.rig.zone, &volume.rig.store).unwrap().writes.is_empty(), "nothing is wrong");
    volume.inode(volume.file, |inode| inode.nlink += 1);
    let before = volume.rig.zone.inode(place).unwrap();
    assert_eq!(repair(&volume, "beside").repairs.len(), 1);
    assert_eq!(volume.rig.zone.inode(place).unwrap(), before);
    assert!(stands_in(&*volume.rig.zone, &[7; 16]).unwrap());

    // Its name is lost.
    let (volume, outer, place) = mounted();
    let (at, _) = volume.dentry(outer, "place");
    volume.set(Table::Dentry, keys::dentry(outer, at), None);
    repair(&volume, "its name");
    let found = find(&volume, &["lost+found", &format!("#{}", place.0)]);
    assert_eq!(found, Some(place));
    assert!(stands_in(&*volume.rig.zone, &[7; 16]).unwrap());
    let (_, dentry) = volume.dentry(find(&volume, &["lost+found"]).unwrap(), &format!("#{}", place.0));
    assert_eq!(dentry.kind, FileKind::Mount);

    // Which zone it was is lost.
    let (volume, outer, place) = mounted();
    volume.set(Table::Symlink, keys::ino(place), None);
    repair(&volume, "its target");
    assert_eq!(volume.dentry(outer, "place").1.kind, FileKind::Directory);
    assert!(!stands_in(&*volume.rig.zone, &[7; 16]).unwrap());
}

#[test]
fn what_has_no_name_is_found_again() {
    let volume = volume();
    let content = read(&volume, volume.file);
    // The directory of the link and the pipe is named nowhere; the file loses both of its names.
    let (at, _) = volume.dentry(volume.dir, "sub");
    volume.set(Table::Dentry, keys::dentry(volume.dir, at), None);
    let name = format!("f{}", volume.file.0);
    let (at, _) = volume.dentry(Ino::ROOT, &name);
    volume.set(Table::Dentry, keys::dentry(Ino::ROOT, at), None);
    let (at, _) = volume.dentry(volume.sub, "again");
    volume.set(Table::Dentry, keys::dentry(volume.sub, at), None);
    let plan = repair(&volume, "names");
    let (sub, file) = (format!("#{}", volume.sub.0), format!("#{}", volume.file.0));
    assert_eq!(find(&volume, &["lost+found", &sub, "link"]), Some(volume.link), "{plan:?}");
    assert_eq!(find(&volume, &["lost+found", &file]), Some(volume.file));
    assert_eq!(read(&volume, volume.file), content);
    let found = volume.rig.zone.inode(find(&volume, &["lost+found"]).unwrap()).unwrap().unwrap();
    assert_eq!((found.mode, found.uid, found.nlink, found.size), (0o700, 0, 3, 2));
    assert!(plan.lossy.is_empty());
}

#[test]
fn a_file_keeps_its_bytes_without_its_inode() {
    let volume = volume();
    let content = read(&volume, volume.file);
    volume.set(Table::Inode, keys::ino(volume.file), None);
    repair(&volume, "the inode is gone");
    assert_eq!(find(&volume, &["dir", "sub", "again"]), Some(volume.file));
    assert_eq!(read(&volume, volume.file), content);
    let inode = volume.rig.zone.inode(volume.file).unwrap().unwrap();
    assert_eq!((inode.kind, inode.nlink, inode.mode, inode.uid), (FileKind::Regular, 2, 0o600, 0));
}

#[test]
fn bytes_that_are_gone_are_never_zeros() {
    let volume = volume();
    // Of the file's two extents the first points into a blob that is nowhere.
    let lost = Extent { len: 10_000, blob: BlobId(0x77), blob_offset: 0 };
    volume.put_extent(volume.file, 0, lost);
    let plan = repair(&volume, "a blob is gone");
    assert_eq!(plan.lossy, [format!("/f{}", volume.file.0)]);
    let extents = volume.rig.extents(volume.file).unwrap();
    assert_eq!((extents[0].1.blob, extents[0].1.len), (BlobId::LOST, 10_000));
    let notes = volume.rig.findings(false);
    assert!(notes.iter().any(|note| note.text.contains("10000 bytes are lost")), "{notes:?}");
    // The other extent, and the file that shares the first one's blob, are what they were.
    assert_eq!(read(&volume, volume.other)[..4000], [1; 4000]);
    let mut bytes = [0; 5000];
    volume.rig.store_read(&extents[1].1, &mut bytes);
    assert_eq!(bytes, [2; 5000]);
    // What is written there later is read again.
    volume.rig.write(volume.file, 0, &[5; 10_000]).unwrap();
    assert_eq!(read(&volume, volume.file)[..10_000], [5; 10_000]);
    assert_eq!(volume.rig.findings(true).len(), 0);
}

#[test]
fn a_record_of_an_extent_that_cannot_be_read_is_no_hole() {
    let volume = volume();
    volume.set(Table::Extent, keys::extent(volume.file, 0), Some(Bytes::from_static(&[9])));
    let plan = repair(&volume, "an extent");
    assert_eq!(plan.lossy.len(), 1);
    let extents = volume.rig.extents(volume.file).unwrap();
    // Up to where the next one begins: how long it was is not known.
    assert_eq!((extents[0].0, extents[0].1), (0, Extent { len: 20_000, blob: BlobId::LOST, blob_offset: 0 }));
}

#[test]
fn a_blob_that_is_not_known_any_more_is_taken_back() {
    let volume = volume();
    let content = read(&volume, volume.file);
    volume.set(Table::Blob, keys::blob(volume.blob), None);
    let plan = repair(&volume, "a blob's record");
    assert!(plan.lossy.is_empty(), "{plan:?}");
    assert_eq!(read(&volume, volume.file), content);
    volume.rig.collect().unwrap();
    volume.rig.assert_sound("sealed later");
}

#[test]
fn several_damages_at_once_are_put_right() {
    for step in [2, 3, 5, 7] {
        let volume = volume();
        let mut made = 0;
        for (what, damage) in DAMAGES.iter().skip(step).step_by(step) {
            // Some need what another one has destroyed.
            let alone = ["can't be read", "lies in a loop", "was sealed with", "is missing, with", "there twice"];
            if *what != HOPELESS && !alone.contains(what) {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| damage(&volume)));
                made += usize::from(done.is_ok());
            }
        }
        assert!(made >= 4, "{made}");
        repair(&volume, &format!("every {step}th"));
    }
}

/// The syscalls' reader, which users meet.
#[test]
fn reading_what_is_lost_fails() {
    use nexus_kernel::fs::{FsOptions, NexusFs, Seek};
    let volume = volume();
    volume.put_extent(volume.file, 0, Extent { len: 10_000, blob: BlobId(0x77), blob_offset: 0 });
    repair(&volume, "a blob is gone");
    let Metadata::Memory(memory) = &volume.rig.metadata else { panic!("not in memory") };
    let (metastore, clock) = (std::sync::Arc::new(memory.clone()), volume.rig.clock.clone());
    let zone = DirectZone::open_or_format(metastore, volume.rig.store.clone(), clock, (0, 0)).unwrap();
    let fs = NexusFs::with_zone(std::sync::Arc::new(zone), volume.rig.store.clone(), FsOptions::default()).unwrap();
    let node = nexus_kernel::NodeId::new(nexus_kernel::ZoneIndex(0), volume.file);
    let mut buffer = [7; 1000];
    assert!(matches!(fs.read(node, 0, 500, &mut buffer), Err(Error::Io(text)) if text.contains("are lost")));
    assert_eq!(fs.read(node, 0, 12_000, &mut buffer), Ok(1000), "a hole");
    assert_eq!(buffer, [0; 1000]);
    assert_eq!(fs.read(node, 0, 20_000, &mut buffer), Ok(1000));
    assert_eq!(buffer, [2; 1000]);
    assert_eq!(fs.seek(node, 0, Seek::Data), Ok(0), "taken for a hole");
    let mut state = None;
    volume
        .rig
        .zone
        .read(&mut |read: &dyn MetaRead| {
            state = read.inode(volume.file)?;
            Ok(())
        })
        .unwrap();
    assert_eq!(state.unwrap().size, 25_000);
}
