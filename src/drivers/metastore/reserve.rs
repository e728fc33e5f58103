//! Space kept back on the metastore's disk: a file that holds nothing. Deleting files frees
//! their space only once the metastore has noted it, and to note it takes space, too. On a
//! full disk this file goes first, and comes back when there is room again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_kernel::disk::Disk;
use nexus_kernel::error::Error;
use nexus_kernel::metastore::{Table, WriteBatch};

/// The disk must have this many times the reserve available before it is made.
const ROOM_FACTOR: u64 = 8;

/// It is never more than this part of the disk.
const MAX_PART_OF_DISK: u64 = 64;

/// A file beside the metastore's.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// The reserve of the metastore at `metastore`, which may be there already.
    pub fn open(disk: Arc<dyn Disk>, metastore: &Path, bytes: u64) -> Reserve {
        let mut path = metastore.as_os_str().to_owned();
        path.push(".reserve");
        let path = PathBuf::from(path);
        let folder = metastore.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let bytes = bytes.min(disk.space(folder).map_or(0, |space| space.total / MAX_PART_OF_DISK));
        let held = bytes > 0 && disk.open(&path).is_ok_and(|file| file.len() == Ok(bytes));
        let mut reserve = Reserve { disk, folder: folder.to_owned(), path, bytes, held };
        if !held {
            reserve.release();
            reserve.make();
        }
        reserve
    }

    /// Makes the file if it is missing and there is plenty of space. A disk that does not
    /// take it is no error: there is no reserve then.
    pub fn make(&mut self) {
        if self.held || self.bytes == 0 {
            return;
        }
        let available = self.disk.space(&self.folder).map_or(0, |space| space.available);
        if available < self.bytes.saturating_mul(ROOM_FACTOR) {
            return;
        }
        let made = self.disk.create(&self.path).and_then(|file| file.allocate(0, self.bytes));
        match made {
            Ok(()) => self.held = true,
            Err(error) => {
                log::debug!("no space is kept back in {}: {error}", self.path.display());
                self.release();
            }
        }
    }

    /// Gives the space back for `batch`, if that frees some. Answers whether there was any.
    pub fn release_for(&mut self, batch: &WriteBatch) -> bool {
        let frees = |table: &Table| matches!(table, Table::Inode | Table::Extent | Table::Blob);
        self.held && batch.writes.iter().any(|(table, _, value)| value.is_none() && frees(table)) && self.release()
    }

    fn release(&mut self) -> bool {
        self.held = false;
        match self.disk.remove(&self.path) {
            Ok(()) => true,
            Err(Error::NotFound) => false,
            Err(error) => {
                log::warn!("{} can't be removed: {error}", self.path.display());
                false
            }
        }
    }
}
