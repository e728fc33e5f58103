//! Changes that the metastore does not have yet, in order of table and key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use nexus_kernel::metastore::Key;
use nexus_kernel::{Lsn, Table};

/// What one entry takes beside the bytes of its value: the key and the value's handle in a
/// tree node that is two thirds full, and the allocations behind the value. Measured.
const ENTRY_BYTES: u64 = 192;
/// Longest key that is kept as a [`ShortKey`]; those of most tables are one or two numbers.
const SHORT: usize = 16;

/// A change of one key: its new value, or `None` where it was deleted.
pub type Change = Option<Bytes>;

/// A key that is compared as one number, which is much faster than as bytes. Its order is
/// that of the bytes: zeros behind them, and of two that are the same then, the shorter first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ShortKey {
    bytes: [u8; SHORT],
    /// One more than [`SHORT`] for a bound that is longer; never for a key that is kept.
    len: u8,
}

impl ShortKey {
    fn of(key: &[u8]) -> ShortKey {
        let mut bytes = [0; SHORT];
        for (to, from) in bytes.iter_mut().zip(key) {
            *to = *from;
        }
        ShortKey { bytes, len: key.len().min(SHORT + 1) as u8 }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    fn rank(&self) -> (u128, u8) {
        (u128::from_be_bytes(self.bytes), self.len)
    }
}

impl PartialOrd for ShortKey {
    fn partial_cmp(&self, other: &ShortKey) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortKey {
    fn cmp(&self, other: &ShortKey) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// The changes of one table: in `short` until there is a key that does not fit, then in `long`.
#[derive(Default)]
struct Tree {
    short: BTreeMap<ShortKey, Change>,
    long: BTreeMap<Key, Change>,
}

impl Tree {
    fn get(&self, key: &[u8]) -> Option<&Change> {
        if self.long.is_empty() { self.short.get(&ShortKey::of(key)) } else { self.long.get(key) }
    }

    fn insert(&mut self, key: &[u8], change: Change) -> Option<Change> {
        if self.long.is_empty() && key.len() <= SHORT {
            return self.short.insert(ShortKey::of(key), change);
        }
        if !self.short.is_empty() {
            let moved = std::mem::take(&mut self.short).into_iter();
            self.long.extend(moved.map(|(key, change)| (Key::from_slice(key.as_slice()), change)));
        }
        self.long.insert(Key::from_slice(key), change)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Change> {
        if self.long.is_empty() { self.short.remove(&ShortKey::of(key)) } else { self.long.remove(key) }
    }

    fn range(&self, start: &[u8], end: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &Change)> {
        let (short, long) = (start < end && !self.short.is_empty(), start < end && !self.long.is_empty());
        let short = short.then(|| self.short.range(ShortKey::of(start)..ShortKey::of(end)));
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let long = long.then(|| self.long.range::<[u8], _>(bounds));
        let short = short.into_iter().flatten().map(|(key, change)| (key.as_slice(), change));
        short.chain(long.into_iter().flatten().map(|(key, change)| (key.as_slice(), change)))
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        let short = self.short.iter().map(|(key, change)| (key.as_slice(), change));
        short.chain(self.long.iter().map(|(key, change)| (key.as_slice(), change)))
    }
}

/// A table of changes.
#[derive(Default)]
pub struct MemTable {
    tables: [Tree; Table::ALL.len()],
    bytes: u64,
    last: Lsn,
}

impl MemTable {
    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Memory that the changes take, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The command that came last.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Notes that everything up to `lsn` is in here, or was before.
    pub fn set_last(&mut self, lsn: Lsn) {
        debug_assert!(lsn >= self.last);
        self.last = lsn;
    }

    fn tree(&self, table: Table) -> Option<&Tree> {
        self.tables.get(table as usize - 1)
    }

    /// The change of a key, if there is one.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<&Change> {
        self.tree(table)?.get(key)
    }

    /// Changes a key.
    pub fn insert(&mut self, table: Table, key: &[u8], change: Change) {
        let Some(tree) = self.tables.get_mut(table as usize - 1) else { return };
        let added = value_bytes(&change);
        match tree.insert(key, change) {
            None => self.bytes += entry_bytes(key) + added,
            Some(old) => self.bytes = self.bytes + added - value_bytes(&old),
        }
    }

    /// Takes a key's change back, if there is one.
    pub fn remove(&mut self, table: Table, key: &[u8]) {
        let Some(tree) = self.tables.get_mut(table as usize - 1) else { return };
        if let Some(old) = tree.remove(key) {
            self.bytes -= entry_bytes(key) + value_bytes(&old);
        }
    }

    /// The changes of a range, in order.
    pub fn range(&self, table: Table, start: &[u8], end: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &Change)> {
        self.tree(table).map(|tree| tree.range(start, end)).into_iter().flatten()
    }

    /// All changes, in order of table and key.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], &Change)> {
        let tables = Table::ALL.into_iter().zip(&self.tables);
        tables.flat_map(|(table, tree)| tree.iter().map(move |(key, change)| (table, key, change)))
    }

    /// How many keys are changed.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|tree| tree.short.len() + tree.long.len()).sum()
    }
}

fn value_bytes(change: &Change) -> u64 {
    change.as_ref().map_or(0, |value| value.len() as u64)
}

fn entry_bytes(key: &[u8]) -> u64 {
    let inline = SHORT + 8;
    ENTRY_BYTES + if key.len() > inline { key.len() as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn counts_each_entry_once() {
        let mut table = MemTable::default();
        assert!(table.is_empty());
        table.insert(Table::Inode, b"key", Some(Bytes::from_static(b"12345")));
        let one = table.bytes();
        table.insert(Table::Inode, b"key", Some(Bytes::from_static(b"54321")));
        assert_eq!(table.bytes(), one);
        table.insert(Table::Inode, b"key", None);
        assert_eq!(table.bytes(), one - 5);
        table.insert(Table::Dentry, b"key", None);
        assert_eq!((table.bytes(), table.len()), (2 * (one - 5), 2));
        assert_eq!(table.get(Table::Dentry, b"key"), Some(&None));
        assert_eq!(table.get(Table::Dentry, b"other"), None);
        table.remove(Table::Dentry, b"other");
        table.remove(Table::Dentry, b"key");
        assert_eq!((table.bytes(), table.len()), (one - 5, 1));
        table.remove(Table::Inode, b"key");
        assert!(table.is_empty());
    }

    /// Keys and bounds of any length, with many zeros, which keys of one number are full of.
    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let mut random = Random(3);
        for longest in [16, 40] {
            let (mut table, mut model) = (MemTable::default(), BTreeMap::<Vec<u8>, Change>::new());
            let key = |random: &mut Random, longest: u64| -> Vec<u8> {
                let len = random.below(longest + 1);
                (0..len).map(|_| [0, 0, 1, 255][random.below(4) as usize]).collect()
            };
            for step in 0..2000 {
                let (changed, start, end) = (key(&mut random, longest), key(&mut random, 20), key(&mut random, 20));
                if random.below(4) == 0 {
                    table.remove(Table::Xattr, &changed);
                    model.remove(&changed);
                } else {
                    let change = (random.below(3) > 0).then(|| Bytes::copy_from_slice(&changed));
                    table.insert(Table::Xattr, &changed, change.clone());
                    model.insert(changed.clone(), change);
                }
                let within = |(key, _): &(&Vec<u8>, &Change)| **key >= start && **key < end;
                let expected: Vec<_> = model.iter().filter(within).map(|(key, v)| (key.as_slice(), v)).collect();
                let found: Vec<_> = table.range(Table::Xattr, &start, &end).collect();
                assert_eq!(found, expected, "step {step}: {start:?} to {end:?}");
                assert_eq!(table.get(Table::Xattr, &start), model.get(&start), "step {step}");
            }
            let all: Vec<_> = table.iter().map(|(_, key, change)| (key.to_vec(), change.clone())).collect();
            assert_eq!((all.len(), all), (table.len(), model.into_iter().collect()));
        }
    }
}
