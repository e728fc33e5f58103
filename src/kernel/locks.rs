//! What the kernel tier asks of a zone whose locks hold on several nodes: sessions under which
//! this node holds them, and word of changes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::model::LockSession;

/// This node's sessions in a zone. All locks of a session are lost together: when the others
/// have not heard of this node for too long, or when it is not known what became of one.
pub trait LockSessions: Send + Sync {
    /// The session by which locks are taken now, with a lease that holds; a new one, if the last
    /// was lost or not used for a while. May ask other nodes.
    fn begin(&self) -> Result<LockSession>;

    /// Whether the session's locks hold: its lease has not run out, and it was not given up.
    fn holds(&self, session: LockSession) -> bool;

    /// Gives up a session, if it is the newest.
    fn give_up(&self, session: LockSession);

    /// Tells of every change of locks in the state of this node.
    fn signal(&self) -> Arc<LockSignal>;
}

/// Wakes those who wait for a lock.
#[derive(Default, Debug)]
pub struct LockSignal {
    count: Mutex<u64>,
    rung: Condvar,
}

impl LockSignal {
    /// Something has changed.
    pub fn ring(&self) {
        *self.count.lock() += 1;
        self.rung.notify_all();
    }

    /// How often it has rung.
    pub fn count(&self) -> u64 {
        *self.count.lock()
    }

    /// Waits until it has rung more often than `seen`, at most so long.
    pub fn wait(&self, seen: u64, at_most: Duration) {
        let mut count = self.count.lock();
        if *count == seen {
            self.rung.wait_for(&mut count, at_most);
        }
    }
}
