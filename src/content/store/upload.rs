//! Bringing segments to their stores while somebody waits.

use std::collections::BTreeMap;

use nexus_kernel::{BlobId, Error, Result, StoreId};

use super::SegmentStore;
use super::mounts::MountedStore;

impl SegmentStore {
    /// Has the stores of `blobs` take them. Callers that come while a round of uploads runs
    /// share the next one, so that many small files that are synced together go up together.
    pub(super) fn upload_blobs(&self, blobs: &[BlobId]) -> Result<()> {
        let mut by_store: BTreeMap<StoreId, Vec<BlobId>> = BTreeMap::new();
        for blob in blobs {
            by_store.entry(blob.store()).or_default().push(*blob);
        }
        for (id, blobs) in by_store {
            let store = self.mounts.get(id)?;
            store.uploads.run(blobs, |wanted| self.upload_round(&store, wanted))?;
        }
        Ok(())
    }

    fn upload_round(&self, store: &MountedStore, mut wanted: Vec<BlobId>) -> Result<()> {
        wanted.sort_unstable();
        wanted.dedup();
        let sent = wanted.iter().try_for_each(|blob| self.upload_one(store, *blob));
        if sent.is_ok() {
            // The metadata is told by the collector.
            self.wake.work();
        }
        sent
    }

    fn upload_one(&self, store: &MountedStore, blob: BlobId) -> Result<()> {
        store.lanes.lock().close_segments(|segment| segment.id() == blob);
        let segment = self.segments.read().get(&blob).cloned();
        let Some(segment) = segment else { return Ok(()) };
        segment.await_settled();
        match self.seal(blob) {
            // The collector was faster.
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
