//! How far a segment is filled: which of its ranges were handed out. Decides only; files are
//! touched elsewhere.
//!
//! Invariant: a range is handed out once, ever; bytes of a blob never change.

use smallvec::SmallVec;

/// Most ranges that are skipped and still waited for.
const MAX_GAPS: usize = 32;
/// Most bytes in them.
const MAX_GAP_BYTES: u64 = 8 << 20;

/// A place that a write could have; taking it is a second step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset in the segment.
    pub at: u64,
    /// End of the range.
    pub end: u64,
}

/// What of a segment is taken.
#[derive(Debug, Default)]
pub struct Fill {
    tail: u64,
    gaps: SmallVec<[(u64, u64); 4]>,
}

impl Fill {
    /// A segment filled up to `tail`.
    pub fn up_to(tail: u64) -> Fill {
        Fill { tail, gaps: SmallVec::new() }
    }

    /// End of what is handed out.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Ranges below the tail that were never handed out.
    pub fn gaps(&self) -> &[(u64, u64)] {
        &self.gaps
    }

    /// The place after all that is there, at a multiple of `align`.
    pub fn at_end(&self, len: u64, align: u64, limit: u64) -> Option<Place> {
        let at = self.tail.checked_next_multiple_of(align)?;
        let end = at.checked_add(len)?;
        (end <= limit).then_some(Place { at, end })
    }

    /// A given place: at the tail, a little after it, or in a gap that was left so.
    pub fn at_place(&self, at: u64, len: u64, limit: u64) -> Option<Place> {
        let end = at.checked_add(len)?;
        let free = if at >= self.tail {
            let open: u64 = self.gaps.iter().map(|(start, end)| end - start).sum();
            end <= limit && (at == self.tail || self.gaps.len() < MAX_GAPS && open + (at - self.tail) <= MAX_GAP_BYTES)
        } else {
            self.gaps.iter().any(|gap| gap.0 <= at && end <= gap.1)
        };
        free.then_some(Place { at, end })
    }

    /// Hands out a place that was found in this state.
    pub fn take(&mut self, place: Place) {
        if place.at >= self.tail {
            if place.at > self.tail {
                self.gaps.push((self.tail, place.at));
            }
            self.tail = place.end;
        } else if let Some(index) = self.gaps.iter().position(|gap| gap.0 <= place.at && place.end <= gap.1) {
            let (start, end) = self.gaps.swap_remove(index);
            if start < place.at {
                self.gaps.push((start, place.at));
            }
            if place.end < end {
                self.gaps.push((place.end, end));
            }
        }
    }

    /// Gives up on the gaps: what comes next starts at the tail.
    pub fn forget_gaps(&mut self) -> SmallVec<[(u64, u64); 4]> {
        std::mem::take(&mut self.gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_handed_out_twice() {
        let seed = 0x5eed_f111_u64;
        let mut random = crate::testing::Random::new(seed);
        for round in 0..200 {
            let limit = 1 << 16;
            let mut taken = vec![false; limit as usize];
            let mut fill = Fill::default();
            for _ in 0..100 {
                let len = 1 + random.below(1500);
                let place = match random.below(3) {
                    0 => fill.at_end(len, 1 << random.below(6), limit),
                    _ => fill.at_place(random.below(fill.tail() + 3000), len, limit),
                };
                let Some(place) = place else { continue };
                assert_eq!(place.end - place.at, len);
                assert!(place.end <= limit);
                fill.take(place);
                for byte in place.at..place.end {
                    assert!(!taken[byte as usize], "seed {seed:#x} round {round}: byte {byte} twice");
                    taken[byte as usize] = true;
                }
            }
            for &(start, end) in fill.gaps() {
                assert!((start..end).all(|byte| !taken[byte as usize]), "seed {seed:#x}: a gap is taken");
            }
        }
    }

    #[test]
    fn a_late_write_finds_its_gap() {
        let mut fill = Fill::up_to(100);
        fill.take(fill.at_place(200, 50, 1000).unwrap());
        assert_eq!((fill.tail(), fill.gaps()), (250, &[(100, 200)][..]));
        assert_eq!(fill.at_place(90, 20, 1000), None);
        assert_eq!(fill.at_place(150, 60, 1000), None);
        fill.take(fill.at_place(100, 100, 1000).unwrap());
        assert!(fill.gaps().is_empty());
        assert_eq!(fill.at_place(100, 1, 1000), None);
    }
}
