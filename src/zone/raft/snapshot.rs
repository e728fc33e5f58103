//! A zone's state on its way to another member: its pairs in order, in pieces. To a witness goes what that keeps.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::metastore::{Durability, Key, MetaSnapshot, WriteBatch};
use nexus_kernel::{Error, Metastore, Result, Table};
use serde::{Deserialize, Serialize};

use super::entry::{decode, encode};
use super::witness;

/// About how many bytes of pairs a piece holds.
const PIECE_BYTES: usize = 512 << 10;
/// Greater than every key.
const LAST: [u8; 600] = [0xff; 600];

#[derive(Serialize, Deserialize)]
struct Piece {
    pairs: Vec<(u8, Bytes, Bytes)>,
}

/// Hands a state out in pieces.
pub struct Outgoing {
    state: Arc<dyn MetaSnapshot>,
    /// Where to go on.
    next: Option<(usize, Vec<u8>)>,
    to_witness: bool,
}

impl Outgoing {
    /// All of `state`.
    pub fn new(state: Arc<dyn MetaSnapshot>) -> Outgoing {
        Outgoing { state, next: Some((0, Vec::new())), to_witness: false }
    }

    /// What a witness keeps of `state`.
    pub fn to_witness(state: Arc<dyn MetaSnapshot>) -> Outgoing {
        Outgoing { to_witness: true, ..Outgoing::new(state) }
    }

    /// The next piece; `None` after the last.
    pub fn piece(&mut self) -> Result<Option<Bytes>> {
        let mut piece = Piece { pairs: Vec::new() };
        let mut bytes = 0;
        while let Some((place, start)) = self.next.take() {
            let Some(table) = Table::ALL.get(place).copied() else { break };
            if self.to_witness && table != Table::Sys {
                self.next = Some((place + 1, Vec::new()));
                continue;
            }
            let mut resume = None;
            self.state.scan(table, &start, &LAST, &mut |key, value| {
                if self.to_witness && !witness::keeps(table, key) {
                    return ControlFlow::Continue(());
                }
                bytes += key.len() + value.len() + 8;
                piece.pairs.push((table as u8, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                if bytes < PIECE_BYTES {
                    return ControlFlow::Continue(());
                }
                resume = Some([key, &[0]].concat());
                ControlFlow::Break(())
            })?;
            match resume {
                Some(key) => {
                    self.next = Some((place, key));
                    break;
                }
                None => self.next = Some((place + 1, Vec::new())),
            }
        }
        if piece.pairs.is_empty() { Ok(None) } else { encode("snapshot", &piece).map(|bytes| Some(bytes.into())) }
    }
}

/// Takes pieces in.
pub struct Incoming {
    staged: Arc<dyn Metastore>,
    at_witness: bool,
}

impl Incoming {
    /// Into an empty metastore.
    pub fn new(staged: Arc<dyn Metastore>) -> Incoming {
        Incoming { staged, at_witness: false }
    }

    /// The same at a witness, which takes what it keeps of any state.
    pub fn at_witness(staged: Arc<dyn Metastore>) -> Incoming {
        Incoming { staged, at_witness: true }
    }

    /// Takes a piece in.
    pub fn take(&mut self, piece: &[u8]) -> Result<()> {
        let Piece { pairs } = decode("snapshot", piece)?;
        let mut batch = WriteBatch::default();
        for (table, key, value) in pairs {
            let table = Table::ALL.into_iter().find(|known| *known as u8 == table);
            let table = table.ok_or_else(|| Error::UnknownVersion("snapshot: a table is not known".into()))?;
            batch.writes.push((table, Key::from_slice(&key), Some(value)));
        }
        if self.at_witness {
            witness::cut_down(&mut batch.writes);
        }
        self.staged.commit(&batch, Durability::Buffered)
    }

    /// Makes it durable, and hands it over.
    pub fn finish(self) -> Result<Arc<dyn Metastore>> {
        self.staged.commit(&WriteBatch::default(), Durability::Durable)?;
        Ok(self.staged)
    }
}

#[cfg(test)]
mod tests {
    use nexus_drivers::metastore::MemoryMetastore;

    use super::*;
    use crate::testing::Random;

    #[test]
    fn a_state_arrives_whole() {
        let from: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
        let mut random = Random(9);
        for _ in 0..40 {
            let mut batch = WriteBatch::default();
            for _ in 0..100 {
                let table = Table::ALL[random.below(9) as usize];
                let key: Vec<u8> = (0..1 + random.below(60)).map(|_| random.next() as u8).collect();
                let value = vec![random.next() as u8; random.below(2000) as usize];
                batch.writes.push((table, Key::from_slice(&key), Some(value.into())));
            }
            from.commit(&batch, Durability::Buffered).unwrap();
        }
        let to: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
        let (mut out, mut into) = (Outgoing::new(from.snapshot().unwrap()), Incoming::new(to));
        let mut pieces = 0;
        while let Some(piece) = out.piece().unwrap() {
            into.take(&piece).unwrap();
            assert!(into.take(&piece[..piece.len() - 1]).is_err());
            pieces += 1;
        }
        assert!(pieces > 3, "{pieces} pieces");
        let to = into.finish().unwrap();
        let digest = |store: &Arc<dyn Metastore>| crate::digest(&*store.snapshot().unwrap()).unwrap();
        assert_eq!(digest(&from), digest(&to));
    }

    #[test]
    fn a_witness_is_sent_and_takes_only_records_of_members() {
        let from: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
        let pair = |table, key: &[u8]| (table, Key::from_slice(key), Some(Bytes::from_static(b"x")));
        let writes = vec![
            pair(Table::Inode, b"zone/ca"),
            pair(Table::Dentry, b"12345678name"),
            pair(Table::Sys, b"applied"),
            pair(Table::Sys, b"member/0a"),
            pair(Table::Sys, b"mount/7"),
            pair(Table::Sys, b"zone/ca"),
        ];
        from.commit(&WriteBatch { writes, ..WriteBatch::default() }, Durability::Buffered).unwrap();
        let found = |outgoing: Outgoing, at_witness: bool| {
            let to: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
            let mut into = if at_witness { Incoming::at_witness(to) } else { Incoming::new(to) };
            let mut outgoing = outgoing;
            while let Some(piece) = outgoing.piece().unwrap() {
                into.take(&piece).unwrap();
            }
            let state = into.finish().unwrap().snapshot().unwrap();
            let mut found = Vec::new();
            for table in Table::ALL {
                state
                    .scan(table, &[], &LAST, &mut |key, _| {
                        found.push(String::from_utf8_lossy(key).into_owned());
                        ControlFlow::Continue(())
                    })
                    .unwrap();
            }
            found
        };
        let kept = ["applied", "member/0a", "zone/ca"];
        assert_eq!(found(Outgoing::to_witness(from.snapshot().unwrap()), false), kept);
        assert_eq!(found(Outgoing::new(from.snapshot().unwrap()), true), kept);
    }
}
