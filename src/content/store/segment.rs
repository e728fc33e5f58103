//! A segment: a file that takes writes, until it is closed and sealed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::{BlobId, Error, Result};
use parking_lot::{Condvar, Mutex, RwLock};

use super::fill::{Fill, Place};

/// Least space reserved at a time, where the medium has no room for a whole step.
const SMALL_STEP: u64 = 64 << 10;

/// A segment. Ranges are handed out under the lock of the lanes; the bytes go in outside it,
/// from any number of threads.
pub struct Segment {
    id: BlobId,
    path: PathBuf,
    limit: u64,
    /// `None` while nothing is unsynced and others need the descriptor more.
    file: RwLock<Option<Arc<dyn DiskFile>>>,
    fill: Mutex<State>,
    /// Users between reserving a range and having told the metadata, or having failed to.
    pins: AtomicUsize,
    /// Whether somebody waits for the last of them.
    awaited: AtomicBool,
    unpinned: Condvar,
    /// Held by the one who moves it into its store.
    sealing: Mutex<()>,
    dirty: AtomicBool,
    syncing: Mutex<()>,
    written: AtomicU64,
    made_ms: u64,
    last_write_ms: AtomicU64,
    /// Whether all that it holds is elsewhere too.
    redundant: AtomicBool,
}

struct State {
    fill: Fill,
    allocated: u64,
    closed: bool,
    abandoned: Vec<(u64, u64)>,
}

/// What is to be known of a segment that is open, to say whether it is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSegment {
    /// The blob that it becomes.
    pub id: BlobId,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that fit.
    pub limit: u64,
    /// When it was made.
    pub made_ms: u64,
    /// When it was last written to.
    pub last_write_ms: u64,
}

/// Keeps a segment from being sealed or dropped.
pub struct Pin(Arc<Segment>);

/// A range of a segment to write to.
pub struct Reserved {
    /// Offset in the segment.
    pub at: u64,
    pin: Pin,
}

impl Segment {
    /// A new, empty segment, whose file was just made.
    pub fn new(id: BlobId, path: PathBuf, limit: u64, file: Arc<dyn DiskFile>, now_ms: u64) -> Segment {
        let state = State { fill: Fill::default(), allocated: 0, closed: false, abandoned: Vec::new() };
        Segment::with(id, path, limit, Some(file), state, false, now_ms)
    }

    /// A segment that an earlier process left. It takes no writes, and is not known to be durable.
    pub fn left_over(id: BlobId, path: PathBuf, len: u64, now_ms: u64) -> Segment {
        let state = State { fill: Fill::up_to(len), allocated: len, closed: true, abandoned: Vec::new() };
        Segment::with(id, path, len, None, state, true, now_ms)
    }

    fn with(
        id: BlobId,
        path: PathBuf,
        limit: u64,
        file: Option<Arc<dyn DiskFile>>,
        state: State,
        dirty: bool,
        now_ms: u64,
    ) -> Segment {
        Segment {
            id,
            path,
            limit,
            file: RwLock::new(file),
            fill: Mutex::new(state),
            pins: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            unpinned: Condvar::new(),
            sealing: Mutex::new(()),
            dirty: AtomicBool::new(dirty),
            syncing: Mutex::new(()),
            written: AtomicU64::new(0),
            made_ms: now_ms,
            last_write_ms: AtomicU64::new(now_ms),
            redundant: AtomicBool::new(false),
        }
    }

    /// The blob that the segment is, or becomes.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that all that it holds is elsewhere too, where the metadata knows it.
    pub fn mark_redundant(&self) {
        self.redundant.store(true, Ordering::Relaxed);
    }

    /// Whether all that it holds is elsewhere too.
    pub fn is_redundant(&self) -> bool {
        self.redundant.load(Ordering::Relaxed)
    }

    /// End of what was handed out.
    pub fn tail(&self) -> u64 {
        self.fill.lock().fill.tail()
    }

    /// When a range was last handed out.
    pub fn last_write_ms(&self) -> u64 {
        self.last_write_ms.load(Ordering::Relaxed)
    }

    /// What a collector looks at.
    pub fn look(&self) -> OpenSegment {
        let (made_ms, last_write_ms) = (self.made_ms, self.last_write_ms());
        OpenSegment { id: self.id, bytes: self.tail(), limit: self.limit, made_ms, last_write_ms }
    }

    /// Reserves `len` bytes after all that is there; `None` if they do not fit.
    pub fn append(self: &Arc<Self>, len: u64, align: u64, step: u64, now_ms: u64) -> Result<Option<Reserved>> {
        self.reserve(step, now_ms, |fill| fill.at_end(len, align, self.limit))
    }

    /// Reserves `len` bytes at `at`, if that place is free and near; `None` if not.
    pub fn place(self: &Arc<Self>, at: u64, len: u64, step: u64, now_ms: u64) -> Result<Option<Reserved>> {
        self.reserve(step, now_ms, |fill| fill.at_place(at, len, self.limit))
    }

    fn reserve(
        self: &Arc<Self>,
        step: u64,
        now_ms: u64,
        find: impl FnOnce(&Fill) -> Option<Place>,
    ) -> Result<Option<Reserved>> {
        let mut state = self.fill.lock();
        if state.closed {
            return Ok(None);
        }
        let Some(place) = find(&state.fill) else { return Ok(None) };
        if place.end > state.allocated {
            state.allocated = self.allocate(state.allocated, place.end, step)?;
        }
        state.fill.take(place);
        self.pins.fetch_add(1, Ordering::AcqRel);
        self.last_write_ms.store(now_ms, Ordering::Relaxed);
        Ok(Some(Reserved { at: place.at, pin: Pin(Arc::clone(self)) }))
    }

    /// Reserves space up to at least `needed`; answers how far.
    fn allocate(&self, from: u64, needed: u64, step: u64) -> Result<u64> {
        let file = self.open_file()?;
        let full = needed.saturating_add(step).min(self.limit.max(needed));
        match file.allocate(from, full - from) {
            Ok(()) => return Ok(full),
            Err(Error::NoSpace | Error::QuotaExceeded) => {}
            Err(error) => return Err(error),
        }
        let small = needed.next_multiple_of(SMALL_STEP).min(self.limit.max(needed));
        file.allocate(from, small - from)?;
        Ok(small)
    }

    /// Starts over after the tail, leaving the gaps unused.
    pub fn forget_gaps(&self) {
        let mut state = self.fill.lock();
        let gaps = state.fill.forget_gaps();
        state.abandoned.extend(gaps);
    }

    /// Ranges below the tail that hold nothing.
    pub fn unused(&self) -> Vec<(u64, u64)> {
        let state = self.fill.lock();
        state.abandoned.iter().chain(state.fill.gaps()).copied().collect()
    }

    /// Takes no more writes from now on.
    pub fn close(&self) {
        self.fill.lock().closed = true;
    }

    /// Takes writes again, from `tail` on; for a segment that an earlier process left, of
    /// which the metadata knows no byte at or after `tail`.
    pub fn reopen(self: Segment, tail: u64, limit: u64, file: Arc<dyn DiskFile>) -> Segment {
        let allocated = self.fill.lock().allocated;
        let state = State { fill: Fill::up_to(tail), allocated, closed: false, abandoned: Vec::new() };
        let now_ms = self.last_write_ms();
        Segment::with(self.id, self.path, limit, Some(file), state, true, now_ms)
    }

    /// Counts bytes up to `end` as there; for a segment that an earlier process left.
    pub fn extend_tail(&self, end: u64) {
        let mut state = self.fill.lock();
        state.fill = Fill::up_to(end.max(state.fill.tail()));
    }

    /// Forgets what lies after `tail`; for a segment that an earlier process left.
    pub fn cut_tail(&self, tail: u64) {
        let mut state = self.fill.lock();
        state.fill = Fill::up_to(tail.min(state.fill.tail()));
    }

    /// Whether it takes no writes and nobody uses it: all who wrote to it have told the
    /// metadata by now.
    pub fn is_settled(&self) -> bool {
        // Pins are only made while it is open, so this order can't miss one.
        self.fill.lock().closed && self.pins.load(Ordering::Acquire) == 0
    }

    /// Waits until all who wrote to it have told the metadata; for a closed segment.
    pub fn await_settled(&self) {
        let mut state = self.fill.lock();
        // Set before the count is looked at, which the last user does the other way round.
        self.awaited.store(true, Ordering::SeqCst);
        while self.pins.load(Ordering::SeqCst) != 0 {
            self.unpinned.wait(&mut state);
        }
    }

    /// Held by the one who moves it into its store.
    pub fn sealing(&self) -> &Mutex<()> {
        &self.sealing
    }

    /// The open file, if it is held open.
    pub fn held_file(&self) -> Option<Arc<dyn DiskFile>> {
        self.file.read().clone()
    }

    fn open_file(&self) -> Result<Arc<dyn DiskFile>> {
        self.held_file().ok_or_else(|| Error::Unavailable(format!("{} is not open", self.path.display())))
    }

    /// Writes into a reserved range. Every so many bytes the medium is set to work, so that
    /// a later sync is short and little is dirty.
    pub fn write(&self, data: &[u8], at: u64, writeback_step: u64) -> Result<()> {
        let file = self.open_file()?;
        let result = file.write_at(data, at);
        // Even a failed write may have left something to sync; what matters is that the
        // mark is set after the bytes are in.
        self.dirty.store(true, Ordering::Release);
        result?;
        let written = self.written.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
        if written >= writeback_step && self.written.swap(0, Ordering::Relaxed) >= writeback_step {
            file.start_writeback(0, self.tail())?;
        }
        Ok(())
    }

    /// Whether bytes may not be durable.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Starts to write all that is not durable yet.
    pub fn start_writeback(&self) -> Result<()> {
        match self.held_file() {
            Some(file) => file.start_writeback(0, self.tail()),
            None => Ok(()),
        }
    }

    /// Makes all that was written before the call durable; answers whether that took a sync of the file,
    /// which began after the call. Waits for one that runs already, as that may hold this caller's bytes.
    pub fn sync(&self, disk: &dyn Disk) -> Result<bool> {
        let _one = self.syncing.lock();
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        let file = match self.held_file() {
            Some(file) => file,
            None => disk.open(&self.path)?,
        };
        let synced = file.sync_data();
        if synced.is_err() {
            self.dirty.store(true, Ordering::Release);
        }
        synced.map(|()| true)
    }

    /// Makes it durable and closes its file; for a closed segment.
    pub fn park(&self, disk: &dyn Disk) -> Result<()> {
        self.sync(disk)?;
        if self.is_settled() {
            let file = self.file.write().take();
            drop(file);
        }
        Ok(())
    }
}

impl Reserved {
    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.pin.0
    }

    /// What is to be held until the metadata knows.
    pub fn into_pin(self) -> Pin {
        self.pin
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let last = self.0.pins.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.awaited.load(Ordering::SeqCst) {
            // Taken, so that who looked at the count before does wait by now.
            drop(self.0.fill.lock());
            self.0.unpinned.notify_all();
        }
    }
}
