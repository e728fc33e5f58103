//! Attributes and statistics, as replies carry them.

use std::time::Duration;

use crate::write::Writer;

/// A point in time: seconds since 1970, may be negative, and nanoseconds forward from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Time {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// A file's attributes: `fuse_attr`, and the time of birth, which only STATX carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attr {
    /// `st_ino`.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
    /// Kind and permissions, as `st_mode`.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// `st_blksize`.
    pub blksize: u32,
}

impl Attr {
    /// Bytes of `fuse_attr`.
    pub(crate) const BYTES: usize = 88;

    pub(crate) fn put(&self, out: &mut Writer<'_>) {
        out.u64(self.ino).u64(self.size).u64(self.blocks);
        out.u64(self.atime.sec as u64).u64(self.mtime.sec as u64).u64(self.ctime.sec as u64);
        out.u32(self.atime.nsec).u32(self.mtime.nsec).u32(self.ctime.nsec);
        out.u32(self.mode).u32(self.nlink).u32(self.uid).u32(self.gid).u32(self.rdev).u32(self.blksize).u32(0);
    }

    /// `fuse_statx`. The kernel fills in the device of the file system itself.
    pub(crate) fn put_statx(&self, out: &mut Writer<'_>) {
        const BASIC_AND_BIRTH: u32 = 0x7ff | 0x800;
        out.u32(BASIC_AND_BIRTH).u32(self.blksize).u64(0).u32(self.nlink).u32(self.uid).u32(self.gid);
        out.u16(self.mode as u16).u16(0).u64(self.ino).u64(self.size).u64(self.blocks).u64(0);
        for time in [self.atime, self.btime, self.ctime, self.mtime] {
            out.u64(time.sec as u64).u32(time.nsec).u32(0);
        }
        // new_decode_dev() of the kernel.
        out.u32((self.rdev & 0xfff00) >> 8).u32((self.rdev & 0xff) | ((self.rdev >> 12) & 0xfff00));
        out.u32(0).u32(0).zeros(14 * 8);
    }
}

/// A name's node: `fuse_entry_out`. Node 0 says that there is no such name, for `ttl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// What the kernel will call the node.
    pub node: u64,
    /// Attributes.
    pub attr: Attr,
    /// How long the kernel may keep name and attributes.
    pub ttl: Duration,
}

impl Entry {
    /// Bytes of `fuse_entry_out`.
    pub(crate) const BYTES: usize = 40 + Attr::BYTES;

    pub(crate) fn put(&self, out: &mut Writer<'_>) {
        let (sec, nsec) = (self.ttl.as_secs(), self.ttl.subsec_nanos());
        // Node ids are never used twice, so no generation tells two uses apart.
        out.u64(self.node).u64(0).u64(sec).u64(sec).u32(nsec).u32(nsec);
        self.attr.put(out);
    }
}

/// Answer to statfs(2): `fuse_kstatfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of struct statfs")]
pub struct FsStat {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
}

impl FsStat {
    pub(crate) fn put(&self, out: &mut Writer<'_>) {
        out.u64(self.blocks).u64(self.bfree).u64(self.bavail).u64(self.files).u64(self.ffree);
        out.u32(self.bsize).u32(self.namelen).u32(self.bsize).u32(0).zeros(24);
    }
}
