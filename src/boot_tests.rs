//! Tests of [`super`]: what an open volume keeps, and what it leaves behind.

use crate::config::ByteSize;
use nexus_kernel::NodeId;
use nexus_kernel::fs::{Caller, OpenOptions};

use super::*;
use crate::config::{Settings, Surroundings};

fn config(path: &Path) -> Config {
    let settings = Settings { data: Some(path.to_owned()), memory: Some(ByteSize(64 << 20)), ..Settings::default() };
    settings.decide(&Surroundings::default()).unwrap()
}

fn open(config: &Config) -> Volume {
    let folder = DataFolder::open_or_make(&config.data, config.drivers).unwrap();
    Volume::open(folder, config, FsOptions::default()).unwrap()
}

fn write(volume: &Volume, name: &[u8], data: &[u8]) {
    let fs = volume.fs();
    let (attr, handle) = fs.create(&Caller::ROOT, NodeId::ROOT, name, 0o644, OpenOptions::default()).unwrap();
    assert_eq!(fs.write(attr.node, handle, 0, data, false).unwrap(), data.len());
    fs.release(attr.node, handle).unwrap();
}

fn read(volume: &Volume, name: &[u8]) -> Vec<u8> {
    let attr = volume.fs().lookup(NodeId::ROOT, name).unwrap();
    let handle = volume.fs().open(attr.node, OpenOptions::default()).unwrap();
    let mut data = vec![0; 1 << 20];
    let len = volume.fs().read(attr.node, handle, 0, &mut data).unwrap();
    data.truncate(len);
    volume.fs().release(attr.node, handle).unwrap();
    data
}

#[test]
fn a_closed_volume_can_be_opened_again_at_once_by_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    for round in 0..3u8 {
        let volume = open(&config);
        if round > 0 {
            assert_eq!(read(&volume, b"file"), vec![round - 1; 5000]);
            volume.fs().unlink(NodeId::ROOT, b"file").unwrap();
        }
        write(&volume, b"file", &vec![round; 5000]);
        assert!(volume.state().problems.is_empty(), "{:?}", volume.state());
        volume.close().unwrap();
        assert!(volume.fs().unlink(NodeId::ROOT, b"file").is_err(), "a closed volume takes no changes");
    }
}

#[test]
fn what_was_acknowledged_is_there_without_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let volume = open(&config);
    write(&volume, b"file", b"content");
    drop(volume);
    assert_eq!(read(&open(&config), b"file"), b"content");
}

#[test]
fn a_check_finds_nothing_wrong_with_a_volume_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(&config(dir.path()));
    for number in 0..20u8 {
        write(&volume, &[b'a' + number], &vec![number; 10_000]);
    }
    volume.fs().unlink(NodeId::ROOT, b"a").unwrap();
    for deep in [false, true] {
        let report = volume.check(deep).unwrap();
        let damage: Vec<_> = report.findings.iter().filter(|finding| !finding.starts_with("note")).collect();
        assert!(damage.is_empty(), "{damage:?}");
        assert!(report.checked.contains("inodes"), "{}", report.checked);
    }
}

#[test]
fn a_volume_without_its_metastore_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    open(&config).close().unwrap();
    let root_meta = Layout::of(&config.data).root_meta;
    std::fs::remove_file(&root_meta).unwrap();
    let folder = DataFolder::open_or_make(&config.data, config.drivers).unwrap();
    let error = Volume::open(folder, &config, FsOptions::default()).err().unwrap();
    assert!(matches!(&error, Error::Damaged { problem, .. } if problem.contains("root.redb is missing")), "{error}");
    assert!(!root_meta.exists());
}

/// Sharing was cut short after the zone had its place, and before what was there was gone.
#[test]
fn what_a_zone_was_put_in_place_of_goes_at_the_next_start() {
    use nexus_kernel::command::NewKind;
    use nexus_kernel::model::MountTarget;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let volume = open(&config);
    let shared = volume.fs().make(&Caller::ROOT, NodeId::ROOT, b"shared", NewKind::Directory, 0o755).unwrap();
    volume.fs().make(&Caller::ROOT, shared.node, b"file", NewKind::Regular, 0o644).unwrap();
    let target = nexus_kernel::model::encode(&MountTarget::default()).unwrap().to_vec();
    let (name, now) = (b"shared"[..].into(), volume.root.now());
    let mount = nexus_kernel::Command::MountZone { parent: nexus_kernel::Ino::ROOT, name, replace: true, target, now };
    volume.root.propose(&mount).unwrap();
    let before = volume.root.usage().unwrap().inodes;
    drop(volume);
    let volume = open(&config);
    volume.fs().reap_now().unwrap();
    assert_eq!(volume.root.usage().unwrap().inodes, before - 1);
    assert!(volume.check(false).unwrap().findings.is_empty(), "{:?}", volume.check(false));
    // Nothing is in the way of the directory any more.
    volume.fs().unmount_zone(NodeId::ROOT, b"shared").unwrap();
    volume.fs().rmdir(NodeId::ROOT, b"shared").unwrap();
}
