//! What a collection would free, and reading content back a part at a time.

use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, Error, Result};

use super::Reclaimer;
use crate::metadata::known_blobs;
use crate::store::Where;

/// What is not live, counted without changing anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Garbage {
    /// Blobs that nothing refers to, and their bytes.
    pub dead: u64,
    /// Bytes of them.
    pub dead_bytes: u64,
    /// Blobs that would be emptied because little of them is live.
    pub sparse: u64,
    /// Bytes of those that are dead.
    pub sparse_bytes: u64,
    /// Files and objects that no zone knows, to be deleted.
    pub unknown: u64,
}

/// How far a scrub came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// The last blob that was read; `None` if there are no more after it.
    pub after: Option<BlobId>,
    /// Blobs that were read, and their bytes.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of blobs that are left to be read.
    pub left_bytes: u64,
    /// What is wrong, a sentence each.
    pub damage: Vec<String>,
}

impl Reclaimer {
    /// Counts what a collection would free.
    pub fn survey(&self) -> Result<Garbage> {
        let mut found = Garbage { unknown: self.store.condemned().len() as u64, ..Garbage::default() };
        for (_, blob) in known_blobs(&self.zones.all())?.into_iter().filter(|(id, _)| self.is_own(*id)) {
            let percent = u128::from(self.config.compact_below_percent);
            if blob.live == 0 {
                found.dead += 1;
                found.dead_bytes += blob.len;
            } else if blob.state == BlobState::Sealed && u128::from(blob.live) * 100 < u128::from(blob.len) * percent {
                found.sparse += 1;
                found.sparse_bytes += blob.len - blob.live;
            }
        }
        Ok(found)
    }

    /// Reads sealed blobs above `after` back from their stores, about `budget` bytes of them,
    /// and holds them against their checksums. To be called until there are no more.
    pub fn scrub(&self, after: BlobId, budget: u64) -> Result<Scrubbed> {
        let known = known_blobs(&self.zones.all())?;
        let sealed = |id: BlobId| self.is_own(id) && self.store.place_of(id) == Where::Elsewhere;
        let mut done = Scrubbed::default();
        let mut left = known.range(after..).filter(|(id, blob)| **id > after && blob.live > 0 && sealed(**id));
        for (id, blob) in left.by_ref() {
            match self.store.scrub(*id) {
                Ok(_) => {}
                // Dropped since it was listed.
                Err(Error::NotFound) if self.records(*id)?.is_empty() => {}
                Err(Error::NotFound) => done.damage.push(format!("blob {:016x} is missing", id.0)),
                Err(Error::Corrupt(text) | Error::Io(text) | Error::UnknownVersion(text)) => done.damage.push(text),
                Err(error) => return Err(error),
            }
            done.blobs += 1;
            done.bytes += blob.len;
            if done.bytes >= budget {
                done.after = Some(*id);
                break;
            }
        }
        done.left_bytes = left.map(|(_, blob)| blob.len).sum();
        if done.left_bytes == 0 {
            done.after = None;
        }
        Ok(done)
    }
}
