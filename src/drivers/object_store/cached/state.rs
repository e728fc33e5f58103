//! What a cache knows: of each blob what is there, what is on its way, and what of it is in memory. Decides
//! only; files and requests are elsewhere.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::ids::BlobId;

use super::super::transfer::StoreMemory;
use super::frames::Frames;

/// Requests that wait for one of those who fetch ahead; what is beyond is fetched when it is read.
const MOST_QUEUED: usize = 128;
/// Bytes of the requests that fetch ahead, waiting and under way, and of what came and is still in memory:
/// the most memory that all of it takes.
pub const AHEAD_BYTES: u64 = 32 << 20;
/// Pieces that wait to be written to the disk, at the most.
const MOST_UNKEPT: usize = 256;
/// Readers remembered that came to the end of a blob.
const MOST_FINISHED: usize = 8;
/// How much larger the number of a blob is, at the most, in which a file goes on.
const NEXT_BLOBS: u64 = 16;
/// Files of the cache that are open at once, about: as many blobs as the cache has may be more than a
/// process may open.
const MOST_OPEN: usize = 64;

pub struct State {
    /// Bytes of a unit of [`Frames`].
    pub unit: u64,
    pub blobs: HashMap<BlobId, Cached>,
    /// Bytes of blobs that the store has told of.
    pub lens: HashMap<BlobId, u64>,
    /// Bytes that are there.
    pub bytes: u64,
    pub clock: u64,
    /// What is to be fetched ahead.
    pub queue: VecDeque<(BlobId, Range<u64>)>,
    /// Pieces that are to be written to the disk.
    pub unkept: VecDeque<Place>,
    /// Bytes reserved, of [`AHEAD_BYTES`], and of what stores share.
    pub memory: u64,
    shared: Arc<StoreMemory>,
    /// Pieces in memory, the oldest first.
    held: VecDeque<Place>,
    /// Pieces that are being written.
    pub writing: usize,
    /// Readers that came to the end of a blob, with their window.
    finished: VecDeque<(BlobId, u64)>,
    /// Blobs whose files are open, the one opened last at the end.
    open: VecDeque<BlobId>,
    pub stopping: bool,
}

/// Where a piece is: its blob, which of the blob's lives in the cache, and its first unit.
pub type Place = (BlobId, u64, u64);

/// What is cached of a blob.
pub struct Cached {
    /// Tells it from the same blob after it was thrown out and came back.
    pub life: u64,
    /// Its file, if that is open.
    pub file: Option<Arc<File>>,
    pub len: u64,
    pub frames: Frames,
    /// When it was last used, by [`State::clock`].
    pub used: u64,
    /// What of it is in memory.
    held: Vec<Held>,
}

/// A piece that came and is in memory: until it is in the file, and was read.
struct Held {
    units: Range<u64>,
    bytes: Bytes,
    /// Bytes that nobody has read yet, about.
    unread: u64,
    /// Whether it is in the file.
    kept: bool,
    is_being_kept: bool,
}

/// A part of what is there.
pub enum Part {
    /// It is in memory.
    Memory(Bytes),
    /// It is in the file.
    File(Range<u64>),
}

impl Cached {
    /// Nothing of a blob, or what its file has.
    pub fn new(life: u64, file: Option<Arc<File>>, len: u64, frames: Frames) -> Cached {
        Cached { life, file, len, frames, used: life, held: Vec::new() }
    }

    /// Where the bytes of a range are that is there, in order; they count as read.
    pub fn parts(&mut self, range: &Range<u64>, unit: u64) -> Vec<Part> {
        let (mut parts, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let next = self.held.iter().map(|held| held.units.start * unit).filter(|start| *start > at).min();
            let here = self.held.iter_mut().find(|held| held.range(unit).contains(&at));
            let (end, part) = match here {
                Some(held) => {
                    let (start, end) = (held.units.start * unit, held.range(unit).end.min(range.end));
                    held.unread = held.unread.saturating_sub(end - at);
                    (end, Part::Memory(held.bytes.slice((at - start) as usize..(end - start) as usize)))
                }
                None => {
                    let end = next.unwrap_or(range.end).min(range.end);
                    (end, Part::File(at..end))
                }
            };
            parts.push(part);
            at = end;
        }
        parts
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.shared.give_ahead(self.memory);
    }
}

impl Held {
    fn range(&self, unit: u64) -> Range<u64> {
        let start = self.units.start * unit;
        start..start + self.bytes.len() as u64
    }
}

impl State {
    /// Of an empty cache with units of so many bytes, with its part of a limit of memory.
    pub fn new(unit: u64, shared: Arc<StoreMemory>) -> State {
        State {
            unit,
            blobs: HashMap::new(),
            lens: HashMap::new(),
            bytes: 0,
            clock: 0,
            queue: VecDeque::new(),
            unkept: VecDeque::new(),
            memory: 0,
            shared,
            held: VecDeque::new(),
            writing: 0,
            finished: VecDeque::new(),
            open: VecDeque::new(),
            stopping: false,
        }
    }

    /// Whether nothing is on its way, from the store or to the disk.
    #[cfg(test)]
    pub fn is_settled(&self) -> bool {
        let is_busy = self.blobs.values().any(|cached| cached.frames.is_busy());
        !is_busy && self.queue.is_empty() && self.unkept.is_empty() && self.writing == 0
    }

    /// Takes a request out of the queue that would bring any of `wanted`.
    pub fn take_queued(&mut self, id: BlobId, wanted: &Range<u64>) -> Option<Range<u64>> {
        let brings =
            |(of, piece): &(BlobId, Range<u64>)| *of == id && piece.start < wanted.end && wanted.start < piece.end;
        let at = self.queue.iter().position(brings)?;
        self.queue.remove(at).map(|(_, piece)| piece)
    }

    /// Reserves memory for a request that fetches ahead, and queues it; `false` if it must not be.
    pub fn enqueue(&mut self, id: BlobId, piece: &Range<u64>) -> bool {
        let fits = self.queue.len() < MOST_QUEUED && self.reserve(self.piece_bytes(piece));
        if fits {
            self.queue.push_back((id, piece.clone()));
        }
        fits
    }

    /// Reserves memory, for which what is in memory and need not be has to go.
    fn reserve(&mut self, bytes: u64) -> bool {
        while self.memory + bytes > AHEAD_BYTES || !self.shared.take_ahead(bytes) {
            // What is in the file as well, or else what was read: it is fetched anew should it be read again.
            let spare = |held: &Held| held.kept || held.unread == 0 && !held.is_being_kept;
            let Some(place) = self.held.iter().copied().find(|place| self.held_at(*place).is_some_and(spare)) else {
                return false;
            };
            self.let_go(place);
        }
        self.memory += bytes;
        true
    }

    pub fn piece_bytes(&self, piece: &Range<u64>) -> u64 {
        (piece.end - piece.start) * self.unit
    }

    /// Gives back what [`State::enqueue`] has reserved.
    pub fn release(&mut self, piece: &Range<u64>) {
        let bytes = self.piece_bytes(piece).min(self.memory);
        self.memory -= bytes;
        self.shared.give_ahead(bytes);
    }

    /// Whether a piece that somebody asked for, and who has it, may be in memory until it is written.
    pub fn may_hold(&mut self, piece: &Range<u64>) -> bool {
        self.unkept.len() < MOST_UNKEPT && self.reserve(self.piece_bytes(piece))
    }

    /// Notes a piece that came, for which memory was reserved, and of which so many bytes were read. From now
    /// on it is there.
    pub fn hold(&mut self, id: BlobId, units: Range<u64>, bytes: Bytes, read: u64) {
        let unit = self.unit;
        let Some(cached) = self.blobs.get_mut(&id) else { return self.release(&units) };
        self.bytes += cached.frames.set(units.clone(), true) * unit;
        let place = (id, cached.life, units.start);
        let unread = (bytes.len() as u64).saturating_sub(read);
        cached.held.push(Held { units, bytes, unread, kept: false, is_being_kept: false });
        self.held.push_back(place);
        self.unkept.push_back(place);
    }

    fn held_at(&self, (id, life, start): Place) -> Option<&Held> {
        let cached = self.blobs.get(&id).filter(|cached| cached.life == life)?;
        cached.held.iter().find(|held| held.units.start == start)
    }

    /// The next piece to write to the disk, with its blob's offset.
    pub fn next_unkept(&mut self) -> Option<(Place, u64, Bytes)> {
        while let Some(place) = self.unkept.pop_front() {
            let (id, life, start) = place;
            let Some(cached) = self.blobs.get_mut(&id).filter(|cached| cached.life == life) else { continue };
            if let Some(held) = cached.held.iter_mut().find(|held| held.units.start == start) {
                held.is_being_kept = true;
                self.writing += 1;
                return Some((place, start * self.unit, held.bytes.clone()));
            }
        }
        None
    }

    /// Notes that a piece was written, or that the disk did not take it.
    pub fn written(&mut self, place: Place, is_there: bool) {
        self.writing = self.writing.saturating_sub(1);
        let (id, life, start) = place;
        let Some(cached) = self.blobs.get_mut(&id).filter(|cached| cached.life == life) else { return };
        let Some(held) = cached.held.iter_mut().find(|held| held.units.start == start) else { return };
        (held.is_being_kept, held.kept) = (false, is_there);
        if !is_there || held.unread == 0 {
            self.let_go(place);
        }
    }

    /// Lets go of pieces of a blob that were read and are in the file.
    pub fn let_go_of_read(&mut self, id: BlobId) {
        let Some(cached) = self.blobs.get(&id) else { return };
        let done = |held: &&Held| held.kept && held.unread == 0;
        let places: Vec<_> = cached.held.iter().filter(done).map(|held| (id, cached.life, held.units.start)).collect();
        places.into_iter().for_each(|place| self.let_go(place));
    }

    /// Lets go of all pieces that are in their files.
    pub fn let_go_of_kept(&mut self) {
        let places: Vec<_> =
            self.held.iter().copied().filter(|place| self.held_at(*place).is_some_and(|held| held.kept)).collect();
        places.into_iter().for_each(|place| self.let_go(place));
    }

    /// Whether anything is in memory.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go of a piece; without a copy in the file it is not there any more.
    fn let_go(&mut self, place: Place) {
        let (id, life, start) = place;
        self.held.retain(|other| *other != place);
        let unit = self.unit;
        let Some(cached) = self.blobs.get_mut(&id).filter(|cached| cached.life == life) else { return };
        let Some(at) = cached.held.iter().position(|held| held.units.start == start) else { return };
        let held = cached.held.swap_remove(at);
        if !held.kept {
            self.bytes = self.bytes.saturating_sub(cached.frames.set(held.units.clone(), false) * unit);
        }
        self.release(&held.units);
    }

    /// Takes parts of a blob for wrong: they are not there any more.
    pub fn distrust(&mut self, id: BlobId, range: &Range<u64>) {
        let unit = self.unit;
        let Some(cached) = self.blobs.get_mut(&id) else { return };
        let units = cached.frames.of_bytes(range);
        let life = cached.life;
        let overlaps = |held: &&Held| held.units.start < units.end && units.start < held.units.end;
        let places: Vec<_> = cached.held.iter().filter(overlaps).map(|held| (id, life, held.units.start)).collect();
        self.bytes = self.bytes.saturating_sub(cached.frames.set(units, false) * unit);
        places.into_iter().for_each(|place| self.let_go(place));
    }

    /// Forgets a blob.
    pub fn remove(&mut self, id: BlobId) -> bool {
        let Some(cached) = self.blobs.get(&id) else { return false };
        let places: Vec<_> = cached.held.iter().map(|held| (id, cached.life, held.units.start)).collect();
        places.into_iter().for_each(|place| self.let_go(place));
        self.open.retain(|other| *other != id);
        let removed = self.blobs.remove(&id);
        self.bytes = self.bytes.saturating_sub(removed.map_or(0, |cached| cached.frames.present() * self.unit));
        true
    }

    /// Notes that a blob's file is open; closes another one if there are too many.
    pub fn opened(&mut self, id: BlobId, file: Arc<File>) {
        if let Some(cached) = self.blobs.get_mut(&id) {
            cached.file = Some(file);
            self.open.push_back(id);
        }
        while self.open.len() > MOST_OPEN {
            let Some(oldest) = self.open.pop_front() else { return };
            if let Some(cached) = self.blobs.get_mut(&oldest) {
                cached.file = None;
            }
        }
    }

    /// Notes a read; answers what to fetch ahead. Who came to the end of a blob and begins one
    /// that was made soon after it is known there.
    pub fn read(&mut self, id: BlobId, wanted: &Range<u64>) -> Vec<Range<u64>> {
        let Some(cached) = self.blobs.get_mut(&id) else { return Vec::new() };
        let readers = cached.frames.readers();
        if wanted.start == 0 && readers.is_new() {
            let goes_on = |(of, _): &(BlobId, u64)| of.0 < id.0 && id.0 - of.0 <= NEXT_BLOBS;
            let before = self.finished.iter().position(goes_on).and_then(|at| self.finished.remove(at));
            if let Some((_, window)) = before {
                readers.go_on(window);
            }
        }
        let ahead = cached.frames.read(wanted);
        if let Some(window) = cached.frames.readers().take_finished() {
            if self.finished.len() >= MOST_FINISHED {
                self.finished.pop_front();
            }
            self.finished.push_back((id, window));
        }
        ahead
    }
}
