//! A [`Link`] as the library's network.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use futures_util::{Stream, StreamExt, future};
use nexus_kernel::Error;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::courses;
use super::machine::SnapshotBody;
use super::types::{RaftVote, TypeConfig, entry, log_id, position, raft_vote, vote};
use crate::raft::entry::{Member, MemberId, Vote};
use crate::raft::messages::{self, Append, AppendReply, Link, Links};
use crate::raft::pledges::Pledges;

/// Makes networks to members.
pub struct Network {
    /// Who makes the links.
    pub links: Arc<dyn Links>,
    /// This node.
    pub me: MemberId,
    /// What others are told of before it is committed.
    pub pledges: Arc<Pledges>,
    /// Whether it is a witness, which has no state to send.
    pub is_witness: bool,
}

/// The network to one member.
pub struct LinkNetwork {
    link: Arc<dyn Link>,
    me: MemberId,
    is_witness: bool,
    target: MemberId,
    pledges: Arc<Pledges>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = LinkNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> LinkNetwork {
        let target = MemberId(target);
        let (link, pledges) = (self.links.link(target, node), self.pledges.clone());
        LinkNetwork { link, me: self.me, is_witness: self.is_witness, target, pledges }
    }
}

fn failed(error: &Error) -> RPCError<TypeConfig> {
    match error {
        // Try again at once: the connection was there.
        Error::Io(_) => RPCError::Network(NetworkError::new(error)),
        _ => RPCError::Unreachable(Unreachable::new(error)),
    }
}

impl LinkNetwork {
    fn timeout(&self, action: RPCTypes, option: &RPCOption) -> Timeout<TypeConfig> {
        Timeout { action, id: self.me.0, target: self.target.0, timeout: option.soft_ttl() }
    }

    async fn within<T>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        work: impl Future<Output = nexus_kernel::Result<T>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(option.soft_ttl(), work).await {
            Ok(done) => done.map_err(|error| failed(&error)),
            Err(_) => Err(RPCError::Timeout(self.timeout(action, option))),
        }
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        option: &RPCOption,
        pre: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = messages::VoteRequest {
            vote: vote(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(position),
            pre,
            transfer: rpc.leadership_transfer,
        };
        let reply = self.within(RPCTypes::Vote, option, self.link.vote(request)).await?;
        Ok(VoteResponse::new(raft_vote(reply.vote), reply.last.map(log_id), reply.granted))
    }
}

fn append(rpc: &AppendEntriesRequest<TypeConfig>) -> Append {
    Append {
        vote: vote(&rpc.vote),
        previous: rpc.prev_log_id.as_ref().map(position),
        committed: rpc.leader_commit.as_ref().map(position),
        entries: rpc.entries.iter().map(entry).collect(),
    }
}

/// Before the library hears that a member has entries, all who were promised that must have them.
async fn heard(pledges: &Pledges, by: Vote, member: MemberId, reply: &AppendReply) {
    if let AppendReply::Matched(Some(at)) = reply {
        pledges.acked(by, member, at.index);
        pledges.pass(at.index).await;
    }
}

fn stream_result(reply: AppendReply) -> StreamAppendResult<TypeConfig> {
    match reply {
        AppendReply::Matched(at) => Ok(at.map(log_id)),
        AppendReply::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        AppendReply::HigherVote(vote) => Err(StreamAppendError::HigherVote(raft_vote(vote))),
    }
}

impl RaftNetworkV2<TypeConfig> for LinkNetwork {
    type SnapshotData = SnapshotBody;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let one = append(&rpc);
        let last = one.entries.len();
        let link = self.link.clone();
        let reply = self
            .within(RPCTypes::AppendEntries, &option, async move {
                let mut replies = link.replicate(futures_util::stream::iter([one]).boxed()).await?;
                replies.next().await.unwrap_or_else(|| Err(Error::Io("the member has hung up".into())))
            })
            .await?;
        heard(&self.pledges, vote(&rpc.vote), self.target, &reply).await;
        Ok(match stream_result(reply) {
            Ok(at) if last > 0 && at.as_ref() < rpc.entries.last().map(|entry| &entry.log_id) => {
                AppendEntriesResponse::PartialSuccess(at)
            }
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // All of a stream's appends are by the same vote.
        let by: Arc<OnceLock<Vote>> = Arc::default();
        let noted = by.clone();
        let appends = input.map(move |rpc| {
            noted.get_or_init(|| vote(&rpc.vote));
            append(&rpc)
        });
        let appends = appends.boxed();
        let (link, limit) = (self.link.clone(), option.soft_ttl());
        let timed_out = self.timeout(RPCTypes::AppendEntries, &option);
        let (pledges, target) = (self.pledges.clone(), self.target);
        let replies = courses::replies(link, appends, limit, courses::IDLE).then(move |reply| {
            let (pledges, by) = (pledges.clone(), by.get().copied());
            async move {
                if let (Ok(reply), Some(by)) = (&reply, by) {
                    heard(&pledges, by, target, reply).await;
                }
                reply
            }
        });
        let replies = replies.map(move |reply| match reply {
            Ok(reply) => Ok(stream_result(reply)),
            Err(courses::Broken::TimedOut) => Err(RPCError::Timeout(timed_out.clone())),
            Err(courses::Broken::Failed(error)) => Err(failed(&error)),
        });
        Box::pin(future::ready(Ok(replies.boxed() as BoxStream<'s, _>)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, &option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, &option, true).await
    }

    async fn full_snapshot(
        &mut self,
        sender: RaftVote,
        snapshot: SnapshotOf<TypeConfig, SnapshotBody>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotBody::Out(mark, state) = snapshot.snapshot else {
            let error = Error::Invalid;
            return Err(StreamingError::Unreachable(Unreachable::new(&error)));
        };
        if self.is_witness {
            let error = "a witness has cut off entries of its log that the member lacks: who has the files must lead";
            return Err(StreamingError::Unreachable(Unreachable::from_string(error)));
        }
        // Cut off by the link where nothing moves; a large state may take its time.
        let sent = self.link.snapshot(vote(&sender), mark, state);
        match future::select(sent, Box::pin(cancel)).await {
            future::Either::Left((Ok(vote), _)) => Ok(SnapshotResponse::new(raft_vote(vote))),
            future::Either::Left((Err(error), _)) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            future::Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = messages::TransferLeader {
            from: vote(req.from_leader()),
            to: MemberId(*req.to_node_id()),
            last: req.last_log_id().map(position),
        };
        let taken = self.within(RPCTypes::TransferLeader, &option, self.link.transfer_leader(request)).await?;
        if taken { Ok(Ok(())) } else { Err(RPCError::Unreachable(Unreachable::from_string("it can't lead now"))) }
    }
}
