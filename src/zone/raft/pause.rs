//! [`Pause`]: a replicated zone that takes no changes of files for a while, on all members, so
//! that one of them can make a directory a zone of its own. Changes wait meanwhile. The mark in the
//! zone's state that says so is renewed; who leads takes away one that is not, as its maker is gone.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_kernel::machine::DETACHED_PREFIX;
use nexus_kernel::model::{Dentry, FileKind, keys};
use nexus_kernel::{Command, Error, Ino, Interest, MetaRead, Result, Table, Zone};
use parking_lot::{Condvar, Mutex};

use super::zone::RaftZone;
use crate::replica::State;

/// How often a mark is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// How long a mark may stay as it is before it counts as left behind.
pub const LEASE: Duration = Duration::from_secs(15);
/// Longest that a zone is paused.
const MOST: Duration = Duration::from_secs(240);

/// A pause that this node has made. Dropping it ends it.
pub struct Pause {
    shared: Arc<Shared>,
    renewing: Option<JoinHandle<()>>,
}

struct Shared {
    zone: Arc<RaftZone>,
    token: [u8; 16],
    state: Mutex<Renewing>,
    changed: Condvar,
}

struct Renewing {
    beat: u64,
    stop: bool,
    lost: Option<Error>,
}

impl Pause {
    /// Pauses a zone. When this returns, all earlier changes are applied here. [`Error::Busy`]
    /// if it is paused already. `token` tells this pause from all others.
    pub fn begin(zone: &Arc<RaftZone>, token: [u8; 16]) -> Result<Pause> {
        zone.be_current(Interest::Anything)?;
        // What was written before is a part of what is shared.
        zone.sync()?;
        let shared = Arc::new(Shared {
            zone: zone.clone(),
            token,
            state: Mutex::new(Renewing { beat: 0, stop: false, lost: None }),
            changed: Condvar::new(),
        });
        let first = Command::Pause { expect: None, mark: Some(shared.mark(0)) };
        zone.propose(&first).map_err(|error| if error == Error::Conflict { Error::Busy } else { error })?;
        let mut pause = Pause { shared: shared.clone(), renewing: None };
        let spawned = std::thread::Builder::new().name("nexus-pause".into()).spawn(move || shared.renew());
        pause.renewing = Some(spawned.map_err(|error| Error::from_io("keep a zone paused", &error))?);
        Ok(pause)
    }

    /// Fails if the zone is, or may be, no longer paused.
    pub fn check(&self) -> Result<()> {
        self.shared.state.lock().lost.clone().map_or(Ok(()), Err)
    }

    /// Puts a zone in place of a directory, as [`Command::MountFilled`] with this pause's mark,
    /// which ends it. `command` makes it of the mark.
    pub fn end_with(mut self, command: impl FnOnce(Vec<u8>) -> Command) -> Result<()> {
        let beat = self.stop();
        self.check()?;
        self.shared.zone.propose(&command(self.shared.mark(beat))).map(drop)
    }

    /// Renews it no more; answers how often it was.
    fn stop(&mut self) -> u64 {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
        self.shared.state.lock().beat
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let beat = self.stop();
        let end = Command::Pause { expect: Some(self.shared.mark(beat)), mark: None };
        match self.shared.zone.propose(&end) {
            // Its end may be what has been proposed last.
            Ok(_) | Err(Error::Conflict) => {}
            Err(error) => log::warn!("a zone stays paused for {LEASE:?} more: {error}"),
        }
    }
}

impl Shared {
    fn mark(&self, beat: u64) -> Vec<u8> {
        [self.token.as_slice(), &beat.to_be_bytes()].concat()
    }

    fn renew(&self) {
        let end = Instant::now() + MOST;
        let mut state = self.state.lock();
        while !state.stop && state.lost.is_none() {
            if !self.changed.wait_for(&mut state, RENEWAL).timed_out() {
                continue;
            }
            if Instant::now() >= end {
                state.lost = Some(Error::Unavailable("sharing takes too long: share smaller directories".into()));
                return;
            }
            let beat = state.beat;
            let renewal = Command::Pause { expect: Some(self.mark(beat)), mark: Some(self.mark(beat + 1)) };
            let proposed = parking_lot::MutexGuard::unlocked(&mut state, || self.zone.propose(&renewal));
            match proposed {
                Ok(_) => state.beat = beat + 1,
                Err(error) => state.lost = Some(error),
            }
        }
    }
}

/// Whether a command is about something in a directory that a zone was put in place of.
pub(super) fn below_detached(state: &State, command: &Command) -> Result<bool> {
    let wanted = command.inodes();
    let mut found = false;
    state.read(&mut |state| {
        let mut ahead = detached(state)?;
        let mut seen: HashSet<Ino> = ahead.iter().copied().collect();
        found = wanted.iter().any(|ino| seen.contains(ino));
        while let Some(dir) = ahead.pop().filter(|_| !found) {
            let (start, end) = keys::prefix(dir.0);
            let mut bad = None;
            state.scan(Table::Dentry, &start, &end, &mut |_, value| match Dentry::decode(&Bytes::copy_from_slice(
                value,
            )) {
                Ok(dentry) => {
                    found |= wanted.contains(&dentry.ino);
                    if dentry.kind == FileKind::Directory && seen.insert(dentry.ino) {
                        ahead.push(dentry.ino);
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    bad = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            bad.map_or(Ok(()), Err)?;
        }
        Ok(())
    })?;
    Ok(found)
}

fn detached(state: &dyn MetaRead) -> Result<Vec<Ino>> {
    let mut found = Vec::new();
    let end = DETACHED_PREFIX.replace('/', "0");
    state.scan(Table::Sys, DETACHED_PREFIX.as_bytes(), end.as_bytes(), &mut |key, _| {
        let number = key.get(DETACHED_PREFIX.len()..).and_then(|text| std::str::from_utf8(text).ok());
        found.extend(number.and_then(|text| text.parse().ok()).map(Ino));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
