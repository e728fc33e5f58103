//! Counters and constants of a zone, in its `sys` table.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::Ino;

/// Value at `sys/usage`: what the zone holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes, orphans included.
    pub inodes: u64,
    /// Bytes that extents cover.
    pub allocated: u64,
    /// One more than the highest inode number ever used.
    pub next_ino: Ino,
}

/// Value at `sys/zone`: what never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ZoneInfo {
    /// Random identity.
    pub id: [u8; 16],
    /// Seed of [`crate::model::name_hash`].
    pub hash_seed: u64,
    /// When the zone was made.
    pub created: Timestamp,
}

impl Usage {
    /// Name in the `sys` table.
    pub const KEY: &'static str = "usage";
}

impl ZoneInfo {
    /// Name in the `sys` table.
    pub const KEY: &'static str = "zone";
}
