//! Every call, there and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexus_kernel::{BlobId, Clock, Ino};

use super::fake::{CLIENT, LIMIT, SERVER, World, ZONE, append, at, member, newcomer, vote};
use crate::mirror::Part;
use crate::net::testing::TestClock;
use crate::net::*;
use crate::raft::{MemberId, ProcessId, RestOffer};

#[test]
fn what_one_member_asks_another_comes_back() {
    let world = World::new();
    let client = world.client();
    world.runtime.block_on(async {
        let request = VoteRequest { vote: vote(4), last: Some(at(2, 9)), is_pre_vote: false, is_transfer: false };
        let reply = client.vote(request, LIMIT).await;
        assert_eq!(reply, Ok(VoteReply { vote: vote(4), granted: true, last: Some(at(2, 9)) }));
        let reply = client.vote(VoteRequest { last: None, is_pre_vote: true, ..request }, LIMIT).await;
        assert_eq!(reply, Ok(VoteReply { vote: vote(4), granted: false, last: None }));
        let transfer = TransferLeader { from: vote(4), to: SERVER, last: None };
        assert_eq!(client.transfer_leader(transfer, LIMIT).await, Ok(()));
        let elsewhere = client.transfer_leader(TransferLeader { to: CLIENT, ..transfer }, LIMIT).await;
        assert_eq!(elsewhere, Err(Refusal::Denied("not me".into()).into()));
        assert_eq!(client.held(&[Ino(1), Ino(2), Ino(4)], None, LIMIT).await, Ok(vec![Ino(2), Ino(4)]));
        assert_eq!(client.held(&[Ino(1), Ino(2), Ino(4)], Some(4), LIMIT).await, Ok(vec![Ino(4)]));
        let part = |offset: u64, bytes: usize| Part { blob: BlobId(9), offset, bytes: vec![3; bytes].into() };
        assert_eq!(client.keep_content(vec![part(0, 10), part(20, 5)], &[BlobId(9)], LIMIT).await, Ok(()));
        assert_eq!(client.keep_content(vec![part(25, MAX_BATCH)], &[], LIMIT).await, Ok(()));
        let too_much = client.keep_content(vec![part(0, MAX_BATCH + 1)], &[], LIMIT).await;
        assert!(matches!(too_much, Err(CallError::Protocol(_))));
        let kept = client.kept_content(&[BlobId(9), BlobId(1)], LIMIT).await.unwrap();
        let kept: Vec<Vec<_>> = kept.iter().map(|ranges| ranges.iter().collect()).collect();
        assert_eq!(kept, [vec![(0, 10), (20, 25 + MAX_BATCH as u64)], vec![]]);
        let offer = RestOffer { vote: vote(4), last: at(2, 8), process: ProcessId([6; 16]) };
        assert_eq!(client.rest(&offer, LIMIT).await, Ok(Some(offer.process)));
        assert_eq!(client.rest(&RestOffer { last: at(2, 9), ..offer }, LIMIT).await, Ok(None));
        assert_eq!(client.greet(&[3, 7, 9], LIMIT).await, Ok(true));
        assert_eq!(client.greet(&[3; MAX_OPENINGS], LIMIT).await, Ok(false));
        let none = client.greet(&[], LIMIT).await;
        assert!(matches!(none, Err(CallError::Refused(Refusal::Invalid(_)))), "{none:?}");
        assert!(client.greet(&[3; MAX_OPENINGS + 1], LIMIT).await.is_err());
        let zones = vec![(ZONE, 5), (ZoneId([7; 16]), 6)];
        let alive = Alive { process: offer.process, zones };
        assert_eq!(client.alive(&alive, LIMIT).await, Ok(vec![ZoneId([7; 16])]));
        let batch = |bytes: usize| vec![Proposal { bytes: Bytes::from(vec![1; bytes]), deadline: LIMIT }];
        assert_eq!(client.propose(batch(300), LIMIT).await, Ok(at(1, 300)));
        assert_eq!(client.propose(batch(MAX_BATCH), LIMIT).await, Ok(at(1, MAX_BATCH as u64)));
        assert!(matches!(client.propose(batch(MAX_BATCH + 1), LIMIT).await, Err(CallError::Protocol(_))));
        assert_eq!(client.read_index(LIMIT).await, Ok(77));
        *world.fake.leader_at.lock() = Some("leader:1".into());
        let not_leader = Refusal::NotLeader { leader: Some(CLIENT), addresses: vec!["leader:1".into()] };
        assert_eq!(client.propose(batch(1), LIMIT).await, Err(not_leader.into()));
        assert_eq!(client.read_index(LIMIT).await, Err(Refusal::Unavailable("no quorum".into()).into()));
    });
    let shown = world.identity.certificate();
    let (certificate, key) = (shown.fingerprint, shown.key);
    let callers: Vec<_> = world.fake.callers.lock().iter().copied().collect();
    assert_eq!(callers, [Caller { zone: ZONE, member: CLIENT, certificate, key }]);
}

#[test]
fn queries_and_watches_come_back_until_the_caller_is_no_member_any_more() {
    let world = World::new();
    let client = world.client();
    world.runtime.block_on(async {
        let answer = client.query(4, Query::Lookup(Ino(1), b"name".to_vec()), LIMIT).await;
        assert_eq!(answer, Ok(QueryAnswer { index: 5, records: vec![Bytes::from_static(b"name")] }));
        let none = client.query(4, Query::Extents(Ino(7), 0, MAX_ENTRIES), LIMIT).await;
        assert_eq!(none, Err(Refusal::NotFound("no such thing".into()).into()));
        for wrong in [Query::Inode(Ino(0)), Query::ReadDir(Ino(1), 0, MAX_ENTRIES + 1), Query::ReadDir(Ino(1), 0, 0)] {
            let refused = client.query(0, wrong, LIMIT).await;
            assert!(matches!(refused, Err(CallError::Refused(Refusal::Invalid(_)))), "{refused:?}");
        }
        assert_eq!(world.count(Reason::Malformed), 3);
        for (from, first) in [(None, 100), (Some(7), 7)] {
            let events: Vec<_> = client.watch(from, LIMIT).await.unwrap().collect().await;
            let next: Vec<_> = events.iter().map(|event| event.as_ref().map(|event| event.next).ok()).collect();
            assert_eq!(next, [Some(first), Some(first + 1), None]);
            assert_eq!(events[2], Err(Refusal::Unavailable("it ends".into()).into()));
        }
        world.fake.revoked.lock().insert(world.identity.certificate().fingerprint);
        let refused = client.watch(None, LIMIT).await.err();
        assert!(matches!(refused, Some(CallError::Refused(Refusal::Denied(_)))), "{refused:?}");
        assert!(client.query(0, Query::Inode(Ino(1)), LIMIT).await.is_err());
        assert_eq!(world.count(Reason::Revoked), 2);
    });
}

#[test]
fn a_thousand_appends_on_their_way_keep_their_order() {
    let world = World::new();
    let replies: Vec<_> = world.runtime.block_on(async {
        let appends = stream::iter((0..1000).map(|index| append(index, 200)));
        world.client().replicate(appends, LIMIT).await.unwrap().collect().await
    });
    assert_eq!(*world.fake.appended.lock(), (0..1000).collect::<Vec<_>>());
    let expected = |index: u64| match index % 4 {
        0 => AppendReply::Success,
        1 => AppendReply::Partial(Some(at(3, index - 1))),
        2 => AppendReply::Conflict,
        _ => AppendReply::HigherVote(vote(index)),
    };
    assert_eq!(replies, (0..1000).map(|index| Ok(expected(index))).collect::<Vec<_>>());
}

#[test]
fn a_broken_append_ends_the_stream_after_the_replies_before_it() {
    let world = World::new();
    let replies: Vec<_> = world.runtime.block_on(async {
        let mut gap = append(1, 10);
        gap.previous = Some(at(3, 5));
        let appends = stream::iter([append(0, 10), gap, append(2, 10)]);
        world.client().replicate(appends, LIMIT).await.unwrap().collect().await
    });
    assert_eq!(replies[0], Ok(AppendReply::Success));
    assert!(matches!(&replies[1..], [Err(CallError::Refused(Refusal::Invalid(_)))]), "{replies:?}");
    assert_eq!((world.count(Reason::Malformed), world.fake.appended.lock().clone()), (1, vec![0]));
}

#[test]
fn a_snapshot_and_a_blob_arrive_whole_or_not_at_all() {
    let world = World::new();
    let client = world.client();
    let head = |total_bytes| SnapshotHead {
        vote: vote(5),
        id: "3-7".into(),
        last: Some(at(3, 7)),
        membership: Bytes::from_static(b"m"),
        total_bytes,
    };
    world.runtime.block_on(async {
        let pieces = || stream::iter([3, MAX_CHUNK * 2 + 1, 5].map(|len| Bytes::from(vec![8; len])));
        let total = (MAX_CHUNK * 2 + 9) as u64;
        assert_eq!(client.install_snapshot(head(total), pieces(), LIMIT).await, Ok(vote(5)));
        for wrong in [total + 1, total - 1] {
            let refused = client.install_snapshot(head(wrong), pieces(), LIMIT).await;
            assert!(matches!(refused, Err(CallError::Refused(Refusal::Invalid(_)))), "{refused:?}");
        }
        assert_eq!(client.install_snapshot(head(0), stream::empty(), LIMIT).await, Ok(vote(5)));
        let outcomes: Vec<_> = world.fake.snapshot.lock().iter().map(|end| end.clone().ok()).collect();
        assert_eq!(outcomes, [Some(total), None, None, Some(0)]);

        let range = BlobRange { blob: BlobId(1), offset: 5, len: MAX_CHUNK as u64 + 3 };
        let pieces: Vec<_> = client.fetch_blob(range, LIMIT).await.unwrap().collect().await;
        assert_eq!(pieces.iter().map(|piece| piece.as_ref().unwrap().len()).collect::<Vec<_>>(), [MAX_CHUNK, 3]);
        let broken = BlobRange { blob: BlobId(2), ..range };
        let pieces: Vec<_> = client.fetch_blob(broken, LIMIT).await.unwrap().collect().await;
        assert_eq!(
            pieces,
            [Ok(Bytes::from_static(b"ab")), Err(Refusal::Unavailable("gone".into()).into())],
            "an error is not an end"
        );
        let more = client.fetch_blob(BlobRange { len: 1, ..broken }, LIMIT).await.unwrap().next().await;
        assert!(matches!(more, Some(Err(CallError::Protocol(_)))), "more than asked for: {more:?}");
        let none = client.fetch_blob(BlobRange { blob: BlobId(3), ..range }, LIMIT).await.err();
        assert_eq!(none, Some(Refusal::NotFound("no such blob".into()).into()));
    });
}

#[test]
fn a_stranger_joins_once_and_is_a_member_then() {
    let world = World::new();
    let child = world.runtime.block_on(world.client().invite(Some(ZoneId([8; 16])), LIMIT, LIMIT)).unwrap();
    assert_eq!(child.zone, ZoneId([8; 16]));
    let invite = world.invite();
    let key = NodeKey::create().unwrap();
    let joiner = world.joiner(&invite);
    // The first member that it asks does not lead, and says who does.
    *world.fake.leader_at.lock() = Some(world.address());
    let (joined, identity) = world.runtime.block_on(joiner.join(&invite, &key, newcomer(), LIMIT)).unwrap();
    assert_eq!((joined.zone, joined.member, joined.zone_name.as_str()), (ZONE, CLIENT, "home"));
    assert_eq!(world.runtime.block_on(world.client_of(&identity, SERVER).read_index(LIMIT)), Ok(77));
    // The token is used.
    let again = world.runtime.block_on(joiner.join(&invite, &key, newcomer(), LIMIT)).unwrap_err();
    assert!(matches!(again, CallError::Refused(Refusal::Denied(_))), "{again:?}");
    let resolve = |names: &[&str]| {
        let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        world.runtime.block_on(joiner.resolve(names, LIMIT)).unwrap()
    };
    assert!(matches!(resolve(&["a", "b"]), Resolved::Here(ZoneAddress { zone: ZONE, .. })));
    assert!(matches!(resolve(&["a", "mount", "b"]), Resolved::Mount { depth: 2, .. }));
}

#[test]
fn a_joiner_trusts_nobody_but_the_invited_zone() {
    let world = World::new();
    let invite = world.invite();
    let key = NodeKey::create().unwrap();
    let mut other_ca = invite.clone();
    other_ca.ca = Fingerprint([1; 32]);
    let mut other_zone = invite.clone();
    other_zone.zone = ZoneId([9; 16]);
    for wrong in [other_ca, other_zone] {
        let refused = world.runtime.block_on(world.joiner(&wrong).join(&wrong, &key, newcomer(), LIMIT)).unwrap_err();
        assert!(matches!(refused, CallError::Unreachable(_)), "{refused:?}");
    }
    assert_eq!(world.fake.tokens.lock().len(), 1, "the token went to nobody");
}

#[test]
fn a_client_comes_back_and_tries_the_next_address() {
    let mut world = World::new();
    let client = world.client();
    let read = |world: &World| world.runtime.block_on(client.read_index(LIMIT));
    assert_eq!(read(&world), Ok(77));
    world.runtime.block_on(world.server.take().unwrap().shutdown());
    assert!(matches!(read(&world), Err(CallError::Unreachable(_))));
    let next = World::new();
    // The same identity at another place, behind an address where nobody is.
    let der = next.fake.ca.lock().certificate().to_vec();
    assert_ne!(der, world.identity.ca(), "another CA of the same zone");
    client.set_addresses(vec!["127.0.0.1:1".into(), next.address()]);
    client.set_identity(&member(&next.fake.ca.lock(), MemberId(5), &next.clock)).unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    while read(&world) != Ok(77) {
        assert!(std::time::Instant::now() < deadline, "it does not come back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A node whose clock is wrong by hours joins, asks and answers.
#[test]
fn clocks_may_be_apart_by_hours() {
    for hours in [-20, -1, 1, 20] {
        let world = World::new();
        let clock = TestClock::new();
        clock.advance(hours * 3600);
        let clock: Arc<dyn Clock> = clock;
        let invite = world.invite();
        let handle = world.runtime.handle();
        let joiner = JoinClient::invited(&invite, clock.clone(), handle.clone(), Timing::default());
        let key = NodeKey::create().unwrap();
        let joined = world.runtime.block_on(joiner.join(&invite, &key, newcomer(), LIMIT));
        let (_, identity) = joined.unwrap_or_else(|error| panic!("{hours} h: {error}"));
        let client =
            PeerClient::new(&identity, (SERVER, vec![world.address()]), clock.clone(), handle, Timing::default());
        assert_eq!(world.runtime.block_on(client.unwrap().read_index(LIMIT)), Ok(77), "{hours} h");
        let zones = Arc::<Zones>::default();
        zones.put(&identity, &clock).unwrap();
        let parts = ServerParts {
            peer: Arc::new(Arc::clone(&world.fake)),
            guard: Arc::new(Arc::clone(&world.fake)),
            zones,
            clock,
            limits: Limits::default(),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(listener, handle, parts).unwrap();
        let place = (identity.certificate().member, vec![server.address().to_string()]);
        let client = PeerClient::new(&world.identity, place, world.clock.clone(), handle, Timing::default());
        assert_eq!(world.runtime.block_on(client.unwrap().read_index(LIMIT)), Ok(77), "{hours} h");
        world.runtime.block_on(server.shutdown());
    }
}
