//! A log that tells a [`Tail`] what is in it before anybody else hears of it.

use std::io;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend};

use super::types::{RaftEntry, RaftLogId, RaftVote, TypeConfig, entry};
use crate::raft::replica::Replica;
use crate::raft::tail::Tail;

/// A log and its tail.
pub struct Tailed<L> {
    log: L,
    tail: Arc<Tail>,
    replica: Arc<Replica>,
}

impl<L: RaftLogStorage<TypeConfig>> Tailed<L> {
    /// Tells `tail` of `log` from now on.
    pub async fn new(mut log: L, tail: Arc<Tail>, replica: Arc<Replica>) -> Result<Tailed<L>, io::Error> {
        let last = log.get_log_state().await?.last_log_id;
        tail.ends(last.map_or(0, |last| last.index + 1));
        Ok(Tailed { log, tail, replica })
    }
}

impl<L: RaftLogStorage<TypeConfig>> RaftLogStorage<TypeConfig> for Tailed<L> {
    type LogReader = L::LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> L::LogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let ours: Vec<_> = entries.iter().map(entry).collect();
        // Before they are in the log, as nobody can be told of them sooner.
        self.tail.appended(&ours, self.replica.applied());
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last).await?;
        self.tail.ends(last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.log.purge(upto).await
    }
}
