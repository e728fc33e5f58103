//! Extended attributes: namespaces, limits, modes.

use super::*;
use crate::command::XattrMode;
use crate::error::Error;
use crate::fs::XattrFlags;

const SET: XattrFlags = XattrFlags { mode: XattrMode::Set, kill_setgid: false };
const CREATE: XattrFlags = XattrFlags { mode: XattrMode::Create, kill_setgid: false };
const REPLACE: XattrFlags = XattrFlags { mode: XattrMode::Replace, kill_setgid: false };

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    assert_eq!(rig.fs.getxattr(file, b"user.a"), Err(Error::NoAttribute));
    assert_eq!(rig.fs.listxattr(&USER, file).unwrap(), b"");
    assert_eq!(rig.fs.setxattr(file, b"user.a", b"1", REPLACE), Err(Error::NoAttribute));
    rig.fs.setxattr(file, b"user.a", b"1", CREATE).unwrap();
    assert_eq!(rig.fs.setxattr(file, b"user.a", b"2", CREATE), Err(Error::Exists));
    rig.fs.setxattr(file, b"user.a", b"", REPLACE).unwrap();
    assert_eq!(rig.fs.getxattr(file, b"user.a").unwrap(), "");
    rig.fs.setxattr(file, b"trusted.t", &[0xff; 65_536], SET).unwrap();
    rig.fs.setxattr(file, b"security.capability", b"cap", SET).unwrap();
    assert_eq!(rig.fs.getxattr(file, b"security.capability").unwrap(), "cap");
    assert_eq!(rig.fs.getxattr(file, b"trusted.t").unwrap(), vec![0xff; 65_536]);
    assert_eq!(rig.fs.listxattr(&USER, file).unwrap(), b"security.capability\0user.a\0");
    assert_eq!(rig.fs.listxattr(&Caller::ROOT, file).unwrap(), b"security.capability\0trusted.t\0user.a\0");
    rig.fs.write(file, 0, 0, b"x", true).unwrap();
    assert_eq!(rig.fs.getxattr(file, b"security.capability"), Err(Error::NoAttribute), "a write takes it away");
    rig.fs.removexattr(file, b"user.a").unwrap();
    assert_eq!(rig.fs.removexattr(file, b"user.a"), Err(Error::NoAttribute));
    rig.fs.unlink(ROOT, b"f").unwrap();
    assert_eq!(rig.count(Table::Xattr), 0);
}

#[test]
fn names_and_values_have_their_limits() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let set = |name: &[u8], value: &[u8]| rig.fs.setxattr(file, name, value, SET);
    let longest = [b"user.".to_vec(), vec![b'x'; 250]].concat();
    assert_eq!(set(&longest, b"1"), Ok(()));
    assert_eq!(set(&[longest, vec![b'x']].concat(), b"1"), Err(Error::Range));
    assert_eq!(set(b"", b"1"), Err(Error::Range));
    assert_eq!(set(b"user.", b"1"), Err(Error::Invalid));
    assert_eq!(set(b"user.a\0b", b"1"), Err(Error::Invalid));
    assert_eq!(set(b"user.big", &vec![0; 65_537]), Err(Error::TooLong));
    for name in [&b"system.other"[..], b"other.x", b"plain", b"userx"] {
        assert_eq!(set(name, b"1"), Err(Error::NotSupported));
        assert_eq!(rig.fs.getxattr(file, name), Err(Error::NotSupported));
        assert_eq!(rig.fs.removexattr(file, name), Err(Error::NotSupported));
    }
    assert_eq!(rig.fs.getxattr(NodeId(99), b"user.a"), Err(Error::Stale));
}

#[test]
fn only_files_and_directories_carry_user_attributes() {
    let rig = Rig::plain();
    let fifo = rig.make(ROOT, "p", NewKind::Fifo).unwrap().node;
    let link = rig.make(ROOT, "l", NewKind::Symlink(b"x".to_vec())).unwrap().node;
    for node in [fifo, link] {
        assert_eq!(rig.fs.setxattr(node, b"user.a", b"1", SET), Err(Error::NotPermitted));
        assert_eq!(rig.fs.removexattr(node, b"user.a"), Err(Error::NotPermitted));
        assert_eq!(rig.fs.getxattr(node, b"user.a"), Err(Error::NoAttribute));
        rig.fs.setxattr(node, b"trusted.a", b"1", SET).unwrap();
    }
    rig.fs.setxattr(ROOT, b"user.a", b"1", SET).unwrap();
}

/// user::rw-, user:7:r--, group::r--, mask::r--, other::---
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [(1u16, 6u16, none), (2, 4, 7), (4, 4, none), (0x10, 4, none), (0x20, 0, none)] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn acls_change_the_mode_and_are_inherited() {
    let rig = Rig::plain();
    let (access, default) = (b"system.posix_acl_access", b"system.posix_acl_default");
    let (file, dir) = (rig.file(ROOT, "f"), rig.dir(ROOT, "d"));
    rig.fs.setxattr(file, access, &acl(), SET).unwrap();
    assert_eq!(rig.fs.getxattr(file, access).unwrap(), acl());
    assert_eq!(rig.fs.getattr(file).unwrap().inode.mode, 0o640);
    assert_eq!(rig.fs.listxattr(&USER, file).unwrap(), b"system.posix_acl_access\0");
    assert_eq!(rig.fs.setxattr(file, default, &acl(), SET), Err(Error::AccessDenied));
    assert_eq!(rig.fs.setxattr(file, access, b"junk", SET), Err(Error::NotSupported));
    rig.fs.setxattr(dir, default, &acl(), SET).unwrap();
    let below = rig.file(dir, "f");
    assert!(rig.fs.getxattr(below, access).is_ok());
    assert_eq!(rig.fs.getattr(below).unwrap().inode.mode, 0o640, "no umask where there is a default ACL");
    rig.fs.removexattr(file, access).unwrap();
    assert_eq!(rig.fs.getxattr(file, access), Err(Error::NoAttribute));
    let link = rig.make(ROOT, "l", NewKind::Symlink(b"x".to_vec())).unwrap().node;
    assert_eq!(rig.fs.setxattr(link, access, &acl(), SET), Err(Error::NotSupported));
    assert_eq!(rig.fs.getxattr(link, access), Err(Error::NotSupported));
}
