//! The metastore in memory: gone with the process. A key keeps the versions that open
//! snapshots may still read, so that taking a snapshot copies nothing.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::metastore::{
    Durability, Key, MetaRead, MetaSnapshot, Metastore, MetastoreStats, Table, Visitor, WriteBatch,
};
use parking_lot::RwLock;

/// Pairs that a scan takes out at a time, so that visitors run without the lock.
const SCAN_STEP: usize = 64;

/// A metastore in memory.
#[derive(Clone, Default)]
pub struct MemoryMetastore {
    state: Arc<RwLock<State>>,
}

/// A key's values with the commit that each came with, ascending; `None` for deleted.
type Versions = Vec<(u64, Option<Bytes>)>;
type Pairs = BTreeMap<Key, Versions>;

#[derive(Default)]
struct State {
    tables: [Pairs; Table::ALL.len()],
    newest: u64,
    /// Open snapshots: how many of each commit.
    open: BTreeMap<u64, usize>,
    /// Keys with versions that nobody needs once no snapshot is older than the commit.
    garbage: VecDeque<(u64, Table, Key)>,
    stored_bytes: u64,
}

struct MemorySnapshot {
    state: Arc<RwLock<State>>,
    commit: u64,
}

impl MemoryMetastore {
    /// An empty metastore.
    pub fn new() -> MemoryMetastore {
        MemoryMetastore::default()
    }
}

impl Metastore for MemoryMetastore {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        let mut state = self.state.write();
        let commit = state.newest;
        *state.open.entry(commit).or_default() += 1;
        Ok(Arc::new(MemorySnapshot { state: self.state.clone(), commit }))
    }

    fn commit(&self, batch: &WriteBatch, _durability: Durability) -> Result<()> {
        let mut state = self.state.write();
        for (table, key, expected) in &batch.expect {
            if state.get(*table, key, u64::MAX)? != *expected {
                return Err(Error::Conflict);
            }
        }
        let commit = state.newest + 1;
        for (table, key, value) in &batch.writes {
            state.put(*table, key, value.clone(), commit)?;
        }
        state.newest = commit;
        state.collect();
        Ok(())
    }

    fn stats(&self) -> Result<MetastoreStats> {
        let state = self.state.read();
        Ok(MetastoreStats { stored_bytes: state.stored_bytes, cache_bytes: state.stored_bytes })
    }
}

impl State {
    fn pairs(&self, table: Table) -> Result<&Pairs> {
        self.tables.get(table as usize - 1).ok_or(Error::Invalid)
    }

    fn get(&self, table: Table, key: &[u8], commit: u64) -> Result<Option<Bytes>> {
        Ok(self.pairs(table)?.get(key).and_then(|versions| seen_at(versions, commit)))
    }

    fn put(&mut self, table: Table, key: &Key, value: Option<Bytes>, commit: u64) -> Result<()> {
        let pairs = self.tables.get_mut(table as usize - 1).ok_or(Error::Invalid)?;
        if value.is_none() && !pairs.contains_key(key.as_slice()) {
            return Ok(());
        }
        let versions = pairs.entry(key.clone()).or_default();
        if versions.last().is_some_and(|(last, _)| *last == commit)
            && let Some((_, replaced)) = versions.pop()
        {
            self.stored_bytes -= size(key, replaced.as_ref());
        }
        self.stored_bytes += size(key, value.as_ref());
        if !versions.is_empty() || value.is_none() {
            self.garbage.push_back((commit, table, key.clone()));
        }
        versions.push((commit, value));
        Ok(())
    }

    /// Drops the versions that no open snapshot sees.
    fn collect(&mut self) {
        let oldest = self.open.keys().next().copied().unwrap_or(self.newest);
        while self.garbage.front().is_some_and(|(commit, _, _)| *commit <= oldest)
            && let Some((_, table, key)) = self.garbage.pop_front()
        {
            let Some(pairs) = self.tables.get_mut(table as usize - 1) else { continue };
            let Some(versions) = pairs.get_mut(key.as_slice()) else { continue };
            let keep_from = versions.iter().rposition(|(commit, _)| *commit <= oldest).unwrap_or(0);
            for (_, dropped) in versions.drain(..keep_from) {
                self.stored_bytes -= size(&key, dropped.as_ref());
            }
            if matches!(versions.as_slice(), [(commit, None)] if *commit <= oldest) {
                self.stored_bytes -= size(&key, None);
                pairs.remove(key.as_slice());
            }
        }
    }
}

/// The value that a snapshot of `commit` sees.
fn seen_at(versions: &Versions, commit: u64) -> Option<Bytes> {
    versions.iter().rev().find(|(version, _)| *version <= commit).and_then(|(_, value)| value.clone())
}

fn size(key: &Key, value: Option<&Bytes>) -> u64 {
    (key.len() + value.map_or(0, Bytes::len)) as u64
}

impl MemorySnapshot {
    /// The next pairs after `from`, in either direction, of a range that is not empty.
    fn step(&self, table: Table, range: (Bound<&[u8]>, Bound<&[u8]>), back: bool) -> Result<Vec<(Key, Bytes)>> {
        // Recursive, because a visitor of another scan may be the caller.
        let state = self.state.read_recursive();
        let pairs = state.pairs(table)?.range::<[u8], _>(range);
        let seen = |(key, versions): (&Key, &Versions)| Some((key.clone(), seen_at(versions, self.commit)?));
        Ok(match back {
            false => pairs.filter_map(seen).take(SCAN_STEP).collect(),
            true => pairs.rev().filter_map(seen).take(SCAN_STEP).collect(),
        })
    }
}

impl MetaRead for MemorySnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.state.read_recursive().get(table, key, self.commit)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let mut from = Bound::Included(Key::from_slice(start));
        while let Bound::Included(first) | Bound::Excluded(first) = &from {
            if first.as_slice() >= end {
                break;
            }
            let step = self.step(table, (from.as_ref().map(|key| key.as_slice()), Bound::Excluded(end)), false)?;
            for (key, value) in &step {
                if let ControlFlow::Break(()) = visit(key, value) {
                    return Ok(());
                }
            }
            match step.into_iter().nth(SCAN_STEP - 1) {
                Some((last, _)) => from = Bound::Excluded(last),
                None => break,
            }
        }
        Ok(())
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let mut end = Key::from_slice(end);
        while start < end.as_slice() {
            let step = self.step(table, (Bound::Included(start), Bound::Excluded(end.as_slice())), true)?;
            for (key, value) in &step {
                if let ControlFlow::Break(()) = visit(key, value) {
                    return Ok(());
                }
            }
            match step.into_iter().nth(SCAN_STEP - 1) {
                Some((last, _)) => end = last,
                None => break,
            }
        }
        Ok(())
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut state = self.state.write();
        if let Some(count) = state.open.get_mut(&self.commit) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.commit);
                state.collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_kernel::conformance::metastore::{Medium, run};

    struct Memory;

    impl Medium for Memory {
        fn open(&self) -> Arc<dyn Metastore> {
            Arc::new(MemoryMetastore::new())
        }
    }

    #[test]
    fn conforms() {
        run(&|| Box::new(Memory));
    }

    #[test]
    fn versions_go_with_the_snapshots_that_see_them() {
        let store = MemoryMetastore::new();
        let key = Key::from_slice(b"key");
        let put = |value: Option<&'static [u8]>| {
            let writes = vec![(Table::Sys, key.clone(), value.map(Bytes::from_static))];
            store.commit(&WriteBatch { expect: vec![], writes }, Durability::Buffered).unwrap();
        };
        put(Some(b"one"));
        let old = store.snapshot().unwrap();
        for _ in 0..10 {
            put(Some(b"two"));
        }
        put(None);
        assert_eq!(old.get(Table::Sys, b"key").unwrap().unwrap(), "one");
        assert!(store.stats().unwrap().stored_bytes > 0);
        drop(old);
        assert_eq!(store.stats().unwrap().stored_bytes, 0, "nothing is left of a deleted key");
        let state = store.state.read();
        assert!(state.garbage.is_empty() && state.tables.iter().all(BTreeMap::is_empty));
    }
}
