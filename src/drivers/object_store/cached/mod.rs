//! [`CachedStore`]: a store that is far away, with a bounded cache on the local disk.
//!
//! A blob that was read has a file in the cache folder under its number, as long as the blob
//! and with holes where nothing was fetched yet. That is all there is to know, so the cache
//! survives a restart; what a crash left half written is found out by the reader's checksums,
//! who then calls [`ObjectStore::distrust`]. A blob that goes up leaves its local file here.

mod frames;
mod readers;
mod scan;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::future::{Future, ready};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::interrupt::{is_given_up, unless_given_up};
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore, Traffic};
use parking_lot::{Condvar, Mutex};

use frames::{FRAME, Frames};

/// Threads that fetch ahead, one request each.
const FETCHERS: usize = 12;
/// Requests that wait for one of them; what is beyond is fetched when it is read.
const MOST_QUEUED: usize = 128;
/// Bytes of the requests that fetch ahead, waiting and under way: the most memory they take.
const AHEAD_BYTES: u64 = 32 << 20;
/// Readers remembered that came to the end of a blob.
const MOST_FINISHED: usize = 8;
/// How much larger the number of a blob is, at the most, in which a file goes on.
const NEXT_BLOBS: u64 = 16;
/// How often somebody who waits for what another one fetches looks whether he is killed.
const LOOK: Duration = Duration::from_millis(500);

/// How much of the disk a cache may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the disk that it leaves to others.
    pub keep_free: u64,
}

/// A store behind a cache on the local disk.
///
/// Reads of what is cached go on while the store is away. What is fetched is fetched once,
/// however many ask for it. A blob is thrown out whole, the one that was not used for longest.
pub struct CachedStore(Arc<Shared>);

struct Shared {
    store: Arc<dyn ObjectStore>,
    reads: Reads,
    dir: PathBuf,
    limits: CacheLimits,
    /// The store's grain, at most a frame: bytes of a unit of [`Frames`].
    unit: u64,
    state: Mutex<State>,
    /// A fetch has ended.
    fetched: Condvar,
    /// There is something to fetch ahead, or it is over.
    wanted: Condvar,
}

/// Reads, by whether they had to wait for the store.
#[derive(Default)]
struct Reads {
    hits: AtomicU64,
    hit_bytes: AtomicU64,
    misses: AtomicU64,
    miss_bytes: AtomicU64,
}

impl Reads {
    fn count(&self, bytes: u64, hit: bool) {
        let (reads, of) = if hit { (&self.hits, &self.hit_bytes) } else { (&self.misses, &self.miss_bytes) };
        reads.fetch_add(1, Ordering::Relaxed);
        of.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    /// Bytes of a unit of [`Frames`].
    unit: u64,
    blobs: HashMap<BlobId, Cached>,
    /// Bytes of blobs that the store has told of.
    lens: HashMap<BlobId, u64>,
    bytes: u64,
    clock: u64,
    queue: VecDeque<(BlobId, Range<u64>)>,
    /// Bytes reserved for requests that fetch ahead, of [`AHEAD_BYTES`].
    ahead_bytes: u64,
    /// Readers that came to the end of a blob, with their window.
    finished: VecDeque<(BlobId, u64)>,
    stopping: bool,
}

/// What is cached of a blob.
struct Cached {
    file: Arc<File>,
    len: u64,
    frames: Frames,
    /// When it was last used, by [`State::clock`].
    used: u64,
}

impl State {
    /// Takes a request out of the queue that would bring any of `wanted`.
    fn take_queued(&mut self, id: BlobId, wanted: &Range<u64>) -> Option<Range<u64>> {
        let brings =
            |(of, piece): &(BlobId, Range<u64>)| *of == id && piece.start < wanted.end && wanted.start < piece.end;
        let at = self.queue.iter().position(brings)?;
        self.queue.remove(at).map(|(_, piece)| piece)
    }

    /// Reserves memory for a request that fetches ahead, and queues it; `false` if it must not be.
    fn enqueue(&mut self, id: BlobId, piece: &Range<u64>) -> bool {
        let bytes = self.piece_bytes(piece);
        let fits = self.queue.len() < MOST_QUEUED && self.ahead_bytes + bytes <= AHEAD_BYTES;
        if fits {
            self.ahead_bytes += bytes;
            self.queue.push_back((id, piece.clone()));
        }
        fits
    }

    fn piece_bytes(&self, piece: &Range<u64>) -> u64 {
        (piece.end - piece.start) * self.unit
    }

    /// Gives back what [`State::enqueue`] has reserved.
    fn release(&mut self, piece: &Range<u64>) {
        self.ahead_bytes = self.ahead_bytes.saturating_sub(self.piece_bytes(piece));
    }

    /// Notes a read; answers what to fetch ahead. Who came to the end of a blob and begins one
    /// that was made soon after it is known there.
    fn read(&mut self, id: BlobId, wanted: &Range<u64>) -> Vec<Range<u64>> {
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

impl CachedStore {
    /// A cache for `store` in the folder `dir`, which is made if missing. What an earlier run
    /// left there is used again.
    pub fn open(store: Arc<dyn ObjectStore>, dir: &Path, limits: CacheLimits) -> Result<CachedStore> {
        fs::create_dir_all(dir).map_err(|error| Error::from_io(format!("make {}", dir.display()), &error))?;
        let unit = store.grain().clamp(1, FRAME);
        let mut state = State { unit, ..State::default() };
        for (id, file, frames, len) in scan::scan(dir, unit)? {
            state.clock += 1;
            state.bytes += frames.present() * unit;
            state.blobs.insert(id, Cached { file: Arc::new(file), len, frames, used: state.clock });
        }
        let shared = Arc::new(Shared {
            store,
            reads: Reads::default(),
            dir: dir.to_owned(),
            limits,
            unit,
            state: Mutex::new(state),
            fetched: Condvar::new(),
            wanted: Condvar::new(),
        });
        for number in 0..FETCHERS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("nexus-ahead-{number}"))
                .spawn(move || shared.fetch_ahead())
                .map_err(|error| Error::from_io("cannot start a thread of the cache", &error))?;
        }
        shared.make_room(&mut shared.state.lock(), None);
        Ok(CachedStore(shared))
    }
}

/// Waits for the store, or until whoever asked is killed.
fn wait<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    unless_given_up(answer).unwrap_or(Err(Error::Interrupted))
}

impl Drop for CachedStore {
    fn drop(&mut self) {
        // The threads are not waited for: one may be in a request that takes its time.
        self.0.state.lock().stopping = true;
        self.0.wanted.notify_all();
    }
}

impl Shared {
    fn path(&self, id: BlobId) -> PathBuf {
        self.dir.join(format!("{:016x}", id.0))
    }

    fn len(&self, id: BlobId) -> Result<u64> {
        if let Some(len) = self.state.lock().lens.get(&id) {
            return Ok(*len);
        }
        // What an earlier run cached has the blob's length.
        if let Some(cached) = self.state.lock().blobs.get(&id) {
            return Ok(cached.len);
        }
        let len = wait(self.store.head(id))?.len;
        self.state.lock().lens.insert(id, len);
        Ok(len)
    }

    fn get(&self, id: BlobId, range: Range<u64>) -> Result<Bytes> {
        let len = self.len(id)?;
        if range.start > range.end || range.end > len {
            return Err(Error::Invalid);
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = range.start / self.unit..range.end.div_ceil(self.unit);
        let mut asked = false;
        let mut counted = false;
        let mut state = self.state.lock();
        loop {
            let Some(cached) = self.cached(&mut state, id, len) else {
                drop(state);
                if !counted {
                    self.reads.count(range.end - range.start, false);
                }
                return wait(self.store.get(id, range));
            };
            if !std::mem::replace(&mut counted, true) {
                let hit = !cached.frames.is_loading(&wanted) && cached.frames.has_all(wanted.clone());
                self.reads.count(range.end - range.start, hit);
            }
            if cached.frames.is_loading(&wanted) {
                let (file, waiting) = (Arc::clone(&cached.file), state.take_queued(id, &wanted));
                match waiting {
                    // Nobody is at it yet, and they may all be busy for long.
                    Some(piece) => {
                        drop(state);
                        self.fetch_piece(id, &piece, len, &file, false)?;
                        state = self.state.lock();
                    }
                    None if is_given_up() => return Err(Error::Interrupted),
                    None => {
                        let _ = self.fetched.wait_for(&mut state, LOOK);
                    }
                }
                continue;
            }
            let missing = !cached.frames.has_all(wanted.clone());
            let mut gaps = if missing { cached.frames.gaps(cached.frames.widened(&wanted)) } else { Vec::new() };
            let file = Arc::clone(&cached.file);
            for gap in &gaps {
                cached.frames.begin(gap.clone());
            }
            let missing = if gaps.is_empty() { None } else { Some(gaps.remove(0)) };
            self.queue(&mut state, id, gaps);
            if !std::mem::replace(&mut asked, true) {
                let ahead = state.read(id, &wanted);
                self.queue(&mut state, id, ahead);
            }
            drop(state);
            let Some(missing) = missing else {
                let mut buf = vec![0; (range.end - range.start) as usize];
                return match file.read_exact_at(&mut buf, range.start) {
                    Ok(()) => Ok(buf.into()),
                    Err(error) => {
                        log::warn!("the cached part of blob {:016x} can't be read: {error}", id.0);
                        self.forget(id);
                        wait(self.store.get(id, range))
                    }
                };
            };
            let got = self.fetch(id, &missing, len, &file, false)?;
            let start = missing.start * self.unit;
            if start <= range.start && range.end <= start + got.len() as u64 {
                return Ok(got.slice((range.start - start) as usize..(range.end - start) as usize));
            }
            state = self.state.lock();
            // The disk may not have taken it, so don't count on the file.
            if state.blobs.get(&id).is_none_or(|cached| !cached.frames.has_all(missing)) {
                drop(state);
                return wait(self.store.get(id, range));
            }
        }
    }

    /// A blob's entry, made if missing; `None` if the disk takes none.
    fn cached<'s>(&self, state: &'s mut State, id: BlobId, len: u64) -> Option<&'s mut Cached> {
        if let Entry::Vacant(place) = state.blobs.entry(id) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            let made = options.open(self.path(id)).and_then(|file| file.set_len(len).map(|()| file));
            let file = made.inspect_err(|error| log::debug!("blob {:016x} is not cached: {error}", id.0)).ok()?;
            let cached = Cached { file: Arc::new(file), len, frames: Frames::none(len, self.unit), used: 0 };
            place.insert(cached);
        }
        state.clock += 1;
        let now = state.clock;
        let cached = state.blobs.get_mut(&id)?;
        cached.used = now;
        Some(cached)
    }

    /// Fetches units that are noted as being fetched, and keeps them; `ahead` if nobody waits yet.
    fn fetch(&self, id: BlobId, frames: &Range<u64>, len: u64, file: &File, ahead: bool) -> Result<Bytes> {
        let start = frames.start * self.unit;
        let end = (frames.end * self.unit).min(len);
        let got = if ahead { self.store.get_ahead(id, start..end) } else { self.store.get(id, start..end) };
        let got = wait(got);
        let kept = match &got {
            Ok(bytes) if bytes.len() as u64 == end - start => file.write_all_at(bytes, start).is_ok(),
            _ => false,
        };
        let mut state = self.state.lock();
        let mut added = 0;
        // Thrown out meanwhile, and maybe fetched anew since: that is another file.
        let is_same = |cached: &&mut Cached| std::ptr::eq(Arc::as_ptr(&cached.file), file);
        if let Some(cached) = state.blobs.get_mut(&id).filter(is_same) {
            cached.frames.end(frames);
            if kept {
                added = cached.frames.set(frames.clone(), true);
            }
        }
        state.bytes += added * self.unit;
        self.make_room(&mut state, Some(id));
        drop(state);
        self.fetched.notify_all();
        got
    }

    /// Fetches a request that was queued.
    fn fetch_piece(&self, id: BlobId, piece: &Range<u64>, len: u64, file: &File, ahead: bool) -> Result<()> {
        let got = self.fetch(id, piece, len, file, ahead).map(drop);
        self.state.lock().release(piece);
        got
    }

    fn queue(&self, state: &mut State, id: BlobId, pieces: Vec<Range<u64>>) {
        for piece in pieces {
            if state.enqueue(id, &piece) {
                self.wanted.notify_one();
            } else if let Some(cached) = state.blobs.get_mut(&id) {
                cached.frames.refuse(&piece);
            }
        }
    }

    fn fetch_ahead(&self) {
        loop {
            let mut state = self.state.lock();
            self.wanted.wait_while(&mut state, |state| !state.stopping && state.queue.is_empty());
            if state.stopping {
                return;
            }
            let Some((id, piece)) = state.queue.pop_front() else { continue };
            let Some(cached) = state.blobs.get(&id) else {
                state.release(&piece);
                continue;
            };
            let (len, file) = (cached.len, Arc::clone(&cached.file));
            drop(state);
            if let Err(error) = self.fetch_piece(id, &piece, len, &file, true) {
                // Who reads it will be told.
                log::debug!("blob {:016x} could not be fetched ahead: {error}", id.0);
            }
        }
    }

    /// Throws blobs out until what is left fits; `newest` last.
    fn make_room(&self, state: &mut State, newest: Option<BlobId>) {
        while state.bytes > 0 && (state.bytes > self.limits.bytes || self.is_tight()) {
            let idle = state.blobs.iter().filter(|(_, cached)| !cached.frames.is_busy());
            let oldest = idle.min_by_key(|(id, cached)| (Some(**id) == newest, cached.used)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return };
            self.remove(state, oldest);
        }
    }

    fn is_tight(&self) -> bool {
        let free = rustix::fs::statvfs(&self.dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free.is_ok_and(|free| free < self.limits.keep_free)
    }

    fn forget(&self, id: BlobId) {
        self.remove(&mut self.state.lock(), id);
    }

    fn remove(&self, state: &mut State, id: BlobId) {
        if let Some(cached) = state.blobs.remove(&id) {
            state.bytes = state.bytes.saturating_sub(cached.frames.present() * self.unit);
            match fs::remove_file(self.path(id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("the cached part of blob {:016x} can't be removed: {error}", id.0);
                }
                _ => {}
            }
            nexus_kernel::failpoint::reach("cache.evicted");
            self.fetched.notify_all();
        }
    }

    /// Keeps the local file of a blob that has gone up.
    fn adopt(&self, id: BlobId, path: &Path, len: u64) {
        let adopt = || -> std::io::Result<File> {
            let target = self.path(id);
            fs::rename(path, &target)?;
            OpenOptions::new().read(true).write(true).open(target)
        };
        let mut state = self.state.lock();
        state.lens.insert(id, len);
        self.remove(&mut state, id);
        match adopt() {
            Ok(file) => {
                let mut frames = Frames::none(len, self.unit);
                state.bytes += frames.set(0..u64::MAX, true) * self.unit;
                state.clock += 1;
                let used = state.clock;
                state.blobs.insert(id, Cached { file: Arc::new(file), len, frames, used });
                self.make_room(&mut state, Some(id));
            }
            Err(error) => log::debug!("blob {:016x} is not kept in the cache: {error}", id.0),
        }
    }
}

impl ObjectStore for CachedStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.put(id, source).await?;
            let len = source.len();
            if let Some(path) = source.local_file() {
                self.0.adopt(id, path, len);
            }
            Ok(())
        })
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(ready(self.0.get(id, range)))
    }

    fn get_original<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.0.store.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.0.store.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.delete(id).await?;
            self.0.state.lock().lens.remove(&id);
            self.0.forget(id);
            Ok(())
        })
    }

    fn delete_all<'a>(&'a self, ids: &'a [BlobId]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.store.delete_all(ids).await?;
            for id in ids {
                self.0.state.lock().lens.remove(id);
                self.0.forget(*id);
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(async move {
            let page = self.0.store.list(after, limit).await?;
            self.0.state.lock().lens.extend(page.iter().filter_map(|line| Some((line.id, line.len?))));
            Ok(page)
        })
    }

    fn cached(&self, id: BlobId, range: Range<u64>) -> u64 {
        self.0.state.lock().blobs.get(&id).map_or(0, |cached| cached.frames.present_in(&range))
    }

    fn evict(&self, id: BlobId) -> u64 {
        let mut state = self.0.state.lock();
        match state.blobs.get(&id) {
            // Somebody fetches it right now, so it is wanted.
            Some(cached) if cached.frames.is_busy() => 0,
            Some(cached) => {
                let bytes = cached.frames.present_in(&(0..cached.len));
                self.0.remove(&mut state, id);
                bytes
            }
            None => 0,
        }
    }

    fn release<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        self.0.store.release()
    }

    fn cache_limit(&self) -> Option<u64> {
        Some(self.0.limits.bytes)
    }

    fn distrust(&self, id: BlobId, range: Range<u64>) {
        let mut state = self.0.state.lock();
        let Some(cached) = state.blobs.get_mut(&id) else { return };
        let gone = cached.frames.set(cached.frames.of_bytes(&range), false);
        state.bytes = state.bytes.saturating_sub(gone * self.0.unit);
    }

    fn grain(&self) -> u64 {
        self.0.store.grain()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn traffic(&self) -> Option<Traffic> {
        let traffic = self.0.store.traffic()?;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(Traffic {
            cached_bytes: self.0.state.lock().bytes,
            cache_hits: read(&self.0.reads.hits),
            cache_hit_bytes: read(&self.0.reads.hit_bytes),
            cache_misses: read(&self.0.reads.misses),
            cache_miss_bytes: read(&self.0.reads.miss_bytes),
            ..traffic
        })
    }
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod tests;
