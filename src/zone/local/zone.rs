//! [`LocalZone`], the face of the local zone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexus_kernel::model::{Dentry, Inode, Usage, ZoneInfo};
use nexus_kernel::zone::ZoneStats;
use nexus_kernel::{Command, Error, Ino, Lsn, MetaRead, Name, Outcome, Result, Timestamp, Zone};
use parking_lot::Mutex;

use super::inner::Inner;
use super::threads::Threads;

/// A zone whose commands this node's log orders.
///
/// Dropping it without [`LocalZone::close`] is like a crash: what was acknowledged is in the
/// log. The log and the metastore may be used by nobody else for this zone.
pub struct LocalZone {
    pub(super) inner: Arc<Inner>,
    pub(super) threads: Mutex<Option<Threads>>,
}

impl LocalZone {
    /// Proposes what `decide` says. Nothing is changed between what it reads and that: all
    /// other changes wait.
    pub fn propose_alone(&self, decide: impl FnOnce() -> Result<Command>) -> Result<Outcome> {
        self.inner.propose_alone(decide)
    }

    /// [`crate::digest`] of the zone's state.
    pub fn digest(&self) -> Result<u128> {
        let mut digest = 0;
        self.inner.state.read(&mut |state| {
            digest = crate::digest(state)?;
            Ok(())
        })?;
        Ok(digest)
    }
}

impl Zone for LocalZone {
    fn propose(&self, command: &Command) -> Result<Outcome> {
        self.inner.propose(command)
    }

    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.inner.state.read(read)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.inner.state.inode(ino)
    }

    fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>> {
        self.inner.state.lookup(parent, name)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn checkpoint(&self) -> Result<()> {
        self.inner.checkpoint()
    }

    fn allocate_ino(&self) -> Result<Ino> {
        let ino = self.inner.next_ino.fetch_add(1, Ordering::Relaxed);
        if ino > Ino::MAX.0 { Err(Error::NoSpace) } else { Ok(Ino(ino)) }
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn info(&self) -> ZoneInfo {
        self.inner.state.info()
    }

    fn usage(&self) -> Result<Usage> {
        Ok(self.inner.state.view.read_recursive().usage())
    }

    fn stats(&self) -> Result<ZoneStats> {
        let inner = &self.inner;
        let pending_bytes = {
            let view = inner.state.view.read_recursive();
            view.active.bytes() + view.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
        };
        let log = inner.log.stats();
        let last = Lsn(inner.last.load(Ordering::Acquire));
        Ok(ZoneStats {
            last,
            durable: log.durable.min(last),
            checkpoint: Lsn(inner.checkpoint.load(Ordering::Acquire)).min(last),
            pending_bytes,
            log_bytes: log.bytes,
            metastore_bytes: inner.state.metastore.stats()?.stored_bytes,
        })
    }
}
