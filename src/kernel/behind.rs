//! What the kernel tier asks of a zone whose commands are dear, as all members agree on each: to
//! take note of what is written, and to propose it later, many writes of a file at once.

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::ids::{Ino, StoreId};
use crate::model::{Inode, Piece};

/// Bytes that were written to a file, with their content in its place.
pub struct FileWrite {
    /// The file.
    pub ino: Ino,
    /// The open file that they were written through.
    pub handle: u64,
    /// Where in the file they begin.
    pub offset: u64,
    /// Where their content is; not empty.
    pub pieces: SmallVec<[Piece; 2]>,
    /// The store of that.
    pub store: StoreId,
    /// The writer lacks the right to keep setuid and setgid bits.
    pub kill_privileges: bool,
    /// When.
    pub now: Timestamp,
    /// Keeps the blobs of the content from being sealed or dropped.
    pub pin: Box<dyn Send>,
}

/// Writes that are put off.
///
/// Implementors guarantee: what was taken note of is in what [`crate::Zone::inode`] and
/// [`crate::Zone::read_written`] tell from then on; writes of a file are proposed in their order, and before
/// any other command that names the file; what is lost is told to each open file that had a
/// part in it, by every flush until a sync or a write has told it, and whatever was written to the file
/// behind it is lost with it. Power loss, and the end of this process, lose what is put off, of each file
/// the newest writes.
pub trait WriteBehind: Send + Sync {
    /// Takes note of a write; answers the inode as it is with that. An error is what became of earlier
    /// writes through the same open file; this one is not taken note of then.
    fn write(&self, write: FileWrite) -> Result<Inode>;

    /// Proposes what was put off of a file, and waits for it; the error of what was lost of it, by now or
    /// earlier, if it was written through this open file. The error stays: whoever is started while the file
    /// is open closes a copy of its descriptor unasked, and looks at no answer.
    fn flush(&self, ino: Ino, handle: u64) -> Result<()>;

    /// As [`WriteBehind::flush`], and the error is told with that.
    fn sync(&self, ino: Ino, handle: u64) -> Result<()>;

    /// As [`WriteBehind::flush`], for all files.
    fn flush_all(&self) -> Result<()>;

    /// The open file is gone: nobody will ask what became of its writes.
    fn released(&self, ino: Ino, handle: u64);
}
