//! What members of a zone say to each other, and who carries it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nexus_kernel::Result;
use nexus_kernel::metastore::MetaSnapshot;

use super::entry::{Entry, Member, MemberId, Position, Vote};
use super::replica::Mark;

/// Asks for a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoteRequest {
    /// The vote that is asked for.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<Position>,
    /// Only asks whether the vote would be granted; promises nothing.
    pub pre: bool,
    /// The leader has asked the candidate to stand.
    pub transfer: bool,
}

/// Answers [`VoteRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoteReply {
    /// What the member has voted for by now.
    pub vote: Vote,
    /// Whether it is granted.
    pub granted: bool,
    /// The member's last entry.
    pub last: Option<Position>,
}

/// A leader asks a member to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferLeader {
    /// The leader's vote.
    pub from: Vote,
    /// Who is to lead.
    pub to: MemberId,
    /// What it must have by then.
    pub last: Option<Position>,
}

/// Entries for a member, or none: a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first.
    pub previous: Option<Position>,
    /// Up to here, entries are committed.
    pub committed: Option<Position>,
    /// In order.
    pub entries: Vec<Entry>,
}

/// Answers [`Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendReply {
    /// The member has everything up to here, durably.
    Matched(Option<Position>),
    /// The member does not have this entry, which the first one follows.
    Conflict(Position),
    /// The member has voted for somebody else since.
    HigherVote(Vote),
}

/// Answers a proposal or a question that only a leader answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another member leads, or nobody does.
    NotLeader(Option<MemberId>),
    /// It can't be told whether it was done. Ask again, with the same numbers.
    Unclear(String),
}

/// A way to one member of a zone.
pub trait Link: Send + Sync {
    /// Asks for a vote.
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>>;

    /// Asks it to lead. `Ok(false)` if it can't.
    fn transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>>;

    /// Sends entries; answers come in the same order.
    fn replicate(
        &self,
        appends: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply>>>>;

    /// Sends a state, and answers the member's vote once it has taken it over.
    fn snapshot(&self, vote: Vote, mark: Mark, state: Arc<dyn MetaSnapshot>) -> BoxFuture<'static, Result<Vote>>;

    /// Has it propose an encoded batch, if it leads; done once it is committed, at the place that is told.
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>>;

    /// Has it tell how far a reader must have come to miss nothing, if it leads: one more
    /// than the index of the last entry.
    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>>;

    /// The same, and has it promise to commit nothing without this member for a time
    /// (`raft/pledges.rs`); whether it has.
    fn pledge(&self) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>>;
}

/// Ways to the members of a zone.
pub trait Links: Send + Sync {
    /// The way to a member. Making it connects to nobody.
    fn link(&self, id: MemberId, member: &Member) -> Arc<dyn Link>;
}
