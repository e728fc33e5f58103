//! Syscalls on names: lookup, make, unlink, rmdir, rename, link, readlink.

use bytes::Bytes;

use super::{Attr, Caller, NexusFs, answered, directory_inode, live};
use crate::command::{Command, Interest, NewKind, RenameMode, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId, ZoneIndex};
use crate::machine;
use crate::metastore::Table;
use crate::model::{Dentry, FileKind, keys};
use crate::name::Name;
use crate::zone::Zone;

/// Longest target of a symbolic link in bytes.
pub(super) const MAX_TARGET_BYTES: usize = 4095;

impl NexusFs {
    /// Finds a name. "." and ".." are understood.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attr> {
        let (zone, dir) = self.router.resolve(parent)?;
        if name == b"." {
            return Ok(Attr { node: parent, inode: directory_inode(&self.router, &*zone, dir)? });
        }
        if name == b".." {
            return self.getattr(self.parent_of(parent)?);
        }
        let name = Name::new(name)?;
        let index = parent.zone();
        let is_fresh = self.freshen_if_strict(&*zone, Interest::Anything)?;
        let mut found = zone.lookup(dir, name)?;
        if found.is_none() && !is_fresh && self.freshen(&*zone, Interest::Name(dir, name.as_bytes()))? {
            // Somebody elsewhere may have made it.
            found = zone.lookup(dir, name)?;
        }
        directory_inode(&self.router, &*zone, dir)?;
        let (_, dentry) = found.ok_or(Error::NotFound)?;
        let node = child(index, &dentry);
        match zone.inode(dentry.ino)? {
            Some(inode) => Ok(Attr { node, inode }),
            None => self.lookup_consistent(index, &*zone, dir, name),
        }
    }

    /// As `lookup`, in one state: for when the name changed between two reads.
    fn lookup_consistent(&self, index: ZoneIndex, zone: &dyn Zone, dir: Ino, name: Name<'_>) -> Result<Attr> {
        let seed = zone.info().hash_seed;
        let mut found = Err(Error::NotFound);
        zone.read_written(&mut |state| {
            found = match machine::find_dentry(state, seed, dir, name.as_bytes())? {
                None => Err(Error::NotFound),
                Some((_, dentry)) => match state.inode(dentry.ino)? {
                    Some(inode) => Ok(Attr { node: child(index, &dentry), inode }),
                    None => Err(Error::Corrupt(format!(
                        "an entry of directory {dir} names inode {}, which is not there",
                        dentry.ino
                    ))),
                },
            };
            Ok(())
        })?;
        found
    }

    /// The directory that a directory stands in; the root's is itself.
    pub fn parent_of(&self, node: NodeId) -> Result<NodeId> {
        let (zone, ino) = self.router.resolve(node)?;
        let inode = live(&*zone, ino)?;
        if !inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        Ok(NodeId::new(node.zone(), if inode.parent == Ino(0) { ino } else { inode.parent }))
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, node: NodeId) -> Result<Bytes> {
        let (zone, ino) = self.router.resolve(node)?;
        let inode = live(&*zone, ino)?;
        if inode.kind != FileKind::Symlink {
            return Err(Error::Invalid);
        }
        let mut target = None;
        zone.read(&mut |state| {
            target = state.get(Table::Symlink, &keys::ino(ino))?;
            Ok(())
        })?;
        let target = target.ok_or(Error::Stale)?;
        self.touch(&*zone, ino, &inode);
        Ok(target)
    }

    /// Makes a file of any kind: mknod, mkdir and symlink in one.
    pub fn make(&self, caller: &Caller, parent: NodeId, name: &[u8], kind: NewKind, mode: u32) -> Result<Attr> {
        self.writable()?;
        let (zone, dir) = self.router.resolve(parent)?;
        directory_inode(&self.router, &*zone, dir)?;
        let name = small(name)?;
        if let NewKind::Symlink(target) = &kind {
            match target.len() {
                0 => return Err(Error::NotFound),
                len if len > MAX_TARGET_BYTES => return Err(Error::TooLong),
                _ if target.contains(&0) => return Err(Error::Invalid),
                _ => {}
            }
        }
        let command = Command::Create {
            parent: dir,
            name,
            ino: zone.allocate_ino()?,
            kind,
            mode,
            umask: caller.umask,
            uid: caller.uid,
            gid: caller.gid,
            now: zone.now(),
        };
        answered(parent.zone(), &zone.propose(&command)?)
    }

    /// Takes a name from anything but a directory.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |parent, name, keep, now| Command::Unlink { parent, name, keep, now })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |parent, name, keep, now| Command::RemoveDir { parent, name, keep, now })
    }

    fn remove(
        &self,
        parent: NodeId,
        name: &[u8],
        command: impl FnOnce(Ino, SmallBytes, bool, crate::Timestamp) -> Command,
    ) -> Result<()> {
        self.writable()?;
        let (zone, dir) = self.router.resolve(parent)?;
        directory_inode(&self.router, &*zone, dir)?;
        let small = small(name)?;
        let _gate = (!self.caching_client).then(|| self.open_gate.write());
        let keep = self.keeps(&*zone, parent, name)?;
        let outcome = zone.propose(&command(dir, small, keep, zone.now()))?;
        self.after_removal(parent.zone(), &*zone, &outcome);
        Ok(())
    }

    /// Moves a name. `whiteout` leaves a character device 0:0 at the source.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        new_parent: NodeId,
        new_name: &[u8],
        mode: RenameMode,
        whiteout: bool,
    ) -> Result<()> {
        self.writable()?;
        if whiteout && mode == RenameMode::Exchange {
            return Err(Error::Invalid);
        }
        if parent.zone() != new_parent.zone() {
            return Err(Error::CrossZone);
        }
        let (zone, dir) = self.router.resolve(parent)?;
        let (small_name, small_new) = (small(name)?, small(new_name)?);
        let _gate = (!self.caching_client).then(|| self.open_gate.write());
        let keep = self.keeps(&*zone, new_parent, new_name)?;
        let command = Command::Rename {
            parent: dir,
            name: small_name,
            new_parent: new_parent.ino(),
            new_name: small_new,
            mode,
            whiteout: if whiteout { Some(zone.allocate_ino()?) } else { None },
            keep,
            now: zone.now(),
        };
        let outcome = zone.propose(&command)?;
        self.after_removal(parent.zone(), &*zone, &outcome);
        Ok(())
    }

    /// Gives a file one more name.
    pub fn link(&self, node: NodeId, new_parent: NodeId, new_name: &[u8]) -> Result<Attr> {
        self.writable()?;
        if node.zone() != new_parent.zone() {
            return Err(Error::CrossZone);
        }
        let (zone, ino) = self.router.resolve(node)?;
        let command = Command::Link { ino, parent: new_parent.ino(), name: small(new_name)?, now: zone.now() };
        let outcome = zone.propose(&command)?;
        if outcome.inode.is_some_and(|(_, inode)| inode.nlink == 1) {
            self.reaper.named(node);
        }
        answered(node.zone(), &outcome)
    }

    /// Whether an inode that loses this name must stay for somebody who uses it, or may do so on another node.
    fn keeps(&self, zone: &dyn Zone, parent: NodeId, name: &[u8]) -> Result<bool> {
        if self.caching_client || zone.is_replicated() {
            return Ok(true);
        }
        let entry = zone.lookup(parent.ino(), Name::new(name)?)?;
        Ok(entry.is_some_and(|(_, dentry)| self.handles.is_open(NodeId::new(parent.zone(), dentry.ino))))
    }
}

/// The node that an entry names. Where a zone is mounted, that is the directory below it.
pub(super) fn child(index: ZoneIndex, dentry: &Dentry) -> NodeId {
    NodeId::new(index, dentry.ino)
}

/// A checked name, as commands carry it.
pub(super) fn small(name: &[u8]) -> Result<SmallBytes> {
    Ok(SmallBytes::from_slice(Name::new(name)?.as_bytes()))
}
