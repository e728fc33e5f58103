//! How the memory limit of a volume is divided among those that keep things in memory.

/// Smallest limit that a volume works with.
pub const MIN_BYTES: u64 = 32 << 20;
/// The limit when nobody sets one.
pub const DEFAULT_BYTES: u64 = 256 << 20;

/// Largest part of the limit that caches may have: one in this many.
const CACHE_PART: u64 = 2;

/// Shares of one limit, in bytes; together they are the limit. The caches have 3/8 of it
/// unless another share is asked for; the others divide the rest.
///
/// | Share | By default | Holds |
/// |---|---|---|
/// | `metastore_cache` | 2/8 | pages of redb's B-trees |
/// | `inode_cache` | 1/8 | inodes and directory entries that were used last |
/// | `pending` | 2/8 | changes that the log has and redb has not; writers wait beyond it |
/// | `content` | 1/8 | content on its way to stores that are far away and from them; 8 MiB may go up to each however little it is |
/// | `process` | 2/8 | the program, its threads and the buffers of FUSE requests |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Cache of the metastore.
    pub metastore_cache: u64,
    /// Cached inodes.
    pub inode_cache: u64,
    /// Changes not yet in the metastore.
    pub pending: u64,
    /// Content on its way.
    pub content: u64,
    /// Everything that has no limit of its own.
    pub process: u64,
}

impl MemoryPlan {
    /// Divides `limit` bytes, of which `cache` are for caches; 3/8 if that is left open.
    pub fn divide(limit: u64, cache: Option<u64>) -> MemoryPlan {
        let cache = cache.unwrap_or(limit / 8 * 3).min(Self::most_cache(limit));
        let inode_cache = cache / 3;
        let rest = limit - cache;
        let (pending, content) = (rest / 5 * 2, rest / 5);
        let process = rest - pending - content;
        MemoryPlan { metastore_cache: cache - inode_cache, inode_cache, pending, content, process }
    }

    /// Most bytes of `limit` that caches may have.
    pub fn most_cache(limit: u64) -> u64 {
        limit / CACHE_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit() {
        for limit in [MIN_BYTES, DEFAULT_BYTES, MIN_BYTES + 7, 123_456_789, u64::MAX] {
            for cache in [None, Some(0), Some(1 << 20), Some(u64::MAX)] {
                let plan = MemoryPlan::divide(limit, cache);
                let sum = [plan.metastore_cache, plan.pending, plan.inode_cache, plan.content, plan.process]
                    .iter()
                    .fold(0u128, |sum, share| sum + u128::from(*share));
                assert_eq!(sum, u128::from(limit), "{cache:?}");
                assert!(plan.process >= plan.pending && plan.pending >= limit / 6, "{plan:?}");
            }
        }
    }

    #[test]
    fn the_default_is_as_documented() {
        let plan = MemoryPlan::divide(8 << 20, None);
        assert_eq!((plan.metastore_cache, plan.inode_cache), (2 << 20, 1 << 20));
        assert!(plan.pending.abs_diff(2 << 20) < 8 && plan.content.abs_diff(1 << 20) < 8);
    }
}
