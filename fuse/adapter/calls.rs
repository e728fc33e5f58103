//! Calls under way: whoever asks what the kernel has must wait for the answers that may give it more.

use std::collections::BTreeSet;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Calls of one mount.
#[derive(Default)]
pub struct Calls {
    active: Mutex<Active>,
    ended: Condvar,
}

/// Numbers of calls, in the order in which they began.
#[derive(Default)]
struct Active {
    next: u64,
    numbers: BTreeSet<u64>,
}

/// A call, until it is dropped.
pub struct Call<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Calls {
    /// One begins.
    pub fn begin(&self) -> Call<'_> {
        let mut active = self.active.lock();
        let number = active.next;
        active.next += 1;
        active.numbers.insert(number);
        Call { calls: self, number }
    }

    /// Waits until those have ended that are under way now; `false` if some have not by then.
    pub fn settle(&self, until: Instant) -> bool {
        let after = self.active.lock().next;
        self.ended_before(after, until)
    }

    fn ended_before(&self, after: u64, until: Instant) -> bool {
        let mut active = self.active.lock();
        while active.numbers.first().is_some_and(|first| *first < after) {
            if self.ended.wait_until(&mut active, until).timed_out() {
                return active.numbers.first().is_none_or(|first| *first >= after);
            }
        }
        true
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.active.lock().numbers.remove(&self.number);
        self.calls.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn only_earlier_calls_are_waited_for() {
        let calls = Calls::default();
        assert!(calls.settle(soon()));
        let first = calls.begin();
        assert!(!calls.settle(soon()), "it has not ended");
        let asked = calls.active.lock().next;
        let later = calls.begin();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| calls.ended_before(asked, Instant::now() + Duration::from_secs(60)));
            drop(first);
            assert!(waits.join().unwrap());
        });
        assert!(!calls.settle(soon()));
        drop(later);
        assert!(calls.settle(soon()) && calls.active.lock().numbers.is_empty());
    }
}
