//! Conversions between our types and fuser's: attributes, times, errnos, log records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use nexus_kernel::model::FileKind;
use nexus_kernel::{Error, Timestamp};

use super::ops::SetTime;
use super::stat::Stat;

/// fuser's attributes.
pub fn file_attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino),
        size: stat.size,
        blocks: stat.blocks,
        atime: to_system_time(stat.atime),
        mtime: to_system_time(stat.mtime),
        ctime: to_system_time(stat.ctime),
        crtime: to_system_time(stat.btime),
        kind: file_type(stat.kind),
        perm: stat.permissions,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        blksize: Stat::BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes that say nothing but an id and a kind: id 0 is "no such file", which the
/// kernel may cache, and in a listing "no attributes".
pub fn bare_attr(ino: u64, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: Stat::BLOCK_BYTES,
        flags: 0,
    }
}

/// fuser's kind of file.
pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory | FileKind::Mount => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// fuser's errno.
pub fn errno(error: &Error) -> ::fuser::Errno {
    ::fuser::Errno::from_i32(error.errno() as i32)
}

/// Whether a log record is fuser's complaint that nobody waits for a reply any more. It
/// makes that of every INTERRUPT that comes after its request was answered, or on another
/// thread's descriptor; nothing is wrong then.
pub fn is_noise(record: &log::Record<'_>) -> bool {
    record.target().starts_with("fuser") && {
        let text = record.args().to_string();
        text.starts_with("Failed to send FUSE reply") && text.ends_with("(os error 2)")
    }
}

/// A time for a reply. fuser encodes times before 1970 correctly.
fn to_system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time from a request.
pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_request_time(time)),
    }
}

/// Undoes what fuser makes of a request's seconds and nanoseconds. Before 1970 it counts
/// the nanoseconds backwards too, although the protocol counts them forward.
fn from_request_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { sec: after.as_secs() as i64, nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { sec: (before.as_secs() as i64).wrapping_neg(), nsec: before.subsec_nanos() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of the protocol's numbers.
    fn as_fuser_decodes(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 {
            UNIX_EPOCH + Duration::new(sec as u64, nsec)
        } else {
            UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec)
        }
    }

    /// What fuser 0.18 puts into a reply.
    fn as_fuser_encodes(time: SystemTime) -> (i64, u32) {
        let time = Timestamp::from(time);
        (time.sec, time.nsec)
    }

    #[test]
    fn times_survive_the_round_trip() {
        for (sec, nsec) in [
            (0, 0),
            (1, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-1, 999_999_999),
            (-2_208_988_800, 500_000_000),
            (4_294_967_296, 7),
            (253_402_300_799, 999_999_999),
            (i64::MAX, 0),
            (i64::MIN + 1, 3),
        ] {
            let stored = from_request_time(as_fuser_decodes(sec, nsec));
            assert_eq!((stored.sec, stored.nsec), (sec, nsec));
            assert_eq!(as_fuser_encodes(to_system_time(stored)), (sec, nsec));
        }
    }

    #[test]
    fn attributes_keep_size_and_device_number() {
        let stat = Stat {
            ino: 9,
            size: i64::MAX as u64,
            blocks: u64::MAX / 512,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
            kind: FileKind::CharDevice,
            permissions: 0o7777,
            nlink: u32::MAX,
            uid: u32::MAX - 1,
            gid: 7,
            rdev: 0xfff0_0fff,
        };
        let attr = file_attr(&stat);
        assert_eq!((attr.size, attr.blocks), (i64::MAX as u64, u64::MAX / 512));
        assert_eq!((attr.rdev, attr.perm, attr.kind), (0xfff0_0fff, 0o7777, FileType::CharDevice));
    }

    #[test]
    fn only_late_replies_are_noise() {
        let noise =
            |target, text: &str| is_noise(&log::Record::builder().target(target).args(format_args!("{text}")).build());
        let late = "Failed to send FUSE reply: No such file or directory (os error 2)";
        assert!(noise("fuser::reply", late));
        assert!(!noise("nexus_fuse::adapter", late));
        assert!(!noise("fuser::reply", "Failed to send FUSE reply: Invalid argument (os error 22)"));
    }

    #[test]
    fn errors_keep_their_number() {
        assert_eq!(i32::from(errno(&Error::NotEmpty)), 39);
        assert_eq!(i32::from(errno(&Error::Io("x".into()))), 5);
    }
}
