//! The one door for time: commands carry timestamps taken here, tests hold the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, nanosecond resolution, valid for years far beyond 64-bit `time_t` users.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before it.
    pub sec: i64,
    /// Nanoseconds within the second, 0 to 999,999,999, counting forward.
    pub nsec: u32,
}

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// The current wall time.
    fn now(&self) -> Timestamp;
}

/// The machine's real-time clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from(SystemTime::now())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp { sec: after.as_secs() as i64, nsec: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let sec = -(before.as_secs() as i64);
                match before.subsec_nanos() {
                    0 => Timestamp { sec, nsec: 0 },
                    nanos => Timestamp { sec: sec - 1, nsec: 1_000_000_000 - nanos },
                }
            }
        }
    }
}
