//! Where a file's new content goes, and what fsync waits for.

use serde::{Deserialize, Serialize};

use crate::ids::StoreId;
use crate::model::InodeFlags;

/// Bits of [`InodeFlags`] that hold a placement: what a new inode takes over from the
/// directory that it is made in.
const STORE_SHIFT: u32 = 16;
const STORE_BITS: u32 = 0xff << STORE_SHIFT;
const FSYNC_SHIFT: u32 = 24;
const FSYNC_BITS: u32 = 0b11 << FSYNC_SHIFT;

/// When fsync(2) answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum FsyncLevel {
    /// As the store says.
    #[default]
    Store,
    /// Once it is durable on this machine.
    Local,
    /// Once the content is in its store, too.
    Remote,
}

/// Where new content of a file, or of what is made in a directory, goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Placement {
    /// The store, at most [`StoreId::MAX`].
    pub store: StoreId,
    /// What fsync waits for.
    pub fsync: FsyncLevel,
}

impl InodeFlags {
    /// Where new content goes.
    pub fn placement(self) -> Placement {
        let fsync = match (self.0 & FSYNC_BITS) >> FSYNC_SHIFT {
            1 => FsyncLevel::Local,
            2 => FsyncLevel::Remote,
            _ => FsyncLevel::Store,
        };
        Placement { store: StoreId(((self.0 & STORE_BITS) >> STORE_SHIFT) as u16), fsync }
    }

    /// These flags with another placement.
    pub fn placed(self, placement: Placement) -> InodeFlags {
        let fsync = match placement.fsync {
            FsyncLevel::Store => 0,
            FsyncLevel::Local => 1,
            FsyncLevel::Remote => 2,
        };
        let store = u32::from(placement.store.0.min(StoreId::MAX.0));
        let kept = self.0 & !(STORE_BITS | FSYNC_BITS);
        InodeFlags(kept | (store << STORE_SHIFT) | (fsync << FSYNC_SHIFT))
    }

    /// The flags that what is made in a directory with these begins with.
    pub fn inherited(self) -> InodeFlags {
        InodeFlags::default().placed(self.placement())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_leaves_other_flags_alone() {
        for fsync in [FsyncLevel::Store, FsyncLevel::Local, FsyncLevel::Remote] {
            for store in [0, 1, 200, 255] {
                let placement = Placement { store: StoreId(store), fsync };
                for others in [InodeFlags::default(), InodeFlags::XATTR, InodeFlags(63)] {
                    let placed = others.placed(placement);
                    assert_eq!(placed.placement(), placement);
                    assert!(placed.has(others));
                    assert_eq!(placed.placed(Placement::default()), others);
                    assert_eq!(placed.inherited().placement(), placement);
                    assert_eq!(placed.inherited().placed(Placement::default()), InodeFlags::default());
                }
            }
        }
    }
}
