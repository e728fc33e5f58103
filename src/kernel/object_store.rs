//! The `ObjectStore` pillar: immutable blobs of any size, written once as a stream.

use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::BlobId;

/// A boxed future; drivers of local stores return ones that are ready at once.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a blob's bytes come from: pulled a piece at a time, so that no blob is held whole.
pub trait BlobSource: Send {
    /// Bytes in all.
    fn len(&self) -> u64;
    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The next piece, at most `max` bytes; empty at the end.
    fn next(&mut self, max: usize) -> Result<Bytes>;
    /// The local file that holds exactly these bytes and may be moved away, if there is one.
    fn local_file(&self) -> Option<&Path> {
        None
    }
    /// Is called once the blob is where it is to be, before the local file is moved into a cache; an error
    /// leaves the file where it is.
    fn stored(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a store tells of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobInfo {
    /// Which.
    pub id: BlobId,
    /// Bytes.
    pub len: u64,
}

/// A line of a store's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Which blob.
    pub id: BlobId,
    /// Its bytes; `None` where the list does not tell, as of what is stored compressed.
    pub len: Option<u64>,
}

/// What a store was asked for, and how much went to and fro.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Requests that store bytes: whole objects, parts, and what begins and ends an upload.
    pub puts: u64,
    /// Requests that read bytes.
    pub gets: u64,
    /// Requests for an object's length.
    pub heads: u64,
    /// Requests for a list of objects.
    pub lists: u64,
    /// Requests that delete.
    pub deletes: u64,
    /// Requests that failed for good, after all tries.
    pub failures: u64,
    /// Tries that got no answer, or one that asks to try again (408, 429, 5xx); most were tried again.
    pub failed_tries: u64,
    /// Requests that waited for the store's limits.
    pub throttled: u64,
    /// Milliseconds that they waited, all together.
    pub throttled_ms: u64,
    /// Bytes stored.
    pub bytes_up: u64,
    /// Bytes read.
    pub bytes_down: u64,
    /// Bytes of blobs that are kept on the local disk, to spare requests.
    pub cached_bytes: u64,
    /// Reads that were answered from there alone.
    pub cache_hits: u64,
    /// Bytes of those.
    pub cache_hit_bytes: u64,
    /// Reads that waited for the store.
    pub cache_misses: u64,
    /// Bytes of those.
    pub cache_miss_bytes: u64,
}

/// A place for blobs.
///
/// Implementors guarantee:
/// - `put` is atomic: a blob is there whole or not at all, and durable when `put` resolves;
///   a source with a `local_file` on the same medium is moved, not copied;
/// - putting an id that exists already answers [`crate::Error::Exists`] and changes nothing;
/// - reads beyond the end answer [`crate::Error::Invalid`]; of a blob that is not there
///   [`crate::Error::NotFound`], which is never the answer of a store that can't be reached
///   ([`crate::Error::Unavailable`]), nor of one that is not the store it should be;
/// - deleting what is not there succeeds.
pub trait ObjectStore: Send + Sync {
    /// Stores a blob.
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>>;
    /// Bytes of a range.
    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>>;
    /// Fills `out` with the bytes from `offset` on.
    fn read<'a>(&'a self, id: BlobId, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let bytes = self.get(id, offset..offset.saturating_add(out.len() as u64)).await?;
            if bytes.len() != out.len() {
                return Err(Error::Corrupt(format!(
                    "blob {:016x}: the store answered {} bytes for {} at {offset}",
                    id.0,
                    bytes.len(),
                    out.len()
                )));
            }
            out.copy_from_slice(&bytes);
            Ok(())
        })
    }
    /// Says that a range of a blob of `len` bytes will be read soon, by somebody who does not wait for it;
    /// `false` if that is too much for now, and to be said again later.
    fn want(&self, id: BlobId, len: u64, range: Range<u64>) -> bool {
        let _ = (id, len, range);
        true
    }
    /// As `get`, for somebody who does not wait for them: what others wait for goes first.
    fn get_ahead<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.get(id, range)
    }
    /// Whether the blob is there, and how long it is.
    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>>;
    /// Removes a blob.
    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>>;

    /// Deletes blobs, in as few requests as the store takes. After an error some of them may be there.
    fn delete_all<'a>(&'a self, ids: &'a [BlobId]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for id in ids {
                self.delete(*id).await?;
            }
            Ok(())
        })
    }
    /// At most `limit` blobs with ids above `after`, in order of id.
    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>>;
    /// Bytes of a range from where the blob itself is, past any copy that is kept nearby.
    fn get_original<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.get(id, range)
    }
    /// Bytes of a range that are kept nearby.
    fn cached(&self, id: BlobId, range: Range<u64>) -> u64 {
        let _ = (id, range);
        0
    }
    /// Throws out what is kept nearby of a blob; answers its bytes.
    fn evict(&self, id: BlobId) -> u64 {
        let _ = id;
        0
    }
    /// Most bytes that are kept nearby, if any are.
    fn cache_limit(&self) -> Option<u64> {
        None
    }
    /// What was read in this range can't be right: if it came from a copy that is kept nearby,
    /// the copy is not used again.
    fn distrust(&self, id: BlobId, range: Range<u64>) {
        let _ = (id, range);
    }
    /// Lets go of the store for good: what says there whose it is goes, so that others can have it.
    /// [`crate::Error::Conflict`] if blobs are left, which then stay this owner's.
    fn release<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// What it was asked for since it was opened; nothing for a store that costs none.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
    /// Bytes to which reads are best rounded: a smaller one costs as much. A power of two, 4 KiB
    /// to 64 KiB.
    fn grain(&self) -> u64 {
        64 << 10
    }
    /// Whether blobs are as near as a local disk: nothing is gained by keeping them elsewhere too.
    fn is_local(&self) -> bool {
        true
    }
    /// The file that holds the blob, byte for byte, for a store on a local disk.
    fn local_path(&self, id: BlobId) -> Option<PathBuf> {
        let _ = id;
        None
    }
}
