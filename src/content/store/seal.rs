//! What becomes of segments: closed, sealed into the object store, deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexus_kernel::disk::DiskFile;
use nexus_kernel::failpoint::reach;
use nexus_kernel::object_store::BlobSource;
use nexus_kernel::{BlobId, Error, ObjectStore, Result, StoreId};

use super::SegmentStore;
use super::segment::{OpenSegment, Segment};
use super::sums::FrameSums;
use nexus_kernel::block_on;

/// Unused ranges of at least this much are given back when a segment is sealed.
const PUNCH_FROM: u64 = 64 << 10;

/// Where a blob's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Where {
    /// In a segment that a lane writes to, or that somebody still uses.
    Open,
    /// In a segment that nobody writes to.
    Settled,
    /// Not in a segment.
    Elsewhere,
}

/// Bytes of a segment that is read once, for its checksums and its store.
const READ_WHOLE: u64 = 8 << 20;

/// A segment's file on its way into a store.
struct SegmentSource<'a> {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    at: u64,
    /// Bytes that were handed on, where they leave this disk.
    moved: Arc<AtomicU64>,
    /// Where the checksums are noted before the first byte is given away, unless that was done.
    unsummed: Option<Unsummed<'a>>,
    /// All of the blob, if it was read for its checksums.
    whole: Bytes,
}

/// A blob without checksums.
struct Unsummed<'a> {
    store: &'a SegmentStore,
    blob: BlobId,
    grain: u64,
}

impl SegmentSource<'_> {
    /// Makes the checksums durable, if they are not.
    fn sum(&mut self) -> Result<()> {
        let Some(Unsummed { store, blob, grain }) = self.unsummed.take() else { return Ok(()) };
        let sums = if self.len <= READ_WHOLE {
            let mut whole = vec![0; self.len as usize];
            self.file.read_at(&mut whole, 0)?;
            self.whole = whole.into();
            FrameSums::of_bytes(blob, &self.whole, grain)
        } else {
            FrameSums::of_file(blob, &*self.file, self.len, grain)?
        };
        store.write_sums(&sums)?;
        reach("seal.summed");
        Ok(())
    }
}

impl BlobSource for SegmentSource<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn next(&mut self, max: usize) -> Result<Bytes> {
        self.sum()?;
        let step = (self.len - self.at).min(max as u64);
        self.at += step;
        self.moved.fetch_add(step, Ordering::Relaxed);
        if !self.whole.is_empty() {
            return Ok(self.whole.split_to(step as usize));
        }
        let mut buf = vec![0; step as usize];
        self.file.read_at(&mut buf, self.at - step)?;
        Ok(buf.into())
    }

    fn local_file(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

impl SegmentStore {
    /// Where a blob is.
    pub(crate) fn place_of(&self, blob: BlobId) -> Where {
        match self.segments.read().get(&blob) {
            Some(segment) if segment.is_settled() => Where::Settled,
            Some(_) => Where::Open,
            None => Where::Elsewhere,
        }
    }

    /// Whether a blob's store is not on this machine.
    pub(crate) fn is_far(&self, blob: BlobId) -> bool {
        self.mounts.of(blob).is_ok_and(|store| !store.is_here())
    }

    /// Whether a store is not on this machine.
    pub(crate) fn is_far_store(&self, id: StoreId) -> bool {
        self.mounts.get(id).is_ok_and(|store| !store.is_here())
    }

    /// Bytes that a segment of a store which many files share may have; none if there is no such store.
    pub(crate) fn segment_bytes(&self, id: StoreId) -> u64 {
        self.mounts.get(id).map_or(0, |store| store.lanes.lock().sizes().shared)
    }

    /// Segments that nobody writes to, with their bytes, in order of id.
    pub(crate) fn settled(&self) -> Vec<(BlobId, u64)> {
        let segments = self.segments.read();
        let settled = segments.values().filter(|segment| segment.is_settled());
        let mut found: Vec<_> = settled.map(|segment| (segment.id(), segment.tail())).collect();
        found.sort_unstable();
        found
    }

    /// After how long without a write, and with how many bytes, an open segment is sealed.
    pub(crate) fn idle_seal(&self, blob: BlobId) -> (u64, u64) {
        self.mounts
            .of(blob)
            .map_or((u64::MAX, u64::MAX), |store| (store.shape.idle_seal_ms, store.shape.idle_seal_bytes))
    }

    /// Closes the open segments that `choose` picks.
    pub(crate) fn close_segments(&self, mut choose: impl FnMut(OpenSegment) -> bool) {
        for store in self.mounts.all() {
            store.lanes.lock().close_segments(|segment| choose(segment.look()));
        }
    }

    /// Moves a settled segment into the object store; answers the blob's bytes. It is done
    /// again from the start where it was cut short.
    ///
    /// Order: the bytes are durable, then their checksums, then the blob is in the store,
    /// and only then may the metadata be told.
    pub(crate) fn seal(&self, blob: BlobId) -> Result<u64> {
        self.poison.check()?;
        let segment = self.segments.read().get(&blob).cloned().ok_or(Error::NotFound)?;
        if !segment.is_settled() {
            return Err(Error::Conflict);
        }
        self.seal_closed(&segment)
    }

    /// The same for a segment that is closed and has no user but the caller.
    pub(super) fn seal_closed(&self, segment: &Arc<Segment>) -> Result<u64> {
        let blob = segment.id();
        let store = self.mounts.of(blob)?;
        let _alone = segment.sealing().lock();
        if !self.segments.read().contains_key(&blob) {
            return self.sealed_len(blob);
        }
        let file = match segment.held_file() {
            Some(file) => file,
            None => self.disk.open(segment.path())?,
        };
        let len = segment.tail();
        let mut changed = false;
        for (start, end) in segment.unused() {
            if end - start >= PUNCH_FROM {
                file.punch_hole(start, end - start)?;
                changed = true;
            }
        }
        if file.len()? != len {
            file.set_len(len)?;
            changed = true;
        }
        let synced = segment.sync(&*self.disk);
        // Each sync costs a flush of the disk.
        let synced = synced.and_then(|synced| if changed && !synced { file.sync_data() } else { Ok(()) });
        synced.map_err(|error| self.poison.set(error))?;
        let unsummed = Some(Unsummed { store: self, blob, grain: store.objects.grain() });
        let (path, moved, whole) = (segment.path().to_owned(), Arc::clone(self.room.moved()), Bytes::new());
        let mut source = SegmentSource { path, file: Arc::clone(&file), len, at: 0, moved, unsummed, whole };
        if store.is_here() {
            // Moved without a look at its bytes.
            source.sum()?;
        }
        let sending = (!store.is_here()).then(|| self.room.send());
        let put = block_on(store.objects.put(blob, &mut source));
        drop(sending);
        match put {
            Ok(()) => {}
            // Put by an earlier attempt that could not note it.
            Err(Error::Exists) if self.sealed_len(blob)? == len => {}
            Err(error) => return Err(error),
        }
        source.sum()?;
        reach("seal.stored");
        self.leave_segment(&*store.objects, segment, file)?;
        reach("seal.moved");
        Ok(len)
    }

    /// From now on the blob is read from the object store.
    fn leave_segment(&self, store: &dyn ObjectStore, segment: &Segment, file: Arc<dyn DiskFile>) -> Result<()> {
        if store.local_path(segment.id()).is_some() {
            self.files.insert(segment.id(), file);
        } else {
            self.files.remove(segment.id());
        }
        self.segments.write().remove(&segment.id());
        // A store that moves files has taken it already.
        self.remove_file(segment.path())
    }

    fn write_sums(&self, sums: &FrameSums) -> Result<()> {
        // What an earlier attempt may have brought into the store is held against these.
        let is_there = self.sums(sums.id).is_ok_and(|there| there.encode() == sums.encode());
        let path = self.layout.sum(sums.id);
        if is_there {
            return self.sync_sums(&*self.disk.open(&path)?);
        }
        self.known_sums.remove(sums.id);
        self.remove_file(&path)?;
        let file = self.disk.create(&path)?;
        file.write_at(&sums.encode(), 0)?;
        self.sync_sums(&*file)
    }

    fn sync_sums(&self, file: &dyn DiskFile) -> Result<()> {
        file.sync_data().and_then(|()| self.disk.sync_dir(&self.layout.sums)).map_err(|error| self.poison.set(error))
    }

    /// Deletes all there is of blobs of one store; answers how many bytes that were. Nothing may refer
    /// to them, and no recovery may ask for them.
    pub(crate) fn delete_blobs(&self, id: StoreId, blobs: &[BlobId]) -> Result<u64> {
        let mut freed = 0;
        for blob in blobs {
            freed += self.leave_disk(*blob)?;
        }
        reach("delete.began");
        match self.mounts.get(id) {
            Ok(store) => block_on(store.objects.delete_all(blobs))?,
            // It was taken away, which only happens once nothing is in it.
            Err(Error::NoStore) => {}
            Err(error) => return Err(error),
        }
        reach("delete.stored");
        for blob in blobs {
            self.remove_file(&self.layout.sum(*blob))?;
            self.known_sums.remove(*blob);
            self.files.remove(*blob);
            self.condemned.lock().remove(blob);
        }
        Ok(freed)
    }

    /// Deletes a blob's segment, if it has one; answers the blob's bytes.
    fn leave_disk(&self, blob: BlobId) -> Result<u64> {
        let len = match self.local_file(blob) {
            Ok(file) => file.len(),
            Err(Error::NotFound) => self.len_as_sealed(blob),
            Err(error) => Err(error),
        };
        let len = match len {
            Ok(len) => len,
            Err(Error::NotFound | Error::NoStore) => 0,
            Err(error) => return Err(error),
        };
        self.files.remove(blob);
        self.segments.write().remove(&blob);
        self.remove_file(&self.layout.segment(blob))?;
        Ok(len)
    }

    /// Notes blobs whose files are to be deleted later.
    pub(crate) fn condemn(&self, blobs: impl IntoIterator<Item = BlobId>) {
        self.condemned.lock().extend(blobs);
    }

    /// Whether a blob's files are to be deleted later.
    pub(crate) fn is_condemned(&self, blob: BlobId) -> bool {
        self.condemned.lock().contains(&blob)
    }

    /// The blobs whose files are to be deleted.
    pub(crate) fn condemned(&self) -> BTreeSet<BlobId> {
        self.condemned.lock().clone()
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        match self.disk.remove(path) {
            Ok(()) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
