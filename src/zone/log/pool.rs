//! Ready segments: whole files of zeros (or of what earlier uses left), synced, that a
//! writer takes into use without waiting for the disk.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::error::{Error, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::config::{LogConfig, Preallocate};
use super::segment::{spare_path, unfinished_path};

/// Ready segments wanted: the next one, and one that only what frees space may take.
const WANTED: usize = 2;
/// Zeros written at a time. A page, or the kernel would keep the file in memory in larger
/// pieces, of which a small write makes the whole dirty.
const PAGE_BYTES: usize = 4096;
/// Zeros whose way to the medium begins at once.
const STEP_BYTES: u64 = 1 << 20;
/// How often a full disk is tried again while nobody asks.
const RETRY: Duration = Duration::from_secs(1);

/// A ready segment.
pub struct Spare {
    /// Its number among the spares.
    pub serial: u64,
    /// The file.
    pub file: Arc<dyn DiskFile>,
}

/// Who takes log space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// Any command; refused when the disk is full.
    Normal,
    /// One that frees space, or a mark: may use what is kept back.
    Reserved,
}

/// The ready segments of one log.
pub struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: LogConfig,
    state: Mutex<State>,
    changed: Condvar,
    /// Fewer than wanted, and the last attempt to make one found no space.
    short: AtomicBool,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Spare>,
    next_serial: u64,
    /// What the last attempt to make a segment failed with.
    failure: Option<Error>,
    /// Attempts finished.
    attempts: u64,
    /// Somebody waits for an attempt, whatever the last one said.
    asked: bool,
    stopped: bool,
}

impl Pool {
    /// A pool with these spares; their serials are below `next_serial`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, config: LogConfig, ready: VecDeque<Spare>, next_serial: u64) -> Pool {
        let state = Mutex::new(State { ready, next_serial, ..State::default() });
        Pool { disk, dir, config, state, changed: Condvar::new(), short: AtomicBool::new(false) }
    }

    /// Whether only reserved claims may take what is left of the current segment.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Ready segments.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Takes a ready segment; waits while one is being made, not while the disk is full.
    pub fn take(&self, claim: Claim) -> Result<Spare> {
        let kept_back = match claim {
            Claim::Normal => WANTED - 1,
            Claim::Reserved => 0,
        };
        let mut state = self.state.lock();
        if state.ready.len() <= kept_back {
            self.refill(&mut state, kept_back + 1);
        }
        if state.ready.len() <= kept_back {
            return Err(state.failure.clone().unwrap_or(Error::NoSpace));
        }
        let spare = state.ready.pop_front().ok_or(Error::NoSpace)?;
        self.note(&state);
        match self.config.preallocate {
            Preallocate::Background => drop(self.changed.notify_all()),
            Preallocate::Inline => self.refill(&mut state, WANTED),
        }
        Ok(spare)
    }

    /// Tries to end a shortage; answers whether it is over.
    pub fn relieve(&self) -> bool {
        let mut state = self.state.lock();
        self.refill(&mut state, WANTED);
        state.ready.len() >= WANTED
    }

    /// Makes segments, or has them made, until there are `wanted` or one can't be made.
    fn refill(&self, state: &mut MutexGuard<'_, State>, wanted: usize) {
        while state.ready.len() < wanted && !state.stopped {
            match self.config.preallocate {
                Preallocate::Inline => self.make(state),
                Preallocate::Background => {
                    let attempts = state.attempts;
                    state.asked = true;
                    self.changed.notify_all();
                    while state.attempts == attempts && state.ready.len() < wanted && !state.stopped {
                        self.changed.wait(state);
                    }
                }
            }
            if state.failure.is_some() {
                return;
            }
        }
    }

    /// One attempt to make a segment. The lock is let go of meanwhile.
    fn make(&self, state: &mut MutexGuard<'_, State>) {
        let serial = state.next_serial;
        state.next_serial += 1;
        state.asked = false;
        let made =
            MutexGuard::unlocked(state, || make_spare(&*self.disk, &self.dir, serial, self.config.segment_bytes));
        state.attempts += 1;
        match made {
            Ok(file) => {
                state.failure = None;
                state.ready.push_back(Spare { serial, file });
            }
            Err(error) => {
                if state.failure.is_none() {
                    log::warn!("no segment can be made for the log in {}: {error}", self.dir.display());
                }
                state.failure = Some(error);
            }
        }
        self.note(state);
        self.changed.notify_all();
    }

    /// A serial for a segment that becomes a spare.
    pub fn new_serial(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_serial += 1;
        state.next_serial - 1
    }

    /// Adds a segment that is free again; it has its spare's name, durably.
    pub fn add(&self, spare: Spare) {
        let mut state = self.state.lock();
        state.ready.push_back(spare);
        // There may be space again.
        state.failure = None;
        self.note(&state);
        self.changed.notify_all();
    }

    fn note(&self, state: &State) {
        self.short.store(state.ready.len() < WANTED && state.failure.is_some(), Ordering::Release);
    }

    /// Starts the thread that makes segments, if there is to be one; else makes them.
    pub fn start(self: &Arc<Self>) -> Result<Option<JoinHandle<()>>> {
        match self.config.preallocate {
            Preallocate::Inline => {
                self.refill(&mut self.state.lock(), WANTED);
                Ok(None)
            }
            Preallocate::Background => {
                let pool = self.clone();
                let thread = std::thread::Builder::new().name("nexus-log".into()).spawn(move || pool.run());
                thread.map(Some).map_err(|error| Error::from_io("start the log's thread", &error))
            }
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.asked && state.ready.len() >= WANTED {
                state.asked = false;
            }
            if state.ready.len() < WANTED && (state.failure.is_none() || state.asked) {
                self.make(&mut state);
            } else if state.failure.is_some() && state.ready.len() < WANTED {
                if self.changed.wait_for(&mut state, RETRY).timed_out() {
                    state.asked = true;
                }
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Ends the thread and every wait.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Makes a whole segment file of zeros, durably.
fn make_spare(disk: &dyn Disk, dir: &std::path::Path, serial: u64, len: u64) -> Result<Arc<dyn DiskFile>> {
    let draft = unfinished_path(dir, serial);
    let made = (|| {
        let file = disk.create(&draft)?;
        // Finds out early, and costs nothing, when there is no space.
        match file.allocate(0, len) {
            Ok(()) | Err(Error::NotSupported) => {}
            Err(error) => return Err(error),
        }
        let zeros = [0; PAGE_BYTES];
        for at in (0..len).step_by(PAGE_BYTES) {
            let page = zeros.get(..(len - at).min(PAGE_BYTES as u64) as usize).unwrap_or(&zeros);
            file.write_at(page, at)?;
            let end = at + page.len() as u64;
            if end.is_multiple_of(STEP_BYTES) {
                file.start_writeback(end - STEP_BYTES, STEP_BYTES)?;
            }
        }
        file.sync_data()?;
        disk.rename(&draft, &spare_path(dir, serial))?;
        disk.sync_dir(dir)?;
        disk.open_in_place(&spare_path(dir, serial))
    })();
    if made.is_err() {
        // What is left is removed when the log is opened next.
        let _ = disk.remove(&draft);
    }
    made
}
