//! The store of segments and sealed blobs.

use std::path::Path;
use std::sync::Arc;

use nexus_kernel::content::{ContentStore, ContentSync, Staged, WriteHint};
use nexus_kernel::disk::{Disk, DiskSpace};
use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Clock, Error, Ino, ObjectStore, Result, Zone};

use crate::config::ContentConfig;

/// Content on a local disk.
pub struct SegmentStore {}

#[allow(unused_variables, reason = "signatures that others build on")]
impl SegmentStore {
    /// Opens the store in `dir`, which holds `segments/` and `sums/`; sealed blobs are in
    /// `blobs`. `verify` and `read` work at once, `write` after [`SegmentStore::attach`].
    pub fn open(
        disk: Arc<dyn Disk>, blobs: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, dir: &Path, config: ContentConfig,
    ) -> Result<Arc<SegmentStore>> {
        Err(Error::NotSupported)
    }

    /// Holds content against the metadata of all zones that use this store, once they are
    /// recovered, and takes writes from then on.
    pub fn attach(&self, zones: &[Arc<dyn Zone>]) -> Result<()> {
        Err(Error::NotSupported)
    }
}

#[allow(unused_variables, reason = "signatures that others build on")]
impl ContentSync for SegmentStore {
    fn sync(&self) -> Result<()> {
        Err(Error::NotSupported)
    }

    fn verify(&self, piece: &Piece) -> Result<bool> {
        Err(Error::NotSupported)
    }
}

#[allow(unused_variables, reason = "signatures that others build on")]
impl ContentStore for SegmentStore {
    fn write(&self, hint: WriteHint, data: &[u8]) -> Result<Staged> {
        Err(Error::NotSupported)
    }

    fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        Err(Error::NotSupported)
    }

    fn closed(&self, ino: Ino) {}

    fn check_space(&self, len: u64) -> Result<()> {
        Err(Error::NotSupported)
    }

    fn space(&self) -> Result<DiskSpace> {
        Err(Error::NotSupported)
    }
}
