//! Locks of a file that hold on all nodes of a zone: `lock/<ino>` of the `sys` table. What a
//! lock does to the others of its file is decided here, without a state around it.

use serde::{Deserialize, Serialize};

/// Last byte that a lock can cover, as in Linux.
pub const LAST_BYTE: u64 = i64::MAX as u64;

/// The locks of one start of a member, or of what came after it lost them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LockSession {
    /// The member.
    pub member: u64,
    /// Rises whenever the member begins anew.
    pub number: u64,
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LockOwner {
    /// By which session.
    pub session: LockSession,
    /// The process (fcntl) or the open file (flock, OFD), by a number of the member's kernel.
    pub owner: u64,
    /// A lock of flock(2), which has nothing to do with those of fcntl(2).
    pub flock: bool,
}

/// A lock that is held or wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileLock {
    /// Who.
    pub owner: LockOwner,
    /// Process, on the owner's node.
    pub pid: u32,
    /// Nobody else may have a lock there; else nobody else an exclusive one.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

/// What is to be done about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockChange {
    /// Take it, or fail.
    Try,
    /// Take it, or get in line under this number, which is the owner's session's alone.
    Wait(u64),
    /// Give the range back.
    Release,
    /// Leave the line, if the lock was not given meanwhile.
    Cancel(u64),
}

/// A lock that somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockWait {
    /// The number under which it waits.
    pub id: u64,
    /// What is wanted.
    pub lock: FileLock,
}

/// All locks of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileLocks {
    /// Those held: no two conflict, no two of an owner overlap.
    pub held: Vec<FileLock>,
    /// Those waited for, in order.
    pub waits: Vec<LockWait>,
}

impl FileLock {
    fn overlaps(&self, other: &FileLock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether the two can't be held at the same time.
    pub fn conflicts(&self, other: &FileLock) -> bool {
        self.owner != other.owner
            && self.owner.flock == other.owner.flock
            && (self.exclusive || other.exclusive)
            && self.overlaps(other)
    }
}

impl FileLocks {
    /// Locks that keep `wanted` from being taken.
    pub fn blockers<'a>(&'a self, wanted: &'a FileLock) -> impl Iterator<Item = &'a FileLock> {
        self.held.iter().filter(move |held| held.conflicts(wanted))
    }

    /// Puts a lock in place of what its owner has there; neighbours of one kind become one.
    pub fn set(&mut self, mut lock: FileLock) {
        self.clear(&lock);
        self.held.retain(|held| {
            let near = held.start <= lock.end.saturating_add(1) && lock.start <= held.end.saturating_add(1);
            let joins = held.owner == lock.owner && held.exclusive == lock.exclusive && near;
            if joins {
                lock.start = lock.start.min(held.start);
                lock.end = lock.end.max(held.end);
            }
            !joins
        });
        self.held.push(lock);
    }

    /// Takes the range of `lock` from what its owner has.
    pub fn clear(&mut self, lock: &FileLock) {
        let mut rest = Vec::with_capacity(self.held.len() + 1);
        for held in self.held.drain(..) {
            if held.owner != lock.owner || !held.overlaps(lock) {
                rest.push(held);
                continue;
            }
            if let Some(end) = lock.start.checked_sub(1).filter(|end| *end >= held.start) {
                rest.push(FileLock { end, ..held });
            }
            if let Some(start) = lock.end.checked_add(1).filter(|start| *start <= held.end) {
                rest.push(FileLock { start, ..held });
            }
        }
        self.held = rest;
    }

    /// Gives those who wait what is free now, in their order; answers what was given.
    pub fn grant(&mut self) -> Vec<LockWait> {
        let mut given = Vec::new();
        for wait in std::mem::take(&mut self.waits) {
            if self.blockers(&wait.lock).next().is_none() {
                self.set(wait.lock);
                given.push(wait);
            } else {
                self.waits.push(wait);
            }
        }
        given
    }

    /// Whether somebody waits under this number.
    pub fn is_waiting(&self, session: LockSession, id: u64) -> bool {
        self.waits.iter().any(|wait| wait.id == id && wait.lock.owner.session == session)
    }

    /// Whether the owner holds or wants anything.
    pub fn has(&self, owner: &LockOwner) -> bool {
        self.owners().any(|other| other == owner)
    }

    /// All who hold or want something; some several times.
    pub fn owners(&self) -> impl Iterator<Item = &LockOwner> {
        self.held.iter().map(|held| &held.owner).chain(self.waits.iter().map(|wait| &wait.lock.owner))
    }

    /// Nobody holds or wants anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, exclusive: bool, start: u64, end: u64) -> FileLock {
        let session = LockSession { member: 1, number: 1 };
        FileLock { owner: LockOwner { session, owner, flock: false }, pid: 7, exclusive, start, end }
    }

    fn ranges(locks: &FileLocks) -> Vec<(u64, bool, u64, u64)> {
        let mut all: Vec<_> =
            locks.held.iter().map(|held| (held.owner.owner, held.exclusive, held.start, held.end)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn an_owners_ranges_are_split_joined_and_changed_in_kind() {
        let mut locks = FileLocks::default();
        locks.set(lock(1, false, 0, 99));
        locks.set(lock(1, true, 40, 59));
        assert_eq!(ranges(&locks), [(1, false, 0, 39), (1, false, 60, 99), (1, true, 40, 59)]);
        locks.set(lock(1, false, 40, 59));
        assert_eq!(ranges(&locks), [(1, false, 0, 99)]);
        locks.clear(&lock(1, false, 10, 19));
        locks.clear(&lock(2, false, 0, LAST_BYTE));
        assert_eq!(ranges(&locks), [(1, false, 0, 9), (1, false, 20, 99)]);
        locks.set(lock(1, false, 10, LAST_BYTE));
        assert_eq!(ranges(&locks), [(1, false, 0, LAST_BYTE)]);
        locks.clear(&lock(1, true, 0, LAST_BYTE));
        assert!(locks.is_empty());
    }

    #[test]
    fn who_waits_is_served_in_order_as_far_as_it_goes() {
        let mut locks = FileLocks::default();
        locks.set(lock(1, true, 0, 9));
        for (id, wanted) in [(1, lock(2, false, 0, 4)), (2, lock(3, true, 0, 9)), (3, lock(4, false, 5, 9))] {
            assert!(locks.blockers(&wanted).next().is_some());
            locks.waits.push(LockWait { id, lock: wanted });
        }
        assert!(locks.grant().is_empty());
        locks.clear(&lock(1, true, 0, 9));
        assert_eq!(locks.grant().iter().map(|wait| wait.id).collect::<Vec<_>>(), [1, 3]);
        assert!(locks.is_waiting(LockSession { member: 1, number: 1 }, 2));
        locks.clear(&lock(2, true, 0, 9));
        assert!(locks.grant().is_empty());
        locks.clear(&lock(4, true, 0, 9));
        assert_eq!(locks.grant().len(), 1);
        assert_eq!(ranges(&locks), [(3, true, 0, 9)]);
    }

    /// Against a byte a cell.
    #[test]
    fn ranges_agree_with_a_table_of_bytes() {
        let mut random = 0x9e37_79b9_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut locks = FileLocks::default();
        let mut cells = [[None; 32]; 3];
        for _ in 0..20_000 {
            let (owner, start) = (next(3) as usize, next(32));
            let end = start + next(32 - start);
            let exclusive = next(2) == 0;
            let wanted = lock(owner as u64, exclusive, start, end);
            let span = start as usize..=end as usize;
            if next(3) == 0 {
                locks.clear(&wanted);
                cells[owner][span].fill(None);
                continue;
            }
            let blocked = cells.iter().enumerate().any(|(other, cells)| {
                other != owner
                    && cells[span.clone()].iter().any(|cell: &Option<bool>| cell.is_some_and(|held| held || exclusive))
            });
            assert_eq!(locks.blockers(&wanted).next().is_some(), blocked);
            if !blocked {
                locks.set(wanted);
                cells[owner][span].fill(Some(exclusive));
            }
            let mut seen = [[None; 32]; 3];
            for held in &locks.held {
                let cells = &mut seen[held.owner.owner as usize][held.start as usize..=held.end as usize];
                assert!(cells.iter().all(Option::is_none), "overlap");
                cells.fill(Some(held.exclusive));
            }
            assert_eq!(seen, cells);
        }
    }
}
