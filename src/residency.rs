//! What an open volume keeps on this disk of content that is elsewhere.

use nexus_kernel::{Ino, NodeId};

use crate::boot::{Flushed, Volume};
use crate::error::Result;

pub use nexus_content::{Cursor, Residency};

/// Bytes that one step of a warm-up looks at, about.
const WARM_BYTES: u64 = 32 << 20;

impl Volume {
    /// Where the bytes of files are.
    pub fn residency(&self, nodes: &[NodeId]) -> Result<Residency> {
        self.content.residency(&*self.root, &inos(nodes)).map_err(|error| self.failed("look for content of", error))
    }

    /// Counts what of the files is meant for a store elsewhere and is only here; with `send`, has
    /// a part of it sent before. To be called until nothing is left of what there was at first:
    /// with no `mark`, then with the one of the first answer.
    pub fn flush_files(&self, nodes: &[NodeId], mark: Option<u64>, send: bool) -> Result<Flushed> {
        let newest = mark.unwrap_or_else(|| self.content.newest_segment());
        if send {
            self.sync()?;
        }
        let left = self.content.flush_files(&*self.root, &inos(nodes), newest, send);
        let left_bytes = left.map_err(|error| self.failed("flush content of", error))?;
        Ok(Flushed { left_bytes, mark: newest })
    }

    /// Fetches a part of what of the files is not here; answers how many bytes were looked at,
    /// and where to go on.
    pub fn warm(&self, nodes: &[NodeId], from: Cursor) -> Result<(u64, Option<Cursor>)> {
        let warmed = self.content.warm(&*self.root, &inos(nodes), from, WARM_BYTES);
        warmed.map_err(|error| self.failed("fetch content of", error))
    }

    /// Throws out what is kept here of what the files' blobs have elsewhere; answers the bytes.
    pub fn evict(&self, nodes: &[NodeId]) -> Result<u64> {
        self.content.evict(&*self.root, &inos(nodes)).map_err(|error| self.failed("evict content of", error))
    }

    /// Most bytes that are kept here, of all stores together; `None` if none is elsewhere.
    pub fn cache_limit(&self) -> Option<u64> {
        let added = self.stores.lock().stores().iter().map(|store| store.id).collect::<Vec<_>>();
        let limits = std::iter::once(nexus_kernel::StoreId(0)).chain(added);
        limits.filter_map(|id| self.content.cache_limit(id)).reduce(u64::saturating_add)
    }
}

fn inos(nodes: &[NodeId]) -> Vec<Ino> {
    nodes.iter().map(|node| node.ino()).collect()
}
