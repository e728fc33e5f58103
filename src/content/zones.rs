//! The zones that have content in a store: they come and go while it is in use.

use std::sync::Arc;

use nexus_kernel::{BlobId, Zone};
use parking_lot::RwLock;

/// Zones, shared by all who look after their content.
#[derive(Clone, Default)]
pub struct ZoneSet(Arc<RwLock<Vec<Arc<dyn Zone>>>>);

impl ZoneSet {
    /// These zones.
    pub fn new(zones: Vec<Arc<dyn Zone>>) -> ZoneSet {
        ZoneSet(Arc::new(RwLock::new(zones)))
    }

    /// All that there are now.
    pub fn all(&self) -> Vec<Arc<dyn Zone>> {
        self.0.read().clone()
    }

    /// Adds one. It must be there before its files refer to content of the store.
    pub fn add(&self, zone: Arc<dyn Zone>) {
        self.0.write().push(zone);
    }

    /// Takes one away: what only it refers to will be deleted.
    pub fn remove(&self, zone: &Arc<dyn Zone>) {
        self.0.write().retain(|other| !Arc::ptr_eq(other, zone));
    }
}

/// Whether this node, as `writer`, made the blob, and so looks after it. Of a zone that several
/// nodes have, each looks after its own.
pub fn is_own(writer: u32, blob: BlobId) -> bool {
    blob.origin().0 == writer
}
