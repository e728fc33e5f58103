//! Taking over the content of a node that leaves a zone.

use std::sync::Arc;

use nexus_kernel::{BlobId, Error, Result, StoreId, Zone};

use super::batch::Batch;
use super::{Memory, Progress, Reclaimer};
use crate::metadata::zone_blobs;
use crate::zones::is_own;

/// Passes over what is left, as files change meanwhile.
const PASSES: usize = 8;

impl Reclaimer {
    /// Copies all that a zone's files have in blobs of `writer` into blobs of this node; answers
    /// how many bytes. When it returns well, they have nothing there any more.
    pub fn adopt(&self, zone: &Arc<dyn Zone>, writer: u32) -> Result<u64> {
        let _alone = self.store.collecting().lock();
        let mut copied = 0;
        for _ in 0..PASSES {
            let blobs = zone_blobs(&**zone)?;
            let left: Vec<_> = blobs.iter().filter(|(id, blob)| is_own(writer, **id) && blob.live > 0).collect();
            if left.is_empty() {
                return Ok(copied);
            }
            let mut batch = Batch::new(StoreId(0));
            for (id, _) in left {
                copied += self.empty_of_other(zone, *id, &mut batch)?;
            }
            self.finish(&mut batch, &mut Progress::default())?;
        }
        Err(Error::Unavailable("the node that is to leave goes on writing".into()))
    }

    /// Copies what a zone's files have now in these blobs of other nodes into blobs of this node;
    /// answers how many bytes.
    pub fn take_over(&self, zone: &Arc<dyn Zone>, blobs: &[BlobId]) -> Result<u64> {
        let _alone = self.store.collecting().lock();
        let mut batch = Batch::new(StoreId(0));
        let mut copied = 0;
        for blob in blobs {
            copied += self.empty_of_other(zone, *blob, &mut batch)?;
        }
        self.finish(&mut batch, &mut Progress::default())?;
        Ok(copied)
    }

    fn empty_of_other(&self, zone: &Arc<dyn Zone>, blob: BlobId, batch: &mut Batch) -> Result<u64> {
        let (mut budget, mut memory, mut progress) = (u64::MAX, Memory::default(), Progress::default());
        self.empty(zone, blob, batch, &mut budget, &mut memory, &mut progress)?;
        if memory.wrong.contains(&blob) {
            let lost = format!("blob {:016x} of another node can't be read", blob.0);
            return Err(memory.failed.take().unwrap_or(Error::Io(lost)));
        }
        Ok(progress.copied_bytes)
    }
}
