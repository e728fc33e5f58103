//! What was written to segments and is not durable yet, as long as it is little: small
//! enough to be copied into the log. Beyond that only a sync of the segments helps.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::segment::Segment;

/// Most bytes that are kept track of.
const MAX_BYTES: u64 = 4 << 20;
/// Most ranges in each segment, and most segments.
const MAX_RANGES: usize = 128;
const MAX_SEGMENTS: usize = 64;

/// Ranges of one segment, in no order; neighbours are merged.
type Ranges = SmallVec<[(u64, u64); 4]>;

/// Ranges written, by segment.
#[derive(Default)]
pub struct Written {
    bytes: u64,
    segments: Vec<(Arc<Segment>, Ranges)>,
    /// More than is kept track of.
    overflown: bool,
}

/// What is neither durable nor given away to the log.
///
/// Invariant: a range that was noted is in `fresh` or `syncing` until it is durable or was
/// given away, or one of the two is overflown.
#[derive(Default)]
pub struct Unsynced(Mutex<State>);

#[derive(Default)]
struct State {
    fresh: Written,
    /// What the sync of the segments that runs has taken up.
    syncing: Written,
}

impl Written {
    fn add(&mut self, segment: &Arc<Segment>, start: u64, end: u64) {
        self.bytes = self.bytes.saturating_add(end - start);
        if self.overflown || self.bytes > MAX_BYTES {
            return self.overflow();
        }
        if !self.segments.iter().any(|(known, _)| known.id() == segment.id()) {
            if self.segments.len() == MAX_SEGMENTS {
                return self.overflow();
            }
            self.segments.push((Arc::clone(segment), Ranges::new()));
        }
        let Some((_, ranges)) = self.segments.iter_mut().find(|(known, _)| known.id() == segment.id()) else { return };
        let (mut start, mut end) = (start, end);
        ranges.retain(|range| {
            let touches = range.1 == start || range.0 == end;
            if touches {
                (start, end) = (start.min(range.0), end.max(range.1));
            }
            !touches
        });
        if ranges.len() == MAX_RANGES {
            return self.overflow();
        }
        ranges.push((start, end));
    }

    fn overflow(&mut self) {
        *self = Written { overflown: true, ..Written::default() };
    }

    fn merge(&mut self, other: Written) {
        if other.overflown {
            return self.overflow();
        }
        for (segment, ranges) in &other.segments {
            for (start, end) in ranges {
                self.add(segment, *start, *end);
            }
        }
    }

    /// The ranges, cut to at most `each` bytes.
    pub fn parts(&self, each: usize) -> impl Iterator<Item = (&Arc<Segment>, u64, usize)> {
        let each = each.max(1);
        self.segments.iter().flat_map(move |(segment, ranges)| {
            ranges.iter().flat_map(move |(start, end)| {
                let parts = (*start..*end).step_by(each);
                parts.map(move |at| (segment, at, usize::try_from(end - at).unwrap_or(each).min(each)))
            })
        })
    }
}

impl Unsynced {
    /// Notes bytes that are in their file by now, and that somebody may be told of next.
    pub fn note(&self, segment: &Arc<Segment>, start: u64, end: u64) {
        self.0.lock().fresh.add(segment, start, end);
    }

    /// Takes out what a log is to take, if that is at most `limit` bytes.
    pub fn give_away(&self, limit: u64) -> Option<Written> {
        let mut state = self.0.lock();
        let State { fresh, syncing } = &mut *state;
        if fresh.overflown || syncing.overflown || fresh.bytes.saturating_add(syncing.bytes) > limit {
            return None;
        }
        let mut taken = std::mem::take(fresh);
        taken.merge(std::mem::take(syncing));
        Some(taken)
    }

    /// What was taken out was not taken up: from now on only a sync helps.
    pub fn not_taken(&self) {
        self.0.lock().fresh.overflow();
    }

    /// A sync of all segments begins, of those that run one after the other.
    pub fn sync_begins(&self) {
        let mut state = self.0.lock();
        let fresh = std::mem::take(&mut state.fresh);
        state.syncing.merge(fresh);
    }

    /// It has ended well.
    pub fn sync_ended(&self) {
        self.0.lock().syncing = Written::default();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nexus_kernel::BlobId;

    use super::*;

    fn segment(id: u64) -> Arc<Segment> {
        Arc::new(Segment::left_over(BlobId(id), PathBuf::from("s"), 0, 0))
    }

    fn parts(written: &Written) -> Vec<(u64, u64, usize)> {
        let mut found: Vec<_> = written.parts(100).map(|(segment, at, len)| (segment.id().0, at, len)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn neighbours_are_merged_in_any_order_and_cut_again() {
        let unsynced = Unsynced::default();
        let (a, b) = (segment(1), segment(2));
        unsynced.note(&a, 0, 50);
        unsynced.note(&a, 100, 150);
        unsynced.note(&b, 7, 8);
        unsynced.note(&a, 50, 100);
        let taken = unsynced.give_away(1000).unwrap();
        assert_eq!(parts(&taken), [(1, 0, 100), (1, 100, 50), (2, 7, 1)]);
        assert!(parts(&unsynced.give_away(1000).unwrap()).is_empty(), "given away once");
    }

    #[test]
    fn what_a_running_sync_has_taken_up_still_counts() {
        let unsynced = Unsynced::default();
        let a = segment(1);
        unsynced.note(&a, 0, 10);
        unsynced.sync_begins();
        unsynced.note(&a, 20, 30);
        assert!(unsynced.give_away(19).is_none());
        assert_eq!(parts(&unsynced.give_away(20).unwrap()), [(1, 0, 10), (1, 20, 10)]);
        unsynced.note(&a, 30, 40);
        unsynced.sync_ended();
        assert_eq!(parts(&unsynced.give_away(20).unwrap()), [(1, 30, 10)]);
    }

    #[test]
    fn too_much_stays_too_much_until_a_sync_that_began_later_has_ended() {
        let a = segment(1);
        let too_much: [&dyn Fn(&Unsynced); 4] = [
            &|unsynced| unsynced.note(&a, 0, MAX_BYTES + 1),
            &|unsynced| (0..=MAX_RANGES as u64).for_each(|i| unsynced.note(&a, i * 10, i * 10 + 1)),
            &|unsynced| (0..=MAX_SEGMENTS as u64).for_each(|i| unsynced.note(&segment(i + 1), 0, 1)),
            &|unsynced| unsynced.not_taken(),
        ];
        for (case, make) in too_much.into_iter().enumerate() {
            let unsynced = Unsynced::default();
            unsynced.sync_begins();
            make(&unsynced);
            unsynced.sync_ended();
            assert!(unsynced.give_away(u64::MAX).is_none(), "case {case}: that sync began before");
            unsynced.sync_begins();
            unsynced.note(&a, 0, 1);
            assert!(unsynced.give_away(u64::MAX).is_none(), "case {case}: still under way");
            unsynced.sync_ended();
            assert_eq!(parts(&unsynced.give_away(u64::MAX).unwrap()), [(1, 0, 1)], "case {case}");
        }
    }
}
