//! Sealed blobs: how long they are, their checksums, and reading those that are not on a
//! local disk, where every frame is held against its checksum.

use std::ops::Range;

use bytes::Bytes;
use nexus_kernel::{BlobId, Error, ObjectStore, Result, block_on};

use super::SegmentStore;
use super::sums::{FrameSums, MOST_FRAME_BYTES};

/// Bytes that a scrub reads at a time: of a local blob, and of one that each request costs.
const SCRUB_LOCAL_BYTES: u64 = 16 * MOST_FRAME_BYTES;
const SCRUB_FAR_BYTES: u64 = 64 * MOST_FRAME_BYTES;
/// Longest file of checksums that is read: that of a blob of 8 GiB in frames of 4 KiB.
const MAX_SUMS_BYTES: u64 = 8 << 20;

impl SegmentStore {
    /// Bytes of a blob's file, whether a segment or sealed.
    pub(crate) fn blob_len(&self, blob: BlobId) -> Result<u64> {
        match self.local_file(blob) {
            Ok(file) => Ok(file.len()?.max(self.patches.end(blob))),
            Err(Error::NotFound) => self.sealed_len(blob),
            Err(error) => Err(error),
        }
    }

    /// Bytes of a sealed blob.
    pub(crate) fn sealed_len(&self, blob: BlobId) -> Result<u64> {
        block_on(self.mounts.of(blob)?.objects.head(blob)).map(|info| info.len)
    }

    /// The same, without asking a store that is far away where its checksums here tell.
    pub(crate) fn len_as_sealed(&self, blob: BlobId) -> Result<u64> {
        if self.is_far(blob)
            && let Ok(sums) = self.known_sums.get(blob, || self.sums(blob))
        {
            return Ok(sums.len);
        }
        self.sealed_len(blob)
    }

    /// Whether a blob with at least `end` bytes went to a store that is far away, as this disk tells:
    /// its checksums are here, and the segment is gone, which it is only once the store has it. So it
    /// was durable before, and the store need not be asked.
    pub(super) fn was_sent(&self, blob: BlobId, end: u64) -> bool {
        self.is_far(blob)
            && !self.segments.read().contains_key(&blob)
            && self.known_sums.get(blob, || self.sums(blob)).is_ok_and(|sums| sums.len >= end)
    }

    /// Checksums of a sealed blob.
    pub(crate) fn sums(&self, blob: BlobId) -> Result<FrameSums> {
        let file = self.disk.open(&self.layout.sum(blob))?;
        let len = file.len()?;
        if len > MAX_SUMS_BYTES {
            return Err(Error::Corrupt(format!("the checksums of blob {:016x} are {len} bytes long", blob.0)));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0)?;
        FrameSums::decode(blob, &bytes)
    }

    /// Reads a blob that has no local file. One read at a time holds the frames that it touches.
    pub(super) fn read_sealed(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let store = self.mounts.of(blob)?;
        if store.objects.local_path(blob).is_some() {
            return Err(Error::NotFound);
        }
        let sums = match self.known_sums.get(blob, || self.sums(blob)) {
            Err(Error::NotFound) => {
                block_on(store.objects.head(blob))?;
                return Err(Error::Corrupt(format!("blob {:016x} has lost its checksums", blob.0)));
            }
            other => other?,
        };
        let end = offset.checked_add(buf.len() as u64).ok_or(Error::Invalid)?;
        if end > sums.len {
            return Err(Error::Corrupt(format!("blob {:016x} ends at {}, before byte {end}", blob.0, sums.len)));
        }
        let frame_bytes = sums.frame_bytes();
        let start = offset / frame_bytes * frame_bytes;
        let stop = end.next_multiple_of(frame_bytes).min(sums.len);
        if (start, stop) == (offset, end) {
            // Nothing but what was asked for.
            return read_checked(&*store.objects, &sums, start, buf);
        }
        let mut frames = vec![0; (stop - start) as usize];
        read_checked(&*store.objects, &sums, start, &mut frames)?;
        let skip = (offset - start) as usize;
        buf.copy_from_slice(frames.get(skip..skip + buf.len()).ok_or(Error::Invalid)?);
        Ok(())
    }

    /// Has a part of a blob that has no local file fetched for somebody who will read it; `false` if not
    /// now.
    pub(super) fn want_sealed(&self, blob: BlobId, range: Range<u64>) -> bool {
        let Ok(store) = self.mounts.of(blob) else { return true };
        // Who reads it is told what is wrong.
        let Ok(sums) = self.known_sums.get(blob, || self.sums(blob)) else { return true };
        store.objects.want(blob, sums.len, range.start..range.end.min(sums.len))
    }

    /// Holds a whole sealed blob against its checksums, as it is in its store; answers its bytes.
    pub(crate) fn scrub(&self, blob: BlobId) -> Result<u64> {
        let sums = match self.sums(blob) {
            Err(Error::NotFound) => return Err(Error::Corrupt(format!("blob {:016x} has lost its checksums", blob.0))),
            other => other?,
        };
        let len = self.blob_len(blob)?;
        if len != sums.len {
            return Err(Error::Corrupt(format!("blob {:016x} has {len} bytes, not {}", blob.0, sums.len)));
        }
        let store = self.mounts.of(blob)?;
        let local = store.objects.local_path(blob).is_some();
        let step = if local { SCRUB_LOCAL_BYTES } else { SCRUB_FAR_BYTES };
        let mut buf = vec![0; if local { step.min(len) as usize } else { 0 }];
        let mut at = 0;
        while at < len {
            let end = (at + step).min(len);
            if local {
                let part = buf.get_mut(..(end - at) as usize).unwrap_or_default();
                nexus_kernel::ContentStore::read(self, blob, at, part)?;
                sums.check(at, part)?;
            } else {
                let bytes = whole(blob, at..end, block_on(store.objects.get_original(blob, at..end))?)?;
                sums.check(at, &bytes)?;
            }
            at = end;
        }
        Ok(len)
    }
}

/// Reads whole frames, from `start` on.
fn read_checked(store: &dyn ObjectStore, sums: &FrameSums, start: u64, out: &mut [u8]) -> Result<()> {
    block_on(store.read(sums.id, start, out))?;
    if sums.check(start, out).is_ok() {
        return Ok(());
    }
    // A copy nearby may be what is wrong.
    store.distrust(sums.id, start..start + out.len() as u64);
    block_on(store.read(sums.id, start, out))?;
    sums.check(start, out)
}

/// Refuses an answer that is shorter or longer than what was asked for.
fn whole(blob: BlobId, range: Range<u64>, bytes: Bytes) -> Result<Bytes> {
    if bytes.len() as u64 != range.end - range.start {
        return Err(Error::Corrupt(format!(
            "blob {:016x}: the store answered {} bytes for {}..{}",
            blob.0,
            bytes.len(),
            range.start,
            range.end
        )));
    }
    Ok(bytes)
}
