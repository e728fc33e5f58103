//! Changes of files with very many extents: no command gets huge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::command::{AttrChange, Outcome, RangeOp};
use crate::ids::Ino;
use crate::metastore::MetaRead;
use crate::model::{Dentry, Inode, Usage, ZoneInfo};
use crate::name::Name;
use crate::zone::{Zone, ZoneStats};

/// A zone that notes how many extents one command removed at most.
struct Watched {
    zone: DirectZone,
    store: Arc<TestMetastore>,
    most: AtomicU64,
}

impl Watched {
    fn extents(&self) -> u64 {
        let mut count = 0;
        let snapshot = self.store.snapshot().unwrap();
        let scanned = snapshot.scan(Table::Extent, &[], &[0xff; 32], &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        });
        scanned.unwrap();
        count
    }
}

impl Zone for Watched {
    fn propose(&self, command: &Command) -> Result<Outcome> {
        let watch = matches!(command, Command::SetAttr { .. } | Command::Range { .. } | Command::Clone { .. });
        let before = if watch { self.extents() } else { 0 };
        let outcome = self.zone.propose(command)?;
        if watch {
            self.most.fetch_max(before.abs_diff(self.extents()), Ordering::SeqCst);
        }
        Ok(outcome)
    }

    fn read(&self, read: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
        self.zone.read(read)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.zone.inode(ino)
    }

    fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Option<(u64, Dentry)>> {
        self.zone.lookup(parent, name)
    }

    fn sync(&self) -> Result<()> {
        self.zone.sync()
    }

    fn checkpoint(&self) -> Result<()> {
        self.zone.checkpoint()
    }

    fn allocate_ino(&self) -> Result<Ino> {
        self.zone.allocate_ino()
    }

    fn now(&self) -> Timestamp {
        self.zone.now()
    }

    fn info(&self) -> ZoneInfo {
        self.zone.info()
    }

    fn usage(&self) -> Result<Usage> {
        self.zone.usage()
    }

    fn stats(&self) -> Result<ZoneStats> {
        self.zone.stats()
    }
}

const EXTENTS: u64 = 10_000;

fn watched() -> (NexusFs, Arc<Watched>, NodeId) {
    let (store, content, clock) = (Arc::new(TestMetastore::default()), TestContent::new(), TestClock::new());
    let zone = DirectZone::open_or_format_as(store.clone(), content.clone(), clock, &FORMAT).unwrap();
    let watched = Arc::new(Watched { zone, store, most: AtomicU64::new(0) });
    let fs = NexusFs::with_zone(watched.clone(), content, FsOptions::default()).unwrap();
    let (file, _) = fs.create(&USER, ROOT, b"f", 0o644, OpenOptions::default()).unwrap();
    for n in 0..EXTENTS {
        fs.write(file.node, 0, n * 2, b"x", false).unwrap();
    }
    (fs, watched, file.node)
}

#[test]
fn truncation_goes_in_steps() {
    let (fs, zone, file) = watched();
    let size = |size| AttrChange { size: Some(size), ..AttrChange::default() };
    fs.setattr(&USER, file, &size(1001)).unwrap();
    assert_eq!((zone.extents(), fs.getattr(file).unwrap().inode.size), (501, 1001));
    fs.setattr(&USER, file, &size(0)).unwrap();
    assert_eq!((zone.extents(), fs.getattr(file).unwrap().inode.allocated), (0, 0));
    assert!(zone.most.load(Ordering::SeqCst) <= 4096);
}

#[test]
fn reserved_space_beyond_the_end_is_cut_without_growing_the_file() {
    let (fs, zone, file) = watched();
    for n in 0..EXTENTS {
        fs.fallocate(file, RangeOp::AllocateKeepSize, 100_000 + n * 2, 1).unwrap();
    }
    let size = |size| AttrChange { size: Some(size), ..AttrChange::default() };
    let cut = fs.setattr(&USER, file, &size(19_998)).unwrap();
    assert_eq!((cut.inode.size, zone.extents()), (19_998, EXTENTS - 1));
    assert!(zone.most.load(Ordering::SeqCst) <= 4096);
}

#[test]
fn ranges_and_clones_go_in_steps() {
    let (fs, zone, file) = watched();
    let (copy, _) = fs.create(&USER, ROOT, b"g", 0o644, OpenOptions::default()).unwrap();
    let len = EXTENTS * 2;
    assert_eq!(fs.copy_file_range(file, 0, copy.node, 1, len), Ok(len - 1), "to the end");
    assert_eq!(zone.extents(), EXTENTS * 2);
    assert_eq!(fs.copy_file_range(file, 0, copy.node, 0, len), Ok(len - 1), "over what is there");
    let read = |node| {
        let mut bytes = vec![0xa5; len as usize];
        let count = fs.read(node, 0, 0, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    };
    let a = read(file);
    assert!(a == read(copy.node)[..len as usize - 1]);
    fs.fallocate(copy.node, RangeOp::PunchHole, 0, len).unwrap();
    assert_eq!(zone.extents(), EXTENTS);
    fs.fallocate(file, RangeOp::Allocate, 0, len).unwrap();
    assert_eq!(fs.getattr(file).unwrap().inode.allocated, len);
    let b = read(file);
    assert!(b[..a.len()] == a && b[a.len()..] == [0]);
    fs.fallocate(file, RangeOp::ZeroRange, 0, len).unwrap();
    assert!(read(file).iter().all(|byte| *byte == 0));
    assert!(zone.most.load(Ordering::SeqCst) <= 4200, "{}", zone.most.load(Ordering::SeqCst));
}
