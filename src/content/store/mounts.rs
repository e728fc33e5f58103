//! The stores that content goes to: each with lanes of its own, because a segment becomes a
//! blob of one store. A blob's id tells its store.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::model::{FsyncLevel, Placement};
use nexus_kernel::{BlobId, Error, Ino, ObjectStore, Result, StoreId};
use parking_lot::{Mutex, RwLock};

use super::lanes::{LaneSizes, Lanes};
use super::sync::GroupSync;

/// How content of a store is cut and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreShape {
    /// Size at which a segment that many files share is closed.
    pub segment_bytes: u64,
    /// Size at which a segment of streamed files is closed.
    pub stream_segment_bytes: u64,
    /// An open segment that nothing was written to for this long is closed and sealed...
    pub idle_seal_ms: u64,
    /// ...if it holds this much.
    pub idle_seal_bytes: u64,
    /// Whether fsync waits for the store where a file's placement leaves it open.
    pub fsync_uploads: bool,
    /// Whether the store is empty at each start, so that what was there is known to be lost.
    pub volatile: bool,
}

/// A store that is there.
pub struct MountedStore {
    /// Its number.
    pub id: StoreId,
    /// Where its blobs are.
    pub objects: Arc<dyn ObjectStore>,
    /// How content for it is cut.
    pub shape: StoreShape,
    /// Which segments writes for it go to.
    pub lanes: Mutex<Lanes>,
    /// Uploads that somebody waits for, a round at a time.
    pub uploads: GroupSync<BlobId>,
}

impl MountedStore {
    /// A store with empty lanes.
    pub fn new(id: StoreId, objects: Arc<dyn ObjectStore>, shape: StoreShape, sizes: LaneSizes) -> MountedStore {
        MountedStore { id, objects, shape, lanes: Mutex::new(Lanes::new(sizes)), uploads: GroupSync::default() }
    }

    /// Whether its blobs are on this machine, as files.
    pub fn is_here(&self) -> bool {
        self.objects.is_local()
    }

    /// Whether fsync of what is placed so waits until it is there.
    pub fn fsync_uploads(&self, level: FsyncLevel) -> bool {
        !self.is_here()
            && match level {
                FsyncLevel::Store => self.shape.fsync_uploads,
                FsyncLevel::Local => false,
                FsyncLevel::Remote => true,
            }
    }
}

/// All stores that are there.
#[derive(Default)]
pub struct Mounts(RwLock<BTreeMap<StoreId, Arc<MountedStore>>>);

impl Mounts {
    /// Adds one; [`Error::Exists`] if its number is taken.
    pub fn add(&self, store: MountedStore) -> Result<()> {
        let mut stores = self.0.write();
        if store.id > StoreId::MAX || stores.contains_key(&store.id) {
            return Err(Error::Exists);
        }
        stores.insert(store.id, Arc::new(store));
        Ok(())
    }

    /// Takes one away. Writes that have found it already are refused too; what they began is
    /// closed.
    pub fn remove(&self, id: StoreId) -> Option<Arc<MountedStore>> {
        let store = self.0.write().remove(&id)?;
        store.lanes.lock().shut();
        Some(store)
    }

    /// One by its number.
    pub fn get(&self, id: StoreId) -> Result<Arc<MountedStore>> {
        self.0.read().get(&id).cloned().ok_or(Error::NoStore)
    }

    /// The one that a blob is in, or goes to.
    pub fn of(&self, blob: BlobId) -> Result<Arc<MountedStore>> {
        self.get(blob.store())
    }

    /// All, in order of their numbers.
    pub fn all(&self) -> Vec<Arc<MountedStore>> {
        self.0.read().values().cloned().collect()
    }

    /// A file has no writer any more.
    pub fn closed(&self, ino: Ino) {
        self.0.read().values().for_each(|store| store.lanes.lock().closed(ino));
    }

    /// Whether fsync of what is placed so waits for its store.
    pub fn fsync_uploads(&self, placement: Placement) -> bool {
        self.0.read().get(&placement.store).is_some_and(|store| store.fsync_uploads(placement.fsync))
    }
}
