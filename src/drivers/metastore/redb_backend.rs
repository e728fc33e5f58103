//! redb's storage on a kernel [`DiskFile`], so that its file goes through the same door as
//! every other, and what it answers comes back as the kernel's errors.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_kernel::disk::DiskFile;
use nexus_kernel::error::Error;
use parking_lot::Mutex;
use redb::{BackendError, StorageBackend, StorageError};
use rustix::fs::FlockOperation;

/// What is known of a database's file beside what redb tells; shared with the backend.
pub struct FileFacts {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// The first operation that failed. redb refuses everything after it, and says no more
    /// of the cause.
    failure: Mutex<Option<Failure>>,
    moved_bytes: AtomicU64,
    /// Whether the content was found to be not what redb wrote.
    damaged: AtomicBool,
}

/// A failed file operation.
#[derive(Clone)]
pub struct Failure {
    /// What was tried.
    pub operation: Operation,
    /// What the disk answered.
    pub error: Error,
}

/// What redb does to its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Read,
    Write,
    Sync,
}

impl Failure {
    /// Whether it leaves open what the file holds. A read changes nothing, and a write that
    /// finds no space is one of a page that nothing refers to yet: the header, which is
    /// written after all pages, has its space.
    pub fn is_fatal(&self) -> bool {
        match self.operation {
            Operation::Read => false,
            Operation::Write => !matches!(self.error, Error::NoSpace | Error::QuotaExceeded),
            Operation::Sync => true,
        }
    }
}

impl FileFacts {
    pub fn new(file: Arc<dyn DiskFile>, path: &Path) -> Arc<FileFacts> {
        Arc::new(FileFacts {
            path: path.to_owned(),
            file,
            failure: Mutex::default(),
            moved_bytes: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub fn file(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    /// The first failure since the file was opened.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    /// Bytes read and written since the file was opened: what a cache can hold at the most.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes.load(Ordering::Relaxed)
    }

    /// Whether damage was met since the file was opened.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Notes that the content is not what it should be.
    pub fn damaged(&self, what: &dyn fmt::Display) -> Error {
        self.damaged.store(true, Ordering::Relaxed);
        damaged(&self.path, what)
    }

    /// What redb says, in the kernel's words. redb calls all but the first failure
    /// "previous"; the cause is worth more.
    pub fn error(&self, error: StorageError) -> Error {
        match error {
            StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => self.damaged(&error),
            StorageError::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
                Some(inner) => inner.clone(),
                None => Error::from_io(format_args!("metastore {}", self.path.display()), &error),
            },
            StorageError::Corrupted(text) => self.damaged(&text),
            StorageError::ValueTooLarge(_) => Error::TooLong,
            error => self.io(&error),
        }
    }

    /// The first failure of the file, or an error that says `what`.
    pub fn io(&self, what: &dyn fmt::Display) -> Error {
        match self.failure() {
            Some(failure) => failure.error,
            None => Error::Io(format!("metastore {}: {what}", self.path.display())),
        }
    }

    /// Locks or unlocks the whole file, where there is one. The lock belongs to the open
    /// file, so it also keeps a second opening in this process away.
    fn lock(&self, range: (Bound<u64>, Bound<u64>), operation: FlockOperation) -> Result<bool, BackendError> {
        let whole = matches!(range, (Bound::Unbounded | Bound::Included(0), Bound::Unbounded));
        match self.file.as_fd() {
            Some(fd) if whole => match rustix::fs::flock(fd, operation) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
                // A file system without locks: the data folder's own lock has to do.
                Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP) => Err(BackendError::Unsupported),
                Err(error) => Err(BackendError::Io(error.into())),
            },
            _ => Err(BackendError::Unsupported),
        }
    }

    /// Gives up the lock of a database that is not closed.
    pub fn unlock(&self) {
        // Without the lock there is nothing to give up.
        let _ = self.lock((Bound::Unbounded, Bound::Unbounded), FlockOperation::Unlock);
    }

    fn done<T>(&self, operation: Operation, result: Result<T, Error>) -> io::Result<T> {
        result.map_err(|error| {
            self.failure.lock().get_or_insert(Failure { operation, error: error.clone() });
            io::Error::other(error)
        })
    }

    fn moved(&self, bytes: usize) {
        self.moved_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// redb's view of a file.
pub struct RedbBackend(pub Arc<FileFacts>);

impl fmt::Debug for RedbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.path.display())
    }
}

impl StorageBackend for RedbBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.done(Operation::Read, self.0.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.moved(out.len());
        self.0.done(Operation::Read, self.0.file.read_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.done(Operation::Write, self.0.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.done(Operation::Sync, self.0.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.moved(data.len());
        self.0.done(Operation::Write, self.0.file.write_at(data, offset))
    }

    fn close(&self) -> io::Result<()> {
        match self.0.lock((Bound::Unbounded, Bound::Unbounded), FlockOperation::Unlock) {
            Ok(_) | Err(BackendError::Unsupported) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.lock((start, end), FlockOperation::NonBlockingLockExclusive)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.lock((start, end), FlockOperation::NonBlockingLockShared)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock((start, end), FlockOperation::Unlock).map(drop)
    }
}

/// The error for a file that is not what it should be.
pub fn damaged(path: &Path, what: &dyn fmt::Display) -> Error {
    Error::Corrupt(format!(
        "the metastore {} is damaged or is not one ({what}); run fsck, and restore the data folder from a backup if that does not help",
        path.display()
    ))
}
