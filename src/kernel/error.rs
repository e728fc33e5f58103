//! The kernel's error type and the one table from error to errno.

use std::fmt;

/// What went wrong, in kinds that tell the caller what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// No such name in the directory, or no such path.
    NotFound,
    /// The inode is gone: a handle or node id outlived its file.
    Stale,
    /// The name exists already.
    Exists,
    /// A directory was needed.
    NotDirectory,
    /// Anything but a directory was needed.
    IsDirectory,
    /// The directory still has entries.
    NotEmpty,
    /// An argument is out of its domain.
    Invalid,
    /// A name is longer than 255 bytes.
    NameTooLong,
    /// A symlink target is longer than 4,095 bytes, or an attribute than 64 KiB.
    TooLong,
    /// The file would grow beyond 2^63-1 bytes.
    FileTooLarge,
    /// The inode has as many links as it can have.
    TooManyLinks,
    /// A zone stands there.
    Busy,
    /// A zone stands there that this node takes no part in.
    Remote,
    /// Source and target lie in different zones.
    CrossZone,
    /// The extended attribute is not there.
    NoAttribute,
    /// A path led through more symbolic links than are followed.
    LinkLoop,
    /// The caller's buffer is too small for the answer.
    Range,
    /// The caller may not do this, whatever the mode bits say.
    NotPermitted,
    /// The mode bits or the ACL refuse it.
    AccessDenied,
    /// The volume or zone takes no changes now.
    ReadOnly,
    /// No space: the disk below, or the volume's own limit, is full.
    NoSpace,
    /// The user's quota on the disk below is used up.
    QuotaExceeded,
    /// No data at or after this offset.
    NoSuchOffset,
    /// The operation is not offered for this kind of file or volume.
    NotSupported,
    /// No store is mounted that could hold content.
    NoStore,
    /// A device node, fifo or socket was opened through the API.
    NoDevice,
    /// A blob, record or page is damaged; the text names it.
    Corrupt(String),
    /// The disk or the store below failed; the text names what and how.
    Io(String),
    /// A precondition of a compare-and-swap did not hold, or somebody has a lock.
    Conflict,
    /// The zone takes no changes of files for a moment; to be tried again.
    Paused,
    /// To wait for this lock would be for ever: whoever has it waits for one of the caller's.
    Deadlock,
    /// There are as many locks, or waits for them, as there can be.
    NoLocks,
    /// The locks that the file is used under were lost.
    LockLost,
    /// A needed part is shutting down or has failed before; the text says which.
    Unavailable(String),
    /// No majority of a zone's members has taken a change in time; it may still be made. The text says why.
    NoMajority(String),
    /// A command of a version that this build does not know.
    UnknownVersion(String),
    /// Whoever asked got a signal that ends it, and does not wait any more.
    Interrupted,
}

/// Result of kernel operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The errno values that Nexus answers with, by their Linux numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are errno(3)'s")]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    EAGAIN = 11,
    EACCES = 13,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    EFBIG = 27,
    ENOSPC = 28,
    EROFS = 30,
    EMLINK = 31,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOLCK = 37,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENODATA = 61,
    EREMOTE = 66,
    EOPNOTSUPP = 95,
    EINPROGRESS = 115,
    ESTALE = 116,
    EDQUOT = 122,
}

impl Error {
    /// The errno for this error. The only place where errors become numbers.
    pub fn errno(&self) -> Errno {
        match self {
            Error::NotFound => Errno::ENOENT,
            Error::Stale => Errno::ESTALE,
            Error::Exists => Errno::EEXIST,
            Error::NotDirectory => Errno::ENOTDIR,
            Error::IsDirectory => Errno::EISDIR,
            Error::NotEmpty => Errno::ENOTEMPTY,
            Error::Invalid => Errno::EINVAL,
            Error::NameTooLong | Error::TooLong => Errno::ENAMETOOLONG,
            Error::FileTooLarge => Errno::EFBIG,
            Error::TooManyLinks => Errno::EMLINK,
            Error::Busy => Errno::EBUSY,
            Error::Remote => Errno::EREMOTE,
            Error::CrossZone => Errno::EXDEV,
            Error::NoAttribute => Errno::ENODATA,
            Error::LinkLoop => Errno::ELOOP,
            Error::Range => Errno::ERANGE,
            Error::NotPermitted => Errno::EPERM,
            Error::AccessDenied => Errno::EACCES,
            Error::ReadOnly => Errno::EROFS,
            Error::NoSpace => Errno::ENOSPC,
            Error::QuotaExceeded => Errno::EDQUOT,
            Error::NoSuchOffset | Error::NoDevice => Errno::ENXIO,
            Error::NotSupported => Errno::EOPNOTSUPP,
            Error::NoStore => Errno::ENODEV,
            Error::Corrupt(_)
            | Error::Io(_)
            | Error::Unavailable(_)
            | Error::NoMajority(_)
            | Error::UnknownVersion(_) => Errno::EIO,
            Error::Conflict => Errno::EAGAIN,
            Error::Interrupted => Errno::EINTR,
            Error::Paused => Errno::EINPROGRESS,
            Error::Deadlock => Errno::EDEADLK,
            Error::NoLocks => Errno::ENOLCK,
            Error::LockLost => Errno::EIO,
        }
    }

    /// Whether it is not known if a change was made that this is the answer to.
    pub fn is_unclear(&self) -> bool {
        matches!(self, Error::Io(_) | Error::Unavailable(_) | Error::NoMajority(_))
    }

    /// An I/O error with what was being done, keeping "disk full" and "over quota" apart.
    pub fn from_io(what: impl fmt::Display, error: &std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(28) => Error::NoSpace,
            Some(122) => Error::QuotaExceeded,
            _ => Error::Io(format!("{what}: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Error::NotFound => "no such file or directory",
            Error::Stale => "the file is gone",
            Error::Exists => "the name exists already",
            Error::NotDirectory => "not a directory",
            Error::IsDirectory => "is a directory",
            Error::NotEmpty => "directory not empty",
            Error::Invalid => "invalid argument",
            Error::NameTooLong => "the name is longer than 255 bytes",
            Error::TooLong => "the symlink target or attribute is too long",
            Error::FileTooLarge => "the file would grow beyond 2^63-1 bytes",
            Error::TooManyLinks => "too many links",
            Error::Busy => "another zone is mounted there",
            Error::Remote => "another zone is mounted there, which this node has not joined",
            Error::CrossZone => "source and target are in different zones",
            Error::NoAttribute => "no such attribute",
            Error::LinkLoop => "too many levels of symbolic links",
            Error::Range => "the buffer is too small",
            Error::NotPermitted => "operation not permitted",
            Error::AccessDenied => "permission denied",
            Error::ReadOnly => "read-only file system",
            Error::NoSpace => "no space left",
            Error::QuotaExceeded => "disk quota exceeded",
            Error::NoSuchOffset => "no data at or after this offset",
            Error::NotSupported => "operation not supported",
            Error::NoStore => "no object store is mounted for content",
            Error::NoDevice => "no such device or address",
            Error::Corrupt(text)
            | Error::Io(text)
            | Error::Unavailable(text)
            | Error::NoMajority(text)
            | Error::UnknownVersion(text) => text,
            Error::Conflict => "changed by somebody else meanwhile",
            Error::Interrupted => "interrupted",
            Error::Paused => "a directory of the zone is being shared; try again",
            Error::Deadlock => "whoever has the lock waits for one of this process",
            Error::NoLocks => "no more locks can be taken",
            Error::LockLost => {
                "the lock was lost, as this node was cut off from the zone's others; open the file again"
            }
        };
        f.write_str(text)
    }
}

impl std::error::Error for Error {}
