//! Settings of the node log.

use nexus_kernel::{Error, Result};

use super::format::{HEADER_BYTES, IMAGE_HEADER_BYTES, RECORD_HEADER_BYTES};

/// Most bytes of one image: what is damaged or torn is told apart by record.
const IMAGE_BYTES: usize = 64 << 10;

/// Who makes segments ahead of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preallocate {
    /// A thread of the log's own, so that no writer waits for it.
    Background,
    /// The writer that takes a segment into use; for tests, which want one order of events.
    Inline,
}

/// Settings of [`super::NodeLog`].
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Size of a segment file, header included.
    pub segment_bytes: u64,
    /// Ready segments kept at the most; more that become free are removed. At least 2: the
    /// next one, and one that only commands that free space may take on a full disk.
    pub max_spares: usize,
    /// A sync copies content into the log, in place of syncing it where it is, if it is at
    /// most so much; 0 for never.
    pub image_bytes: u64,
    /// Bytes of such copies at which a sync has the content made durable where it is, if
    /// nobody has done so before. Recovery may hold them all in memory.
    pub unsettled_bytes: u64,
    /// Who makes segments.
    pub preallocate: Preallocate,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 16 << 20,
            max_spares: 4,
            image_bytes: 256 << 10,
            unsettled_bytes: 32 << 20,
            preallocate: Preallocate::Background,
        }
    }
}

impl LogConfig {
    /// Smallest segment that makes any sense.
    pub const MIN_SEGMENT_BYTES: u64 = HEADER_BYTES + 1024;
    /// Largest: a segment is read whole when the log is opened.
    pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

    pub(super) fn check(&self) -> Result<()> {
        let good =
            (Self::MIN_SEGMENT_BYTES..=Self::MAX_SEGMENT_BYTES).contains(&self.segment_bytes) && self.max_spares >= 2;
        if good { Ok(()) } else { Err(Error::Invalid) }
    }

    /// Longest payload of one record.
    pub(super) fn max_payload(&self) -> usize {
        (self.segment_bytes - HEADER_BYTES) as usize - RECORD_HEADER_BYTES
    }

    /// Most bytes of one image.
    pub(super) fn max_image(&self) -> usize {
        IMAGE_BYTES.min(self.max_payload() - IMAGE_HEADER_BYTES)
    }

    /// Bytes at the end of a segment that only commands that free space may take while no
    /// further segment can be made.
    pub(super) fn reserve(&self) -> u64 {
        (self.segment_bytes - HEADER_BYTES) / 8
    }
}
