//! Which frames of a blob are in its cache file, and what to fetch ahead of a reader. Decides
//! only; files and requests are elsewhere.

use std::ops::Range;

/// Bytes of a frame: what is fetched at the least, and what checksums are kept of.
pub const FRAME: u64 = 64 << 10;
/// Frames of one request that fetches ahead.
pub const PIECE: u64 = 32;
/// Frames ahead of a reader when it is first found to be sequential, and at the most.
const AHEAD: Range<u64> = 4..128;
/// How far from each other, in frames, reads may be that still follow each other.
const NEAR: u64 = 32;

/// The frames of one blob.
#[derive(Debug)]
pub struct Frames {
    bits: Vec<u64>,
    total: u64,
    present: u64,
    /// Being fetched by somebody.
    loading: Vec<Range<u64>>,
    /// The frame that a sequential reader would ask for next.
    next: u64,
    window: u64,
    /// End of what was fetched ahead.
    ahead: u64,
}

impl Frames {
    /// None of those of a blob of `len` bytes.
    pub fn none(len: u64) -> Frames {
        let total = len.div_ceil(FRAME);
        let words = total.div_ceil(64) as usize;
        Frames { bits: vec![0; words], total, present: 0, loading: Vec::new(), next: u64::MAX, window: 0, ahead: 0 }
    }

    /// The frames that hold a range of bytes.
    pub fn of_bytes(range: &Range<u64>) -> Range<u64> {
        range.start / FRAME..range.end.div_ceil(FRAME)
    }

    /// Frames that are there.
    pub fn present(&self) -> u64 {
        self.present
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

    /// The shortest range that holds all that is missing of `frames`; empty if nothing is.
    pub fn missing(&self, frames: Range<u64>) -> Range<u64> {
        let first = frames.clone().find(|frame| !self.has(*frame));
        let last = frames.clone().rev().find(|frame| !self.has(*frame));
        match (first, last) {
            (Some(first), Some(last)) => first..last + 1,
            _ => frames.end..frames.end,
        }
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
    /// is noted as being fetched. The window doubles while reads follow each other.
    pub fn read(&mut self, frames: &Range<u64>) -> Vec<Range<u64>> {
        if frames.end == self.next {
            // The same frame again, for the next few bytes of it.
            return Vec::new();
        }
        // The kernel's own reading ahead comes in several requests, in no sure order.
        if self.next != u64::MAX && frames.start <= self.next + NEAR && frames.end + NEAR >= self.next {
            self.window = (self.window * 2).clamp(AHEAD.start, AHEAD.end);
            self.next = self.next.max(frames.end);
        } else {
            (self.window, self.ahead) = (0, frames.end);
            self.next = frames.end;
        }
        let (start, end) = (self.ahead.max(frames.end), (self.next + self.window).min(self.total));
        // Not a little at a time: when half of the window is used up.
        if start >= end || end - start < self.window / 2 && end < self.total {
            return Vec::new();
        }
        self.ahead = end;
        let mut requests = Vec::new();
        let mut at = start;
        while at < end {
            let piece = self.missing(at..(at + PIECE).min(end));
            if !piece.is_empty() && !self.is_loading(&piece) {
                self.begin(piece.clone());
                requests.push(piece);
            }
            at += PIECE;
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_and_go() {
        let mut frames = Frames::none(10 * FRAME + 1);
        assert_eq!(frames.missing(0..11), 0..11);
        assert_eq!(frames.set(2..5, true), 3);
        assert_eq!(frames.set(4..100, true), 6);
        assert_eq!((frames.present(), frames.missing(0..11), frames.missing(3..9).is_empty()), (9, 0..2, true));
        assert_eq!(frames.set(3..4, false), 1);
        assert_eq!(frames.missing(1..9), 1..4);
    }

    #[test]
    fn a_sequential_reader_is_served_ahead_in_few_requests() {
        let total = 640;
        let mut frames = Frames::none(total * FRAME);
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
        let mut frames = Frames::none(1000 * FRAME);
        for frame in [5, 900, 17, 300, 301 * 2, 4, 77] {
            assert_eq!(frames.read(&(frame..frame + 1)), []);
        }
    }
}
