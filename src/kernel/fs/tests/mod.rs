//! Tests of the syscalls, on a zone straight over a metastore in memory.

mod ahead;
mod consistency;
mod content;
mod directories;
mod mounts;
mod names;
mod orphans;
mod path;
mod threads;
mod truncation;
mod xattrs;

use std::sync::Arc;

use super::testing::{TestClock, TestContent, TestMetastore};
use super::{Attr, Caller, FsOptions, NexusFs, OpenOptions};
use crate::Timestamp;
use crate::command::{Command, NewKind};
use crate::direct_zone::DirectZone;
use crate::error::Result;
use crate::ids::NodeId;
use crate::metastore::{Metastore, Table};

const ROOT: NodeId = NodeId::ROOT;
const USER: Caller = Caller { uid: 1000, gid: 100, umask: 0o022 };

/// Always the same, so that names always have the same positions.
const FORMAT: Command = Command::Format {
    id: [7; 16],
    hash_seed: 7,
    mode: 0o755,
    uid: 1000,
    gid: 100,
    now: Timestamp { sec: 1_000_000, nsec: 0 },
};

/// A file system with everything that tests look at from the side.
struct Rig {
    fs: NexusFs,
    store: Arc<TestMetastore>,
    content: Arc<TestContent>,
    clock: Arc<TestClock>,
}

impl Rig {
    fn new(options: FsOptions) -> Rig {
        Rig::over(Arc::new(TestMetastore::default()), TestContent::new(), options)
    }

    fn over(store: Arc<TestMetastore>, content: Arc<TestContent>, options: FsOptions) -> Rig {
        let clock = TestClock::new();
        let zone = DirectZone::open_or_format_as(store.clone(), content.clone(), clock.clone(), &FORMAT).unwrap();
        let fs = NexusFs::with_zone(Arc::new(zone), content.clone(), options).unwrap();
        Rig { fs, store, content, clock }
    }

    fn plain() -> Rig {
        Rig::new(FsOptions::default())
    }

    fn caching() -> Rig {
        Rig::new(FsOptions { caching_client: true, ..FsOptions::default() })
    }

    fn make(&self, parent: NodeId, name: &str, kind: NewKind) -> Result<Attr> {
        self.fs.make(&USER, parent, name.as_bytes(), kind, 0o755)
    }

    fn file(&self, parent: NodeId, name: &str) -> NodeId {
        self.make(parent, name, NewKind::Regular).unwrap().node
    }

    fn dir(&self, parent: NodeId, name: &str) -> NodeId {
        self.make(parent, name, NewKind::Directory).unwrap().node
    }

    fn lookup(&self, parent: NodeId, name: &str) -> Result<NodeId> {
        self.fs.lookup(parent, name.as_bytes()).map(|attr| attr.node)
    }

    fn open(&self, node: NodeId) -> u64 {
        self.fs.open(node, OpenOptions::default()).unwrap()
    }

    fn write(&self, node: NodeId, offset: u64, data: &[u8]) {
        assert_eq!(self.fs.write(node, 0, offset, data, false), Ok(data.len()));
    }

    fn read(&self, node: NodeId, offset: u64, len: usize) -> Vec<u8> {
        // Rubbish before, as a buffer that is used again has it: holes must overwrite it.
        let mut buf = vec![0xa5; len.min(1 << 20)];
        let len = self.fs.read(node, 0, offset, &mut buf).unwrap();
        buf.truncate(len);
        buf
    }

    fn size(&self, node: NodeId) -> u64 {
        self.fs.getattr(node).unwrap().inode.size
    }

    /// Records in a table.
    fn count(&self, table: Table) -> usize {
        let mut count = 0;
        let snapshot = self.store.snapshot().unwrap();
        let scanned = snapshot.scan(table, &[], &[0xff; 64], &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        });
        scanned.unwrap();
        count
    }
}

/// Bytes that tell their place.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed) | 1).collect()
}
