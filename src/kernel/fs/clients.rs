//! Clients that keep nodes by id beyond a call, as the kernel does behind a mount: what they use
//! of a zone that other nodes change, and what they are told of that.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::NexusFs;
use crate::command::{Command, Outcome, RenameMode};
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

    /// A name that it may have in its cache stands for nothing more, or for something else, so that it
    /// need not keep a node for that. Must not wait.
    fn name_taken(&self, parent: NodeId, name: &[u8]);
}

/// All that there are.
#[derive(Default)]
pub(super) struct Clients(RwLock<Vec<Weak<dyn Client>>>);

impl Clients {
    fn of(&self, index: ZoneIndex) -> Vec<Arc<dyn Client>> {
        let all = self.0.read();
        all.iter().filter_map(Weak::upgrade).filter(|client| client.zone() == index).collect()
    }

    /// Tells them of the names that a command has taken away.
    pub(super) fn names_taken(&self, index: ZoneIndex, command: &Command, outcome: &Outcome) {
        let names = taken_names(command, outcome);
        if names.is_empty() {
            return;
        }
        for client in self.of(index) {
            names.iter().for_each(|(parent, name)| client.name_taken(NodeId::new(index, *parent), name));
        }
    }
}

/// The names that do not stand for what they stood for before a command. A directory's old name is left
/// out: it is found at its new one, with what is mounted below it.
fn taken_names<'a>(command: &'a Command, outcome: &Outcome) -> Vec<(Ino, &'a [u8])> {
    let moves_dir = outcome.inode.is_some_and(|(_, inode)| inode.is_dir());
    match command.unfenced() {
        Command::Unlink { parent, name, .. } | Command::RemoveDir { parent, name, .. } => vec![(*parent, name)],
        Command::Rename { new_parent, new_name, mode: RenameMode::Replace, .. } if moves_dir => {
            vec![(*new_parent, new_name)]
        }
        Command::Rename { parent, name, new_parent, new_name, .. } if !moves_dir => {
            vec![(*parent, name), (*new_parent, new_name)]
        }
        _ => Vec::new(),
    }
}

impl NexusFs {
    /// Asks and tells this client, too, as long as it is there.
    pub fn add_client(&self, client: Weak<dyn Client>) {
        let mut all = self.clients.0.write();
        all.retain(|other| other.strong_count() > 0);
        all.push(client);
    }

    /// Which of these inodes programs on this node use, by a name or without one; `None` if that can't
    /// be told in that time.
    pub fn in_use(&self, index: ZoneIndex, inodes: &[Ino], at_most: Duration) -> Option<Vec<Ino>> {
        let (clients, until) = (self.clients.of(index), Instant::now() + at_most);
        if !clients.iter().all(|client| client.settle(until)) {
            return None;
        }
        let is_used = |ino: &&Ino| {
            let node = NodeId::new(index, **ino);
            self.is_open(node) || clients.iter().any(|client| client.has(node))
        };
        Some(inodes.iter().filter(is_used).copied().collect())
    }

    /// A command was applied in a zone. Where this node has proposed it for its only client, that knows.
    pub fn noticed(&self, index: ZoneIndex, command: &Command, outcome: &Outcome, ours: bool) {
        if taken_names(command, outcome).is_empty() || ours && self.clients.of(index).len() < 2 {
            return;
        }
        self.clients.names_taken(index, command, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::command::SmallBytes;
    use crate::model::{FileKind, Inode};

    fn moved(mode: RenameMode, kind: FileKind) -> (Command, Outcome) {
        let now = Timestamp { sec: 0, nsec: 0 };
        let (name, new_name) = (SmallBytes::from_slice(b"from"), SmallBytes::from_slice(b"to"));
        let command = Command::Rename {
            parent: Ino(1),
            name,
            new_parent: Ino(2),
            new_name,
            mode,
            whiteout: None,
            keep: true,
            now,
        };
        let inode = Inode {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: Ino(0),
            flags: Default::default(),
        };
        (command, Outcome { inode: Some((Ino(5), inode)), ..Outcome::default() })
    }

    #[test]
    fn both_names_of_a_file_that_moves_are_told_and_the_place_of_a_directory() {
        for (mode, kind, told) in [
            (RenameMode::Replace, FileKind::Regular, 2),
            (RenameMode::Exchange, FileKind::Fifo, 2),
            (RenameMode::Replace, FileKind::Directory, 1),
            (RenameMode::NoReplace, FileKind::Directory, 0),
            (RenameMode::Exchange, FileKind::Directory, 0),
        ] {
            let (command, outcome) = moved(mode, kind);
            let names = taken_names(&command, &outcome);
            assert_eq!(names.len(), told, "{mode:?} of {kind:?}");
            assert!(told == 0 || names.last() == Some(&(Ino(2), &b"to"[..])));
        }
    }
}
