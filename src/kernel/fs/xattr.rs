//! Syscalls on extended attributes, and which of them there are.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Caller, NexusFs, XattrFlags, live};
use crate::command::{Command, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::NodeId;
use crate::machine::{MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES};
use crate::metastore::Table;
use crate::model::{FileKind, Inode, InodeFlags, XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT, keys};

/// Bytes of a file that are not in their store yet; not in lists, as other file systems keep
/// what they compute out of them.
const XATTR_PENDING: &[u8] = b"nexus.pending";
/// Asked for at almost every write, and hardly ever there.
const XATTR_CAPABILITY: &[u8] = b"security.capability";
/// An inode without any of these has no attributes.
const ANY: u32 = InodeFlags::XATTR.0 | InodeFlags::ACL_ACCESS.0 | InodeFlags::ACL_DEFAULT.0 | InodeFlags::CAPABILITY.0;

/// A checked attribute name's namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Namespace {
    User,
    Trusted,
    Security,
    AclAccess,
    AclDefault,
}

impl Namespace {
    fn of(name: &[u8]) -> Result<Namespace> {
        if name.is_empty() || name.len() > MAX_XATTR_NAME_BYTES {
            return Err(Error::Range);
        }
        if name.contains(&0) {
            return Err(Error::Invalid);
        }
        let of_prefix = |prefix: &[u8], namespace| {
            name.strip_prefix(prefix).map(|rest| if rest.is_empty() { Err(Error::Invalid) } else { Ok(namespace) })
        };
        if name == XATTR_ACL_ACCESS {
            return Ok(Namespace::AclAccess);
        }
        if name == XATTR_ACL_DEFAULT {
            return Ok(Namespace::AclDefault);
        }
        of_prefix(b"user.", Namespace::User)
            .or_else(|| of_prefix(b"trusted.", Namespace::Trusted))
            .or_else(|| of_prefix(b"security.", Namespace::Security))
            .unwrap_or(Err(Error::NotSupported))
    }

    fn is_acl(self) -> bool {
        matches!(self, Namespace::AclAccess | Namespace::AclDefault)
    }

    /// The inode's flag without which an attribute is not there.
    fn flag(self, name: &[u8]) -> InodeFlags {
        match self {
            Namespace::AclAccess => InodeFlags::ACL_ACCESS,
            Namespace::AclDefault => InodeFlags::ACL_DEFAULT,
            Namespace::Security if name == XATTR_CAPABILITY => InodeFlags::CAPABILITY,
            Namespace::User | Namespace::Trusted | Namespace::Security => InodeFlags::XATTR,
        }
    }

    /// Refuses to change an attribute that this kind of file can't have.
    fn check_change(self, inode: &Inode) -> Result<()> {
        let file_or_dir = matches!(inode.kind, FileKind::Regular | FileKind::Directory);
        match self {
            Namespace::User if !file_or_dir => Err(Error::NotPermitted),
            Namespace::AclAccess | Namespace::AclDefault if inode.kind == FileKind::Symlink => Err(Error::NotSupported),
            Namespace::User
            | Namespace::Trusted
            | Namespace::Security
            | Namespace::AclAccess
            | Namespace::AclDefault => Ok(()),
        }
    }
}

impl NexusFs {
    /// Sets an extended attribute.
    pub fn setxattr(&self, node: NodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.writable()?;
        let namespace = Namespace::of(name)?;
        if value.len() > MAX_XATTR_BYTES {
            return Err(Error::TooLong);
        }
        let (zone, ino) = self.router.resolve(node)?;
        let inode = live(&*zone, ino)?;
        namespace.check_change(&inode)?;
        if namespace == Namespace::AclDefault && !inode.is_dir() {
            return Err(Error::AccessDenied);
        }
        let command = Command::SetXattr {
            ino,
            name: SmallBytes::from_slice(name),
            value: value.to_vec(),
            mode: flags.mode,
            kill_setgid: flags.kill_setgid,
            now: zone.now(),
        };
        zone.propose(&command).map(|_| ())
    }

    /// Value of an extended attribute.
    pub fn getxattr(&self, node: NodeId, name: &[u8]) -> Result<Bytes> {
        if name == XATTR_PENDING {
            return Ok(self.bytes_only_here(node)?.to_string().into());
        }
        let namespace = Namespace::of(name)?;
        let (zone, ino) = self.router.resolve(node)?;
        let inode = live(&*zone, ino)?;
        if namespace.is_acl() && inode.kind == FileKind::Symlink {
            return Err(Error::NotSupported);
        }
        if !inode.flags.has(namespace.flag(name)) {
            return Err(Error::NoAttribute);
        }
        let mut value = None;
        zone.read(&mut |state| {
            value = state.get(Table::Xattr, &keys::xattr(ino, name))?;
            Ok(())
        })?;
        value.ok_or(Error::NoAttribute)
    }

    /// Names of all extended attributes, each followed by NUL, as listxattr(2) answers them;
    /// `trusted.` ones only for the superuser.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        let (zone, ino) = self.router.resolve(node)?;
        let mut names = Vec::new();
        if live(&*zone, ino)?.flags.0 & ANY == 0 {
            return Ok(names);
        }
        let (start, end) = keys::prefix(ino.0);
        zone.read(&mut |state| {
            names.clear();
            let mut bad = None;
            state.scan(Table::Xattr, &start, &end, &mut |key, _| match keys::parse_xattr_name(key) {
                Ok(name) => {
                    if caller.uid == 0 || !name.starts_with(b"trusted.") {
                        names.extend_from_slice(name);
                        names.push(0);
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    bad = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            bad.map_or(Ok(()), Err)
        })?;
        Ok(names)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        self.writable()?;
        let namespace = Namespace::of(name)?;
        let (zone, ino) = self.router.resolve(node)?;
        namespace.check_change(&live(&*zone, ino)?)?;
        let command = Command::RemoveXattr { ino, name: SmallBytes::from_slice(name), now: zone.now() };
        zone.propose(&command).map(|_| ())
    }
}
