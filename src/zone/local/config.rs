//! What a local zone is made of, and its settings.

use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::{Clock, Metastore, ZoneIndex};

use crate::log::NodeLog;

/// The parts that a zone works with.
#[derive(Clone)]
pub struct ZoneParts {
    /// The zone's number in the records of the node's log.
    pub zone: ZoneIndex,
    /// The node's log.
    pub log: Arc<NodeLog>,
    /// Where the zone's state is checkpointed; the zone's own.
    pub metastore: Arc<dyn Metastore>,
    /// Time for commands.
    pub clock: Arc<dyn Clock>,
}

/// What a new zone starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewZone {
    /// Random identity.
    pub id: [u8; 16],
    /// Random seed of the hashes of names.
    pub hash_seed: u64,
    /// Permission bits of the root directory.
    pub mode: u32,
    /// Owner of the root directory.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What may be done with the zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Only reads: no file is changed, not even to recover from a crash.
    ReadOnly,
}

/// Who checkpoints and syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Background {
    /// A thread of the zone's own.
    Thread,
    /// Nobody but the callers: a proposal that fills the memory table drains it, and what is
    /// not synced stays so. For tests, which want one order of events.
    Inline,
}

/// Settings of a [`super::LocalZone`].
#[derive(Clone, Debug)]
pub struct ZoneConfig {
    /// What may be done.
    pub access: Access,
    /// Who works behind.
    pub background: Background,
    /// Bytes of changes in memory at which they are drained into the metastore. While that
    /// goes on, more may come in, more and more slowly, up to three times this in all; the
    /// drain itself takes about half of what it drains.
    pub memtable_bytes: u64,
    /// Bytes of log since the last checkpoint that bring on the next.
    pub checkpoint_log_bytes: u64,
    /// How long after the last change an idle zone is checkpointed.
    pub checkpoint_idle: Duration,
    /// How often what nobody synced is synced.
    pub sync_interval: Duration,
    /// Bytes of the caches of inodes and directory entries together.
    pub cache_bytes: u64,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        ZoneConfig {
            access: Access::ReadWrite,
            background: Background::Thread,
            memtable_bytes: 24 << 20,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_idle: Duration::from_secs(10),
            sync_interval: Duration::from_secs(1),
            cache_bytes: 32 << 20,
        }
    }
}
