//! [`Group`]: a zone's group in the library.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use nexus_kernel::{Error, Metastore, Result};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use openraft::raft::{self, AppendEntriesRequest, StreamAppendError, TransferLeaderRequest};
use openraft::storage::RaftLogStorage;
use openraft::{
    ChangeMembers, Config, Instant, Raft, ReadPolicy, ServerState, Snapshot, SnapshotPolicy, StepDownPolicy,
};

use super::machine::{Machine, SnapshotBody, snapshot_meta};
use super::network::Network;
use super::tailed::Tailed;
use super::timers::RaftTimers;
use super::types::{Proposals, TypeConfig, log_id, membership, position, raft_entry, raft_vote, vote};
use crate::raft::consensus::{Consensus, GroupStatus, Role};
use crate::raft::entry::{Member, MemberId, Position, Vote};
use crate::raft::messages::{Append, AppendReply, Links, Refusal, TransferLeader, VoteReply, VoteRequest};
use crate::raft::pledges::Pledges;
use crate::raft::replica::{Mark, Replica};
use crate::raft::rest::{ProcessId, Rest, RestConfig, RestOffer};
use crate::raft::tail::Tail;

/// Times and sizes of a group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How often the leader tells that it is there.
    pub heartbeat: Duration,
    /// How long a member waits for that before it stands itself: between once and twice this.
    pub election: Duration,
    /// Entries since the last snapshot that bring on the next.
    pub snapshot_entries: u64,
    /// Entries that a member keeps behind its snapshot, for members that are a little late.
    pub keep_entries: u64,
    /// Most entries in one message.
    pub message_entries: u64,
    /// When it rests.
    pub rest: RestConfig,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            heartbeat: Duration::from_millis(200),
            election: Duration::from_millis(500),
            snapshot_entries: 20_000,
            keep_entries: 10_000,
            message_entries: 256,
            rest: RestConfig::default(),
        }
    }
}

type Inner = Raft<TypeConfig, Machine>;

/// A group.
pub struct Group {
    raft: Inner,
    me: MemberId,
    rest: Arc<Rest>,
    replica: Arc<Replica>,
    pledges: Arc<Pledges>,
    tail: Arc<Tail>,
}

impl Group {
    /// Goes on with the group whose log and state these are. To be called within a runtime.
    pub async fn start<L: RaftLogStorage<TypeConfig>>(
        replica: Arc<Replica>,
        log: L,
        links: Arc<dyn Links>,
        config: &GroupConfig,
    ) -> Result<Group> {
        let (me, is_witness) = (replica.me(), replica.is_witness());
        let (rest, grace) = (config.rest.clone(), config.election / 2);
        let millis = |time: Duration| time.as_millis() as u64;
        let mut config = Config {
            cluster_name: "zone".into(),
            heartbeat_interval: millis(config.heartbeat),
            election_timeout_min: millis(config.election),
            election_timeout_max: 2 * millis(config.election),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
            max_in_snapshot_log_to_keep: config.keep_entries,
            max_payload_entries: config.message_entries,
            replication_lag_threshold: config.keep_entries.max(1),
            install_snapshot_timeout: 10 * 60 * 1000,
            purge_batch_size: 256,
            enable_pre_vote: Some(true),
            removed_leader_step_down: StepDownPolicy::After(millis(config.heartbeat)),
            // Entries that others have may be missing here after a power cut, and other ones must not go
            // under the same term and index.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        if is_witness {
            // Its log is cut off by who knows what the others have: it has no state to send them instead. And it
            // leads only where no other can.
            (config.snapshot_policy, config.max_in_snapshot_log_to_keep) = (SnapshotPolicy::Never, u64::MAX);
            config.election_timeout_min = config.election_timeout_max - config.election_timeout_max / 10;
        }
        let config = config.validate().map_err(|error| Error::Io(format!("settings of a zone's group: {error}")))?;
        let (pledges, tail) = (Arc::<Pledges>::default(), Arc::<Tail>::default());
        let network = Network { links, me, is_witness, pledges: pledges.clone() };
        let log = Tailed::new(log, tail.clone(), replica.clone()).await;
        let log = log.map_err(|error| Error::Io(format!("the zone's log can't be read: {error}")))?;
        let raft = Raft::new(me.0, Arc::new(config), network, log, Machine(replica.clone()))
            .await
            .map_err(|error| Error::Unavailable(format!("the zone's group can't be started: {error}")))?;
        {
            let metrics = raft.metrics();
            pledges.know(Box::new(move || {
                let metrics = metrics.borrow_watched();
                let members = metrics.membership_config.membership().nodes().map(|(id, _)| MemberId(*id));
                members.filter(|id| *id != me).collect()
            }));
        }
        let is_alone = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids();
            voters.eq([me.0])
        };
        if is_alone {
            // Nobody else is to be asked, so nobody has to wait for the time of an election.
            raft.trigger().elect(false).await.map_err(stopped)?;
        }
        let timers = RaftTimers::new(raft.clone(), tokio::runtime::Handle::current(), grace);
        let rest = Arc::new(Rest::new(rest, Box::new(timers), std::time::Instant::now()));
        Ok(Group { raft, me, rest, replica, pledges, tail })
    }

    fn stir(&self) {
        self.rest.stir(std::time::Instant::now());
    }
}

/// Has a majority confirm that this member leads still: a leader takes changes only while one
/// has lately, and one that rested has asked nobody for long.
async fn confirm(raft: &Inner) -> std::result::Result<u64, Refusal> {
    match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => Ok(read.log_id().index + 1),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
            Err(Refusal::NotLeader(to.leader_id.map(MemberId)))
        }
        Err(error) => Err(Refusal::Unclear(error.to_string())),
    }
}

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("the zone's group takes no part here any more: {error}"))
}

fn changed(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            Error::Unavailable("this member of the zone does not lead it (any more); ask the leader".into())
        }
        RaftError::APIError(error) => Error::Unavailable(format!("the zone's members can't be changed now: {error}")),
        RaftError::Fatal(error) => stopped(error),
    }
}

fn unconfirmed(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotLeader(_) => {
            Error::Unavailable("this member of the zone does not lead it (any more); ask the leader".into())
        }
        Refusal::Unclear(why) => Error::Unavailable(format!("the zone's members can't be changed now: {why}")),
    }
}

fn our_vote_reply(reply: &raft::VoteResponse<TypeConfig>) -> VoteReply {
    VoteReply { vote: vote(&reply.vote), granted: reply.vote_granted, last: reply.last_log_id.as_ref().map(position) }
}

fn their_append(append: Append) -> Result<AppendEntriesRequest<TypeConfig>> {
    let entries = append.entries.into_iter().map(raft_entry);
    Ok(AppendEntriesRequest {
        vote: raft_vote(append.vote),
        prev_log_id: append.previous.map(log_id),
        entries: entries.collect::<Result<_>>()?,
        leader_commit: append.committed.map(log_id),
    })
}

impl Consensus for Group {
    fn found(&self, member: Member) -> BoxFuture<'static, Result<()>> {
        let (raft, me) = (self.raft.clone(), self.me);
        async move {
            let members = std::collections::BTreeMap::from([(me.0, member)]);
            raft.initialize(members)
                .await
                .map_err(|error| Error::Unavailable(format!("the zone can't be founded: {error}")))
        }
        .boxed()
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>> {
        self.stir();
        let raft = self.raft.clone();
        async move {
            let mut may_confirm = true;
            loop {
                match raft.client_write(Proposals(batch.clone())).await {
                    Ok(done) => return Ok(position(&done.log_id)),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))
                        if may_confirm && to.reason == ForwardReason::LeaseExpired =>
                    {
                        may_confirm = false;
                        confirm(&raft).await?;
                    }
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                        return Err(Refusal::NotLeader(to.leader_id.map(MemberId)));
                    }
                    Err(error) => return Err(Refusal::Unclear(error.to_string())),
                }
            }
        }
        .boxed()
    }

    fn committed(&self, at: Position) -> BoxFuture<'static, ()> {
        let (raft, tail, replica) = (self.raft.clone(), self.tail.clone(), self.replica.clone());
        async move {
            let known = tail.end() > at.index && replica.applied() <= at.index;
            let by = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                metrics.vote
            };
            // The leader of this term or a later one has the entry, as it is committed: it could say the same.
            if known && by.is_committed() && vote(&by).term >= at.term && vote(&by).candidate.0 != *raft.node_id() {
                let at = Some(log_id(at));
                let told = AppendEntriesRequest { vote: by, prev_log_id: at, entries: Vec::new(), leader_commit: at };
                // Whatever comes of it, the leader itself tells soon.
                let _ = raft.append_entries(told).await;
            }
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>> {
        self.stir();
        let raft = self.raft.clone();
        async move { confirm(&raft).await }.boxed()
    }

    fn pledge(&self, member: MemberId) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>> {
        self.stir();
        let (raft, replica, pledges, me) = (self.raft.clone(), self.replica.clone(), self.pledges.clone(), self.me);
        async move {
            // By what is committed: whoever leads next knows of it. Others than voters are not waited for.
            let votes = replica.mark().membership.voters.iter().any(|voters| voters.contains(&member));
            let granted = match member == me {
                true => Some(0),
                false if votes => pledges.grant(member),
                false => None,
            };
            let index = confirm(&raft).await?;
            Ok((index.max(granted.unwrap_or_default()), granted.is_some()))
        }
        .boxed()
    }

    fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Leader) => Role::Leader,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Learner) => Role::Learner,
        };
        let matched = metrics.replication.iter().flatten();
        let now = std::time::Instant::now();
        let silent = match role {
            Role::Leader => {
                let resting = self.rest.majority_silent(now);
                resting.or_else(|| metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()))
            }
            _ => Some(self.rest.leader_silent(now)),
        };
        GroupStatus {
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.map(MemberId),
            last: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(position),
            applied: metrics.last_applied.as_ref().map(position),
            purged: metrics.purged.as_ref().map(position),
            membership: membership(metrics.membership_config.membership()),
            matched: matched.map(|(id, at)| (MemberId(*id), at.as_ref().map(position))).collect(),
            quorum_silent: silent,
            resting: self.rest.is_resting(),
        }
    }

    fn other_leader(&self, than: Option<MemberId>, at_most: Duration) -> BoxFuture<'static, Option<MemberId>> {
        let mut metrics = self.raft.server_metrics();
        async move {
            let changed = async {
                loop {
                    let leader = metrics.borrow_and_update().current_leader.map(MemberId);
                    if leader.is_some() && leader != than {
                        return leader;
                    }
                    if metrics.changed().await.is_err() {
                        return None;
                    }
                }
            };
            tokio::time::timeout(at_most, changed).await.ok().flatten()
        }
        .boxed()
    }

    fn add(&self, id: MemberId, member: Member) -> BoxFuture<'static, Result<()>> {
        self.stir();
        let raft = self.raft.clone();
        async move {
            confirm(&raft).await.map_err(unconfirmed)?;
            raft.add_learner(id.0, member, true).await.map_err(changed)?;
            raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id.0])), true).await.map_err(changed)?;
            Ok(())
        }
        .boxed()
    }

    fn remove(&self, id: MemberId) -> BoxFuture<'static, Result<()>> {
        self.stir();
        let raft = self.raft.clone();
        async move {
            confirm(&raft).await.map_err(unconfirmed)?;
            let voters: BTreeSet<u64> = raft.voter_ids().collect();
            if voters.contains(&id.0) {
                let gone = ChangeMembers::RemoveVoters(BTreeSet::from([id.0]));
                raft.change_membership(gone, false).await.map_err(changed)?;
            } else {
                let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id.0]));
                raft.change_membership(gone, false).await.map_err(changed)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn transfer(&self, to: MemberId) -> BoxFuture<'static, Result<()>> {
        self.stir();
        let raft = self.raft.clone();
        async move { raft.trigger().transfer_leader(to.0).await.map_err(stopped) }.boxed()
    }

    fn compact_to(&self, index: u64) -> BoxFuture<'static, ()> {
        let raft = self.raft.clone();
        async move {
            // What stops it is told elsewhere.
            let _ = raft.trigger().snapshot().await;
            let _ = raft.trigger().purge_log(index).await;
        }
        .boxed()
    }

    fn compact(&self) -> BoxFuture<'static, ()> {
        let raft = self.raft.clone();
        async move {
            // What stops it is told elsewhere.
            let _ = raft.trigger().snapshot().await;
            let snapshot = raft.metrics().borrow_watched().snapshot;
            if let Some(snapshot) = snapshot {
                let _ = raft.trigger().purge_log(snapshot.index).await;
            }
        }
        .boxed()
    }

    fn on_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>> {
        let now = std::time::Instant::now();
        let knows_leader = request.pre && self.rest.is_resting() && self.rest.knows_leader(now);
        self.rest.stir(now);
        let raft = self.raft.clone();
        async move {
            if knows_leader {
                // As a member that hears heartbeats answers; those begin now.
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                let last = metrics.last_applied.as_ref().map(position);
                return Ok(VoteReply { vote: vote(&metrics.vote), granted: false, last });
            }
            let mut theirs = raft::VoteRequest::new(raft_vote(request.vote), request.last.map(log_id));
            theirs.leadership_transfer = request.transfer;
            let reply = if request.pre { raft.pre_vote(theirs).await } else { raft.vote(theirs).await };
            reply.map(|reply| our_vote_reply(&reply)).map_err(stopped)
        }
        .boxed()
    }

    fn on_transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>> {
        self.stir();
        let raft = self.raft.clone();
        async move {
            let theirs = TransferLeaderRequest::new(raft_vote(request.from), request.to.0, request.last.map(log_id));
            raft.handle_transfer_leader(theirs).await.map(|done| done.is_ok()).map_err(stopped)
        }
        .boxed()
    }

    fn on_replicate(&self, appends: BoxStream<'static, Append>) -> BoxStream<'static, Result<AppendReply>> {
        let rest = self.rest.clone();
        let appends = appends.inspect(move |_| rest.hear(std::time::Instant::now()));
        // What can't be read ends the stream, and with it the connection.
        let appends = appends.map(their_append).scan((), |(), one| {
            futures_util::future::ready(one.inspect_err(|error| log::warn!("entries were refused: {error}")).ok())
        });
        let replies = self.raft.stream_append(appends);
        let replies = replies.map(|reply| match reply {
            Ok(Ok(at)) => Ok(AppendReply::Matched(at.as_ref().map(position))),
            Ok(Err(StreamAppendError::Conflict(at))) => Ok(AppendReply::Conflict(position(&at))),
            Ok(Err(StreamAppendError::HigherVote(higher))) => Ok(AppendReply::HigherVote(vote(&higher))),
            Err(fatal) => Err(stopped(fatal)),
        });
        replies.boxed()
    }

    fn on_snapshot(&self, sender: Vote, mark: Mark, staged: Arc<dyn Metastore>) -> BoxFuture<'static, Result<Vote>> {
        self.stir();
        let raft = self.raft.clone();
        async move {
            let meta = snapshot_meta(&mark).map_err(|error: io::Error| Error::Corrupt(error.to_string()))?;
            let snapshot = Snapshot { meta, snapshot: SnapshotBody::In(staged) };
            let reply = raft.install_full_snapshot(raft_vote(sender), snapshot).await.map_err(stopped)?;
            Ok(vote(&reply.vote))
        }
        .boxed()
    }

    fn rest(&self) -> &Arc<Rest> {
        &self.rest
    }

    fn may_rest(&self) -> Option<(Vote, Position)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_applied.as_ref().filter(|last| metrics.last_log_index == Some(last.index))?;
        let members = metrics.membership_config.membership();
        let is_settled = metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.vote.is_committed()
            && metrics.local_committed.as_ref() == Some(last)
            && members.get_joint_config().len() == 1;
        let matched = metrics.replication.as_ref()?;
        let all = members.nodes().all(|(id, _)| *id == self.me.0 || matched.get(id) == Some(&Some(*last)));
        (is_settled && all).then(|| (vote(&metrics.vote), position(last)))
    }

    fn on_rest(&self, offer: &RestOffer) -> bool {
        let rank = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let follows = matches!(metrics.state, ServerState::Follower | ServerState::Learner);
            let last = Some(log_id(offer.last));
            if !follows
                || metrics.running_state.is_err()
                || vote(&metrics.vote) != offer.vote
                || metrics.last_log_index != Some(offer.last.index)
                || metrics.last_applied != last
            {
                return false;
            }
            let members = metrics.membership_config.membership();
            // Witnesses come last.
            let place = |id: u64| (members.get_node(&id).is_some_and(|member| member.witness), id);
            let ahead = |id: &u64| *id != offer.vote.candidate.0 && place(*id) < place(self.me.0);
            members.voter_ids().filter(ahead).count()
        };
        self.rest.follow(offer, u32::try_from(rank).unwrap_or(u32::MAX), std::time::Instant::now())
    }

    fn vouches(&self) -> Option<(Vote, Vec<(MemberId, ProcessId)>)> {
        let vouched = self.rest.vouches()?;
        let leads = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let is_fine = metrics.running_state.is_ok() && metrics.state == ServerState::Leader;
            is_fine && vote(&metrics.vote) == vouched.0
        };
        if !leads {
            self.stir();
            return None;
        }
        Some(vouched)
    }

    fn shut_down(&self) -> BoxFuture<'static, ()> {
        let raft = self.raft.clone();
        async move {
            if raft.shutdown().await.is_err() {
                log::error!("a zone's group has panicked");
            }
        }
        .boxed()
    }
}
