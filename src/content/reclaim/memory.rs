//! What passes remember of each other. All of it is found again after a restart.

use std::collections::{HashMap, HashSet};

use nexus_kernel::{BlobId, Error, Result, StoreId};

use crate::config::ReclaimConfig;

/// How long nothing is copied for a store that did not take the last copies, or did not give what was
/// to be copied: each try costs requests.
const REST_MS: u64 = 60_000;

/// What passes remember.
#[derive(Default)]
pub(super) struct Memory {
    /// When a blob was first seen dead.
    pub(super) dead_since: HashMap<BlobId, u64>,
    /// Blobs that are not compacted: they can't be read, or their counters and extents
    /// disagree. Told once each.
    pub(super) wrong: HashSet<BlobId>,
    /// What went wrong with one blob in this pass, which went on with the others.
    pub(super) failed: Option<Error>,
    /// Stores that did not answer in this pass.
    away: HashSet<StoreId>,
    /// What may be copied of blobs that are far away.
    pub(super) allowance: Allowance,
    /// Stores for which nothing is copied until then.
    resting: HashMap<StoreId, u64>,
    /// Small segments that may be sent early, in thousandths.
    early: HashMap<StoreId, Allowance>,
}

/// What one of them takes.
const ONE_EARLY: u64 = 1_000;

impl Memory {
    /// Goes on without a blob that the disk fails at; other errors end the pass.
    pub(super) fn pass_over(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Io(_) | Error::Corrupt(_) => {
                self.failed.get_or_insert(error);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Goes on without a store that does not answer.
    pub(super) fn pass_over_store(&mut self, store: StoreId, error: Error) -> Result<()> {
        match error {
            Error::Unavailable(_) => {
                self.away.insert(store);
                self.failed.get_or_insert(error);
                Ok(())
            }
            other => self.pass_over(other),
        }
    }

    /// Whether a store did not answer in this pass.
    pub(super) fn is_away(&self, store: StoreId) -> bool {
        self.away.contains(&store)
    }

    /// Ends a pass; answers what it went on without.
    pub(super) fn end_pass(&mut self) -> Option<Error> {
        self.away.clear();
        self.failed.take()
    }

    /// Notes that copying for a store failed.
    pub(super) fn failed_store(&mut self, store: StoreId, error: &Error, now_ms: u64) {
        if !matches!(error, Error::NoSpace | Error::QuotaExceeded) {
            self.resting.insert(store, now_ms.saturating_add(REST_MS));
        }
    }

    /// Whether one more small segment may be sent early to a store, which then is one less.
    pub(super) fn seal_early(&mut self, store: StoreId, now_ms: u64, config: &ReclaimConfig) -> bool {
        let per_s = 1_000 * ONE_EARLY / config.early_seal_every_ms.max(1);
        let early = self.early.entry(store).or_default();
        let may = early.left(now_ms, per_s, config.early_seals.saturating_mul(ONE_EARLY)) >= ONE_EARLY;
        if may {
            early.take(ONE_EARLY);
        }
        may
    }

    /// Whether nothing is to be copied for a store now.
    pub(super) fn rests(&self, store: StoreId, now_ms: u64) -> bool {
        self.resting.get(&store).is_some_and(|until| now_ms < *until)
    }
}

/// Bytes that may be copied: so many a second, and some saved up.
#[derive(Default)]
pub(super) struct Allowance {
    left: u64,
    counted_ms: Option<u64>,
}

impl Allowance {
    /// What there is now, at most `most`.
    pub(super) fn left(&mut self, now_ms: u64, per_s: u64, most: u64) -> u64 {
        let since = self.counted_ms.map(|counted| now_ms.saturating_sub(counted));
        let more = since.map_or(most, |ms| ms.saturating_mul(per_s) / 1000);
        // Counted only once it is something, or short steps would bring nothing.
        if more > 0 {
            self.counted_ms = Some(now_ms);
            self.left = self.left.saturating_add(more).min(most);
        }
        self.left
    }

    /// Uses some up.
    pub(super) fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_saved_up_and_bounded() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.left(5_000, 100, 1_000), 1_000);
        allowance.take(1_000);
        assert_eq!(allowance.left(5_000, 100, 1_000), 0);
        let mut now = 5_000;
        for _ in 0..200 {
            now += 5;
            allowance.left(now, 100, 1_000);
        }
        assert_eq!(allowance.left(now, 100, 1_000), 100, "short steps count");
        assert_eq!(allowance.left(now + 1_000_000, 100, 1_000), 1_000);
    }

    #[test]
    fn few_segments_are_sent_early_and_then_one_each_ten_seconds() {
        let (mut memory, config) = (Memory::default(), ReclaimConfig::default());
        let mut sent = Vec::new();
        for second in 0..120 {
            if memory.seal_early(StoreId(1), 1_000_000 + second * 1_000, &config) {
                sent.push(second);
            }
        }
        assert_eq!(sent[..6], [0, 1, 2, 3, 4, 5], "a few at once");
        assert!((16..=18).contains(&sent.len()), "{sent:?}");
        assert!(memory.seal_early(StoreId(2), 1_000_000, &config), "each store has its own");
    }
}
