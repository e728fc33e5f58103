//! Syscalls on locks that hold on all nodes of a zone: which open file has taken which, how
//! one is waited for, and what becomes of files whose locks are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::NexusFs;
use super::releases::Releases;
use crate::command::{Command, Interest};
use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId};
use crate::locks::{LockSessions, LockSignal};
use crate::machine::{locks_ended, locks_of};
use crate::model::{FileLock, LAST_BYTE, LockChange, LockOwner, LockSession};
use crate::zone::Zone;

/// How often who waits looks whether its session still holds.
const LOOK: Duration = Duration::from_secs(1);

/// A lock that a program asks for or about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockAsk {
    /// Process or open file, by the client's number.
    pub owner: u64,
    /// Of flock(2), not of fcntl(2).
    pub flock: bool,
    /// Process.
    pub pid: u32,
    /// Nobody else is to have one.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl LockAsk {
    fn of(&self, session: LockSession) -> FileLock {
        let owner = LockOwner { session, owner: self.owner, flock: self.flock };
        let LockAsk { pid, exclusive, start, end, .. } = *self;
        FileLock { owner, pid, exclusive, start, end: end.min(LAST_BYTE) }
    }

    fn whole(owner: u64, flock: bool) -> LockAsk {
        LockAsk { owner, flock, pid: 0, exclusive: false, start: 0, end: LAST_BYTE }
    }
}

/// A lock that is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockFound {
    /// What is held.
    pub lock: FileLock,
    /// By a program of this node, whose process number means something here.
    pub is_here: bool,
}

/// By which who waits for a lock can be made to give up.
#[derive(Default, Debug)]
pub struct LockTicket {
    cancelled: AtomicBool,
    signal: Mutex<Option<Arc<LockSignal>>>,
}

impl LockTicket {
    /// Has the wait end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(signal) = &*self.signal.lock() {
            signal.ring();
        }
    }

    /// Whether it is to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// What open files may have taken: at least what they have.
#[derive(Default)]
pub(super) struct HeldLocks {
    nodes: Mutex<HashMap<NodeId, Vec<Held>>>,
    /// Open files among them, readable without the lock.
    count: AtomicUsize,
    releases: Releases,
}

struct Held {
    handle: u64,
    session: LockSession,
    owners: Vec<(u64, bool)>,
    lost: bool,
}

impl HeldLocks {
    fn change<T>(&self, change: impl FnOnce(&mut HashMap<NodeId, Vec<Held>>) -> T) -> T {
        let mut nodes = self.nodes.lock();
        let changed = change(&mut nodes);
        self.count.store(nodes.values().map(Vec::len).sum(), Ordering::Release);
        changed
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Notes that an owner may have a lock; fails if what was taken through the open file is lost.
    fn note(&self, node: NodeId, handle: u64, owner: &LockOwner) -> Result<()> {
        self.change(|nodes| {
            let files = nodes.entry(node).or_default();
            let at = files.iter().position(|file| file.handle == handle).unwrap_or_else(|| {
                files.push(Held { handle, session: owner.session, owners: Vec::new(), lost: false });
                files.len() - 1
            });
            let Some(file) = files.get_mut(at) else { return Err(Error::LockLost) };
            file.lost |= file.session != owner.session;
            if file.lost {
                return Err(Error::LockLost);
            }
            let key = (owner.owner, owner.flock);
            if !file.owners.contains(&key) {
                file.owners.push(key);
            }
            Ok(())
        })
    }

    /// Sessions by which an owner may have locks of a file.
    fn sessions_of(&self, node: NodeId, key: (u64, bool)) -> Vec<LockSession> {
        if self.is_empty() {
            return Vec::new();
        }
        let nodes = self.nodes.lock();
        let files = nodes.get(&node).into_iter().flatten();
        let mut found: Vec<_> =
            files.filter(|file| !file.lost && file.owners.contains(&key)).map(|file| file.session).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The owner has no locks of the file any more.
    fn drop_owner(&self, node: NodeId, owner: &LockOwner) {
        self.change(|nodes| {
            let Some(files) = nodes.get_mut(&node) else { return };
            for file in files.iter_mut().filter(|file| file.session == owner.session) {
                file.owners.retain(|key| *key != (owner.owner, owner.flock));
            }
            files.retain(|file| file.lost || !file.owners.is_empty());
            if files.is_empty() {
                nodes.remove(&node);
            }
        });
    }

    /// An open file is gone; what it may still have.
    fn close(&self, node: NodeId, handle: u64) -> Vec<LockOwner> {
        if self.is_empty() {
            return Vec::new();
        }
        self.change(|nodes| {
            let Some(files) = nodes.get_mut(&node) else { return Vec::new() };
            let at = files.iter().position(|file| file.handle == handle);
            let file = at.map(|at| files.swap_remove(at));
            if files.is_empty() {
                nodes.remove(&node);
            }
            let Some(Held { session, owners, lost: false, .. }) = file else { return Vec::new() };
            owners.into_iter().map(|(owner, flock)| LockOwner { session, owner, flock }).collect()
        })
    }

    /// All that was taken by a session is lost.
    fn lose(&self, session: LockSession) {
        self.change(|nodes| {
            let files = nodes.values_mut().flatten();
            files.filter(|file| file.session == session).for_each(|file| file.lost = true);
        });
    }

    /// The newest session by which this node may have locks of a file.
    fn newest(&self, node: NodeId) -> Option<LockSession> {
        if self.is_empty() {
            return None;
        }
        let nodes = self.nodes.lock();
        nodes.get(&node).into_iter().flatten().filter(|file| !file.lost).map(|file| file.session).max()
    }

    /// By which session the open file has locks; fails if they are lost.
    fn session(&self, node: NodeId, handle: u64) -> Result<Option<LockSession>> {
        if self.is_empty() {
            return Ok(None);
        }
        let nodes = self.nodes.lock();
        let file = nodes.get(&node).into_iter().flatten().find(|file| file.handle == handle);
        match file {
            Some(file) if file.lost => Err(Error::LockLost),
            Some(file) => Ok(Some(file.session)),
            None => Ok(None),
        }
    }
}

/// The condition under which a file is changed: that this node's locks of it hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence(Option<LockSession>);

impl Fence {
    /// Whether there is one.
    pub(super) fn is_held(self) -> bool {
        self.0.is_some()
    }

    /// A command under the condition.
    pub(super) fn guard(self, command: Command) -> Command {
        match self.0 {
            Some(session) => Command::Fenced { session, command: Box::new(command) },
            None => command,
        }
    }
}

fn sessions(zone: &dyn Zone) -> Result<&dyn LockSessions> {
    zone.locks().ok_or(Error::NotSupported)
}

impl NexusFs {
    /// Takes a lock that holds on all nodes of the zone; where somebody else has it, waits until
    /// `wait` is cancelled, or fails with [`Error::Conflict`] if there is none.
    pub fn lock(&self, node: NodeId, handle: u64, ask: &LockAsk, wait: Option<&LockTicket>) -> Result<()> {
        let (zone, ino) = self.router.resolve(node)?;
        let sessions = sessions(&*zone)?;
        let lock = ask.of(sessions.begin()?);
        self.held.note(node, handle, &lock.owner)?;
        let taken = match wait {
            None => self.try_lock(&*zone, node, lock),
            Some(ticket) => self.wait_for_lock(&*zone, ino, lock, ticket),
        };
        match taken {
            // Noted once more: another thread may have found nothing and let it go.
            Ok(()) => self.held.note(node, handle, &lock.owner),
            Err(error) => {
                self.let_go(&*zone, node, &lock.owner);
                Err(error)
            }
        }
    }

    fn try_lock(&self, zone: &dyn Zone, node: NodeId, lock: FileLock) -> Result<()> {
        let try_once = || self.change_lock(zone, node.ino(), lock, LockChange::Try).map(drop);
        let seen = self.held.releases.ended();
        let tried = try_once();
        if tried != Err(Error::Conflict) {
            return tried;
        }
        let mut is_own = false;
        zone.read(&mut |state| {
            let locks = locks_of(state, node.ino())?;
            is_own = locks.blockers(&lock).next().is_none_or(|other| other.owner.session == lock.owner.session);
            Ok(())
        })?;
        if is_own && self.held.releases.settle(node, seen) { try_once() } else { tried }
    }

    /// Gives a range back.
    pub fn unlock(&self, node: NodeId, ask: &LockAsk) -> Result<()> {
        let sessions = self.held.sessions_of(node, (ask.owner, ask.flock));
        if sessions.is_empty() {
            return Ok(());
        }
        let (zone, ino) = self.router.resolve(node)?;
        for session in sessions {
            let lock = ask.of(session);
            self.change_lock(&*zone, ino, lock, LockChange::Release)?;
            self.let_go(&*zone, node, &lock.owner);
        }
        Ok(())
    }

    /// A descriptor is closed: its process has no locks of fcntl(2) on the file any more.
    pub fn unlock_closed(&self, node: NodeId, owner: u64) -> Result<()> {
        self.unlock(node, &LockAsk::whole(owner, false))
    }

    /// The lock that would be in the way of one.
    pub fn lock_in_way(&self, node: NodeId, ask: &LockAsk) -> Result<Option<LockFound>> {
        let (zone, ino) = self.router.resolve(node)?;
        let session = sessions(&*zone)?.begin()?;
        zone.catch_up(Interest::Anything)?;
        let (wanted, mut found) = (ask.of(session), None);
        zone.read(&mut |state| {
            found = locks_of(state, ino)?.blockers(&wanted).next().copied();
            Ok(())
        })?;
        Ok(found.map(|lock| LockFound { lock, is_here: lock.owner.session == session }))
    }

    /// The open file is gone. What was taken through it and is still held is an open file's, not a
    /// process's, which has closed its descriptors before.
    pub(super) fn unlock_released(&self, node: NodeId, handle: u64) {
        if self.held.is_empty() {
            return;
        }
        let _going = self.held.releases.begin(node);
        for owner in self.held.close(node, handle) {
            let lock = LockAsk::whole(owner.owner, owner.flock).of(owner.session);
            let zone = self.router.zone(node.zone());
            let given = zone.and_then(|zone| self.change_lock(&*zone, node.ino(), lock, LockChange::Release).map(drop));
            if let Err(error) = given {
                log::warn!("a lock of inode {} is lost rather than given back: {error}", node.ino());
            }
        }
    }

    /// Fails if locks that were taken through an open file are lost: nothing is to be done through it.
    pub fn check_locks(&self, node: NodeId, handle: u64) -> Result<()> {
        let Some(session) = self.held.session(node, handle)? else { return Ok(()) };
        let zone = self.router.zone(node.zone())?;
        if sessions(&*zone)?.holds(session) {
            return Ok(());
        }
        self.lost(&*zone, session);
        Err(Error::LockLost)
    }

    /// The condition for changes of a file of which this node has locks. Between a look at the clock
    /// and a command's turn any time can pass; this is looked at in the command's turn.
    pub(super) fn fence(&self, node: NodeId) -> Fence {
        Fence(self.held.newest(node))
    }

    /// Takes note if it was the condition that a change failed by.
    pub(super) fn fenced<T>(&self, zone: &dyn Zone, fence: Fence, changed: Result<T>) -> Result<T> {
        if let (Err(Error::LockLost), Some(session)) = (&changed, fence.0) {
            self.lost(zone, session);
        }
        changed
    }

    fn lost(&self, zone: &dyn Zone, session: LockSession) {
        if let Some(sessions) = zone.locks() {
            sessions.give_up(session);
        }
        self.held.lose(session);
    }

    /// Forgets an owner that holds nothing.
    fn let_go(&self, zone: &dyn Zone, node: NodeId, owner: &LockOwner) {
        let mut has = true;
        let read = zone.read(&mut |state| {
            has = locks_of(state, node.ino())?.has(owner);
            Ok(())
        });
        if read.is_ok() && !has {
            self.held.drop_owner(node, owner);
        }
    }

    /// Proposes a change of a lock; answers whether it is waited for. If it is not known what became
    /// of it, all of the session's are given up, so that none is held by nobody.
    fn change_lock(&self, zone: &dyn Zone, ino: Ino, lock: FileLock, change: LockChange) -> Result<bool> {
        let changed = zone.propose(&Command::SetLock { ino, lock, change });
        if changed.as_ref().is_err_and(|error| error.is_unclear() || *error == Error::LockLost) {
            self.lost(zone, lock.owner.session);
        }
        Ok(changed?.count == 1)
    }

    fn wait_for_lock(&self, zone: &dyn Zone, ino: Ino, lock: FileLock, ticket: &LockTicket) -> Result<()> {
        let (sessions, session) = (sessions(zone)?, lock.owner.session);
        let signal = sessions.signal();
        *ticket.signal.lock() = Some(signal.clone());
        let id = self.next_handle.fetch_add(1, Ordering::Relaxed);
        if !self.change_lock(zone, ino, lock, LockChange::Wait(id))? {
            return Ok(());
        }
        loop {
            let seen = signal.count();
            let (mut waits, mut ended) = (true, false);
            zone.read(&mut |state| {
                waits = locks_of(state, ino)?.is_waiting(session, id);
                ended = locks_ended(state, session)?;
                Ok(())
            })?;
            if ended || !sessions.holds(session) {
                self.lost(zone, session);
                return Err(Error::LockLost);
            }
            if !waits {
                return Ok(());
            }
            if ticket.is_cancelled() {
                // It may have been given at the last moment.
                let cancelled = self.change_lock(zone, ino, lock, LockChange::Cancel(id))?;
                return if cancelled { Err(Error::Interrupted) } else { Ok(()) };
            }
            signal.wait(seen, LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    fn owner(number: u64, owner: u64, flock: bool) -> LockOwner {
        LockOwner { session: LockSession { member: 1, number }, owner, flock }
    }

    #[test]
    fn an_owner_is_known_by_all_open_files_that_it_used() {
        let held = HeldLocks::default();
        held.note(NODE, 1, &owner(5, 10, false)).unwrap();
        held.note(NODE, 2, &owner(5, 10, false)).unwrap();
        held.note(NODE, 2, &owner(5, 20, true)).unwrap();
        assert_eq!(held.sessions_of(NODE, (10, false)), [owner(5, 10, false).session]);
        assert!(held.sessions_of(NODE, (10, true)).is_empty());
        held.drop_owner(NODE, &owner(5, 10, false));
        assert_eq!(held.session(NODE, 1), Ok(None));
        assert_eq!(held.close(NODE, 2), [owner(5, 20, true)]);
        assert!(held.is_empty() && held.close(NODE, 2).is_empty());
    }

    #[test]
    fn what_is_lost_stays_lost_until_the_file_is_closed() {
        let held = HeldLocks::default();
        held.note(NODE, 1, &owner(5, 10, false)).unwrap();
        held.note(NODE, 2, &owner(6, 10, false)).unwrap();
        held.lose(owner(5, 10, false).session);
        assert_eq!(held.session(NODE, 1), Err(Error::LockLost));
        assert_eq!(held.session(NODE, 2), Ok(Some(owner(6, 0, false).session)));
        assert_eq!(held.newest(NODE), Some(owner(6, 0, false).session));
        assert_eq!(held.note(NODE, 1, &owner(6, 10, false)), Err(Error::LockLost));
        assert_eq!(held.note(NODE, 2, &owner(7, 10, false)), Err(Error::LockLost), "it had one of a session before");
        assert!(held.sessions_of(NODE, (10, false)).is_empty(), "nothing is to be given back");
        assert!(held.close(NODE, 1).is_empty() && held.close(NODE, 2).is_empty());
        assert!(held.is_empty());
    }
}
