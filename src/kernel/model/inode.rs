//! The inode record.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::Ino;

/// Largest file in bytes.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;
/// Most names of one inode; most subdirectories of one directory, less two.
pub const MAX_LINKS: u32 = u32::MAX - 1;

/// Bits of `st_mode`, by their names in inode(7).
#[allow(missing_docs, reason = "the names are inode(7)'s")]
pub mod mode {
    pub const S_ISUID: u32 = 0o4000;
    pub const S_ISGID: u32 = 0o2000;
    pub const S_ISVTX: u32 = 0o1000;
    pub const S_IXGRP: u32 = 0o0010;
    /// Permission bits with setuid, setgid and sticky.
    pub const PERMISSIONS: u32 = 0o7777;
}

/// What kind of file an inode or dentry is. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// A directory that is the root of another zone. Dentries only.
    Mount,
}

impl FileKind {
    /// The file type bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => 0o100_000,
            FileKind::Directory | FileKind::Mount => 0o040_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Fifo => 0o010_000,
            FileKind::Socket => 0o140_000,
            FileKind::CharDevice => 0o020_000,
            FileKind::BlockDevice => 0o060_000,
        }
    }
}

/// Facts that spare a look-up in another table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InodeFlags(pub u32);

impl InodeFlags {
    /// The inode has extended attributes.
    pub const XATTR: InodeFlags = InodeFlags(1);
    /// It has `system.posix_acl_access`.
    pub const ACL_ACCESS: InodeFlags = InodeFlags(2);
    /// It has `system.posix_acl_default`.
    pub const ACL_DEFAULT: InodeFlags = InodeFlags(4);
    /// It has `security.capability`.
    pub const CAPABILITY: InodeFlags = InodeFlags(8);
    /// A directory in which a name once did not get the first position of its hash, so
    /// that looking a name up takes a scan.
    pub const COLLIDED: InodeFlags = InodeFlags(16);
    /// A file that was made without a name and may still get its first.
    pub const UNNAMED: InodeFlags = InodeFlags(32);
    /// A directory that another zone is mounted on: what is in it is out of sight.
    pub const MOUNT: InodeFlags = InodeFlags(64);

    /// Whether all of `flags` are set.
    pub fn has(self, flags: InodeFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Sets or clears `flags`.
    pub fn set(&mut self, flags: InodeFlags, on: bool) {
        if on { self.0 |= flags.0 } else { self.0 &= !flags.0 }
    }
}

/// Everything that stat(2) tells, and what the state machine needs beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// Kind of file.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// Device number of a device node, as the kernel encodes it.
    pub rdev: u32,
    /// Bytes of a file or of a symlink's target; entries of a directory.
    pub size: u64,
    /// Bytes that extents cover, reserved ones included.
    pub allocated: u64,
    /// Last read, as `relatime` keeps it.
    pub atime: Timestamp,
    /// Last change of content or entries.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// The directory that a directory stands in; itself for the root; zero for other kinds.
    pub parent: Ino,
    /// See [`InodeFlags`].
    pub flags: InodeFlags,
}

impl Inode {
    /// `st_mode`: type and permission bits.
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }

    /// Whether a change by somebody unprivileged takes anything from it beside.
    pub fn has_privileges(&self) -> bool {
        self.mode & (mode::S_ISUID | mode::S_ISGID) != 0 || self.flags.has(InodeFlags::CAPABILITY)
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}
