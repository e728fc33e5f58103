//! The kernel's port to file content: bytes go in as pieces of blobs, and come out by blob
//! and offset. What maps them to files is metadata; see [`crate::model::Extent`].

use std::ops::Range;

use smallvec::SmallVec;

use crate::disk::DiskSpace;
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, StoreId};
use crate::model::{Piece, Placement};

/// Where a write goes, so that a store can lay files out well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteHint {
    /// The file.
    pub ino: Ino,
    /// Offset of the write in the file.
    pub offset: u64,
    /// Size of the file before it.
    pub size: u64,
    /// The store that the content goes to once it is sealed.
    pub store: StoreId,
}

/// Content that is written but that no metadata points at yet. Until it is dropped, the
/// blobs of its pieces stay open for it; drop it once the command is proposed, or failed.
pub struct Staged {
    /// The bytes' places, in order, covering all that was written.
    pub pieces: SmallVec<[Piece; 2]>,
    /// The store for the command.
    pub store: StoreId,
    /// Keeps the blobs from being sealed or dropped.
    pub pin: Box<dyn Send>,
}

/// Bytes of a blob, as a log keeps them until the blob itself is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// The blob.
    pub blob: BlobId,
    /// Where in it the bytes belong.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// How much content a log takes in at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageLimits {
    /// Most bytes in all.
    pub total: u64,
    /// Most bytes of one image.
    pub each: usize,
}

/// What the zone log needs of content, to make both durable together and to recover.
pub trait ContentSync: Send + Sync {
    /// Makes all content written so far durable, where it is.
    fn sync(&self) -> Result<()>;

    /// Whether the bytes of `piece` are there and unharmed. A missing blob is `Ok(false)`.
    fn verify(&self, piece: &Piece) -> Result<bool>;

    /// Gives `keep` what was written before the call and is neither durable nor was given
    /// away before, if it is little; the caller has it durable elsewhere, and may then do
    /// without [`ContentSync::sync`] for the time being. `Ok(false)` if it is too much, or
    /// can't be told: only `sync` helps then. The same after an error, which is `keep`'s own.
    /// One caller at a time; waits for no disk.
    fn images(&self, limits: ImageLimits, keep: &mut dyn FnMut(Image<'_>) -> Result<()>) -> Result<bool> {
        let _ = (limits, keep);
        Ok(false)
    }

    /// Puts an image back that `images` gave away before a crash, for all reads and checks
    /// from now on; on the medium it is once `sync` has returned, and no file is changed
    /// before. An image of a blob that is sealed, or gone, is not needed any more.
    fn restore(&self, image: Image<'_>) -> Result<()> {
        let _ = image;
        Err(Error::NotSupported)
    }
}

/// Keeps content.
///
/// Implementors guarantee: bytes that were written survive SIGKILL of this process when
/// `write` returns, power loss once [`ContentSync::sync`] returned; they never change;
/// memory use is bounded whatever the load.
pub trait ContentStore: ContentSync {
    /// Stores `data`. [`Error::NoSpace`] or [`Error::QuotaExceeded`] if the disk is full,
    /// [`Error::NoStore`] if the store is not there.
    fn write(&self, hint: WriteHint, data: &[u8]) -> Result<Staged>;

    /// Fills `buf` from a blob. [`Error::NotFound`] if the blob is gone, which means that
    /// the caller's extent is out of date: resolve again.
    fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Whether a blob has to be fetched to be read, so that somebody who reads in order gains by
    /// [`ContentStore::want`].
    fn is_fetched(&self, blob: BlobId) -> bool {
        let _ = blob;
        false
    }

    /// Says that a range of a blob will be read soon; returns at once. `false` if that is too much for
    /// now, and to be said again later.
    fn want(&self, blob: BlobId, range: Range<u64>) -> bool {
        let _ = (blob, range);
        true
    }

    /// Whether fsync of a file that is placed so waits until its content is in its store.
    fn fsync_uploads(&self, placement: Placement) -> bool {
        let _ = placement;
        false
    }

    /// Whether a blob is nowhere but on this machine, though its store is elsewhere.
    fn is_only_here(&self, blob: BlobId) -> bool {
        let _ = blob;
        false
    }

    /// Has the store of these blobs take them, and returns once it has.
    fn upload(&self, blobs: &[BlobId]) -> Result<()> {
        let _ = blobs;
        Ok(())
    }

    /// Whether content can be placed in a store.
    fn has_store(&self, store: StoreId) -> bool {
        store == StoreId(0)
    }

    /// Tells that the file has no open handle any more, so that what was kept for its
    /// writer may be closed.
    fn closed(&self, ino: Ino);

    /// Refuses with [`Error::NoSpace`] if `len` more bytes would not fit.
    fn check_space(&self, len: u64) -> Result<()>;

    /// Space where content goes.
    fn space(&self) -> Result<DiskSpace>;
}

/// The content port of a kernel that has no store mounted: metadata works, content does not.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoContent;

impl ContentSync for NoContent {
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn verify(&self, _piece: &Piece) -> Result<bool> {
        Ok(false)
    }
}

impl ContentStore for NoContent {
    fn write(&self, _hint: WriteHint, _data: &[u8]) -> Result<Staged> {
        Err(Error::NoStore)
    }

    fn read(&self, _blob: BlobId, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        Err(Error::NoStore)
    }

    fn closed(&self, _ino: Ino) {}

    fn check_space(&self, _len: u64) -> Result<()> {
        Ok(())
    }

    fn space(&self) -> Result<DiskSpace> {
        Ok(DiskSpace::default())
    }
}
