//! Sets of byte ranges.

use std::collections::BTreeMap;

/// Bytes, as ranges that neither overlap nor touch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `[start, end)`.
    pub fn add(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        if start >= end {
            return;
        }
        while let Some((from, to)) = self.0.range(..=end).next_back().map(|(from, to)| (*from, *to)) {
            if to < start {
                break;
            }
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    /// The parts of `[start, end)` that are not in it, in order.
    pub fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut at, mut gaps) = (start, Vec::new());
        let before = self.0.range(..=start).next_back().map(|(from, to)| (*from, *to));
        let after = self.0.range(start.saturating_add(1)..).map(|(from, to)| (*from, *to));
        for (from, to) in before.into_iter().chain(after) {
            if at >= end || from >= end {
                break;
            }
            if from > at {
                gaps.push((at, from));
            }
            at = at.max(to);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(from, to)| (*from, *to))
    }

    /// How many ranges it takes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_a_set_of_bytes() {
        for seed in 0..200u64 {
            let mut next = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                next ^= next << 13;
                next ^= next >> 7;
                next ^= next << 17;
                next % below
            };
            let (mut ranges, mut set) = (Ranges::default(), [false; 64]);
            for _ in 0..12 {
                let (start, len) = (random(60), random(9));
                let end = (start + len).min(64);
                ranges.add(start, end);
                set[start as usize..end as usize].fill(true);
                let (from, to) = (random(64), random(65));
                let mut missing = [false; 64];
                for (start, end) in ranges.missing(from, to) {
                    assert!(start < end && from <= start && end <= to, "seed {seed}");
                    missing[start as usize..end as usize].fill(true);
                }
                for at in 0..64 {
                    let wanted = from <= at && at < to && !set[at as usize];
                    assert_eq!(missing[at as usize], wanted, "seed {seed}: {at} of {from}..{to}, {ranges:?}");
                }
                assert_eq!(ranges.bytes(), set.iter().filter(|byte| **byte).count() as u64);
                let parts: Vec<_> = ranges.iter().collect();
                assert!(parts.windows(2).all(|pair| pair[0].1 < pair[1].0), "seed {seed}: {parts:?}");
            }
        }
    }
}
