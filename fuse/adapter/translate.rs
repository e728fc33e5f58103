//! Pure translations between the protocol's flag words and the kernel tier's types. The
//! numbers are Linux's own, from the headers named at each.

use nexus_fuse_transport::FileLock;
use nexus_kernel::command::{NewKind, RangeOp, RenameMode, XattrMode};
use nexus_kernel::fs::{LockFound, OpenOptions, Seek};
use nexus_kernel::{Error, Result};

/// `fcntl.h`.
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;

/// `linux/falloc.h`.
const FALLOC_FL_KEEP_SIZE: u32 = 0x01;
const FALLOC_FL_PUNCH_HOLE: u32 = 0x02;
const FALLOC_FL_COLLAPSE_RANGE: u32 = 0x08;
const FALLOC_FL_ZERO_RANGE: u32 = 0x10;
const FALLOC_FL_INSERT_RANGE: u32 = 0x20;

/// `linux/fs.h`.
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

/// `linux/xattr.h`.
const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// `unistd.h`.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// `fcntl.h`.
const F_RDLCK: u32 = 0;
const F_WRLCK: u32 = 1;
const F_UNLCK: u32 = 2;

/// What is asked for with a lock's kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// To take one, alone or with others.
    Take {
        /// Alone.
        exclusive: bool,
    },
    /// To give one back.
    Release,
}

/// What fcntl(2)'s kind of a lock asks for.
pub fn lock_kind(kind: u32) -> Result<LockKind> {
    match kind {
        F_RDLCK => Ok(LockKind::Take { exclusive: false }),
        F_WRLCK => Ok(LockKind::Take { exclusive: true }),
        F_UNLCK => Ok(LockKind::Release),
        _ => Err(Error::Invalid),
    }
}

/// How the kernel is told of a lock that is in the way; `None` is none. The process is told of this
/// node's alone: another's number would be one of somebody else here.
pub fn lock_answer(asked: &FileLock, found: Option<LockFound>) -> FileLock {
    let Some(LockFound { lock, is_here }) = found else { return FileLock { kind: F_UNLCK, ..*asked } };
    let kind = if lock.exclusive { F_WRLCK } else { F_RDLCK };
    FileLock { start: lock.start, end: lock.end, kind, pid: if is_here { lock.pid } else { 0 } }
}

/// What mknod(2) is to make, from `st_mode` and the device number. The kernel never asks
/// for directories or symlinks this way.
pub fn node_kind(mode: u32, rdev: u32) -> Result<NewKind> {
    match mode & 0o170_000 {
        0 | 0o100_000 => Ok(NewKind::Regular),
        0o010_000 => Ok(NewKind::Fifo),
        0o140_000 => Ok(NewKind::Socket),
        0o020_000 => Ok(NewKind::CharDevice(rdev)),
        0o060_000 => Ok(NewKind::BlockDevice(rdev)),
        _ => Err(Error::Invalid),
    }
}

/// The parts of open(2)'s flags that reach a file system; access modes and the rest are
/// the VFS's work.
pub fn open_options(flags: u32, kill_privileges: bool) -> OpenOptions {
    let truncate = flags & O_TRUNC != 0;
    OpenOptions { truncate, exclusive: flags & O_EXCL != 0, kill_privileges: truncate && kill_privileges }
}

/// What fallocate(2)'s mode asks for.
pub fn range_op(mode: u32) -> Result<RangeOp> {
    const PUNCH: u32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: u32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(RangeOp::Allocate),
        FALLOC_FL_KEEP_SIZE => Ok(RangeOp::AllocateKeepSize),
        PUNCH => Ok(RangeOp::PunchHole),
        FALLOC_FL_ZERO_RANGE => Ok(RangeOp::ZeroRange),
        ZERO_KEEP => Ok(RangeOp::ZeroRangeKeepSize),
        FALLOC_FL_COLLAPSE_RANGE => Ok(RangeOp::Collapse),
        FALLOC_FL_INSERT_RANGE => Ok(RangeOp::Insert),
        _ => Err(Error::NotSupported),
    }
}

/// How renameat2(2)'s flags treat the target, and whether they leave a whiteout.
pub fn rename_mode(flags: u32) -> Result<(RenameMode, bool)> {
    const NOREPLACE_WHITEOUT: u32 = RENAME_NOREPLACE | RENAME_WHITEOUT;
    match flags {
        0 => Ok((RenameMode::Replace, false)),
        RENAME_NOREPLACE => Ok((RenameMode::NoReplace, false)),
        RENAME_EXCHANGE => Ok((RenameMode::Exchange, false)),
        RENAME_WHITEOUT => Ok((RenameMode::Replace, true)),
        NOREPLACE_WHITEOUT => Ok((RenameMode::NoReplace, true)),
        _ => Err(Error::Invalid),
    }
}

/// How setxattr(2)'s flags treat an attribute that is there.
pub fn xattr_mode(flags: u32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Set),
        XATTR_CREATE => Ok(XattrMode::Create),
        XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Error::Invalid),
    }
}

/// What lseek(2) looks for.
pub fn seek(whence: u32) -> Result<Seek> {
    match whence {
        SEEK_DATA => Ok(Seek::Data),
        SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(Error::Invalid),
    }
}

/// Answer to getxattr(2) and listxattr(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrAnswer<'a> {
    /// The caller asks how many bytes there are.
    Size(u32),
    /// The bytes.
    Data(&'a [u8]),
}

/// Fits `value` to the caller's buffer of `size` bytes, where 0 asks for the length only.
pub fn xattr_answer(value: &[u8], size: u32) -> Result<XattrAnswer<'_>> {
    let len = u32::try_from(value.len()).map_err(|_| Error::TooLong)?;
    match size {
        0 => Ok(XattrAnswer::Size(len)),
        size if len <= size => Ok(XattrAnswer::Data(value)),
        _ => Err(Error::Range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mknod_kinds_keep_their_device_number() {
        assert_eq!(node_kind(0o644, 0), Ok(NewKind::Regular));
        assert_eq!(node_kind(0o100_600, 0), Ok(NewKind::Regular));
        assert_eq!(node_kind(0o020_600, 0xfff0_0fff), Ok(NewKind::CharDevice(0xfff0_0fff)));
        assert_eq!(node_kind(0o060_600, 0x801), Ok(NewKind::BlockDevice(0x801)));
        assert_eq!(node_kind(0o010_600, 0), Ok(NewKind::Fifo));
        assert_eq!(node_kind(0o140_600, 0), Ok(NewKind::Socket));
        assert_eq!(node_kind(0o040_700, 0), Err(Error::Invalid));
        assert_eq!(node_kind(0o120_777, 0), Err(Error::Invalid));
    }

    #[test]
    fn fallocate_modes() {
        assert_eq!(range_op(0), Ok(RangeOp::Allocate));
        assert_eq!(range_op(1), Ok(RangeOp::AllocateKeepSize));
        assert_eq!(range_op(2), Err(Error::NotSupported), "punching needs KEEP_SIZE");
        assert_eq!(range_op(3), Ok(RangeOp::PunchHole));
        assert_eq!(range_op(0x08), Ok(RangeOp::Collapse));
        assert_eq!(range_op(0x10), Ok(RangeOp::ZeroRange));
        assert_eq!(range_op(0x11), Ok(RangeOp::ZeroRangeKeepSize));
        assert_eq!(range_op(0x20), Ok(RangeOp::Insert));
        assert_eq!(range_op(0x40), Err(Error::NotSupported));
        assert_eq!(range_op(u32::MAX), Err(Error::NotSupported));
    }

    #[test]
    fn rename_flags() {
        assert_eq!(rename_mode(0), Ok((RenameMode::Replace, false)));
        assert_eq!(rename_mode(1), Ok((RenameMode::NoReplace, false)));
        assert_eq!(rename_mode(2), Ok((RenameMode::Exchange, false)));
        assert_eq!(rename_mode(4), Ok((RenameMode::Replace, true)));
        assert_eq!(rename_mode(5), Ok((RenameMode::NoReplace, true)));
        for bad in [3, 6, 7, 8] {
            assert_eq!(rename_mode(bad), Err(Error::Invalid), "{bad}");
        }
    }

    #[test]
    fn attributes_fit_the_callers_buffer() {
        assert_eq!(xattr_answer(b"abc", 0), Ok(XattrAnswer::Size(3)));
        assert_eq!(xattr_answer(b"abc", 3), Ok(XattrAnswer::Data(b"abc")));
        assert_eq!(xattr_answer(b"abc", 2), Err(Error::Range));
        assert_eq!(xattr_answer(b"", 1), Ok(XattrAnswer::Data(b"")));
        assert_eq!(xattr_mode(1), Ok(XattrMode::Create));
        assert_eq!(xattr_mode(3), Err(Error::Invalid));
    }

    #[test]
    fn only_truncating_opens_kill_privileges() {
        let plain = open_options(0o2, true);
        assert!(!plain.truncate && !plain.exclusive && !plain.kill_privileges);
        let user = open_options(O_TRUNC | 0o2, true);
        assert!(user.truncate && user.kill_privileges);
        let root = open_options(O_TRUNC | O_EXCL, false);
        assert!(root.truncate && root.exclusive && !root.kill_privileges);
    }
}
