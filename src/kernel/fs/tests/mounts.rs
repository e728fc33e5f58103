//! Directories that zones are mounted on.

use super::*;
use crate::command::{RenameMode, SmallBytes};
use crate::error::Error;
use crate::ids::{Ino, ZoneIndex};
use crate::model::{self, MountTarget};

fn mount(parent: Ino, name: &str, replace: bool) -> Command {
    let target = MountTarget { zone: [7; 16], name: "project".into(), addresses: vec!["a:1".into()] };
    let target = model::encode(&target).unwrap().to_vec();
    Command::MountZone { parent, name: SmallBytes::from_slice(name.as_bytes()), replace, target, now: NOW }
}

const NOW: Timestamp = Timestamp { sec: 1, nsec: 0 };

fn unmount(parent: Ino, name: &str) -> Command {
    Command::UnmountZone { parent, name: SmallBytes::from_slice(name.as_bytes()), now: NOW }
}

#[test]
fn what_a_zone_is_mounted_on_is_out_of_sight_and_cannot_be_moved_or_removed() {
    let rig = Rig::plain();
    let fs = &rig.fs;
    let zone = fs.router().zone(ZoneIndex(0)).unwrap();
    let dir = fs.make(&Caller::ROOT, NodeId::ROOT, b"dir", NewKind::Directory, 0o755).unwrap();
    let sub = fs.make(&Caller::ROOT, dir.node, b"sub", NewKind::Directory, 0o755).unwrap();
    fs.make(&Caller::ROOT, sub.node, b"deep", NewKind::Regular, 0o644).unwrap();
    fs.make(&Caller::ROOT, dir.node, b"file", NewKind::Regular, 0o644).unwrap();
    assert_eq!(zone.propose(&mount(Ino::ROOT, "absent", false)).unwrap_err(), Error::NotFound);
    assert_eq!(zone.propose(&mount(Ino::ROOT, "dir", false)).unwrap_err(), Error::NotEmpty);
    zone.propose(&mount(Ino::ROOT, "dir", true)).unwrap();
    assert_eq!(zone.propose(&mount(Ino::ROOT, "dir", true)).unwrap_err(), Error::Busy);
    let seen = fs.lookup(NodeId::ROOT, b"dir").unwrap();
    assert!(seen.node == dir.node && seen.inode.is_dir());
    assert_eq!(fs.lookup(dir.node, b"file").unwrap_err(), Error::Remote);
    assert_eq!(fs.opendir(dir.node).unwrap_err(), Error::Remote);
    let made = fs.make(&Caller::ROOT, dir.node, b"new", NewKind::Regular, 0o644);
    assert_eq!(made.unwrap_err(), Error::Remote);
    // A zone of this node that can't be opened is an error, and no other zone's.
    fs.router().set_closed(vec![Some([8; 16])]);
    assert_eq!(fs.lookup(dir.node, b"file").unwrap_err(), Error::Remote);
    for closed in [Some([7; 16]), None] {
        fs.router().set_closed(vec![closed]);
        assert!(matches!(fs.lookup(dir.node, b"file").unwrap_err(), Error::Io(_)), "{closed:?}");
        assert!(matches!(fs.opendir(dir.node).unwrap_err(), Error::Io(_)), "{closed:?}");
    }
    fs.router().set_closed(Vec::new());
    assert_eq!(fs.rmdir(NodeId::ROOT, b"dir").unwrap_err(), Error::Busy);
    let moved = fs.rename(NodeId::ROOT, b"dir", NodeId::ROOT, b"other", RenameMode::Replace, false);
    assert_eq!(moved.unwrap_err(), Error::Busy);
    // What was there is not to come back by unmounting.
    assert_eq!(zone.propose(&unmount(Ino::ROOT, "dir")).unwrap_err(), Error::Busy);
    let before = zone.usage().unwrap().inodes;
    assert_eq!(fs.empty_detached(ZoneIndex(0)), Ok(3));
    assert_eq!(fs.empty_detached(ZoneIndex(0)), Ok(0));
    fs.reap_now().unwrap();
    assert_eq!(zone.usage().unwrap().inodes, before - 3);
    zone.propose(&unmount(Ino::ROOT, "dir")).unwrap();
    assert_eq!(zone.propose(&unmount(Ino::ROOT, "dir")).unwrap_err(), Error::Invalid);
    assert_eq!(fs.lookup(dir.node, b"file").unwrap_err(), Error::NotFound);
    fs.rmdir(NodeId::ROOT, b"dir").unwrap();
}
