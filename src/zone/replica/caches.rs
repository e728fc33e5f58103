//! Bounded caches of what was read last. Whatever is in them is the newest state: a change
//! goes into them while nobody reads, and a value that a reader fetched meanwhile is dropped.

use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::model::Inode;
use nexus_kernel::{Ino, Result};
use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{UnitWeighter, Weighter};

/// What a cached inode takes, with the cache's own part.
const INODE_BYTES: u64 = 256;
/// What a cached entry takes beside its value.
const DENTRY_BYTES: u64 = 160;

/// Parent and position of a directory entry.
pub type Place = (u64, u64);

/// Weighs entries in bytes.
#[derive(Clone)]
struct DentryWeight;

impl Weighter<Place, Option<Bytes>> for DentryWeight {
    fn weight(&self, _place: &Place, value: &Option<Bytes>) -> u64 {
        DENTRY_BYTES + value.as_ref().map_or(0, |value| value.len() as u64)
    }
}

/// The caches of a zone.
pub struct Caches {
    inodes: Cache<u64, Inode, UnitWeighter>,
    /// Values of directory entries; `None` where there is none.
    dentries: Cache<Place, Option<Bytes>, DentryWeight>,
}

impl Caches {
    /// Caches that take `bytes` together at the most.
    pub fn new(bytes: u64) -> Caches {
        let inodes = (bytes / 2 / INODE_BYTES).max(64);
        let dentries = (bytes / 2).max(64 * DENTRY_BYTES);
        Caches {
            inodes: Cache::with_weighter(inodes as usize, inodes, UnitWeighter),
            dentries: Cache::with_weighter((dentries / (DENTRY_BYTES + 40)) as usize, dentries, DentryWeight),
        }
    }

    /// An inode, if it is cached.
    pub fn inode(&self, ino: Ino) -> Option<Inode> {
        self.inodes.get(&ino.0)
    }

    /// Notes an inode's newest state. The caller keeps changes away meanwhile.
    pub fn put_inode(&self, ino: Ino, inode: Option<Inode>) {
        match inode {
            Some(inode) => self.inodes.insert(ino.0, inode),
            None => drop(self.inodes.remove(&ino.0)),
        }
    }

    /// An inode, from the cache or by `load`. What is loaded is kept only if the inode was
    /// not changed since before `load` began.
    pub fn inode_or(&self, ino: Ino, load: impl FnOnce() -> Result<Option<Inode>>) -> Result<Option<Inode>> {
        match self.inodes.get_value_or_guard(&ino.0, Some(Duration::ZERO)) {
            GuardResult::Value(inode) => Ok(Some(inode)),
            GuardResult::Guard(guard) => {
                let loaded = load()?;
                if let Some(inode) = loaded {
                    let _ = guard.insert(inode);
                }
                Ok(loaded)
            }
            // Somebody else is loading it.
            GuardResult::Timeout => load(),
        }
    }

    /// A directory entry's value, if it is cached.
    pub fn dentry(&self, place: Place) -> Option<Option<Bytes>> {
        self.dentries.get(&place)
    }

    /// Notes an entry's newest value. The caller keeps changes away meanwhile.
    pub fn put_dentry(&self, place: Place, value: Option<Bytes>) {
        self.dentries.insert(place, value);
    }

    /// An entry's value, from the cache or by `load`, as with inodes.
    pub fn dentry_or(&self, place: Place, load: impl FnOnce() -> Result<Option<Bytes>>) -> Result<Option<Bytes>> {
        match self.dentries.get_value_or_guard(&place, Some(Duration::ZERO)) {
            GuardResult::Value(value) => Ok(value),
            GuardResult::Guard(guard) => {
                let loaded = load()?;
                let _ = guard.insert(loaded.clone());
                Ok(loaded)
            }
            GuardResult::Timeout => load(),
        }
    }
}
