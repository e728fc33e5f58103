//! The `ObjectStore` pillar: immutable blobs of any size, written once as a stream.

use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;

use crate::error::Result;
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
}

/// What a store tells of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobInfo {
    /// Which.
    pub id: BlobId,
    /// Bytes.
    pub len: u64,
}

/// A place for blobs.
///
/// Implementors guarantee:
/// - `put` is atomic: a blob is there whole or not at all, and durable when `put` resolves;
///   a source with a `local_file` on the same medium is moved, not copied;
/// - putting an id that exists already answers [`crate::Error::Exists`] and changes nothing;
/// - reads beyond the end answer [`crate::Error::Invalid`]; of a blob that is not there
///   [`crate::Error::NotFound`], which is never the answer of a store that can't be reached;
/// - deleting what is not there succeeds.
pub trait ObjectStore: Send + Sync {
    /// Stores a blob.
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>>;
    /// Bytes of a range.
    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>>;
    /// Whether the blob is there, and how long it is.
    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>>;
    /// Removes a blob.
    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>>;
    /// At most `limit` blobs with ids above `after`, in order of id.
    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<BlobInfo>>>;
    /// The file that holds the blob, byte for byte, for a store on a local disk.
    fn local_path(&self, id: BlobId) -> Option<PathBuf> {
        let _ = id;
        None
    }
}
