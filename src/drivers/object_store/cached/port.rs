//! [`CachedStore`] as a store.

use std::future::ready;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexus_kernel::error::Result;
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore, Traffic};

use super::CachedStore;

impl ObjectStore for CachedStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.put(id, source).await?;
            source.stored()?;
            let len = source.len();
            if let Some(path) = source.local_file() {
                self.0.adopt(id, path, len);
            }
            Ok(())
        })
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(ready(self.0.get(id, range)))
    }

    fn read<'a>(&'a self, id: BlobId, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(self.0.read(id, offset, out)))
    }

    fn want(&self, id: BlobId, len: u64, range: Range<u64>) -> bool {
        self.0.want(id, len, range)
    }

    fn get_original<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.0.store.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.0.store.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.delete(id).await?;
            self.0.state.lock().lens.remove(&id);
            self.0.forget(id);
            Ok(())
        })
    }

    fn delete_all<'a>(&'a self, ids: &'a [BlobId]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.delete_all(ids).await?;
            for id in ids {
                self.0.state.lock().lens.remove(id);
                self.0.forget(*id);
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(async move {
            let page = self.0.store.list(after, limit).await?;
            self.0.state.lock().lens.extend(page.iter().filter_map(|line| Some((line.id, line.len?))));
            Ok(page)
        })
    }

    fn cached(&self, id: BlobId, range: Range<u64>) -> u64 {
        self.0.state.lock().blobs.get(&id).map_or(0, |cached| cached.frames.present_in(&range))
    }

    fn evict(&self, id: BlobId) -> u64 {
        let mut state = self.0.state.lock();
        match state.blobs.get(&id) {
            // Somebody fetches it right now, so it is wanted.
            Some(cached) if cached.frames.is_busy() => 0,
            Some(cached) => {
                let bytes = cached.frames.present_in(&(0..cached.len));
                self.0.remove(&mut state, id);
                bytes
            }
            None => 0,
        }
    }

    fn release<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        self.0.store.release()
    }

    fn cache_limit(&self) -> Option<u64> {
        Some(self.0.limits.bytes)
    }

    fn distrust(&self, id: BlobId, range: Range<u64>) {
        self.0.state.lock().distrust(id, &range);
    }

    fn grain(&self) -> u64 {
        self.0.store.grain()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn traffic(&self) -> Option<Traffic> {
        let traffic = self.0.store.traffic()?;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(Traffic {
            cached_bytes: self.0.state.lock().bytes,
            cache_hits: read(&self.0.reads.hits),
            cache_hit_bytes: read(&self.0.reads.hit_bytes),
            cache_misses: read(&self.0.reads.misses),
            cache_miss_bytes: read(&self.0.reads.miss_bytes),
            ..traffic
        })
    }
}
