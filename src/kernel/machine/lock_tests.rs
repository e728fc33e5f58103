//! Locks in a zone's state: who gets them, who waits, who would wait for ever, and how they end.

use super::tests::State;
use super::{lock_sessions, locks_ended, locks_of};
use crate::clock::Timestamp;
use crate::command::{AttrChange, Command, NewKind, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::metastore::{MetaRead, Table};
use crate::model::{FileLock, LAST_BYTE, LockChange, LockOwner, LockSession, keys};

const NOW: Timestamp = Timestamp { sec: 1, nsec: 0 };
const FILE: Ino = Ino(2);
const OTHER: Ino = Ino(3);

fn session(member: u64) -> LockSession {
    LockSession { member, number: 10 }
}

fn lock(member: u64, owner: u64, exclusive: bool, start: u64, end: u64) -> FileLock {
    let owner = LockOwner { session: session(member), owner, flock: false };
    FileLock { owner, pid: 5, exclusive, start, end }
}

fn files() -> State {
    let mut state = State::new();
    for (ino, name) in [(FILE, "file"), (OTHER, "other")] {
        let name = SmallBytes::from_slice(name.as_bytes());
        let (mode, umask, uid, gid, kind) = (0o644, 0, 0, 0, NewKind::Regular);
        state.run(Command::Create { parent: Ino::ROOT, name, ino, kind, mode, umask, uid, gid, now: NOW }).unwrap();
    }
    state
}

/// Whether it is waited for, or was cancelled in time.
fn set(state: &mut State, ino: Ino, lock: FileLock, change: LockChange) -> Result<bool> {
    state.run(Command::SetLock { ino, lock, change }).map(|outcome| outcome.count == 1)
}

fn nothing_is_left(state: &State) {
    let waits = state.get(Table::Sys, &keys::sys("lockwaits")).unwrap();
    assert!(lock_sessions(state).unwrap().is_empty() && waits.is_none(), "{waits:?}");
}

#[test]
fn one_waits_for_another_and_is_given_what_that_gives_back() {
    let mut state = files();
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 0, 9), LockChange::Try), Ok(false));
    assert_eq!(set(&mut state, FILE, lock(2, 1, false, 5, 5), LockChange::Try), Err(Error::Conflict));
    assert_eq!(set(&mut state, FILE, lock(2, 1, false, 10, LAST_BYTE), LockChange::Try), Ok(false));
    assert_eq!(set(&mut state, FILE, lock(2, 2, true, 9, 9), LockChange::Wait(7)), Ok(true));
    assert!(locks_of(&state, FILE).unwrap().is_waiting(session(2), 7));
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 9, 9), LockChange::Release), Ok(false));
    let locks = locks_of(&state, FILE).unwrap();
    assert!(!locks.is_waiting(session(2), 7) && locks.has(&lock(2, 2, true, 9, 9).owner));
    assert_eq!(set(&mut state, FILE, lock(2, 2, true, 9, 9), LockChange::Cancel(7)), Ok(false), "it was given");
    assert_eq!(set(&mut state, FILE, lock(3, 3, true, 0, 0), LockChange::Wait(8)), Ok(true));
    assert_eq!(set(&mut state, FILE, lock(3, 3, true, 0, 0), LockChange::Cancel(8)), Ok(true));
    for (member, owner) in [(1, 1), (2, 1), (2, 2), (3, 3)] {
        set(&mut state, FILE, lock(member, owner, true, 0, LAST_BYTE), LockChange::Release).unwrap();
    }
    nothing_is_left(&state);
}

#[test]
fn a_ring_of_waits_is_refused_across_files_and_members() {
    let mut state = files();
    set(&mut state, FILE, lock(1, 1, true, 0, 0), LockChange::Try).unwrap();
    set(&mut state, OTHER, lock(2, 2, true, 0, 0), LockChange::Try).unwrap();
    set(&mut state, FILE, lock(3, 3, true, 5, 5), LockChange::Try).unwrap();
    assert_eq!(set(&mut state, FILE, lock(2, 2, true, 5, 5), LockChange::Wait(1)), Ok(true));
    assert_eq!(set(&mut state, FILE, lock(3, 3, true, 0, 0), LockChange::Wait(1)), Ok(true));
    assert_eq!(set(&mut state, OTHER, lock(1, 1, true, 0, 0), LockChange::Wait(1)), Err(Error::Deadlock));
    assert_eq!(
        set(&mut state, OTHER, lock(4, 1, true, 0, 0), LockChange::Wait(1)),
        Ok(true),
        "another's of that number"
    );
    // Of flock's, nobody looks for rings: they end at a signal.
    let flock = |member, ino: Ino| {
        let owner = LockOwner { flock: true, ..lock(member, 9, true, 0, LAST_BYTE).owner };
        (ino, FileLock { owner, ..lock(member, 9, true, 0, LAST_BYTE) })
    };
    for (member, ino, change) in
        [(1, FILE, LockChange::Try), (2, OTHER, LockChange::Try), (1, OTHER, LockChange::Wait(5))]
    {
        let (ino, lock) = flock(member, ino);
        set(&mut state, ino, lock, change).unwrap();
    }
    let (ino, lock) = flock(2, FILE);
    assert_eq!(set(&mut state, ino, lock, LockChange::Wait(5)), Ok(true));
}

#[test]
fn two_that_share_a_flock_and_both_want_it_alone_do_not_block_each_other() {
    let mut state = files();
    let flock = |member, exclusive| {
        let lock = lock(member, 9, exclusive, 0, LAST_BYTE);
        FileLock { owner: LockOwner { flock: true, ..lock.owner }, ..lock }
    };
    set(&mut state, FILE, flock(1, false), LockChange::Try).unwrap();
    set(&mut state, FILE, flock(2, false), LockChange::Try).unwrap();
    assert_eq!(set(&mut state, FILE, flock(1, true), LockChange::Try), Err(Error::Conflict));
    assert_eq!(set(&mut state, FILE, flock(1, true), LockChange::Wait(1)), Ok(true));
    assert_eq!(set(&mut state, FILE, flock(2, true), LockChange::Wait(1)), Ok(false), "the first gave its own up");
    assert!(locks_of(&state, FILE).unwrap().is_waiting(session(1), 1));
    set(&mut state, FILE, flock(2, true), LockChange::Release).unwrap();
    assert!(!locks_of(&state, FILE).unwrap().is_waiting(session(1), 1));
}

#[test]
fn with_a_session_end_its_locks_and_what_is_done_under_them() {
    let mut state = files();
    set(&mut state, FILE, lock(1, 1, true, 0, 9), LockChange::Try).unwrap();
    set(&mut state, OTHER, lock(1, 1, true, 0, 9), LockChange::Try).unwrap();
    set(&mut state, FILE, lock(2, 2, true, 0, 9), LockChange::Wait(1)).unwrap();
    let cut = |number| {
        let change = AttrChange { size: Some(5), ..AttrChange::default() };
        let command = Box::new(Command::SetAttr { ino: FILE, change, now: NOW });
        Command::Fenced { session: LockSession { member: 1, number }, command }
    };
    assert!(state.run(cut(10)).unwrap().inode.is_some());
    state.run(Command::EndLocks { session: session(1) }).unwrap();
    assert!(locks_ended(&state, session(1)).unwrap() && !locks_ended(&state, session(2)).unwrap());
    assert_eq!(lock_sessions(&state).unwrap().into_iter().collect::<Vec<_>>(), [session(2)]);
    assert!(locks_of(&state, FILE).unwrap().has(&lock(2, 2, true, 0, 9).owner), "who waited has it");
    assert_eq!(state.run(cut(10)).unwrap_err(), Error::LockLost);
    assert_eq!(set(&mut state, OTHER, lock(1, 1, true, 0, 9), LockChange::Try), Err(Error::LockLost));
    assert!(state.run(cut(11)).is_ok(), "a later session is another");
    state.run(Command::EndLocks { session: LockSession { member: 1, number: 3 } }).unwrap();
    assert!(locks_ended(&state, session(1)).unwrap(), "an end is never taken back");
    state.run(Command::EndLocks { session: LockSession { number: u64::MAX, ..session(2) } }).unwrap();
    nothing_is_left(&state);
    assert!(!locks_ended(&state, session(2)).unwrap());
}

#[test]
fn what_makes_no_sense_is_refused_and_there_is_an_end_to_locks() {
    let mut state = files();
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 9, 0), LockChange::Try), Err(Error::Invalid));
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 0, u64::MAX), LockChange::Try), Err(Error::Invalid));
    assert_eq!(set(&mut state, Ino::ROOT, lock(1, 1, true, 0, 0), LockChange::Try), Err(Error::Invalid));
    assert_eq!(set(&mut state, Ino(99), lock(1, 1, true, 0, 0), LockChange::Try), Err(Error::Stale));
    assert_eq!(set(&mut state, Ino(99), lock(1, 1, true, 0, 0), LockChange::Release), Ok(false));
    for place in 0..1024 {
        set(&mut state, FILE, lock(1, 1, true, 2 * place, 2 * place), LockChange::Try).unwrap();
    }
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 4000, 4000), LockChange::Try), Err(Error::NoLocks));
    assert_eq!(set(&mut state, FILE, lock(1, 1, true, 0, 4000), LockChange::Try), Ok(false));
    for id in 0..1024 {
        set(&mut state, FILE, lock(2, id, true, 0, 0), LockChange::Wait(id)).unwrap();
    }
    assert_eq!(set(&mut state, FILE, lock(2, 5000, true, 0, 0), LockChange::Wait(5000)), Err(Error::NoLocks));
    let inner = Command::Fenced { session: session(1), command: Box::new(Command::EndLocks { session: session(1) }) };
    let nested = Command::Fenced { session: session(1), command: Box::new(inner.clone()) };
    assert!(matches!(Command::decode(&nested.encode().unwrap()), Err(Error::Corrupt(_))));
    assert_eq!(Command::decode(&inner.encode().unwrap()), Ok(inner));
}
