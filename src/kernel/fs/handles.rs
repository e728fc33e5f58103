//! How often each inode is open. Nothing else about a handle is kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use crate::ids::NodeId;

const SHARDS: usize = 64;

/// Open counts, in shards so that threads seldom meet. Holds an entry for open inodes only.
pub(super) struct OpenCounts {
    shards: Vec<Mutex<HashMap<NodeId, u32>>>,
}

impl OpenCounts {
    pub(super) fn new() -> OpenCounts {
        OpenCounts { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Counts one more handle.
    pub(super) fn open(&self, node: NodeId) {
        self.with(node, |counts| *counts.entry(node).or_insert(0) += 1);
    }

    /// Counts one handle less; answers whether it was the last. A close too many is ignored.
    pub(super) fn close(&self, node: NodeId) -> bool {
        self.with(node, |counts| match counts.entry(node) {
            Entry::Occupied(entry) if *entry.get() <= 1 => {
                entry.remove();
                true
            }
            Entry::Occupied(mut entry) => {
                *entry.get_mut() -= 1;
                false
            }
            Entry::Vacant(_) => false,
        })
    }

    /// Whether any handle is open.
    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.with(node, |counts| counts.contains_key(&node))
    }

    fn with<T>(&self, node: NodeId, f: impl FnOnce(&mut HashMap<NodeId, u32>) -> T) -> T {
        let index = (node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize;
        match self.shards.get(index) {
            Some(shard) => f(&mut shard.lock()),
            // Not reached: 58 bits shifted away leave an index below 64.
            None => f(&mut HashMap::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_handles_and_tells_the_last() {
        let counts = OpenCounts::new();
        for n in 0..1000 {
            counts.open(NodeId(n));
            counts.open(NodeId(n));
        }
        for n in 0..1000 {
            assert!(!counts.close(NodeId(n)));
            assert!(counts.is_open(NodeId(n)));
            assert!(counts.close(NodeId(n)));
            assert!(!counts.is_open(NodeId(n)));
            assert!(!counts.close(NodeId(n)), "one too many");
        }
        assert!(counts.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
