//! The zones that have content in a store: they come and go while it is in use. Content of zones
//! that are not open is held: nothing tells then what of it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexus_kernel::{BlobId, Zone};
use parking_lot::RwLock;

/// What a zone that is not open may refer to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nobody knows: it may be anything.
    Everything,
    /// These blobs.
    Blobs(BTreeSet<BlobId>),
}

/// Zones, shared by all who look after their content.
#[derive(Clone, Default)]
pub struct ZoneSet(Arc<RwLock<Inner>>);

#[derive(Default)]
struct Inner {
    zones: Vec<Arc<dyn Zone>>,
    held: BTreeMap<String, Held>,
}

impl ZoneSet {
    /// These zones.
    pub fn new(zones: Vec<Arc<dyn Zone>>) -> ZoneSet {
        ZoneSet(Arc::new(RwLock::new(Inner { zones, held: BTreeMap::new() })))
    }

    /// All that are open now.
    pub fn all(&self) -> Vec<Arc<dyn Zone>> {
        self.0.read().zones.clone()
    }

    /// Adds one. It must be there before its files refer to content of the store.
    pub fn add(&self, zone: Arc<dyn Zone>) {
        self.0.write().zones.push(zone);
    }

    /// Takes one away: what only it refers to will be deleted, unless that is held.
    pub fn remove(&self, zone: &Arc<dyn Zone>) {
        self.0.write().zones.retain(|other| !Arc::ptr_eq(other, zone));
    }

    /// Has nothing deleted that `holder`, a zone that is not open, may refer to.
    pub fn hold(&self, holder: &str, held: Held) {
        self.0.write().held.insert(holder.to_owned(), held);
    }

    /// Ends that; answers what was held.
    pub fn let_go(&self, holder: &str) -> Option<Held> {
        self.0.write().held.remove(holder)
    }

    /// Whether nothing at all may be deleted.
    pub fn holds_everything(&self) -> bool {
        self.0.read().held.values().any(|held| *held == Held::Everything)
    }

    /// Whether a blob may not be deleted, whatever the open zones say.
    pub fn holds(&self, blob: BlobId) -> bool {
        self.0.read().held.values().any(|held| match held {
            Held::Everything => true,
            Held::Blobs(blobs) => blobs.contains(&blob),
        })
    }

    /// Whether any zone is not open.
    pub fn holds_anything(&self) -> bool {
        !self.0.read().held.is_empty()
    }
}

/// Whether this node, as `writer`, made the blob, and so looks after it. Of a zone that several
/// nodes have, each looks after its own.
pub fn is_own(writer: u32, blob: BlobId) -> bool {
    blob.origin().0 == writer
}
