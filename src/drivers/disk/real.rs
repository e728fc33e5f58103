//! The machine's own file system as a [`Disk`]. Positioned reads and writes only, so that
//! one descriptor serves any number of threads.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_kernel::disk::{Disk, DiskFile, DiskSpace};
use nexus_kernel::error::{Error, Result};
use rustix::fs::FallocateFlags;

use super::in_place::InPlaceFile;

/// Files of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

impl RealDisk {
    /// The door to the machine's files.
    pub fn new() -> RealDisk {
        RealDisk
    }
}

/// An open file with the name that it was opened by, for messages.
pub(super) struct RealFile {
    pub(super) file: File,
    path: PathBuf,
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile::open(path)?))
    }

    fn open_in_place(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(InPlaceFile::of(RealFile::open(path)?)?))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|e| error("create", path, &e))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(|e| error("rename", from, &e))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(|e| error("remove", path, &e))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = Some(path);
        while let Some(dir) = at.filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
            missing.push(dir);
            at = dir.parent();
        }
        if missing.is_empty() && !path.as_os_str().is_empty() && !path.is_dir() {
            return Err(Error::NotDirectory);
        }
        for dir in missing.into_iter().rev() {
            match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(error("create folder", dir, &e)),
            }
            self.sync_dir(parent_of(dir))?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| error("list", path, &e))? {
            let entry = entry.map_err(|e| error("list", path, &e))?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed since the folder was read.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(error("stat", &entry.path(), &e)),
            };
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                names.push((name, meta.len()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let folder = File::open(path).map_err(|e| error("open folder", path, &e))?;
        folder.sync_all().map_err(|e| error("sync folder", path, &e))
    }

    fn space(&self, path: &Path) -> Result<DiskSpace> {
        let stat = rustix::fs::statvfs(path).map_err(|e| error("statvfs", path, &e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace {
            total: bytes(stat.f_blocks),
            free: bytes(stat.f_bfree),
            available: bytes(stat.f_bavail),
            total_inodes: stat.f_files,
            free_inodes: stat.f_ffree,
        })
    }
}

impl RealFile {
    pub(super) fn open(path: &Path) -> Result<RealFile> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| error("open", path, &e))?;
        Ok(RealFile { file, path: path.to_owned() })
    }

    fn error(&self, what: &str, error: &std::io::Error) -> Error {
        self::error(what, &self.path, error)
    }

    fn fallocate(&self, what: &str, flags: FallocateFlags, offset: u64, len: u64) -> Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, len) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Err(Error::NotSupported),
                Err(e) => return Err(self.error(what, &e.into())),
            }
        }
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> Result<u64> {
        self.file.metadata().map(|meta| meta.len()).map_err(|e| self.error("stat", &e))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.file.read_exact_at(buf, offset) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Error::Corrupt(format!(
                "{} ends before byte {}; it was cut, or is not the file that it should be",
                self.path.display(),
                offset.saturating_add(buf.len() as u64)
            ))),
            Err(e) => Err(self.error("read", &e)),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|e| self.error("write", &e))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.error("set length of", &e))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match self.fallocate("allocate", FallocateFlags::empty(), offset, len) {
            // Where space can't be reserved, at least the length is as promised.
            Err(Error::NotSupported) => match offset.checked_add(len) {
                Some(end) if self.len()? < end => self.set_len(end),
                Some(_) => Ok(()),
                None => Err(Error::Invalid),
            },
            other => other,
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.fallocate("punch a hole in", flags, offset, len) {
            Err(Error::NotSupported) => self.write_zeros(offset, len),
            other => other,
        }
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.error("sync", &e))
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<()> {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return Err(Error::Invalid);
        };
        #[expect(unsafe_code, reason = "rustix does not have sync_file_range(2)")]
        // SAFETY: the descriptor is open for as long as `self.file` lives, and the call takes no pointers.
        let done = unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
        if done == 0 {
            return Ok(());
        }
        match std::io::Error::last_os_error() {
            // Only a hint: some file systems do not know the call.
            e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EINTR)) => Ok(()),
            e => Err(self.error("write back", &e)),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

impl RealFile {
    /// What a hole reads as, for file systems without holes.
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.len()?);
        let zeros = [0u8; 64 << 10];
        let mut at = offset;
        while at < end {
            let step = (end - at).min(zeros.len() as u64) as usize;
            self.write_at(zeros.get(..step).unwrap_or(&zeros), at)?;
            at += step as u64;
        }
        Ok(())
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound,
        ErrorKind::AlreadyExists => Error::Exists,
        ErrorKind::NotADirectory => Error::NotDirectory,
        ErrorKind::IsADirectory => Error::IsDirectory,
        ErrorKind::PermissionDenied => Error::Io(format!("{what} {}: {error}", path.display())),
        ErrorKind::ReadOnlyFilesystem => Error::ReadOnly,
        _ => Error::from_io(format_args!("{what} {}", path.display()), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        nexus_kernel::conformance::disk::run(&RealDisk::new(), folder.path());
    }

    #[test]
    fn files_and_folders_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        disk.create_dir_all(&folder.path().join("a/b")).unwrap();
        disk.create(&folder.path().join("a/b/f")).unwrap();
        let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/f")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn zeros_stand_in_for_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        RealDisk::new().create(&path).unwrap().write_at(&[7; 100], 0).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        RealFile { file, path: path.clone() }.write_zeros(10, 1000).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100);
        assert!(bytes[..10].iter().all(|b| *b == 7) && bytes[10..].iter().all(|b| *b == 0));
    }
}
