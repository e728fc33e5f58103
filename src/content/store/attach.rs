//! Start: what is on the disk is held against what the metadata says is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, Error, ObjectStore, Result, StoreId, Zone};

use super::SegmentStore;
use super::layout::parse_name;
use super::segment::Segment;
use crate::metadata::{KnownBlob, known_blobs};
use crate::zones::{ZoneSet, is_own};
use nexus_kernel::block_on;

/// Blobs listed at a time: as many as services tell of in one answer.
const LIST_BLOBS: usize = 1000;

impl SegmentStore {
    /// Holds content against the metadata of all zones that use this store, once they are
    /// recovered, and takes writes from then on. [`Error::Corrupt`] names a blob that is
    /// missing or too short. What no zone knows is deleted later by the collector.
    ///
    /// A zone that others have, too, may know more than is applied here yet. Where there is one,
    /// what is left over stays as it is until that is decided (`decide`).
    pub fn attach(&self, zones: &[Arc<dyn Zone>]) -> Result<()> {
        self.attach_held(&ZoneSet::new(zones.to_vec()))
    }

    /// As [`SegmentStore::attach`], where some zones may not be open. What those may refer to
    /// stays as it is.
    pub fn attach_held(&self, set: &ZoneSet) -> Result<()> {
        let zones = &*set.all();
        let known = self.own_blobs(zones, set.holds_anything())?;
        if let Some((id, _)) = known.iter().find(|(id, blob)| blob.live > 0 && self.mounts.of(**id).is_err()) {
            return Err(Error::Corrupt(format!(
                "files have content in store {}, which the data folder does not know any more: put its list of \
                 stores back",
                id.store()
            )));
        }
        let mut sealed = BTreeMap::new();
        for store in self.mounts.all() {
            if store.shape.volatile {
                // Lost with the last daemon. Reading it fails; all else goes on.
                sealed.extend(self.presumed(store.id, &known));
                continue;
            }
            match list_sealed(&*store.objects) {
                Ok(listed) => sealed.extend(listed),
                Err(Error::Unavailable(why)) => {
                    log::warn!("{why}; what is sealed there is taken to be there, and can't be read until it answers");
                    sealed.extend(self.presumed(store.id, &known));
                }
                Err(error) => return Err(error),
            }
        }
        let local: Vec<_> = zones.iter().filter(|zone| !zone.is_replicated()).cloned().collect();
        let local = known_blobs(&local)?;
        let mut missing = BTreeSet::new();
        for (id, blob) in &known {
            match self.check_there(*id, blob, sealed.get(id).copied()) {
                // Other members may have copies, and the rest of the volume is not to go without its files for that.
                Err(error) if local.get(id).is_none_or(|blob| blob.live == 0) => {
                    log::error!("of a zone: {error}");
                    missing.insert(*id);
                }
                other => other?,
            }
        }
        *self.missing.lock() = missing;
        {
            let mut counter = self.counter.lock();
            known.keys().chain(sealed.keys()).for_each(|id| counter.seen(*id));
        }
        if set.holds_anything() || zones.iter().any(|zone| zone.is_replicated()) {
            *self.undecided.lock() = Some(self.unknown(&known, &sealed)?);
        } else {
            self.sort_segments(&known, &sealed)?;
            self.condemn_unknown(&known, &sealed)?;
        }
        self.attached.store(true, Ordering::Release);
        self.wake.work();
        Ok(())
    }

    /// Blobs that only zones of several nodes refer to, and that were missing here, or too short, at the
    /// start and were not given up since.
    pub fn missing(&self) -> Vec<BlobId> {
        self.missing.lock().iter().copied().collect()
    }

    /// No file has anything in this blob any more, which was missing.
    pub fn not_missed(&self, id: BlobId) {
        self.missing.lock().remove(&id);
    }

    /// Whether [`SegmentStore::decide`] has still to be called.
    pub(crate) fn is_undecided(&self) -> bool {
        self.undecided.lock().is_some()
    }

    /// Once the zones know everything: what an earlier run left over and none of them knows is
    /// to be deleted.
    pub(crate) fn decide(&self, set: &ZoneSet) -> Result<()> {
        let known = self.own_blobs(&set.all(), true)?;
        let mut unknown = self.undecided.lock().take().unwrap_or_default();
        unknown.retain(|id| !known.contains_key(id) && !set.holds(*id));
        self.condemn(unknown);
        Ok(())
    }

    /// What zones know of the blobs that this node looks after: all, unless `others` may have some.
    fn own_blobs(&self, zones: &[Arc<dyn Zone>], others: bool) -> Result<BTreeMap<BlobId, KnownBlob>> {
        let mut known = known_blobs(zones)?;
        if others || zones.iter().any(|zone| zone.is_replicated()) {
            known.retain(|id, _| is_own(self.config.writer, *id));
        }
        Ok(known)
    }

    /// All blobs that have a file here, with its bytes.
    pub(crate) fn list_files(&self) -> Result<BTreeMap<BlobId, u64>> {
        let mut found = BTreeMap::new();
        for store in self.mounts.all() {
            found.extend(list_sealed(&*store.objects)?);
        }
        for (name, len) in self.disk.list(&self.layout.segments)? {
            if let Some(id) = parse_name(&name, ".seg") {
                found.entry(id).or_insert(len);
            }
        }
        Ok(found)
    }

    /// What a store that does not answer should hold: all that is known and is not here.
    fn presumed(&self, store: StoreId, known: &BTreeMap<BlobId, KnownBlob>) -> BTreeMap<BlobId, u64> {
        let segments = self.segments.read();
        let there = known.iter().filter(|(id, _)| id.store() == store && !segments.contains_key(id));
        there.map(|(id, blob)| (*id, blob.len)).collect()
    }

    fn check_there(&self, id: BlobId, blob: &KnownBlob, sealed: Option<u64>) -> Result<()> {
        let segment = self.segments.read().get(&id).map(|segment| segment.tail());
        let there = sealed.into_iter().chain(segment).max();
        match there {
            Some(len) if len >= blob.len => Ok(()),
            _ if blob.live == 0 => Ok(()),
            Some(len) => Err(Error::Corrupt(format!(
                "blob {:016x} has {len} bytes, but files refer to bytes up to {}: its file was cut short. \
                 Put the whole file back",
                id.0, blob.len
            ))),
            None => Err(Error::Corrupt(format!(
                "blob {:016x} is missing, though files refer to {} bytes of it: {} is not there, and the object store \
                 does not have it. Put the file back",
                id.0,
                blob.live,
                self.layout.segment(id).display()
            ))),
        }
    }

    /// Segments that were open go on as they were, where a lane has use for them; the others
    /// wait to be sealed.
    fn sort_segments(&self, known: &BTreeMap<BlobId, KnownBlob>, sealed: &BTreeMap<BlobId, u64>) -> Result<()> {
        let mut ids: Vec<_> = self.segments.read().keys().copied().filter(|id| known.contains_key(id)).collect();
        // The youngest first: it is the one that was written to last.
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(id.origin()));
        for id in ids {
            let (Some(blob), Ok(store)) = (known.get(&id), self.mounts.of(id)) else { continue };
            let mut lanes = store.lanes.lock();
            let mut segments = self.segments.write();
            let Some(segment) = segments.get(&id).cloned() else { continue };
            let summed = self.sums_left(id, blob.len);
            let stored = sealed.get(&id);
            if stored.is_some_and(|len| *len >= blob.len) && (store.is_here() || summed.is_some()) {
                // It was moved into the store, which is durable; that it left its old place was not.
                segments.remove(&id);
                self.remove_file(segment.path())?;
                continue;
            }
            segment.cut_tail(summed.unwrap_or(blob.len));
            let limit = lanes.sizes().shared;
            if blob.state == BlobState::Open && blob.len < limit && summed.is_none() && stored.is_none() {
                let file = self.disk.open(segment.path())?;
                let tail = blob.len.next_multiple_of(4096);
                let len = file.len()?;
                let left_over = Segment::left_over(id, segment.path().to_owned(), len, self.now_ms());
                let reopened = Arc::new(left_over.reopen(tail, limit.max(len), file));
                if lanes.adopt(&reopened) {
                    segments.insert(id, reopened);
                }
            }
        }
        Ok(())
    }

    /// Bytes of a segment that an earlier process has sent to a store that is far away, as the checksums that
    /// it left tell: the store has them, unless it was an older build that kept them before. Of one without
    /// checksums the store may have an object all the same, or still get it; whoever sends it finds out.
    fn sums_left(&self, id: BlobId, known: u64) -> Option<u64> {
        let sums = if self.is_far(id) { self.sums(id).ok()? } else { return None };
        (sums.len >= known).then_some(sums.len)
    }

    /// Files that no zone knows: of blobs that were dropped, or that only commands used that
    /// were lost. The log may still tell of them, so they stay until the zones are settled.
    fn condemn_unknown(&self, known: &BTreeMap<BlobId, KnownBlob>, sealed: &BTreeMap<BlobId, u64>) -> Result<()> {
        let unknown = self.unknown(known, sealed)?;
        if !unknown.is_empty() {
            log::info!("{} blobs belong to no file any more and will be deleted", unknown.len());
        }
        self.condemn(unknown);
        Ok(())
    }

    /// Blobs with files here that are not known.
    fn unknown(&self, known: &BTreeMap<BlobId, KnownBlob>, sealed: &BTreeMap<BlobId, u64>) -> Result<BTreeSet<BlobId>> {
        let mut unknown: BTreeSet<BlobId> = self.segments.read().keys().copied().collect();
        unknown.extend(sealed.keys().copied());
        for (name, _) in self.disk.list(&self.layout.sums)? {
            unknown.extend(parse_name(&name, ".sum"));
        }
        unknown.retain(|id| !known.contains_key(id));
        Ok(unknown)
    }
}

fn list_sealed(store: &dyn ObjectStore) -> Result<BTreeMap<BlobId, u64>> {
    let mut found = BTreeMap::new();
    let mut after = BlobId::NONE;
    loop {
        let page = block_on(store.list(after, LIST_BLOBS))?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.id;
        // What is there is there whole, also where the list does not tell how long it is.
        found.extend(page.iter().map(|line| (line.id, line.len.unwrap_or(u64::MAX))));
    }
}
