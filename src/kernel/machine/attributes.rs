//! Commands on attributes: mode, owner, times, extended attributes, ACLs, settings.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::command::{AttrChange, Outcome, XattrMode};
use crate::error::{Error, Result};
use crate::ids::{Ino, StoreId};
use crate::machine::txn::Txn;
use crate::metastore::{MetaRead, Table};
use crate::model::{
    Acl, FileKind, Inode, InodeFlags, MAX_FILE_BYTES, Placement, Usage, XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT, ZoneInfo,
    keys, mode,
};

/// Longest value of an extended attribute, as Linux has it.
pub const MAX_XATTR_BYTES: usize = 65_536;
/// Longest name of an extended attribute, as Linux has it.
pub const MAX_XATTR_NAME_BYTES: usize = 255;

const XATTR_CAPABILITY: &[u8] = b"security.capability";

impl Txn<'_> {
    pub(super) fn set_attr(&mut self, ino: Ino, change: &AttrChange, now: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        let owner_changes = change.uid.is_some() || change.gid.is_some();
        if let Some(size) = change.size {
            match inode.kind {
                FileKind::Regular => {}
                FileKind::Directory => return Err(Error::IsDirectory),
                _ => return Err(Error::Invalid),
            }
            if size > MAX_FILE_BYTES {
                return Err(Error::FileTooLarge);
            }
            if size < inode.size {
                self.remove_extents(ino, &mut inode, size, u64::MAX)?;
            }
            inode.size = size;
            inode.mtime = now;
        }
        if change.kill_privileges || (owner_changes && !inode.is_dir()) {
            self.kill_privileges(ino, &mut inode);
        }
        inode.uid = change.uid.unwrap_or(inode.uid);
        inode.gid = change.gid.unwrap_or(inode.gid);
        if let Some(mode) = change.mode {
            inode.mode = mode & mode::PERMISSIONS;
            if inode.flags.has(InodeFlags::ACL_ACCESS) {
                self.chmod_acl(ino, inode.mode)?;
            }
        }
        inode.atime = change.atime.unwrap_or(inode.atime);
        inode.mtime = change.mtime.unwrap_or(inode.mtime);
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    pub(super) fn place(&mut self, ino: Ino, placement: Placement, now: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        if placement.store > StoreId::MAX {
            return Err(Error::Invalid);
        }
        inode.flags = inode.flags.placed(placement);
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    pub(super) fn set_atime(&mut self, ino: Ino, atime: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        inode.atime = atime;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    /// Clears what a change by somebody unprivileged clears.
    pub(super) fn kill_privileges(&mut self, ino: Ino, inode: &mut Inode) {
        inode.mode &= !mode::S_ISUID;
        if inode.mode & mode::S_IXGRP != 0 {
            inode.mode &= !mode::S_ISGID;
        }
        if inode.flags.has(InodeFlags::CAPABILITY) {
            self.delete(Table::Xattr, keys::xattr(ino, XATTR_CAPABILITY));
            inode.flags.set(InodeFlags::CAPABILITY, false);
        }
    }

    fn chmod_acl(&mut self, ino: Ino, mode: u32) -> Result<()> {
        let key = keys::xattr(ino, XATTR_ACL_ACCESS);
        let damaged = || Error::Corrupt(format!("inode {ino} has a damaged ACL"));
        let value = MetaRead::get(self, Table::Xattr, &key)?.ok_or_else(damaged)?;
        let mut acl = Acl::parse(&value).ok().flatten().ok_or_else(damaged)?;
        acl.set_mode_bits(mode);
        self.put(Table::Xattr, key, acl.to_bytes().into());
        Ok(())
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrMode,
        kill_setgid: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        if name.is_empty() || name.len() > MAX_XATTR_NAME_BYTES || name.contains(&0) {
            return Err(Error::Range);
        }
        if value.len() > MAX_XATTR_BYTES {
            return Err(Error::TooLong);
        }
        let key = keys::xattr(ino, name);
        let there = MetaRead::get(self, Table::Xattr, &key)?.is_some();
        match how {
            XattrMode::Create if there => return Err(Error::Exists),
            XattrMode::Replace if !there => return Err(Error::NoAttribute),
            XattrMode::Set | XattrMode::Create | XattrMode::Replace => {}
        }
        let stored = match name {
            XATTR_ACL_ACCESS | XATTR_ACL_DEFAULT => self.check_acl(&mut inode, name, value, kill_setgid)?,
            _ => Some(Bytes::copy_from_slice(value)),
        };
        inode.flags.set(flag_of(name), stored.is_some());
        match stored {
            Some(value) => self.put(Table::Xattr, key, value),
            None => self.delete(Table::Xattr, key),
        }
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    /// What is stored of an ACL, and what it does to the mode bits.
    fn check_acl(&mut self, inode: &mut Inode, name: &[u8], value: &[u8], kill_setgid: bool) -> Result<Option<Bytes>> {
        if inode.kind == FileKind::Symlink {
            return Err(Error::NotSupported);
        }
        let acl = Acl::parse(value)?;
        if name == XATTR_ACL_DEFAULT {
            return match acl {
                Some(_) if !inode.is_dir() => Err(Error::AccessDenied),
                Some(acl) => Ok(Some(acl.to_bytes().into())),
                None => Ok(None),
            };
        }
        let Some(acl) = acl else { return Ok(None) };
        inode.mode = (inode.mode & !0o777) | acl.mode_bits();
        if kill_setgid {
            inode.mode &= !mode::S_ISGID;
        }
        Ok((!acl.is_minimal()).then(|| acl.to_bytes().into()))
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &[u8], now: Timestamp) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        let key = keys::xattr(ino, name);
        if MetaRead::get(self, Table::Xattr, &key)?.is_none() {
            // Linux has the removal of an ACL that is not there succeed.
            let acl = name == XATTR_ACL_ACCESS || name == XATTR_ACL_DEFAULT;
            return if acl { Ok(Outcome::default()) } else { Err(Error::NoAttribute) };
        }
        self.delete(Table::Xattr, key);
        if flag_of(name) != InodeFlags::XATTR {
            inode.flags.set(flag_of(name), false);
        }
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    pub(super) fn set_sys(&mut self, key: &str, value: Option<&[u8]>) -> Result<Outcome> {
        if key.is_empty() || key.len() > 255 || [Usage::KEY, ZoneInfo::KEY, crate::zone::APPLIED_KEY].contains(&key) {
            return Err(Error::Invalid);
        }
        match value {
            Some(value) => self.put(Table::Sys, keys::sys(key), Bytes::copy_from_slice(value)),
            None => self.delete(Table::Sys, keys::sys(key)),
        }
        Ok(Outcome::default())
    }
}

/// The inode's flag that tells of an attribute. `XATTR`, for all without one of their own,
/// is never cleared: it only spares look-ups for inodes that never had any.
fn flag_of(name: &[u8]) -> InodeFlags {
    match name {
        XATTR_ACL_ACCESS => InodeFlags::ACL_ACCESS,
        XATTR_ACL_DEFAULT => InodeFlags::ACL_DEFAULT,
        XATTR_CAPABILITY => InodeFlags::CAPABILITY,
        _ => InodeFlags::XATTR,
    }
}
