//! What the metadata of the zones says of blobs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use nexus_kernel::model::{self, BlobState, Extent, keys};
use nexus_kernel::scan::pages_between;
use nexus_kernel::{BlobId, Ino, Result, Table, Zone};

pub use nexus_kernel::scan::{BlobExtent, blob_extents, find_blob, zone_blobs};

/// A blob, as all zones together know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownBlob {
    /// Open if any zone says so.
    pub state: BlobState,
    /// Bytes that must be there.
    pub len: u64,
    /// Bytes that extents refer to, in all zones.
    pub live: u64,
}

/// All blobs that any of the zones knows.
pub fn known_blobs(zones: &[Arc<dyn Zone>]) -> Result<BTreeMap<BlobId, KnownBlob>> {
    let mut known: BTreeMap<BlobId, KnownBlob> = BTreeMap::new();
    for zone in zones {
        for (id, blob) in zone_blobs(&**zone)? {
            let one = known.entry(id).or_insert(KnownBlob { state: BlobState::Sealed, len: 0, live: 0 });
            one.len = one.len.max(blob.len);
            one.live = one.live.saturating_add(blob.live);
            if blob.state == BlobState::Open {
                one.state = BlobState::Open;
            }
        }
    }
    Ok(known)
}

/// The extents of a file in blobs that `choose` picks, with their blobs; about `limit` at most,
/// and whether these are all.
pub fn file_extents(
    zone: &dyn Zone,
    ino: Ino,
    choose: impl Fn(BlobId) -> bool,
    limit: usize,
) -> Result<(Vec<(BlobId, BlobExtent)>, bool)> {
    let mut found = Vec::new();
    let (start, end) = (keys::extent(ino, 0), keys::extent(ino, u64::MAX));
    pages_between(zone, Table::Extent, start.to_vec(), &end, &mut |key, value| {
        let extent: Extent = model::decode("extent", value)?;
        if extent.blob.is_some() && choose(extent.blob) {
            let offset = keys::parse_pair(key)?.1;
            found.push((extent.blob, BlobExtent { ino, offset, blob_offset: extent.blob_offset, len: extent.len }));
        }
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let complete = found.len() < limit;
    Ok((found, complete))
}
