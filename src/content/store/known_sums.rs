//! Checksums of the blobs that were read last, so that each read needs no file of its own.

use std::sync::Arc;

use nexus_kernel::{BlobId, Result};
use parking_lot::Mutex;

use super::sums::FrameSums;

/// Blobs whose checksums are remembered, at the most.
const MOST: usize = 256;
/// Most bytes of all of them: a blob of 8 MiB in frames of 4 KiB has 8 KiB.
const MOST_BYTES: usize = 2 << 20;

/// A small cache; the one that was used last comes last.
#[derive(Default)]
pub struct KnownSums(Mutex<State>);

#[derive(Default)]
struct State {
    sums: Vec<Arc<FrameSums>>,
    /// Grows with each removal, so that what was read before it is not kept after it.
    removals: u64,
}

impl KnownSums {
    /// A blob's checksums, read if they are not known.
    pub fn get(&self, blob: BlobId, read: impl FnOnce() -> Result<FrameSums>) -> Result<Arc<FrameSums>> {
        let removals = {
            let mut state = self.0.lock();
            if let Some(at) = state.sums.iter().position(|sums| sums.id == blob) {
                let sums = state.sums.remove(at);
                state.sums.push(Arc::clone(&sums));
                return Ok(sums);
            }
            state.removals
        };
        let sums = Arc::new(read()?);
        let mut state = self.0.lock();
        if state.removals == removals && state.sums.iter().all(|known| known.id != blob) {
            state.sums.push(Arc::clone(&sums));
            let mut bytes: usize = state.sums.iter().map(|sums| sums.memory_bytes()).sum();
            while bytes > MOST_BYTES || state.sums.len() > MOST {
                bytes -= state.sums.remove(0).memory_bytes();
            }
        }
        Ok(sums)
    }

    /// Forgets a blob's, which are made anew or deleted.
    pub fn remove(&self, blob: BlobId) {
        let mut state = self.0.lock();
        state.removals += 1;
        state.sums.retain(|sums| sums.id != blob);
    }
}

#[cfg(test)]
mod tests {
    use nexus_drivers::disk::SimDisk;
    use nexus_kernel::Error;
    use nexus_kernel::disk::Disk;

    use super::*;

    fn sums(id: u64, len: u64) -> FrameSums {
        let file = SimDisk::new().create(std::path::Path::new("/blob")).unwrap();
        file.write_at(&vec![id as u8; len as usize], 0).unwrap();
        FrameSums::of_file(BlobId(id), &*file, len, 4096).unwrap()
    }

    #[test]
    fn what_was_used_last_is_read_once_and_all_is_bounded() {
        let known = KnownSums::default();
        let get = |id| known.get(BlobId(id), || Ok(sums(id, 5000)));
        for id in 1..=MOST as u64 {
            get(id).unwrap();
        }
        let unread = || Err(Error::Invalid);
        assert_eq!(*known.get(BlobId(1), unread).unwrap(), sums(1, 5000));
        get(MOST as u64 + 1).unwrap();
        // The first was used again, so the second has gone.
        assert!(known.get(BlobId(1), unread).is_ok());
        assert_eq!(known.get(BlobId(2), unread), Err(Error::Invalid));
        let large = 4096 * (MOST_BYTES as u64 / 4 + 1);
        let frames = vec![0; (large / 4096) as usize];
        known.get(BlobId(7), || Ok(FrameSums::of_frames(BlobId(7), large, frames))).unwrap();
        assert!(known.0.lock().sums.iter().map(|sums| sums.memory_bytes()).sum::<usize>() <= MOST_BYTES);
    }

    #[test]
    fn what_is_made_anew_meanwhile_is_not_kept() {
        let known = KnownSums::default();
        let read = || {
            known.remove(BlobId(1));
            Ok(sums(1, 10))
        };
        known.get(BlobId(1), read).unwrap();
        assert_eq!(known.get(BlobId(1), || Err(Error::NotFound)), Err(Error::NotFound));
    }
}
