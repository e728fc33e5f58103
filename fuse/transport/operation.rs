//! What requests ask for, parsed.

use crate::abi::{self, fattr, opcode};
use crate::attr::Time;
use crate::read::Reader;
use crate::request::{Groups, ParseError, Request};
use crate::write::Writer;

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This one.
    At(Time),
}

/// Arguments of SETATTR; `None` leaves as is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of struct stat")]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// The open file it is done through.
    pub handle: Option<u64>,
    /// Take setuid, setgid and capabilities away.
    pub kill_privileges: bool,
}

/// A range of a file and who locks it how: `fuse_file_lock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: u32,
    /// Process.
    pub pid: u32,
}

impl FileLock {
    pub(crate) fn put(&self, out: &mut Writer<'_>) {
        out.u64(self.start).u64(self.end).u32(self.kind).u32(self.pid);
    }
}

/// Arguments of GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// The open file.
    pub handle: u64,
    /// Who holds or wants it, in the kernel's own terms.
    pub owner: u64,
    /// What.
    pub lock: FileLock,
    /// A lock of flock(2), not of fcntl(2).
    pub flock: bool,
}

/// Arguments of FALLOCATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of fallocate(2)")]
pub struct Fallocate {
    pub handle: u64,
    pub offset: u64,
    pub length: u64,
    pub mode: u32,
}

/// Arguments of COPY_FILE_RANGE; the source is the request's own node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of copy_file_range(2)")]
pub struct CopyRange {
    pub handle_in: u64,
    pub offset_in: u64,
    pub node_out: u64,
    pub handle_out: u64,
    pub offset_out: u64,
    pub len: u64,
    pub flags: u64,
    /// The answer may say more than 4 GiB: [`crate::Answer::Copied`], not `Written`.
    pub wide: bool,
}

/// Arguments of SETXATTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XattrSet<'a> {
    /// The attribute.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub flags: u32,
    /// An ACL is set from outside the file's group: take setgid away.
    pub kill_setgid: bool,
}

/// A request for anything but bulk data. The node is in the header.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs, reason = "the names are those of the system calls")]
pub enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Getattr {
        handle: Option<u64>,
    },
    Statx {
        handle: Option<u64>,
        mask: u32,
    },
    Setattr(SetAttr),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
        groups: Option<Groups<'a>>,
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
        groups: Option<Groups<'a>>,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        groups: Option<Groups<'a>>,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        flags: u32,
        kill_privileges: bool,
        groups: Option<Groups<'a>>,
    },
    /// A file without a name, in the request's directory.
    Tmpfile {
        mode: u32,
        umask: u32,
        flags: u32,
        groups: Option<Groups<'a>>,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    /// A further name for `node`, in the request's directory.
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_privileges: bool,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        /// Of the descriptor: `offset` is where the kernel takes the file to end.
        append: bool,
        kill_privileges: bool,
    },
    Flush {
        handle: u64,
        owner: u64,
    },
    Release {
        handle: u64,
        owner: u64,
        flock: bool,
    },
    Fsync {
        handle: u64,
        data_only: bool,
    },
    Opendir {
        flags: u32,
    },
    Releasedir {
        handle: u64,
    },
    Fsyncdir {
        handle: u64,
        data_only: bool,
    },
    Statfs,
    Syncfs,
    Setxattr(XattrSet<'a>),
    /// `size` 0 asks for the value's length.
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Access {
        mask: u32,
    },
    Fallocate(Fallocate),
    Lseek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyRange),
    Getlk(LockRequest),
    Setlk {
        request: LockRequest,
        wait: bool,
    },
    Ioctl {
        command: u32,
    },
    /// The connection ends.
    Destroy,
    /// Something that nobody here speaks.
    Unknown,
}

/// A request for bulk data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the system calls")]
pub enum Bulk {
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    /// Entries after `offset`, the position of the last one seen.
    Readdir {
        handle: u64,
        offset: u64,
        size: u32,
    },
    /// The same with attributes; each entry but the dots counts as a look-up.
    Readdirplus {
        handle: u64,
        offset: u64,
        size: u32,
    },
}

impl Bulk {
    /// The bulk request that `request` is, if it is one.
    pub fn parse(request: &Request<'_>) -> Result<Option<Bulk>, ParseError> {
        let make: fn(u64, u64, u32) -> Bulk = match request.header.opcode {
            opcode::READ => |handle, offset, size| Bulk::Read { handle, offset, size },
            opcode::READDIR => |handle, offset, size| Bulk::Readdir { handle, offset, size },
            opcode::READDIRPLUS => |handle, offset, size| Bulk::Readdirplus { handle, offset, size },
            _ => return Ok(None),
        };
        let mut read = Reader::new(request.operation);
        Ok(Some(make(read.u64()?, read.u64()?, read.u32()?)))
    }

    /// The most bytes that the answer may have.
    pub fn size(&self) -> u32 {
        match self {
            Bulk::Read { size, .. } | Bulk::Readdir { size, .. } | Bulk::Readdirplus { size, .. } => *size,
        }
    }
}

impl<'a> Operation<'a> {
    /// What `request` asks for.
    pub fn parse(request: &Request<'a>) -> Result<Operation<'a>, ParseError> {
        let mut op = Reader::new(request.operation);
        let mut names = Reader::new(request.payload);
        let parsed = match request.header.opcode {
            opcode::LOOKUP => Operation::Lookup { name: names.string()? },
            opcode::GETATTR => Operation::Getattr { handle: getattr_handle(&mut op)? },
            opcode::STATX => {
                let handle = getattr_handle(&mut op)?;
                op.skip(4)?;
                Operation::Statx { handle, mask: op.u32()? }
            }
            opcode::SETATTR => Operation::Setattr(setattr(&mut op)?),
            opcode::READLINK => Operation::Readlink,
            opcode::SYMLINK => {
                let (name, target) = (names.string()?, names.string()?);
                Operation::Symlink { name, target, groups: request.groups()? }
            }
            opcode::MKNOD => {
                let (mode, rdev, umask) = (op.u32()?, op.u32()?, op.u32()?);
                Operation::Mknod { name: names.string()?, mode, rdev, umask, groups: request.groups()? }
            }
            opcode::MKDIR => {
                let (mode, umask) = (op.u32()?, op.u32()?);
                Operation::Mkdir { name: names.string()?, mode, umask, groups: request.groups()? }
            }
            opcode::CREATE => {
                let (flags, mode, umask, open_flags) = (op.u32()?, op.u32()?, op.u32()?, op.u32()?);
                let kill_privileges = open_flags & abi::OPEN_KILL_SUIDGID != 0;
                let name = names.string()?;
                Operation::Create { name, mode, umask, flags, kill_privileges, groups: request.groups()? }
            }
            opcode::TMPFILE => {
                let (flags, mode, umask) = (op.u32()?, op.u32()?, op.u32()?);
                Operation::Tmpfile { mode, umask, flags, groups: request.groups()? }
            }
            opcode::UNLINK => Operation::Unlink { name: names.string()? },
            opcode::RMDIR => Operation::Rmdir { name: names.string()? },
            opcode::RENAME => {
                let new_parent = op.u64()?;
                Operation::Rename { name: names.string()?, new_parent, new_name: names.string()?, flags: 0 }
            }
            opcode::RENAME2 => {
                let (new_parent, flags) = (op.u64()?, op.u32()?);
                Operation::Rename { name: names.string()?, new_parent, new_name: names.string()?, flags }
            }
            opcode::LINK => Operation::Link { node: op.u64()?, name: names.string()? },
            opcode::OPEN => {
                let (flags, open_flags) = (op.u32()?, op.u32()?);
                Operation::Open { flags, kill_privileges: open_flags & abi::OPEN_KILL_SUIDGID != 0 }
            }
            opcode::WRITE => write(&mut op, request.payload)?,
            opcode::FLUSH => {
                let handle = op.u64()?;
                op.skip(8)?;
                Operation::Flush { handle, owner: op.u64()? }
            }
            opcode::RELEASE => {
                let (handle, _flags, flags, owner) = (op.u64()?, op.u32()?, op.u32()?, op.u64()?);
                Operation::Release { handle, owner, flock: flags & abi::RELEASE_FLOCK_UNLOCK != 0 }
            }
            opcode::FSYNC => {
                let (handle, data_only) = fsync(&mut op)?;
                Operation::Fsync { handle, data_only }
            }
            opcode::OPENDIR => Operation::Opendir { flags: op.u32()? },
            opcode::RELEASEDIR => Operation::Releasedir { handle: op.u64()? },
            opcode::FSYNCDIR => {
                let (handle, data_only) = fsync(&mut op)?;
                Operation::Fsyncdir { handle, data_only }
            }
            opcode::STATFS => Operation::Statfs,
            opcode::SYNCFS => Operation::Syncfs,
            opcode::SETXATTR => {
                let (size, flags, more) = (op.u32()?, op.u32()?, op.u32()?);
                let name = names.string()?;
                let value = exactly(names.rest(), size)?;
                let kill_setgid = more & abi::SETXATTR_ACL_KILL_SGID != 0;
                Operation::Setxattr(XattrSet { name, value, flags, kill_setgid })
            }
            opcode::GETXATTR => Operation::Getxattr { size: op.u32()?, name: names.string()? },
            opcode::LISTXATTR => Operation::Listxattr { size: op.u32()? },
            opcode::REMOVEXATTR => Operation::Removexattr { name: names.string()? },
            opcode::ACCESS => Operation::Access { mask: op.u32()? },
            opcode::FALLOCATE => {
                let (handle, offset, length, mode) = (op.u64()?, op.u64()?, op.u64()?, op.u32()?);
                Operation::Fallocate(Fallocate { handle, offset, length, mode })
            }
            opcode::LSEEK => Operation::Lseek { handle: op.u64()?, offset: op.u64()?, whence: op.u32()? },
            opcode::COPY_FILE_RANGE => Operation::CopyFileRange(copy_range(&mut op, false)?),
            opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange(copy_range(&mut op, true)?),
            opcode::GETLK => Operation::Getlk(lock(&mut op)?),
            opcode::SETLK => Operation::Setlk { request: lock(&mut op)?, wait: false },
            opcode::SETLKW => Operation::Setlk { request: lock(&mut op)?, wait: true },
            opcode::IOCTL => {
                op.skip(12)?;
                Operation::Ioctl { command: op.u32()? }
            }
            opcode::DESTROY => Operation::Destroy,
            _ => Operation::Unknown,
        };
        Ok(parsed)
    }
}

fn getattr_handle(op: &mut Reader<'_>) -> Result<Option<u64>, ParseError> {
    let flags = op.u32()?;
    op.skip(4)?;
    let handle = op.u64()?;
    Ok((flags & abi::GETATTR_FH != 0).then_some(handle))
}

fn setattr(op: &mut Reader<'_>) -> Result<SetAttr, ParseError> {
    let valid = op.u32()?;
    op.skip(4)?;
    let (handle, size) = (op.u64()?, op.u64()?);
    op.skip(8)?;
    let (atime, mtime, _ctime) = (op.u64()? as i64, op.u64()? as i64, op.u64()?);
    let (atime_nsec, mtime_nsec, _ctime_nsec) = (op.u32()?, op.u32()?, op.u32()?);
    let mode = op.u32()?;
    op.skip(4)?;
    let (uid, gid) = (op.u32()?, op.u32()?);
    let has = |flag| valid & flag != 0;
    let time = |set, now, sec, nsec| match () {
        () if has(now) => Some(SetTime::Now),
        () if has(set) => Some(SetTime::At(Time { sec, nsec })),
        () => None,
    };
    Ok(SetAttr {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_nsec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_nsec),
        handle: has(fattr::FH).then_some(handle),
        kill_privileges: has(fattr::KILL_SUIDGID),
    })
}

fn write<'a>(op: &mut Reader<'_>, payload: &'a [u8]) -> Result<Operation<'a>, ParseError> {
    let (handle, offset, size, flags) = (op.u64()?, op.u64()?, op.u32()?, op.u32()?);
    let data = exactly(payload, size)?;
    op.skip(8)?;
    let append = op.u32()? & abi::O_APPEND != 0 && flags & abi::WRITE_CACHE == 0;
    Ok(Operation::Write { handle, offset, data, append, kill_privileges: flags & abi::WRITE_KILL_SUIDGID != 0 })
}

/// `bytes`, which must be as many as a field of the same request says.
fn exactly(bytes: &[u8], size: u32) -> Result<&[u8], ParseError> {
    if bytes.len() == size as usize { Ok(bytes) } else { Err(ParseError::Length) }
}

fn fsync(op: &mut Reader<'_>) -> Result<(u64, bool), ParseError> {
    Ok((op.u64()?, op.u32()? & abi::FSYNC_FDATASYNC != 0))
}

fn copy_range(op: &mut Reader<'_>, wide: bool) -> Result<CopyRange, ParseError> {
    Ok(CopyRange {
        handle_in: op.u64()?,
        offset_in: op.u64()?,
        node_out: op.u64()?,
        handle_out: op.u64()?,
        offset_out: op.u64()?,
        len: op.u64()?,
        flags: op.u64()?,
        wide,
    })
}

fn lock(op: &mut Reader<'_>) -> Result<LockRequest, ParseError> {
    let (handle, owner) = (op.u64()?, op.u64()?);
    let lock = FileLock { start: op.u64()?, end: op.u64()?, kind: op.u32()?, pid: op.u32()? };
    Ok(LockRequest { handle, owner, lock, flock: op.u32()? & abi::LK_FLOCK != 0 })
}

#[cfg(test)]
#[path = "operation_tests.rs"]
mod tests;
