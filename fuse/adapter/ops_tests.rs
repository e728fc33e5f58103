//! Tests of [`super`]: the protocol's terms, answered by a real volume without a mount.

use std::collections::BTreeMap;

use nexus::Volume;
use nexus::config::{ByteSize, Settings, Surroundings};
use nexus::folder::DataFolder;
use nexus_fuse_transport::Time;
use nexus_kernel::ZoneIndex;
use nexus_kernel::fs::FsOptions;
use nexus_kernel::model::XATTR_ACL_ACCESS;
use tempfile::TempDir;

use super::super::view::Ownership;
use super::*;

const ALICE: Caller = Caller { uid: 1000, gid: 1000, umask: 0o022 };

/// Her requests, from a process that is in no group but its own.
fn alice() -> Header {
    Header::of(1000, 1000, 0)
}

fn range(length: u64, mode: u32) -> Fallocate {
    Fallocate { handle: 0, offset: 0, length, mode }
}

struct Rig {
    volume: Volume,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            data: Some(folder.path().join("data")),
            memory: Some(ByteSize(64 << 20)),
            ..Settings::default()
        };
        let config = settings.decide(&Surroundings::default()).unwrap();
        let data = DataFolder::open_or_make(&config.data, config.drivers).unwrap();
        let options = FsOptions { caching_client: true, ..FsOptions::default() };
        Rig { volume: Volume::open(data, &config, options).unwrap(), _folder: folder }
    }

    fn adapter(&self, root: NodeId, owner: Ownership) -> Adapter {
        let view = View { root, owner, coherence: Coherence::Sole };
        Adapter::new(self.volume.fs().clone(), view, AdapterOptions::default())
    }

    fn plain(&self) -> Adapter {
        self.adapter(NodeId::ROOT, Ownership::default())
    }
}

/// A file with some bytes, of `mode`, that belongs to root and group 50.
fn file(adapter: &Adapter, name: &[u8], mode: u32) -> u64 {
    let (stat, handle) = adapter.create(&Caller::ROOT, 1, name, 0o600, 0o2, false).unwrap();
    assert_eq!(adapter.write(&Header::default(), stat.ino, handle, 0, &[7; 10_000], false), Ok(10_000));
    adapter.release(stat.ino, handle).unwrap();
    set(adapter, stat.ino, SetAttr { gid: Some(50), ..SetAttr::default() });
    set(adapter, stat.ino, SetAttr { mode: Some(mode), ..SetAttr::default() });
    stat.ino
}

fn set(adapter: &Adapter, node: u64, change: SetAttr) -> Attr {
    adapter.setattr(&Header::default(), node, &change).unwrap()
}

fn permissions(adapter: &Adapter, node: u64) -> u32 {
    adapter.getattr(node).unwrap().mode & 0o7777
}

fn listing(adapter: &Adapter, node: u64) -> BTreeMap<Vec<u8>, u64> {
    let (mut names, mut cookie) = (BTreeMap::new(), 0);
    loop {
        let before = cookie;
        let mut sink = |entry: &DirEntry, id: u64, _: Option<Attr>| {
            cookie = entry.cookie;
            names.insert(entry.name.to_vec(), id);
            ControlFlow::Continue(())
        };
        adapter.list(node, before, true, &mut sink).unwrap();
        if cookie == before {
            return names;
        }
    }
}

#[test]
fn a_subdirectory_is_a_root_of_its_own() {
    let rig = Rig::new();
    let whole = rig.plain();
    let dir = whole.mkdir(&Caller::ROOT, 1, b"dir", 0o755).unwrap().ino;
    let inner = whole.mkdir(&Caller::ROOT, dir, b"inner", 0o755).unwrap().ino;
    let part = rig.adapter(NodeId(dir), Ownership::default());
    assert_eq!(part.getattr(1).unwrap().ino, 1);
    assert_eq!(part.lookup(1, b"inner").unwrap().unwrap().ino, inner);
    assert_eq!(part.lookup(1, b"dir"), Ok(None));
    assert_eq!(part.lookup(1, b"..").unwrap().unwrap().ino, 1, "nothing above the root is shown");
    assert_eq!(part.lookup(inner, b"..").unwrap().unwrap().ino, 1);
    let expected = BTreeMap::from([(b".".to_vec(), 1), (b"..".to_vec(), 1), (b"inner".to_vec(), inner)]);
    assert_eq!(listing(&part, 1), expected);
    let expected = BTreeMap::from([(b".".to_vec(), inner), (b"..".to_vec(), 1)]);
    assert_eq!(listing(&part, inner), expected);
    part.mkdir(&ALICE, 1, b"new", 0o777).unwrap();
    assert!(whole.lookup(dir, b"new").unwrap().is_some());
}

#[test]
fn files_seem_to_belong_to_the_ids_of_the_mount() {
    let rig = Rig::new();
    let shown = rig.adapter(NodeId::ROOT, Ownership { uid: Some(7), gid: Some(8) });
    let stat = shown.mknod(&ALICE, 1, b"f", 0o100_644, 0).unwrap();
    assert_eq!((stat.uid, stat.gid), (7, 8));
    let truly = rig.plain().getattr(stat.ino).unwrap();
    assert_eq!((truly.uid, truly.gid), (1000, 1000));
    let to = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
    assert_eq!(shown.setattr(&alice(), stat.ino, &to(7)).unwrap().uid, 7);
    assert_eq!(shown.setattr(&alice(), stat.ino, &to(9)), Err(Error::NotPermitted));
    assert_eq!(rig.plain().getattr(stat.ino).unwrap().uid, 1000);
}

/// What chown(2) takes whoever calls it is the machine's business; this depends on who calls.
#[test]
fn a_change_of_owner_by_an_outsider_takes_setgid_without_group_execute() {
    let rig = Rig::new();
    let adapter = rig.plain();
    let whose = SetAttr { uid: Some(1000), gid: Some(50), ..SetAttr::default() };
    for (who, left) in [(Header::default(), 0o2767), (Header::of(1000, 50, 0), 0o2767), (alice(), 0o767)] {
        let node = file(&adapter, format!("{who:?}").as_bytes(), 0o2767);
        adapter.setattr(&who, node, &whose).unwrap();
        assert_eq!(permissions(&adapter, node), left, "{who:?}");
    }
}

#[test]
fn changes_by_others_than_root_take_privileges() {
    let rig = Rig::new();
    let adapter = rig.plain();
    let source = file(&adapter, b"source", 0o644);
    type Change = fn(&Adapter, &Header, u64, u64);
    let changes: [(&str, Change); 5] = [
        ("truncate", |adapter, caller, node, _| {
            adapter
                .setattr(
                    caller,
                    node,
                    &SetAttr { size: Some(5), kill_privileges: caller.uid != 0, ..SetAttr::default() },
                )
                .unwrap();
        }),
        ("open with O_TRUNC", |adapter, caller, node, _| {
            let handle = adapter.open(caller, node, 0o1001, caller.uid != 0).unwrap();
            adapter.release(node, handle).unwrap();
        }),
        ("write", |adapter, caller, node, _| {
            let handle = adapter.open(caller, node, 1, false).unwrap();
            adapter.write(caller, node, handle, 0, b"x", caller.uid != 0).unwrap();
            adapter.release(node, handle).unwrap();
        }),
        ("punch", |adapter, caller, node, _| adapter.fallocate(caller, node, &range(10, 3)).unwrap()),
        ("copy", |adapter, caller, node, source| {
            assert_eq!(adapter.copy_file_range(caller, (source, 0), (node, 0, 100), 10, 0), Ok(10));
        }),
    ];
    for (what, change) in changes {
        let node = file(&adapter, what.as_bytes(), 0o6777);
        change(&adapter, &Header::default(), node, source);
        assert_eq!(permissions(&adapter, node), 0o6777, "{what} by root");
        change(&adapter, &alice(), node, source);
        assert_eq!(permissions(&adapter, node), 0o777, "{what} by a user");
        let node = file(&adapter, format!("{what}, no group-execute").as_bytes(), 0o2767);
        change(&adapter, &Header::of(1000, 50, 0), node, source);
        assert_eq!(permissions(&adapter, node), 0o2767, "{what} by a member of the group");
        change(&adapter, &alice(), node, source);
        assert_eq!(permissions(&adapter, node), 0o767, "{what} by an outsider");
    }
    let node = file(&adapter, b"owner", 0o6777);
    assert_eq!(
        set(&adapter, node, SetAttr { uid: Some(0), ..SetAttr::default() }).mode & 0o7777,
        0o777,
        "chown by root"
    );
}

#[test]
fn an_acl_from_outside_the_group_clears_set_group_id() {
    // u::rwx g::r-x m::rwx u:1001:r-- o::r--, as linux/posix_acl_xattr.h lays it out.
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 4, 1001), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 4, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let rig = Rig::new();
    let adapter = rig.plain();
    for (who, kill_setgid, expected) in [("a member", false, 0o2774), ("an outsider", true, 0o774)] {
        let node = file(&adapter, who.as_bytes(), 0o2755);
        adapter.setxattr(node, XATTR_ACL_ACCESS, &acl, 0, kill_setgid).unwrap();
        assert_eq!(permissions(&adapter, node), expected, "{who}");
    }
}

#[test]
fn misses_are_told_apart_from_errors() {
    let rig = Rig::new();
    let adapter = rig.plain();
    let node = file(&adapter, b"file", 0o644);
    assert_eq!(adapter.lookup(1, b"none"), Ok(None));
    assert_eq!(adapter.lookup(1, &[b'x'; 256]), Err(Error::NameTooLong));
    assert_eq!(adapter.lookup(node, b"x"), Err(Error::NotDirectory));
    assert_eq!(adapter.getattr(1 << 40), Err(Error::Stale));
    assert_eq!(adapter.lseek(node, u64::MAX, 3), Err(Error::NoSuchOffset));
    assert_eq!(adapter.lseek(node, 0, 7), Err(Error::Invalid));
    assert_eq!(adapter.lseek(node, 0, 4), Ok(10_000));
    assert_eq!(adapter.copy_file_range(&alice(), (node, 0), (node, 0, 20_000), 1, 1), Err(Error::Invalid));
    assert_eq!(adapter.fallocate(&alice(), node, &range(1, 0x40)), Err(Error::NotSupported));
}

#[test]
fn a_sync_makes_durable_what_was_acknowledged() {
    let rig = Rig::new();
    let adapter = rig.plain();
    let elsewhere = NodeId::new(ZoneIndex(9), nexus_kernel::Ino(1)).0;
    assert_eq!(adapter.fsync(elsewhere, 0, false), Err(Error::Stale));
    let before = rig.volume.state();
    let node = file(&adapter, b"file", 0o644);
    adapter.fsync(node, 0, true).unwrap();
    let after = rig.volume.state();
    let (Some(before), Some(after)) = (before.zones.first(), after.zones.first()) else { panic!("no zone") };
    assert!(after.stats.durable >= after.stats.last && after.stats.last > before.stats.last);
}

#[test]
fn times_can_be_now_or_long_ago() {
    let rig = Rig::new();
    let adapter = rig.plain();
    let node = file(&adapter, b"file", 0o644);
    let old = Time { sec: -5, nsec: 999_999_999 };
    let stat =
        set(&adapter, node, SetAttr { atime: Some(SetTime::At(old)), mtime: Some(SetTime::Now), ..SetAttr::default() });
    assert_eq!(stat.atime, old);
    let since = |time: Time| (time.sec, time.nsec);
    assert!(since(stat.mtime) > since(old) && since(stat.mtime) <= since(stat.ctime));
}
