//! Extents: which bytes of which blob a range of a file is.

use serde::{Deserialize, Serialize};

use crate::ids::BlobId;

/// Value at `extent/<ino><file offset>`. Extents of one file never overlap; what none
/// covers is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// Bytes; never zero.
    pub len: u64,
    /// The blob, [`BlobId::NONE`] for reserved zeros, or [`BlobId::LOST`].
    pub blob: BlobId,
    /// Offset of the first byte in the blob; 0 where there is none.
    pub blob_offset: u64,
}

impl Extent {
    /// The part from `skip` bytes after the start, `len` bytes long.
    pub fn part(&self, skip: u64, len: u64) -> Extent {
        let blob_offset = if self.blob.is_some() { self.blob_offset + skip } else { 0 };
        Extent { len, blob: self.blob, blob_offset }
    }

    /// Whether `next`, which follows in the file, also follows in the blob.
    pub fn continues_with(&self, next: &Extent) -> bool {
        self.blob == next.blob && (!self.blob.is_some() || self.blob_offset + self.len == next.blob_offset)
    }
}

/// A run of freshly written bytes in a blob, as a `Write` command carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Bytes; never zero.
    pub len: u64,
    /// Where they are.
    pub blob: BlobId,
    /// Offset in the blob.
    pub blob_offset: u64,
    /// CRC-32C of the bytes: recovery holds content against it where the log's tail was
    /// not yet known to be durable.
    pub crc: u32,
}
