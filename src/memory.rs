//! How the memory limit of a volume is divided among those that keep things in memory.

/// Smallest limit that a volume works with.
pub const MIN_BYTES: u64 = 32 << 20;
/// The limit when nobody sets one.
pub const DEFAULT_BYTES: u64 = 256 << 20;

/// Shares of one limit, in bytes; together they are the limit.
///
/// | Share | Of the limit | Holds |
/// |---|---|---|
/// | `metastore_cache` | 1/4 | pages of redb's B-trees |
/// | `pending` | 1/4 | changes that the log has and redb has not; writers wait beyond it |
/// | `inode_cache` | 1/8 | inodes that were used last |
/// | `content` | 1/8 | buffers of open segments and of reads |
/// | `process` | 1/4 | the program, its threads and the buffers of FUSE requests |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Cache of the metastore.
    pub metastore_cache: u64,
    /// Changes not yet in the metastore.
    pub pending: u64,
    /// Cached inodes.
    pub inode_cache: u64,
    /// Content buffers.
    pub content: u64,
    /// Everything that has no limit of its own.
    pub process: u64,
}

impl MemoryPlan {
    /// Divides `limit` bytes.
    pub fn divide(limit: u64) -> MemoryPlan {
        let quarter = limit / 4;
        let eighth = limit / 8;
        let process = limit - 2 * quarter - 2 * eighth;
        MemoryPlan { metastore_cache: quarter, pending: quarter, inode_cache: eighth, content: eighth, process }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit() {
        for limit in [MIN_BYTES, DEFAULT_BYTES, MIN_BYTES + 7, 123_456_789, u64::MAX] {
            let plan = MemoryPlan::divide(limit);
            let sum = [plan.metastore_cache, plan.pending, plan.inode_cache, plan.content, plan.process]
                .iter()
                .fold(0u128, |sum, share| sum + u128::from(*share));
            assert_eq!(sum, u128::from(limit));
            assert!(plan.process >= plan.pending, "{limit}");
        }
    }
}
