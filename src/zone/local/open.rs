//! Making a zone, and bringing one back from its metastore and the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexus_kernel::machine;
use nexus_kernel::metastore::{Durability, WriteBatch};
use nexus_kernel::model::{self, keys};
use nexus_kernel::zone::APPLIED_KEY;
use nexus_kernel::{Command, Error, Lsn, MetaRead, Result, Table, Timestamp};
use parking_lot::Mutex;

use super::checkpoint::read_applied;
use super::config::{Access, Background, NewZone, ZoneConfig, ZoneParts};
use super::inner::{Inner, Writing};
use super::pressure::Pressure;
use super::threads::{Threads, Wake};
use super::zone::LocalZone;
use crate::log::Claim;
use crate::replica::{Base, Caches, Reader, State, View};

impl LocalZone {
    /// Makes a zone in an empty metastore; [`Error::Exists`] if there is one already. It is
    /// durable when this returns.
    pub fn create(parts: ZoneParts, config: ZoneConfig, new: &NewZone) -> Result<LocalZone> {
        if config.access == Access::ReadOnly {
            return Err(Error::ReadOnly);
        }
        if parts.metastore.snapshot()?.zone_info()?.is_some() {
            return Err(Error::Exists);
        }
        // What the log may hold of an earlier attempt does not count.
        parts.log.sync()?;
        let last = parts.log.last();
        let applied = (Table::Sys, keys::sys(APPLIED_KEY), Some(model::encode(&last)?));
        let batch = WriteBatch { expect: Vec::new(), writes: vec![applied] };
        parts.metastore.commit(&batch, Durability::Durable)?;
        let NewZone { id, hash_seed, mode, uid, gid } = *new;
        let format = Command::Format { id, hash_seed, mode, uid, gid, now: parts.clock.now() };
        let payload = format.encode()?;
        let snapshot = parts.metastore.snapshot()?;
        machine::apply(&*snapshot, &format)?;
        parts.log.append(parts.zone, Claim::Normal, &payload)?;
        let zone = LocalZone::open(parts, config)?;
        zone.inner.checkpoint()?;
        Ok(zone)
    }

    /// Opens the zone in a metastore and brings it up to the end of the log.
    /// [`Error::NotFound`] if there is none; [`Error::Corrupt`] if log and metastore do not
    /// go together. Until it is known that they do, nothing is changed.
    pub fn open(parts: ZoneParts, config: ZoneConfig) -> Result<LocalZone> {
        let ZoneParts { zone, log, metastore, clock } = parts;
        let caches = Caches::new(config.cache_bytes);
        let base = Base::newest(metastore.clone())?;
        let applied = match (read_applied(&base)?, base.zone_info()?) {
            (Some(applied), _) => applied,
            (None, None) => Lsn(0),
            (None, Some(_)) => {
                return Err(Error::Corrupt(
                    "the metastore does not tell which records of the log it has; it was written without one".into(),
                ));
            }
        };
        let mut view = View::new(base)?;
        let mut last = applied;
        log.replay(zone, applied, &mut |lsn, command| {
            let changes = machine::apply(&Reader { view: &view, caches: &caches }, &command).map_err(|error| {
                Error::Corrupt(format!(
                    "record {lsn} of the log does not fit the metastore of zone {zone} ({error}); \
                     nothing was changed; restore the data folder from a backup"
                ))
            })?;
            last = lsn;
            view.apply(changes, lsn, &caches)
        })?;
        if view.info().is_none() {
            return Err(Error::NotFound);
        }
        let pressure = Pressure::default();
        pressure.appended(view.active.bytes(), 0);
        let inner = Arc::new(Inner {
            zone,
            log,
            clock,
            next_ino: AtomicU64::new(view.usage().next_ino.0),
            state: State::new(metastore, caches, view),
            writer: Mutex::new(Writing::Open),
            drain: Mutex::new(()),
            pressure,
            wake: Wake::default(),
            last: AtomicU64::new(last.0),
            checkpoint: AtomicU64::new(applied.0),
            newest_time: Mutex::new(Timestamp { sec: i64::MIN, nsec: 0 }),
            config,
        });
        if inner.config.access == Access::ReadWrite {
            inner.log.checkpointed(zone, applied)?;
        }
        let background = inner.config.access == Access::ReadWrite && inner.config.background == Background::Thread;
        let threads = if background { Some(Threads::start(&inner)?) } else { None };
        Ok(LocalZone { inner, threads: Mutex::new(threads) })
    }

    /// Ends the zone in good order: everything goes into the metastore. Where that has no
    /// space, it stays in the log, durable. Close the log after its zones.
    pub fn close(&self) -> Result<()> {
        drop(self.threads.lock().take());
        let drained = match self.inner.checkpoint() {
            Err(Error::NoSpace | Error::QuotaExceeded) => self.inner.sync(),
            other => other,
        };
        let mut writer = self.inner.writer.lock();
        if matches!(*writer, Writing::Open) {
            *writer = Writing::Closed;
        }
        drop(writer);
        drained?;
        // Commands that came in between; as a rule none.
        if self.inner.last.load(Ordering::Acquire) > self.inner.log.durable().0 { self.inner.sync() } else { Ok(()) }
    }
}
