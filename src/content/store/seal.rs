//! What becomes of segments: closed, sealed into the object store, deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nexus_kernel::disk::DiskFile;
use nexus_kernel::failpoint::reach;
use nexus_kernel::object_store::BlobSource;
use nexus_kernel::{BlobId, Error, ObjectStore, Result, StoreId};

use super::SegmentStore;
use super::mounts::MountedStore;
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

/// Bytes of an object that are held against a segment at a time.
const COMPARE_BYTES: u64 = 1 << 20;

/// A segment's file on its way into a store.
struct SegmentSource<'a> {
    store: &'a SegmentStore,
    blob: BlobId,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    grain: u64,
    at: u64,
    sums: Sums,
    /// What is left of the blob, if all of it was read for its checksums.
    whole: Bytes,
}

/// What is known of a blob's checksums.
enum Sums {
    Unknown,
    Made(FrameSums),
    /// They are durable.
    Kept,
}

impl SegmentSource<'_> {
    /// Makes the checksums, with one read for who asks for all of the blob at once, and so has memory for it.
    fn sum(&mut self, max: u64) -> Result<()> {
        if matches!(self.sums, Sums::Unknown) {
            self.sums = Sums::Made(if self.len <= max {
                let mut whole = vec![0; self.len as usize];
                self.file.read_at(&mut whole, 0)?;
                self.whole = whole.into();
                FrameSums::of_bytes(self.blob, &self.whole, self.grain)
            } else {
                FrameSums::of_file(self.blob, &*self.file, self.len, self.grain)?
            });
        }
        Ok(())
    }

    /// Makes the checksums durable.
    fn keep_sums(&mut self) -> Result<()> {
        self.sum(0)?;
        if let Sums::Made(sums) = &self.sums {
            self.store.write_sums(sums)?;
            self.sums = Sums::Kept;
            reach("seal.summed");
        }
        Ok(())
    }

    /// Whether an object has the same bytes.
    fn is_same(&self, objects: &dyn ObjectStore) -> Result<bool> {
        match block_on(objects.head(self.blob)) {
            Ok(info) if info.len == self.len => {}
            Ok(_) | Err(Error::NotFound | Error::Corrupt(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut at = 0;
        while at < self.len {
            let end = (at + COMPARE_BYTES).min(self.len);
            let theirs = match block_on(objects.get_original(self.blob, at..end)) {
                // What can't be decoded is not what would be stored now.
                Err(Error::Corrupt(_) | Error::Invalid | Error::NotFound) => return Ok(false),
                other => other?,
            };
            let mut ours = vec![0; (end - at) as usize];
            self.file.read_at(&mut ours, at)?;
            if theirs != ours {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Begins anew.
    fn rewind(&mut self) {
        (self.at, self.sums, self.whole) = (0, Sums::Unknown, Bytes::new());
    }
}

impl BlobSource for SegmentSource<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn next(&mut self, max: usize) -> Result<Bytes> {
        self.sum(max as u64)?;
        let step = (self.len - self.at).min(max as u64);
        self.at += step;
        // Bytes that were handed on, where they leave this disk.
        self.store.room.moved().fetch_add(step, Ordering::Relaxed);
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

    fn stored(&mut self) -> Result<()> {
        reach("seal.sent");
        self.keep_sums()
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
    /// Order: the blob is in the store, then its checksums are durable, then the segment goes, and only
    /// then may the metadata be told. So checksums that are there are those of what is in the store, and
    /// while there is a segment it has all that the metadata knows of: what is durable of the metadata
    /// implies that the segment is, or that it has gone ([`SegmentStore::leave_segment`]). For a store on
    /// this disk, bytes and checksums are durable before the file is moved.
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
        for (start, end) in segment.unused() {
            if end - start >= PUNCH_FROM {
                file.punch_hole(start, end - start)?;
            }
        }
        if file.len()? != len {
            file.set_len(len)?;
        }
        // One that an earlier process left has no file that a sync could find once it has moved.
        if store.is_here() || segment.held_file().is_none() {
            segment.sync(&*self.disk).and_then(|()| file.sync_data()).map_err(|error| self.poison.set(error))?;
        }
        let (path, grain) = (segment.path().to_owned(), store.objects.grain());
        let kept = Arc::clone(&file);
        let mut source = SegmentSource {
            store: self,
            blob,
            path,
            file,
            len,
            grain,
            at: 0,
            sums: Sums::Unknown,
            whole: Bytes::new(),
        };
        if store.is_here() {
            source.keep_sums()?;
        }
        let sending = (!store.is_here()).then(|| self.room.send());
        let put = match block_on(store.objects.put(blob, &mut source)) {
            Err(Error::Exists) => self.put_again(&store, &mut source),
            other => other,
        };
        drop(sending);
        put?;
        source.keep_sums()?;
        reach("seal.stored");
        self.leave_segment(&store, segment, kept)?;
        reach("seal.moved");
        Ok(len)
    }

    /// There is an object of that name already: from an attempt that nobody heard the end of. A power cut
    /// may have taken bytes of the segment since, though none that the metadata knows of.
    fn put_again(&self, store: &MountedStore, source: &mut SegmentSource<'_>) -> Result<()> {
        let blob = source.blob;
        if store.is_here() {
            return if self.sealed_len(blob)? == source.len { Ok(()) } else { Err(Error::Exists) };
        }
        if source.is_same(&*store.objects)? {
            return Ok(());
        }
        log::info!("blob {:016x} was stored with other bytes that no file has, and is stored anew", blob.0);
        self.known_sums.remove(blob);
        self.remove_file(&self.layout.sum(blob))?;
        self.disk.sync_dir(&self.layout.sums).map_err(|error| self.poison.set(error))?;
        block_on(store.objects.delete(blob))?;
        source.rewind();
        match block_on(store.objects.put(blob, source)) {
            Err(Error::Exists) => {
                Err(Error::Unavailable(format!("blob {:016x} was stored twice; it will be tried again", blob.0)))
            }
            other => other,
        }
    }

    /// From now on the blob is read from the object store.
    ///
    /// Of a store that is far away, the segment may not be durable itself. Then it has to be gone before
    /// metadata is durable that counts on the store, or a power cut would bring it back as it is on the
    /// medium: the next sync sees to the folder.
    fn leave_segment(&self, store: &MountedStore, segment: &Segment, file: Arc<dyn DiskFile>) -> Result<()> {
        if store.objects.local_path(segment.id()).is_some() {
            self.files.insert(segment.id(), file);
        } else {
            self.files.remove(segment.id());
        }
        if !store.is_here() {
            // A store with a cache has moved it; where one has none, it goes now, while it is still known.
            self.remove_file(segment.path())?;
            *self.new_names.lock() = true;
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
            return self.sync_sums(self.disk.open(&path)?);
        }
        self.known_sums.remove(sums.id);
        self.remove_file(&path)?;
        let file = self.disk.create(&path)?;
        file.write_at(&sums.encode(), 0)?;
        self.sync_sums(file)
    }

    /// Segments that are sent side by side share what this costs.
    fn sync_sums(&self, file: Arc<dyn DiskFile>) -> Result<()> {
        self.sums_group.run([file], |files| {
            let synced = files.iter().try_for_each(|file| file.sync_data());
            synced.and_then(|()| self.disk.sync_dir(&self.layout.sums)).map_err(|error| self.poison.set(error))
        })
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
