//! One thread that makes the node's log durable for all groups on it, and tells each of those
//! who wait, in the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use nexus_kernel::{Error, Lsn, Result};
use parking_lot::{Condvar, Mutex};

use crate::log::NodeLog;

/// Called once what came before is durable, or will never be.
pub type Flushed = Box<dyn FnOnce(Result<()>) + Send>;

/// The thread, and its queue.
pub struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    log: Arc<NodeLog>,
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Lsn, Flushed)>,
    stopping: bool,
}

impl Flusher {
    /// Starts the thread for a log.
    pub fn start(log: Arc<NodeLog>) -> Result<Arc<Flusher>> {
        let shared = Arc::new(Shared { log, queue: Mutex::default(), filled: Condvar::new() });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name("nexus-flush".into()).spawn(move || worker.run());
        let thread = thread.map_err(|error| Error::from_io("start the thread that syncs the log", &error))?;
        Ok(Arc::new(Flusher { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Without a thread: whoever has it calls [`Flusher::step`].
    #[cfg(test)]
    pub fn by_hand(log: Arc<NodeLog>) -> Arc<Flusher> {
        let shared = Arc::new(Shared { log, queue: Mutex::default(), filled: Condvar::new() });
        Arc::new(Flusher { shared, thread: Mutex::new(None) })
    }

    /// Serves all who wait now; with an error, without any of it being made durable.
    #[cfg(test)]
    pub fn step(&self, failing: Option<&Error>) {
        let waiting = std::mem::take(&mut self.shared.queue.lock().waiting);
        let Some(last) = waiting.iter().map(|(lsn, _)| *lsn).max() else { return };
        let synced = failing.map_or_else(|| self.shared.log.sync_to(last), |error| Err(error.clone()));
        waiting.into_iter().for_each(|(_, flushed)| flushed(synced.clone()));
    }

    /// The log.
    pub fn log(&self) -> &Arc<NodeLog> {
        &self.shared.log
    }

    /// Has `flushed` called once the log is durable up to `lsn`. To be called in the order of
    /// the records.
    pub fn flush(&self, lsn: Lsn, flushed: Flushed) {
        let mut queue = self.shared.queue.lock();
        if queue.stopping {
            drop(queue);
            return flushed(Err(Error::Unavailable("the log is closed".into())));
        }
        queue.waiting.push_back((lsn, flushed));
        self.shared.filled.notify_one();
    }

    /// Ends the thread, once it has served all who wait.
    pub fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            log::error!("the thread that syncs the log has panicked");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let waiting = {
                let mut queue = self.queue.lock();
                while queue.waiting.is_empty() {
                    if queue.stopping {
                        return;
                    }
                    self.filled.wait(&mut queue);
                }
                std::mem::take(&mut queue.waiting)
            };
            let last = waiting.iter().map(|(lsn, _)| *lsn).max().unwrap_or_default();
            let synced = self.log.sync_to(last);
            for (_, flushed) in waiting {
                flushed(synced.clone());
            }
        }
    }
}
