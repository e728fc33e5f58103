//! Locks that go with their open files. FUSE tells of a file's end after close(2) has returned; who
//! tries for the lock then is not to be refused because of one that is on its way back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ids::NodeId;

/// How long word of a file's end may be on its way.
const WORD: Duration = Duration::from_millis(20);
/// How long giving its locks back may take.
const GIVING: Duration = Duration::from_secs(2);

/// Open files that are gone, and whose locks are being given back.
#[derive(Default)]
pub(super) struct Releases {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    going: HashMap<NodeId, usize>,
    ended: u64,
}

/// One of them, until this is dropped.
pub(super) struct Release<'a> {
    releases: &'a Releases,
    node: NodeId,
}

impl Releases {
    /// An open file's locks are given back from now on.
    pub(super) fn begin(&self, node: NodeId) -> Release<'_> {
        *self.state.lock().going.entry(node).or_default() += 1;
        Release { releases: self, node }
    }

    /// How many have ended.
    pub(super) fn ended(&self) -> u64 {
        self.state.lock().ended
    }

    /// After a lock of `node`, which an open file of this node has, was in the way: whether one may have been
    /// given back since `seen` had ended. Waits for those on their way.
    pub(super) fn settle(&self, node: NodeId, seen: u64) -> bool {
        let began = Instant::now();
        let mut state = self.state.lock();
        loop {
            let until = match (state.going.contains_key(&node), state.ended != seen) {
                (true, _) => began + GIVING,
                (false, true) => return true,
                (false, false) => began + WORD,
            };
            if self.changed.wait_until(&mut state, until).timed_out() {
                return state.ended != seen;
            }
        }
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let mut state = self.releases.state.lock();
        if let Some(count) = state.going.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                state.going.remove(&self.node);
            }
        }
        state.ended += 1;
        self.releases.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    #[test]
    fn what_is_on_its_way_back_is_waited_for() {
        let releases = Releases::default();
        let seen = releases.ended();
        assert!(!releases.settle(NODE, seen), "nothing comes");
        drop(releases.begin(NODE));
        assert!(releases.settle(NODE, seen), "one came meanwhile");
        let seen = releases.ended();
        let release = releases.begin(NODE);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| releases.settle(NODE, seen));
            while releases.state.try_lock().is_none() {}
            drop(release);
            assert!(waits.join().unwrap());
        });
        assert_eq!(releases.ended(), seen + 1);
    }
}
