//! Identifiers, each its own type so that one can never be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares a newtype over an unsigned integer, with big-endian key bytes.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// Inode number within a zone: 1 is the zone's root; numbers are never used twice.
    Ino(u64)
);
id!(
    /// A zone's place in this node's mount table; 0 is the root zone. Not stable between nodes.
    ZoneIndex(u16)
);
id!(
    /// A blob of content: writer id in the high 24 bits, that writer's counter in the low 40.
    /// Zero means "no blob": an extent of reserved zeros.
    BlobId(u64)
);
id!(
    /// Position of a record in a node's log; the first record has 1.
    Lsn(u64)
);
id!(
    /// A mounted object store; 0 is the data folder's own.
    StoreId(u16)
);
id!(
    /// What the kernel's FUSE client calls a file: zone index in the high 16 bits, inode
    /// number in the low 48.
    NodeId(u64)
);

impl Ino {
    /// The root directory of every zone.
    pub const ROOT: Ino = Ino(1);
    /// Largest inode number that a [`NodeId`] can carry.
    pub const MAX: Ino = Ino((1 << 48) - 1);
}

impl BlobId {
    /// The blob of extents that are reserved but hold no data.
    pub const NONE: BlobId = BlobId(0);
    /// Bits that count the blobs of one writer.
    pub const COUNTER_BITS: u32 = 40;

    /// The `counter`th blob of `writer`.
    pub fn new(writer: u32, counter: u64) -> BlobId {
        BlobId((u64::from(writer) << Self::COUNTER_BITS) | (counter & ((1 << Self::COUNTER_BITS) - 1)))
    }

    /// Whether this is a real blob, not the mark of reserved zeros.
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

impl NodeId {
    /// The root of the root zone; equal to FUSE's root id.
    pub const ROOT: NodeId = NodeId(1);

    /// The node of `ino` in the zone at `zone`.
    pub fn new(zone: ZoneIndex, ino: Ino) -> NodeId {
        NodeId((u64::from(zone.0) << 48) | (ino.0 & Ino::MAX.0))
    }

    /// The zone that this node lives in.
    pub fn zone(self) -> ZoneIndex {
        ZoneIndex((self.0 >> 48) as u16)
    }

    /// The inode number inside its zone.
    pub fn ino(self) -> Ino {
        Ino(self.0 & Ino::MAX.0)
    }
}
