//! A member's connection to another member of its zone: opened at the first call, kept, and
//! opened anew when it broke.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use nexus_kernel::{BlobId, Clock, Ino};
use nexus_proto as proto;
use nexus_proto::zone_api_service_client::ZoneApiServiceClient;
use nexus_proto::zone_transport_service_client::ZoneTransportServiceClient;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::connect::{Connector, Target, Timing};
use super::convert::{self, Malformed, Step};
use super::identity::ZoneId;
use super::invite::Invite;
use super::peer::{
    Alive, Append, AppendReply, BlobRange, BoxStream, Proposal, Query, QueryAnswer, Refusal, SnapshotHead,
    TransferLeader, VoteReply, VoteRequest, WatchEvent,
};
use super::service::{MAX_LARGE, MAX_SMALL, split};
use super::{NodeIdentity, PkiError};
use super::{tls, watching};
use crate::mirror::{Part, Ranges};
use crate::raft::{MemberId, Position, ProcessId, RestOffer, Vote};

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The peer says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no connection, or it broke: whether the peer has done it is not known. The
    /// text says why. Until its next attempt a client answers this at once.
    #[error("cannot reach the peer: {0}")]
    Unreachable(String),
    /// The time is up: whether the peer has done it is not known.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// What came back makes no sense, or what was to be sent cannot be said; the text says why.
    #[error("{0}")]
    Protocol(String),
}

impl From<Malformed> for CallError {
    fn from(error: Malformed) -> Self {
        CallError::Protocol(error.0)
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        use std::error::Error;
        let text = status.message().to_owned();
        // Only what happened on this side has a source.
        if let Some(mut error) = status.source() {
            let mut text = error.to_string();
            while let Some(source) = error.source() {
                text = format!("{text}: {source}");
                error = source;
            }
            return CallError::Unreachable(text);
        }
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted => Refusal::Unavailable(text).into(),
            Code::PermissionDenied | Code::Unauthenticated => Refusal::Denied(text).into(),
            Code::NotFound => Refusal::NotFound(text).into(),
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
                Refusal::Invalid(text).into()
            }
            Code::DeadlineExceeded => CallError::TimedOut,
            Code::Cancelled | Code::Aborted => CallError::Unreachable(text),
            Code::Ok | Code::Unknown | Code::AlreadyExists | Code::Internal | Code::DataLoss => {
                CallError::Protocol(text)
            }
        }
    }
}

/// A connection to one member of one zone. Clones share it. Calls go out at the same time, 256
/// at most; each has its own time limit, after which it is given up on both sides.
#[derive(Clone)]
pub struct PeerClient {
    zone: ZoneId,
    member: MemberId,
    target: Arc<Target>,
    clock: Arc<dyn Clock>,
    transport: ZoneTransportServiceClient<Channel>,
    api: ZoneApiServiceClient<Channel>,
}

impl PeerClient {
    /// A client of `member`, at addresses `HOST:PORT` that are tried in turn. It connects at the
    /// first call, on the runtime of `handle`. Fails if the identity is of no use for TLS.
    pub fn new(
        identity: &NodeIdentity,
        (member, addresses): (MemberId, Vec<String>),
        clock: Arc<dyn Clock>,
        handle: &Handle,
        timing: Timing,
    ) -> Result<PeerClient, PkiError> {
        let zone = identity.certificate().zone;
        let config = tls::client(identity, &clock).map_err(|error| PkiError::Certificate(error.to_string()))?;
        let target = Arc::new(Target::new(zone.member_dns_name(member), addresses, config));
        let channel = Connector::new(Arc::clone(&target), timing).channel(handle);
        let transport = ZoneTransportServiceClient::new(channel.clone()).max_decoding_message_size(MAX_SMALL);
        let api = ZoneApiServiceClient::new(channel).max_decoding_message_size(MAX_SMALL);
        let transport = transport.max_encoding_message_size(MAX_LARGE);
        Ok(PeerClient { zone, member, target, clock, transport, api: api.max_encoding_message_size(MAX_LARGE) })
    }

    /// The member.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Where to look for it from the next connection on.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.target.set_addresses(addresses);
    }

    /// What to show from the next connection on. Fails if the identity is of another zone, or
    /// of no use for TLS.
    pub fn set_identity(&self, identity: &NodeIdentity) -> Result<(), PkiError> {
        if identity.certificate().zone != self.zone {
            return Err(PkiError::Certificate("it is of another zone".into()));
        }
        let config = tls::client(identity, &self.clock).map_err(|error| PkiError::Certificate(error.to_string()))?;
        self.target.set_tls(config);
        Ok(())
    }

    /// Asks for a vote.
    pub async fn vote(&self, request: VoteRequest, limit: Duration) -> Result<VoteReply, CallError> {
        Ok(convert::vote_reply(self.step(Step::Vote(request), limit).await?)?)
    }

    /// Hands the leader's office on.
    pub async fn transfer_leader(&self, request: TransferLeader, limit: Duration) -> Result<(), CallError> {
        self.step(Step::Transfer(request), limit).await.map(drop)
    }

    async fn step(&self, step: Step, limit: Duration) -> Result<proto::StepReply, CallError> {
        within(limit, self.transport.clone().step_message(convert::to_step(self.zone, step))).await
    }

    /// Sends appends as they come from the stream, without waiting for replies; these come back
    /// in the same order, one each. Either end closes it: ending `appends` ends the replies
    /// once all are in, dropping the replies drops `appends`. An append that cannot be encoded
    /// ends the stream with [`CallError::Protocol`]. `limit` is for opening it alone.
    pub async fn replicate(
        &self,
        appends: impl Stream<Item = Append> + Send + 'static,
        limit: Duration,
    ) -> Result<BoxStream<Result<AppendReply, CallError>>, CallError> {
        let zone = self.zone;
        let failure = Arc::new(parking_lot::Mutex::new(None));
        let requests = Encoded { zone, appends: Box::pin(appends), failure: Arc::clone(&failure) };
        let replies = within(limit, self.transport.clone().replicate_entries(requests)).await?;
        let replies = replies_of(replies, |reply| Ok(convert::append_reply(reply)?));
        let end = stream::once(async move { failure.lock().take() });
        let end = end.filter_map(|failure| std::future::ready(failure.map(|error| Err(error.into()))));
        Ok(Box::pin(replies.chain(end)))
    }

    /// Sends a snapshot, as many bytes as its head says, in pieces of any size. `limit` is for
    /// all of it. If `bytes` ends early, the peer refuses the snapshot.
    pub async fn install_snapshot(
        &self,
        head: SnapshotHead,
        bytes: impl Stream<Item = Bytes> + Send + 'static,
        limit: Duration,
    ) -> Result<Vote, CallError> {
        use proto::snapshot_part::Part;
        let part = |part| proto::SnapshotPart { part: Some(part) };
        let head = part(Part::Head(convert::to_snapshot_head(self.zone, head)));
        let chunks = bytes.flat_map(|piece| stream::iter(split(piece)));
        let chunks = chunks.map(move |bytes| part(Part::Chunk(convert::to_chunk(bytes))));
        let parts = stream::once(std::future::ready(head)).chain(chunks);
        let reply = within(limit, self.transport.clone().install_snapshot(parts)).await?;
        Ok(convert::vote(reply.vote)?)
    }

    /// Which of these inodes, at most 65,536, the member has open; with `as_of`, which of them its programs
    /// use in any way once it has applied the entry before that index.
    pub async fn held(&self, inodes: &[Ino], as_of: Option<u64>, limit: Duration) -> Result<Vec<Ino>, CallError> {
        let (header, inodes) = (convert::to_header(self.zone), convert::to_inodes(inodes));
        let request = proto::HeldRequest { header, inodes, as_of };
        Ok(convert::inodes(within(limit, self.transport.clone().held(request)).await?.inodes)?)
    }

    /// Has the member keep bytes of blobs that this node has written, at most 15 MiB, and make
    /// durable all that it was sent of `durable`.
    pub async fn keep_content(&self, parts: Vec<Part>, durable: &[BlobId], limit: Duration) -> Result<(), CallError> {
        let request = convert::to_content(self.zone, parts, durable)?;
        within(limit, self.transport.clone().keep_content(request)).await.map(drop)
    }

    /// What the member keeps durably of these blobs, at most 4,096, one for each.
    pub async fn kept_content(&self, blobs: &[BlobId], limit: Duration) -> Result<Vec<Ranges>, CallError> {
        let request = proto::KeptContentRequest {
            header: convert::to_header(self.zone),
            blobs: blobs.iter().map(|blob| blob.0).collect(),
        };
        let reply = within(limit, self.transport.clone().kept_content(request)).await?;
        let kept = convert::kept(reply.blobs)?;
        match kept.len() == blobs.len() {
            true => Ok(kept),
            false => Err(CallError::Protocol("the reply is of other blobs than were asked for".into())),
        }
    }

    /// Asks the member to await no heartbeats; its process, if it does.
    pub async fn rest(&self, offer: &RestOffer, limit: Duration) -> Result<Option<ProcessId>, CallError> {
        let request = convert::to_rest(self.zone, offer);
        Ok(convert::rest_reply(&within(limit, self.transport.clone().rest(request)).await?)?)
    }

    /// Tells the member of the times that this node's data folder has opened the zone; whether it goes on from
    /// where it was.
    pub async fn greet(&self, openings: &[u64], limit: Duration) -> Result<bool, CallError> {
        let request = proto::GreetRequest { header: convert::to_header(self.zone), openings: openings.to_vec() };
        Ok(within(limit, self.transport.clone().greet(request)).await?.goes_on)
    }

    /// Tells the member that this process leads zones still; those of them that do not rest there.
    pub async fn alive(&self, alive: &Alive, limit: Duration) -> Result<Vec<ZoneId>, CallError> {
        let request = convert::to_alive(self.zone, alive);
        Ok(convert::zones(&within(limit, self.transport.clone().alive(request)).await?.awake)?)
    }

    /// Puts a batch into the log, all or none, at most 15 MiB; gives its entry's place.
    pub async fn propose(&self, proposals: Vec<Proposal>, limit: Duration) -> Result<Position, CallError> {
        use proto::propose_reply::Outcome;
        let request = convert::to_proposals(self.zone, proposals)?;
        match within(limit, self.api.clone().propose(request)).await?.outcome {
            Some(Outcome::Position(at)) => Ok(Position { term: at.term, index: at.index }),
            Some(Outcome::Refusal(refusal)) => Err(convert::refusal(refusal)?.into()),
            None => Err(empty()),
        }
    }

    /// An index that, once applied, makes a read see all that was acknowledged before.
    pub async fn read_index(&self, limit: Duration) -> Result<u64, CallError> {
        Ok(self.index(false, limit).await?.0)
    }

    /// The same; and whether the member, which leads, commits nothing without this one for a time.
    pub async fn pledge(&self, limit: Duration) -> Result<(u64, bool), CallError> {
        self.index(true, limit).await
    }

    async fn index(&self, pledge: bool, limit: Duration) -> Result<(u64, bool), CallError> {
        use proto::read_index_reply::Outcome;
        let request = proto::ReadIndexRequest { header: convert::to_header(self.zone), pledge };
        let reply = within(limit, self.api.clone().read_index(request)).await?;
        match reply.outcome {
            Some(Outcome::Index(index)) => Ok((index, reply.pledged)),
            Some(Outcome::Refusal(refusal)) => Err(convert::refusal(refusal)?.into()),
            None => Err(empty()),
        }
    }

    /// Tells the leader that this node's locks of a session are in use.
    pub async fn renew_locks(&self, session: u64, limit: Duration) -> Result<(), CallError> {
        use proto::renew_locks_reply::Outcome;
        let request = proto::RenewLocksRequest { header: convert::to_header(self.zone), session };
        match within(limit, self.api.clone().renew_locks(request)).await?.outcome {
            Some(Outcome::Done(proto::Done {})) => Ok(()),
            Some(Outcome::Refusal(refusal)) => Err(convert::refusal(refusal)?.into()),
            None => Err(empty()),
        }
    }

    /// The bytes of a range, in pieces of at most 1 MiB, checked; fewer if the blob ends before,
    /// never more. `limit` is for the first piece and then for each.
    pub async fn fetch_blob(
        &self,
        range: BlobRange,
        limit: Duration,
    ) -> Result<BoxStream<Result<Bytes, CallError>>, CallError> {
        let request = convert::to_blob_range(self.zone, range);
        let chunks = within(limit, self.api.clone().fetch_blob(request)).await?;
        Ok(Box::pin(stream::unfold(Some((chunks, range.len)), move |state| async move {
            let (mut chunks, left) = state?;
            let next = match tokio::time::timeout(limit, chunks.message()).await {
                Err(_) => Err(CallError::TimedOut),
                Ok(Err(status)) => Err(status.into()),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(chunk))) => convert::chunk(chunk).map_err(CallError::from),
            };
            let next = next.and_then(|bytes| match left.checked_sub(bytes.len() as u64) {
                Some(left) => Ok((bytes, left)),
                None => Err(CallError::Protocol("more bytes came than were asked for".into())),
            });
            Some(match next {
                Ok((bytes, left)) => (Ok(bytes), Some((chunks, left))),
                Err(error) => (Err(error), None),
            })
        })))
    }

    /// Reads metadata as of now, and at least of what is before `at_least`.
    pub async fn query(&self, at_least: u64, query: Query, limit: Duration) -> Result<QueryAnswer, CallError> {
        let request = watching::to_query(self.zone, at_least, query);
        Ok(watching::answer(within(limit, self.api.clone().query(request)).await?)?)
    }

    /// Changes from `from` on, or from now on, as they come; the first event says where the zone is. `limit` is for
    /// opening it alone. Who takes them too slowly misses some, and is told so.
    pub async fn watch(
        &self,
        from: Option<u64>,
        limit: Duration,
    ) -> Result<BoxStream<Result<WatchEvent, CallError>>, CallError> {
        let request = proto::WatchRequest { header: convert::to_header(self.zone), from };
        let events = within(limit, self.api.clone().watch(request)).await?;
        Ok(Box::pin(replies_of(events, |event| Ok(watching::event(event)?))))
    }

    /// Makes an invitation that holds for `ttl`, whole seconds up to 2^32-1: to this zone, or to one that
    /// stands in it.
    pub async fn invite(&self, child: Option<ZoneId>, ttl: Duration, limit: Duration) -> Result<Invite, CallError> {
        use proto::invite_reply::Outcome;
        let ttl_s = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let request =
            proto::InviteRequest { header: convert::to_header(self.zone), ttl_s, child: convert::to_child(child) };
        match within(limit, self.api.clone().invite_zone(request)).await?.outcome {
            Some(Outcome::Invite(text)) => Ok(convert::invite(&text)?),
            Some(Outcome::Refusal(refusal)) => Err(convert::refusal(refusal)?.into()),
            None => Err(empty()),
        }
    }
}

/// Appends as they go out; ends before one that can't be encoded. A type of its own, since the
/// compiler can't tell of a closure here that it may go to another thread.
struct Encoded {
    zone: ZoneId,
    appends: BoxStream<Append>,
    failure: Arc<parking_lot::Mutex<Option<convert::Malformed>>>,
}

impl Stream for Encoded {
    type Item = proto::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<proto::AppendRequest>> {
        let next = std::task::ready!(self.appends.as_mut().poll_next(context));
        let encoded = next.map(|append| convert::to_append(self.zone, &append)).transpose();
        Poll::Ready(encoded.unwrap_or_else(|error| {
            *self.failure.lock() = Some(error);
            None
        }))
    }
}

/// A reply that says nothing.
pub(super) fn empty() -> CallError {
    CallError::Protocol("the reply is empty".into())
}

/// An answer within its time.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(CallError::TimedOut),
    }
}

/// Replies as they come; the first error is the last of them.
fn replies_of<W: 'static + Send, T: Send + 'static>(
    replies: Streaming<W>,
    convert: fn(W) -> Result<T, CallError>,
) -> impl Stream<Item = Result<T, CallError>> + Send {
    stream::unfold(Some(replies), move |state| async move {
        let mut replies = state?;
        match replies.message().await {
            Ok(None) => None,
            Ok(Some(reply)) => match convert(reply) {
                Ok(reply) => Some((Ok(reply), Some(replies))),
                Err(error) => Some((Err(error), None)),
            },
            Err(status) => Some((Err(status.into()), None)),
        }
    })
}
