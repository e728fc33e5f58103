//! Small blobs in stores that are far away: what trickles in, or is synced often, makes an object each
//! time. Once a store has enough of them, they are emptied into one, as sparse blobs are. What comes of
//! that is small itself until enough came together, so a byte is copied as often as the number of small
//! blobs can be divided by [`ReclaimConfig::merge_blobs`]: once or twice.
//!
//! [`ReclaimConfig::merge_blobs`]: crate::ReclaimConfig::merge_blobs

use std::collections::BTreeMap;

use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, StoreId};

use super::{Memory, Reclaimer};
use crate::metadata::KnownBlob;

impl Reclaimer {
    /// The small blobs that are worth to be merged now, in order of id.
    pub(super) fn small(&self, known: &BTreeMap<BlobId, KnownBlob>, memory: &Memory) -> Vec<BlobId> {
        // Far below what a merged one may have, or that would be small again.
        let below = self.config.merge_below_bytes.min(self.store.config().segment_bytes / 16);
        let mut small: BTreeMap<StoreId, Vec<BlobId>> = BTreeMap::new();
        for (id, blob) in known {
            let is_small = blob.state == BlobState::Sealed && blob.live > 0 && blob.len < below;
            if is_small && self.is_own(*id) && self.store.is_far(*id) && !memory.wrong.contains(id) {
                small.entry(id.store()).or_default().push(*id);
            }
        }
        small.into_values().filter(|blobs| blobs.len() >= self.config.merge_blobs).flatten().collect()
    }
}
