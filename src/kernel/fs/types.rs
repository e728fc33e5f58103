//! What syscalls take and answer.

use bytes::Bytes;

use crate::ids::NodeId;
use crate::model::{FileKind, Inode};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Bits to clear from the mode of new files.
    pub umask: u32,
}

impl Caller {
    /// The superuser, for calls that the system makes itself.
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0 };
}

/// A file's attributes, with the id that the adapter knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Node id; also `st_ino`.
    pub node: NodeId,
    /// The inode.
    pub inode: Inode,
}

impl Attr {
    /// Preferred I/O size in bytes, and the unit that space is counted in.
    pub const BLOCK_BYTES: u64 = 4096;

    /// `st_size`: an entry of a directory counts 32 bytes, in whole blocks.
    pub fn size(&self) -> u64 {
        match self.inode.kind {
            FileKind::Directory | FileKind::Mount => {
                self.inode.size.saturating_mul(32).max(1).next_multiple_of(Self::BLOCK_BYTES)
            }
            _ => self.inode.size,
        }
    }

    /// `st_blocks`, in units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        let bytes = match self.inode.kind {
            FileKind::Directory | FileKind::Mount => self.size(),
            _ => self.inode.allocated,
        };
        bytes.div_ceil(Self::BLOCK_BYTES) * (Self::BLOCK_BYTES / 512)
    }
}

/// An entry of a directory listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Where to go on after this entry.
    pub cookie: u64,
    /// The node it names.
    pub node: NodeId,
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Bytes,
    /// Its attributes, where the listing was asked for them and they are there.
    pub attr: Option<Attr>,
}

/// What an open handle may do, and how: the parts of `open(2)`'s flags that reach a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Cut the file to nothing.
    pub truncate: bool,
    /// Fail if the file is there already (create only).
    pub exclusive: bool,
    /// The caller lacks the right to keep setuid and setgid bits when it changes the file.
    pub kill_privileges: bool,
}

/// `lseek(2)`'s two questions about holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// First data at or after the offset.
    Data,
    /// First hole at or after the offset; the end of the file is one.
    Hole,
}

/// Numbers for `statfs(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsStats {
    /// Bytes of the medium.
    pub total_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes free for the daemon's user.
    pub available_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Inodes that could still be made.
    pub free_inodes: u64,
}

/// How `setxattr(2)` is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XattrFlags {
    /// May it make, replace, or both.
    pub mode: crate::command::XattrMode,
    /// The caller stands outside the file's group, so setting an ACL clears set-group-id.
    pub kill_setgid: bool,
}
