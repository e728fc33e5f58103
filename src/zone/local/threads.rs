//! The zone's threads: one drains, one syncs what nobody syncs. Two, because a drain must
//! not wait for a large sync that nobody asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nexus_kernel::{Error, Lsn, Result};
use parking_lot::{Condvar, Mutex};

use super::inner::Inner;

/// How often a drain that found no space is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Wakes the threads.
#[derive(Default)]
pub struct Wake {
    drain: AtomicBool,
    stop: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// Has the drain begin.
    pub fn want_drain(&self) {
        if !self.drain.swap(true, Ordering::AcqRel) {
            drop(self.stop.lock());
            self.changed.notify_all();
        }
    }

    /// Waits until a drain is wanted or the time is over; `None` when the thread is to end.
    fn wait_drain(&self, at_most: Duration) -> Option<bool> {
        let mut stop = self.stop.lock();
        let wanted = || self.drain.swap(false, Ordering::AcqRel);
        if *stop {
            return None;
        }
        let mut drain = wanted();
        if !drain && !self.changed.wait_for(&mut stop, at_most).timed_out() {
            drain = wanted();
        }
        (!*stop).then_some(drain)
    }

    /// Waits that long; false when the thread is to end.
    fn sleep(&self, time: Duration) -> bool {
        let mut stop = self.stop.lock();
        let until = std::time::Instant::now() + time;
        while !*stop && !self.changed.wait_until(&mut stop, until).timed_out() {}
        !*stop
    }

    fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }
}

/// The running threads; dropping them ends them, without a last drain or sync.
pub struct Threads {
    inner: Arc<Inner>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts the threads.
    pub fn start(inner: &Arc<Inner>) -> Result<Threads> {
        let mut threads = Threads { inner: inner.clone(), handles: Vec::new() };
        threads.spawn("nexus-drain", run_drain)?;
        threads.spawn("nexus-sync", run_sync)?;
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, run: fn(&Inner)) -> Result<()> {
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&inner));
        self.handles.push(thread.map_err(|error| Error::from_io(format_args!("start thread {name}"), &error))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.wake.stop();
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                log::error!("a thread of zone {} has panicked", self.inner.zone);
            }
        }
    }
}

/// Whoever waits for a drain must not wait for one that will never come.
struct Ended<'a>(&'a Inner);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&Error::Io("the drain has panicked".into()));
        }
    }
}

fn run_drain(inner: &Inner) {
    let _ended = Ended(inner);
    let mut last_seen = 0;
    loop {
        let stuck = inner.pressure.is_stuck();
        let pause = if stuck { RETRY } else { inner.config.checkpoint_idle };
        let Some(wanted) = inner.wake.wait_drain(pause) else { return };
        let last = inner.last.load(Ordering::Acquire);
        let idle = last == last_seen;
        last_seen = last;
        if wanted || idle || stuck {
            match inner.checkpoint() {
                Ok(()) | Err(Error::NoSpace | Error::QuotaExceeded | Error::Unavailable(_)) => {}
                Err(error) => log::error!("the checkpoint of zone {} has failed: {error}", inner.zone),
            }
        }
    }
}

fn run_sync(inner: &Inner) {
    let mut last_seen = 0;
    while inner.wake.sleep(inner.config.sync_interval) {
        let last = inner.last.load(Ordering::Acquire);
        let mut result = inner.log.sync_behind(Lsn(last));
        if result.is_ok() && last == last_seen {
            result = inner.log.mark();
        }
        last_seen = last;
        // Told where it happened; here it only ends the work.
        if let Err(Error::Unavailable(_)) = result {
            return;
        }
    }
}
