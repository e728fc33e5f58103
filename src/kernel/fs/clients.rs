//! Clients that keep nodes by id beyond a call, as the kernel does behind a mount: what they use
//! of a zone that other nodes change, and what they are told of that.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::NexusFs;
use crate::command::Outcome;
use crate::ids::{Ino, NodeId, ZoneIndex};

/// A client of one zone.
pub trait Client: Send + Sync {
    /// Its zone.
    fn zone(&self) -> ZoneIndex;

    /// Whether it has the node.
    fn has(&self, node: NodeId) -> bool;

    /// Waits until calls have ended that are under way now and that may give it nodes; `false` if some
    /// have not by then.
    fn settle(&self, until: Instant) -> bool;

    /// A node has lost its last name, so that it need not keep it unless it is used. Must not wait.
    fn removed(&self, node: NodeId);
}

/// All that there are.
#[derive(Default)]
pub(super) struct Clients(RwLock<Vec<Weak<dyn Client>>>);

impl Clients {
    fn of(&self, index: ZoneIndex) -> Vec<Arc<dyn Client>> {
        let all = self.0.read();
        all.iter().filter_map(Weak::upgrade).filter(|client| client.zone() == index).collect()
    }

    /// Tells them of what a command has removed.
    pub(super) fn removed(&self, index: ZoneIndex, outcome: &Outcome) {
        let Some(removed) = &outcome.removed else { return };
        let node = NodeId::new(index, removed.ino);
        self.of(index).iter().for_each(|client| client.removed(node));
    }
}

impl NexusFs {
    /// Asks and tells this client, too, as long as it is there.
    pub fn add_client(&self, client: Weak<dyn Client>) {
        let mut all = self.clients.0.write();
        all.retain(|other| other.strong_count() > 0);
        all.push(client);
    }

    /// Which of these inodes, that have no name, programs on this node use; `None` if that can't be told
    /// in that time.
    pub fn in_use(&self, index: ZoneIndex, inodes: &[Ino], at_most: Duration) -> Option<Vec<Ino>> {
        let (clients, until) = (self.clients.of(index), Instant::now() + at_most);
        if !clients.iter().all(|client| client.settle(until)) {
            return None;
        }
        let is_used = |ino: &&Ino| {
            let node = NodeId::new(index, **ino);
            let has = clients.iter().filter(|client| client.has(node));
            // When it was told of the removal a program used it, which may have ended: the next time it is
            // asked, a client has let go of it.
            let kept = has.inspect(|client| client.removed(node)).count();
            kept > 0 || self.is_open(node)
        };
        Some(inodes.iter().filter(is_used).copied().collect())
    }

    /// A command was applied in a zone. Where this node has proposed it for its only client, that knows.
    pub fn noticed(&self, index: ZoneIndex, outcome: &Outcome, ours: bool) {
        if outcome.removed.is_some() && (!ours || self.clients.of(index).len() > 1) {
            self.clients.removed(index, outcome);
        }
    }
}
