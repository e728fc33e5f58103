//! Writing what came to the cache's files, behind the back of those who asked for it. Large pieces go past
//! the system's own cache: what a file's readers have in memory need not be there twice, and a copy of
//! each byte costs more than all else that is done with it here.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::ids::BlobId;
use rustix::fs::OFlags;

use super::Shared;
use super::frames::FRAME;
use super::state::Place;

/// What addresses, offsets and lengths have to be a multiple of, to be written past the system's cache.
pub const ALIGN: usize = 4096;
/// How long pieces stay in memory that nobody comes for, at the least.
const LINGER: Duration = Duration::from_secs(2);

impl Shared {
    /// The work of a thread that writes.
    pub(super) fn keep(&self) {
        let mut state = self.state.lock();
        let mut idle = false;
        while !state.stopping {
            if let Some(piece) = state.next_unkept() {
                drop(state);
                self.keep_piece(piece);
                state = self.state.lock();
                idle = false;
            } else if !state.is_holding() {
                self.came.wait(&mut state);
            } else if self.came.wait_for(&mut state, LINGER).timed_out() {
                // Whoever they were fetched for has gone, or has a file to read them from.
                if std::mem::replace(&mut idle, true) {
                    state.let_go_of_kept();
                }
            }
        }
    }

    /// Writes all that is left, and waits for what others write.
    pub(super) fn keep_all(&self) {
        self.came.notify_all();
        loop {
            let mut state = self.state.lock();
            let Some(piece) = state.next_unkept() else {
                self.kept.wait_while(&mut state, |state| state.writing > 0);
                return;
            };
            drop(state);
            self.keep_piece(piece);
        }
    }

    fn keep_piece(&self, (place, offset, bytes): (Place, u64, Bytes)) {
        let (id, ..) = place;
        let file = self.file(&mut self.state.lock(), id);
        let is_there = match file {
            Ok(file) => self.write_past(id, offset, &bytes) || file.write_all_at(&bytes, offset).is_ok(),
            Err(error) => {
                log::debug!("blob {:016x} is not cached: {error}", id.0);
                false
            }
        };
        self.state.lock().written(place, is_there);
        self.kept.notify_all();
    }

    /// Writes past the system's cache; `false` where that can't be.
    fn write_past(&self, id: BlobId, offset: u64, bytes: &Bytes) -> bool {
        let is_aligned = bytes.as_ptr().align_offset(ALIGN) == 0
            && offset.is_multiple_of(ALIGN as u64)
            && bytes.len().is_multiple_of(ALIGN);
        if !is_aligned || (bytes.len() as u64) < FRAME {
            return false;
        }
        let flags = OFlags::DIRECT.bits().cast_signed();
        let opened: std::io::Result<File> = OpenOptions::new().write(true).custom_flags(flags).open(self.path(id));
        opened.is_ok_and(|file| file.write_all_at(bytes, offset).is_ok())
    }
}
