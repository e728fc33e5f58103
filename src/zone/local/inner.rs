//! What a local zone is, shared by its callers and its threads: proposing and reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexus_kernel::machine::{self, Applied};
use nexus_kernel::{Clock, Command, Error, Lsn, Outcome, Result, Timestamp, ZoneIndex};
use parking_lot::Mutex;

use super::config::{Access, Background, ZoneConfig};
use super::pressure::Pressure;
use super::threads::Wake;
use crate::log::{Claim, NodeLog};
use crate::replica::{Reader, State};

/// A local zone without its threads.
pub struct Inner {
    pub zone: ZoneIndex,
    pub log: Arc<NodeLog>,
    pub state: State,
    pub config: ZoneConfig,
    pub clock: Arc<dyn Clock>,
    /// Held while a command is applied: one at a time.
    pub writer: Mutex<Writing>,
    /// Held while the metastore is written.
    pub drain: Mutex<()>,
    pub pressure: Pressure,
    pub wake: Wake,
    /// This zone's last command.
    pub last: AtomicU64,
    /// What the metastore has.
    pub checkpoint: AtomicU64,
    pub next_ino: AtomicU64,
    pub newest_time: Mutex<Timestamp>,
}

/// Whether commands are taken.
pub enum Writing {
    /// They are.
    Open,
    /// The zone was closed.
    Closed,
    /// Something failed that can't be put right.
    Failed(Error),
}

impl Writing {
    pub fn check(&self) -> Result<()> {
        match self {
            Writing::Open => Ok(()),
            Writing::Closed => Err(Error::Unavailable("the zone is closed".into())),
            Writing::Failed(error) => Err(Error::Unavailable(format!(
                "no changes are taken, because a checkpoint failed: {error}; check the disk, then mount again"
            ))),
        }
    }
}

impl Inner {
    pub fn propose(&self, command: &Command) -> Result<Outcome> {
        if self.config.access == Access::ReadOnly {
            return Err(Error::ReadOnly);
        }
        let payload = command.encode()?;
        self.admit(command)?;
        let outcome = self.order(&mut self.writer.lock(), command, &payload)?;
        self.drain_if_due();
        Ok(outcome)
    }

    /// Proposes what `decide` says, with no other command between what it sees and that.
    pub fn propose_alone(&self, decide: impl FnOnce() -> Result<Command>) -> Result<Outcome> {
        if self.config.access == Access::ReadOnly {
            return Err(Error::ReadOnly);
        }
        let mut writer = self.writer.lock();
        writer.check()?;
        let command = decide()?;
        let outcome = self.order(&mut writer, &command, &command.encode()?)?;
        drop(writer);
        self.drain_if_due();
        Ok(outcome)
    }

    /// Applies a command, and appends it to the log.
    fn order(&self, writer: &mut Writing, command: &Command, payload: &[u8]) -> Result<Outcome> {
        writer.check()?;
        let applied = {
            let view = self.state.view.read_recursive();
            machine::apply(&Reader { view: &view, caches: &self.state.caches }, command)?
        };
        if applied.writes.is_empty() {
            // Nothing to be remembered.
            self.log.check()?;
            return Ok(applied.outcome);
        }
        let claim = if command.frees_space() { Claim::Reserved } else { Claim::Normal };
        let lsn = self.log.append(self.zone, claim, payload)?;
        let outcome = applied.outcome.clone();
        self.note_inos(&applied);
        let (taken, active) = {
            let mut view = self.state.view.write();
            let taken = view.apply(applied, lsn, &self.state.caches);
            (taken, view.active.bytes())
        };
        if let Err(error) = taken {
            *writer = Writing::Failed(error.clone());
            return Err(error);
        }
        self.last.store(lsn.0, Ordering::Release);
        self.pressure.appended(active, payload.len() as u64);
        self.pressure.imaged(self.log.image_bytes());
        Ok(outcome)
    }

    fn note_inos(&self, applied: &Applied) {
        let highest = applied.inodes.iter().filter(|(_, inode)| inode.is_some()).map(|(ino, _)| ino.0).max();
        if let Some(highest) = highest
            && highest >= self.next_ino.load(Ordering::Relaxed)
        {
            self.next_ino.fetch_max(highest + 1, Ordering::Relaxed);
        }
    }

    /// If it is time, has a drain begin soon, or does it, if there is no thread for it.
    fn drain_if_due(&self) {
        if !self.pressure.wants_drain(&self.config) {
            return;
        }
        match self.config.background {
            Background::Thread => self.wake.want_drain(),
            Background::Inline => {
                // What it failed with, if anything, is what the next command meets.
                let _ = self.checkpoint();
            }
        }
    }

    /// Makes this zone's commands so far durable, with their content.
    pub fn sync(&self) -> Result<()> {
        match self.config.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => self.log.sync_to(Lsn(self.last.load(Ordering::Acquire))),
        }
    }

    /// As `sync`, and known after a crash.
    pub fn settle(&self) -> Result<()> {
        match self.config.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => self.log.settle_to(Lsn(self.last.load(Ordering::Acquire))),
        }
    }

    pub fn now(&self) -> Timestamp {
        let now = self.clock.now();
        let mut newest = self.newest_time.lock();
        *newest = now.max(*newest);
        *newest
    }
}
