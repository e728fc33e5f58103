//! One of the two sides of a comparison: a folder, the files open in it, and how a call is
//! made on it.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::failure::{Check, During};
use crate::model::holes;
use crate::model::op::{Allocate, Bits, Call, Node, OpenFlags, RenameFlag, SLOTS, Slot, When};

/// Times before this are not "now" but set by a call, and must be kept exactly.
const SET_BY_HAND_BEFORE_S: i64 = 1_500_000_000;

/// What a call answered, with what may differ between file systems taken out.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// A count.
    Number(u64),
    /// Bytes read.
    Bytes(Vec<u8>),
    /// A listing, sorted, with the kinds that it told.
    Names(Vec<(Vec<u8>, &'static str)>),
    /// Attributes.
    Stat(View),
    /// Access and change time, where a call has set them.
    Times(Option<(i64, i64)>, Option<(i64, i64)>),
    /// It failed.
    Error(Errno),
    /// The call makes no sense here and was not made.
    NotMade,
    /// The answer contradicts itself.
    Absurd(String),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Done => f.write_str("done"),
            Reply::Number(number) => write!(f, "{number}"),
            Reply::Bytes(bytes) => {
                let hash = crate::tree::hash(bytes.as_slice()).unwrap_or(0);
                let head = bytes.get(..bytes.len().min(24)).unwrap_or_default();
                write!(f, "{} bytes {head:02x?}.. of hash {hash:x}", bytes.len())
            }
            Reply::Names(names) => {
                write!(
                    f,
                    "{:?}",
                    names.iter().map(|(n, k)| format!("{} {k}", String::from_utf8_lossy(n))).collect::<Vec<_>>()
                )
            }
            Reply::Stat(view) => write!(f, "{view:?}"),
            Reply::Times(atime, mtime) => write!(f, "atime {atime:?} mtime {mtime:?}"),
            Reply::Error(errno) => write!(f, "{errno:?}"),
            Reply::NotMade => f.write_str("not made"),
            Reply::Absurd(what) => write!(f, "ABSURD: {what}"),
        }
    }
}

/// Attributes that must be the same on both sides.
#[derive(Clone, PartialEq, Eq)]
pub struct View {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    size: i64,
    rdev: u64,
    mtime: Option<(i64, i64)>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let View { mode, uid, gid, nlink, size, rdev, mtime } = self;
        write!(f, "mode {mode:o} owner {uid}:{gid} nlink {nlink} size {size} rdev {rdev:x} mtime {mtime:?}")
    }
}

impl View {
    fn new(stat: &Stat) -> View {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        View {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: stat.st_nlink,
            size: if kind == FileType::Directory { 0 } else { stat.st_size },
            rdev: if device { stat.st_rdev } else { 0 },
            mtime: by_hand(stat.st_mtime, stat.st_mtime_nsec).filter(|_| kind != FileType::Fifo),
        }
    }
}

fn by_hand(sec: i64, nsec: u64) -> Option<(i64, i64)> {
    (sec < SET_BY_HAND_BEFORE_S).then_some((sec, nsec as i64))
}

/// An inode, and its times of change: of content, of anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Inode number: the name may mean another inode after a call.
    pub ino: u64,
    /// Last change of content.
    pub mtime: (i64, u64),
    /// Last change of anything.
    pub ctime: (i64, u64),
}

/// One side.
pub struct Side {
    path: PathBuf,
    root: OwnedFd,
    slots: Mutex<Vec<Option<Arc<OwnedFd>>>>,
}

impl Side {
    /// The folder at `path`, with nothing open.
    pub fn new(path: &Path) -> Check<Side> {
        let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .during(format!("cannot open {}", path.display()))?;
        let slots = Mutex::new((0..SLOTS).map(|_| None).collect());
        Ok(Side { path: path.to_owned(), root, slots })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `call` as the calling thread.
    pub fn call(&self, call: &Call) -> Reply {
        match self.try_call(call) {
            Ok(reply) => reply,
            Err(errno) => Reply::Error(errno),
        }
    }

    /// What `lstat` says of a path.
    pub fn view(&self, path: &str) -> Result<View, Errno> {
        rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW).map(|stat| View::new(&stat))
    }

    /// Times of a path, not following a last symlink.
    pub fn times(&self, path: &str) -> Option<Times> {
        rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| times(&stat))
    }

    /// Times of an open file.
    pub fn times_open(&self, slot: Slot) -> Option<Times> {
        let stat = rustix::fs::fstat(self.slot(slot).ok()?).ok()?;
        // What goes through a pipe never comes to a FUSE file system's knowledge.
        (FileType::from_raw_mode(stat.st_mode) != FileType::Fifo).then(|| times(&stat))
    }

    fn slot(&self, slot: Slot) -> Result<Arc<OwnedFd>, Errno> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::from(slot)).cloned().flatten().ok_or(Errno::BADF)
    }

    fn put(&self, slot: Slot, fd: Option<OwnedFd>) -> bool {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get_mut(usize::from(slot)) {
            Some(place) => std::mem::replace(place, fd.map(Arc::new)).is_some(),
            None => false,
        }
    }

    /// A path that calls without a directory descriptor can take.
    fn through_proc(&self, path: &str) -> String {
        format!("/proc/self/fd/{}/{path}", self.root.as_raw_fd())
    }

    fn try_call(&self, call: &Call) -> Result<Reply, Errno> {
        let root = self.root.as_fd();
        match call {
            Call::Open { slot, path, flags, mode } => self.open(*slot, path, *flags, *mode),
            Call::Close { slot } => Ok(if self.put(*slot, None) { Reply::Done } else { Reply::Error(Errno::BADF) }),
            Call::Read { slot, offset, len } => {
                let mut bytes = Vec::with_capacity(*len);
                if *len > 0 {
                    rustix::io::pread(self.slot(*slot)?, rustix::buffer::spare_capacity(&mut bytes), *offset)?;
                }
                bytes.truncate(*len);
                Ok(Reply::Bytes(bytes))
            }
            Call::Write { slot, offset, len, fill } => {
                let count = rustix::io::pwrite(self.slot(*slot)?, &pattern(*len, *fill), *offset)?;
                Ok(Reply::Number(count as u64))
            }
            Call::WriteOn { slot, len, fill } => {
                let count = rustix::io::write(self.slot(*slot)?, &pattern(*len, *fill))?;
                Ok(Reply::Number(count as u64))
            }
            Call::Truncate { slot, size } => rustix::fs::ftruncate(self.slot(*slot)?, *size).map(|()| Reply::Done),
            Call::Allocate { slot, how, offset, len } => {
                let flags = match how {
                    Allocate::Plain => FallocateFlags::empty(),
                    Allocate::KeepSize => FallocateFlags::KEEP_SIZE,
                    Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Allocate::Zero => FallocateFlags::ZERO_RANGE,
                    Allocate::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                };
                rustix::fs::fallocate(self.slot(*slot)?, flags, *offset, *len).map(|()| Reply::Done)
            }
            Call::CopyRange { from, from_offset, to, to_offset, len } => {
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                let (mut off_in, mut off_out) = (*from_offset, *to_offset);
                rustix::fs::copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), *len)
                    .map(|count| Reply::Number(count as u64))
            }
            Call::SeekHoles { slot } => {
                let fd = self.slot(*slot)?;
                let is_file = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::RegularFile;
                let is_readable = !rustix::fs::fcntl_getfl(&fd)?.contains(OFlags::WRONLY);
                if is_file && is_readable { holes::check(&fd) } else { Ok(Reply::NotMade) }
            }
            Call::Sync { slot, data_only: true } => rustix::fs::fdatasync(self.slot(*slot)?).map(|()| Reply::Done),
            Call::Sync { slot, data_only: false } => rustix::fs::fsync(self.slot(*slot)?).map(|()| Reply::Done),
            Call::ReadDir { path } => self.read_dir(path),
            Call::MakeDir { path, mode } => {
                rustix::fs::mkdirat(root, path, Mode::from_raw_mode(mode.0)).map(|()| Reply::Done)
            }
            Call::MakeNode { path, node, mode } => {
                let (kind, device) = match node {
                    Node::Regular => (FileType::RegularFile, 0),
                    Node::Fifo => (FileType::Fifo, 0),
                    Node::Socket => (FileType::Socket, 0),
                    Node::Char(number) => (FileType::CharacterDevice, *number),
                    Node::Block(number) => (FileType::BlockDevice, *number),
                };
                rustix::fs::mknodat(root, path, kind, Mode::from_raw_mode(mode.0), u64::from(device))
                    .map(|()| Reply::Done)
            }
            Call::Symlink { target, path } => rustix::fs::symlinkat(target, root, path).map(|()| Reply::Done),
            Call::Link { from, to, follow } => {
                let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                rustix::fs::linkat(root, from, root, to, flags).map(|()| Reply::Done)
            }
            Call::Unlink { path } => rustix::fs::unlinkat(root, path, AtFlags::empty()).map(|()| Reply::Done),
            Call::RemoveDir { path } => rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR).map(|()| Reply::Done),
            Call::Rename { from, to, flag } => {
                let flags = match flag {
                    RenameFlag::None => RenameFlags::empty(),
                    RenameFlag::NoReplace => RenameFlags::NOREPLACE,
                    RenameFlag::Exchange => RenameFlags::EXCHANGE,
                    // Where it fails on a target that can't be replaced, ext4 touches the directory.
                    RenameFlag::Whiteout => RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
                };
                rustix::fs::renameat_with(root, from, root, to, flags)?;
                if *flag == RenameFlag::Whiteout {
                    // File systems differ in whose the whiteout is.
                    let from = from.trim_end_matches('/');
                    rustix::fs::chownat(root, from, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                Ok(Reply::Done)
            }
            Call::Chmod { path, mode } => {
                rustix::fs::chmodat(root, path, Mode::from_raw_mode(mode.0), AtFlags::empty()).map(|()| Reply::Done)
            }
            Call::ChmodOpen { slot, mode } => {
                rustix::fs::fchmod(self.slot(*slot)?, Mode::from_raw_mode(mode.0)).map(|()| Reply::Done)
            }
            Call::Chown { path, uid, gid, follow } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                rustix::fs::chownat(root, path, uid, gid, at_flags(*follow)).map(|()| Reply::Done)
            }
            Call::SetTimes { path, atime, mtime, follow } => {
                let flags = at_flags(*follow);
                let wanted = Timestamps { last_access: timespec(*atime), last_modification: timespec(*mtime) };
                rustix::fs::utimensat(root, path, &wanted, flags)?;
                let stat = rustix::fs::statat(root, path, flags)?;
                let atime = matches!(atime, When::At(..)).then(|| (stat.st_atime, stat.st_atime_nsec as i64));
                Ok(Reply::Times(atime, by_hand(stat.st_mtime, stat.st_mtime_nsec)))
            }
            Call::Access { path, mask } => {
                let access = rustix::fs::Access::from_bits_truncate(u32::from(*mask));
                rustix::fs::accessat(root, path, access, AtFlags::empty()).map(|()| Reply::Done)
            }
            Call::Stat { path, follow } => {
                rustix::fs::statat(root, path, at_flags(*follow)).map(|stat| Reply::Stat(View::new(&stat)))
            }
            Call::StatOpen { slot } => rustix::fs::fstat(self.slot(*slot)?).map(|stat| Reply::Stat(View::new(&stat))),
            Call::ReadLink { path } => {
                rustix::fs::readlinkat(root, path, Vec::new()).map(|target| Reply::Bytes(target.into_bytes()))
            }
            Call::StatFs => self.stat_fs(),
            Call::SetXattr { path, name, value, create, replace, follow } => {
                let mut flags = XattrFlags::empty();
                flags.set(XattrFlags::CREATE, *create);
                flags.set(XattrFlags::REPLACE, *replace);
                let path = self.through_proc(path);
                match follow {
                    true => rustix::fs::setxattr(path, name, value, flags),
                    false => rustix::fs::lsetxattr(path, name, value, flags),
                }
                .map(|()| Reply::Done)
            }
            Call::GetXattr { path, name, follow } => {
                let (path, mut value) = (self.through_proc(path), Vec::with_capacity(64 << 10));
                let buffer = rustix::buffer::spare_capacity(&mut value);
                match follow {
                    true => rustix::fs::getxattr(path, name, buffer)?,
                    false => rustix::fs::lgetxattr(path, name, buffer)?,
                };
                Ok(Reply::Bytes(value))
            }
            Call::RemoveXattr { path, name, follow } => {
                let path = self.through_proc(path);
                match follow {
                    true => rustix::fs::removexattr(path, name),
                    false => rustix::fs::lremovexattr(path, name),
                }
                .map(|()| Reply::Done)
            }
            Call::ListXattr { path, follow } => {
                let (path, mut list) = (self.through_proc(path), Vec::with_capacity(64 << 10));
                let buffer = rustix::buffer::spare_capacity(&mut list);
                match follow {
                    true => rustix::fs::listxattr(path, buffer)?,
                    false => rustix::fs::llistxattr(path, buffer)?,
                };
                let mut names: Vec<_> = list
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| (name.to_vec(), ""))
                    .collect();
                names.sort();
                Ok(Reply::Names(names))
            }
        }
    }

    fn open(&self, slot: Slot, path: &str, flags: OpenFlags, mode: Bits) -> Result<Reply, Errno> {
        if let Ok(stat) = rustix::fs::statat(&self.root, path, AtFlags::empty()) {
            let kind = FileType::from_raw_mode(stat.st_mode);
            if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
                return Ok(Reply::NotMade);
            }
        }
        let mut oflags = OFlags::CLOEXEC | OFlags::NONBLOCK;
        oflags |= match (flags.read, flags.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        oflags.set(OFlags::CREATE, flags.create);
        oflags.set(OFlags::EXCL, flags.exclusive && flags.create);
        oflags.set(OFlags::TRUNC, flags.truncate);
        oflags.set(OFlags::APPEND, flags.append);
        oflags.set(OFlags::DIRECTORY, flags.directory);
        oflags.set(OFlags::NOFOLLOW, flags.no_follow);
        oflags.set(OFlags::SYNC, flags.sync);
        let fd = rustix::fs::openat(&self.root, path, oflags, Mode::from_raw_mode(mode.0))?;
        self.put(slot, Some(fd));
        Ok(Reply::Done)
    }

    /// Lists a directory. What it says of inode numbers and kinds must agree with lstat.
    fn read_dir(&self, path: &str) -> Result<Reply, Errno> {
        let fd = rustix::fs::openat(&self.root, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            let (ino, kind) = (entry.ino(), entry.file_type());
            if name != b"." && name != b".." {
                match rustix::fs::statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if stat.st_ino != ino => {
                        return Ok(Reply::Absurd(format!("{name:?}: listed inode {ino}, lstat says {}", stat.st_ino)));
                    }
                    Ok(stat) if kind != FileType::Unknown && kind != FileType::from_raw_mode(stat.st_mode) => {
                        return Ok(Reply::Absurd(format!("{name:?}: listed as {kind:?}, mode {:o}", stat.st_mode)));
                    }
                    // May list, but not look up.
                    Ok(_) | Err(Errno::ACCESS) => {}
                    Err(errno) => return Ok(Reply::Absurd(format!("{name:?} is listed, but lstat says {errno}"))),
                }
            }
            names.push((name, kind_name(kind)));
        }
        names.sort();
        Ok(Reply::Names(names))
    }

    fn stat_fs(&self) -> Result<Reply, Errno> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        let sane = stat.f_bavail <= stat.f_bfree
            && stat.f_bfree <= stat.f_blocks
            && stat.f_blocks > 0
            && stat.f_ffree <= stat.f_files
            && stat.f_bsize.is_power_of_two();
        if sane {
            return Ok(Reply::Number(stat.f_namemax));
        }
        let (all, free, available) = (stat.f_blocks, stat.f_bfree, stat.f_bavail);
        let (files, free_files, unit) = (stat.f_files, stat.f_ffree, stat.f_bsize);
        Ok(Reply::Absurd(format!(
            "statfs: {all} blocks of {unit}, {free} free, {available} available; {files} files, {free_files} free"
        )))
    }
}

fn times(stat: &Stat) -> Times {
    let (mtime, ctime) = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
    Times { ino: stat.st_ino, mtime, ctime }
}

fn at_flags(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn timespec(when: When) -> Timespec {
    match when {
        When::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        When::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        When::At(sec, nsec) => Timespec { tv_sec: sec, tv_nsec: i64::from(nsec) },
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Unknown => "unknown",
    }
}

/// Bytes that tell which write they came from, and from where in it.
fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add((at / 512) as u8).max(1)).collect()
}

/// Sets the umask of the process; the caller sees to it that no other call is under way.
pub fn set_umask(umask: u32) {
    rustix::process::umask(Mode::from_raw_mode(umask));
}

/// The kernel's clock, as coarse as it stamps files.
pub fn coarse_now() -> (i64, u64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u64)
}
