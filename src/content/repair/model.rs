//! The metadata of a zone in memory, and how it differs from what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use nexus_kernel::metastore::{Key, MetaRead};
use nexus_kernel::model::{self, Blob, Dentry, Extent, FileKind, Inode, SLOT_BITS, Usage, keys, name_hash};
use nexus_kernel::{BlobId, Error, Ino, Result, Table};
use serde::Serialize;

use super::mounts::Mounts;

/// All that a zone knows.
pub(super) struct Model {
    pub seed: u64,
    pub inodes: BTreeMap<u64, Inode>,
    pub dentries: BTreeMap<(u64, u64), Dentry>,
    pub extents: BTreeMap<(u64, u64), Extent>,
    pub symlinks: BTreeMap<u64, Bytes>,
    pub xattrs: BTreeMap<(u64, Bytes), Bytes>,
    pub blobs: BTreeMap<BlobId, Blob>,
    /// Blob and inode.
    pub refs: BTreeSet<(u64, u64)>,
    pub orphans: BTreeSet<u64>,
    pub usage: Usage,
    /// First name of each inode; filled once names are settled.
    pub named: BTreeMap<u64, (u64, u64)>,
    mounts: Mounts,
}

/// Records that can't be read. They are not in the model.
#[derive(Default)]
pub(super) struct Unreadable {
    pub texts: Vec<String>,
    pub inodes: BTreeSet<u64>,
    pub extents: BTreeSet<(u64, u64)>,
}

impl Model {
    pub fn load(state: &dyn MetaRead) -> Result<(Model, Unreadable)> {
        let seed = state.zone_info()?.map(|info| info.hash_seed).ok_or_else(|| {
            Error::Corrupt("the zone does not know its own id: restore the data folder from a backup".into())
        })?;
        let mut bad = Unreadable::default();
        let mut model = Model {
            seed,
            inodes: BTreeMap::new(),
            dentries: BTreeMap::new(),
            extents: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            blobs: BTreeMap::new(),
            refs: BTreeSet::new(),
            orphans: BTreeSet::new(),
            usage: state.usage()?,
            named: BTreeMap::new(),
            mounts: Mounts::load(state)?,
        };
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Sys) {
            state.scan(table, &[], &[0xff; 300], &mut |key, value| {
                if let Err(error) = model.take(table, key, value) {
                    bad.note(table, key, &error);
                }
                ControlFlow::Continue(())
            })?;
        }
        let mut mounts = std::mem::take(&mut model.mounts);
        bad.texts.extend(mounts.take_out(&mut model));
        model.mounts = mounts;
        Ok((model, bad))
    }

    fn take(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        match table {
            Table::Inode => drop(self.inodes.insert(keys::parse_one(key)?, model::decode("inode", value)?)),
            Table::Dentry => drop(self.dentries.insert(keys::parse_pair(key)?, model::decode("dentry", value)?)),
            Table::Extent => drop(self.extents.insert(keys::parse_pair(key)?, model::decode("extent", value)?)),
            Table::Symlink => drop(self.symlinks.insert(keys::parse_one(key)?, Bytes::copy_from_slice(value))),
            Table::Xattr => {
                let name = Bytes::copy_from_slice(keys::parse_xattr_name(key)?);
                let ino = keys::parse_one(key.get(..8).unwrap_or_default())?;
                self.xattrs.insert((ino, name), Bytes::copy_from_slice(value));
            }
            Table::Blob => drop(self.blobs.insert(BlobId(keys::parse_one(key)?), model::decode("blob", value)?)),
            Table::BlobRef => drop(self.refs.insert(keys::parse_pair(key)?)),
            Table::Orphan => drop(self.orphans.insert(keys::parse_one(key)?)),
            Table::Sys => {}
        }
        Ok(())
    }

    /// Has zones stand again where they stood, once all else is settled.
    pub fn put_mounts_back(&mut self) {
        let mut mounts = std::mem::take(&mut self.mounts);
        mounts.put_back(self);
        self.mounts = mounts;
    }

    /// What has to be written so that `state` becomes this.
    pub fn changes(&self, state: &dyn MetaRead) -> Result<Vec<(Table, Key, Option<Bytes>)>> {
        let mut changes = Vec::new();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Sys) {
            let mut wanted = self.records(table)?;
            state.scan(table, &[], &[0xff; 300], &mut |key, value| {
                let key = Key::from_slice(key);
                match wanted.remove(&key) {
                    Some(new) if new == value => {}
                    Some(new) => changes.push((table, key, Some(new))),
                    None => changes.push((table, key, None)),
                }
                ControlFlow::Continue(())
            })?;
            changes.extend(wanted.into_iter().map(|(key, value)| (table, key, Some(value))));
        }
        if state.usage()? != self.usage {
            changes.push((Table::Sys, keys::sys(Usage::KEY), Some(model::encode(&self.usage)?)));
        }
        changes.extend(self.mounts.changes());
        Ok(changes)
    }

    fn records(&self, table: Table) -> Result<BTreeMap<Key, Bytes>> {
        fn all<'a, K: 'a, V: Serialize + 'a>(
            map: impl Iterator<Item = (K, &'a V)>,
            key: impl Fn(K) -> Key,
        ) -> Result<BTreeMap<Key, Bytes>> {
            map.map(|(at, value)| Ok((key(at), model::encode(value)?))).collect()
        }
        let raw = |(key, value): (Key, &Bytes)| (key, value.clone());
        match table {
            Table::Inode => all(self.inodes.iter(), |ino| keys::ino(Ino(*ino))),
            Table::Dentry => all(self.dentries.iter(), |at| keys::pair(at.0, at.1)),
            Table::Extent => all(self.extents.iter(), |at| keys::pair(at.0, at.1)),
            Table::Symlink => Ok(self.symlinks.iter().map(|(ino, to)| raw((keys::ino(Ino(*ino)), to))).collect()),
            Table::Xattr => {
                Ok(self.xattrs.iter().map(|((ino, name), to)| raw((keys::xattr(Ino(*ino), name), to))).collect())
            }
            Table::Blob => all(self.blobs.iter(), |blob| keys::blob(*blob)),
            Table::BlobRef => Ok(self.refs.iter().map(|at| (keys::pair(at.0, at.1), Bytes::new())).collect()),
            Table::Orphan => Ok(self.orphans.iter().map(|ino| (keys::ino(Ino(*ino)), Bytes::new())).collect()),
            Table::Sys => Ok(BTreeMap::new()),
        }
    }

    /// First position that a name can have.
    pub fn first_position(&self, name: &[u8]) -> u64 {
        name_hash(self.seed, name)
    }

    /// Whether look-ups find a name at `position`.
    pub fn is_findable(&self, name: &[u8], position: u64) -> bool {
        let first = self.first_position(name);
        (first..first + (1 << SLOT_BITS)).contains(&position)
    }

    /// Whether a directory has that name.
    pub fn has_name(&self, parent: u64, name: &[u8]) -> bool {
        let first = self.first_position(name);
        let range = (parent, first)..(parent, first + (1 << SLOT_BITS));
        self.dentries.range(range).any(|(_, dentry)| dentry.name == name)
    }

    /// Puts an entry where look-ups find it; `false` if there is no room for that name.
    pub fn place(&mut self, parent: u64, dentry: Dentry) -> bool {
        let first = self.first_position(&dentry.name);
        let free = (first..first + (1 << SLOT_BITS)).find(|at| !self.dentries.contains_key(&(parent, *at)));
        free.is_some_and(|at| self.dentries.insert((parent, at), dentry).is_none())
    }

    /// Entries of a directory.
    pub fn entries(&self, parent: u64) -> impl Iterator<Item = (&(u64, u64), &Dentry)> {
        self.dentries.range((parent, 0)..=(parent, u64::MAX))
    }

    /// Extents of an inode.
    pub fn extents_of(&self, ino: u64) -> Vec<(u64, Extent)> {
        self.extents.range((ino, 0)..=(ino, u64::MAX)).map(|((_, at), extent)| (*at, *extent)).collect()
    }

    /// Notes the first name of each inode.
    pub fn note_names(&mut self) {
        let names = self.dentries.iter().filter(|(_, dentry)| dentry.kind != FileKind::Mount);
        let mut named = BTreeMap::new();
        for (at, dentry) in names {
            named.entry(dentry.ino.0).or_insert(*at);
        }
        self.named = named;
    }

    /// Directory and name, if it has one.
    pub fn first_name(&self, ino: u64) -> Option<(u64, &[u8])> {
        let at = self.named.get(&ino)?;
        self.dentries.get(at).map(|dentry| (at.0, &*dentry.name))
    }
}

impl Unreadable {
    fn note(&mut self, table: Table, key: &[u8], error: &Error) {
        let place = match table {
            Table::Extent | Table::Dentry | Table::BlobRef => keys::parse_pair(key).ok(),
            _ => keys::parse_one(key).ok().map(|one| (one, 0)),
        };
        let shown = place.map_or_else(|| "?".to_owned(), |(one, two)| format!("{one}/{two}"));
        self.texts.push(format!("table {}: the record at {shown} can't be read ({error}) and goes", table.name()));
        match (table, place) {
            (Table::Inode, Some((ino, _))) => drop(self.inodes.insert(ino)),
            (Table::Extent, Some(place)) => drop(self.extents.insert(place)),
            _ => {}
        }
    }
}
