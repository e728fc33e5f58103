//! Requests whose caller gives up. A request that waits for something far away, for minutes maybe, asks
//! here whether anybody still waits for it: the process that made it got a signal that ends it.
//!
//! Other signals do not count: a program that catches one goes on, and most expect no EINTR of a file.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often a caller that got a signal is looked at again: the next signal is not told.
const LOOK: Duration = Duration::from_millis(100);
/// How long a signal counts for a request that is not known yet.
const EARLY: Duration = Duration::from_secs(1);
/// Such signals at the most.
const MOST_EARLY: usize = 64;
/// Works on threads of their own, at the most.
const MOST_WORKS: usize = 128;
/// SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGALRM and SIGTERM, as /proc writes sets of signals.
const ENDING: u64 = 0x6107;

/// The requests of one session.
#[derive(Default)]
pub struct Requests {
    slots: Mutex<Vec<Weak<Slot>>>,
    /// Signals for requests that no thread has taken up, or that are answered.
    early: Mutex<VecDeque<(u64, Instant)>>,
    early_count: AtomicUsize,
}

/// What a thread is at.
struct Slot {
    /// Which request, by the kernel's number; 0 for none.
    request: AtomicU64,
    /// Whose.
    caller: AtomicU32,
    /// The request whose caller got a signal.
    told: AtomicU64,
    thread: Thread,
}

thread_local! {
    static SLOT: RefCell<Option<(usize, Arc<Slot>)>> = const { RefCell::new(None) };
}

/// A request that a thread is at, until this is dropped.
pub struct Entered(());

impl Requests {
    /// From now on, this thread is at a request of the thread `caller` (0 if that is not known).
    pub fn enter(&self, request: u64, caller: u32) -> Entered {
        let owner = std::ptr::from_ref(self) as usize;
        SLOT.with_borrow_mut(|place| {
            if place.as_ref().is_none_or(|(of, _)| *of != owner) {
                *place = Some((owner, self.slot()));
            }
            let Some((_, slot)) = place else { return };
            slot.caller.store(caller, Ordering::Relaxed);
            slot.request.store(request, Ordering::SeqCst);
            if self.early_count.load(Ordering::SeqCst) > 0 && self.was_told(request) {
                slot.told.store(request, Ordering::SeqCst);
            }
        });
        Entered(())
    }

    fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            request: AtomicU64::new(0),
            caller: AtomicU32::new(0),
            told: AtomicU64::new(0),
            thread: thread::current(),
        });
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        slot
    }

    /// The caller of a request got a signal.
    pub fn interrupt(&self, request: u64) {
        // Kept first: either the thread that takes the request up finds it, or it is found at it.
        {
            let mut early = self.early.lock();
            if early.len() == MOST_EARLY {
                early.pop_front();
            }
            early.push_back((request, Instant::now()));
            self.early_count.store(early.len(), Ordering::SeqCst);
        }
        for slot in self.slots.lock().iter().filter_map(Weak::upgrade) {
            if slot.request.load(Ordering::SeqCst) == request {
                slot.told.store(request, Ordering::SeqCst);
                slot.thread.unpark();
            }
        }
    }

    fn was_told(&self, request: u64) -> bool {
        let mut early = self.early.lock();
        let found = early.iter().any(|(told, _)| *told == request);
        early.retain(|(_, when)| when.elapsed() < EARLY);
        self.early_count.store(early.len(), Ordering::SeqCst);
        found
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        SLOT.with_borrow(|place| {
            if let Some((_, slot)) = place {
                slot.request.store(0, Ordering::SeqCst);
            }
        });
    }
}

/// The request that this thread is at, if any.
fn current() -> Option<Arc<Slot>> {
    SLOT.with_borrow(|place| place.as_ref().map(|(_, slot)| slot.clone()))
        .filter(|slot| slot.request.load(Ordering::SeqCst) != 0)
}

impl Slot {
    fn is_told(&self) -> bool {
        let request = self.request.load(Ordering::SeqCst);
        request != 0 && self.told.load(Ordering::SeqCst) == request
    }

    /// Whether nobody waits for the answer any more.
    fn is_given_up(&self) -> bool {
        self.is_told() && is_ending(self.caller.load(Ordering::Relaxed))
    }
}

/// Whether a thread has a signal before it that ends it, or is gone.
fn is_ending(thread: u32) -> bool {
    if thread == 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => pending(&status) & ENDING != 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The signals that wait for a thread, or for its process.
fn pending(status: &str) -> u64 {
    let sets = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).fold(0, |all, set| all | set)
}

/// Whether the request that this thread is at, if any, was given up.
pub fn is_given_up() -> bool {
    current().is_some_and(|slot| slot.is_given_up())
}

struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Waits for a future, or until whoever made this thread's request gives up: then `None`, and the future
/// is dropped. It must be one that may be.
pub fn unless_given_up<T>(future: impl Future<Output = T>) -> Option<T> {
    let Some(slot) = current() else { return Some(crate::block_on(future)) };
    let woken = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        while !woken.1.swap(false, Ordering::SeqCst) {
            if slot.is_given_up() {
                return None;
            }
            if slot.is_told() { thread::park_timeout(LOOK) } else { thread::park() }
        }
    }
}

static WORKS: AtomicUsize = AtomicUsize::new(0);

/// Tells that a work has ended, however it did.
struct Working(Thread);

impl Drop for Working {
    fn drop(&mut self) {
        WORKS.fetch_sub(1, Ordering::Relaxed);
        self.0.unpark();
    }
}

/// Does `work`, which may take long, and must be ended once it is begun: on another thread, so that this
/// one can go when its request is given up (`None`), and the work goes on. Where too much goes on so
/// already, or for a thread that is at no request, it is done here.
pub fn let_go_on<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if current().is_none() || WORKS.load(Ordering::Relaxed) >= MOST_WORKS {
        return Some(work());
    }
    let (done, ended) = mpsc::channel();
    WORKS.fetch_add(1, Ordering::Relaxed);
    let working = Working(thread::current());
    let kept = Arc::new(Mutex::new(Some(work)));
    let theirs = kept.clone();
    let spawned = thread::Builder::new().name("nexus-wait".into()).spawn(move || {
        // Dropped in this order, so that the end is told once it can be seen.
        let at = (done, working);
        let work = theirs.lock().take();
        if let Some(work) = work {
            // Whoever waited may be gone.
            let _ = at.0.send(work());
        }
    });
    if spawned.is_err() {
        // Without a thread for it, nobody can go.
        let work = kept.lock().take();
        return work.map(|work| work());
    }
    let slot = current()?;
    loop {
        match ended.try_recv() {
            Ok(value) => return Some(value),
            Err(mpsc::TryRecvError::Disconnected) => return None,
            Err(mpsc::TryRecvError::Empty) => {}
        }
        if slot.is_given_up() {
            return None;
        }
        if slot.is_told() { thread::park_timeout(LOOK) } else { thread::park() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_signals_are_read_from_both_lines() {
        let status = "Name:\tcat\nSigQ:\t0/7\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000002\nSigBlk:\tffff\n";
        assert_eq!(pending(status), 0x102);
        assert!(pending("SigPnd:\t0000000000010000\nShdPnd:\t0000000000000000\n") & ENDING == 0, "SIGCHLD ends nobody");
        assert!(!is_ending(std::process::id()) && !is_ending(0));
        assert!(is_ending(u32::MAX / 2), "one that is gone waits for nothing");
    }

    /// A request of a thread that is gone is given up once its signal is told, early or late, and not before.
    #[test]
    fn what_nobody_waits_for_is_let_go() {
        const GONE: u32 = u32::MAX / 2;
        let requests = Arc::new(Requests::default());
        assert_eq!(unless_given_up(async { 7 }), Some(7), "at no request");
        {
            let _at = requests.enter(3, GONE);
            assert_eq!(unless_given_up(async { 7 }), Some(7), "nothing is told");
            requests.interrupt(3);
            assert_eq!(unless_given_up(std::future::pending::<u8>()), None);
        }
        requests.interrupt(5);
        {
            let _at = requests.enter(5, GONE);
            assert_eq!(unless_given_up(std::future::pending::<u8>()), None, "told before it was taken up");
        }
        {
            let _at = requests.enter(7, GONE);
            assert_eq!(let_go_on(|| 8), Some(8));
            let other = requests.clone();
            let (go, may_end) = mpsc::channel::<()>();
            let (ended, has_ended) = mpsc::channel();
            let told = thread::spawn(move || other.interrupt(7));
            let left = let_go_on(move || {
                let _ = may_end.recv();
                let _ = ended.send(());
            });
            assert_eq!(left, None);
            told.join().unwrap();
            go.send(()).unwrap();
            has_ended.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        requests.interrupt(9);
        let _at = requests.enter(9, std::process::id());
        let value = unless_given_up(async {
            thread::sleep(Duration::from_millis(1));
            9
        });
        assert_eq!(value, Some(9), "whoever lives is answered");
    }
}
