//! redb's storage on a kernel [`DiskFile`], so that its file goes through the same door as
//! every other, and what it answers comes back as the kernel's errors.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexus_kernel::disk::DiskFile;
use nexus_kernel::error::Error;
use parking_lot::Mutex;
use redb::{BackendError, StorageBackend, StorageError};
use rustix::fs::FlockOperation;

/// What is known of a database's file beside what redb tells; shared with the backend.
#[derive(Default)]
pub struct FileFacts {
    /// The first operation that failed. redb refuses everything after it, and says no more
    /// of the cause.
    failure: Mutex<Option<Failure>>,
    moved_bytes: AtomicU64,
}

/// A failed file operation.
#[derive(Clone)]
pub struct Failure {
    /// Whether data may be lost by it, as reading never does.
    pub writing: bool,
    /// What the disk answered.
    pub error: Error,
}

impl FileFacts {
    /// The first failure since the file was opened.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    /// Bytes read and written since the file was opened: what a cache can hold at the most.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes.load(Ordering::Relaxed)
    }
}

/// redb's view of a file.
pub struct RedbBackend {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    facts: Arc<FileFacts>,
}

impl RedbBackend {
    pub fn new(file: Arc<dyn DiskFile>, path: &Path, facts: Arc<FileFacts>) -> RedbBackend {
        RedbBackend { file, path: path.to_owned(), facts }
    }

    fn done<T>(&self, writing: bool, result: Result<T, Error>) -> io::Result<T> {
        result.map_err(|error| {
            self.facts.failure.lock().get_or_insert(Failure { writing, error: error.clone() });
            io::Error::other(error)
        })
    }

    fn moved(&self, bytes: usize) {
        self.facts.moved_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
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
}

impl fmt::Debug for RedbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl StorageBackend for RedbBackend {
    fn len(&self) -> io::Result<u64> {
        self.done(false, self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.moved(out.len());
        self.done(false, self.file.read_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.done(true, self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.done(true, self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.moved(data.len());
        self.done(true, self.file.write_at(data, offset))
    }

    fn close(&self) -> io::Result<()> {
        match self.lock((Bound::Unbounded, Bound::Unbounded), FlockOperation::Unlock) {
            Ok(_) | Err(BackendError::Unsupported) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock((start, end), FlockOperation::NonBlockingLockExclusive)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock((start, end), FlockOperation::NonBlockingLockShared)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock((start, end), FlockOperation::Unlock).map(drop)
    }
}

/// What redb says, in the kernel's words; `path` is the file that it speaks of.
pub fn kernel_error(path: &Path, error: StorageError) -> Error {
    let file = path.display();
    match error {
        StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged(path, &error),
        StorageError::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => inner.clone(),
            None => Error::from_io(format_args!("metastore {file}"), &error),
        },
        StorageError::Corrupted(text) => damaged(path, &text),
        StorageError::ValueTooLarge(_) => Error::TooLong,
        error => Error::Io(format!("metastore {file}: {error}")),
    }
}

/// The error for a file that is not what it should be.
pub fn damaged(path: &Path, what: &dyn fmt::Display) -> Error {
    Error::Corrupt(format!(
        "the metastore {} is damaged or is not one ({what}); run fsck, and restore the data folder from a backup if that does not help",
        path.display()
    ))
}
