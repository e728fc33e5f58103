//! Locks that hold on all nodes of a zone, in the `sys` table: each file's at `lock/<ino>`, who
//! waits where at `lockwaits`, and at `lockend/<member>` up to which of a member's sessions all
//! is over. Whoever waits is given the lock by the command that makes room for it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::command::{Command, Outcome};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::machine::txn::Txn;
use crate::metastore::{MetaRead, Table};
use crate::model::{
    self, FileKind, FileLock, FileLocks, LAST_BYTE, LockChange, LockOwner, LockSession, LockWait, keys,
};

/// Names in the `sys` table of files' locks begin so.
const LOCK_PREFIX: &str = "lock/";
/// The name after all that begin so.
const LOCK_END: &str = "lock0";
/// Name in the `sys` table of the list of all who wait.
const WAITS_KEY: &str = "lockwaits";

/// Most locks of a file.
const MOST_LOCKS: usize = 1024;
/// Most who wait in a zone.
const MOST_WAITS: usize = 1024;

/// Who waits, and for a lock of which file.
type Waits = Vec<(LockOwner, Ino)>;

fn lock_key(ino: Ino) -> String {
    format!("{LOCK_PREFIX}{ino}")
}

fn end_key(member: u64) -> String {
    format!("lockend/{member:016x}")
}

/// The locks of a file.
pub fn locks_of(state: &dyn MetaRead, ino: Ino) -> Result<FileLocks> {
    match state.get(Table::Sys, &keys::sys(&lock_key(ino)))? {
        Some(bytes) => model::decode("locks", &bytes),
        None => Ok(FileLocks::default()),
    }
}

/// Whether all locks of a session are over.
pub fn locks_ended(state: &dyn MetaRead, session: LockSession) -> Result<bool> {
    let ended: Option<u64> = match state.get(Table::Sys, &keys::sys(&end_key(session.member)))? {
        Some(bytes) => Some(model::decode("end of locks", &bytes)?),
        None => None,
    };
    Ok(ended.is_some_and(|ended| session.number <= ended))
}

/// All sessions that hold or want a lock.
pub fn lock_sessions(state: &dyn MetaRead) -> Result<BTreeSet<LockSession>> {
    let mut found = BTreeSet::new();
    for (_, locks) in all_locks(state)? {
        found.extend(locks.owners().map(|owner| owner.session));
    }
    Ok(found)
}

fn all_locks(state: &dyn MetaRead) -> Result<Vec<(Ino, FileLocks)>> {
    let (mut found, mut bad) = (Vec::new(), None);
    state.scan(Table::Sys, LOCK_PREFIX.as_bytes(), LOCK_END.as_bytes(), &mut |key, value| {
        let number = key.get(LOCK_PREFIX.len()..).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(ino) = number.and_then(|digits| digits.parse().ok()) else { return ControlFlow::Continue(()) };
        match model::decode("locks", value) {
            Ok(locks) => found.push((Ino(ino), locks)),
            Err(error) => bad = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    bad.map_or(Ok(found), Err)
}

impl Txn<'_> {
    /// Runs a command that is only to be done while a session's locks hold.
    pub(super) fn fenced(&mut self, session: LockSession, command: &Command) -> Result<Outcome> {
        if matches!(command, Command::Fenced { .. }) {
            return Err(Error::Invalid);
        }
        if locks_ended(self, session)? { Err(Error::LockLost) } else { self.run(command) }
    }

    /// Answers with a count of 1 where the lock is waited for, or was until it was cancelled.
    pub(super) fn set_lock(&mut self, ino: Ino, lock: &FileLock, change: LockChange) -> Result<Outcome> {
        if lock.start > lock.end || lock.end > LAST_BYTE {
            return Err(Error::Invalid);
        }
        let session = lock.owner.session;
        let mut locks = locks_of(self, ino)?;
        let before = locks.clone();
        let waits = match change {
            LockChange::Try | LockChange::Wait(_) => {
                if locks_ended(self, session)? {
                    return Err(Error::LockLost);
                }
                if self.inode(ino)?.kind != FileKind::Regular {
                    return Err(Error::Invalid);
                }
                self.take(ino, &mut locks, lock, change)?
            }
            LockChange::Release => {
                locks.clear(lock);
                false
            }
            LockChange::Cancel(id) => {
                let waited = locks.is_waiting(session, id);
                locks.waits.retain(|wait| wait.id != id || wait.lock.owner.session != session);
                waited
            }
        };
        self.settle_locks(vec![(ino, before, locks)])?;
        Ok(Outcome { count: u64::from(waits), ..Outcome::default() })
    }

    /// Takes the lock; answers whether it is waited for.
    fn take(&mut self, ino: Ino, locks: &mut FileLocks, lock: &FileLock, change: LockChange) -> Result<bool> {
        if locks.blockers(lock).next().is_none() {
            locks.set(*lock);
            return if locks.held.len() > MOST_LOCKS { Err(Error::NoLocks) } else { Ok(false) };
        }
        let LockChange::Wait(id) = change else { return Err(Error::Conflict) };
        if self.waits()?.len() >= MOST_WAITS {
            return Err(Error::NoLocks);
        }
        if lock.owner.flock {
            // As Linux has it: who changes the kind of its lock and has to wait, gives the old one up.
            locks.clear(lock);
        } else if self.would_deadlock(ino, locks, lock)? {
            return Err(Error::Deadlock);
        }
        locks.waits.push(LockWait { id, lock: *lock });
        Ok(true)
    }

    /// Whether those in the way wait for the owner, by whatever detour.
    fn would_deadlock(&mut self, ino: Ino, locks: &FileLocks, lock: &FileLock) -> Result<bool> {
        let waits = self.waits()?;
        let (mut ahead, mut seen) = (Vec::new(), Vec::new());
        ahead.extend(locks.blockers(lock).map(|held| held.owner));
        while let Some(owner) = ahead.pop() {
            if owner == lock.owner {
                return Ok(true);
            }
            if seen.contains(&owner) {
                continue;
            }
            seen.push(owner);
            for (_, other) in waits.iter().filter(|(waiting, _)| *waiting == owner) {
                let there = if *other == ino { locks.clone() } else { locks_of(self, *other)? };
                for wait in there.waits.iter().filter(|wait| wait.lock.owner == owner) {
                    ahead.extend(there.blockers(&wait.lock).map(|held| held.owner));
                }
            }
        }
        Ok(false)
    }

    /// Ends all locks of a member's sessions up to this one.
    pub(super) fn end_locks(&mut self, session: LockSession) -> Result<Outcome> {
        let over = |owner: &LockOwner| owner.session.member == session.member && owner.session.number <= session.number;
        let mut changed = Vec::new();
        for (ino, before) in all_locks(self)? {
            let mut locks = before.clone();
            locks.held.retain(|held| !over(&held.owner));
            locks.waits.retain(|wait| !over(&wait.lock.owner));
            if locks != before {
                changed.push((ino, before, locks));
            }
        }
        let count = changed.len() as u64;
        self.settle_locks(changed)?;
        let key = keys::sys(&end_key(session.member));
        if session.number == u64::MAX {
            // The member is gone for good.
            self.delete(Table::Sys, key);
        } else if !locks_ended(self, session)? {
            self.put(Table::Sys, key, model::encode(&session.number)?);
        }
        Ok(Outcome { count, ..Outcome::default() })
    }

    fn waits(&self) -> Result<Waits> {
        match self.get(Table::Sys, &keys::sys(WAITS_KEY))? {
            Some(bytes) => model::decode("those who wait for locks", &bytes),
            None => Ok(Waits::new()),
        }
    }

    /// Gives what became free to those who wait, and writes files' locks as they are then.
    fn settle_locks(&mut self, changed: Vec<(Ino, FileLocks, FileLocks)>) -> Result<()> {
        let old = self.waits()?;
        let mut waits = old.clone();
        for (ino, before, mut locks) in changed {
            locks.grant();
            waits.retain(|(_, other)| *other != ino);
            waits.extend(locks.waits.iter().map(|wait| (wait.lock.owner, ino)));
            let key = keys::sys(&lock_key(ino));
            match locks.is_empty() {
                _ if locks == before => {}
                true => self.delete(Table::Sys, key),
                false => self.put(Table::Sys, key, model::encode(&locks)?),
            }
        }
        match waits.is_empty() {
            _ if waits == old => {}
            true => self.delete(Table::Sys, keys::sys(WAITS_KEY)),
            false => self.put(Table::Sys, keys::sys(WAITS_KEY), model::encode(&waits)?),
        }
        Ok(())
    }
}
