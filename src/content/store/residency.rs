//! What of files is kept on this disk: counted, fetched and thrown out.

use std::collections::{BTreeMap, BTreeSet};

use nexus_kernel::{BlobId, ContentStore, Error, Ino, Result, Zone, block_on};

use super::SegmentStore;
use crate::metadata::{BlobExtent, file_extents};

/// Bytes fetched with one request, at the most.
const PIECE: u64 = 2 << 20;
/// Extents looked at together.
const EXTENTS: usize = 1 << 16;

/// Where bytes of files are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Residency {
    /// All of them, without holes.
    pub bytes: u64,
    /// On this disk, and in their store.
    pub cached: u64,
    /// Nowhere but on this disk, though their store is elsewhere.
    pub only_here: u64,
}

/// Where to go on with a list of files: which file, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// Place in the list.
    pub file: usize,
    /// Offset in the file.
    pub offset: u64,
}

impl SegmentStore {
    /// Where the bytes of files are.
    pub fn residency(&self, zone: &dyn Zone, inos: &[Ino]) -> Result<Residency> {
        let mut found = Residency::default();
        for ino in inos {
            for (blob, extent) in all_extents(zone, *ino)? {
                found.bytes += extent.len;
                let store = self.mounts.of(blob)?;
                if store.is_here() {
                    found.cached += extent.len;
                } else if self.segments.read().contains_key(&blob) {
                    found.only_here += extent.len;
                } else {
                    let end = extent.blob_offset + extent.len;
                    found.cached += store.objects.cached(blob, extent.blob_offset..end);
                }
            }
        }
        Ok(found)
    }

    /// Bytes of the files that are only here though their store is elsewhere, of those in segments
    /// up to number `mark`; with `send`, after one such segment was sent.
    pub fn flush_files(&self, zone: &dyn Zone, inos: &[Ino], mark: u64, send: bool) -> Result<u64> {
        let mut only_here: BTreeMap<BlobId, u64> = BTreeMap::new();
        for ino in inos {
            // If these are not all, the rest is counted once they are sent.
            let meant = |blob: BlobId| blob.origin().1 <= mark && self.is_only_here(blob);
            let (extents, _) = file_extents(zone, *ino, meant, EXTENTS)?;
            for (blob, extent) in extents {
                *only_here.entry(blob).or_default() += extent.len;
            }
        }
        if send && let Some((blob, _)) = only_here.pop_first() {
            self.upload(&[blob])?;
        }
        Ok(only_here.values().sum())
    }

    /// Fetches what of the files is not on this disk, from `from` on, about `budget` bytes of
    /// it; answers how many bytes were looked at, and where to go on if that is not all.
    pub fn warm(&self, zone: &dyn Zone, inos: &[Ino], from: Cursor, budget: u64) -> Result<(u64, Option<Cursor>)> {
        let mut done = 0;
        for (file, ino) in inos.iter().enumerate().skip(from.file) {
            let start = if file == from.file { from.offset } else { 0 };
            for (blob, extent) in all_extents(zone, *ino)?.into_iter().filter(|(_, extent)| extent.offset >= start) {
                if done >= budget {
                    return Ok((done, Some(Cursor { file, offset: extent.offset })));
                }
                done += extent.len;
                match self.warm_extent(blob, &extent) {
                    // Moved since it was listed.
                    Ok(()) | Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((done, None))
    }

    fn warm_extent(&self, blob: BlobId, extent: &BlobExtent) -> Result<()> {
        let store = self.mounts.of(blob)?;
        let end = extent.blob_offset + extent.len;
        let mut at = extent.blob_offset;
        while at < end {
            let stop = (at + PIECE).min(end);
            if store.is_here() || self.segments.read().contains_key(&blob) {
                return Ok(());
            }
            if store.objects.cached(blob, at..stop) < stop - at {
                block_on(store.objects.get(blob, at..stop))?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Throws out what is kept on this disk of the blobs that hold the files' content, and with
    /// it what others have in them. What is only here stays. Answers the bytes.
    pub fn evict(&self, zone: &dyn Zone, inos: &[Ino]) -> Result<u64> {
        let mut blobs = BTreeSet::new();
        for ino in inos {
            blobs.extend(all_extents(zone, *ino)?.into_iter().map(|(blob, _)| blob));
        }
        let mut bytes = 0;
        for blob in blobs {
            if !self.segments.read().contains_key(&blob) {
                bytes += self.mounts.of(blob)?.objects.evict(blob);
            }
        }
        Ok(bytes)
    }
}

fn all_extents(zone: &dyn Zone, ino: Ino) -> Result<Vec<(BlobId, BlobExtent)>> {
    let (extents, complete) = file_extents(zone, ino, |_| true, EXTENTS)?;
    if !complete {
        log::warn!("inode {ino} has more than {EXTENTS} extents; only those are looked at");
    }
    Ok(extents)
}
