//! Bringing segments to their stores while somebody waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nexus_kernel::{BlobId, Error, Result, StoreId};

use super::SegmentStore;
use super::mounts::MountedStore;

/// Segments that one round sends at once.
const AT_ONCE: usize = 8;

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
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let send = || {
            while let Some(blob) = wanted.get(next.fetch_add(1, Ordering::Relaxed))
                && !failed.load(Ordering::Relaxed)
            {
                self.upload_one(store, *blob).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let sent = thread::scope(|scope| {
            let name = || thread::Builder::new().name("nexus-upload".into());
            // Without threads for it, they go one after the other.
            let others: Vec<_> =
                (1..wanted.len().min(AT_ONCE)).filter_map(|_| name().spawn_scoped(scope, send).ok()).collect();
            let sent = send();
            let died = |_| Err(Error::Io("a thread that uploads had panicked".into()));
            others.into_iter().map(|other| other.join().unwrap_or_else(died)).fold(sent, Result::and)
        });
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
