//! Small blobs in stores that are far away: what is synced often, or trickles in, makes an object and
//! its requests each time. Once a store has enough of about one size, they are emptied into a larger
//! one, as sparse blobs are. Sizes are told apart by powers of 16, so a byte is copied once for each of
//! them at the most, and what is left over is less than [`ReclaimConfig::merge_blobs`] of each.
//!
//! [`ReclaimConfig::merge_blobs`]: crate::ReclaimConfig::merge_blobs

use std::collections::BTreeMap;

use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, StoreId};

use super::{Memory, Reclaimer};
use crate::metadata::KnownBlob;

/// Bits of a length that make a class.
const CLASS_BITS: u32 = 4;

impl Reclaimer {
    /// The small blobs that are worth to be merged now, by store and in order of id.
    pub(super) fn small(&self, known: &BTreeMap<BlobId, KnownBlob>, memory: &Memory) -> Vec<BlobId> {
        let mut small: BTreeMap<(StoreId, u32), Vec<BlobId>> = BTreeMap::new();
        for (id, blob) in known {
            let below = self.config.merge_below_bytes.min(self.store.segment_bytes(id.store()) / 8);
            let is_small = blob.state == BlobState::Sealed && blob.live > 0 && blob.live < below;
            if is_small && self.may_empty(*id, memory) && self.store.is_far(*id) {
                let class = blob.live.ilog2() / CLASS_BITS;
                small.entry((id.store(), class)).or_default().push(*id);
            }
        }
        small.into_values().filter(|blobs| blobs.len() >= self.config.merge_blobs.max(2)).flatten().collect()
    }
}
