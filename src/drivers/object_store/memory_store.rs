//! An object store in memory: gone with the process.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::{Bound, Range};

use bytes::{Bytes, BytesMut};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore};
use parking_lot::RwLock;

/// Bytes that are taken from a source at a time.
const STEP: usize = 1 << 20;

/// Blobs in memory.
#[derive(Default)]
pub struct MemoryStore {
    blobs: RwLock<BTreeMap<BlobId, Bytes>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn put_now(&self, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
        if self.blobs.read().contains_key(&id) {
            return Err(Error::Exists);
        }
        let mut all = BytesMut::new();
        loop {
            let piece = source.next(STEP)?;
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(&piece);
        }
        if all.len() as u64 != source.len() {
            return Err(Error::Io(format!("blob {id}: {} bytes came, {} were announced", all.len(), source.len())));
        }
        match self.blobs.write().entry(id) {
            std::collections::btree_map::Entry::Occupied(_) => Err(Error::Exists),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(all.freeze());
                Ok(())
            }
        }
    }

    fn get_now(&self, id: BlobId, range: Range<u64>) -> Result<Bytes> {
        let blobs = self.blobs.read();
        let blob = blobs.get(&id).ok_or(Error::NotFound)?;
        if range.start > range.end || range.end > blob.len() as u64 {
            return Err(Error::Invalid);
        }
        Ok(blob.slice(range.start as usize..range.end as usize))
    }
}

impl ObjectStore for MemoryStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(self.put_now(id, source)))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(ready(self.get_now(id, range)))
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        let len = self.blobs.read().get(&id).map(|blob| blob.len() as u64);
        Box::pin(ready(len.map(|len| BlobInfo { id, len }).ok_or(Error::NotFound)))
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.blobs.write().remove(&id);
        Box::pin(ready(Ok(())))
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        let blobs = self.blobs.read();
        let above = blobs.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        let infos = above.map(|(id, blob)| Listed { id: *id, len: Some(blob.len() as u64) }).collect();
        Box::pin(ready(Ok(infos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let scratch = tempfile::tempdir().unwrap();
        nexus_kernel::conformance::object_store::run(&MemoryStore::new(), scratch.path());
    }
}
