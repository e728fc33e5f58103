//! The port to the consensus library: what a zone needs of its group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nexus_kernel::{Metastore, Result};

use super::entry::{Member, MemberId, Membership, Position, Vote};
use super::messages::{Append, AppendReply, Refusal, TransferLeader, VoteReply, VoteRequest};
use super::replica::Mark;
use super::rest::{ProcessId, Rest, RestOffer};
use super::tail::Tail;

/// What a member does in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes.
    Follower,
    /// Stands for leader.
    Candidate,
    /// Takes entries, and does not vote.
    #[default]
    Learner,
    /// Has failed, or was closed.
    Stopped,
}

/// How a group looks from one of its members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupStatus {
    /// What this member does.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// Who leads, as far as this member knows.
    pub leader: Option<MemberId>,
    /// Index of this member's last entry.
    pub last: Option<u64>,
    /// Up to where entries are committed, as far as this member knows.
    pub committed: Option<Position>,
    /// Up to where they are applied here.
    pub applied: Option<Position>,
    /// Up to where this member's log is cut off, because the state has it.
    pub purged: Option<Position>,
    /// Who the members are.
    pub membership: Membership,
    /// Up to where each member has the log; known to the leader alone.
    pub matched: Vec<(MemberId, Option<Position>)>,
    /// Since when a majority has not answered, at the leader; at others, since when they have not heard it.
    pub quorum_silent: Option<Duration>,
    /// Whether its timers stand here, as nothing happens in it.
    pub resting: bool,
}

/// A zone's group, as one member takes part in it.
pub trait Consensus: Send + Sync {
    /// Makes this member the only one of a new group.
    fn found(&self, member: Member) -> BoxFuture<'static, Result<()>>;

    /// Has an encoded batch appended and committed, if this member leads; done once it is
    /// applied here.
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>>;

    /// The leader has told that the entry at this place is committed, and with it all before it: what this
    /// member has of that can be applied.
    fn committed(&self, at: Position) -> BoxFuture<'static, ()>;

    /// One more than the index of the last entry that a reader must have seen to miss nothing
    /// that was acknowledged before the call, if this member leads.
    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>>;

    /// As [`Consensus::read_index`]; and, unless `false` is the answer, this member commits nothing without
    /// `member` for a time (`raft/pledges.rs`).
    fn pledge(&self, member: MemberId) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>>;

    /// The end of this member's log.
    fn tail(&self) -> &Arc<Tail>;

    /// How the group looks.
    fn status(&self) -> GroupStatus;

    /// Waits until the leader is known and is not `than`, at most that long; who it is then.
    fn other_leader(&self, than: Option<MemberId>, at_most: Duration) -> BoxFuture<'static, Option<MemberId>>;

    /// Takes a member in, first to learn; done when it has a vote. Only where this member leads.
    fn add(&self, id: MemberId, member: Member) -> BoxFuture<'static, Result<()>>;

    /// Takes a member out. Only where this member leads.
    fn remove(&self, id: MemberId) -> BoxFuture<'static, Result<()>>;

    /// Has another member lead. Only where this member leads.
    fn transfer(&self, to: MemberId) -> BoxFuture<'static, Result<()>>;

    /// Has the log cut off as far as the state has it, whoever may be late.
    fn compact(&self) -> BoxFuture<'static, ()>;

    /// Has the log cut off up to `index`, as far as the state has it.
    fn compact_to(&self, index: u64) -> BoxFuture<'static, ()>;

    /// A member asks for a vote.
    fn on_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>>;

    /// The leader asks this member to lead; `Ok(false)` if it can't.
    fn on_transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>>;

    /// Entries come in; answers go out in the same order.
    fn on_replicate(&self, appends: BoxStream<'static, Append>) -> BoxStream<'static, Result<AppendReply>>;

    /// A whole state has come in; answers this member's vote once it has taken it over.
    fn on_snapshot(&self, vote: Vote, mark: Mark, staged: Arc<dyn Metastore>) -> BoxFuture<'static, Result<Vote>>;

    /// Whether it rests.
    fn rest(&self) -> &Arc<Rest>;

    /// With which vote, and up to which entry, this leader could rest: if all members have all
    /// entries, and all are applied here.
    fn may_rest(&self) -> Option<(Vote, Position)>;

    /// The leader asks this member to rest; whether it does.
    fn on_rest(&self, offer: &RestOffer) -> bool;

    /// As [`Rest::vouches`], if this member leads still.
    fn vouches(&self) -> Option<(Vote, Vec<(MemberId, ProcessId)>)>;

    /// Takes no more part.
    fn shut_down(&self) -> BoxFuture<'static, ()>;
}
