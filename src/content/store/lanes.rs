//! Lanes: which segment a write goes to. Small writes of all files share a segment. A file
//! that writes sequentially gets a lane of its own, in which bytes keep the distances that
//! they have in the file, so that its extents merge. What the collector copies has a third
//! kind of lane, so that long-lived content does not mix with new.

use std::sync::Arc;

use nexus_kernel::content::WriteHint;
use nexus_kernel::{Error, Ino, Result};

use super::runs::Runs;
use super::segment::{Reserved, Segment};

/// Writes of at least this much start at a page of the segment, if they are whole pages.
const ALIGN_FROM: u64 = 16 << 10;
const PAGE: u64 = 4096;
/// Writes, by anybody, after which a file's lane may be given to another file.
const LANE_IDLE_WRITES: u64 = 64;

/// Sizes that lanes work with.
#[derive(Clone, Copy, Debug)]
pub struct LaneSizes {
    /// Limit of shared segments.
    pub shared: u64,
    /// Limit of streams' segments.
    pub stream: u64,
    /// Run after which a file gets a lane.
    pub stream_after: u64,
    /// Lanes for files.
    pub streams: usize,
    /// Space reserved ahead.
    pub step: u64,
}

/// Makes an empty segment of a size.
pub type MakeSegment<'a> = dyn FnMut(u64) -> Result<Arc<Segment>> + 'a;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub enum Writer {
    /// A file.
    File(WriteHint),
    /// The collector.
    Collector,
}

/// The lanes.
pub struct Lanes {
    sizes: LaneSizes,
    shared: Option<Arc<Segment>>,
    copies: Option<Arc<Segment>>,
    streams: Vec<Stream>,
    runs: Runs,
    writes: u64,
    shut: bool,
}

struct Stream {
    segment: Option<Arc<Segment>>,
    owner: Option<Ino>,
    /// This offset in the file...
    file_base: u64,
    /// ...is this one in the segment.
    segment_base: u64,
    last_used: u64,
}

impl Lanes {
    /// No lanes yet.
    pub fn new(sizes: LaneSizes) -> Lanes {
        Lanes { sizes, shared: None, copies: None, streams: Vec::new(), runs: Runs::default(), writes: 0, shut: false }
    }

    /// Sizes in use.
    pub fn sizes(&self) -> &LaneSizes {
        &self.sizes
    }

    /// Goes on with a segment that an earlier process left open; false if no lane can use it.
    pub fn adopt(&mut self, segment: &Arc<Segment>) -> bool {
        if self.shared.is_none() {
            self.shared = Some(Arc::clone(segment));
            return true;
        }
        if self.streams.len() < self.sizes.streams {
            self.streams.push(Stream::free(Some(Arc::clone(segment))));
            return true;
        }
        false
    }

    /// Reserves room for a write of `len` bytes.
    pub fn reserve(&mut self, writer: Writer, len: u64, now_ms: u64, make: &mut MakeSegment<'_>) -> Result<Reserved> {
        if self.shut {
            return Err(Error::NoStore);
        }
        self.writes += 1;
        let hint = match writer {
            Writer::Collector => {
                return append(&mut self.copies, len, self.sizes.stream, self.sizes.step, now_ms, make);
            }
            Writer::File(hint) => hint,
        };
        let run = self.runs.note(hint.ino, hint.offset, len);
        if let Some(reserved) = self.stream(hint, len, run, now_ms, make)? {
            return Ok(reserved);
        }
        append(&mut self.shared, len, self.sizes.shared, self.sizes.step, now_ms, make)
    }

    /// A place in the file's own lane, if it has one or deserves one.
    fn stream(
        &mut self,
        hint: WriteHint,
        len: u64,
        run: u64,
        now_ms: u64,
        make: &mut MakeSegment<'_>,
    ) -> Result<Option<Reserved>> {
        let (sizes, writes) = (self.sizes, self.writes);
        let deserves = run >= sizes.stream_after;
        let lane = match self.streams.iter_mut().find(|lane| lane.owner == Some(hint.ino)) {
            Some(lane) => lane,
            None if deserves => match self.take_lane() {
                Some(lane) => {
                    lane.owner = Some(hint.ino);
                    lane.rebase(hint.offset);
                    lane
                }
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        if let Some(reserved) = lane.place(hint.offset, len, sizes.step, now_ms)? {
            lane.last_used = writes;
            return Ok(Some(reserved));
        }
        if !deserves {
            return Ok(None);
        }
        // The run goes on where the lane can't follow: after a jump in the file, or at the
        // segment's end.
        lane.last_used = writes;
        lane.rebase(hint.offset);
        if let Some(reserved) = lane.place(hint.offset, len, sizes.step, now_ms)? {
            return Ok(Some(reserved));
        }
        let fresh = make(sizes.stream.max(len))?;
        if let Some(full) = lane.segment.replace(fresh) {
            full.close();
        }
        lane.rebase(hint.offset);
        lane.place(hint.offset, len, sizes.step, now_ms)
    }

    /// A lane that no file has, or one whose file has not written for a while.
    fn take_lane(&mut self) -> Option<&mut Stream> {
        let free = self.streams.iter().position(|lane| lane.owner.is_none());
        let index = match free {
            Some(index) => index,
            None if self.streams.len() < self.sizes.streams => {
                self.streams.push(Stream::free(None));
                self.streams.len() - 1
            }
            None => {
                let (index, lane) = self.streams.iter().enumerate().min_by_key(|(_, lane)| lane.last_used)?;
                if self.writes - lane.last_used < LANE_IDLE_WRITES {
                    return None;
                }
                index
            }
        };
        self.streams.get_mut(index)
    }

    /// Closes all segments, and takes no more writes.
    pub fn shut(&mut self) {
        self.shut = true;
        self.close_segments(|_| true);
    }

    /// The file has no writer any more; its lane goes on with the next one.
    pub fn closed(&mut self, ino: Ino) {
        self.runs.forget(ino);
        for lane in self.streams.iter_mut().filter(|lane| lane.owner == Some(ino)) {
            lane.owner = None;
        }
    }

    /// Closes the segments that `choose` names; their lanes make new ones when they need to.
    pub fn close_segments(&mut self, mut choose: impl FnMut(&Arc<Segment>) -> bool) {
        let streams = self.streams.iter_mut().map(|lane| &mut lane.segment);
        for slot in [&mut self.shared, &mut self.copies].into_iter().chain(streams) {
            if slot.as_ref().is_some_and(&mut choose)
                && let Some(segment) = slot.take()
            {
                segment.close();
            }
        }
    }
}

impl Stream {
    fn free(segment: Option<Arc<Segment>>) -> Stream {
        Stream { segment, owner: None, file_base: 0, segment_base: 0, last_used: 0 }
    }

    /// From now on the file's bytes from `offset` on go after all that is in the segment.
    fn rebase(&mut self, offset: u64) {
        self.file_base = offset;
        self.segment_base = match &self.segment {
            Some(segment) => {
                segment.forget_gaps();
                segment.tail().next_multiple_of(PAGE)
            }
            None => 0,
        };
    }

    fn place(&self, offset: u64, len: u64, step: u64, now_ms: u64) -> Result<Option<Reserved>> {
        let Some(segment) = &self.segment else { return Ok(None) };
        let at = match offset.checked_sub(self.file_base) {
            Some(skip) => self.segment_base.checked_add(skip),
            None => None,
        };
        match at {
            Some(at) => segment.place(at, len, step, now_ms),
            None => Ok(None),
        }
    }
}

/// Reserves at the end of a slot's segment; a full one is closed and replaced.
fn append(
    slot: &mut Option<Arc<Segment>>,
    len: u64,
    limit: u64,
    step: u64,
    now_ms: u64,
    make: &mut MakeSegment<'_>,
) -> Result<Reserved> {
    let align = if len >= ALIGN_FROM && len.is_multiple_of(PAGE) { PAGE } else { 1 };
    if let Some(segment) = slot {
        if let Some(reserved) = segment.append(len, align, step, now_ms)? {
            return Ok(reserved);
        }
        segment.close();
        *slot = None;
    }
    let fresh = slot.insert(make(limit.max(len))?);
    match fresh.append(len, align, step, now_ms)? {
        Some(reserved) => Ok(reserved),
        None => Err(Error::Io("an empty segment takes no bytes".into())),
    }
}
