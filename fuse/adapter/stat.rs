//! A file's attributes in the protocol's terms.

use std::time::Duration;

use nexus_kernel::Timestamp;
use nexus_kernel::model::FileKind;

/// What `fuse_attr` carries, whatever the transport packs it into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Node id, which is also `st_ino`.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Kind of file.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: u16,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as the kernel's 32-bit encoding has it.
    pub rdev: u32,
}

impl Stat {
    /// `st_blksize`.
    pub const BLOCK_BYTES: u32 = 4096;
}

/// How long the kernel may keep what it is told, where nothing changes behind its back.
/// Long, but not for ever: the kernel counts it in jiffies from now.
pub const LONG_TTL: Duration = Duration::from_secs(3600);
