//! [`State`]: the newest state, and how it is read.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nexus_kernel::machine;
use nexus_kernel::model::{self, Dentry, Inode, InodeFlags, ZoneInfo, keys, name_hash};
use nexus_kernel::{Ino, MetaRead, Metastore, Name, Result, Table};
use parking_lot::RwLock;

use super::base::Base;
use super::caches::Caches;
use super::view::{Reader, View};

/// A zone's state on this node. Its caches are taken last of all locks.
pub struct State {
    /// What never changes; there once the zone is formatted.
    pub info: OnceLock<ZoneInfo>,
    /// Where it is checkpointed.
    pub metastore: Arc<dyn Metastore>,
    /// What was read last.
    pub caches: Caches,
    /// Changed by one command at a time.
    pub view: RwLock<View>,
}

impl State {
    /// The state in a metastore, with nothing on top.
    pub fn over(metastore: Arc<dyn Metastore>, cache_bytes: u64) -> Result<State> {
        let view = View::new(Base::newest(metastore.clone())?)?;
        Ok(State::new(metastore, Caches::new(cache_bytes), view))
    }

    /// The state that `view` is.
    pub fn new(metastore: Arc<dyn Metastore>, caches: Caches, view: View) -> State {
        let info = view.info().map_or_else(OnceLock::new, OnceLock::from);
        State { info, metastore, caches, view: RwLock::new(view) }
    }

    /// What never changes; all zeros before the zone is formatted.
    pub fn info(&self) -> ZoneInfo {
        self.info.get().copied().unwrap_or_default()
    }

    /// Runs `read` on the newest state, which stays the same meanwhile.
    pub fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        // Recursive, because `read` may ask for an inode beside.
        let view = self.view.read_recursive();
        read(&Reader { view: &view, caches: &self.caches })
    }

    /// An inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        if let Some(inode) = self.caches.inode(ino) {
            return Ok(Some(inode));
        }
        self.caches.inode_or(ino, || match self.fetch(Table::Inode, &keys::ino(ino))? {
            Some(bytes) => model::decode("inode", &bytes).map(Some),
            None => Ok(None),
        })
    }

    /// An entry of a directory, with its position.
    pub fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>> {
        let Some(inode) = self.inode(parent)? else { return Ok(None) };
        if inode.flags.has(InodeFlags::COLLIDED) {
            let mut found = None;
            self.read(&mut |state| {
                found = machine::find_dentry(state, self.info().hash_seed, parent, name.as_bytes())?;
                Ok(())
            })?;
            return Ok(found);
        }
        let position = name_hash(self.info().hash_seed, name.as_bytes());
        let Some(bytes) = self.dentry(parent, position)? else { return Ok(None) };
        let dentry = Dentry::decode(&bytes)?;
        Ok((dentry.name == name.as_bytes()).then_some((position, dentry)))
    }

    fn dentry(&self, parent: Ino, position: u64) -> Result<Option<Bytes>> {
        let place = (parent.0, position);
        if let Some(cached) = self.caches.dentry(place) {
            return Ok(cached);
        }
        let key = keys::dentry(parent, position);
        {
            let view = self.view.read_recursive();
            if let Some(change) = view.pending(Table::Dentry, &key) {
                return Ok(change.clone());
            }
            if view.is_unborn(Table::Dentry, &key) {
                return Ok(None);
            }
        }
        self.caches.dentry_or(place, || self.fetch(Table::Dentry, &key))
    }

    /// The newest value of a key. No lock is held while the metastore is read.
    pub fn fetch(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let base = {
            let view = self.view.read_recursive();
            if let Some(change) = view.pending(table, key) {
                return Ok(change.clone());
            }
            if view.is_unborn(table, key) {
                return Ok(None);
            }
            view.base().clone()
        };
        base.get(table, key)
    }
}
