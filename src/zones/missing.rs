//! Content files of zones that are missing here: what was in them is taken from other members' copies.

use std::sync::Arc;

use nexus_content::ReclaimConfig;
use nexus_kernel::model::BlobState;
use nexus_kernel::scan::find_blob;
use nexus_kernel::{BlobId, Command, Interest, Result as KernelResult, Zone};

use crate::boot::Volume;

impl Volume {
    /// What `status` says of content files that are missing, if any are.
    pub(crate) fn missing_problem(&self) -> Option<String> {
        let missing = self.content.missing();
        let first = missing.first()?;
        Some(format!(
            "{} content files of zones are missing here, or cut short, such as {:016x}: what other members have copies of is \
             read from those and written anew here; the rest can't be read",
            missing.len(),
            first.0
        ))
    }

    /// Writes anew what zones' files have in content files that are missing here, from other members'
    /// copies, as far as there are any.
    pub fn mend_missing(&self) {
        for blob in self.content.missing() {
            match self.mend_blob(blob) {
                Ok(true) => {
                    log::info!("no file has anything in blob {:016x} any more, which was missing", blob.0);
                    self.content.not_missed(blob);
                }
                Ok(false) => {}
                Err(error) => log::debug!("blob {:016x} is missing, and not made up for yet: {error}", blob.0),
            }
        }
    }

    /// Whether no file needs the blob any more.
    fn mend_blob(&self, blob: BlobId) -> KernelResult<bool> {
        let mut done = true;
        for joined in self.node_if_any().map(|node| node.zones()).unwrap_or_default() {
            let zone: Arc<dyn Zone> = joined.zone().clone();
            let Some(known) = find_blob(&*zone, blob)? else { continue };
            zone.be_current(Interest::Anything)?;
            if known.live > 0 {
                let collector = self.collector(ReclaimConfig::default()).reading(self.shared.clone());
                let bytes = collector.take_over(&zone, &[blob])?;
                log::info!("{bytes} bytes of zone {} were written anew from other members' copies", joined.name());
            }
            let Some(known) = find_blob(&*zone, blob)? else { continue };
            if known.live == 0 && known.state == BlobState::Open {
                // Nothing is sealed any more, but then it can be dropped.
                zone.propose(&Command::SealBlob { blob, len: known.len })?;
            }
            done &= known.live == 0;
        }
        Ok(done)
    }
}
