//! What a `NexusFs` is told when it starts.

use crate::clock::Timestamp;
use crate::model::Inode;

const DAY_SEC: i64 = 24 * 60 * 60;

/// When a read is noted in the file's access time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum AtimePolicy {
    /// If the noted time is not younger than the last change, or is a day old.
    #[default]
    Relatime = 0,
    /// At every read.
    Strict = 1,
    /// Never.
    Never = 2,
}

impl AtimePolicy {
    /// Whether a read at `now` is to be noted.
    pub fn is_due(self, inode: &Inode, now: Timestamp) -> bool {
        match self {
            AtimePolicy::Never => false,
            AtimePolicy::Strict => inode.atime != now,
            AtimePolicy::Relatime => {
                inode.atime <= inode.mtime
                    || inode.atime <= inode.ctime
                    || now.sec.saturating_sub(inode.atime.sec) >= DAY_SEC
            }
        }
    }

    pub(super) fn from_byte(byte: u8) -> AtimePolicy {
        match byte {
            1 => AtimePolicy::Strict,
            2 => AtimePolicy::Never,
            _ => AtimePolicy::Relatime,
        }
    }
}

/// What a reader of a zone that other nodes change, too, may miss. Local zones miss nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Consistency {
    /// Nothing that was written and closed before a file is opened, nor names that are not here
    /// yet, while a majority of the members answers; else what is here has to do.
    #[default]
    CloseToOpen = 0,
    /// Nothing at all: every look-up, stat and open is as of now, or fails.
    Strict = 1,
    /// Other nodes are never asked.
    Relaxed = 2,
}

impl Consistency {
    pub(super) fn from_byte(byte: u8) -> Consistency {
        match byte {
            1 => Consistency::Strict,
            2 => Consistency::Relaxed,
            _ => Consistency::CloseToOpen,
        }
    }
}

/// Options of a `NexusFs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsOptions {
    /// When reads are noted.
    pub atime: AtimePolicy,
    /// Refuse every change; can be switched while running.
    pub read_only: bool,
    /// The client keeps inodes by id without opening them, and tells by `forget` when it
    /// lets go, as the kernel's FUSE client does. Unlinked inodes then stay until they are
    /// forgotten; else until their last handle is released.
    pub caching_client: bool,
}
