//! Clients that keep nodes by id beyond a call, as the kernel does behind a mount: what they use
//! of a zone that other nodes change, and what they are told of that.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use smallvec::SmallVec;

use super::NexusFs;
use crate::command::{Command, Outcome};
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

    /// Nodes have other attributes. Must not wait.
    fn changed(&self, nodes: &[NodeId]);

    /// Nodes may have lost a name, so that it need not keep them unless they are used. Must not wait.
    fn renamed(&self, nodes: &[NodeId]);

    /// Everything may have changed. Must not wait.
    fn replaced(&self);

    /// This node has another client of its zone from now on, whose writes count before they are told of.
    fn accompanied(&self);
}

/// What a command has changed.
pub struct Notice<'a> {
    /// The command.
    pub command: &'a Command,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// The inodes that it changed.
    pub inodes: &'a [Ino],
    /// Whether this node has proposed it.
    pub ours: bool,
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
        self.of(index).iter().for_each(|client| client.renamed(&[node]));
    }

    /// Tells those of one zone, or of all, that nothing is certain any more.
    pub(super) fn replaced(&self, index: Option<ZoneIndex>) {
        let all: Vec<_> = self.0.read().iter().filter_map(Weak::upgrade).collect();
        let concerned = all.iter().filter(|client| index.is_none_or(|index| client.zone() == index));
        concerned.for_each(|client| client.replaced());
    }
}

impl NexusFs {
    /// Asks and tells this client, too, as long as it is there.
    pub fn add_client(&self, client: Weak<dyn Client>) {
        let mut all = self.clients.0.write();
        all.retain(|other| other.strong_count() > 0);
        if let Some(new) = client.upgrade() {
            let others = all.iter().filter_map(Weak::upgrade).filter(|other| other.zone() == new.zone());
            for other in others.collect::<Vec<_>>() {
                other.accompanied();
                new.accompanied();
            }
        }
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
            let kept = has.inspect(|client| client.renamed(&[node])).count();
            kept > 0 || self.is_open(node)
        };
        Some(inodes.iter().filter(is_used).copied().collect())
    }

    /// A command was applied in a zone. Where this node has proposed it for its only client, that knows.
    pub fn noticed(&self, index: ZoneIndex, notice: &Notice<'_>) {
        let clients = self.clients.of(index);
        // What is mounted where is no work of a client.
        if clients.is_empty() || notice.ours && clients.len() == 1 && !notice.command.moves_mounts() {
            return;
        }
        let nodes = |inodes: &mut dyn Iterator<Item = Ino>| -> SmallVec<[NodeId; 4]> {
            inodes.map(|ino| NodeId::new(index, ino)).collect()
        };
        if notice.command.takes_names() {
            // Of what it changes, the directories that it names keep their names.
            let named = notice.command.inodes();
            let removed = notice.outcome.removed.iter().map(|removed| removed.ino);
            let others = notice.inodes.iter().copied().chain(removed).filter(|ino| !named.contains(ino));
            let others = nodes(&mut others.into_iter());
            clients.iter().for_each(|client| client.renamed(&others));
        }
        let changed = nodes(&mut notice.inodes.iter().copied());
        clients.iter().for_each(|client| client.changed(&changed));
    }

    /// A file is not what was told of it, as writes to it were lost.
    pub fn writes_lost(&self, index: ZoneIndex, ino: Ino) {
        self.clients.of(index).iter().for_each(|client| client.changed(&[NodeId::new(index, ino)]));
    }

    /// The state of a zone was replaced.
    pub fn replaced(&self, index: ZoneIndex) {
        self.clients.replaced(Some(index));
    }
}
