//! The changes of one command, in order of table and key: few as a rule, and then in a short
//! vector, which is faster than a tree; many now and then.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::metastore::{Key, Table};

/// One change: a put, or a delete.
pub(super) type Write = (Table, Key, Option<Bytes>);

/// Changes up to which they are kept in a vector.
const FEW: usize = 24;

/// Changes, each key once. One of the two is empty.
#[derive(Default)]
pub(super) struct Writes {
    few: Vec<Write>,
    many: BTreeMap<(Table, Key), Option<Bytes>>,
}

impl Writes {
    /// Where the key is among the few, or would be.
    fn find(&self, table: Table, key: &[u8]) -> Result<usize, usize> {
        self.few.binary_search_by(|(t, k, _)| (*t, k.as_slice()).cmp(&(table, key)))
    }

    /// The change of a key, if there is one.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Bytes>> {
        if !self.many.is_empty() {
            return self.many.get(&(table, Key::from_slice(key)));
        }
        self.find(table, key).ok().and_then(|at| self.few.get(at)).map(|(_, _, value)| value)
    }

    /// Changes a key.
    pub(super) fn insert(&mut self, table: Table, key: Key, value: Option<Bytes>) {
        if !self.many.is_empty() {
            self.many.insert((table, key), value);
            return;
        }
        match self.find(table, &key) {
            Ok(at) => {
                if let Some(write) = self.few.get_mut(at) {
                    write.2 = value;
                }
            }
            Err(at) if self.few.len() < FEW => {
                if self.few.is_empty() {
                    self.few.reserve_exact(8);
                }
                self.few.insert(at, (table, key, value));
            }
            Err(_) => {
                self.many = self.few.drain(..).map(|(table, key, value)| ((table, key), value)).collect();
                self.many.insert((table, key), value);
            }
        }
    }

    /// The changes of a range, in order.
    pub(super) fn range(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&[u8], &Option<Bytes>)> {
        let place = |key: &[u8]| self.find(table, key).unwrap_or_else(|at| at);
        let few = if self.few.is_empty() { None } else { self.few.get(place(start)..place(end)) };
        let any = !self.many.is_empty() && start < end;
        let range = any.then(|| (table, Key::from_slice(start))..(table, Key::from_slice(end)));
        let many = range.into_iter().flat_map(|range| self.many.range(range));
        let few = few.into_iter().flatten().map(|(_, key, value)| (key.as_slice(), value));
        few.chain(many.map(|((_, key), value)| (key.as_slice(), value)))
    }

    /// All changes, in order.
    pub(super) fn into_vec(self) -> Vec<Write> {
        if self.many.is_empty() {
            return self.few;
        }
        self.many.into_iter().map(|((table, key), value)| (table, key, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few or many, they are what a plain tree is.
    #[test]
    fn agrees_with_a_tree() {
        let mut writes = Writes::default();
        let mut model: BTreeMap<(Table, Key), Option<Bytes>> = BTreeMap::new();
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for step in 0..200u64 {
            let table = [Table::Inode, Table::Dentry, Table::Sys][below(3) as usize];
            let mut key = |len: u64| Key::from_slice(&below(40).to_be_bytes()[8 - len as usize..]);
            let (changed, start, end) = (key(2), key(2), key(1));
            let value = (step % 3 > 0).then(|| Bytes::from(step.to_string()));
            writes.insert(table, changed.clone(), value.clone());
            model.insert((table, changed), value);
            for (start, end) in [(&start, &end), (&end, &start)] {
                let within = |((t, k), _): &(&(Table, Key), &Option<Bytes>)| *t == table && k >= start && k < end;
                let expected: Vec<_> = model.iter().filter(within).map(|((_, k), v)| (k.as_slice(), v)).collect();
                assert_eq!(writes.range(table, start, end).collect::<Vec<_>>(), expected, "step {step}");
                let reversed: Vec<_> = expected.into_iter().rev().collect();
                assert_eq!(writes.range(table, start, end).rev().collect::<Vec<_>>(), reversed, "step {step}");
                assert_eq!(writes.get(table, start), model.get(&(table, start.clone())), "step {step}");
            }
        }
        assert!(model.len() > 2 * FEW, "too few to become many");
        let expected: Vec<Write> = model.into_iter().map(|((table, key), value)| (table, key, value)).collect();
        assert_eq!(writes.into_vec(), expected);
    }
}
