//! [`Vantage`]: whether this member may read its own state without asking the leader, by a pledge that it
//! holds; see [`super::pledges`].

use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::command::Interest;
use parking_lot::Mutex;

use super::pledges::{PLEDGE, SINCE, steady_now};
use super::replica::Replica;
use super::tail::Tail;

/// What has to happen before a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: what is here is what there is.
    Current,
    /// Entries before this one have to be applied here.
    Behind(u64),
    /// The leader has to be asked.
    Blind,
}

#[derive(Clone, Copy, Default)]
struct Pledge {
    until: Duration,
    /// Entries before this one may have been committed when it was given.
    index: u64,
}

/// What this member holds.
pub struct Vantage {
    replica: Arc<Replica>,
    tail: Arc<Tail>,
    pledge: Mutex<Pledge>,
}

impl Vantage {
    /// Nothing yet.
    pub fn new(replica: Arc<Replica>, tail: Arc<Tail>) -> Vantage {
        Vantage { replica, tail, pledge: Mutex::default() }
    }

    /// Whether to ask for a pledge.
    pub fn is_open(&self) -> bool {
        self.replica.commands() >= SINCE
    }

    /// The leader has given a pledge to who asked at `sent`, by [`steady_now`].
    pub fn pledged(&self, sent: Duration, index: u64) {
        let mut pledge = self.pledge.lock();
        if sent + PLEDGE > pledge.until {
            *pledge = Pledge { until: sent + PLEDGE, index };
        }
    }

    /// What a reader has to wait for.
    pub fn standing(&self, interest: Interest<'_>) -> Standing {
        let pledge = *self.pledge.lock();
        let end = self.tail.end().max(pledge.index);
        // Not before it was looked how far the log is.
        if steady_now() >= pledge.until {
            return Standing::Blind;
        }
        let applied = self.replica.applied();
        match applied >= end || self.tail.spares(applied, end, interest) {
            true => Standing::Current,
            false => Standing::Behind(end),
        }
    }
}
