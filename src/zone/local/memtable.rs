//! Changes that the metastore does not have yet, in order of table and key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use nexus_kernel::metastore::Key;
use nexus_kernel::{Lsn, Table};

/// What one entry takes beside the bytes of its value: the key and the value's handle in a
/// tree node that is two thirds full, and the allocations behind the value. Measured.
const ENTRY_BYTES: u64 = 192;

/// A change of one key: its new value, or `None` where it was deleted.
pub type Change = Option<Bytes>;
type Tree = BTreeMap<Key, Change>;

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
    pub fn insert(&mut self, table: Table, key: Key, change: Change) {
        let Some(tree) = self.tables.get_mut(table as usize - 1) else { return };
        let value_bytes = |change: &Change| change.as_ref().map_or(0, |value| value.len() as u64);
        let (added, key_bytes) = (value_bytes(&change), if key.spilled() { key.len() as u64 } else { 0 });
        match tree.insert(key, change) {
            None => self.bytes += ENTRY_BYTES + key_bytes + added,
            Some(old) => self.bytes = self.bytes + added - value_bytes(&old),
        }
    }

    /// The changes of a range, in order.
    pub fn range(&self, table: Table, start: &[u8], end: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &Change)> {
        let tree = self.tree(table).filter(|tree| start < end && !tree.is_empty());
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let pairs = tree.map(|tree| tree.range::<[u8], _>(bounds));
        pairs.into_iter().flatten().map(|(key, change)| (key.as_slice(), change))
    }

    /// All changes, in order of table and key.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &Key, &Change)> {
        let tables = Table::ALL.into_iter().zip(&self.tables);
        tables.flat_map(|(table, tree)| tree.iter().map(move |(key, change)| (table, key, change)))
    }

    /// How many keys are changed.
    pub fn len(&self) -> usize {
        self.tables.iter().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_entry_once() {
        let mut table = MemTable::default();
        assert!(table.is_empty());
        let key = || Key::from_slice(b"key");
        table.insert(Table::Inode, key(), Some(Bytes::from_static(b"12345")));
        let one = table.bytes();
        table.insert(Table::Inode, key(), Some(Bytes::from_static(b"54321")));
        assert_eq!(table.bytes(), one);
        table.insert(Table::Inode, key(), None);
        assert_eq!(table.bytes(), one - 5);
        table.insert(Table::Dentry, key(), None);
        assert_eq!((table.bytes(), table.len()), (2 * (one - 5), 2));
        assert_eq!(table.get(Table::Dentry, b"key"), Some(&None));
        assert_eq!(table.get(Table::Dentry, b"other"), None);
    }
}
