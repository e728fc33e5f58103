//! A peer that answers by rote, and a zone of two members to ask it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexus_kernel::{BlobId, Clock, Ino};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::mirror::{Part, Ranges};
use crate::net::testing::TestClock;
use crate::net::*;
use crate::raft::{Entry, Member, MemberId, Payload, Position, ProcessId, RestOffer, Vote};

pub(super) const LIMIT: Duration = Duration::from_secs(20);
pub(super) const ZONE: ZoneId = ZoneId([0xaa; 16]);
pub(super) const SERVER: MemberId = MemberId(1);
pub(super) const CLIENT: MemberId = MemberId(2);

pub(super) fn vote(term: u64) -> Vote {
    Vote { term, candidate: CLIENT, committed: true }
}

pub(super) fn at(term: u64, index: u64) -> Position {
    Position { term, index }
}

pub(super) fn append(index: u64, bytes: usize) -> Append {
    let payload = Payload::Proposals(Bytes::from(vec![7; bytes]));
    Append {
        vote: vote(3),
        previous: index.checked_sub(1).map(|index| at(3, index)),
        committed: None,
        entries: vec![Entry { position: at(3, index), payload }],
    }
}

/// What a peer was asked, and what it knows.
pub(super) struct Fake {
    pub(super) ca: Mutex<ZoneCa>,
    pub(super) clock: Arc<TestClock>,
    pub(super) tokens: Mutex<HashSet<TokenHash>>,
    pub(super) revoked: Mutex<HashSet<Fingerprint>>,
    pub(super) leader_at: Mutex<Option<String>>,
    pub(super) appended: Mutex<Vec<u64>>,
    pub(super) snapshot: Mutex<Vec<Result<u64, String>>>,
    pub(super) callers: Mutex<HashSet<Caller>>,
    pub(super) kept: Mutex<HashMap<BlobId, Ranges>>,
}

impl Fake {
    fn called(&self, caller: Caller) {
        self.callers.lock().insert(caller);
    }
}

impl Guard for Arc<Fake> {
    fn is_member(&self, caller: &Caller) -> bool {
        !self.revoked.lock().contains(&caller.certificate)
    }
}

impl Peer for Arc<Fake> {
    fn vote(&self, caller: Caller, request: VoteRequest) -> Answer<'_, VoteReply> {
        self.called(caller);
        Box::pin(async move { Ok(VoteReply { vote: request.vote, granted: !request.is_pre_vote, last: request.last }) })
    }

    fn transfer_leader(&self, caller: Caller, request: TransferLeader) -> Answer<'_, ()> {
        self.called(caller);
        Box::pin(async move {
            match request.to == SERVER {
                true => Ok(()),
                false => Err(Refusal::Denied("not me".into())),
            }
        })
    }

    fn replicate(
        &self,
        caller: Caller,
        appends: BoxStream<Append>,
    ) -> Answer<'_, BoxStream<Result<AppendReply, Refusal>>> {
        self.called(caller);
        let fake = Arc::clone(self);
        Box::pin(async move {
            let replies = appends.map(move |append| {
                let index = append.entries.first().map_or(0, |entry| entry.position.index);
                fake.appended.lock().push(index);
                Ok(match index % 4 {
                    0 => AppendReply::Success,
                    1 => AppendReply::Partial(append.previous),
                    2 => AppendReply::Conflict,
                    _ => AppendReply::HigherVote(vote(index)),
                })
            });
            Ok(Box::pin(replies) as BoxStream<_>)
        })
    }

    fn install_snapshot(
        &self,
        caller: Caller,
        head: SnapshotHead,
        mut chunks: BoxStream<Result<Bytes, String>>,
    ) -> Answer<'_, Vote> {
        self.called(caller);
        Box::pin(async move {
            let mut total = 0;
            while let Some(chunk) = chunks.next().await {
                match chunk {
                    Ok(bytes) => total += bytes.len() as u64,
                    Err(text) => {
                        self.snapshot.lock().push(Err(text.clone()));
                        return Err(Refusal::Invalid(text));
                    }
                }
            }
            self.snapshot.lock().push(Ok(total));
            Ok(head.vote)
        })
    }

    fn held(&self, caller: Caller, inodes: Vec<Ino>, as_of: Option<u64>) -> Answer<'_, Vec<Ino>> {
        self.called(caller);
        let divisor = as_of.unwrap_or(2);
        Box::pin(async move { Ok(inodes.into_iter().filter(|ino| ino.0 % divisor == 0).collect()) })
    }

    fn keep_content(&self, caller: Caller, parts: Vec<Part>, durable: Vec<BlobId>) -> Answer<'_, ()> {
        self.called(caller);
        Box::pin(async move {
            let mut kept = self.kept.lock();
            for part in parts {
                kept.entry(part.blob).or_default().add(part.offset, part.offset + part.bytes.len() as u64);
            }
            match durable.iter().all(|blob| kept.contains_key(blob)) {
                true => Ok(()),
                false => Err(Refusal::NotFound("no such copy".into())),
            }
        })
    }

    fn kept_content(&self, caller: Caller, blobs: Vec<BlobId>) -> Answer<'_, Vec<Ranges>> {
        self.called(caller);
        Box::pin(async move {
            let kept = self.kept.lock();
            Ok(blobs.iter().map(|blob| kept.get(blob).cloned().unwrap_or_default()).collect())
        })
    }

    fn rest(&self, caller: Caller, offer: RestOffer) -> Answer<'_, Option<ProcessId>> {
        self.called(caller);
        Box::pin(async move { Ok(offer.last.index.is_multiple_of(2).then_some(offer.process)) })
    }

    fn greet(&self, caller: Caller, openings: Vec<u64>) -> Answer<'_, bool> {
        self.called(caller);
        Box::pin(async move { Ok(openings.contains(&7)) })
    }

    fn alive(&self, caller: Caller, alive: Alive) -> Answer<'_, Vec<ZoneId>> {
        self.called(caller);
        Box::pin(async move { Ok(alive.zones.iter().filter(|(_, term)| *term > 5).map(|(zone, _)| *zone).collect()) })
    }

    fn propose(&self, caller: Caller, proposals: Vec<Proposal>) -> Answer<'_, Position> {
        self.called(caller);
        Box::pin(async move {
            match self.leader_at.lock().clone() {
                Some(address) => Err(Refusal::NotLeader { leader: Some(CLIENT), addresses: vec![address] }),
                None => Ok(at(1, proposals.iter().map(|proposal| proposal.bytes.len() as u64).sum())),
            }
        })
    }

    fn read_index(&self, caller: Caller) -> Answer<'_, u64> {
        self.called(caller);
        Box::pin(async move {
            match self.leader_at.lock().is_some() {
                true => Err(Refusal::Unavailable("no quorum".into())),
                false => Ok(77),
            }
        })
    }

    fn pledge(&self, caller: Caller) -> Answer<'_, (u64, bool)> {
        self.called(caller);
        Box::pin(async move {
            match self.leader_at.lock().is_some() {
                true => Err(Refusal::Unavailable("no quorum".into())),
                false => Ok((78, true)),
            }
        })
    }

    fn renew_locks(&self, caller: Caller, session: u64) -> Answer<'_, ()> {
        self.called(caller);
        Box::pin(async move {
            match session {
                0 => Err(Refusal::Denied("it has ended".into())),
                _ => Ok(()),
            }
        })
    }

    fn fetch_blob(&self, caller: Caller, range: BlobRange) -> Answer<'_, BoxStream<Result<Bytes, Refusal>>> {
        self.called(caller);
        Box::pin(async move {
            match range.blob.0 {
                1 => {
                    let bytes = Bytes::from(vec![9; range.len as usize]);
                    Ok(Box::pin(stream::iter([Ok(bytes)])) as BoxStream<_>)
                }
                2 => {
                    Ok(
                        Box::pin(stream::iter([
                            Ok(Bytes::from_static(b"ab")),
                            Err(Refusal::Unavailable("gone".into())),
                        ])) as BoxStream<_>,
                    )
                }
                _ => Err(Refusal::NotFound("no such blob".into())),
            }
        })
    }

    fn join(&self, zone: ZoneId, request: JoinRequest) -> Answer<'_, Joined> {
        Box::pin(async move {
            if let Some(address) = self.leader_at.lock().take() {
                return Err(Refusal::NotLeader { leader: None, addresses: vec![address] });
            }
            if !self.tokens.lock().remove(&request.token.hash()) {
                return Err(Refusal::Denied("the invitation was used, or is not of this zone".into()));
            }
            let ca = self.ca.lock();
            let certificate = ca.sign(&request.csr, CLIENT, &*self.clock);
            let certificate = certificate.map_err(|error| Refusal::Invalid(error.to_string()))?;
            Ok(Joined {
                certificate: certificate.into(),
                ca: Bytes::copy_from_slice(ca.certificate()),
                zone,
                zone_name: "home".into(),
                membership: Bytes::from_static(b"members"),
                member: CLIENT,
            })
        })
    }

    fn invite(&self, caller: Caller, child: Option<ZoneId>, ttl: Duration) -> Answer<'_, Invite> {
        self.called(caller);
        Box::pin(async move {
            let token = Token::create().map_err(|error| Refusal::Unavailable(error.to_string()))?;
            self.tokens.lock().insert(token.hash());
            Ok(Invite {
                addresses: vec!["127.0.0.1:1".into()],
                zone: child.unwrap_or(caller.zone),
                zone_name: "home".into(),
                ca: self.ca.lock().fingerprint(),
                token,
                expires_s: self.clock.now().sec as u64 + ttl.as_secs(),
            })
        })
    }

    fn query(&self, caller: Caller, at_least: u64, query: Query) -> Answer<'_, QueryAnswer> {
        self.called(caller);
        Box::pin(async move {
            match query {
                Query::Lookup(_, name) => Ok(QueryAnswer { index: at_least + 1, records: vec![Bytes::from(name)] }),
                _ => Err(Refusal::NotFound("no such thing".into())),
            }
        })
    }

    fn watch(&self, caller: Caller, from: Option<u64>) -> Answer<'_, BoxStream<Result<WatchEvent, Refusal>>> {
        self.called(caller);
        Box::pin(async move {
            let event = |next| WatchEvent { next, inodes: vec![Ino(next)], ..WatchEvent::default() };
            let first = from.unwrap_or(100);
            let events = [Ok(event(first)), Ok(event(first + 1)), Err(Refusal::Unavailable("it ends".into()))];
            Ok(Box::pin(stream::iter(events)) as BoxStream<_>)
        })
    }

    fn resolve(&self, zone: ZoneId, components: Vec<Vec<u8>>) -> Answer<'_, Resolved> {
        assert_eq!(zone, ZONE);
        Box::pin(async move {
            let zone = |zone| ZoneAddress { zone, addresses: vec!["a:1".into()], ca: Fingerprint([1; 32]) };
            Ok(match components.iter().position(|name| name == b"mount") {
                None => Resolved::Here(zone(ZONE)),
                Some(place) => Resolved::Mount { depth: place + 1, zone: zone(ZoneId([0xbb; 16])) },
            })
        })
    }
}

/// A server and what a client of it needs.
pub(super) struct World {
    pub(super) runtime: Runtime,
    pub(super) clock: Arc<TestClock>,
    pub(super) fake: Arc<Fake>,
    pub(super) zones: Arc<Zones>,
    pub(super) server: Option<Server>,
    pub(super) identity: NodeIdentity,
}

impl World {
    pub(super) fn new() -> World {
        World::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> World {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock = TestClock::new();
        let ca = ZoneCa::create(ZONE, &*clock).unwrap();
        let (server, identity) = (member(&ca, SERVER, &clock), member(&ca, CLIENT, &clock));
        let fake = Arc::new(Fake {
            ca: Mutex::new(ca),
            clock: Arc::clone(&clock),
            tokens: Mutex::default(),
            revoked: Mutex::default(),
            leader_at: Mutex::default(),
            appended: Mutex::default(),
            snapshot: Mutex::default(),
            callers: Mutex::default(),
            kept: Mutex::default(),
        });
        let zones = Arc::<Zones>::default();
        let shared_clock: Arc<dyn Clock> = clock.clone();
        zones.put(&server, &shared_clock).unwrap();
        let parts = ServerParts {
            peer: Arc::new(Arc::clone(&fake)),
            guard: Arc::new(Arc::clone(&fake)),
            zones: Arc::clone(&zones),
            clock: shared_clock,
            limits,
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Some(Server::start(listener, runtime.handle(), parts).unwrap());
        World { runtime, clock, fake, zones, server, identity }
    }

    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(super) fn address(&self) -> String {
        self.server().address().to_string()
    }

    pub(super) fn count(&self, reason: Reason) -> u64 {
        self.server().refusals().count(reason)
    }

    pub(super) fn client(&self) -> PeerClient {
        self.client_of(&self.identity, SERVER)
    }

    pub(super) fn client_of(&self, identity: &NodeIdentity, whom: MemberId) -> PeerClient {
        let handle = self.runtime.handle();
        let timing = Timing { connect: Duration::from_secs(10), ..Timing::default() };
        PeerClient::new(identity, (whom, vec![self.address()]), self.clock.clone(), handle, timing).unwrap()
    }

    pub(super) fn joiner(&self, invite: &Invite) -> JoinClient {
        JoinClient::invited(invite, self.clock.clone(), self.runtime.handle().clone(), Timing::default())
    }

    /// An invitation to this server.
    pub(super) fn invite(&self) -> Invite {
        let mut invite = self.runtime.block_on(self.client().invite(None, Duration::from_secs(60), LIMIT)).unwrap();
        invite.addresses = vec![self.address()];
        invite
    }
}

pub(super) fn member(ca: &ZoneCa, id: MemberId, clock: &TestClock) -> NodeIdentity {
    let key = NodeKey::create().unwrap();
    let der = ca.sign(&key.csr().unwrap(), id, clock).unwrap();
    key.identity(&der, ca.certificate(), clock).unwrap()
}

pub(super) fn newcomer() -> Member {
    Member { name: "bob".into(), addresses: vec!["10.0.0.2:7420".into()], writer: 5, witness: false }
}
