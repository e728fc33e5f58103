//! What a content store and its collector are told when they start. Sizes in bytes, times in
//! milliseconds. Values that do not fit a small medium are scaled down when a store opens.

/// Settings of a [`crate::SegmentStore`].
#[derive(Clone, Debug)]
pub struct ContentConfig {
    /// High bits of the ids of blobs made here; 24 bits, random for each data folder.
    pub writer: u32,
    /// Whether fsync waits until content is in the store, if that is not on this machine and
    /// the file's placement leaves it open.
    pub fsync_uploads: bool,
    /// Size at which a segment that many files share is closed.
    pub segment_bytes: u64,
    /// Size at which a segment of streamed files is closed.
    pub stream_segment_bytes: u64,
    /// A file that wrote this much sequentially gets a segment of its own.
    pub stream_after_bytes: u64,
    /// Files that can have one at the same time.
    pub stream_lanes: usize,
    /// Space reserved ahead of writes at a time.
    pub allocate_step_bytes: u64,
    /// Writing to the medium is started each time this much was written to a segment.
    pub writeback_step_bytes: u64,
    /// Writes are refused when the medium has less space available than this; `None` for 1%
    /// of the medium, at least 64 MiB and at most 512 MiB, but never more than 5% of it.
    pub reserve_bytes: Option<u64>,
    /// Sealed blobs whose files are kept open.
    pub sealed_files: usize,
    /// Closed segments, waiting to be sealed, whose files are kept open.
    pub closed_files: usize,
    /// Longest that a write on a full medium waits for the collector to make room.
    pub full_wait_ms: u64,
}

impl Default for ContentConfig {
    fn default() -> ContentConfig {
        ContentConfig {
            writer: 1,
            fsync_uploads: true,
            segment_bytes: 64 << 20,
            stream_segment_bytes: 256 << 20,
            stream_after_bytes: 1 << 20,
            stream_lanes: 8,
            allocate_step_bytes: 8 << 20,
            writeback_step_bytes: 8 << 20,
            reserve_bytes: None,
            sealed_files: 256,
            closed_files: 32,
            full_wait_ms: 3_000,
        }
    }
}

/// Settings of a [`crate::Reclaimer`].
#[derive(Clone, Debug)]
pub struct ReclaimConfig {
    /// Time between two passes when nothing is asked for.
    pub interval_ms: u64,
    /// An open segment that nothing was written to for this long is closed and sealed...
    pub idle_seal_ms: u64,
    /// ...if it holds this much.
    pub idle_seal_bytes: u64,
    /// For a store that is far away it is closed and sent after this long, however little it holds...
    pub early_seal_ms: u64,
    /// ...as long as small ones are few: so many at once...
    pub early_seals: u64,
    /// ...and one more each time this has passed.
    pub early_seal_every_ms: u64,
    /// Nor does one that is written to all the time wait longer than this to be sent.
    pub longest_open_ms: u64,
    /// A dead blob is dropped this long after it was first seen dead; at once when space is short.
    pub drop_grace_ms: u64,
    /// A sealed blob with less than this percentage of live bytes is compacted.
    pub compact_below_percent: u64,
    /// Sealed blobs of a store that is far away with fewer live bytes than this are small...
    pub merge_below_bytes: u64,
    /// ...and those of about the same size are merged once a store has so many of them.
    pub merge_blobs: usize,
    /// Most bytes that are copied a second from blobs of stores that are far away, over some time.
    pub far_copy_bytes_per_s: u64,
    /// Most bytes that one pass copies, or reads to seal.
    pub pass_bytes: u64,
    /// Most extents that one `Relocate` command moves.
    pub moves_per_command: usize,
    /// How long the thread rests after a pass that copied, in percent of that pass's time.
    pub rest_percent: u64,
}

impl Default for ReclaimConfig {
    fn default() -> ReclaimConfig {
        ReclaimConfig {
            interval_ms: 2_000,
            idle_seal_ms: 300_000,
            idle_seal_bytes: 8 << 20,
            early_seal_ms: 1_000,
            early_seals: 6,
            early_seal_every_ms: 10_000,
            longest_open_ms: 30_000,
            drop_grace_ms: 2_000,
            compact_below_percent: 50,
            merge_below_bytes: 4 << 20,
            merge_blobs: 16,
            far_copy_bytes_per_s: 8 << 20,
            pass_bytes: 32 << 20,
            moves_per_command: 256,
            rest_percent: 300,
        }
    }
}
