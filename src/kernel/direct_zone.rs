//! A zone without a log: commands are applied straight to a metastore. What a kernel runs on
//! that was given nothing else, and the reference that zones with a log are compared with.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::command::{Command, Outcome};
use crate::content::ContentSync;
use crate::error::{Error, Result};
use crate::ids::{Ino, Lsn};
use crate::machine;
use crate::metastore::{Durability, MetaRead, Metastore, WriteBatch};
use crate::model::{Dentry, Inode, Usage, ZoneInfo};
use crate::name::Name;
use crate::zone::{Zone, ZoneStats};

/// Permission bits of a new zone's root directory.
const ROOT_MODE: u32 = 0o755;

/// A [`Zone`] over a metastore alone.
///
/// It promises less than the trait asks where the metastore does: an acknowledged command
/// survives SIGKILL only if the store's buffered commits do. `sync` holds in full.
pub struct DirectZone {
    metastore: Arc<dyn Metastore>,
    content: Arc<dyn ContentSync>,
    clock: Arc<dyn Clock>,
    info: ZoneInfo,
    next_ino: AtomicU64,
    writer: Mutex<Writer>,
}

/// What only one command at a time may change.
struct Writer {
    /// Commands applied since the zone was opened.
    applied: u64,
    /// How many of them are durable.
    durable: u64,
    /// Why changes are refused.
    failed: Option<String>,
}

impl DirectZone {
    /// Opens the zone in `metastore`, or makes one if there is none; `root_owner` is user
    /// and group of a new root directory.
    pub fn open_or_format(
        metastore: Arc<dyn Metastore>,
        content: Arc<dyn ContentSync>,
        clock: Arc<dyn Clock>,
        root_owner: (u32, u32),
    ) -> Result<DirectZone> {
        let random = RandomState::new();
        let id = u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1));
        let format = Command::Format {
            id: id.to_be_bytes(),
            hash_seed: random.hash_one(2),
            mode: ROOT_MODE,
            uid: root_owner.0,
            gid: root_owner.1,
            now: clock.now(),
        };
        DirectZone::open_or_format_as(metastore, content, clock, &format)
    }

    /// As [`DirectZone::open_or_format`], with the `Format` command to use.
    pub fn open_or_format_as(
        metastore: Arc<dyn Metastore>,
        content: Arc<dyn ContentSync>,
        clock: Arc<dyn Clock>,
        format: &Command,
    ) -> Result<DirectZone> {
        let mut snapshot = metastore.snapshot()?;
        if snapshot.zone_info()?.is_none() {
            let applied = machine::apply(&*snapshot, format)?;
            let batch = WriteBatch { expect: Vec::new(), writes: applied.writes };
            metastore.commit(&batch, Durability::Durable)?;
            snapshot = metastore.snapshot()?;
        }
        let info = snapshot.zone_info()?.ok_or_else(|| Error::Corrupt("a zone was made, but is not there".into()))?;
        let next_ino = AtomicU64::new(snapshot.usage()?.next_ino.0);
        let writer = Mutex::new(Writer { applied: 0, durable: 0, failed: None });
        Ok(DirectZone { metastore, content, clock, info, next_ino, writer })
    }
}

impl Writer {
    fn check(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(Error::Unavailable(format!("changes are refused, because a sync failed: {why}"))),
        }
    }
}

impl Zone for DirectZone {
    fn propose(&self, command: &Command) -> Result<Outcome> {
        let mut writer = self.writer.lock();
        writer.check()?;
        let snapshot = self.metastore.snapshot()?;
        let applied = machine::apply(&*snapshot, command)?;
        drop(snapshot);
        let batch = WriteBatch { expect: Vec::new(), writes: applied.writes };
        self.metastore.commit(&batch, Durability::Buffered)?;
        writer.applied += 1;
        Ok(applied.outcome)
    }

    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        let snapshot = self.metastore.snapshot()?;
        read(&*snapshot)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.metastore.snapshot()?.inode(ino)
    }

    fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>> {
        let snapshot = self.metastore.snapshot()?;
        match snapshot.inode(parent)? {
            Some(inode) => machine::find_dentry_in(&*snapshot, self.info.hash_seed, (parent, &inode), name.as_bytes()),
            None => Ok(None),
        }
    }

    fn sync(&self) -> Result<()> {
        // No command in between: what is committed must not point at content that is not synced.
        let mut writer = self.writer.lock();
        writer.check()?;
        if let Err(error) = self.content.sync() {
            writer.failed = Some(error.to_string());
            return Err(error);
        }
        let committed = self.metastore.commit(&WriteBatch::default(), Durability::Durable);
        match &committed {
            Ok(()) => writer.durable = writer.applied,
            // The store has changed nothing, and there may be space again.
            Err(Error::NoSpace | Error::QuotaExceeded) => {}
            Err(error) => writer.failed = Some(error.to_string()),
        }
        committed
    }

    fn checkpoint(&self) -> Result<()> {
        self.sync()
    }

    fn allocate_ino(&self) -> Result<Ino> {
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        if ino > Ino::MAX.0 { Err(Error::NoSpace) } else { Ok(Ino(ino)) }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn info(&self) -> ZoneInfo {
        self.info
    }

    fn usage(&self) -> Result<Usage> {
        self.metastore.snapshot()?.usage()
    }

    fn stats(&self) -> Result<ZoneStats> {
        let (last, durable) = {
            let writer = self.writer.lock();
            (Lsn(writer.applied), Lsn(writer.durable))
        };
        let metastore_bytes = self.metastore.stats()?.stored_bytes;
        Ok(ZoneStats { last, durable, checkpoint: last, pending_bytes: 0, log_bytes: 0, metastore_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::command::NewKind;
    use crate::conformance::zone::{Harness, run};
    use crate::fs::testing::{TestClock, TestContent, TestMetastore};

    struct OverMemory {
        store: Arc<TestMetastore>,
        content: Arc<TestContent>,
    }

    impl OverMemory {
        fn new() -> OverMemory {
            OverMemory { store: Arc::default(), content: TestContent::new() }
        }

        fn open(&self) -> DirectZone {
            let format = Command::Format { id: [7; 16], hash_seed: 7, mode: 0o755, uid: 0, gid: 0, now: NOW };
            let (store, content) = (self.store.clone(), self.content.clone());
            DirectZone::open_or_format_as(store, content, TestClock::new(), &format).unwrap()
        }
    }

    impl Harness for OverMemory {
        fn fresh(&mut self) -> Arc<dyn Zone> {
            self.store = Arc::default();
            Arc::new(self.open())
        }

        fn reopen(&mut self, zone: Arc<dyn Zone>) -> Arc<dyn Zone> {
            drop(zone);
            Arc::new(self.open())
        }
    }

    const NOW: Timestamp = Timestamp { sec: 1, nsec: 0 };

    fn create(zone: &DirectZone, name: &[u8]) -> Result<Outcome> {
        zone.propose(&Command::Create {
            parent: Ino::ROOT,
            name: name.into(),
            ino: zone.allocate_ino()?,
            kind: NewKind::Regular,
            mode: 0,
            umask: 0,
            uid: 0,
            gid: 0,
            now: NOW,
        })
    }

    #[test]
    fn conforms() {
        run(&mut OverMemory::new());
    }

    #[test]
    fn two_zones_are_never_alike() {
        let open = || {
            let content = TestContent::new();
            DirectZone::open_or_format(Arc::<TestMetastore>::default(), content, TestClock::new(), (5, 6)).unwrap()
        };
        let (a, b) = (open(), open());
        assert!(a.info().id != b.info().id && a.info().hash_seed != b.info().hash_seed);
        let root = a.inode(Ino::ROOT).unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.mode), (5, 6, 0o755));
    }

    #[test]
    fn after_a_failed_sync_changes_are_refused() {
        let rig = OverMemory::new();
        let zone = rig.open();
        create(&zone, b"f").unwrap();
        zone.sync().unwrap();
        assert_eq!(rig.content.syncs.load(Ordering::SeqCst), 1, "content goes with it");
        rig.store.fail_durable.store(true, Ordering::SeqCst);
        assert!(matches!(zone.sync(), Err(Error::Io(_))));
        rig.store.fail_durable.store(false, Ordering::SeqCst);
        assert!(matches!(create(&zone, b"g"), Err(Error::Unavailable(_))));
        assert!(matches!(zone.sync(), Err(Error::Unavailable(_))));
        assert!(zone.lookup(Ino::ROOT, Name::new(b"f").unwrap()).unwrap().is_some(), "reads go on");
    }
}
