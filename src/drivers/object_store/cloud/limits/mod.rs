//! [`Limiter`]: what a store may be asked for at once, and in a second. All requests of a store go through
//! [`Limited`], and nothing else limits them.

mod limited;
mod pace;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use pace::{Pace, Payer};
use slots::{Slots, Ticket};

pub use limited::Limited;

/// What of a store is limited; nothing where it is not said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreLimits {
    /// Requests under way at once.
    pub max_requests: Option<u32>,
    /// Bytes sent a second.
    pub upload: Option<u64>,
    /// Bytes fetched a second.
    pub download: Option<u64>,
}

/// Whether somebody waits for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Somebody does.
    Demand,
    /// It is for later.
    Ahead,
}

/// Limits that can be changed while they hold. Those who wait are bounded by those who ask: every
/// request has a caller of its own that waits for it.
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
    /// A place became free, or there are other limits.
    freed: Notify,
    begun: Instant,
    /// Requests that waited, and for how many microseconds.
    waited: AtomicU64,
    waited_us: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    limits: StoreLimits,
    slots: Slots,
    up: Pace,
    down: Pace,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the store.
    Up,
    /// From it.
    Down,
}

impl Limiter {
    /// With these limits.
    pub fn new(limits: StoreLimits) -> Arc<Limiter> {
        let limiter = Limiter {
            state: Mutex::default(),
            freed: Notify::new(),
            begun: Instant::now(),
            waited: AtomicU64::new(0),
            waited_us: AtomicU64::new(0),
        };
        limiter.set(limits);
        Arc::new(limiter)
    }

    /// The limits.
    pub fn limits(&self) -> StoreLimits {
        self.state.lock().limits
    }

    /// Other limits, for requests that wait already, too.
    pub fn set(&self, limits: StoreLimits) {
        let now = self.begun.elapsed();
        let mut state = self.state.lock();
        state.limits = limits;
        state.slots.set(limits.max_requests);
        state.up.set(now, limits.upload);
        state.down.set(now, limits.download);
        drop(state);
        self.freed.notify_waiters();
    }

    /// How many requests have waited, and for how many milliseconds all together.
    pub fn waited(&self) -> (u64, u64) {
        (self.waited.load(Ordering::Relaxed), self.waited_us.load(Ordering::Relaxed) / 1000)
    }

    /// How many wait for bytes or places.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.slots.waiting() + state.up.waiting() + state.down.waiting()
    }

    /// Waits until a request may begin that moves so many bytes. Its place is taken only when it has
    /// its bytes, so that one that waits for them keeps no other from beginning.
    pub async fn begin(self: &Arc<Limiter>, way: Way, bytes: u64, urgency: Urgency) -> Place {
        let came = Instant::now();
        let mut waited = false;
        if bytes > 0 {
            let payer = self.state.lock().pace(way).join(self.begun.elapsed(), bytes, urgency);
            let waiting = Paying { limiter: self, way, payer };
            loop {
                let asked = self.state.lock().pace(way).ask(self.begun.elapsed(), waiting.payer);
                let Err(wait) = asked else { break };
                waited = true;
                tokio::time::sleep(wait).await;
            }
        }
        let ticket = self.state.lock().slots.join(urgency);
        let waiting = Entering { limiter: self, ticket };
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.state.lock().slots.enter(waiting.ticket) {
                break;
            }
            waited = true;
            freed.await;
        }
        if waited {
            let us = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.waited.fetch_add(1, Ordering::Relaxed);
            self.waited_us.fetch_add(us, Ordering::Relaxed);
        }
        drop(waiting);
        // The next in the queue may enter as well.
        self.freed.notify_waiters();
        Place { limiter: self.clone(), urgency }
    }
}

impl State {
    fn pace(&mut self, way: Way) -> &mut Pace {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

/// Leaves the queue when its request is given up.
struct Paying<'a> {
    limiter: &'a Limiter,
    way: Way,
    payer: Payer,
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        self.limiter.state.lock().pace(self.way).leave(self.payer);
    }
}

/// The same, for a place.
struct Entering<'a> {
    limiter: &'a Limiter,
    ticket: Ticket,
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.limiter.state.lock().slots.leave(self.ticket);
        self.limiter.freed.notify_waiters();
    }
}

/// A request that is under way.
#[derive(Debug)]
pub struct Place {
    limiter: Arc<Limiter>,
    urgency: Urgency,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limiter.state.lock().slots.end(self.urgency);
        self.limiter.freed.notify_waiters();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
