//! [`Behind`]: writes that this node has acknowledged and the other members have not been told of.
//! Those of a file that come within some milliseconds are proposed as one command.
//!
//! A file has at most two layers: the one that takes writes, and the one that is being proposed.
//! Readers of this node see both over the state. A layer that is applied is taken away only
//! afterwards, and from those who began to read before only when they have ended; laid over the state
//! that has it, it changes nothing. So no reader sees less than before.

mod layer;
#[cfg(test)]
mod tests;
mod views;
mod written;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nexus_kernel::behind::{FileWrite, WriteBehind};
use nexus_kernel::model::Inode;
use nexus_kernel::{Command, Error, Ino, MetaRead, Outcome, Result};
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use layer::Layer;
use views::Views;
use written::Written;

/// How long a write waits for others to be proposed with it.
pub const DELAY: Duration = Duration::from_millis(20);
/// Bytes and writes of a file at which they wait no longer.
const ENOUGH_BYTES: u64 = 4 << 20;
const ENOUGH_WRITES: usize = 256;
/// Bytes and writes of a file at which its writers wait.
const MOST_BYTES: u64 = 16 << 20;
const MOST_WRITES: usize = 1024;
/// Writes of all files at which writers wait.
const MOST_IN_ALL: usize = 1 << 16;

/// How long a node that ends waits for writes that are put off.
pub const PARTING: Duration = Duration::from_secs(2);

/// What proposes.
pub trait Sink: Send + Sync {
    /// Makes the content of these commands safe, proposes all, and waits until each is answered.
    fn propose_all(&self, commands: &[Command]) -> Vec<Result<Outcome>>;

    /// The same of two, which are applied in this order, as a rule with nothing between them.
    fn propose_in_order(&self, first: &Command, then: &Command) -> [Result<Outcome>; 2];

    /// The newest version of commands that all members know.
    fn version(&self) -> u8;

    /// An inode, as the members have it.
    fn inode(&self, ino: Ino) -> Result<Option<Inode>>;

    /// A file is again as the members have it: what was put off of its writes is lost.
    fn lost(&self, ino: Ino);
}

/// The layers of a file, from the lowest on; two at the most.
type Layers = SmallVec<[Arc<Layer>; 2]>;
/// What became of a layer, once that is known.
type Fate = Arc<OnceLock<Result<()>>>;
type Pins = Vec<Box<dyn Send>>;
/// Who reads a state.
type Reader<'a> = dyn FnMut(&dyn MetaRead) -> Result<()> + 'a;

/// Writes that are put off, and the thread that ends that.
pub struct Behind {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    sink: Arc<dyn Sink>,
    delay: Duration,
    state: Mutex<State>,
    /// Files that have layers, readable without the lock.
    files: AtomicUsize,
    /// Layers that have ended, readable without the lock.
    ended: AtomicU64,
    /// For the thread: something is due earlier than it knows.
    due: Condvar,
    /// The fate of a layer is known.
    told: Condvar,
}

#[derive(Default)]
struct State {
    files: HashMap<Ino, File>,
    /// What is to be told to open files that have had a part in a layer that was lost.
    lost: HashMap<(Ino, u64), Error>,
    /// When files' layers are to be proposed at the latest.
    due: BTreeSet<(Instant, Ino)>,
    /// When the thread will look; `None` if it has to be woken.
    looks: Option<Instant>,
    views: Views,
    /// Writes in all layers.
    writes: usize,
    stopping: bool,
    stopped: bool,
}

struct File {
    open: Arc<Layer>,
    pins: Pins,
    fate: Fate,
    due: Instant,
    going: Option<(Arc<Layer>, Fate)>,
}

/// A layer on its way.
struct Round {
    ino: Ino,
    layer: Arc<Layer>,
    pins: Pins,
    fate: Fate,
}

/// What to do until a layer's fate is known.
enum Next {
    Run(Box<Round>),
    Await(Fate),
}

impl File {
    fn new(due: Instant) -> File {
        File { open: Arc::default(), pins: Vec::new(), fate: Fate::default(), due, going: None }
    }

    fn layers(&self) -> Layers {
        let going = self.going.iter().map(|(layer, _)| layer.clone());
        going.chain((!self.open.is_empty()).then(|| self.open.clone())).collect()
    }

    /// The fate of its newest layer.
    fn newest(&self) -> Fate {
        match &self.going {
            Some((_, fate)) if self.open.is_empty() => fate.clone(),
            _ => self.fate.clone(),
        }
    }
}

impl State {
    /// Takes the layer of a file that none is on its way of.
    fn take(&mut self, ino: Ino) -> Option<Round> {
        let file = self.files.get_mut(&ino).filter(|file| file.going.is_none() && !file.open.is_empty())?;
        self.due.remove(&(file.due, ino));
        let (layer, fate) = (std::mem::take(&mut file.open), std::mem::take(&mut file.fate));
        file.going = Some((layer.clone(), fate.clone()));
        Some(Round { ino, layer, pins: std::mem::take(&mut file.pins), fate })
    }

    /// Has a file's open layer looked at by then; answers whether the thread has to be woken.
    fn schedule(&mut self, ino: Ino, at: Instant) -> bool {
        let Some(file) = self.files.get_mut(&ino) else { return false };
        self.due.remove(&(file.due, ino));
        file.due = at;
        self.due.insert((at, ino));
        self.looks.is_none_or(|looks| looks > at)
    }
}

impl Behind {
    /// Begins to take note.
    pub fn start(sink: Arc<dyn Sink>, delay: Duration) -> Result<Behind> {
        let shared = Arc::new(Shared {
            sink,
            delay,
            state: Mutex::default(),
            files: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            due: Condvar::new(),
            told: Condvar::new(),
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name("nexus-behind".into()).spawn(move || worker.run_due());
        let thread = thread.map_err(|error| Error::from_io("start the thread that proposes writes", &error))?;
        Ok(Behind { shared, thread: Mutex::new(Some(thread)) })
    }

    /// An inode as it is with what was put off; `below` tells it as the members have it.
    pub fn inode(&self, ino: Ino, below: impl FnOnce() -> Result<Option<Inode>>) -> Result<Option<Inode>> {
        // Looked at first: what is taken away afterwards is in the state by then.
        let layers = self.shared.layers(ino);
        Ok(below()?.map(|inode| layers.iter().fold(inode, |inode, layer| layer.over(inode))))
    }

    /// Runs `read` on a state with what was put off. `on` takes a state, which does not change then.
    pub fn read(&self, on: impl Fn(&mut Reader<'_>) -> Result<()>, read: &mut Reader<'_>) -> Result<()> {
        loop {
            let ended = self.shared.ended.load(Ordering::SeqCst);
            let mut is_missed = false;
            on(&mut |state| match self.shared.view(ended) {
                Some(view) if view.is_clean() => read(state),
                Some(view) => read(&Written { state, layers: &|ino| view.layers(ino) }),
                None => {
                    is_missed = true;
                    Ok(())
                }
            })?;
            if !is_missed {
                return Ok(());
            }
        }
    }

    /// Proposes what was put off of a file, and waits for it; how that went.
    pub fn settle(&self, ino: Ino) -> Result<()> {
        if self.shared.is_clean() { Ok(()) } else { self.shared.settle(ino) }
    }

    /// Proposes what was put off of a file together with a command that follows it, and waits for both: the answer
    /// to that; `None` where they can't go together, and the command has yet to be proposed.
    pub fn settle_with(&self, ino: Ino, then: &Command) -> Option<Result<Outcome>> {
        if self.shared.is_clean() { None } else { self.shared.settle_with(ino, then) }
    }

    /// Proposes all that was put off, and waits at most so long.
    pub fn hurry(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut state = self.shared.state.lock();
        let dirty: Vec<Ino> = state.files.keys().copied().collect();
        for ino in dirty {
            if state.schedule(ino, Instant::now()) {
                self.shared.due.notify_one();
            }
        }
        while !state.files.is_empty() {
            if self.shared.told.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Ends the thread, or has it end by itself once what it waits for has failed. What is still put off is lost.
    pub fn stop(&self) {
        let until = Instant::now() + PARTING;
        let mut state = self.shared.state.lock();
        state.stopping = true;
        self.shared.due.notify_one();
        while !state.stopped {
            if self.shared.told.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
        drop(state);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            log::error!("the thread that proposes writes has panicked");
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.stop();
    }
}

impl WriteBehind for Behind {
    fn write(&self, write: FileWrite) -> Result<Inode> {
        self.shared.write(write)
    }

    fn flush(&self, ino: Ino, handle: u64) -> Result<()> {
        // Whose part failed is noted for each open file.
        let _ = self.settle(ino);
        self.shared.state.lock().lost.get(&(ino, handle)).cloned().map_or(Ok(()), Err)
    }

    fn sync(&self, ino: Ino, handle: u64) -> Result<()> {
        let _ = self.settle(ino);
        self.shared.state.lock().lost.remove(&(ino, handle)).map_or(Ok(()), Err)
    }

    fn flush_all(&self) -> Result<()> {
        let mut state = self.shared.state.lock();
        let dirty: Vec<(Ino, Fate)> = state.files.iter().map(|(ino, file)| (*ino, file.newest())).collect();
        let rounds: Vec<Round> = dirty.iter().filter_map(|(ino, _)| state.take(*ino)).collect();
        drop(state);
        if !rounds.is_empty() {
            self.shared.run(rounds);
        }
        // All are waited for, whatever became of one.
        let settled: Vec<_> = dirty.into_iter().map(|(ino, fate)| self.shared.settle_to(ino, &fate)).collect();
        settled.into_iter().collect()
    }

    fn released(&self, ino: Ino, handle: u64) {
        if let Some(error) = self.shared.state.lock().lost.remove(&(ino, handle)) {
            log::debug!("nobody has asked what became of writes to inode {ino}: {error}");
        }
    }
}

impl Shared {
    fn is_clean(&self) -> bool {
        self.files.load(Ordering::SeqCst) == 0
    }

    fn layers(&self, ino: Ino) -> Layers {
        if self.is_clean() {
            return Layers::new();
        }
        self.state.lock().files.get(&ino).map(File::layers).unwrap_or_default()
    }

    fn write(&self, write: FileWrite) -> Result<Inode> {
        let ino = write.ino;
        loop {
            let ended = self.ended.load(Ordering::SeqCst);
            let below = self.sink.inode(ino)?.ok_or(Error::Stale)?;
            let mut state = self.state.lock();
            if self.ended.load(Ordering::SeqCst) != ended {
                // What has ended may be in neither.
                continue;
            }
            if let Some(error) = state.lost.remove(&(ino, write.handle)) {
                return Err(error);
            }
            let full = state.writes >= MOST_IN_ALL;
            let waits = state.files.get(&ino).is_some_and(|file| {
                let open = &file.open;
                full || open.bytes() >= MOST_BYTES || open.len() >= MOST_WRITES || !open.takes(&write)
            });
            if !waits {
                return Ok(self.note(&mut state, write, below));
            }
            drop(state);
            // How it went is noted for who has had a part in it.
            let _ = self.settle(ino);
        }
    }

    fn note(&self, state: &mut State, write: FileWrite, below: Inode) -> Inode {
        let (ino, now) = (write.ino, Instant::now());
        let due = now + self.delay;
        let file = state.files.entry(ino).or_insert_with(|| File::new(due));
        let (is_first, before) = (file.open.is_empty(), file.open.len());
        let open = Arc::make_mut(&mut file.open);
        open.add(&write);
        let (added, enough) = (open.len() - before, open.bytes() >= ENOUGH_BYTES || open.len() >= ENOUGH_WRITES);
        file.pins.push(write.pin);
        let inode = file.layers().iter().fold(below, |inode, layer| layer.over(inode));
        let waits = file.due > now;
        state.writes += added;
        self.files.store(state.files.len(), Ordering::SeqCst);
        let wakes = match (is_first, enough && waits) {
            (_, true) => state.schedule(ino, now),
            (true, false) => state.schedule(ino, due),
            (false, false) => false,
        };
        if wakes {
            self.due.notify_one();
        }
        inode
    }

    fn settle(&self, ino: Ino) -> Result<()> {
        let newest = self.state.lock().files.get(&ino).map(File::newest);
        newest.map_or(Ok(()), |fate| self.settle_to(ino, &fate))
    }

    /// Has a file's layers proposed until the fate of one is known.
    fn settle_to(&self, ino: Ino, wanted: &Fate) -> Result<()> {
        loop {
            let mut state = self.state.lock();
            if let Some(result) = wanted.get() {
                return result.clone();
            }
            let next = match state.files.get(&ino).and_then(|file| file.going.as_ref()) {
                Some((_, fate)) => Next::Await(fate.clone()),
                None => match state.take(ino) {
                    Some(round) => Next::Run(Box::new(round)),
                    None => return Ok(()),
                },
            };
            match next {
                Next::Run(round) => {
                    drop(state);
                    self.run(vec![*round]);
                }
                Next::Await(fate) => {
                    while fate.get().is_none() {
                        self.told.wait(&mut state);
                    }
                }
            }
        }
    }

    fn settle_with(&self, ino: Ino, then: &Command) -> Option<Result<Outcome>> {
        let round = self.state.lock().take(ino)?;
        let commands = round.layer.commands(ino, self.sink.version());
        let [write] = commands.as_slice() else {
            self.run(vec![round]);
            return None;
        };
        let [written, answer] = self.sink.propose_in_order(write, then);
        self.end(round, written.map(drop));
        Some(answer)
    }

    fn run(&self, rounds: Vec<Round>) {
        let version = self.sink.version();
        let commands = |round: &Round| round.layer.commands(round.ino, version);
        let mut queues: Vec<_> = rounds.iter().map(|round| commands(round).into_iter()).collect();
        let mut results: Vec<Result<()>> = rounds.iter().map(|_| Ok(())).collect();
        // The first of each file at once; those behind it, if any, only when it has gone well.
        loop {
            let left = queues.iter_mut().zip(&results).enumerate().filter(|(_, (_, result))| result.is_ok());
            let (places, heads): (Vec<usize>, Vec<Command>) =
                left.filter_map(|(place, (queue, _))| Some((place, queue.next()?))).unzip();
            if heads.is_empty() {
                break;
            }
            for (place, answer) in places.into_iter().zip(self.sink.propose_all(&heads)) {
                if let Some(result) = results.get_mut(place) {
                    *result = answer.map(drop);
                }
            }
        }
        rounds.into_iter().zip(results).for_each(|(round, result)| self.end(round, result));
    }

    fn end(&self, round: Round, result: Result<()>) {
        let Round { ino, layer, mut pins, fate } = round;
        if result.as_ref().is_err_and(Error::is_unclear) {
            // It may be taken after all, so its bytes must stay as long as this process knows.
            pins.drain(..).for_each(std::mem::forget);
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        state.views.keep(self.ended.fetch_add(1, Ordering::SeqCst) + 1, ino, &layer);
        state.writes = state.writes.saturating_sub(layer.len());
        let mut handles: SmallVec<[u64; 4]> = layer.handles().iter().copied().collect();
        if let Some(file) = state.files.get_mut(&ino) {
            file.going = None;
            if let (Err(error), false) = (&result, file.open.is_empty()) {
                // A file has no writes behind ones that are lost.
                let behind = std::mem::take(&mut file.open);
                pins.append(&mut file.pins);
                state.writes = state.writes.saturating_sub(behind.len());
                handles.extend(behind.handles().iter().copied());
                let _ = std::mem::take(&mut file.fate).set(Err(error.clone()));
            }
            if file.open.is_empty() {
                state.due.remove(&(file.due, ino));
                state.files.remove(&ino);
            } else {
                let due = file.due;
                if state.schedule(ino, due) {
                    self.due.notify_one();
                }
            }
        }
        if let Err(error) = &result {
            match error {
                Error::Stale => log::debug!("writes to inode {ino} came after its end"),
                error => log::error!("writes to inode {ino} that were not synced are lost: {error}"),
            }
            state.lost.extend(handles.into_iter().map(|handle| ((ino, handle), error.clone())));
        }
        self.files.store(state.files.len(), Ordering::SeqCst);
        if result.is_err() {
            // Before anybody is told that it is so.
            self.sink.lost(ino);
        }
        let _ = fate.set(result);
        self.told.notify_all();
        // Only now may the blobs be sealed or dropped.
        drop(pins);
    }

    fn run_due(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let now = Instant::now();
            let mut rounds = Vec::new();
            while let Some((at, ino)) = state.due.first().copied().filter(|(at, _)| *at <= now) {
                state.due.remove(&(at, ino));
                rounds.extend(state.take(ino));
            }
            if !rounds.is_empty() {
                // Whatever becomes due meanwhile is looked at afterwards.
                state.looks = Some(now);
                parking_lot::MutexGuard::unlocked(&mut state, || self.run(rounds));
                continue;
            }
            state.looks = state.due.first().map(|(at, _)| *at);
            match state.looks {
                Some(at) => drop(self.due.wait_until(&mut state, at)),
                None => self.due.wait(&mut state),
            }
        }
        state.stopped = true;
        self.told.notify_all();
    }
}
