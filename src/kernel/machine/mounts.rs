//! Zones within zones: filling a new one, and the entries that join them.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::command::Outcome;
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::machine::txn::Txn;
use crate::metastore::{Key, MetaRead, Table};
use crate::model::{self, Dentry, FileKind, InodeFlags, MountTarget, keys};
use crate::name::Name;

/// Name in the `sys` table of a zone that is still being filled.
pub const FILLING_KEY: &str = "filling";
/// Names in the `sys` table of directories that a zone was put in place of and that are still
/// to be emptied begin so; their inode number follows.
pub const DETACHED_PREFIX: &str = "detached/";

/// Name in the `sys` table of a mark that pauses the zone: who has put it there, and how often it
/// was renewed.
pub const PAUSED_KEY: &str = "paused";
/// Longest mark.
const MAX_MARK_BYTES: usize = 256;

/// Names in the `sys` table of directories that zones are mounted on begin so; their inode number
/// follows. The value is the number of the directory that they stand in, as eight bytes.
pub const MOUNT_PREFIX: &str = "mount/";

/// Longest encoded [`MountTarget`].
const MAX_TARGET_BYTES: usize = 4096;

impl Txn<'_> {
    pub(super) fn reserve_inos(&mut self, count: u64) -> Result<Outcome> {
        let usage = self.usage_mut()?;
        let first = usage.next_ino;
        let next = first.0.checked_add(count).filter(|next| *next <= Ino::MAX.0 + 1).ok_or(Error::NoSpace)?;
        usage.next_ino = Ino(next);
        Ok(Outcome { count: first.0, ..Outcome::default() })
    }

    pub(super) fn compare_sys(&mut self, key: &str, expect: Option<&[u8]>, value: Option<&[u8]>) -> Result<Outcome> {
        let found = MetaRead::get(self, Table::Sys, &keys::sys(key))?;
        if found.as_deref() != expect {
            return Err(Error::Conflict);
        }
        self.set_sys(key, value)
    }

    pub(super) fn pause(&mut self, expect: Option<&[u8]>, mark: Option<&[u8]>) -> Result<Outcome> {
        if mark.is_some_and(|mark| mark.len() > MAX_MARK_BYTES) {
            return Err(Error::TooLong);
        }
        self.compare_sys(PAUSED_KEY, expect, mark)
    }

    pub(super) fn import(&mut self, pairs: &[(u8, Vec<u8>, Vec<u8>)], done: bool) -> Result<Outcome> {
        let filling = keys::sys(FILLING_KEY);
        if MetaRead::get(self, Table::Sys, &filling)?.is_none() {
            return Err(Error::Invalid);
        }
        for (table, key, value) in pairs {
            let table = Table::ALL.into_iter().find(|known| *known as u8 == *table).ok_or(Error::Invalid)?;
            match (table, <[u8; 8]>::try_from(key.as_slice())) {
                // Told as inodes, too: a cache may have others at these numbers.
                (Table::Inode, Ok(ino)) => {
                    let inode = model::decode("inode", value).map_err(|_| Error::Invalid)?;
                    self.put_inode(Ino(u64::from_be_bytes(ino)), Some(inode));
                }
                (Table::Inode, Err(_)) => return Err(Error::Invalid),
                _ => self.put(table, Key::from_slice(key), Bytes::copy_from_slice(value)),
            }
        }
        if done {
            self.delete(Table::Sys, filling);
        }
        Ok(Outcome { count: pairs.len() as u64, ..Outcome::default() })
    }

    pub(super) fn mount_zone(
        &mut self,
        (parent, name): (Ino, &[u8]),
        replace: bool,
        target: &[u8],
        now: Timestamp,
    ) -> Result<Outcome> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(Error::TooLong);
        }
        model::decode::<MountTarget>("mount target", target).map_err(|_| Error::Invalid)?;
        let dir = self.directory(parent)?;
        let (position, dentry) = self.find_name(parent, &dir, Name::new(name)?.as_bytes())?.ok_or(Error::NotFound)?;
        match dentry.kind {
            FileKind::Directory => {}
            FileKind::Mount => return Err(Error::Busy),
            _ => return Err(Error::NotDirectory),
        }
        let ino = dentry.ino;
        let mut inode = self.inode(ino)?;
        if inode.size != 0 {
            if !replace {
                return Err(Error::NotEmpty);
            }
            self.put(Table::Sys, keys::sys(&format!("{DETACHED_PREFIX}{ino}")), Bytes::new());
        }
        inode.flags.set(InodeFlags::MOUNT, true);
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        self.put(Table::Symlink, keys::ino(ino), Bytes::copy_from_slice(target));
        let place = Bytes::copy_from_slice(&parent.0.to_be_bytes());
        self.put(Table::Sys, keys::sys(&format!("{MOUNT_PREFIX}{ino}")), place);
        self.set_entry_kind(parent, position, dentry, FileKind::Mount)?;
        self.touch(parent, now)?;
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    pub(super) fn unmount_zone(&mut self, (parent, name): (Ino, &[u8]), now: Timestamp) -> Result<Outcome> {
        let dir = self.directory(parent)?;
        let (position, dentry) = self.find_name(parent, &dir, Name::new(name)?.as_bytes())?.ok_or(Error::NotFound)?;
        if dentry.kind != FileKind::Mount {
            return Err(Error::Invalid);
        }
        let ino = dentry.ino;
        let mut inode = self.inode(ino)?;
        if inode.size != 0 {
            // What the zone was put in place of would come back.
            return Err(Error::Busy);
        }
        inode.flags.set(InodeFlags::MOUNT, false);
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        self.delete(Table::Symlink, keys::ino(ino));
        self.delete(Table::Sys, keys::sys(&format!("{MOUNT_PREFIX}{ino}")));
        self.set_entry_kind(parent, position, dentry, FileKind::Directory)?;
        self.touch(parent, now)?;
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    fn set_entry_kind(&mut self, parent: Ino, position: u64, dentry: Dentry, kind: FileKind) -> Result<()> {
        self.put(Table::Dentry, keys::dentry(parent, position), model::encode(&Dentry { kind, ..dentry })?);
        Ok(())
    }

    fn touch(&mut self, ino: Ino, now: Timestamp) -> Result<()> {
        let mut dir = self.directory(ino)?;
        dir.mtime = now;
        dir.ctime = now;
        self.put_inode(ino, Some(dir));
        Ok(())
    }
}
