//! When a segment takes no more: once it is idle, or not worth to go on with. What is for a store that is
//! far away should be there soon after a file was closed, which nobody tells this tier, and which is not
//! before the last write; but each segment makes an object and its requests. So it is sent a second after
//! the last write to it, with all that was written meanwhile; who writes a little every few seconds gets
//! few such objects at once, and one each ten seconds from then on.

use nexus_kernel::Result;

use super::memory::Memory;
use super::{Need, Reclaimer};
use crate::metadata::known_blobs;
use crate::store::OpenSegment;

/// A segment that is filled to one part of so many is worth its requests: nobody merges it with others.
const WORTH: u64 = 8;

impl Reclaimer {
    /// Closes segments.
    pub(super) fn close_segments(&self, need: Need, memory: &mut Memory) -> Result<()> {
        let known = known_blobs(&self.zones.all())?;
        let (now, config) = (self.now_ms(), &self.config);
        self.store.close_segments(|open| {
            let live = known.get(&open.id).map_or(0, |blob| blob.live);
            let (idle_ms, idle_bytes) = self.store.idle_seal(open.id);
            let worth_sealing = open.bytes >= config.idle_seal_bytes.min(idle_bytes).max(1);
            let idle = now.saturating_sub(open.last_write_ms) >= config.idle_seal_ms.min(idle_ms);
            let sparse = need != Need::Calm && live < open.bytes / 2;
            // What goes elsewhere makes room here.
            let leaves = need == Need::Room && open.bytes > 0 && self.store.is_far(open.id);
            let is_usual = worth_sealing && (idle || live == 0) || sparse || leaves;
            is_usual || live > 0 && self.is_due(&open, now, memory)
        });
        Ok(())
    }

    /// Whether a segment is to be sent, though it is not idle.
    fn is_due(&self, open: &OpenSegment, now: u64, memory: &mut Memory) -> bool {
        if open.bytes == 0 || !self.store.is_far(open.id) {
            return false;
        }
        let config = &self.config;
        let quiet = now.saturating_sub(open.last_write_ms) >= config.early_seal_ms;
        now.saturating_sub(open.made_ms) >= config.longest_open_ms
            || quiet && (open.bytes >= open.limit / WORTH || memory.seal_early(open.id.store(), now, config))
    }

    /// How long the next pass may wait: at most `most` milliseconds, and until one of them may be due.
    pub(crate) fn until_due(&self, most: u64) -> u64 {
        let (now, config) = (self.now_ms(), &self.config);
        let mut next = now.saturating_add(most);
        self.store.close_segments(|open| {
            if open.bytes > 0 && self.store.is_far(open.id) {
                let quiet = open.last_write_ms.saturating_add(config.early_seal_ms);
                // Else it was left open: there were enough early ones for now.
                let quiet = if quiet > now { quiet } else { now.saturating_add(config.early_seal_ms) };
                next = next.min(quiet).min(open.made_ms.saturating_add(config.longest_open_ms));
            }
            false
        });
        next.saturating_sub(now)
    }
}
