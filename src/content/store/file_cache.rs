//! Open files of blobs that take no more writes, at most so many.

use std::collections::HashMap;
use std::sync::Arc;

use nexus_kernel::BlobId;
use nexus_kernel::disk::DiskFile;
use parking_lot::Mutex;

/// A bounded cache; what was used longest ago goes first.
pub struct FileCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    files: HashMap<BlobId, (Arc<dyn DiskFile>, u64)>,
    tick: u64,
}

impl FileCache {
    /// An empty cache for `capacity` files, at least one.
    pub fn new(capacity: usize) -> FileCache {
        FileCache { capacity: capacity.max(1), inner: Mutex::default() }
    }

    /// A file that is open already.
    pub fn get(&self, id: BlobId) -> Option<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let tick = inner.tick;
        inner.files.get_mut(&id).map(|(file, used)| {
            *used = tick;
            Arc::clone(file)
        })
    }

    /// Keeps a file open.
    pub fn insert(&self, id: BlobId, file: Arc<dyn DiskFile>) {
        let mut evicted = None;
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let tick = inner.tick;
        if inner.files.len() >= self.capacity && !inner.files.contains_key(&id) {
            let oldest = inner.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            evicted = oldest.and_then(|oldest| inner.files.remove(&oldest));
        }
        let replaced = inner.files.insert(id, (file, tick));
        drop(inner);
        // Closing a file can take long; nobody waits for it under the lock.
        drop((evicted, replaced));
    }

    /// Lets go of a blob's file.
    pub fn remove(&self, id: BlobId) {
        let removed = self.inner.lock().files.remove(&id);
        drop(removed);
    }

    /// Files open now.
    pub fn len(&self) -> usize {
        self.inner.lock().files.len()
    }
}
