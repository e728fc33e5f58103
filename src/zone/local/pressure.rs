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
    pending: AtomicU64,
    /// Bytes of log since the last drain was taken up.
    logged: AtomicU64,
    /// The last drain found no space.
    stuck: AtomicBool,
    changed: Condvar,
    waiting: Mutex<()>,
}

impl Pressure {
    /// After a command.
    pub fn appended(&self, pending: u64, payload: u64) {
        self.pending.store(pending, Ordering::Relaxed);
        self.logged.fetch_add(payload, Ordering::Relaxed);
    }

    /// A drain has taken up everything.
    pub fn frozen(&self) {
        self.pending.store(0, Ordering::Relaxed);
        self.logged.store(0, Ordering::Relaxed);
    }

    /// A drain has ended.
    pub fn drained(&self, found_no_space: bool) {
        self.stuck.store(found_no_space, Ordering::Relaxed);
        drop(self.waiting.lock());
        self.changed.notify_all();
    }

    /// Whether the last drain found no space.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Whether it is time for a drain.
    pub fn wants_drain(&self, config: &ZoneConfig) -> bool {
        self.pending.load(Ordering::Relaxed) >= config.memtable_bytes
            || self.logged.load(Ordering::Relaxed) >= config.checkpoint_log_bytes
    }

    fn wait(&self, at_most: Duration) {
        let mut waiting = self.waiting.lock();
        self.changed.wait_for(&mut waiting, at_most);
    }
}

impl Inner {
    /// Lets a command in, at a pace that the drain keeps up with. Where the metastore's disk
    /// is full, only what frees space may go beyond twice the limit, and nothing beyond four
    /// times.
    pub fn admit(&self, command: &Command) -> Result<()> {
        let limit = self.config.memtable_bytes;
        loop {
            let pending = self.pressure.pending.load(Ordering::Relaxed);
            if pending <= limit {
                return Ok(());
            }
            let hard = if command.frees_space() { limit.saturating_mul(4) } else { limit.saturating_mul(2) };
            if self.pressure.is_stuck() {
                if pending < hard {
                    return Ok(());
                }
                return self.retry_stuck();
            }
            if self.config.background == Background::Inline {
                return Ok(());
            }
            self.wake.want_drain();
            if pending < limit.saturating_mul(2) {
                let over = (pending - limit) as f64 / limit as f64;
                self.pressure.wait(SLOWEST.mul_f64(over * over));
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
