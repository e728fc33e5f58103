//! The working state of one command: reads through to the zone's state, collects changes,
//! holds the inodes and blobs that it touches decoded.

use std::ops::ControlFlow;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::command::{Command, Outcome};
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino};
use crate::machine::Applied;
use crate::machine::writes::Writes;
use crate::metastore::{Key, MetaRead, Table, Visitor};
use crate::model::{self, Blob, Dentry, Inode, InodeFlags, SLOT_BITS, Usage, ZoneInfo, keys, name_hash};
use crate::overlay::{self, Direction};

/// A decoded record, with whether it has to be written back.
struct Slot<T> {
    value: Option<T>,
    dirty: bool,
}

/// One command at work.
pub struct Txn<'a> {
    base: &'a dyn MetaRead,
    writes: Writes,
    /// A position of a directory at which nothing stands, as the last look-up found.
    free: Option<(Ino, u64)>,
    inodes: SmallVec<[(Ino, Slot<Inode>); 4]>,
    blobs: SmallVec<[(BlobId, Slot<Blob>); 4]>,
    usage: Option<Usage>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(base: &'a dyn MetaRead) -> Txn<'a> {
        Txn {
            base,
            writes: Writes::default(),
            free: None,
            inodes: SmallVec::new(),
            blobs: SmallVec::new(),
            usage: None,
        }
    }

    /// Runs the command; what an error leaves behind must be thrown away.
    pub(super) fn run(&mut self, command: &Command) -> Result<Outcome> {
        match command {
            Command::Format { id, hash_seed, mode, uid, gid, now } => {
                let info = ZoneInfo { id: *id, hash_seed: *hash_seed, created: *now };
                self.format(info, *mode, *uid, *gid)
            }
            Command::Create { parent, name, ino, kind, mode, umask, uid, gid, now } => {
                self.create(*parent, name, *ino, kind, (*mode, *umask), (*uid, *gid), *now)
            }
            Command::Link { ino, parent, name, now } => self.link(*ino, *parent, name, *now),
            Command::Unlink { parent, name, keep, now } => self.unlink(*parent, name, *keep, *now),
            Command::RemoveDir { parent, name, keep, now } => self.remove_dir(*parent, name, *keep, *now),
            Command::Rename { .. } => self.rename(command),
            Command::SetAttr { ino, change, now } => self.set_attr(*ino, change, *now),
            Command::SetAtime { ino, atime } => self.set_atime(*ino, *atime),
            Command::Write { ino, offset, pieces, store, kill_privileges, now } => {
                self.write(*ino, *offset, pieces, *store, *kill_privileges, *now)
            }
            Command::Append { ino, pieces, store, kill_privileges, now } => {
                self.append(*ino, pieces, *store, *kill_privileges, *now)
            }
            Command::Range { ino, op, offset, len, kill_privileges, now } => {
                self.range(*ino, *op, *offset, *len, *kill_privileges, *now)
            }
            Command::Clone { from, from_offset, to, to_offset, len, kill_privileges, now } => {
                self.clone_range((*from, *from_offset), (*to, *to_offset), *len, *kill_privileges, *now)
            }
            Command::SetXattr { ino, name, value, mode, kill_setgid, now } => {
                self.set_xattr(*ino, name, value, *mode, *kill_setgid, *now)
            }
            Command::RemoveXattr { ino, name, now } => self.remove_xattr(*ino, name, *now),
            Command::Reap { inos, budget } => self.reap(inos, *budget),
            Command::SealBlob { blob, len } => self.seal_blob(*blob, *len),
            Command::DropBlob { blob } => self.drop_blob(*blob),
            Command::Relocate { from, store, moves } => self.relocate(*from, *store, moves),
            Command::SetSys { key, value } => self.set_sys(key, value.as_deref()),
            Command::CreateUnnamed { parent, ino, mode, umask, uid, gid, now } => {
                self.create_unnamed(*parent, *ino, (*mode, *umask), (*uid, *gid), *now)
            }
            Command::Place { ino, placement, now } => self.place(*ino, *placement, *now),
            Command::ReserveInos { count } => self.reserve_inos(*count),
            Command::CompareSys { key, expect, value } => self.compare_sys(key, expect.as_deref(), value.as_deref()),
            Command::Import { pairs, done } => self.import(pairs, *done),
            Command::MountZone { parent, name, replace, target, now } => {
                self.mount_zone((*parent, name), *replace, target, *now)
            }
            Command::UnmountZone { parent, name, now } => self.unmount_zone((*parent, name), *now),
            Command::Pause { expect, mark } => self.pause(expect.as_deref(), mark.as_deref()),
            Command::MountFilled { parent, name, mark, target, now } => {
                self.pause(Some(mark), None)?;
                self.mount_zone((*parent, name), true, target, *now)
            }
            Command::SetLock { ino, lock, change } => self.set_lock(*ino, lock, *change),
            Command::EndLocks { session } => self.end_locks(*session),
            Command::Fenced { session, command } => self.fenced(*session, command),
            Command::WriteMany { ino, writes, store, kill_privileges, now } => {
                self.write_many(*ino, writes, *store, *kill_privileges, *now)
            }
        }
    }

    /// The changes, each record encoded once.
    pub(super) fn finish(mut self, outcome: Outcome) -> Result<Applied> {
        let mut inodes = SmallVec::new();
        for (ino, slot) in std::mem::take(&mut self.inodes) {
            if slot.dirty {
                let value = slot.value.as_ref().map(model::encode).transpose()?;
                self.writes.insert(Table::Inode, keys::ino(ino), value);
                inodes.push((ino, slot.value));
            }
        }
        for (blob, slot) in std::mem::take(&mut self.blobs) {
            if slot.dirty {
                let value = slot.value.as_ref().map(model::encode).transpose()?;
                self.writes.insert(Table::Blob, keys::blob(blob), value);
            }
        }
        if let Some(usage) = self.usage {
            self.writes.insert(Table::Sys, keys::sys(Usage::KEY), Some(model::encode(&usage)?));
        }
        Ok(Applied { outcome, writes: self.writes.into_vec(), inodes })
    }

    pub(super) fn put(&mut self, table: Table, key: Key, value: Bytes) {
        if table == Table::Dentry {
            self.free = None;
        }
        self.writes.insert(table, key, Some(value));
    }

    pub(super) fn delete(&mut self, table: Table, key: Key) {
        self.writes.insert(table, key, None);
    }

    /// An inode, or `None` if there is none.
    pub(super) fn find_inode(&mut self, ino: Ino) -> Result<Option<Inode>> {
        if let Some((_, slot)) = self.inodes.iter().find(|(i, _)| *i == ino) {
            return Ok(slot.value);
        }
        let value = self.base.inode(ino)?;
        self.inodes.push((ino, Slot { value, dirty: false }));
        Ok(value)
    }

    /// An inode that a handle or node id names.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<Inode> {
        self.find_inode(ino)?.ok_or(Error::Stale)
    }

    /// A directory that can take and lose names.
    pub(super) fn directory(&mut self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if !inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        if inode.nlink == 0 { Err(Error::NotFound) } else { Ok(inode) }
    }

    /// An inode that this command has read or changed already.
    pub(super) fn inodes_at_hand(&self, ino: Ino) -> Option<Inode> {
        self.inodes.iter().find(|(i, _)| *i == ino).and_then(|(_, slot)| slot.value)
    }

    pub(super) fn put_inode(&mut self, ino: Ino, inode: Option<Inode>) {
        let slot = Slot { value: inode, dirty: true };
        match self.inodes.iter_mut().find(|(i, _)| *i == ino) {
            Some((_, old)) => *old = slot,
            None => self.inodes.push((ino, slot)),
        }
    }

    pub(super) fn find_blob(&mut self, blob: BlobId) -> Result<Option<Blob>> {
        if let Some((_, slot)) = self.blobs.iter().find(|(b, _)| *b == blob) {
            return Ok(slot.value);
        }
        let value = match self.base.get(Table::Blob, &keys::blob(blob))? {
            Some(bytes) => Some(model::decode::<Blob>("blob", &bytes)?),
            None => None,
        };
        self.blobs.push((blob, Slot { value, dirty: false }));
        Ok(value)
    }

    pub(super) fn put_blob(&mut self, blob: BlobId, value: Option<Blob>) {
        let slot = Slot { value, dirty: true };
        match self.blobs.iter_mut().find(|(b, _)| *b == blob) {
            Some((_, old)) => *old = slot,
            None => self.blobs.push((blob, slot)),
        }
    }

    /// The zone's counters, to be changed.
    pub(super) fn usage_mut(&mut self) -> Result<&mut Usage> {
        let usage = match self.usage {
            Some(usage) => usage,
            None => self.base.usage()?,
        };
        Ok(self.usage.insert(usage))
    }

    /// Finds a name, and otherwise remembers where it would stand.
    pub(super) fn find_name(&mut self, parent: Ino, dir: &Inode, name: &[u8]) -> Result<Option<(u64, Dentry)>> {
        let seed = self.hash_seed()?;
        if dir.flags.has(InodeFlags::COLLIDED) {
            return find_dentry(self, seed, parent, name);
        }
        let position = name_hash(seed, name);
        let Some(bytes) = self.get(Table::Dentry, &keys::dentry(parent, position))? else {
            self.free = Some((parent, position));
            return Ok(None);
        };
        dentry_named(position, &bytes, name)
    }

    /// The first free position for a name with that hash.
    pub(super) fn free_position(&self, parent: Ino, first: u64) -> Result<u64> {
        if self.free == Some((parent, first)) {
            return Ok(first);
        }
        for position in first..first + (1 << SLOT_BITS) {
            if self.get(Table::Dentry, &keys::dentry(parent, position))?.is_none() {
                return Ok(position);
            }
        }
        Err(Error::NoSpace)
    }

    pub(super) fn hash_seed(&self) -> Result<u64> {
        Ok(self.base.zone_info()?.ok_or(Error::NotFound)?.hash_seed)
    }
}

impl MetaRead for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        if let Some(value) = self.writes.get(table, key) {
            return Ok(value.clone());
        }
        self.base.get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let base = |visit: &mut Visitor<'_>| self.base.scan(table, start, end, visit);
        overlay::merge(self.writes.range(table, start, end), Direction::Forward, base, visit)
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let base = |visit: &mut Visitor<'_>| self.base.scan_back(table, start, end, visit);
        overlay::merge(self.writes.range(table, start, end).rev(), Direction::Backward, base, visit)
    }
}

/// Finds a name in a directory whose inode is at hand: one get, unless names ever collided there.
pub fn find_dentry_in(
    state: &dyn MetaRead,
    seed: u64,
    (parent, inode): (Ino, &Inode),
    name: &[u8],
) -> Result<Option<(u64, Dentry)>> {
    if inode.flags.has(InodeFlags::COLLIDED) {
        return find_dentry(state, seed, parent, name);
    }
    let position = name_hash(seed, name);
    match state.get(Table::Dentry, &keys::dentry(parent, position))? {
        Some(bytes) => dentry_named(position, &bytes, name),
        None => Ok(None),
    }
}

/// An entry with its position, if it has that name.
fn dentry_named(position: u64, bytes: &Bytes, name: &[u8]) -> Result<Option<(u64, Dentry)>> {
    let dentry = Dentry::decode(bytes)?;
    Ok((dentry.name == name).then_some((position, dentry)))
}

/// Finds a name in a directory by looking at every position that it can have.
pub fn find_dentry(state: &dyn MetaRead, seed: u64, parent: Ino, name: &[u8]) -> Result<Option<(u64, Dentry)>> {
    let first = name_hash(seed, name);
    let (start, end) = (keys::dentry(parent, first), keys::dentry(parent, first + (1 << SLOT_BITS)));
    let mut found = Ok(None);
    state.scan(Table::Dentry, &start, &end, &mut |key, value| {
        let parsed = keys::parse_pair(key).and_then(|(_, at)| Ok((at, model::decode::<Dentry>("dentry", value)?)));
        match parsed {
            Ok((_, ref dentry)) if dentry.name != name => ControlFlow::Continue(()),
            Ok(hit) => {
                found = Ok(Some(hit));
                ControlFlow::Break(())
            }
            Err(error) => {
                found = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    found
}
