//! Helpers of this folder's tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nexus_kernel::{Clock, Timestamp};

/// A clock that stands until it is told.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn new() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicI64::new(1_800_000_000)))
    }

    pub(crate) fn advance(&self, sec: i64) {
        self.0.fetch_add(sec, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.load(Ordering::SeqCst), nsec: 0 }
    }
}
