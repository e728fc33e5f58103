//! Moving files' content from the stores where it is to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::{BlobId, Ino, Result, StoreId, Zone};

use super::batch::Batch;
use super::{Memory, Progress, Reclaimer};
use crate::metadata::{BlobExtent, file_extents};

/// Extents that are moved together, at the most.
const EXTENTS: usize = 1 << 16;

/// How far a migration came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Migrated {
    /// Bytes of files that lie in the target now and did not before.
    pub bytes: u64,
    /// Whether there is more: to be called again with the same files.
    pub more: bool,
}

impl Reclaimer {
    /// Moves content of `inos` that is not in `target`, at most about `budget` bytes, through
    /// this disk: what is for a store that is far away is there when its bytes count. What the
    /// files share with each other stays shared. Files may change meanwhile; what was written
    /// since is where its file is placed. Nothing is lost if it is cut short, and a call with
    /// the same files goes on where it stopped.
    pub fn migrate(&self, zone: &Arc<dyn Zone>, inos: &[Ino], target: StoreId, budget: u64) -> Result<Migrated> {
        let (mut by_blob, mut listed, mut more) = (BTreeMap::<BlobId, Vec<BlobExtent>>::new(), 0, false);
        for ino in inos {
            let (extents, complete) = file_extents(&**zone, *ino, |blob| blob.store() != target, EXTENTS - listed)?;
            listed += extents.len();
            for (blob, extent) in extents {
                by_blob.entry(blob).or_default().push(extent);
            }
            if !complete {
                more = true;
                break;
            }
        }
        let (mut left, mut memory, mut progress) = (budget, Memory::default(), Progress::default());
        let mut batch = Batch::new(target);
        for (blob, extents) in by_blob {
            if left == 0 {
                more = true;
                break;
            }
            self.copy_out(zone, blob, extents, &mut batch, &mut left, &mut memory, &mut progress)?;
        }
        self.finish(&mut batch, &mut progress)?;
        match memory.failed.take() {
            Some(error) => Err(error),
            None => Ok(Migrated { bytes: progress.moved_bytes, more: more || left == 0 }),
        }
    }
}
