//! Every kind of damage is found, each alone, and a sound volume has none.

use nexus_kernel::command::{NewKind, RangeOp, XattrMode};
use nexus_kernel::metastore::{Durability, Key, Metastore, WriteBatch};
use nexus_kernel::model::{
    self, Blob, BlobState, Dentry, Extent, FileKind, Inode, InodeFlags, Usage, XATTR_ACL_DEFAULT, ZoneInfo, keys,
};
use nexus_kernel::{BlobId, Command, Ino, MetaRead, Name, Table};

use crate::Severity;
use crate::volume_tests::rig::{Metadata, Rig};

/// A volume with one of everything.
pub struct Volume {
    pub rig: Rig,
    pub dir: Ino,
    pub sub: Ino,
    pub file: Ino,
    pub other: Ino,
    pub link: Ino,
    pub orphan: Ino,
    pub blob: BlobId,
}

pub fn make(rig: &Rig, parent: Ino, name: &str, kind: NewKind) -> Ino {
    let (ino, name) = (rig.zone.allocate_ino().unwrap(), name.as_bytes().into());
    let now = rig.zone.now();
    rig.zone.propose(&Command::Create { parent, name, ino, kind, mode: 0o755, umask: 0, uid: 1, gid: 1, now }).unwrap();
    ino
}

pub fn volume() -> Volume {
    let rig = Rig::new();
    let dir = make(&rig, Ino::ROOT, "dir", NewKind::Directory);
    let sub = make(&rig, dir, "sub", NewKind::Directory);
    let link = make(&rig, sub, "link", NewKind::Symlink(b"target".to_vec()));
    make(&rig, sub, "pipe", NewKind::Fifo);
    let file = rig.create().unwrap();
    let other = rig.create().unwrap();
    let orphan = rig.create().unwrap();
    rig.write(file, 0, &[1; 10_000]).unwrap();
    rig.write(file, 20_000, &[2; 5_000]).unwrap();
    rig.write(orphan, 0, &[3; 100]).unwrap();
    rig.clone_range(file, 0, other, 0, 4_000).unwrap();
    let now = rig.zone.now();
    let (op, kill_privileges) = (RangeOp::AllocateKeepSize, false);
    rig.zone.propose(&Command::Range { ino: other, op, offset: 50_000, len: 1_000, kill_privileges, now }).unwrap();
    let name = format!("f{}", orphan.0).into_bytes().as_slice().into();
    rig.zone.propose(&Command::Unlink { parent: Ino::ROOT, name, keep: true, now }).unwrap();
    rig.zone.propose(&Command::Link { ino: file, parent: sub, name: b"again"[..].into(), now }).unwrap();
    let acl =
        [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255];
    for (ino, name, value) in [(file, &b"user.x"[..], b"1".to_vec()), (dir, XATTR_ACL_DEFAULT, acl.to_vec())] {
        let command =
            Command::SetXattr { ino, name: name.into(), value, mode: XattrMode::Set, kill_setgid: false, now };
        rig.zone.propose(&command).unwrap();
    }
    let blob = rig.extents(file).unwrap()[0].1.blob;
    Volume { rig, dir, sub, file, other, link, orphan, blob }
}

impl Volume {
    pub fn set(&self, table: Table, key: Key, value: Option<bytes::Bytes>) {
        let batch = WriteBatch { expect: Vec::new(), writes: vec![(table, key, value)] };
        let Metadata::Memory(memory) = &self.rig.metadata else { panic!("not in memory") };
        memory.commit(&batch, Durability::Durable).unwrap();
    }

    pub fn inode(&self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        let mut inode = self.rig.zone.inode(ino).unwrap().unwrap();
        change(&mut inode);
        self.set(Table::Inode, keys::ino(ino), Some(model::encode(&inode).unwrap()));
    }

    pub fn dentry(&self, parent: Ino, name: &str) -> (u64, Dentry) {
        self.rig.zone.lookup(parent, Name::new(name.as_bytes()).unwrap()).unwrap().unwrap()
    }

    pub fn put_dentry(&self, parent: Ino, at: u64, dentry: &Dentry) {
        self.set(Table::Dentry, keys::dentry(parent, at), Some(model::encode(dentry).unwrap()));
    }

    pub fn put_extent(&self, ino: Ino, at: u64, extent: Extent) {
        self.set(Table::Extent, keys::extent(ino, at), Some(model::encode(&extent).unwrap()));
    }

    fn blob(&self, change: impl FnOnce(&mut Blob)) {
        let mut blob = self.rig.blobs()[&self.blob];
        change(&mut blob);
        self.set(Table::Blob, keys::blob(self.blob), Some(model::encode(&blob).unwrap()));
    }

    fn usage(&self, change: impl FnOnce(&mut Usage)) {
        let mut usage = self.rig.zone.usage().unwrap();
        change(&mut usage);
        self.set(Table::Sys, keys::sys(Usage::KEY), Some(model::encode(&usage).unwrap()));
    }
}

pub type Damage = (&'static str, fn(&Volume));

/// What the checker must say, and the damage done.
pub const DAMAGES: &[Damage] = &[
    ("the root directory is missing", |v| v.set(Table::Inode, keys::ino(Ino::ROOT), None)),
    ("does not know its own id", |v| v.set(Table::Sys, keys::sys(ZoneInfo::KEY), None)),
    ("counts 9 entries", |v| v.inode(v.sub, |inode| inode.size = 9)),
    ("5 links", |v| v.inode(v.dir, |inode| inode.nlink = 5)),
    ("counts 3 names, has 2", |v| v.inode(v.file, |inode| inode.nlink = 3)),
    ("has no name, but is no orphan", |v| v.set(Table::Orphan, keys::ino(v.orphan), None)),
    ("waits to be reaped, but has names", |v| v.set(Table::Orphan, keys::ino(v.file), Some(bytes::Bytes::new()))),
    ("orphan 999", |v| v.set(Table::Orphan, keys::ino(Ino(999)), Some(bytes::Bytes::new()))),
    ("unknown bits", |v| v.inode(v.file, |inode| inode.mode |= 1 << 20)),
    ("mounts have no inodes", |v| v.inode(v.link, |inode| inode.kind = FileKind::Mount)),
    ("more than a file can have", |v| v.inode(v.file, |inode| inode.size = u64::MAX)),
    ("can have this number", |v| {
        let inode = v.rig.zone.inode(v.file).unwrap().unwrap();
        v.set(Table::Inode, keys::ino(Ino(1 << 50)), Some(model::encode(&inode).unwrap()));
    }),
    ("table inode", |v| v.set(Table::Inode, keys::ino(v.link), Some(bytes::Bytes::from_static(&[1, 200, 3])))),
    ("value format 9", |v| v.set(Table::Inode, keys::ino(v.link), Some(bytes::Bytes::from_static(&[9, 0])))),
    ("is not there", |v| v.set(Table::Inode, keys::ino(v.link), None)),
    ("of another kind", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.put_dentry(v.sub, at, &Dentry { kind: FileKind::Socket, ..dentry });
    }),
    ("position that look-ups do not find", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.set(Table::Dentry, keys::dentry(v.sub, at), None);
        v.put_dentry(v.sub, at + 256, &dentry);
    }),
    ("names of equal hash are not noted", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.set(Table::Dentry, keys::dentry(v.sub, at), None);
        v.put_dentry(v.sub, at + 3, &dentry);
    }),
    ("is there twice", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.put_dentry(v.sub, at + 1, &dentry);
    }),
    ("not a name", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.put_dentry(v.sub, at, &Dentry { name: bytes::Bytes::from_static(b"a/b"), ..dentry });
    }),
    ("says it stands in", |v| v.inode(v.sub, |inode| inode.parent = Ino::ROOT)),
    ("lies in a loop", |v| {
        // Both directories stand in each other, and nowhere else.
        let (at, dentry) = v.dentry(Ino::ROOT, "dir");
        v.set(Table::Dentry, keys::dentry(Ino::ROOT, at), None);
        v.put_dentry(v.sub, at, &dentry);
        v.inode(v.dir, |inode| inode.parent = v.sub);
    }),
    ("has 2 names", |v| {
        let (_, dentry) = v.dentry(Ino::ROOT, "dir");
        let name = bytes::Bytes::from_static(b"second");
        v.put_dentry(v.dir, 1 << 20, &Dentry { name, ..dentry });
    }),
    ("but is not there", |v| {
        let (at, dentry) = v.dentry(v.sub, "link");
        v.put_dentry(Ino(777), at, &dentry);
    }),
    ("is empty", |v| {
        let empty = make(&v.rig, Ino::ROOT, "empty", NewKind::Directory);
        v.inode(empty, |inode| inode.nlink = 7);
    }),
    ("has lost its target", |v| v.set(Table::Symlink, keys::ino(v.link), None)),
    ("target has another length", |v| v.inode(v.link, |inode| inode.size = 7)),
    ("which is none", |v| v.set(Table::Symlink, keys::ino(v.file), Some(bytes::Bytes::from_static(b"x")))),
    ("is not noted", |v| v.inode(v.file, |inode| inode.flags.set(InodeFlags::XATTR, false))),
    ("has lost its system.posix_acl_default", |v| v.set(Table::Xattr, keys::xattr(v.dir, XATTR_ACL_DEFAULT), None)),
    ("can't be read", |v| {
        v.set(Table::Xattr, keys::xattr(v.dir, XATTR_ACL_DEFAULT), Some(bytes::Bytes::from_static(&[2, 0, 0, 0, 9])));
    }),
    ("belongs to inode 555", |v| v.set(Table::Xattr, keys::xattr(Ino(555), b"user.y"), Some(bytes::Bytes::new()))),
    ("its extents have", |v| v.inode(v.file, |inode| inode.allocated += 1)),
    ("bytes, but has none", |v| {
        v.set(Table::Extent, keys::extent(v.orphan, 0), None);
    }),
    ("there is no such inode", |v| v.put_extent(Ino(888), 0, Extent { len: 1, blob: BlobId::NONE, blob_offset: 0 })),
    ("no regular file", |v| v.put_extent(v.link, 0, Extent { len: 1, blob: BlobId::NONE, blob_offset: 0 })),
    ("can't be 0 bytes long", |v| v.put_extent(v.file, 15_000, Extent { len: 0, blob: BlobId::NONE, blob_offset: 0 })),
    ("overlaps the one before", |v| v.put_extent(v.file, 9_999, Extent { len: 1, blob: BlobId::NONE, blob_offset: 0 })),
    ("goes beyond the file's", |v| v.put_extent(v.file, 24_000, Extent { len: 5_000, blob: v.blob, blob_offset: 0 })),
    ("goes beyond the 1", |v| v.put_extent(v.file, 0, Extent { len: 10_000, blob: v.blob, blob_offset: 9_000 })),
    ("blob 0000000000000309 is not known", |v| {
        v.put_extent(v.file, 0, Extent { len: 10_000, blob: BlobId(0x309), blob_offset: 0 });
    }),
    ("does not know of the file", |v| v.set(Table::BlobRef, keys::blob_ref(v.blob, v.other), None)),
    ("is said to hold bytes", |v| v.set(Table::BlobRef, keys::blob_ref(BlobId(5), v.other), Some(bytes::Bytes::new()))),
    ("live bytes, extents have", |v| v.blob(|blob| blob.live -= 1)),
    ("files refer to bytes up to", |v| v.blob(|blob| blob.len += 1 << 20)),
    ("was sealed with", |v| {
        v.rig.collect().unwrap();
        v.blob(|blob| {
            assert_eq!(blob.state, BlobState::Sealed);
            blob.len -= 1;
        });
    }),
    ("is missing, with", |v| {
        v.set(Table::Blob, keys::blob(v.blob), None);
        v.put_extent(v.file, 0, Extent { len: 10_000, blob: BlobId(0x77), blob_offset: 0 });
        let blob = Blob { store: nexus_kernel::StoreId(0), state: BlobState::Open, len: 10_000, live: 10_000 };
        v.set(Table::Blob, keys::blob(BlobId(0x77)), Some(model::encode(&blob).unwrap()));
    }),
    ("the next inode number is", |v| v.usage(|usage| usage.next_ino = Ino(3))),
    ("the zone counts", |v| v.usage(|usage| usage.allocated += 1)),
    ("the zone counts", |v| v.usage(|usage| usage.inodes += 1)),
];

#[test]
fn a_sound_volume_has_no_findings() {
    let volume = volume();
    assert_eq!(volume.rig.findings(true), []);
    volume.rig.collect().unwrap();
    assert_eq!(volume.rig.findings(true), []);
}

#[test]
fn every_damage_is_found() {
    for (number, (expected, damage)) in DAMAGES.iter().enumerate() {
        let volume = volume();
        damage(&volume);
        let findings = volume.rig.findings(false);
        let found = findings.iter().any(|f| f.severity == Severity::Damage && f.text.contains(expected));
        assert!(found, "damage {number}: {expected:?} is not among {findings:?}");
    }
}

#[test]
fn a_file_that_waits_to_be_deleted_is_only_noted() {
    let volume = volume();
    let path = std::path::Path::new(crate::volume_tests::rig::ROOT).join("segments/000abc000000ffff.seg");
    nexus_kernel::disk::Disk::create(&volume.rig.disk, &path).unwrap();
    let findings = volume.rig.findings(true);
    assert!(findings.len() == 1 && findings[0].severity == Severity::Note, "{findings:?}");
}

#[test]
fn the_summary_counts_what_was_looked_at() {
    let volume = volume();
    volume.rig.collect().unwrap();
    let mut none = |finding| panic!("{finding}");
    let summary = super::check(&*volume.rig.zone, &volume.rig.store, true, &mut none).unwrap();
    let mut inodes = 0;
    volume
        .rig
        .zone
        .read(&mut |state: &dyn MetaRead| {
            inodes = state.usage()?.inodes;
            Ok(())
        })
        .unwrap();
    assert_eq!((summary.inodes, summary.dentries, summary.extents), (inodes, 7, 5));
    assert!(summary.blobs >= 1 && summary.verified_bytes >= 15_000 && summary.damage == 0, "{summary:?}");
}
