//! Tests of [`super`]: on a volume on a real disk, with its log and its metastore.

use std::sync::Arc;

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_kernel::fs::{Caller, FsOptions, OpenOptions};
use nexus_kernel::metastore::{Durability, Metastore, WriteBatch};
use nexus_kernel::model::keys;
use nexus_kernel::{Ino, NodeId, Table};

use super::*;
use crate::config::{ByteSize, Settings, Surroundings};

fn config(path: &Path) -> Config {
    let settings = Settings { data: Some(path.to_owned()), memory: Some(ByteSize(64 << 20)), ..Settings::default() };
    settings.decide(&Surroundings::default()).unwrap()
}

fn open(config: &Config) -> Volume {
    let folder = DataFolder::open_or_make(&config.data, config.drivers).unwrap();
    Volume::open(folder, config, FsOptions::default()).unwrap()
}

fn write(volume: &Volume, name: &[u8], data: &[u8]) -> Ino {
    let fs = volume.fs();
    let (attr, handle) = fs.create(&Caller::ROOT, NodeId::ROOT, name, 0o644, OpenOptions::default()).unwrap();
    assert_eq!(fs.write(attr.node, handle, 0, data, false).unwrap(), data.len());
    fs.release(attr.node, handle).unwrap();
    attr.node.ino()
}

fn read(volume: &Volume, parent: NodeId, name: &[u8]) -> Vec<u8> {
    let attr = volume.fs().lookup(parent, name).unwrap();
    let mut data = vec![0; 1 << 20];
    let len = volume.fs().read(attr.node, 0, 0, &mut data).unwrap();
    data.truncate(len);
    data
}

/// Takes the file's name away in the metastore of a volume that is closed.
fn take_name(config: &Config, ino: Ino) {
    let path = Layout::of(&config.data).root_meta;
    let metastore = RedbMetastore::open(Arc::new(RealDisk::new()), &path, RedbOptions::default()).unwrap();
    let mut key = None;
    let snapshot = metastore.snapshot().unwrap();
    snapshot
        .scan(Table::Dentry, &[], &[0xff; 17], &mut |at, value| {
            if nexus_kernel::model::decode::<nexus_kernel::model::Dentry>("dentry", value).unwrap().ino == ino {
                key = Some(nexus_kernel::metastore::Key::from_slice(at));
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let usage = (Table::Orphan, keys::ino(Ino(4711)), Some(Vec::new().into()));
    let batch = WriteBatch { expect: Vec::new(), writes: vec![(Table::Dentry, key.unwrap(), None), usage] };
    metastore.commit(&batch, Durability::Durable).unwrap();
}

#[test]
fn a_volume_is_sound_after_a_repair_and_its_backup_is_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let volume = open(&config);
    let lost = write(&volume, b"lost", b"its content");
    write(&volume, b"kept", b"other content");
    volume.close().unwrap();
    drop(volume);
    take_name(&config, lost);
    // What the log has on top of the damage is not lost either, as after a crash.
    let volume = open(&config);
    write(&volume, b"later", b"only in the log");
    volume.sync().unwrap();
    drop(volume);

    let before = crate::check::offline(&config, true).unwrap();
    let damage = before.findings.iter().filter(|line| line.starts_with("damage")).count();
    assert!(damage >= 3, "{:?}", before.findings);
    let planned = dry_run(&config).unwrap();
    assert!(planned.backup.is_none() && planned.lossy.is_empty() && planned.repairs.len() >= 3, "{planned:?}");
    assert_eq!(crate::check::offline(&config, true).unwrap().findings, before.findings, "a dry run changes nothing");

    let (report, after) = repair(&config, true).unwrap();
    assert_eq!(report.repairs, planned.repairs, "a dry run tells what a repair does");
    assert_eq!(after.findings, Vec::<String>::new());
    let backup = report.backup.unwrap();
    let noted = fs::read_to_string(dir.path().join(LOG)).unwrap();
    assert!(noted.contains(&*backup.to_string_lossy()) && report.repairs.iter().all(|line| noted.contains(line)));

    // Put back before the next mount, the copy is the damaged metastore that it was.
    let original = Layout::of(dir.path()).root_meta;
    let repaired = fs::read(&original).unwrap();
    fs::copy(&backup, &original).unwrap();
    let undone = crate::check::offline(&config, false).unwrap();
    assert_eq!(undone.findings.iter().filter(|line| line.starts_with("damage")).count(), damage);
    fs::write(&original, repaired).unwrap();

    let volume = open(&config);
    let found = volume.fs().lookup(NodeId::ROOT, b"lost+found").unwrap();
    assert_eq!(read(&volume, found.node, format!("#{lost}").as_bytes()), b"its content");
    assert_eq!(read(&volume, NodeId::ROOT, b"kept"), b"other content");
    assert_eq!(read(&volume, NodeId::ROOT, b"later"), b"only in the log");
    volume.close().unwrap();
    drop(volume);

    // A second one has nothing to do, and makes no backup.
    let (second, _) = repair(&config, false).unwrap();
    assert!(second.repairs.is_empty() && second.backup.is_none(), "{second:?}");
}

#[test]
fn content_that_is_gone_is_named_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let volume = open(&config);
    for (name, byte) in [(&b"first"[..], 1), (b"second", 2)] {
        write(&volume, name, &[byte; 100_000]);
        volume.flush(None).unwrap();
    }
    volume.close().unwrap();
    drop(volume);
    let mut blobs = Vec::new();
    for folder in fs::read_dir(Layout::of(dir.path()).blobs).unwrap() {
        blobs.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    blobs.sort();
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    let content = fs::read(&blobs[0]).unwrap();
    fs::remove_file(&blobs[0]).unwrap();
    assert!(matches!(crate::check::offline(&config, false), Err(Error::Damaged { .. })));
    let (report, after) = repair(&config, true).unwrap();
    let (gone, there) = if content[0] == 1 { ("first", "second") } else { ("second", "first") };
    assert_eq!(report.lossy, [format!("/{gone}")]);
    assert!(after.findings.iter().all(|line| line.starts_with("note: ")), "{:?}", after.findings);
    let volume = open(&config);
    assert!(read(&volume, NodeId::ROOT, there.as_bytes()).iter().all(|byte| *byte != 0));
    let attr = volume.fs().lookup(NodeId::ROOT, gone.as_bytes()).unwrap();
    assert_eq!(attr.inode.size, 100_000);
    let read = volume.fs().read(attr.node, 0, 0, &mut [0; 4096]);
    assert!(matches!(read, Err(nexus_kernel::Error::Io(_))), "{read:?}");
    volume.reclaim().unwrap();
    volume.close().unwrap();
}

#[test]
fn a_volume_in_use_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let volume = open(&config);
    assert!(matches!(repair(&config, false), Err(Error::InUse { .. })));
    volume.close().unwrap();
}
