//! The services of the `.proto` files over a [`Peer`](super::peer::Peer): who asks is checked,
//! what is asked is converted, and nothing is decided.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use nexus_proto as proto;
use nexus_proto::zone_api_service_server::{ZoneApiService, ZoneApiServiceServer};
use nexus_proto::zone_transport_service_server::{ZoneTransportService, ZoneTransportServiceServer};
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::convert::{self, MAX_CHUNK, Malformed, PROTOCOL_VERSION, Step};
use super::identity::ZoneId;
use super::peer::{Answer, Append, BoxStream, Caller, Refusal, SnapshotHead};
use super::refusals::Reason;
use super::server::Connection;
use super::watching;

const TRANSPORT: &str = "/nexus.zone.v1.ZoneTransportService/";
const API: &str = "/nexus.zone.v1.ZoneApiService/";
/// What a stranger may call.
const OPEN: [&str; 2] = ["JoinZone", "Resolve"];
/// What may bring a batch of 15 MiB.
const LARGE: [&str; 3] = ["ReplicateEntries", "Propose", "KeepContent"];
/// Largest message of such a call, in bytes.
pub(super) const MAX_LARGE: usize = 16 << 20;
/// Largest message of any other, in bytes: a chunk, or a membership.
pub(super) const MAX_SMALL: usize = 2 * MAX_CHUNK;
/// Largest message of a stranger, in bytes: a path of 4,096 bytes, or a signing request.
const MAX_STRANGER: usize = 64 << 10;
/// Longest text of a refusal, in bytes.
const MAX_TEXT: usize = 1024;

type Reply<T> = Result<Response<T>, Status>;
type Outgoing<T> = BoxStream<Result<T, Status>>;

/// The services for one connection.
#[derive(Clone)]
pub(super) struct Service(Arc<Connection>);

impl Connection {
    /// Counts and logs a refusal, and makes the answer of it.
    pub(super) fn refuse(&self, reason: Reason, text: &str) -> Status {
        match &self.caller {
            Some((caller, _)) => {
                let who = format_args!("member {} of zone {} at {}", caller.member, self.zone, self.remote);
                self.shared.refusals.note(reason, who, text);
            }
            None => self.shared.refusals.note(reason, self.remote, text),
        }
        let code = match reason {
            Reason::NoCertificate | Reason::Expired => Code::Unauthenticated,
            Reason::OtherZone | Reason::Revoked => Code::PermissionDenied,
            Reason::ZoneGone => Code::NotFound,
            Reason::Version => Code::FailedPrecondition,
            Reason::TooLarge => Code::OutOfRange,
            Reason::Busy => Code::ResourceExhausted,
            Reason::Timeout => Code::DeadlineExceeded,
            Reason::Malformed
            | Reason::TooManyConnections
            | Reason::Handshake
            | Reason::WrongName
            | Reason::BadCertificate => Code::InvalidArgument,
        };
        Status::new(code, format!("{}: {text}", reason.as_str()))
    }

    fn malformed(&self, error: Malformed) -> Status {
        self.refuse(Reason::Malformed, &error.0)
    }

    /// What a decoder refused: it has its reason already, but is not counted.
    fn undecoded(&self, status: &Status) -> Status {
        match status.code() {
            Code::OutOfRange => self.refuse(Reason::TooLarge, status.message()),
            Code::Internal => self.refuse(Reason::Malformed, status.message()),
            _ => status.clone(),
        }
    }

    /// Whether a request is one of this connection's zone, in a version that we speak.
    fn check(&self, header: Option<&proto::Header>) -> Result<ZoneId, Status> {
        let header = header.ok_or_else(|| self.refuse(Reason::Malformed, "the header is missing"))?;
        if header.version != PROTOCOL_VERSION {
            let text = format!("version {} is asked for, and this node knows {PROTOCOL_VERSION}", header.version);
            return Err(self.refuse(Reason::Version, &text));
        }
        let zone = convert::zone(&header.zone).map_err(|error| self.malformed(error))?;
        if zone != self.zone {
            return Err(self.refuse(Reason::OtherZone, &format!("it names {zone}")));
        }
        if !self.shared.parts.zones.contains(zone) {
            return Err(self.refuse(Reason::ZoneGone, "this node no longer serves it"));
        }
        Ok(zone)
    }

    /// The same, and whether whoever asks is a member still.
    fn member(&self, header: Option<&proto::Header>) -> Result<Caller, Status> {
        self.check(header)?;
        self.current()
    }

    /// The member at the other end, if it still is one.
    fn current(&self) -> Result<Caller, Status> {
        let Some((caller, not_after_s)) = &self.caller else {
            return Err(self.refuse(Reason::NoCertificate, "this call needs one of the zone"));
        };
        if self.shared.parts.clock.now().sec > *not_after_s {
            return Err(self.refuse(Reason::Expired, "renew it, and connect again"));
        }
        match self.shared.parts.guard.is_member(caller) {
            true => Ok(*caller),
            false => Err(self.refuse(Reason::Revoked, "it is no member's")),
        }
    }

    /// An answer within the time for it.
    async fn within<T>(&self, answer: Answer<'_, T>) -> Result<Result<T, Refusal>, Status> {
        let limit = self.shared.parts.limits.answer;
        tokio::time::timeout(limit, answer).await.map_err(|_| self.late(limit))
    }

    /// An answer whose refusals have no place in the reply.
    async fn plain<T>(&self, answer: Answer<'_, T>) -> Result<T, Status> {
        self.within(answer).await?.map_err(status)
    }

    fn late(&self, limit: Duration) -> Status {
        self.refuse(Reason::Timeout, &format!("{} s have passed", limit.as_secs_f32()))
    }
}

/// A refusal as a status.
fn status(refusal: Refusal) -> Status {
    let mut text = match &refusal {
        Refusal::NotLeader { .. } => refusal.to_string(),
        Refusal::Unavailable(text) | Refusal::Denied(text) | Refusal::NotFound(text) | Refusal::Invalid(text) => {
            text.clone()
        }
    };
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    match refusal {
        Refusal::NotLeader { .. } | Refusal::Unavailable(_) => Status::unavailable(text),
        Refusal::Denied(_) => Status::permission_denied(text),
        Refusal::NotFound(_) => Status::not_found(text),
        Refusal::Invalid(_) => Status::invalid_argument(text),
    }
}

impl Service {
    pub(super) fn new(connection: Arc<Connection>) -> Service {
        Service(connection)
    }

    /// Answers a request, or refuses it before its body is read.
    pub(super) async fn call(self, request: HttpRequest<Incoming>) -> HttpResponse<Body> {
        let connection = Arc::clone(&self.0);
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or_default();
        let (transport, api) = (path.starts_with(TRANSPORT), path.starts_with(API));
        let stranger = connection.caller.is_none();
        if !(api && OPEN.contains(&method))
            && let Err(refused) = connection.current()
        {
            return refused.into_http();
        }
        let most = match (stranger, LARGE.contains(&method)) {
            (true, _) => MAX_STRANGER,
            (false, true) => MAX_LARGE,
            (false, false) => MAX_SMALL,
        };
        let answered = if transport {
            ZoneTransportServiceServer::new(self).max_decoding_message_size(most).call(request).await
        } else if api {
            ZoneApiServiceServer::new(self).max_decoding_message_size(most).call(request).await
        } else {
            return Status::unimplemented("no such service").into_http();
        };
        let Ok(response) = answered;
        // What a decoder refuses never comes to a method.
        if let Some(refused) = response.extensions().get::<Status>() {
            match refused.code() {
                Code::OutOfRange if !refused.message().starts_with(Reason::TooLarge.as_str()) => {
                    connection.undecoded(refused);
                }
                Code::Internal => {
                    connection.undecoded(refused);
                }
                _ => {}
            }
        }
        response
    }
}

#[tonic::async_trait]
impl ZoneTransportService for Service {
    type ReplicateEntriesStream = Outgoing<proto::AppendReply>;

    async fn step_message(&self, request: Request<proto::StepRequest>) -> Reply<proto::StepReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let peer = &self.0.shared.parts.peer;
        match convert::step(request).map_err(|error| self.0.malformed(error))? {
            Step::Vote(vote) => {
                let reply = self.0.plain(peer.vote(caller, vote)).await?;
                Ok(Response::new(convert::to_vote_reply(reply)))
            }
            Step::Transfer(transfer) => {
                self.0.plain(peer.transfer_leader(caller, transfer)).await?;
                Ok(Response::new(proto::StepReply::default()))
            }
        }
    }

    async fn replicate_entries(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Reply<Self::ReplicateEntriesStream> {
        let caller = self.0.current()?;
        let failure = Arc::new(Mutex::new(None));
        let appends = appends(Arc::clone(&self.0), request.into_inner(), Arc::clone(&failure));
        let replies = self.0.plain(self.0.shared.parts.peer.replicate(caller, appends)).await?;
        let replies = replies.map(|reply| reply.map(convert::to_append_reply).map_err(status));
        // Once the replies to what was right are out, the leader is told what was wrong.
        let end = stream::once(async move { failure.lock().take() });
        let replies = replies.chain(end.filter_map(|failure| std::future::ready(failure.map(Err))));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn install_snapshot(&self, request: Request<Streaming<proto::SnapshotPart>>) -> Reply<proto::SnapshotReply> {
        use proto::snapshot_part::Part;
        let mut parts = request.into_inner();
        let limit = self.0.shared.parts.limits.answer;
        let first = tokio::time::timeout(limit, parts.message()).await.map_err(|_| self.0.late(limit))?;
        let first = first.map_err(|error| self.0.undecoded(&error))?;
        let head = match first.and_then(|first| first.part) {
            Some(Part::Head(head)) => head,
            _ => return Err(self.0.refuse(Reason::Malformed, "a snapshot begins with its head")),
        };
        let caller = self.0.member(head.header.as_ref())?;
        let head = convert::snapshot_head(head).map_err(|error| self.0.malformed(error))?;
        let chunks = chunks(Arc::clone(&self.0), parts, &head);
        // Each chunk has its own time; only what comes after them has not.
        let vote = self.0.shared.parts.peer.install_snapshot(caller, head, chunks).await.map_err(status)?;
        Ok(Response::new(proto::SnapshotReply { vote: convert::to_vote(vote) }))
    }

    async fn held(&self, request: Request<proto::HeldRequest>) -> Reply<proto::HeldReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let inodes = convert::inodes(request.inodes).map_err(|error| self.0.malformed(error))?;
        let held = self.0.plain(self.0.shared.parts.peer.held(caller, inodes, request.as_of)).await?;
        Ok(Response::new(proto::HeldReply { inodes: convert::to_inodes(&held) }))
    }

    async fn keep_content(&self, request: Request<proto::KeepContentRequest>) -> Reply<proto::Done> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let (parts, durable) = convert::content(request).map_err(|error| self.0.malformed(error))?;
        self.0.plain(self.0.shared.parts.peer.keep_content(caller, parts, durable)).await?;
        Ok(Response::new(proto::Done {}))
    }

    async fn kept_content(&self, request: Request<proto::KeptContentRequest>) -> Reply<proto::KeptContentReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let blobs = convert::blobs(&request.blobs).map_err(|error| self.0.malformed(error))?;
        let kept = self.0.plain(self.0.shared.parts.peer.kept_content(caller, blobs)).await?;
        Ok(Response::new(proto::KeptContentReply { blobs: convert::to_kept(&kept) }))
    }

    async fn rest(&self, request: Request<proto::RestRequest>) -> Reply<proto::RestReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let offer = convert::rest(request).map_err(|error| self.0.malformed(error))?;
        let rests = self.0.plain(self.0.shared.parts.peer.rest(caller, offer)).await?;
        let process = rests.map_or_else(Bytes::new, |process| Bytes::copy_from_slice(&process.0));
        Ok(Response::new(proto::RestReply { process }))
    }

    async fn greet(&self, request: Request<proto::GreetRequest>) -> Reply<proto::GreetReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let openings = convert::openings(request.openings).map_err(|error| self.0.malformed(error))?;
        let goes_on = self.0.plain(self.0.shared.parts.peer.greet(caller, openings)).await?;
        Ok(Response::new(proto::GreetReply { goes_on }))
    }

    async fn alive(&self, request: Request<proto::AliveRequest>) -> Reply<proto::AliveReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let alive = convert::alive(request).map_err(|error| self.0.malformed(error))?;
        let awake = self.0.plain(self.0.shared.parts.peer.alive(caller, alive)).await?;
        Ok(Response::new(proto::AliveReply { awake: awake.into_iter().map(convert::to_zone).collect() }))
    }
}

/// Appends as they come; the first that is refused ends them, and its status is left behind.
fn appends(
    connection: Arc<Connection>,
    requests: Streaming<proto::AppendRequest>,
    failure: Arc<Mutex<Option<Status>>>,
) -> BoxStream<Append> {
    Box::pin(stream::unfold((connection, requests, failure), |(connection, mut requests, failure)| async move {
        let next = match requests.message().await {
            Ok(None) => return None,
            Ok(Some(request)) => connection
                .member(request.header.as_ref())
                .and_then(|_| convert::append(request).map_err(|error| connection.malformed(error))),
            Err(error) => Err(connection.undecoded(&error)),
        };
        match next {
            Ok(append) => Some((append, (connection, requests, failure))),
            Err(refused) => {
                *failure.lock() = Some(refused);
                None
            }
        }
    }))
}

/// A snapshot's chunks as they come, exactly as many bytes as its head says.
fn chunks(
    connection: Arc<Connection>,
    parts: Streaming<proto::SnapshotPart>,
    head: &SnapshotHead,
) -> BoxStream<Result<Bytes, String>> {
    let state = Some((connection, parts, head.total_bytes));
    Box::pin(stream::unfold(state, |state| async move {
        let (connection, mut parts, left) = state?;
        match next_chunk(&connection, &mut parts, left).await {
            Ok(None) => None,
            Ok(Some(bytes)) => {
                let left = left - bytes.len() as u64;
                Some((Ok(bytes), Some((connection, parts, left))))
            }
            Err(status) => Some((Err(status.message().to_owned()), None)),
        }
    }))
}

async fn next_chunk(
    connection: &Connection,
    parts: &mut Streaming<proto::SnapshotPart>,
    left: u64,
) -> Result<Option<Bytes>, Status> {
    use proto::snapshot_part::Part;
    let limit = connection.shared.parts.limits.answer;
    let next = tokio::time::timeout(limit, parts.message()).await.map_err(|_| connection.late(limit))?;
    let malformed = |text: &str| Err(connection.refuse(Reason::Malformed, text));
    let bytes = match next.map_err(|error| connection.undecoded(&error))?.map(|part| part.part) {
        None if left == 0 => return Ok(None),
        None => return malformed(&format!("the snapshot is cut: {left} bytes are missing")),
        Some(Some(Part::Chunk(chunk))) => convert::chunk(chunk).map_err(|error| connection.malformed(error))?,
        Some(_) => return malformed("after a snapshot's head come chunks"),
    };
    connection.current()?;
    match u64::try_from(bytes.len()) {
        Ok(len) if (1..=left).contains(&len) => Ok(Some(bytes)),
        _ => malformed("a chunk is empty, or more than the snapshot has left"),
    }
}

#[tonic::async_trait]
impl ZoneApiService for Service {
    type FetchBlobStream = Outgoing<proto::Chunk>;
    type WatchStream = Outgoing<proto::WatchEvent>;

    async fn propose(&self, request: Request<proto::ProposeRequest>) -> Reply<proto::ProposeReply> {
        use proto::propose_reply::Outcome;
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let proposals = convert::proposals(request).map_err(|error| self.0.malformed(error))?;
        let outcome = match self.0.within(self.0.shared.parts.peer.propose(caller, proposals)).await? {
            Ok(at) => Outcome::Position(proto::Position { term: at.term, index: at.index }),
            Err(refused) => Outcome::Refusal(convert::to_refusal(refused).map_err(status)?),
        };
        Ok(Response::new(proto::ProposeReply { outcome: Some(outcome) }))
    }

    async fn read_index(&self, request: Request<proto::ReadIndexRequest>) -> Reply<proto::ReadIndexReply> {
        use proto::read_index_reply::Outcome;
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let peer = &self.0.shared.parts.peer;
        let answer = match request.pledge {
            true => self.0.within(peer.pledge(caller)).await?,
            false => self.0.within(peer.read_index(caller)).await?.map(|index| (index, false)),
        };
        let (outcome, pledged) = match answer {
            Ok((index, pledged)) => (Outcome::Index(index), pledged),
            Err(refused) => (Outcome::Refusal(convert::to_refusal(refused).map_err(status)?), false),
        };
        Ok(Response::new(proto::ReadIndexReply { outcome: Some(outcome), pledged }))
    }

    async fn renew_locks(&self, request: Request<proto::RenewLocksRequest>) -> Reply<proto::RenewLocksReply> {
        use proto::renew_locks_reply::Outcome;
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let outcome = match self.0.within(self.0.shared.parts.peer.renew_locks(caller, request.session)).await? {
            Ok(()) => Outcome::Done(proto::Done {}),
            Err(refused) => Outcome::Refusal(convert::to_refusal(refused).map_err(status)?),
        };
        Ok(Response::new(proto::RenewLocksReply { outcome: Some(outcome) }))
    }

    async fn fetch_blob(&self, request: Request<proto::FetchBlobRequest>) -> Reply<Self::FetchBlobStream> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let range = convert::blob_range(&request).map_err(|error| self.0.malformed(error))?;
        let pieces = self.0.plain(self.0.shared.parts.peer.fetch_blob(caller, range)).await?;
        let connection = Arc::clone(&self.0);
        let chunks = pieces.flat_map(move |piece| {
            let parts = match connection.current().and_then(|_| piece.map_err(status)) {
                Ok(piece) => split(piece).map(|part| Ok(convert::to_chunk(part))).collect(),
                Err(refused) => vec![Err(refused)],
            };
            stream::iter(parts)
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn join_zone(&self, request: Request<proto::JoinRequest>) -> Reply<proto::JoinReply> {
        use proto::join_reply::Outcome;
        let request = request.into_inner();
        let zone = self.0.check(request.header.as_ref())?;
        let join = convert::join(request).map_err(|error| self.0.malformed(error))?;
        let outcome = match self.0.within(self.0.shared.parts.peer.join(zone, join)).await? {
            Ok(joined) => Outcome::Joined(convert::to_joined(joined)),
            Err(refused) => Outcome::Refusal(convert::to_refusal(refused).map_err(status)?),
        };
        Ok(Response::new(proto::JoinReply { outcome: Some(outcome) }))
    }

    async fn invite_zone(&self, request: Request<proto::InviteRequest>) -> Reply<proto::InviteReply> {
        use proto::invite_reply::Outcome;
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let ttl = convert::ttl(&request).map_err(|error| self.0.malformed(error))?;
        let child = convert::child(&request).map_err(|error| self.0.malformed(error))?;
        let outcome = match self.0.within(self.0.shared.parts.peer.invite(caller, child, ttl)).await? {
            Ok(invite) => {
                Outcome::Invite(invite.to_text().map_err(|error| status(Refusal::Invalid(error.to_string())))?)
            }
            Err(refused) => Outcome::Refusal(convert::to_refusal(refused).map_err(status)?),
        };
        Ok(Response::new(proto::InviteReply { outcome: Some(outcome) }))
    }

    async fn resolve(&self, request: Request<proto::ResolveRequest>) -> Reply<proto::ResolveReply> {
        let request = request.into_inner();
        let zone = self.0.check(request.header.as_ref())?;
        let components = convert::components(request.components).map_err(|error| self.0.malformed(error))?;
        let resolved = self.0.plain(self.0.shared.parts.peer.resolve(zone, components)).await?;
        Ok(Response::new(convert::to_resolved(resolved)))
    }

    async fn query(&self, request: Request<proto::QueryRequest>) -> Reply<proto::QueryReply> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let (at_least, query) = watching::query(request).map_err(|error| self.0.malformed(error))?;
        let answer = self.0.plain(self.0.shared.parts.peer.query(caller, at_least, query)).await?;
        Ok(Response::new(watching::to_answer(answer)))
    }

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Reply<Self::WatchStream> {
        let request = request.into_inner();
        let caller = self.0.member(request.header.as_ref())?;
        let events = self.0.plain(self.0.shared.parts.peer.watch(caller, request.from)).await?;
        let connection = Arc::clone(&self.0);
        let events = events.map(move |event| {
            connection.current()?;
            event.map(watching::to_event).map_err(status)
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// Bytes in chunks.
pub(super) fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = bytes.len().min(MAX_CHUNK);
        (len > 0).then(|| bytes.split_to(len))
    })
}
