//! Which parts of a blob are in its cache file, and which are on their way, in units of the store's
//! grain. Decides only; files and requests are elsewhere.

use std::ops::Range;

use nexus_kernel::readers::Readers;

/// Bytes of a frame: what is fetched at the least, but for reads that stand alone.
pub const FRAME: u64 = 64 << 10;
/// Frames that are there between two gaps from which on the gaps are fetched by a request each.
const APART: u64 = 4;

/// The parts of one blob, in units of which a frame has one or several.
#[derive(Debug)]
pub struct Frames {
    /// Bytes of a unit.
    unit: u64,
    bits: Vec<u64>,
    total: u64,
    present: u64,
    /// Being fetched by somebody.
    loading: Vec<Range<u64>>,
    readers: Readers,
}

impl Frames {
    /// None of those of a blob of `len` bytes; a unit has at most the bytes of a frame.
    pub fn none(len: u64, unit: u64) -> Frames {
        let unit = unit.clamp(1, FRAME);
        let total = len.div_ceil(unit);
        let bits = vec![0; total.div_ceil(64) as usize];
        Frames { unit, bits, total, present: 0, loading: Vec::new(), readers: Readers::none(len.div_ceil(FRAME)) }
    }

    /// The units that hold a range of bytes.
    pub fn of_bytes(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.unit..range.end.div_ceil(self.unit)
    }

    /// Units of a frame.
    fn per_frame(&self) -> u64 {
        FRAME / self.unit
    }

    /// The frames that hold `units`.
    fn frames(&self, units: &Range<u64>) -> Range<u64> {
        units.start / self.per_frame()..units.end.div_ceil(self.per_frame())
    }

    fn units(&self, frames: &Range<u64>) -> Range<u64> {
        frames.start * self.per_frame()..(frames.end * self.per_frame()).min(self.total)
    }

    /// What to fetch for somebody who asks for `units`, some of which are missing: their frames
    /// whole, unless it is a small read of a place near which nothing was fetched yet.
    pub fn widened(&self, units: &Range<u64>) -> Range<u64> {
        let frames = self.frames(units);
        let whole = self.units(&frames);
        let near = self.units(&(frames.start.saturating_sub(1)..frames.end));
        let known = |near: Range<u64>| near.clone().any(|unit| self.has(unit)) || self.is_loading(&near);
        if units.end - units.start >= self.per_frame() || known(near) { whole } else { units.clone() }
    }

    /// Units that are there.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// Bytes of a range that are there.
    pub fn present_in(&self, range: &Range<u64>) -> u64 {
        let there = self.of_bytes(range).filter(|unit| self.has(*unit));
        let bytes = |unit: u64| unit * self.unit..(unit + 1) * self.unit;
        there.map(bytes).map(|unit| unit.end.min(range.end).saturating_sub(unit.start.max(range.start))).sum()
    }

    /// Whether a frame is there.
    pub fn has(&self, frame: u64) -> bool {
        self.bits.get((frame / 64) as usize).is_some_and(|word| word >> (frame % 64) & 1 == 1)
    }

    /// Notes frames that are there now, or not any more; answers how many changed.
    pub fn set(&mut self, frames: Range<u64>, there: bool) -> u64 {
        let mut changed = 0;
        for frame in frames.start..frames.end.min(self.total) {
            if let Some(word) = self.bits.get_mut((frame / 64) as usize)
                && (*word >> (frame % 64) & 1 == 1) != there
            {
                *word ^= 1 << (frame % 64);
                changed += 1;
            }
        }
        if there {
            self.present += changed
        } else {
            self.present -= changed
        }
        changed
    }

    /// Whether all of `frames` are there.
    pub fn has_all(&self, frames: Range<u64>) -> bool {
        frames.into_iter().all(|frame| self.has(frame))
    }

    /// What to fetch so that all of `frames` are there or on their way. A few that are there
    /// already are fetched again rather than by another request.
    pub fn gaps(&self, frames: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        for frame in frames {
            if self.has(frame) || self.is_loading(&(frame..frame + 1)) {
                continue;
            }
            match gaps.last_mut() {
                Some(gap) if frame - gap.end < APART * self.per_frame() && !self.is_loading(&(gap.end..frame)) => {
                    gap.end = frame + 1
                }
                _ => gaps.push(frame..frame + 1),
            }
        }
        gaps
    }

    /// What of some frames, which are 64 KiB, is neither there nor on its way, in units.
    pub fn missing(&self, frames: &Range<u64>) -> Vec<Range<u64>> {
        self.gaps(self.units(frames))
    }

    /// Whether somebody fetches any of `frames`.
    pub fn is_loading(&self, frames: &Range<u64>) -> bool {
        self.loading.iter().any(|loading| loading.start < frames.end && frames.start < loading.end)
    }

    /// Whether anything is being fetched.
    pub fn is_busy(&self) -> bool {
        !self.loading.is_empty()
    }

    /// Notes that `frames` are being fetched.
    pub fn begin(&mut self, frames: Range<u64>) {
        self.loading.push(frames);
    }

    /// Notes that they are not any more.
    pub fn end(&mut self, frames: &Range<u64>) {
        if let Some(at) = self.loading.iter().position(|loading| loading == frames) {
            self.loading.swap_remove(at);
        }
    }

    /// Notes that a reader asks for `frames`; answers what to fetch ahead, a request each, which
    /// is noted as being fetched.
    pub fn read(&mut self, frames: &Range<u64>) -> Vec<Range<u64>> {
        let mut requests = Vec::new();
        for range in self.readers.read(&self.frames(frames)) {
            for gap in self.gaps(self.units(&range)) {
                self.begin(gap.clone());
                requests.push(gap);
            }
        }
        requests
    }

    /// Notes that a request to fetch ahead is not made after all.
    pub fn refuse(&mut self, request: &Range<u64>) {
        self.end(request);
        self.readers.refused(&self.frames(request));
    }

    /// Who reads this blob.
    pub fn readers(&mut self) -> &mut Readers {
        &mut self.readers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_and_go() {
        let mut frames = Frames::none(10 * FRAME + 1, FRAME);
        assert_eq!(frames.gaps(0..11).first(), Some(&(0..11)));
        assert_eq!(frames.set(2..5, true), 3);
        assert_eq!(frames.set(4..100, true), 6);
        assert_eq!((frames.present(), frames.gaps(0..11).first(), frames.has_all(3..9)), (9, Some(&(0..2)), true));
        assert_eq!(frames.set(3..4, false), 1);
        assert_eq!(frames.gaps(1..9).first(), Some(&(1..4)));
    }

    #[test]
    fn what_is_there_or_on_its_way_is_not_fetched_with_its_neighbours() {
        let mut frames = Frames::none(20 * FRAME, FRAME);
        frames.set(2..6, true);
        frames.set(8..11, true);
        assert_eq!(frames.gaps(0..20), [0..2, 6..20]);
        frames.begin(12..13);
        assert_eq!(frames.gaps(0..20), [0..2, 6..12, 13..20]);
    }

    #[test]
    fn a_sequential_reader_is_served_ahead_in_few_requests() {
        let total = 640;
        let mut frames = Frames::none(total * FRAME, FRAME);
        let mut requests = 0;
        for frame in 0..total {
            for _ in 0..3 {
                if !frames.has(frame) && !frames.is_loading(&(frame..frame + 1)) {
                    requests += 1;
                    frames.set(frame..frame + 1, true);
                }
                for piece in frames.read(&(frame..frame + 1)) {
                    requests += 1;
                    frames.end(&piece);
                    assert_eq!(frames.set(piece.clone(), true), piece.end - piece.start, "{piece:?} twice");
                }
            }
        }
        assert!(requests <= 30, "{requests} requests for {total} frames");
        assert!(!frames.is_busy());
    }

    #[test]
    fn a_random_reader_is_left_alone() {
        let mut frames = Frames::none(1000 * FRAME, FRAME);
        for frame in [5, 900, 17, 300, 301 * 2, 4, 77] {
            assert_eq!(frames.read(&(frame..frame + 1)), []);
        }
    }

    #[test]
    fn a_small_read_is_fetched_alone_until_another_comes_near() {
        let per = FRAME / 4096;
        let mut frames = Frames::none(100 * FRAME + 1, 4096);
        assert_eq!(frames.of_bytes(&(FRAME + 5..FRAME + 4097)), per..per + 2);
        assert_eq!(frames.widened(&(per + 3..per + 4)), per + 3..per + 4);
        frames.set(per + 3..per + 4, true);
        // The same frame, the next one, but not one further away or before.
        assert_eq!(frames.widened(&(per + 7..per + 8)), per..2 * per);
        assert_eq!(frames.widened(&(2 * per + 7..2 * per + 8)), 2 * per..3 * per);
        assert_eq!(frames.widened(&(3 * per..3 * per + 1)), 3 * per..3 * per + 1);
        assert_eq!(frames.widened(&(0..1)), 0..1);
        // One that is large, and the end of the blob.
        assert_eq!(frames.widened(&(9 * per + 1..10 * per + 1)), 9 * per..11 * per);
        frames.begin(99 * per..99 * per + 1);
        assert_eq!(frames.widened(&(100 * per..100 * per + 1)), 100 * per..100 * per + 1);
        assert_eq!(frames.widened(&(99 * per + 2..99 * per + 3)), 99 * per..100 * per);
        assert_eq!(frames.present_in(&(FRAME..2 * FRAME)), 4096);
    }

    #[test]
    fn readers_are_found_whatever_the_unit() {
        let (mut coarse, mut fine) = (Frames::none(640 * FRAME, FRAME), Frames::none(640 * FRAME, 4096));
        let per = FRAME / 4096;
        for frame in 0..640 {
            let scaled: Vec<_> =
                coarse.read(&(frame..frame + 1)).iter().map(|piece| piece.start * per..piece.end * per).collect();
            assert_eq!(fine.read(&(frame * per..frame * per + 1)), scaled);
        }
    }
}
