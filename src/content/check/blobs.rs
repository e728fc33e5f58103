//! Checks of the content that is there against the blobs that the metadata knows.

use nexus_kernel::model::{Blob, BlobState};
use nexus_kernel::{BlobId, Error, Result};

use super::Checker;
use crate::store::{SegmentStore, Where};

/// The end of a note on a blob that the zone's files have nothing in. Where content of several
/// zones is kept, it may be another's.
pub const NO_FILE: &str = "belongs to no file and will be deleted";

impl Checker<'_> {
    pub(super) fn check_content(&mut self, store: &SegmentStore) -> Result<()> {
        let records: Vec<_> = self.blobs.iter().map(|(id, (blob, _))| (*id, *blob)).collect();
        // A list tells of a thousand objects for the price of asking for one.
        let files = store.list_files()?;
        for (id, blob) in records {
            let listed = files.get(&id).filter(|_| store.is_far(id) && store.place_of(id) == Where::Elsewhere);
            let len = match listed {
                // How much is in a compressed one, it does not tell.
                Some(len) if *len != u64::MAX => Ok(*len),
                _ => store.blob_len(id),
            };
            let there = self.check_file(store, id, &blob, len)?;
            if there && self.scope.deep && blob.state == BlobState::Sealed && store.place_of(id) == Where::Elsewhere {
                match store.scrub(id) {
                    Ok(bytes) => self.summary.verified_bytes += bytes,
                    Err(Error::Corrupt(text) | Error::Io(text) | Error::UnknownVersion(text)) => self.damage(text),
                    Err(error) => return Err(error),
                }
            }
        }
        for (id, len) in files {
            if !self.blobs.contains_key(&id) {
                let len = if len == u64::MAX { String::new() } else { format!(", {len} bytes,") };
                self.note(format_args!("blob {:016x}{len} {NO_FILE}", id.0));
            }
        }
        Ok(())
    }

    /// Whether all that the metadata needs of a blob is there, which has `len` bytes.
    fn check_file(&mut self, store: &SegmentStore, id: BlobId, blob: &Blob, len: Result<u64>) -> Result<bool> {
        match len {
            Ok(len) if len < blob.len && blob.live > 0 => {
                self.damage(format_args!(
                    "blob {:016x}: has {len} bytes, files refer to bytes up to {}",
                    id.0, blob.len
                ));
                Ok(false)
            }
            Ok(len) => {
                if blob.state == BlobState::Sealed && store.place_of(id) == Where::Elsewhere && len != blob.len {
                    self.damage(format_args!("blob {:016x}: was sealed with {} bytes, has {len}", id.0, blob.len));
                }
                Ok(true)
            }
            // The node that has written it has it, and those that keep copies.
            Err(Error::NotFound) if self.scope.writer.is_some_and(|writer| id.origin().0 != writer) => Ok(false),
            Err(Error::NotFound) if blob.live == 0 => {
                self.note(format_args!("blob {:016x}: is gone, with nothing in it", id.0));
                Ok(false)
            }
            Err(Error::NotFound) => {
                self.damage(format_args!("blob {:016x}: is missing, with {} bytes of files", id.0, blob.live));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
