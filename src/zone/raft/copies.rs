//! What a zone needs of those who keep copies of its content.

use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Result};

/// Bytes of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The blob.
    pub blob: BlobId,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl From<&Piece> for Span {
    fn from(piece: &Piece) -> Span {
        Span { blob: piece.blob, offset: piece.blob_offset, len: piece.len }
    }
}

/// Waits until copying has ended.
pub type Copying = Box<dyn FnOnce() -> Result<()> + Send>;

/// Has other members keep content that this one has written.
pub trait Copies: Send + Sync {
    /// Begins to copy; what it answers waits until as many members as the zone asks for have
    /// the bytes durably. None of the two is to be called by a task.
    fn begin(&self, spans: Vec<Span>) -> Copying;
}

/// Nobody keeps copies.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoCopies;

impl Copies for NoCopies {
    fn begin(&self, _spans: Vec<Span>) -> Copying {
        Box::new(|| Ok(()))
    }
}
