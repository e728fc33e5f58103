//! What the metadata knows of a blob.

use serde::{Deserialize, Serialize};

use crate::ids::StoreId;

/// Whether a blob may still grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BlobState {
    /// A segment that takes writes; `len` counts what extents were ever made of.
    Open,
    /// Immutable.
    Sealed,
}

/// Value at `blob/<id>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blob {
    /// The store that holds it.
    pub store: StoreId,
    /// Open or sealed.
    pub state: BlobState,
    /// Bytes of the sealed blob; of an open one, the end of the furthest extent made in it.
    pub len: u64,
    /// Bytes that extents refer to, counted once for each extent.
    pub live: u64,
}
