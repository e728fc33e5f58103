//! The newest state of a zone: changes in memory over a snapshot of the metastore, read as
//! one.

use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::machine::Applied;
use nexus_kernel::metastore::Visitor;
use nexus_kernel::model::{self, Inode, Usage, ZoneInfo, keys};
use nexus_kernel::overlay::{self, Direction};
use nexus_kernel::{Ino, Lsn, MetaRead, Result, Table};

use super::base::Base;
use super::caches::{Caches, Place};
use super::memtable::{Change, MemTable};

/// Everything that makes up the state. Changed by one command at a time, under a lock.
pub struct View {
    /// Newest changes.
    pub active: MemTable,
    /// Changes that are being drained into the metastore.
    pub frozen: Option<Arc<MemTable>>,
    base: Base,
    /// No inode of this number or a higher one, nor anything of it, is in `base`.
    unborn: u64,
    usage: Usage,
    info: Option<ZoneInfo>,
}

impl View {
    /// The state in `base`, with nothing on top.
    pub fn new(base: Base) -> Result<View> {
        let (usage, info) = (base.usage()?, base.zone_info()?);
        Ok(View { active: MemTable::default(), frozen: None, base, unborn: usage.next_ino.0, usage, info })
    }

    /// The zone's counters.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The zone's constants; `None` before it is formatted.
    pub fn info(&self) -> Option<ZoneInfo> {
        self.info
    }

    /// The metastore's part.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Takes over what a command changes.
    pub fn apply(&mut self, applied: Applied, lsn: Lsn, caches: &Caches) -> Result<()> {
        for (table, key, change) in applied.writes {
            match table {
                Table::Dentry if !self.is_unborn(table, &key) => {
                    caches.put_dentry(keys::parse_pair(&key)?, change.clone())
                }
                Table::Sys => self.note_sys(&key, change.as_ref())?,
                _ => {}
            }
            if change.is_none() && self.is_only_here(table, &key) {
                self.active.remove(table, &key);
            } else {
                self.active.insert(table, &key, change);
            }
        }
        for (ino, inode) in applied.inodes {
            caches.put_inode(ino, inode);
        }
        self.active.set_last(lsn);
        Ok(())
    }

    /// Whether nothing below the newest changes can have the key, so that a delete need not be
    /// remembered: what comes and goes between two drains leaves nothing.
    fn is_only_here(&self, table: Table, key: &[u8]) -> bool {
        self.is_unborn(table, key) && self.frozen.as_ref().is_none_or(|frozen| frozen.get(table, key).is_none())
    }

    fn note_sys(&mut self, key: &[u8], change: Option<&Bytes>) -> Result<()> {
        if key == Usage::KEY.as_bytes() {
            self.usage = change.map(|value| model::decode("usage", value)).transpose()?.unwrap_or_default();
        } else if key == ZoneInfo::KEY.as_bytes() {
            self.info = change.map(|value| model::decode("zone", value)).transpose()?;
        }
        Ok(())
    }

    /// Puts the newest changes aside to be drained. Nothing may be aside already.
    pub fn freeze(&mut self) {
        debug_assert!(self.frozen.is_none());
        self.frozen = Some(Arc::new(std::mem::take(&mut self.active)));
    }

    /// Goes on with a base that holds what was put aside, which is handed back.
    pub fn rebase(&mut self, base: Base, base_usage: Usage) -> Option<Arc<MemTable>> {
        self.base = base;
        self.unborn = base_usage.next_ino.0;
        self.frozen.take()
    }

    /// The change of a key in memory, if there is one.
    pub fn pending(&self, table: Table, key: &[u8]) -> Option<&Change> {
        self.active.get(table, key).or_else(|| self.frozen.as_ref()?.get(table, key))
    }

    /// Whether the key, and every greater key of its table, belongs to inodes that the base
    /// can't have: they were made after it. Spares look-ups below, most of all in new
    /// directories and files.
    pub fn is_unborn(&self, table: Table, key: &[u8]) -> bool {
        let of_inode = match table {
            Table::Inode | Table::Dentry | Table::Extent | Table::Symlink | Table::Xattr | Table::Orphan => true,
            Table::Blob | Table::BlobRef | Table::Sys => false,
        };
        of_inode && key.first_chunk::<8>().is_some_and(|ino| u64::from_be_bytes(*ino) >= self.unborn)
    }
}

/// Reads one state; whoever has it keeps changes away.
pub struct Reader<'a> {
    /// The state.
    pub view: &'a View,
    /// Its caches.
    pub caches: &'a Caches,
}

impl MetaRead for Reader<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let unborn = self.view.is_unborn(table, key);
        let place = if table == Table::Dentry && !unborn { keys::parse_pair(key).ok() } else { None };
        if let Some(cached) = place.and_then(|place: Place| self.caches.dentry(place)) {
            return Ok(cached);
        }
        if let Some(change) = self.view.pending(table, key) {
            return Ok(change.clone());
        }
        if unborn {
            return Ok(None);
        }
        let value = self.view.base.get(table, key)?;
        if let Some(place) = place {
            self.caches.put_dentry(place, value.clone());
        }
        Ok(value)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let View { active, frozen, base, .. } = self.view;
        let below = |visit: &mut Visitor<'_>| match self.view.is_unborn(table, start) {
            true => Ok(()),
            false => base.scan(table, start, end, visit),
        };
        let middle = |visit: &mut Visitor<'_>| match frozen {
            Some(frozen) => overlay::merge(frozen.range(table, start, end), Direction::Forward, below, visit),
            None => below(visit),
        };
        overlay::merge(active.range(table, start, end), Direction::Forward, middle, visit)
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let View { active, frozen, base, .. } = self.view;
        let below = |visit: &mut Visitor<'_>| match self.view.is_unborn(table, start) {
            true => Ok(()),
            false => base.scan_back(table, start, end, visit),
        };
        let middle = |visit: &mut Visitor<'_>| match frozen {
            Some(frozen) => overlay::merge(frozen.range(table, start, end).rev(), Direction::Backward, below, visit),
            None => below(visit),
        };
        overlay::merge(active.range(table, start, end).rev(), Direction::Backward, middle, visit)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        if ino >= self.view.usage.next_ino {
            return Ok(None);
        }
        if let Some(inode) = self.caches.inode(ino) {
            return Ok(Some(inode));
        }
        let found = match self.get(Table::Inode, &keys::ino(ino))? {
            Some(bytes) => Some(model::decode("inode", &bytes)?),
            None => None,
        };
        if found.is_some() {
            self.caches.put_inode(ino, found);
        }
        Ok(found)
    }

    fn zone_info(&self) -> Result<Option<ZoneInfo>> {
        Ok(self.view.info)
    }

    fn usage(&self) -> Result<Usage> {
        Ok(self.view.usage)
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
