//! Finds the readers of one blob that go on in a regular way (forward, backward, or in steps of
//! one size) and says what to fetch ahead of them. Decides only, in numbers of frames; what is
//! there already is somebody else's to know. Bounded: `STREAMS` readers and `RECENT` reads.

use std::collections::VecDeque;
use std::ops::Range;

/// Frames of one request that fetches ahead, at the most.
pub const PIECE: u64 = 32;
/// Frames ahead of a reader when it is first found to be regular, and at the most.
const WINDOW: Range<u64> = 4..512;
/// Readers of a blob that are told apart; the one not heard of for longest makes room.
const STREAMS: usize = 8;
/// Reads that are remembered, to find a new reader among them.
const RECENT: usize = 32;
/// How many reads after each other two reads of one reader may be, as others read in between.
const APART: u64 = 12;
/// A reader not heard of for so many reads is forgotten.
const FORGET: u64 = 128;
/// How far from each other, in frames, reads may be that still follow each other: the kernel's
/// own reading ahead comes in several requests, in no sure order.
const NEAR: u64 = 32;
/// Reads of a reader in steps that may come before one that should have been first.
const STEPS_EARLY: u64 = 4;
/// Requests ahead of a reader in steps, each of which is one of its reads.
const MOST_STEPS: u64 = 32;

/// The regular readers of one blob.
#[derive(Debug)]
pub struct Readers {
    total: u64,
    streams: Vec<Stream>,
    recent: VecDeque<Seen>,
    /// Reads so far.
    clock: u64,
}

#[derive(Debug)]
struct Seen {
    frames: Range<u64>,
    at: u64,
}

/// Whom a read belongs to.
enum Follows {
    /// The reader at this place, which it brings forward.
    Onward(usize),
    /// A reader that has been further already.
    Behind,
    Nobody,
}

/// One reader. A backward one is seen in a mirror, where it goes forward.
#[derive(Debug)]
struct Stream {
    backward: bool,
    /// Frames from the start of one read to that of the next; 0 if they have no gaps.
    stride: u64,
    /// Frames of one read of a reader in steps.
    len: u64,
    /// End of what it read, or the start of its last read if it goes in steps.
    at: u64,
    /// What is before this was asked for.
    ahead: u64,
    window: u64,
    /// Where the window last grew.
    grown_at: u64,
    /// Frames that it left out and may still come to.
    skipped: u64,
    used: u64,
}

impl Readers {
    /// None yet, of a blob of so many frames.
    pub fn none(total: u64) -> Readers {
        Readers { total, streams: Vec::new(), recent: VecDeque::new(), clock: 0 }
    }

    /// Notes that somebody reads `frames`; answers what to fetch ahead, the most urgent first.
    pub fn read(&mut self, frames: &Range<u64>) -> Vec<Range<u64>> {
        let again = |seen: &Seen| seen.frames.start <= frames.start && frames.end <= seen.frames.end;
        if frames.is_empty() || frames.end > self.total || self.recent.iter().any(again) {
            return Vec::new();
        }
        self.clock += 1;
        let now = self.clock;
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Seen { frames: frames.clone(), at: now });
        self.streams.retain(|stream| now - stream.used <= FORGET);
        let at = match self.follow(frames) {
            Follows::Onward(at) => Some(at),
            // A late one, or it has turned round.
            Follows::Behind => self.run(frames).and_then(|found| self.recognise(found)),
            Follows::Nobody => self.run(frames).or_else(|| self.steps(frames)).and_then(|found| self.recognise(found)),
        };
        let total = self.total;
        let Some(stream) = at.and_then(|at| self.streams.get_mut(at)) else { return Vec::new() };
        let backward = stream.backward;
        let ranges = stream.plan(total);
        ranges.into_iter().map(|range| mirrored(range, total, backward)).collect()
    }

    /// Says that somebody who came to the end of another blob with this window goes on with
    /// this one, of which nothing was read yet.
    pub fn go_on(&mut self, window: u64) {
        let window = window.clamp(WINDOW.start, WINDOW.end);
        let stream = Stream { window, used: self.clock, ..Stream::new(false, 0, 0..0) };
        self.add(stream);
    }

    /// The window of a reader that came to the end of the blob, once.
    pub fn take_finished(&mut self) -> Option<u64> {
        let is_done = |stream: &Stream| !stream.backward && stream.stride == 0 && stream.at >= self.total;
        let at = self.streams.iter().position(is_done)?;
        Some(self.streams.swap_remove(at).window)
    }

    /// Whether nothing was read yet.
    pub fn is_new(&self) -> bool {
        self.clock == 0
    }

    /// Notes that a range that was to be fetched ahead will not be, so that it is asked for again.
    pub fn refused(&mut self, range: &Range<u64>) {
        for stream in &mut self.streams {
            let start = mirrored(range.clone(), self.total, stream.backward).start;
            if stream.at <= start {
                stream.ahead = stream.ahead.min(start);
            }
        }
    }

    /// Lets the reader that `frames` bring forward go on.
    fn follow(&mut self, frames: &Range<u64>) -> Follows {
        let (total, now) = (self.total, self.clock);
        let seen = |stream: &Stream| mirrored(frames.clone(), total, stream.backward);
        let near = |(at, stream): (usize, &Stream)| stream.distance(&seen(stream)).map(|distance| (distance, at));
        let nearest = self.streams.iter().enumerate().filter_map(near).min();
        let Some((at, stream)) = nearest.and_then(|(_, at)| Some((at, self.streams.get_mut(at)?))) else {
            return Follows::Nobody;
        };
        let came_on = stream.advance(&mirrored(frames.clone(), total, stream.backward));
        if came_on {
            stream.used = now;
        }
        if stream.skipped > 2 * NEAR {
            self.streams.swap_remove(at);
            return Follows::Nobody;
        }
        if came_on { Follows::Onward(at) } else { Follows::Behind }
    }

    /// Notes a reader that the newest read has shown, if it is a new one; answers its place.
    fn recognise(&mut self, found: Stream) -> Option<usize> {
        let is_same = |stream: &Stream| {
            (stream.backward, stream.stride) == (found.backward, found.stride) && stream.at.abs_diff(found.at) <= NEAR
        };
        if self.streams.iter().any(is_same) {
            return None;
        }
        self.add(Stream { used: self.clock, ..found });
        Some(self.streams.len() - 1)
    }

    fn add(&mut self, stream: Stream) {
        if self.streams.len() >= STREAMS {
            let oldest = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.used);
            if let Some((at, _)) = oldest {
                self.streams.swap_remove(at);
            }
        }
        self.streams.push(stream);
    }

    /// The reader of a run of reads without a gap, of which the newest is one. Three are enough
    /// if nobody else read meanwhile, otherwise four; two at the start of the blob.
    fn run(&self, frames: &Range<u64>) -> Option<Stream> {
        let mut run = frames.clone();
        let (mut lowest, mut highest, mut oldest) = (self.clock, self.clock, self.clock);
        let mut count = 1;
        // Older reads only: each joins if it touches the run and is not long before it.
        for seen in self.recent.iter().rev().skip(1) {
            if oldest - seen.at > APART {
                break;
            }
            if seen.frames.end < run.start || run.end < seen.frames.start {
                continue;
            }
            if seen.frames.start < run.start {
                (run.start, lowest) = (seen.frames.start, seen.at);
            }
            if seen.frames.end > run.end {
                (run.end, highest) = (seen.frames.end, seen.at);
            }
            (oldest, count) = (seen.at, count + 1);
        }
        let alone = self.clock - oldest == count - 1;
        let enough = count >= 4 || count == 3 && alone || count == 2 && run.start == 0 && lowest < highest;
        let backward = lowest > highest;
        enough.then(|| Stream::new(backward, 0, mirrored(run, self.total, backward)))
    }

    /// The reader in steps of one size of which the newest read is the last. Four reads show it
    /// if nobody else read meanwhile, otherwise five.
    fn steps(&self, frames: &Range<u64>) -> Option<Stream> {
        let before = self.recent.iter().rev().skip(1).take_while(|seen| self.clock - seen.at <= APART);
        before.filter(|seen| seen.frames.start != frames.start).find_map(|seen| {
            let (stride, backward) = (frames.start.abs_diff(seen.frames.start), frames.start < seen.frames.start);
            let back = |start: u64| if backward { start.checked_add(stride) } else { start.checked_sub(stride) };
            let (mut start, mut at, mut count) = (seen.frames.start, seen.at, 2);
            while let Some(found) = back(start).and_then(|start| self.seen_before(start, at)) {
                (start, at, count) = (found.frames.start, found.at, count + 1);
                if count >= 5 || count == 4 && self.clock - at == 3 {
                    return Some(Stream::new(backward, stride, mirrored(frames.clone(), self.total, backward)));
                }
            }
            None
        })
    }

    fn seen_before(&self, start: u64, at: u64) -> Option<&Seen> {
        self.recent.iter().find(|seen| seen.frames.start == start && seen.at < at && at - seen.at <= APART)
    }
}

impl Stream {
    fn new(backward: bool, stride: u64, read: Range<u64>) -> Stream {
        let at = if stride == 0 { read.end } else { read.start };
        Stream {
            backward,
            stride,
            len: read.end - read.start,
            at,
            ahead: read.end,
            window: WINDOW.start,
            grown_at: at,
            skipped: 0,
            used: 0,
        }
    }

    /// How far a read is from where this reader is expected; `None` if it is not one of its.
    fn distance(&self, read: &Range<u64>) -> Option<u64> {
        let distance = read.start.abs_diff(self.at);
        if self.stride == 0 {
            return (read.start <= self.at + NEAR && read.end + NEAR >= self.at).then_some(distance);
        }
        let steps = distance / self.stride;
        (distance.is_multiple_of(self.stride) && (1..=STEPS_EARLY).contains(&steps)).then(|| distance - self.stride)
    }

    /// Notes a read of this reader; answers whether it brought it forward.
    fn advance(&mut self, read: &Range<u64>) -> bool {
        let (expected, reached) =
            if self.stride == 0 { (self.at, read.end) } else { (self.at + self.stride, read.start) };
        if reached <= self.at {
            self.skipped = self.skipped.saturating_sub(read.end - read.start);
            return false;
        }
        let unit = if self.stride == 0 { 1 } else { self.stride };
        self.skipped += read.start.saturating_sub(expected) / unit;
        (self.at, self.len) = (reached, read.end - read.start);
        // It has shown a quarter of what is risked for it.
        let used = (self.at - self.grown_at) / unit * if self.stride == 0 { 1 } else { self.len };
        if used >= self.window / 4 {
            self.window = (self.window * 2).min(WINDOW.end);
            self.grown_at = self.at;
        }
        true
    }

    fn plan(&mut self, total: u64) -> Vec<Range<u64>> {
        if self.stride > 0 {
            return self.plan_steps(total);
        }
        let start = self.ahead.max(self.at);
        let mut end = (self.at + self.window).min(total);
        // Not a little at a time.
        if start >= end || end - start < PIECE.min(self.window / 2) && end < total {
            return Vec::new();
        }
        if end < total && end - start > PIECE {
            end -= (end - start) % PIECE;
        }
        self.ahead = end;
        (start..end).step_by(PIECE as usize).map(|at| at..(at + PIECE).min(end)).collect()
    }

    fn plan_steps(&mut self, total: u64) -> Vec<Range<u64>> {
        let steps = (self.window / self.len.max(1)).clamp(1, MOST_STEPS);
        let last = self.at + steps * self.stride;
        let mut next = self.at + self.stride;
        let mut ranges = Vec::new();
        while next <= last && next < total {
            if next >= self.ahead {
                ranges.push(next..(next + self.len.min(PIECE)).min(total));
            }
            next += self.stride;
        }
        self.ahead = self.ahead.max(next);
        ranges
    }
}

/// A range as a reader sees it that goes this way; its own inverse.
fn mirrored(range: Range<u64>, total: u64, backward: bool) -> Range<u64> {
    if backward { total.saturating_sub(range.end)..total.saturating_sub(range.start) } else { range }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 1024;

    /// What is fetched ahead of reads, and how many requests it takes.
    fn feed(readers: &mut Readers, reads: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        reads.into_iter().flat_map(|read| readers.read(&read)).collect()
    }

    fn frames(ranges: &[Range<u64>]) -> Vec<u64> {
        let mut frames: Vec<u64> = ranges.iter().flat_map(Clone::clone).collect();
        frames.sort_unstable();
        frames
    }

    fn one(frame: u64) -> Range<u64> {
        frame..frame + 1
    }

    #[test]
    fn a_reader_in_order_is_served_ahead_once_and_in_few_requests() {
        for start in [0, 100] {
            let mut readers = Readers::none(TOTAL);
            let ahead = feed(&mut readers, (start..TOTAL).flat_map(|frame| [one(frame), one(frame)]));
            let first = if start == 0 { 2 } else { start + 3 };
            assert_eq!(frames(&ahead), (first..TOTAL).collect::<Vec<_>>());
            assert!(ahead.len() as u64 <= (TOTAL - start) / PIECE + 8, "{ahead:?}");
        }
    }

    #[test]
    fn the_window_is_never_far_larger_than_what_was_read() {
        let mut readers = Readers::none(TOTAL);
        for frame in 0..TOTAL {
            let end = readers.read(&one(frame)).iter().map(|range| range.end).max().unwrap_or_default();
            assert!(end <= frame + 1 + (8 * (frame + 1)).min(WINDOW.end), "{end} at {frame}");
        }
    }

    #[test]
    fn a_reader_that_goes_backward_is_served_before_it_comes() {
        let mut readers = Readers::none(TOTAL);
        let ahead = feed(&mut readers, (0..TOTAL).rev().map(one));
        assert_eq!(frames(&ahead), (0..TOTAL - 3).collect::<Vec<_>>());
        assert!(ahead.len() as u64 <= TOTAL / PIECE + 8, "{ahead:?}");
        assert!(ahead.first().unwrap().start > ahead.last().unwrap().start);
    }

    #[test]
    fn a_reader_in_steps_gets_its_steps_and_nothing_between() {
        for backward in [false, true] {
            let steps: Vec<u64> = (0..TOTAL).step_by(4).collect();
            let mut order = steps.clone();
            if backward {
                order.reverse();
            }
            let mut readers = Readers::none(TOTAL);
            let ahead = feed(&mut readers, order.iter().copied().map(one));
            let got = frames(&ahead);
            assert!(got.iter().all(|frame| steps.contains(frame)), "{got:?}");
            assert_eq!(got.len(), steps.len() - 4);
        }
    }

    #[test]
    fn several_readers_do_not_disturb_each_other() {
        let mut readers = Readers::none(TOTAL);
        let reads = (0..100).flat_map(|frame| (0..STREAMS as u64).map(move |reader| one(reader * 128 + frame)));
        let ahead = frames(&feed(&mut readers, reads));
        for reader in 0..STREAMS as u64 {
            for frame in 4..100 {
                assert!(ahead.contains(&(reader * 128 + frame)), "frame {frame} of reader {reader}");
            }
        }
        assert!(readers.streams.len() <= STREAMS && readers.recent.len() <= RECENT);
    }

    #[test]
    fn requests_of_the_kernel_may_overtake_each_other() {
        let mut readers = Readers::none(TOTAL);
        let order = [1, 0, 3, 2, 6, 7, 4, 5];
        let reads = (0..TOTAL / 16).flat_map(|group| order.map(|at| group * 16 + at * 2..group * 16 + at * 2 + 2));
        let ahead = feed(&mut readers, reads);
        assert!(ahead.len() as u64 <= TOTAL / PIECE + 8, "{ahead:?}");
        let ahead = frames(&ahead);
        assert!((32..TOTAL).all(|frame| ahead.contains(&frame)));
        assert!(ahead.windows(2).all(|pair| pair[0] != pair[1]), "some are asked for twice");
    }

    #[test]
    fn a_random_reader_is_left_alone() {
        let mut readers = Readers::none(TOTAL);
        let mut random = 7_u64;
        for _ in 0..500 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            assert_eq!(readers.read(&one((random >> 33) % TOTAL)), []);
        }
    }

    #[test]
    fn one_that_leaves_is_forgotten_and_one_that_was_refused_asks_again() {
        let mut readers = Readers::none(TOTAL);
        let ahead = feed(&mut readers, (100..120).map(one));
        let last = ahead.last().unwrap();
        readers.refused(last);
        let again = feed(&mut readers, (120..125).map(one));
        assert!(again.iter().any(|range| range.start == last.start), "{again:?} after {last:?} was refused");
        for hop in 0..FORGET + 1 {
            readers.read(&one(200 + hop * hop % 701));
        }
        assert!(readers.streams.iter().all(|stream| stream.at > 130), "{:?}", readers.streams);
    }

    #[test]
    fn a_window_goes_on_into_the_next_blob() {
        let mut readers = Readers::none(TOTAL);
        assert!(readers.is_new());
        feed(&mut readers, (0..TOTAL).map(one));
        let window = readers.take_finished().unwrap();
        assert_eq!((window, readers.take_finished()), (WINDOW.end, None));
        let mut next = Readers::none(TOTAL);
        next.go_on(window);
        let ahead = next.read(&(0..2));
        assert_eq!(frames(&ahead).len() as u64, window);
    }
}
