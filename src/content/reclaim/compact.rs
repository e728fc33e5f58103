//! Emptying sparse and small blobs: what is live is copied, then the metadata is moved (`batch`). Content that files share stays shared. Files may change at any time: an extent
//! that is no longer as it was is left alone by `Relocate`, and found again by the next pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexus_kernel::command::Relocation;
use nexus_kernel::model::{BlobState, Piece};
use nexus_kernel::{BlobId, Error, Result, Zone};

use super::batch::{Batch, Batches};
use super::{Memory, Need, Progress, ROOM_BELOW_PERCENT, Reclaimer};
use crate::metadata::{BlobExtent, KnownBlob, blob_extents, find_blob, known_blobs};

/// Most bytes copied at a time, and so held in memory.
const COPY_BYTES: u64 = 1 << 20;
/// Extents of a blob that are looked at together.
const EXTENTS: usize = 1 << 16;

/// A range of the blob to copy, with the extents, cut to it, that refer to it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chunk {
    start: u64,
    end: u64,
    parts: Vec<BlobExtent>,
}

impl Reclaimer {
    pub(super) fn compact(
        &self,
        need: Need,
        budget: &mut u64,
        memory: &mut Memory,
        progress: &mut Progress,
    ) -> Result<()> {
        // Copies would only take more room: what is emptied stays.
        if self.zones.holds_everything() {
            return Ok(());
        }
        let known = known_blobs(&self.zones.all())?;
        let (near, far): (Vec<_>, Vec<_>) =
            self.sparse(need, &known, memory).into_iter().partition(|id| !self.store.is_far(*id));
        self.empty_all(&near, budget, memory, progress)?;
        // What is far away gives no room back here, and takes some until it is sent.
        if need == Need::Room {
            return Ok(());
        }
        let now = self.now_ms();
        let far: BTreeSet<_> = far.into_iter().chain(self.small(&known, memory)).collect();
        let mut far: Vec<_> =
            far.into_iter().filter(|id| !memory.is_away(id.store()) && !memory.rests(id.store(), now)).collect();
        far.sort_unstable_by_key(|id| id.store());
        if need == Need::Gc {
            return self.empty_all(&far, budget, memory, progress);
        }
        let allowed = memory.allowance.left(now, self.config.far_copy_bytes_per_s, self.config.pass_bytes);
        let mut left = allowed.min(*budget);
        if far.is_empty() || left == 0 {
            // Wanted, but not asked for at once: the next pass that it is time for will have some.
            return Ok(());
        }
        let granted = left;
        let mut mine = Progress::default();
        let emptied = self.empty_all(&far, &mut left, memory, &mut mine);
        memory.allowance.take(granted - left);
        *budget -= granted - left;
        // There is more, but not before there is an allowance for it again.
        progress.add(Progress { more: false, ..mine });
        emptied
    }

    /// Blobs of which little is live, those with the least first.
    fn sparse(&self, need: Need, known: &BTreeMap<BlobId, KnownBlob>, memory: &Memory) -> Vec<BlobId> {
        let percent = match need {
            Need::Calm => self.config.compact_below_percent,
            Need::Room | Need::Gc => ROOM_BELOW_PERCENT.max(self.config.compact_below_percent),
        };
        let mut sparse: Vec<_> = known
            .iter()
            .filter(|(id, blob)| blob.state == BlobState::Sealed && blob.live > 0 && self.may_empty(**id, memory))
            // Shared content can have more live bytes than there are.
            .filter(|(_, blob)| u128::from(blob.live) * 100 < u128::from(blob.len) * u128::from(percent))
            .map(|(id, blob)| (u128::from(blob.live) * 1_000_000 / u128::from(blob.len.max(1)), *id))
            .collect();
        sparse.sort_unstable();
        sparse.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether the blob is this node's to empty, and can be.
    pub(super) fn may_empty(&self, id: BlobId, memory: &Memory) -> bool {
        self.is_own(id) && !self.zones.holds(id) && !memory.wrong.contains(&id)
    }

    /// Moves what is live in the blobs to others of their stores.
    fn empty_all(
        &self,
        blobs: &[BlobId],
        budget: &mut u64,
        memory: &mut Memory,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut batches = Batches::new();
        for id in blobs {
            let store = id.store();
            for zone in &self.zones.all() {
                let batch = batches.entry(store).or_insert_with(|| Batch::new(store));
                match self.empty(zone, *id, batch, budget, memory, progress) {
                    // There will be room once what was emptied so far is dropped.
                    Err(Error::NoSpace) => return self.finish_all(batches, memory, progress),
                    Err(error) => {
                        memory.failed_store(store, &error, self.now_ms());
                        return Err(error);
                    }
                    Ok(()) => {}
                }
                if *budget == 0 || self.store.wake().is_stopped() {
                    progress.more = true;
                    return self.finish_all(batches, memory, progress);
                }
            }
        }
        self.finish_all(batches, memory, progress)
    }

    fn finish_all(&self, batches: Batches, memory: &mut Memory, progress: &mut Progress) -> Result<()> {
        let mut ended = Ok(());
        for (store, mut batch) in batches {
            if let Err(error) = self.finish(&mut batch, progress) {
                memory.failed_store(store, &error, self.now_ms());
                ended = Err(error);
            }
        }
        ended
    }

    /// Moves what a zone's files have in a blob to other blobs. What is for a store that is far away
    /// is moved once the batch ends.
    pub(super) fn empty(
        &self,
        zone: &Arc<dyn Zone>,
        blob: BlobId,
        batch: &mut Batch,
        budget: &mut u64,
        memory: &mut Memory,
        progress: &mut Progress,
    ) -> Result<()> {
        let (extents, complete) = blob_extents(&**zone, blob, EXTENTS)?;
        if extents.is_empty() && complete {
            // Between the listing and now it may have died; otherwise counters are wrong.
            if find_blob(&**zone, blob)?.is_some_and(|blob| blob.live > 0)
                && blob_extents(&**zone, blob, 1)?.0.is_empty()
                && memory.wrong.insert(blob)
            {
                log::error!("blob {:016x} has live bytes, but no file has extents in it; run fsck", blob.0);
            }
            return Ok(());
        }
        progress.more |= !complete;
        self.copy_out(zone, blob, extents, batch, budget, memory, progress)
    }

    /// Copies extents out of `blob` into a batch.
    #[allow(clippy::too_many_arguments, reason = "what a pass remembers, may do and did are three things")]
    pub(super) fn copy_out(
        &self,
        zone: &Arc<dyn Zone>,
        blob: BlobId,
        extents: Vec<BlobExtent>,
        batch: &mut Batch,
        budget: &mut u64,
        memory: &mut Memory,
        progress: &mut Progress,
    ) -> Result<()> {
        for chunk in chunks(extents, COPY_BYTES.min(self.store.piece_bytes())) {
            if *budget == 0 || self.store.wake().is_stopped() {
                break;
            }
            let mut data = vec![0; usize::try_from(chunk.end - chunk.start).map_err(|_| Error::Invalid)?];
            if let Err(error) = self.source.read(blob, chunk.start, &mut data) {
                self.finish_large(batch, true, progress)?;
                if matches!(error, Error::Unavailable(_)) {
                    return Err(error);
                }
                log::error!("blob {:016x} can't be read, so its space can't be given back: {error}", blob.0);
                memory.wrong.insert(blob);
                return if error == Error::NotFound { Ok(()) } else { memory.pass_over(error) };
            }
            let piece = match self.store_copy(batch, &data, progress) {
                Ok(piece) => piece,
                Err(error) => {
                    self.finish_large(batch, true, progress)?;
                    return Err(error);
                }
            };
            *budget = budget.saturating_sub(chunk.end - chunk.start);
            progress.copied_bytes += chunk.end - chunk.start;
            for part in &chunk.parts {
                batch.add(zone, blob, relocation(&chunk, part, &piece, &data).ok_or(Error::Invalid)?);
            }
            self.finish_large(batch, false, progress)?;
        }
        self.finish_large(batch, true, progress)
    }
}

/// Where a part of a chunk lies in its copy.
fn relocation(chunk: &Chunk, part: &BlobExtent, piece: &Piece, data: &[u8]) -> Option<Relocation> {
    let skip = part.blob_offset.checked_sub(chunk.start)?;
    let bytes = data.get(usize::try_from(skip).ok()?..)?.get(..usize::try_from(part.len).ok()?)?;
    let crc = if part.len == piece.len { piece.crc } else { crc32c::crc32c(bytes) };
    let to = Piece { len: part.len, blob: piece.blob, blob_offset: piece.blob_offset + skip, crc };
    Some(Relocation { ino: part.ino, offset: part.offset, from_offset: part.blob_offset, to })
}

/// Cuts extents into chunks of at most `most` bytes, in order of their place in the blob.
fn chunks(mut extents: Vec<BlobExtent>, most: u64) -> impl Iterator<Item = Chunk> {
    extents.sort_unstable_by_key(|extent| (extent.blob_offset, extent.ino, extent.offset));
    let mut waiting = extents.into_iter().peekable();
    // Extents that begin before the next chunk, and end after its start.
    let mut active: Vec<BlobExtent> = Vec::new();
    let mut at = 0;
    std::iter::from_fn(move || {
        active.retain(|extent| extent.blob_offset + extent.len > at);
        if active.is_empty() {
            at = waiting.peek()?.blob_offset;
        }
        let limit = at + most;
        let mut end = active.iter().map(|extent| extent.blob_offset + extent.len).max().unwrap_or(at);
        while let Some(extent) = waiting
            .next_if(|extent| extent.blob_offset < limit && (extent.blob_offset <= end || extent.blob_offset == at))
        {
            end = end.max(extent.blob_offset + extent.len);
            active.push(extent);
        }
        let (start, end) = (at, end.min(limit));
        at = end;
        let parts = active.iter().filter_map(|extent| {
            let from = extent.blob_offset.max(start);
            let to = (extent.blob_offset + extent.len).min(end);
            (from < to).then(|| BlobExtent {
                ino: extent.ino,
                offset: extent.offset + (from - extent.blob_offset),
                blob_offset: from,
                len: to - from,
            })
        });
        Some(Chunk { start, end, parts: parts.collect() })
    })
}

#[cfg(test)]
mod tests {
    use nexus_kernel::Ino;

    use super::*;

    #[test]
    fn chunks_cover_every_extent_once_and_nothing_else() {
        for seed in 0..300 {
            let mut random = crate::testing::Random::new(seed);
            let extents: Vec<_> = (0..1 + random.below(40))
                .map(|ino| {
                    let (offset, blob_offset) = (random.below(1 << 30), random.below(8 << 20));
                    let most = random.pick(&[100, 5000, 3 << 20]);
                    BlobExtent { ino: Ino(ino), offset, blob_offset, len: 1 + random.below(most) }
                })
                .collect();
            let mut covered = vec![0; extents.len()];
            let mut last = 0;
            for chunk in chunks(extents.clone(), COPY_BYTES) {
                assert!(chunk.start >= last && chunk.start < chunk.end, "seed {seed}: {chunk:?}");
                assert!(chunk.end - chunk.start <= COPY_BYTES);
                last = chunk.end;
                let mut live: Vec<_> =
                    chunk.parts.iter().map(|part| (part.blob_offset, part.blob_offset + part.len)).collect();
                live.sort_unstable();
                let mut reach = chunk.start;
                for (start, end) in live {
                    assert!(start <= reach, "seed {seed}: dead bytes at {reach} are copied");
                    reach = reach.max(end);
                }
                assert_eq!(reach, chunk.end, "seed {seed}");
                for part in &chunk.parts {
                    let extent = &extents[part.ino.0 as usize];
                    assert_eq!(part.offset - extent.offset, part.blob_offset - extent.blob_offset);
                    assert_eq!(part.offset - extent.offset, covered[part.ino.0 as usize], "seed {seed}: in order");
                    covered[part.ino.0 as usize] += part.len;
                }
            }
            for (extent, covered) in extents.iter().zip(covered) {
                assert_eq!(extent.len, covered, "seed {seed}: {extent:?}");
            }
        }
    }
}
