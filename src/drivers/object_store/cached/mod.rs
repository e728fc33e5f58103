//! [`CachedStore`]: a store that is far away, with a bounded cache on the local disk.
//!
//! A blob that was read has a file in the cache folder under its number, as long as the blob
//! and with holes where nothing was fetched yet. That is all there is to know, so the cache
//! survives a restart; what a crash left half written is found out by the reader's checksums,
//! who then calls [`ObjectStore::distrust`]. A blob that goes up leaves its local file here.

mod frames;
mod keep;
mod port;
mod scan;
mod state;

use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
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
use nexus_kernel::object_store::ObjectStore;
use nexus_kernel::readers::PIECE;
use parking_lot::{Condvar, Mutex};

use super::transfer::StoreMemory;
use frames::{FRAME, Frames};
use state::{Cached, Part, State};

/// Threads that fetch ahead, one request each.
const FETCHERS: usize = 12;
/// Threads that write what came to the disk.
const KEEPERS: usize = 2;
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
    /// There is something to write to the disk, or it is over.
    came: Condvar,
    /// What came was written.
    kept: Condvar,
}

/// What is fetched, and how.
struct Fetch<'a> {
    id: BlobId,
    /// The blob's life in the cache, and its bytes.
    life: u64,
    len: u64,
    /// Units that are noted as being fetched.
    units: &'a Range<u64>,
    /// Nobody waits yet.
    ahead: bool,
    /// Memory was reserved.
    reserved: bool,
    /// Bytes of them that the caller has read with the answer.
    read: u64,
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

impl CachedStore {
    /// A cache for `store` in the folder `dir`, which is made if missing. What an earlier run
    /// left there is used again.
    pub fn open(store: Arc<dyn ObjectStore>, dir: &Path, limits: CacheLimits) -> Result<CachedStore> {
        CachedStore::within(store, dir, limits, StoreMemory::alone())
    }

    /// The same with its part of a limit of memory, which other stores share.
    pub fn within(
        store: Arc<dyn ObjectStore>,
        dir: &Path,
        limits: CacheLimits,
        memory: Arc<StoreMemory>,
    ) -> Result<CachedStore> {
        fs::create_dir_all(dir).map_err(|error| Error::from_io(format!("make {}", dir.display()), &error))?;
        let unit = store.grain().clamp(1, FRAME);
        let mut state = State::new(unit, memory);
        for (id, frames, len) in scan::scan(dir, unit)? {
            state.clock += 1;
            state.bytes += frames.present() * unit;
            let cached = Cached::new(state.clock, None, len, frames);
            state.blobs.insert(id, cached);
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
            came: Condvar::new(),
            kept: Condvar::new(),
        });
        let start = |name: String, work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            let started = std::thread::Builder::new().name(name).spawn(move || work(&shared));
            started.map(drop).map_err(|error| Error::from_io("cannot start a thread of the cache", &error))
        };
        for number in 0..FETCHERS {
            start(format!("nexus-ahead-{number}"), Shared::fetch_ahead)?;
        }
        for number in 0..KEEPERS {
            start(format!("nexus-keep-{number}"), Shared::keep)?;
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
        // Those who fetch are not waited for: one may be in a request that takes its time.
        self.0.state.lock().stopping = true;
        self.0.wanted.notify_all();
        self.0.keep_all();
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

    /// The parts of a range, in order, once all of it is there. A part that is in the file is in this one.
    fn find(&self, id: BlobId, range: &Range<u64>) -> Result<(Vec<Part>, Option<Arc<File>>)> {
        let all = |bytes: Bytes| (vec![Part::Memory(bytes)], None);
        let direct = || wait(self.store.get(id, range.clone())).map(all);
        let len = self.len(id)?;
        if range.start > range.end || range.end > len {
            return Err(Error::Invalid);
        }
        if range.is_empty() {
            return Ok((Vec::new(), None));
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
                return direct();
            };
            let life = cached.life;
            if !std::mem::replace(&mut counted, true) {
                let hit = !cached.frames.is_loading(&wanted) && cached.frames.has_all(wanted.clone());
                self.reads.count(range.end - range.start, hit);
            }
            if cached.frames.is_loading(&wanted) {
                match state.take_queued(id, &wanted) {
                    // Nobody is at it yet, and they may all be busy for long.
                    Some(units) => {
                        drop(state);
                        self.fetch(&Fetch { id, life, len, units: &units, ahead: false, reserved: true, read: 0 })?;
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
            for gap in &gaps {
                cached.frames.begin(gap.clone());
            }
            let missing = if gaps.is_empty() { None } else { Some(gaps.remove(0)) };
            self.queue(&mut state, id, gaps);
            if !std::mem::replace(&mut asked, true) {
                let ahead = state.read(id, &wanted);
                self.queue(&mut state, id, ahead);
            }
            let Some(units) = missing else {
                let Some(cached) = state.blobs.get_mut(&id) else { continue };
                let parts = cached.parts(range, self.unit);
                state.let_go_of_read(id);
                let in_file = parts.iter().any(|part| matches!(part, Part::File(_)));
                return match in_file.then(|| self.file(&mut state, id)).transpose() {
                    Ok(file) => Ok((parts, file)),
                    Err(error) => {
                        log::warn!("the cached part of blob {:016x} can't be opened: {error}", id.0);
                        self.remove(&mut state, id);
                        drop(state);
                        direct()
                    }
                };
            };
            drop(state);
            let start = units.start * self.unit;
            let end = (units.end * self.unit).min(len);
            // What is beyond it is read from memory like the rest.
            let is_all = start <= range.start && range.end <= end;
            let read = if is_all { range.end - range.start } else { 0 };
            let got = self.fetch(&Fetch { id, life, len, units: &units, ahead: false, reserved: false, read })?;
            if start <= range.start && range.end <= start + got.len() as u64 {
                return Ok(all(got.slice((range.start - start) as usize..(range.end - start) as usize)));
            }
            state = self.state.lock();
            // The disk may not have taken it, so don't count on the file.
            if state.blobs.get(&id).is_none_or(|cached| !cached.frames.has_all(units)) {
                drop(state);
                return direct();
            }
        }
    }

    fn get(&self, id: BlobId, range: Range<u64>) -> Result<Bytes> {
        let (parts, file) = self.find(id, &range)?;
        if let [Part::Memory(bytes)] = parts.as_slice() {
            return Ok(bytes.clone());
        }
        let mut out = vec![0; (range.end - range.start) as usize];
        self.fill(id, range.start, &parts, file.as_deref(), &mut out)?;
        Ok(out.into())
    }

    fn read(&self, id: BlobId, offset: u64, out: &mut [u8]) -> Result<()> {
        let (parts, file) = self.find(id, &(offset..offset.saturating_add(out.len() as u64)))?;
        self.fill(id, offset, &parts, file.as_deref(), out)
    }

    /// Brings parts together.
    fn fill(&self, id: BlobId, offset: u64, parts: &[Part], file: Option<&File>, out: &mut [u8]) -> Result<()> {
        let mut rest = &mut *out;
        for part in parts {
            let len = match part {
                Part::Memory(bytes) => bytes.len(),
                Part::File(range) => (range.end - range.start) as usize,
            };
            let (to, after) = rest.split_at_mut_checked(len).ok_or(Error::Invalid)?;
            rest = after;
            match (part, file) {
                (Part::Memory(bytes), _) => to.copy_from_slice(bytes),
                (Part::File(range), Some(file)) => {
                    if let Err(error) = file.read_exact_at(to, range.start) {
                        log::warn!("the cached part of blob {:016x} can't be read: {error}", id.0);
                        self.forget(id);
                        let bytes = wait(self.store.get(id, offset..offset + out.len() as u64))?;
                        if bytes.len() != out.len() {
                            return Err(Error::Invalid);
                        }
                        out.copy_from_slice(&bytes);
                        return Ok(());
                    }
                }
                (Part::File(_), None) => return Err(Error::Invalid),
            }
        }
        Ok(())
    }

    /// A blob's entry, made if missing; `None` if the disk takes none.
    fn cached<'s>(&self, state: &'s mut State, id: BlobId, len: u64) -> Option<&'s mut Cached> {
        state.clock += 1;
        let now = state.clock;
        let mut opened = None;
        if let Entry::Vacant(place) = state.blobs.entry(id) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            let made = options.open(self.path(id)).and_then(|file| file.set_len(len).map(|()| file));
            let file = made.inspect_err(|error| log::debug!("blob {:016x} is not cached: {error}", id.0)).ok()?;
            place.insert(Cached::new(now, None, len, Frames::none(len, self.unit)));
            opened = Some(file);
        }
        if let Some(file) = opened {
            state.opened(id, Arc::new(file));
        }
        let cached = state.blobs.get_mut(&id)?;
        cached.used = now;
        Some(cached)
    }

    /// A blob's file, opened if it is not.
    fn file(&self, state: &mut State, id: BlobId) -> std::io::Result<Arc<File>> {
        if let Some(file) = state.blobs.get(&id).and_then(|cached| cached.file.clone()) {
            return Ok(file);
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(id))?);
        state.opened(id, Arc::clone(&file));
        Ok(file)
    }

    /// Fetches units, which are kept behind the caller's back where there is memory for them.
    fn fetch(&self, fetch: &Fetch<'_>) -> Result<Bytes> {
        let Fetch { id, life, len, units, ahead, reserved, read } = *fetch;
        let start = units.start * self.unit;
        let end = (units.end * self.unit).min(len);
        let got = if ahead { self.store.get_ahead(id, start..end) } else { self.store.get(id, start..end) };
        let got = wait(got);
        let whole = got.as_ref().ok().filter(|bytes| bytes.len() as u64 == end - start);
        let mut state = self.state.lock();
        let may_hold = reserved || whole.is_some() && state.may_hold(units);
        // Thrown out meanwhile, and maybe fetched anew since: that is another life.
        let is_same = |cached: &&mut Cached| cached.life == life;
        let mut is_written = false;
        if let Some(bytes) = whole.filter(|_| !may_hold)
            && let Ok(file) = self.file(&mut state, id)
        {
            is_written = parking_lot::MutexGuard::unlocked(&mut state, || file.write_all_at(bytes, start).is_ok());
        }
        let Some(cached) = state.blobs.get_mut(&id).filter(is_same) else {
            if may_hold {
                state.release(units);
            }
            return got;
        };
        cached.frames.end(units);
        match whole {
            Some(bytes) if may_hold => {
                state.hold(id, units.clone(), bytes.clone(), read);
                self.came.notify_one();
            }
            Some(_) if is_written => {
                let added = cached.frames.set(units.clone(), true);
                state.bytes += added * self.unit;
            }
            _ if may_hold => state.release(units),
            _ => {}
        }
        self.make_room(&mut state, Some(id));
        drop(state);
        self.fetched.notify_all();
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

    /// Has a part of a blob of `len` bytes fetched for somebody who will read it; `false` if there is no
    /// memory for all of it.
    fn want(&self, id: BlobId, len: u64, range: Range<u64>) -> bool {
        let mut state = self.state.lock();
        state.lens.entry(id).or_insert(len);
        let Some(cached) = self.cached(&mut state, id, len) else { return true };
        let frames = range.start / FRAME..range.end.min(len).div_ceil(FRAME);
        for gap in cached.frames.missing(&frames) {
            for start in (gap.start..gap.end).step_by((PIECE * FRAME / self.unit) as usize) {
                let piece = start..gap.end.min(start + PIECE * FRAME / self.unit);
                if !state.enqueue(id, &piece) {
                    return false;
                }
                if let Some(cached) = state.blobs.get_mut(&id) {
                    cached.frames.begin(piece);
                }
                self.wanted.notify_one();
            }
        }
        true
    }

    fn fetch_ahead(&self) {
        loop {
            let mut state = self.state.lock();
            self.wanted.wait_while(&mut state, |state| !state.stopping && state.queue.is_empty());
            if state.stopping {
                return;
            }
            let Some((id, units)) = state.queue.pop_front() else { continue };
            let Some(cached) = state.blobs.get(&id) else {
                state.release(&units);
                continue;
            };
            let (len, life) = (cached.len, cached.life);
            drop(state);
            if let Err(error) =
                self.fetch(&Fetch { id, life, len, units: &units, ahead: true, reserved: true, read: 0 })
            {
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
        if state.remove(id) {
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
        let mut state = self.state.lock();
        state.lens.insert(id, len);
        self.remove(&mut state, id);
        match fs::rename(path, self.path(id)) {
            Ok(()) => {
                let mut frames = Frames::none(len, self.unit);
                state.bytes += frames.set(0..u64::MAX, true) * self.unit;
                state.clock += 1;
                let cached = Cached::new(state.clock, None, len, frames);
                state.blobs.insert(id, cached);
                self.make_room(&mut state, Some(id));
            }
            Err(error) => log::debug!("blob {:016x} is not kept in the cache: {error}", id.0),
        }
    }
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod tests;
