//! [`Tail`]: the end of a group's log as a member has it, durable or not: what it has not applied yet.

use std::collections::VecDeque;

use nexus_kernel::Command;
use nexus_kernel::command::Interest;
use parking_lot::Mutex;

use super::entry::{Entry, Payload};
use super::proposal::Batch;

/// Most entries, and bytes of them, that are looked through rather than waited for.
const MOST_ENTRIES: u64 = 64;
const MOST_BYTES: usize = 64 << 10;

#[derive(Default)]
struct State {
    /// One more than the index of the last entry.
    end: u64,
    /// The last ones, in order, without a gap.
    recent: VecDeque<Entry>,
}

/// The end of a log.
#[derive(Default)]
pub struct Tail(Mutex<State>);

impl Tail {
    /// One more than the index of the last entry.
    pub fn end(&self) -> u64 {
        self.0.lock().end
    }

    /// The log ends before `end`, as it does when it is opened, cut off or replaced by a state.
    pub fn ends(&self, end: u64) {
        let mut state = self.0.lock();
        state.end = end;
        while state.recent.back().is_some_and(|entry| entry.position.index >= end) {
            state.recent.pop_back();
        }
    }

    /// Entries have been appended; what is before `applied` is of no interest any more.
    pub fn appended(&self, entries: &[Entry], applied: u64) {
        let Some(last) = entries.last() else { return };
        let mut state = self.0.lock();
        state.end = last.position.index + 1;
        state.recent.extend(entries.iter().cloned());
        while state.recent.front().is_some_and(|entry| entry.position.index < applied) {
            state.recent.pop_front();
        }
    }

    /// Whether it is certain that entries from `applied` to before `end` change nothing of `interest`.
    pub fn spares(&self, applied: u64, end: u64, interest: Interest<'_>) -> bool {
        if interest == Interest::Anything || end.saturating_sub(applied) > MOST_ENTRIES {
            return false;
        }
        let entries: Vec<Entry> = {
            let state = self.0.lock();
            let Some(first) = state.recent.front().map(|entry| entry.position.index) else { return false };
            let (Some(skip), Some(count)) = (applied.checked_sub(first), end.checked_sub(applied)) else {
                return false;
            };
            state.recent.iter().skip(skip as usize).take(count as usize).cloned().collect()
        };
        if entries.len() as u64 != end - applied {
            return false;
        }
        let mut bytes = 0;
        entries.iter().all(|entry| match &entry.payload {
            Payload::Blank => true,
            Payload::Membership(_) => false,
            Payload::Proposals(batch) => {
                bytes += batch.len();
                bytes <= MOST_BYTES && Batch::decode(batch).is_ok_and(|batch| batch_spares(&batch, interest))
            }
        })
    }
}

fn batch_spares(batch: &Batch, interest: Interest<'_>) -> bool {
    let mut commands = batch.commands.iter();
    commands.all(|(_, command)| Command::decode(command).is_ok_and(|command| command.spares(interest)))
}

#[cfg(test)]
mod tests {
    use nexus_kernel::Ino;
    use nexus_kernel::command::{NewKind, SmallBytes};

    use super::*;
    use crate::raft::{MemberId, Position};

    fn create(index: u64, parent: u64, name: &[u8]) -> Entry {
        let command = Command::Create {
            parent: Ino(parent),
            name: SmallBytes::from_slice(name),
            ino: Ino(1000 + index),
            kind: NewKind::Regular,
            mode: 0o644,
            umask: 0,
            uid: 0,
            gid: 0,
            now: Default::default(),
        };
        let commands = vec![(index, command.encode().unwrap().into())];
        let batch = Batch { member: MemberId(1), session: 1, floor: 0, commands };
        Entry { position: Position { term: 1, index }, payload: Payload::Proposals(batch.encode().unwrap()) }
    }

    #[test]
    fn what_is_on_its_way_is_waited_for_only_by_whom_it_concerns() {
        let tail = Tail::default();
        tail.ends(5);
        assert_eq!(tail.end(), 5);
        assert!(!tail.spares(4, 5, Interest::Name(Ino(7), b"a")), "what it is is not known");
        tail.appended(&[create(5, 7, b"a"), create(6, 8, b"b")], 5);
        assert_eq!(tail.end(), 7);
        let spares = |interest| tail.spares(5, 7, interest);
        assert!(!spares(Interest::Anything));
        assert!(!spares(Interest::Name(Ino(7), b"a")) && spares(Interest::Name(Ino(7), b"b")));
        assert!(!spares(Interest::Name(Ino(8), b"b")) && spares(Interest::Name(Ino(9), b"a")));
        assert!(
            !spares(Interest::Inode(Ino(7))) && !spares(Interest::Inode(Ino(1006))) && spares(Interest::Inode(Ino(9)))
        );
        assert!(tail.spares(6, 7, Interest::Name(Ino(7), b"a")), "it is applied");
        assert!(!tail.spares(5, 8, Interest::Name(Ino(9), b"a")), "it is not there");
        tail.ends(6);
        assert!(tail.end() == 6 && !tail.spares(5, 7, Interest::Inode(Ino(9))));
        tail.appended(&[create(6, 9, b"c")], 6);
        assert!(!tail.spares(5, 7, Interest::Name(Ino(1), b"x")) && tail.spares(6, 7, Interest::Name(Ino(1), b"x")));
    }
}
