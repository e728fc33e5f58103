//! The door to local files that must survive a crash: the zone log, the segments and the
//! metastore's file go through it, so that tests can cut power at any point.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;

/// Space of the medium below, in bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size of the medium.
    pub total: u64,
    /// Bytes free for anybody.
    pub free: u64,
    /// Bytes free for this process's user.
    pub available: u64,
    /// Inodes of the medium.
    pub total_inodes: u64,
    /// Free inodes of the medium.
    pub free_inodes: u64,
}

/// A folder tree of files. Paths are absolute or relative to the process, as the driver's
/// owner made them.
///
/// After a power cut an implementor may lose anything that was not synced: data by
/// [`DiskFile::sync_data`], names by [`Disk::sync_dir`] of the folder they stand in.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; it must exist.
    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>>;
    /// Opens a file for many small writes within the length that it has, which cost no system
    /// call where the medium allows it; it must exist. Every byte of it must have been written
    /// before, so that no write needs space, and nobody may change its length from now on.
    /// What [`DiskFile::write_at`] promises holds here too, but writes that would grow the
    /// file answer [`crate::Error::Invalid`], and those that fail on the medium may be told of
    /// by [`DiskFile::sync_data`] alone.
    fn open_in_place(&self, path: &Path) -> Result<Arc<dyn DiskFile>>;
    /// Makes a file that does not exist yet ([`crate::Error::Exists`] if it does).
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>>;
    /// Renames within one medium, replacing what stands at `to`.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file; [`crate::Error::NotFound`] if it is not there.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes a folder and its parents, durably; existing ones are fine.
    fn create_dir_all(&self, path: &Path) -> Result<()>;
    /// Names in a folder, sorted, with each file's length in bytes. Folders are left out.
    fn list(&self, path: &Path) -> Result<Vec<(String, u64)>>;
    /// Makes creations, renames and removals in this folder durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;
    /// Space of the medium that holds `path`.
    fn space(&self, path: &Path) -> Result<DiskSpace>;
}

/// An open file; every method may be called from several threads at once.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` from `offset`; [`crate::Error::Corrupt`] if the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
    /// Writes all of `data` at `offset`, growing the file as needed. When it returns, the
    /// data survives the death of this process, though not a power cut.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Cuts or grows with zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Reserves space for `[offset, offset + len)` and grows the length to cover it.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;
    /// Gives the space of `[offset, offset + len)` back; it reads as zeros then.
    fn punch_hole(&self, offset: u64, len: u64) -> Result<()>;
    /// Data and length on stable storage.
    fn sync_data(&self) -> Result<()>;
    /// Starts writing dirty data of the range to the medium, without waiting for it.
    fn start_writeback(&self, offset: u64, len: u64) -> Result<()>;
    /// The descriptor, where the kernel below knows the file (for passthrough and mmap).
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
