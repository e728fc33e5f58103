//! [`Patience`]: how long changes wait for a majority of a zone's members.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long changes wait. All zones of a node may share one, which can be changed at any time; who waits
/// already goes by what it was.
#[derive(Debug)]
pub struct Patience(AtomicU64);

impl Patience {
    /// So long, in whole milliseconds.
    pub fn new(wait: Duration) -> Patience {
        let patience = Patience(AtomicU64::new(0));
        patience.set(wait);
        patience
    }

    /// How long.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// So long from now on.
    pub fn set(&self, wait: Duration) {
        self.0.store(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::new(Duration::from_secs(30))
    }
}
