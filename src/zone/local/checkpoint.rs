//! Draining memory into the metastore, in one atomic commit in order of key.
//!
//! One commit, not small steps: half a drain that outlived a crash would be a state that no
//! prefix of the log has, and replaying the log on top of it would fail. Readers and writers
//! go on meanwhile, on the table that is put aside and a new one.

use std::sync::atomic::Ordering;

use nexus_kernel::metastore::{Durability, Key, WriteBatch};
use nexus_kernel::model::{self, keys};
use nexus_kernel::zone::APPLIED_KEY;
use nexus_kernel::{Error, Lsn, MetaRead, Result, Table};

use super::config::Access;
use super::inner::{Inner, Writing};
use crate::replica::{Base, MemTable};

impl Inner {
    /// Brings everything so far into the metastore, durably, and gives log space back.
    pub fn checkpoint(&self) -> Result<()> {
        if self.config.access == Access::ReadOnly {
            return Ok(());
        }
        let turn = self.drain.lock();
        // What an earlier drain had to leave comes first.
        self.drain_frozen()?;
        let idle_at = self.freeze()?;
        self.drain_frozen()?;
        if let Some(lsn) = idle_at {
            self.step_forward(lsn)?;
        }
        drop(turn);
        Ok(())
    }

    /// Puts the changes aside; if there are none, answers the last record of the log.
    fn freeze(&self) -> Result<Option<Lsn>> {
        let writer = self.writer.lock();
        writer.check()?;
        let mut view = self.state.view.write();
        if view.active.is_empty() {
            return Ok(Some(self.log.last()));
        }
        view.freeze();
        self.pressure.frozen();
        Ok(None)
    }

    fn drain_frozen(&self) -> Result<()> {
        let Some(frozen) = self.state.view.read_recursive().frozen.clone() else { return Ok(()) };
        let drained = self.drain_into_metastore(&frozen);
        let no_space = matches!(drained, Err(Error::NoSpace | Error::QuotaExceeded));
        if let Err(error) = &drained {
            if no_space {
                log::warn!("the metastore's disk is full; {} changes wait in memory and in the log", frozen.len());
            } else {
                self.fail(error);
            }
        }
        self.pressure.drained(no_space);
        drained?;
        // Gives a lot of memory back, which is nothing to hold a lock for.
        drop(frozen);
        self.log.checkpointed(self.zone, Lsn(self.checkpoint.load(Ordering::Acquire)))
    }

    fn drain_into_metastore(&self, frozen: &MemTable) -> Result<()> {
        let last = frozen.last();
        // The metastore must never be ahead of the durable log.
        self.log.sync_to(last)?;
        let mut batch = WriteBatch::default();
        batch.writes.reserve_exact(frozen.len() + 1);
        batch.writes.extend(frozen.iter().map(|(table, key, change)| (table, Key::from_slice(key), change.clone())));
        self.commit(batch, last)?;
        let base = Base::newest(self.state.metastore.clone())?;
        let usage = base.usage()?;
        let old = self.state.view.write().rebase(base, usage);
        drop(old);
        Ok(())
    }

    /// Where nothing is to be drained, but the log keeps segments for other zones' records
    /// and marks: notes that this zone does not need them.
    fn step_forward(&self, lsn: Lsn) -> Result<()> {
        if lsn.0 <= self.checkpoint.load(Ordering::Acquire) || !self.log.keeps_segments() {
            return Ok(());
        }
        self.log.sync_to(lsn)?;
        match self.commit(WriteBatch::default(), lsn) {
            Ok(()) => self.log.checkpointed(self.zone, lsn),
            Err(error) if matches!(error, Error::NoSpace | Error::QuotaExceeded) => Err(error),
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// Commits a batch that brings the metastore's state up to `last`.
    fn commit(&self, mut batch: WriteBatch, last: Lsn) -> Result<()> {
        batch.writes.push((Table::Sys, keys::sys(APPLIED_KEY), Some(model::encode(&last)?)));
        self.state.metastore.commit(&batch, Durability::Durable)?;
        self.checkpoint.store(last.0, Ordering::Release);
        Ok(())
    }

    /// Takes no more commands.
    pub fn fail(&self, error: &Error) {
        log::error!("zone {} can't be checkpointed: {error}; no more changes are taken", self.zone);
        let mut writer = self.writer.lock();
        if matches!(*writer, Writing::Open) {
            *writer = Writing::Failed(error.clone());
        }
    }
}

/// What a metastore's state includes: everything up to this record of the log.
pub fn read_applied(state: &dyn MetaRead) -> Result<Option<Lsn>> {
    let value = state.get(Table::Sys, &keys::sys(APPLIED_KEY))?;
    value.map(|bytes| model::decode("applied", &bytes)).transpose()
}
