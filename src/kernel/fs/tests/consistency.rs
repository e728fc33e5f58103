//! What readers of a zone that others change ask the others for, and when.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::command::{Interest, Outcome};
use crate::error::Error;
use crate::fs::Consistency;
use crate::ids::Ino;
use crate::metastore::MetaRead;
use crate::model::{Dentry, Inode, Usage, ZoneInfo};
use crate::name::Name;
use crate::zone::{Zone, ZoneStats};

/// A zone that others have, too; what they did is seen once they are asked.
struct Shared {
    here: DirectZone,
    /// A change of another node that has not come here yet.
    on_its_way: parking_lot::Mutex<Option<Command>>,
    asked: AtomicUsize,
    is_cut_off: AtomicBool,
}

impl Zone for Shared {
    fn propose(&self, command: &Command) -> crate::Result<Outcome> {
        self.be_current(Interest::Anything)?;
        self.here.propose(command)
    }

    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> crate::Result<()>) -> crate::Result<()> {
        self.here.read(read)
    }

    fn inode(&self, ino: Ino) -> crate::Result<Option<Inode>> {
        self.here.inode(ino)
    }

    fn lookup(&self, parent: Ino, name: Name<'_>) -> crate::Result<Option<(u64, Dentry)>> {
        self.here.lookup(parent, name)
    }

    fn sync(&self) -> crate::Result<()> {
        self.here.sync()
    }

    fn catch_up(&self, interest: Interest<'_>) -> crate::Result<bool> {
        let _ = self.be_current(interest);
        Ok(true)
    }

    fn be_current(&self, _: Interest<'_>) -> crate::Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_cut_off.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("cut off".into()));
        }
        if let Some(command) = self.on_its_way.lock().take() {
            self.here.propose(&command)?;
        }
        Ok(())
    }

    fn is_replicated(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> crate::Result<()> {
        self.here.checkpoint()
    }

    fn allocate_ino(&self) -> crate::Result<Ino> {
        self.here.allocate_ino()
    }

    fn now(&self) -> Timestamp {
        self.here.now()
    }

    fn info(&self) -> ZoneInfo {
        self.here.info()
    }

    fn usage(&self) -> crate::Result<Usage> {
        self.here.usage()
    }

    fn stats(&self) -> crate::Result<ZoneStats> {
        self.here.stats()
    }
}

fn shared() -> (Arc<Shared>, NexusFs) {
    let content = TestContent::new();
    let store = Arc::new(TestMetastore::default());
    let here = DirectZone::open_or_format_as(store, content.clone(), TestClock::new(), &FORMAT).unwrap();
    let zone = Arc::new(Shared {
        here,
        on_its_way: Default::default(),
        asked: Default::default(),
        is_cut_off: Default::default(),
    });
    let options = FsOptions { caching_client: true, ..FsOptions::default() };
    let fs = NexusFs::with_zone(zone.clone(), content, options).unwrap();
    (zone, fs)
}

impl Shared {
    fn elsewhere(&self, command: Command) {
        *self.on_its_way.lock() = Some(command);
    }

    fn asked(&self, call: impl FnOnce()) -> usize {
        let before = self.asked.load(Ordering::SeqCst);
        call();
        self.asked.load(Ordering::SeqCst) - before
    }
}

fn unlink(name: &str) -> Command {
    Command::Unlink { parent: Ino::ROOT, name: name.as_bytes().into(), keep: false, now: Timestamp { sec: 1, nsec: 0 } }
}

#[test]
fn strictly_nothing_is_missed_and_relaxed_nobody_is_asked() {
    let (zone, fs) = shared();
    for name in [b"a", b"b", b"c"] {
        fs.make(&USER, ROOT, name, NewKind::Regular, 0o644).unwrap();
    }
    zone.elsewhere(unlink("a"));
    let found = fs.lookup(ROOT, b"a");
    assert!(found.is_ok(), "by default a name that is here need not be there any more");
    assert_eq!(fs.open(found.unwrap().node, OpenOptions::default()), Err(Error::Stale), "but it is not opened");
    assert_eq!(fs.lookup(ROOT, b"a").unwrap_err(), Error::NotFound);

    fs.set_consistency(Consistency::Strict);
    zone.elsewhere(unlink("b"));
    assert_eq!(fs.lookup(ROOT, b"b").unwrap_err(), Error::NotFound);
    assert_eq!(zone.asked(|| drop(fs.lookup(ROOT, b"b"))), 1, "asked once, not twice, for what is not there");
    let node = fs.lookup(ROOT, b"c").unwrap().node;
    zone.elsewhere(unlink("c"));
    assert_eq!(fs.getattr(node).unwrap_err(), Error::Stale);

    fs.set_consistency(Consistency::Relaxed);
    zone.elsewhere(unlink("d"));
    let asked = zone.asked(|| {
        assert_eq!(fs.lookup(ROOT, b"d").unwrap_err(), Error::NotFound);
        fs.opendir(ROOT).unwrap();
    });
    assert_eq!(asked, 0);
}

#[test]
fn who_is_cut_off_reads_what_is_here_but_not_where_nothing_may_be_missed() {
    let (zone, fs) = shared();
    let node = fs.make(&USER, ROOT, b"a", NewKind::Regular, 0o644).unwrap().node;
    zone.is_cut_off.store(true, Ordering::SeqCst);
    fs.open(node, OpenOptions::default()).unwrap();
    assert_eq!(fs.lookup(ROOT, b"b").unwrap_err(), Error::NotFound);
    fs.set_consistency(Consistency::Strict);
    for failed in [
        fs.open(node, OpenOptions::default()).map(drop),
        fs.lookup(ROOT, b"a").map(drop),
        fs.lookup(ROOT, b"b").map(drop),
        fs.getattr(node).map(drop),
        fs.opendir(ROOT).map(drop),
    ] {
        assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    }
}
