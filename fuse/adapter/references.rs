//! How often the kernel was told of each node: it sends FORGET with the number of times that it
//! lets go of, which may be late and older than what it was told since. Only at zero does it
//! hold nothing of the node: no name, no descriptor, no working directory, no map.
//!
//! A byte a node, in blocks of neighbours: the kernel may hold millions, whose numbers lie close
//! together. The few that it was told of very often are counted elsewhere.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::Mutex;

/// Nodes whose counts lie together.
const BLOCK: u64 = 64;
/// Says that the count is among the large ones.
const LARGE: u8 = u8::MAX;
/// Threads that meet in one wait for each other.
const SHARDS: usize = 64;

/// The counts of one mount.
pub struct References {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    blocks: HashMap<u64, Block, BuildHasherDefault<Spread>>,
    large: HashMap<u64, u64, BuildHasherDefault<Spread>>,
}

struct Block {
    /// Counts that are not zero.
    used: u8,
    counts: [u8; BLOCK as usize],
    /// A bit for each whose attributes the kernel was told to drop, and was not told anew.
    dropped: u64,
}

impl References {
    /// None yet.
    pub fn new() -> References {
        References { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The mount is gone, and with it what the kernel had.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
    }

    /// The kernel is about to be told of `node`.
    pub fn add(&self, node: u64) {
        self.with(node, |shard| shard.add(node));
    }

    /// Whether the kernel has `node`.
    pub fn has(&self, node: u64) -> bool {
        self.with(node, |shard| {
            let block = shard.blocks.get(&(node / BLOCK));
            block.and_then(|block| block.counts.get((node % BLOCK) as usize)).is_some_and(|count| *count > 0)
        })
        .unwrap_or(false)
    }

    /// The kernel is told to drop the attributes of `node`.
    pub fn drop_attributes(&self, node: u64) {
        self.with(node, |shard| {
            if let Some(block) = shard.blocks.get_mut(&(node / BLOCK)) {
                block.dropped |= 1 << (node % BLOCK);
            }
        });
    }

    /// Whether it was, since it was taken last.
    pub fn is_dropped(&self, node: u64) -> bool {
        let look = |shard: &mut Shard| Some(shard.blocks.get(&(node / BLOCK))?.dropped & (1 << (node % BLOCK)) != 0);
        self.with(node, look).flatten().unwrap_or(false)
    }

    /// The same, and takes it.
    pub fn take_dropped(&self, node: u64) -> bool {
        let take = |shard: &mut Shard| {
            let block = shard.blocks.get_mut(&(node / BLOCK))?;
            let before = block.dropped;
            block.dropped &= !(1 << (node % BLOCK));
            Some(before != block.dropped)
        };
        self.with(node, take).flatten().unwrap_or(false)
    }

    /// All that the kernel has.
    pub fn all(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for shard in &self.shards {
            for (number, block) in &shard.lock().blocks {
                let used = block.counts.iter().zip(0..).filter(|(count, _)| **count > 0);
                all.extend(used.map(|(_, place)| number * BLOCK + place));
            }
        }
        all
    }

    /// The kernel lets go of `node` so many times; `true` if that was all.
    pub fn remove(&self, node: u64, times: u64) -> bool {
        self.with(node, |shard| shard.remove(node, times)).unwrap_or(false)
    }

    fn with<T>(&self, node: u64, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let index = (node / BLOCK) as usize % SHARDS;
        self.shards.get(index).map(|shard| work(&mut shard.lock()))
    }
}

impl Shard {
    fn add(&mut self, node: u64) {
        let block =
            self.blocks.entry(node / BLOCK).or_insert(Block { used: 0, counts: [0; BLOCK as usize], dropped: 0 });
        let Some(count) = block.counts.get_mut((node % BLOCK) as usize) else { return };
        match *count {
            LARGE => *self.large.entry(node).or_insert(u64::from(LARGE)) += 1,
            0 => {
                *count = 1;
                block.used += 1;
                block.dropped &= !(1 << (node % BLOCK));
            }
            before => {
                *count = before + 1;
                if *count == LARGE {
                    self.large.insert(node, u64::from(LARGE));
                }
            }
        }
    }

    fn remove(&mut self, node: u64, times: u64) -> bool {
        let Some(block) = self.blocks.get_mut(&(node / BLOCK)) else { return false };
        let Some(count) = block.counts.get_mut((node % BLOCK) as usize) else { return false };
        let before = match *count {
            0 => return false,
            LARGE => self.large.remove(&node).unwrap_or(u64::from(LARGE)),
            small => u64::from(small),
        };
        let left = before.saturating_sub(times);
        match u8::try_from(left) {
            Ok(small) if small < LARGE => *count = small,
            _ => {
                *count = LARGE;
                self.large.insert(node, left);
            }
        }
        if left == 0 {
            block.used -= 1;
            if block.used == 0 {
                self.blocks.remove(&(node / BLOCK));
            }
        }
        left == 0
    }
}

/// Spreads numbers that follow each other; nobody outside chooses them, so no more is needed.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_one_counts() {
        let references = References::new();
        references.add(7);
        references.add(7);
        assert!(!references.remove(7, 1) && references.has(7) && !references.has(8));
        references.add(7);
        references.add(1 << 50);
        let mut all = references.all();
        all.sort_unstable();
        assert_eq!(all, [7, 1 << 50]);
        assert!(references.remove(7, 2) && !references.has(7));
        assert!(!references.remove(7, 1), "nothing is held");
        assert!(!references.remove(8, 1), "its neighbour never was");
    }

    #[test]
    fn what_is_dropped_is_so_until_it_is_told_or_gone() {
        let references = References::new();
        references.drop_attributes(7);
        references.add(7);
        assert!(!references.take_dropped(7), "the kernel did not have it then");
        references.drop_attributes(7);
        assert!(references.is_dropped(7) && !references.is_dropped(8));
        assert!(!references.take_dropped(8) && references.take_dropped(7) && !references.take_dropped(7));
        assert!(!references.is_dropped(7));
        references.add(8);
        references.drop_attributes(7);
        assert!(references.remove(7, 1));
        references.add(7);
        assert!(!references.take_dropped(7), "the kernel has it anew");
    }

    /// Against a plain map, over counts on both sides of what a byte holds.
    #[test]
    fn counts_are_exact_whatever_their_size() {
        let references = References::new();
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut state = 1_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for step in 0..200_000 {
            let node = (next(3) << 48) + next(40) * 17;
            let held = model.get(&node).copied().unwrap_or(0);
            if next(100) < 70 || held == 0 {
                references.add(node);
                *model.entry(node).or_default() += 1;
            } else {
                let times = 1 + next(held.min(600));
                let left = held - times;
                assert_eq!(references.remove(node, times), left == 0, "step {step}");
                if left == 0 {
                    model.remove(&node)
                } else {
                    model.insert(node, left)
                };
            }
        }
        for (node, held) in model {
            assert!(references.remove(node, held));
        }
        for shard in &references.shards {
            let shard = shard.lock();
            assert!(shard.blocks.is_empty() && shard.large.is_empty(), "what is not held takes no memory");
        }
    }
}
