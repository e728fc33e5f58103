//! Bringing copies of content to a store that is far away before the metadata knows of them: what is
//! there already must not be only on this disk again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Error, Result, StoreId};

use super::SegmentStore;
use super::segment::{Pin, Segment};
use super::space::Asker;

/// A segment that one copier fills. It is pinned, so nobody else seals it, or takes it for garbage as
/// no metadata knows of it. Dropped before it was delivered, it is such garbage.
pub(crate) struct Carrier {
    segment: Arc<Segment>,
    pin: Option<Pin>,
}

impl Carrier {
    /// The blob that it becomes.
    pub(crate) fn blob(&self) -> BlobId {
        self.segment.id()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Takes no more writes, so that it is settled once the pin is gone.
        self.segment.close();
    }
}

impl SegmentStore {
    /// An empty one for a store, which takes at least `len` bytes.
    pub(crate) fn carrier(&self, store: StoreId, len: u64) -> Result<Carrier> {
        self.may_write()?;
        let limit = self.mounts.get(store)?.lanes.lock().sizes().shared;
        let segment = self.make_segment(store, limit.max(len))?;
        segment.mark_redundant();
        Ok(Carrier { segment, pin: None })
    }

    /// Copies bytes into it; `None` if they do not fit any more.
    pub(crate) fn load(&self, carrier: &mut Carrier, data: &[u8]) -> Result<Option<Piece>> {
        self.may_write()?;
        let len = data.len() as u64;
        self.gauge.charge(len, Asker::Collector)?;
        let segment = &carrier.segment;
        let Some(reserved) = segment.append(len, 1, self.config.allocate_step_bytes, self.now_ms())? else {
            return Ok(None);
        };
        segment.write(data, reserved.at, self.config.writeback_step_bytes)?;
        let piece = Piece { len, blob: segment.id(), blob_offset: reserved.at, crc: crc32c::crc32c(data) };
        carrier.pin.get_or_insert(reserved.into_pin());
        Ok(Some(piece))
    }

    /// Has the store take it. From then on the metadata may be told; should it not come to that, the
    /// blob is found as one that nobody knows at the next start.
    pub(crate) fn deliver(&self, carrier: &Carrier) -> Result<()> {
        carrier.segment.close();
        self.seal_closed(&carrier.segment).map(drop)
    }

    pub(super) fn may_write(&self) -> Result<()> {
        self.poison.check()?;
        match self.attached.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(Error::Unavailable("content is not attached to its metadata yet".into())),
        }
    }
}
