//! Ways to the other members of a zone, over the network.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use nexus_kernel::metastore::MetaSnapshot;
use nexus_kernel::{Clock, Error, Result};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::net::{self, CallError, NodeIdentity, PeerClient, PkiError, Proposal, SnapshotHead, Timing};
use crate::raft::{
    Append, AppendReply, Link, Links, Mark, Member, MemberId, Outgoing, Position, Refusal, TransferLeader, Vote,
    VoteReply, VoteRequest,
};

/// How long a small question may take.
const QUESTION: Duration = Duration::from_secs(2);
/// How long a proposal, which waits for a majority, may take before it is asked for once more.
const PROPOSAL: Duration = Duration::from_secs(5);
/// How long a whole state may take.
const SNAPSHOT: Duration = Duration::from_secs(6 * 60 * 60);

/// Clients of a zone's members, made when they are first wanted.
pub struct ClientLinks {
    identity: Mutex<NodeIdentity>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    clients: Mutex<HashMap<MemberId, (Vec<String>, PeerClient)>>,
}

impl ClientLinks {
    /// Ways for the member that `identity` is.
    pub fn new(identity: NodeIdentity, clock: Arc<dyn Clock>, runtime: Handle) -> ClientLinks {
        ClientLinks { identity: Mutex::new(identity), clock, runtime, clients: Mutex::default() }
    }

    /// The client of a member.
    pub fn client(&self, id: MemberId, member: &Member) -> Result<PeerClient> {
        let mut clients = self.clients.lock();
        if let Some((addresses, client)) = clients.get_mut(&id) {
            if *addresses != member.addresses {
                client.set_addresses(member.addresses.clone());
                addresses.clone_from(&member.addresses);
            }
            return Ok(client.clone());
        }
        let target = (id, member.addresses.clone());
        let identity = self.identity.lock().clone();
        let client = PeerClient::new(&identity, target, self.clock.clone(), &self.runtime, Timing::default())
            .map_err(|error| Error::Io(format!("the certificate of this member can't be used: {error}")))?;
        clients.insert(id, (member.addresses.clone(), client.clone()));
        Ok(client)
    }
}

impl ClientLinks {
    /// The certificate that new connections show.
    pub fn identity(&self) -> NodeIdentity {
        self.identity.lock().clone()
    }

    /// Shows another certificate on new connections from now on.
    pub fn renew(&self, identity: &NodeIdentity) -> std::result::Result<(), PkiError> {
        let clients = self.clients.lock();
        *self.identity.lock() = identity.clone();
        clients.values().try_for_each(|(_, client)| client.set_identity(identity))
    }

    /// Whether another member takes this node for none any more. Not to be called by a task.
    pub fn is_turned_away(&self, id: MemberId, member: &Member) -> bool {
        let Ok(client) = self.client(id, member) else { return false };
        let asked = self.runtime.block_on(client.read_index(QUESTION));
        matches!(asked, Err(CallError::Refused(net::Refusal::Denied(_))))
    }
}

impl Links for ClientLinks {
    fn link(&self, id: MemberId, member: &Member) -> Arc<dyn Link> {
        match self.client(id, member) {
            Ok(client) => Arc::new(ClientLink(Ok(client), member.witness)),
            Err(error) => Arc::new(ClientLink(Err(error), member.witness)),
        }
    }
}

/// What an append follows, and what it ends with.
type Sent = (Option<Position>, Option<Position>);

/// A way to a member, and whether that is a witness.
struct ClientLink(Result<PeerClient>, bool);

/// A failed call, as the group takes it: what was lost on the way can be tried again at once.
fn failed(error: CallError) -> Error {
    Error::Unavailable(error.to_string())
}

fn refusal(error: CallError) -> Refusal {
    match error {
        CallError::Refused(net::Refusal::NotLeader { leader, .. }) => Refusal::NotLeader(leader),
        other => Refusal::Unclear(other.to_string()),
    }
}

impl Link for ClientLink {
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>> {
        let client = self.0.clone();
        async move {
            let VoteRequest { vote, last, pre, transfer } = request;
            let request = net::VoteRequest { vote, last, is_pre_vote: pre, is_transfer: transfer };
            let net::VoteReply { vote, granted, last } = client?.vote(request, QUESTION).await.map_err(failed)?;
            Ok(VoteReply { vote, granted, last })
        }
        .boxed()
    }

    fn transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>> {
        let client = self.0.clone();
        async move {
            let TransferLeader { from, to, last } = request;
            let request = net::TransferLeader { from, to, last };
            match client?.transfer_leader(request, QUESTION).await {
                Ok(()) => Ok(true),
                Err(CallError::Refused(_)) => Ok(false),
                Err(error) => Err(failed(error)),
            }
        }
        .boxed()
    }

    fn replicate(
        &self,
        appends: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply>>>> {
        let client = self.0.clone();
        // What each append was about, for its answer, which does not say.
        let sent: Arc<Mutex<VecDeque<Sent>>> = Arc::default();
        let noted = sent.clone();
        let appends: BoxStream<'static, net::Append> = appends
            .map(move |append| {
                let Append { vote, previous, committed, entries } = append;
                let last = entries.last().map(|entry| entry.position).or(previous);
                noted.lock().push_back((previous, last));
                net::Append { vote, previous, committed, entries }
            })
            .boxed();
        async move {
            let replies = client?.replicate(appends, QUESTION).await.map_err(failed)?;
            let replies = replies.map(move |reply| {
                let reply = reply.map_err(failed)?;
                let (previous, last) = sent.lock().pop_front().ok_or_else(|| Error::Io("an answer too many".into()))?;
                Ok(match reply {
                    net::AppendReply::Success => AppendReply::Matched(last),
                    net::AppendReply::Partial(at) => AppendReply::Matched(at),
                    net::AppendReply::Conflict => {
                        let previous = previous.ok_or_else(|| Error::Io("a conflict with nothing".into()))?;
                        AppendReply::Conflict(previous)
                    }
                    net::AppendReply::HigherVote(vote) => AppendReply::HigherVote(vote),
                })
            });
            Ok(replies.boxed())
        }
        .boxed()
    }

    fn snapshot(&self, vote: Vote, mark: Mark, state: Arc<dyn MetaSnapshot>) -> BoxFuture<'static, Result<Vote>> {
        let (client, to_witness) = (self.0.clone(), self.1);
        let outgoing = move |state| if to_witness { Outgoing::to_witness(state) } else { Outgoing::new(state) };
        async move {
            let client = client?;
            // Told ahead, so that a state that was cut short is known to be.
            let total_bytes = tokio::task::block_in_place(|| framed_bytes(outgoing(state.clone())))?;
            let id = mark.applied.map_or_else(|| "empty".to_owned(), |at| at.to_string());
            let head = SnapshotHead { vote, id, last: mark.applied, membership: mark.encode()?, total_bytes };
            let pieces = stream::unfold(Some(outgoing(state)), |outgoing| async move {
                let mut outgoing = outgoing?;
                // What can't be read ends the stream before its time, and so voids the snapshot.
                let piece = tokio::task::block_in_place(|| outgoing.piece());
                let piece = piece.inspect_err(|error| log::error!("a zone's state can't be read: {error}")).ok()??;
                Some((frame(&piece), Some(outgoing)))
            });
            client.install_snapshot(head, pieces, SNAPSHOT).await.map_err(failed)
        }
        .boxed()
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>> {
        let client = self.0.clone();
        async move {
            let client = client.map_err(|error| Refusal::Unclear(error.to_string()))?;
            let proposal = Proposal { bytes: batch, deadline: PROPOSAL };
            client.propose(vec![proposal], PROPOSAL).await.map_err(refusal)
        }
        .boxed()
    }

    fn pledge(&self) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>> {
        let client = self.0.clone();
        async move {
            let client = client.map_err(|error| Refusal::Unclear(error.to_string()))?;
            client.pledge(QUESTION).await.map_err(refusal)
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>> {
        let client = self.0.clone();
        async move {
            let client = client.map_err(|error| Refusal::Unclear(error.to_string()))?;
            client.read_index(QUESTION).await.map_err(refusal)
        }
        .boxed()
    }
}

/// A piece of a state with its length in front.
fn frame(piece: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(4 + piece.len());
    framed.put_u32(piece.len() as u32);
    framed.put_slice(piece);
    framed.freeze()
}

fn framed_bytes(mut outgoing: Outgoing) -> Result<u64> {
    let mut bytes = 0;
    while let Some(piece) = outgoing.piece()? {
        bytes += 4 + piece.len() as u64;
    }
    Ok(bytes)
}

/// Puts framed pieces together again, however they were cut on the way.
#[derive(Default)]
pub struct Frames(BytesMut);

impl Frames {
    /// Longest piece that is taken.
    const MOST: usize = 64 << 20;

    /// Takes bytes in.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole piece.
    pub fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(head) = self.0.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len > Self::MOST {
            return Err(Error::Corrupt(format!("a piece of a zone's state has {len} bytes")));
        }
        if self.0.len() < 4 + len {
            return Ok(None);
        }
        let mut framed = self.0.split_to(4 + len);
        Ok(Some(framed.split_off(4).freeze()))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
