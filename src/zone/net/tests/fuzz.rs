//! Every parser takes anything without a panic: valid inputs with seeded changes, and noise.

use bytes::Bytes;
use nexus_kernel::{BlobId, Ino};
use nexus_proto as proto;
use prost::Message;

use super::fake::{CLIENT, ZONE, append, at, newcomer, vote};
use crate::mirror::{Part, Ranges};
use crate::net::convert::{self, Step};
use crate::net::testing::TestClock;
use crate::net::watching;
use crate::net::*;
use crate::raft::{ProcessId, RestOffer};
use crate::testing::fuzz;

#[test]
fn messages() {
    let joined = Joined {
        certificate: Bytes::from_static(b"c"),
        ca: Bytes::from_static(b"ca"),
        zone: ZONE,
        zone_name: "home".into(),
        membership: Bytes::from_static(b"m"),
        member: CLIENT,
    };
    let request =
        JoinRequest { token: Token([3; 32]), csr: Bytes::from_static(b"csr"), member: newcomer(), commands: 6 };
    let mut two = append(4, 30);
    two.entries.extend(append(5, 30).entries);
    let head = SnapshotHead {
        vote: vote(1),
        id: "s".into(),
        last: Some(at(1, 2)),
        membership: Bytes::from_static(b"m"),
        total_bytes: 9,
    };
    let mount = Resolved::Mount {
        depth: 1,
        zone: ZoneAddress { zone: ZONE, addresses: vec!["a:1".into()], ca: Fingerprint([2; 32]) },
    };
    let step = Step::Vote(VoteRequest { vote: vote(2), last: Some(at(1, 1)), is_pre_vote: true, is_transfer: false });
    let proposal = Proposal { bytes: Bytes::from_static(b"proposal"), deadline: std::time::Duration::from_secs(1) };
    let range = BlobRange { blob: nexus_kernel::BlobId(7), offset: 1, len: 2 };
    let not_leader = Refusal::NotLeader { leader: Some(CLIENT), addresses: vec!["a:1".into()] };
    let components = vec![Bytes::from_static(b"name")];

    let offer = RestOffer { vote: vote(4), last: at(2, 8), process: ProcessId([6; 16]) };
    let alive = Alive { process: offer.process, zones: vec![(ZONE, 5), (ZoneId([7; 16]), 600)] };

    /// Decodes as the server or client does, then converts.
    macro_rules! each {
        ($($message:ty, $valid:expr, $convert:expr;)*) => {{
            let mut seed = 0;
            $(
                seed += 1;
                let valid: $message = $valid;
                fuzz(seed, &valid.encode_to_vec(), |bytes| match <$message>::decode(Bytes::copy_from_slice(bytes)) {
                    Ok(message) => $convert(message).is_ok(),
                    Err(_) => false,
                });
            )*
        }};
    }
    let content = Part { blob: BlobId(1), offset: 7, bytes: Bytes::from_static(b"content") };
    let named = NamedChange { parent: Ino(1), name: Bytes::from_static(b"name"), inode: Some(Ino(7)), removed: true };
    let event = WatchEvent { next: 6, inodes: vec![Ino(1), Ino(7)], names: vec![named], fell_behind: true };
    let mut kept = Ranges::default();
    kept.add(3, 300);
    kept.add(1_000, 2_000);
    each! {
        proto::Header, convert::to_header(ZONE).unwrap(), |header: proto::Header| convert::zone(&header.zone);
        proto::StepRequest, convert::to_step(ZONE, step), convert::step;
        proto::StepReply, convert::to_vote_reply(VoteReply { vote: vote(1), granted: true, last: None }),
            convert::vote_reply;
        proto::AppendRequest, convert::to_append(ZONE, &two).unwrap(), convert::append;
        proto::AppendReply, convert::to_append_reply(AppendReply::HigherVote(vote(3))), convert::append_reply;
        proto::SnapshotHead, convert::to_snapshot_head(ZONE, head), convert::snapshot_head;
        proto::Chunk, convert::to_chunk(Bytes::from_static(b"chunk")), convert::chunk;
        proto::HeldRequest, proto::HeldRequest { header: None, inodes: vec![1, 2, 300], as_of: Some(9) },
            |request: proto::HeldRequest| convert::inodes(request.inodes);
        proto::KeepContentRequest, convert::to_content(ZONE, vec![content], &[BlobId(1)]).unwrap(), convert::content;
        proto::KeptContentRequest, proto::KeptContentRequest { header: None, blobs: vec![1, 2] },
            |request: proto::KeptContentRequest| convert::blobs(&request.blobs);
        proto::KeptContentReply, proto::KeptContentReply { blobs: convert::to_kept(&[kept]) },
            |reply: proto::KeptContentReply| convert::kept(reply.blobs);
        proto::RestRequest, convert::to_rest(ZONE, &offer), convert::rest;
        proto::GreetRequest, proto::GreetRequest { header: None, openings: vec![1, 2, u64::MAX] },
            |request: proto::GreetRequest| convert::openings(request.openings);
        proto::RestReply, proto::RestReply { process: Bytes::from_static(&[6; 16]) },
            |reply: proto::RestReply| convert::rest_reply(&reply);
        proto::AliveRequest, convert::to_alive(ZONE, &alive), convert::alive;
        proto::AliveReply, proto::AliveReply { awake: vec![convert::to_zone(ZONE)] },
            |reply: proto::AliveReply| convert::zones(&reply.awake);
        proto::ProposeRequest, convert::to_proposals(ZONE, vec![proposal]).unwrap(), convert::proposals;
        proto::Refusal, convert::to_refusal(not_leader).unwrap(), convert::refusal;
        proto::FetchBlobRequest, convert::to_blob_range(ZONE, range),
            |request: proto::FetchBlobRequest| convert::blob_range(&request);
        proto::JoinRequest, convert::to_join(ZONE, request), convert::join;
        proto::Joined, convert::to_joined(joined), convert::joined;
        proto::InviteRequest, proto::InviteRequest { header: None, ttl_s: 60, child: Bytes::from_static(&[7; 16]) },
            |request: proto::InviteRequest| convert::ttl(&request).and_then(|_| convert::child(&request));
        proto::QueryRequest, watching::to_query(ZONE, 3, Query::ReadDir(Ino(1), 7, 9)), watching::query;
        proto::QueryRequest, watching::to_query(ZONE, 0, Query::Lookup(Ino(1), b"name".to_vec())), watching::query;
        proto::QueryReply, watching::to_answer(QueryAnswer { index: 5, records: vec![Bytes::from_static(b"r")] }),
            watching::answer;
        proto::WatchEvent, watching::to_event(event), watching::event;
        proto::ResolveRequest, proto::ResolveRequest { header: None, components },
            |request: proto::ResolveRequest| convert::components(request.components);
        proto::ResolveReply, convert::to_resolved(mount), |reply| convert::resolved(reply, 1);
    }
}

#[test]
fn invitations() {
    let invite = Invite {
        addresses: vec!["node.example.org:7420".into(), "[::1]:1".into()],
        zone: ZONE,
        zone_name: "home".into(),
        ca: Fingerprint([4; 32]),
        token: Token([5; 32]),
        expires_s: 99,
    };
    let text = invite.to_text().unwrap();
    fuzz(100, text.as_bytes(), |bytes| match Invite::parse_any_age(&String::from_utf8_lossy(bytes)) {
        Ok(parsed) => {
            assert_eq!(parsed, invite, "what is changed is never taken for another invitation");
            true
        }
        Err(_) => false,
    });
}

#[test]
fn certificates_requests_and_keys() {
    let clock = TestClock::new();
    let ca = ZoneCa::create(ZONE, &*clock).unwrap();
    let key = NodeKey::create().unwrap();
    let csr = key.csr().unwrap();
    let der = ca.sign(&csr, CLIENT, &*clock).unwrap();
    fuzz(200, &csr, |bytes| ca.sign(bytes, CLIENT, &*clock).is_ok());
    let (taken, rounds) = fuzz(201, &der, |bytes| match PeerCertificate::verify(bytes, ca.certificate(), &*clock) {
        Ok(certificate) => {
            assert_eq!(bytes, der, "a signature covers all of it");
            assert_eq!(certificate.member, CLIENT);
            true
        }
        Err(_) => false,
    });
    assert!(taken < rounds / 100, "{taken}");
    fuzz(202, ca.certificate(), |bytes| PeerCertificate::verify(&der, bytes, &*clock).is_ok());
    fuzz(203, ca.to_pem().as_bytes(), |bytes| ZoneCa::from_pem(&String::from_utf8_lossy(bytes)).is_ok());
    fuzz(204, key.to_pem().as_bytes(), |bytes| NodeKey::from_pem(&String::from_utf8_lossy(bytes)).is_ok());
    fuzz(205, ZONE.member_dns_name(CLIENT).as_bytes(), |bytes| {
        crate::net::identity::parse_dns_name(&String::from_utf8_lossy(bytes)).is_some()
    });
}
