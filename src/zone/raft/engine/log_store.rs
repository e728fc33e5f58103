//! A [`GroupLog`] as the library's log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use nexus_kernel::Result as KernelResult;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, entry, io_error, log_id, position, raft_entry, raft_vote, vote,
};
use crate::raft::group_log::GroupLog;

/// The log of one member.
#[derive(Clone)]
pub struct LogStore(pub Arc<GroupLog>);

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => self.0.state().purged.map_or(0, |purged| purged.index + 1),
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let entries = self.0.entries(start..end).into_iter().map(raft_entry);
        entries.collect::<KernelResult<_>>().map_err(|error| io_error(&error))
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.0.state().vote.map(raft_vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.0.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, saved: &RaftVote) -> Result<(), io::Error> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let flushed = Box::new(move |done| drop(tell.send(done)));
        self.0.save_vote(vote(saved), flushed).map_err(|error| io_error(&error))?;
        match told.await {
            Ok(done) => done.map_err(|error| io_error(&error)),
            Err(_) => Err(io::Error::other("the log has gone away")),
        }
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        match committed {
            Some(committed) => self.0.save_committed(position(&committed)).map_err(|error| io_error(&error)),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        // Entries that are gone are in the state, which may be further than the note.
        Ok(self.0.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|theirs| entry(&theirs)).collect();
        let flushed = Box::new(move |done: KernelResult<()>| {
            callback.io_completed(done.map_err(|error| io_error(&error)));
        });
        self.0.append(entries, flushed).map_err(|error| io_error(&error))
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.0.truncate_after(last.as_ref().map(position)).map_err(|error| io_error(&error))
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.0.purge(position(&upto)).map_err(|error| io_error(&error))
    }
}
