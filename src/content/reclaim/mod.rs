//! The collector.

use std::sync::Arc;

use nexus_kernel::{Clock, Error, Result, Zone};

use crate::config::ReclaimConfig;
use crate::store::SegmentStore;

/// What one pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Segments sealed.
    pub sealed: u64,
    /// Blobs that the metadata forgot.
    pub dropped: u64,
    /// Blob files deleted.
    pub deleted: u64,
    /// Bytes of the files deleted.
    pub freed_bytes: u64,
    /// Bytes copied out of sparse blobs.
    pub copied_bytes: u64,
    /// Bytes that metadata was moved to.
    pub moved_bytes: u64,
    /// Whether the pass stopped at its budget, so that another one finds work.
    pub more: bool,
}

/// Seals segments, drops dead blobs and empties sparse ones.
pub struct Reclaimer {}

/// The collector's thread; stops when dropped.
pub struct ReclaimHandle {}

#[allow(unused_variables, reason = "signatures that others build on")]
impl Reclaimer {
    /// A collector for the content of `zones`, which must be all that use the store.
    pub fn new(
        store: Arc<SegmentStore>, zones: Vec<Arc<dyn Zone>>, clock: Arc<dyn Clock>, config: ReclaimConfig,
    ) -> Reclaimer {
        Reclaimer {}
    }

    /// One pass.
    pub fn run_once(&self) -> Result<Progress> {
        Err(Error::NotSupported)
    }

    /// Runs passes on a thread of its own from now on.
    pub fn spawn(self) -> Result<ReclaimHandle> {
        Err(Error::NotSupported)
    }
}

impl ReclaimHandle {
    /// Ends the thread and waits for it.
    pub fn stop(self) {}
}
