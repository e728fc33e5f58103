//! Requests that wait for a lock, and the signals that end their waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_kernel::fs::LockTicket;
use nexus_kernel::{Error, Result};
use parking_lot::Mutex;

/// Requests of one mount that wait at once; each has a thread.
pub const MOST_WAITS: usize = 192;
/// Signals that are remembered for requests that have not come yet.
const EARLY: usize = 256;

/// The requests of one mount that wait, by their numbers.
#[derive(Default)]
pub struct LockWaits {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    tickets: HashMap<u64, Arc<LockTicket>>,
    /// A signal can be read from the device before its request has got here. Numbers of requests
    /// are never used twice.
    early: VecDeque<u64>,
}

impl LockWaits {
    /// Does `work`, which waits for a lock for the request `unique`.
    pub fn wait(&self, unique: u64, work: impl FnOnce(&LockTicket) -> Result<()>) -> Result<()> {
        let ticket = Arc::new(LockTicket::default());
        {
            let mut state = self.state.lock();
            if state.tickets.len() >= MOST_WAITS {
                return Err(Error::NoLocks);
            }
            if state.early.contains(&unique) {
                ticket.cancel();
            }
            state.tickets.insert(unique, ticket.clone());
        }
        let done = work(&ticket);
        self.state.lock().tickets.remove(&unique);
        done
    }

    /// Who made the request `unique` got a signal.
    pub fn interrupt(&self, unique: u64) {
        let mut state = self.state.lock();
        if let Some(ticket) = state.tickets.get(&unique) {
            ticket.cancel();
            return;
        }
        if state.early.len() >= EARLY {
            state.early.pop_front();
        }
        state.early.push_back(unique);
    }

    /// The connection is over: nobody waits for an answer.
    pub fn end(&self) {
        self.state.lock().tickets.values().for_each(|ticket| ticket.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_a_wait_whichever_comes_first() {
        let waits = LockWaits::default();
        waits.interrupt(7);
        let cancelled = |ticket: &LockTicket| if ticket.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) };
        assert_eq!(waits.wait(7, cancelled), Err(Error::Interrupted));
        assert_eq!(waits.wait(8, cancelled), Ok(()));
        let during = |ticket: &LockTicket| {
            waits.interrupt(9);
            cancelled(ticket)
        };
        assert_eq!(waits.wait(9, during), Err(Error::Interrupted));
        for unique in 100..1000 {
            waits.interrupt(unique);
        }
        assert!(waits.state.lock().early.len() <= EARLY && waits.state.lock().tickets.is_empty());
        let ended = |ticket: &LockTicket| {
            waits.end();
            cancelled(ticket)
        };
        assert_eq!(waits.wait(2000, ended), Err(Error::Interrupted));
    }
}
