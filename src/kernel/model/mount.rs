//! What a mount entry points at.

use serde::{Deserialize, Serialize};

/// Value in the `symlink` table of a directory whose entry is of kind
/// [`crate::model::FileKind::Mount`]: the zone whose root stands there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MountTarget {
    /// The zone.
    pub zone: [u8; 16],
    /// What people call it.
    pub name: String,
    /// Where some of its members were heard of, `host:port`: hints, no more.
    pub addresses: Vec<String>,
}
