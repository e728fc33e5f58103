//! Content of open files: read ahead from one state of an object, or staged in a local file
//! that has no name, until it is stored as a whole.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use nexus_kernel::{Error, Result};

/// Bytes that are read ahead at first, and at most.
const FIRST: u64 = 128 << 10;
const MOST: u64 = 8 << 20;
/// Pieces that an open file keeps.
const PIECES: usize = 2;

/// Content that is not in the bucket yet, or may be changed.
pub struct Staged {
    /// Holds it; has no name.
    pub file: File,
    /// Bytes.
    pub len: u64,
    /// Whether it differs from what is in the bucket.
    pub dirty: bool,
    /// Whether an object of this name is in the bucket.
    pub stored: bool,
    /// Whether the object's content has been fetched.
    pub ready: bool,
    /// Counts changes.
    pub version: u64,
    /// Last change.
    pub modified: SystemTime,
}

impl Staged {
    /// Nothing, in a new file in `folder`.
    pub fn new(folder: &Path, stored: bool) -> Result<Staged> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let failed = |error| Error::from_io("cannot stage content in the data folder", &error);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("staged.{}.{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Staged { file, len: 0, dirty: !stored, stored, ready: !stored, version: 0, modified: SystemTime::now() })
    }
}

/// Reads one state of an object, further ahead the longer the reading goes on in order.
#[derive(Default)]
pub struct Reader {
    pieces: VecDeque<(u64, Bytes)>,
    window: u64,
    end: u64,
}

impl Reader {
    /// Fills `out` from `offset`, with what `fetch` brings, of an object of `size` bytes.
    pub fn read(
        &mut self,
        offset: u64,
        size: u64,
        out: &mut [u8],
        mut fetch: impl FnMut(Range<u64>) -> Result<Bytes>,
    ) -> Result<usize> {
        let wanted = (out.len() as u64).min(size.saturating_sub(offset));
        let mut done = 0;
        while done < wanted {
            let at = offset + done;
            let piece = self.pieces.iter().find_map(|(start, bytes)| {
                let skip = usize::try_from(at.checked_sub(*start)?).ok()?;
                bytes.get(skip..).filter(|rest| !rest.is_empty())
            });
            if let (Some(piece), Some(room)) = (piece, out.get_mut(done as usize..wanted as usize)) {
                let take = piece.len().min(room.len());
                if let (Some(room), Some(piece)) = (room.get_mut(..take), piece.get(..take)) {
                    room.copy_from_slice(piece);
                }
                done += take as u64;
                continue;
            }
            self.window = if at == self.end { (self.window * 2).clamp(FIRST, MOST) } else { FIRST };
            let end = (at + self.window.max(wanted - done)).min(size);
            let bytes = fetch(at..end)?;
            if bytes.is_empty() {
                return Err(Error::Conflict);
            }
            self.end = at + bytes.len() as u64;
            self.pieces.push_back((at, bytes));
            if self.pieces.len() > PIECES {
                self.pieces.pop_front();
            }
        }
        Ok(done as usize)
    }
}
