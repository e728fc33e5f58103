//! Bounded memory: how much waits to be drained, and how commands are held back when that
//! is too much.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nexus_kernel::{Command, Error, Result};
use parking_lot::{Condvar, Mutex};

use super::config::{Background, ZoneConfig};
use super::inner::Inner;

/// Longest that a command is slowed down below the hard limit.
const SLOWEST: Duration = Duration::from_millis(1);
/// How often a command that waits looks whether waiting has become pointless.
const LOOK: Duration = Duration::from_millis(20);

/// How full the zone's memory is.
#[derive(Default)]
pub struct Pressure {
    /// Bytes of changes that no drain has taken up.
    active: AtomicU64,
    /// Bytes of those that one has.
    frozen: AtomicU64,
    /// Bytes of log since the last drain was taken up.
    logged: AtomicU64,
    /// Bytes of content in the log that `logged` has counted.
    imaged: AtomicU64,
    /// The last drain found no space.
    stuck: AtomicBool,
    changed: Condvar,
    waiting: Mutex<()>,
}

impl Pressure {
    /// After a command.
    pub fn appended(&self, active: u64, payload: u64) {
        self.active.store(active, Ordering::Relaxed);
        self.logged.fetch_add(payload, Ordering::Relaxed);
    }

    /// The log holds copies of so much content by now, which take its space as commands do.
    pub fn imaged(&self, bytes: u64) {
        let before = self.imaged.swap(bytes, Ordering::Relaxed);
        if bytes != before {
            self.logged.fetch_add(bytes.saturating_sub(before), Ordering::Relaxed);
        }
    }

    /// A drain has taken up everything.
    pub fn frozen(&self) {
        self.frozen.store(self.active.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        self.logged.store(0, Ordering::Relaxed);
    }

    /// A drain has ended: everything that it had taken up is in the metastore, or, where that
    /// has no space, still here.
    pub fn drained(&self, found_no_space: bool) {
        self.stuck.store(found_no_space, Ordering::Relaxed);
        if !found_no_space {
            self.frozen.store(0, Ordering::Relaxed);
        }
        drop(self.waiting.lock());
        self.changed.notify_all();
    }

    /// Whether the last drain found no space.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Whether it is time for a drain.
    pub fn wants_drain(&self, config: &ZoneConfig) -> bool {
        self.active.load(Ordering::Relaxed) >= config.memtable_bytes
            || self.logged.load(Ordering::Relaxed) >= config.checkpoint_log_bytes
    }

    fn wait(&self, at_most: Duration) {
        let mut waiting = self.waiting.lock();
        self.changed.wait_for(&mut waiting, at_most);
    }
}

impl Inner {
    /// Lets a command in, at a pace that the drain keeps up with; nothing but what frees
    /// space while three times the limit waits, nothing at all at five times. Where the
    /// metastore's disk is full, waiting would not help, and the answer is [`Error::NoSpace`].
    pub fn admit(&self, command: &Command) -> Result<()> {
        let limit = self.config.memtable_bytes;
        let hard = limit.saturating_mul(if command.frees_space() { 5 } else { 3 });
        loop {
            let active = self.pressure.active.load(Ordering::Relaxed);
            if active <= limit {
                return Ok(());
            }
            let all = active.saturating_add(self.pressure.frozen.load(Ordering::Relaxed));
            if self.pressure.is_stuck() {
                return if all < hard { Ok(()) } else { self.retry_stuck() };
            }
            if self.config.background == Background::Inline {
                return Ok(());
            }
            self.wake.want_drain();
            if all < hard {
                let over = (active - limit) as f64 / limit as f64;
                self.pressure.wait(SLOWEST.mul_f64((over * over).min(1.0)));
                return Ok(());
            }
            self.writer.lock().check()?;
            self.pressure.wait(LOOK);
        }
    }

    /// Tries once more to drain what found no space.
    fn retry_stuck(&self) -> Result<()> {
        match self.checkpoint() {
            Ok(()) => Ok(()),
            Err(Error::NoSpace | Error::QuotaExceeded) => Err(Error::NoSpace),
            Err(error) => Err(error),
        }
    }
}
