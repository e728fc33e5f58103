//! Threads that serve one queue of requests: how many there are, how many are at work, and
//! when one more is wanted. A handler may block for as long as a disk or a network takes, so
//! there is always one more thread than are at work, up to a limit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// Counts of one queue.
#[derive(Debug)]
pub struct Crew {
    threads: AtomicUsize,
    busy: AtomicUsize,
    most: usize,
    spare: usize,
}

impl Crew {
    /// Of at most `most` threads, `spare` of which wait while others are at work.
    pub fn new(most: usize, spare: usize) -> Crew {
        Crew { threads: AtomicUsize::new(0), busy: AtomicUsize::new(0), most: most.max(1), spare }
    }

    /// Takes a place for one more thread: answers how many there were; `None` if all are taken.
    pub fn join(&self) -> Option<usize> {
        let more = |threads| (threads < self.most).then_some(threads + 1);
        self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()
    }

    /// Gives a thread's place back.
    pub fn leave(&self) {
        self.threads.fetch_sub(1, Ordering::AcqRel);
    }

    /// Gives a thread's place back if without it, `keep` others wait for work.
    pub fn leave_if_idle(&self, keep: usize) -> bool {
        let fewer = |threads: usize| {
            let idle = threads.saturating_sub(self.busy.load(Ordering::Acquire));
            (idle > keep).then(|| threads - 1)
        };
        self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    /// Notes that a thread has got work; `true` if now too few wait, and one more is wanted.
    pub fn begin(&self) -> bool {
        let busy = self.busy.fetch_add(1, Ordering::AcqRel) + 1;
        let threads = self.threads.load(Ordering::Acquire);
        busy + self.spare > threads && threads < self.most
    }

    /// Notes that a thread has done its work.
    pub fn end(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether any thread of a session lives, and what went wrong first.
#[derive(Debug, Default)]
pub struct Life {
    state: Mutex<Alive>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Alive {
    threads: usize,
    failure: Option<String>,
}

impl Life {
    /// Starts a thread that counts as part of the session until `work` returns or panics.
    pub fn spawn(
        self: &Arc<Self>,
        name: String,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.state.lock().threads += 1;
        let guard = Counted(Arc::clone(self));
        let body = move || {
            let guard = guard;
            if let Err(error) = work() {
                log::error!("a FUSE session thread ended: {error}");
                guard.0.state.lock().failure.get_or_insert_with(|| error.to_string());
            }
        };
        std::thread::Builder::new().name(name).spawn(body).map(drop)
    }

    /// Whether any thread is left.
    pub fn is_alive(&self) -> bool {
        self.state.lock().threads > 0
    }

    /// Waits until no thread is left; answers what went wrong first.
    pub fn wait(&self) -> Result<(), String> {
        let mut state = self.state.lock();
        while state.threads > 0 {
            self.ended.wait(&mut state);
        }
        state.failure.clone().map_or(Ok(()), Err)
    }
}

/// One thread of the count; a thread that could not be started gives it back, too.
struct Counted(Arc<Life>);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.threads -= 1;
        if state.threads == 0 {
            self.0.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_is_wanted_when_all_are_at_work() {
        let crew = Crew::new(2, 1);
        assert!(crew.join().is_some());
        assert!(crew.begin(), "the only one is at work");
        assert!(crew.join().is_some());
        assert!(crew.join().is_none(), "two at the most");
        assert!(!crew.begin(), "no more can be had");
        crew.end();
        crew.end();
        assert!(!crew.begin(), "one waits");
    }

    #[test]
    fn who_is_not_needed_may_leave() {
        let crew = Crew::new(8, 1);
        for _ in 0..3 {
            assert!(crew.join().is_some());
        }
        crew.begin();
        assert!(!crew.leave_if_idle(2));
        crew.end();
        assert!(crew.leave_if_idle(2));
        assert!(!crew.leave_if_idle(2));
    }

    #[test]
    fn waiting_ends_with_the_last_thread_and_tells_the_first_failure() {
        let life = Arc::new(Life::default());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        life.spawn("fails".into(), || Err(io::Error::other("broken"))).unwrap();
        life.spawn("waits".into(), move || {
            let _ = wait.recv();
            Ok(())
        })
        .unwrap();
        drop(go);
        assert_eq!(life.wait(), Err("broken".to_owned()));
        assert!(!life.is_alive());
    }
}
