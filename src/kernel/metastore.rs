//! The `Metastore` pillar: an ordered key-value store with snapshots, atomic batches and
//! compare-and-swap. The only pillar that the kernel needs to start.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::Result;
use crate::ids::Ino;
use crate::model::{self, Inode, Usage, ZoneInfo, keys};

/// Tables of a metastore, a key space each. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// `<ino>` to inode.
    Inode = 1,
    /// `<parent><position>` to name, child and type.
    Dentry = 2,
    /// `<ino><file offset>` to length, blob, offset in blob.
    Extent = 3,
    /// `<ino>` to target.
    Symlink = 4,
    /// `<ino><name>` to value; ACLs are attributes named `system.posix_acl_*`.
    Xattr = 5,
    /// `<blob>` to store, state, length, live bytes.
    Blob = 6,
    /// `<blob><ino>`: the inode has, or once had, extents in the blob.
    BlobRef = 7,
    /// `<ino>`: no name left, waiting for its last user.
    Orphan = 8,
    /// Settings and zone tracking, by name.
    Sys = 9,
}

impl Table {
    /// Every table, in order of number.
    pub const ALL: [Table; 9] = [
        Table::Inode,
        Table::Dentry,
        Table::Extent,
        Table::Symlink,
        Table::Xattr,
        Table::Blob,
        Table::BlobRef,
        Table::Orphan,
        Table::Sys,
    ];

    /// The table's name in drivers that name their tables.
    pub fn name(self) -> &'static str {
        match self {
            Table::Inode => "inode",
            Table::Dentry => "dentry",
            Table::Extent => "extent",
            Table::Symlink => "symlink",
            Table::Xattr => "xattr",
            Table::Blob => "blob",
            Table::BlobRef => "blobref",
            Table::Orphan => "orphan",
            Table::Sys => "sys",
        }
    }
}

/// A key; every fixed-size key of the model fits inline.
pub type Key = SmallVec<[u8; 24]>;

/// What a scan calls for each pair, in key order.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reading side: one consistent state for as long as the reader lives.
pub trait MetaRead {
    /// The value at `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits the pairs with `start <= key < end` in ascending order until the visitor breaks.
    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()>;

    /// Visits the pairs with `start <= key < end` in descending order until the visitor breaks.
    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()>;

    /// An inode. A reader that holds inodes decoded answers from there.
    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        match self.get(Table::Inode, &keys::ino(ino))? {
            Some(bytes) => model::decode("inode", &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The zone's constants; `None` before it is formatted. A reader that knows them answers at once.
    fn zone_info(&self) -> Result<Option<ZoneInfo>> {
        match self.get(Table::Sys, &keys::sys(ZoneInfo::KEY))? {
            Some(bytes) => model::decode("zone", &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The zone's counters. A reader that knows them answers at once.
    fn usage(&self) -> Result<Usage> {
        match self.get(Table::Sys, &keys::sys(Usage::KEY))? {
            Some(bytes) => model::decode("usage", &bytes),
            None => Ok(Usage::default()),
        }
    }
}

/// A set of changes that becomes visible at once.
#[derive(Default, Debug, Clone)]
pub struct WriteBatch {
    /// Conditions that must hold for the batch to be applied: key's value is exactly this.
    pub expect: Vec<(Table, Key, Option<Bytes>)>,
    /// Puts (`Some`) and deletes (`None`), in order; of several to one key the last wins.
    pub writes: Vec<(Table, Key, Option<Bytes>)>,
}

/// How far a commit must have gone when it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Visible to readers of this process. May be lost, but only together with all later commits.
    Buffered,
    /// On stable storage, with everything committed before it.
    Durable,
}

/// Sizes that a metastore can tell cheaply.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct MetastoreStats {
    /// Bytes that the store takes on its medium.
    pub stored_bytes: u64,
    /// Bytes of memory that the store's cache holds now.
    pub cache_bytes: u64,
}

/// An ordered key-value store.
///
/// Implementors guarantee:
/// - a batch is atomic, for readers and across a crash;
/// - a snapshot taken after `commit` returned sees that commit, and never changes;
/// - commits are ordered: after a crash the store holds a prefix of them, which includes
///   every one that was `Durable`;
/// - `expect` is checked and the batch applied with no other commit between;
///   a miss changes nothing and answers [`crate::Error::Conflict`];
/// - a full disk answers [`crate::Error::NoSpace`], changes nothing, and a later commit
///   works once there is space.
pub trait Metastore: Send + Sync {
    /// A consistent view of the newest state.
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>>;

    /// Applies `batch`.
    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()>;

    /// Sizes.
    fn stats(&self) -> Result<MetastoreStats>;
}

/// A snapshot that threads can share.
pub trait MetaSnapshot: MetaRead + Send + Sync {}
impl<T: MetaRead + Send + Sync> MetaSnapshot for T {}
