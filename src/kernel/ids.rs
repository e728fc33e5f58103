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
    /// A blob of content: writer id in the high 24 bits, then 8 of the store that it is in or
    /// goes to, then that writer's counter. Zero means "no blob": an extent of reserved zeros.
    BlobId(u64)
);
id!(
    /// Position of a record in a node's log; the first record has 1.
    Lsn(u64)
);
id!(
    /// An object store of a volume; 0 is the one that it was made with.
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

impl StoreId {
    /// The largest number that a [`BlobId`] can carry.
    pub const MAX: StoreId = StoreId(255);
}

impl BlobId {
    /// The blob of extents that are reserved but hold no data.
    pub const NONE: BlobId = BlobId(0);
    /// The blob of extents whose bytes are lost: reading them fails.
    pub const LOST: BlobId = BlobId(u64::MAX);
    /// Bits that count the blobs of one writer.
    pub const COUNTER_BITS: u32 = 32;

    /// The `counter`th blob of `writer`, in the volume's first store.
    pub fn new(writer: u32, counter: u64) -> BlobId {
        BlobId::in_store(writer, StoreId(0), counter)
    }

    /// The `counter`th blob of `writer`, in a store up to [`StoreId::MAX`].
    pub fn in_store(writer: u32, store: StoreId, counter: u64) -> BlobId {
        let counter = counter & ((1 << Self::COUNTER_BITS) - 1);
        let store = u64::from(store.0.min(StoreId::MAX.0)) << Self::COUNTER_BITS;
        BlobId((u64::from(writer) << (Self::COUNTER_BITS + 8)) | store | counter)
    }

    /// The store that it is in, or goes to once it is sealed.
    pub fn store(self) -> StoreId {
        StoreId(((self.0 >> Self::COUNTER_BITS) & 0xff) as u16)
    }

    /// Who counted it, and the number.
    pub fn origin(self) -> (u32, u64) {
        ((self.0 >> (Self::COUNTER_BITS + 8)) as u32, self.0 & ((1 << Self::COUNTER_BITS) - 1))
    }

    /// Whether this is a real blob, not the mark of reserved zeros or of what is lost.
    pub fn is_some(self) -> bool {
        self != Self::NONE && self != Self::LOST
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
