//! The drained state below a zone's memory.

use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::metastore::{MetaSnapshot, Visitor};
use nexus_kernel::{Error, MetaRead, Metastore, Result, Table};

/// A snapshot of the metastore, which a later one may stand in for.
///
/// A commit that failed and was tried again can cost the metastore its older states. What the
/// zone holds in memory hides every difference between the snapshot it reads and the newest
/// state, so it reads on there. The same goes for a single key that is read beside the lock:
/// its newest drained value is as good as the one before.
#[derive(Clone)]
pub struct Base {
    metastore: Arc<dyn Metastore>,
    snapshot: Arc<dyn MetaSnapshot>,
}

impl Base {
    /// The metastore's newest state.
    pub fn newest(metastore: Arc<dyn Metastore>) -> Result<Base> {
        let snapshot = metastore.snapshot()?;
        Ok(Base { metastore, snapshot })
    }

    /// Reads the snapshot or, where that fails, the newest state.
    fn read<T>(&self, mut read: impl FnMut(&dyn MetaRead) -> Result<T>) -> Result<T> {
        match read(&*self.snapshot) {
            Err(error @ (Error::Io(_) | Error::Unavailable(_))) => {
                let newest = self.metastore.snapshot()?;
                if Arc::ptr_eq(&newest, &self.snapshot) { Err(error) } else { read(&*newest) }
            }
            done => done,
        }
    }
}

impl MetaRead for Base {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|state| state.get(table, key))
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        // A scan that is cut short goes on behind the last pair that was visited.
        let mut next = start.to_vec();
        self.read(|state| {
            let from = next.clone();
            state.scan(table, &from, end, &mut |key, value| {
                next.clear();
                next.extend_from_slice(key);
                next.push(0);
                visit(key, value)
            })
        })
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let mut before = end.to_vec();
        self.read(|state| {
            let to = before.clone();
            state.scan_back(table, start, &to, &mut |key, value| {
                before.clear();
                before.extend_from_slice(key);
                visit(key, value)
            })
        })
    }
}
