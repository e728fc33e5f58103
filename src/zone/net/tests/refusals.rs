//! Whoever may not is refused, and it is counted why.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use nexus_kernel::Clock;
use nexus_proto as proto;
use nexus_proto::zone_api_service_client::ZoneApiServiceClient;
use nexus_proto::zone_transport_service_client::ZoneTransportServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use super::fake::{CLIENT, LIMIT, SERVER, World, ZONE, append, member};
use crate::net::connect::{Connector, Target};
use crate::net::*;
use crate::net::{convert, tls};
use crate::raft::MemberId;

/// Waits until a reason has been counted.
fn counted(world: &World, reason: Reason) {
    let deadline = Instant::now() + LIMIT;
    while world.count(reason) == 0 {
        assert!(Instant::now() < deadline, "{reason:?} is not counted");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A channel that shows what it is told, to whom it is told.
fn channel(world: &World, config: rustls::ClientConfig, name: String) -> Channel {
    let target = Arc::new(Target::new(name, vec![world.address()], config));
    Connector::new(target, Timing::default()).channel(world.runtime.handle())
}

fn member_channel(world: &World) -> Channel {
    let clock: Arc<dyn Clock> = world.clock.clone();
    channel(world, tls::client(&world.identity, &clock).unwrap(), ZONE.member_dns_name(SERVER))
}

fn stranger_channel(world: &World) -> Channel {
    let clock: Arc<dyn Clock> = world.clock.clone();
    let ca = world.fake.ca.lock().fingerprint();
    channel(world, tls::stranger(ZONE, ca, &clock).unwrap(), ZONE.dns_name())
}

#[test]
fn without_a_certificate_only_joining_and_resolving_is_allowed() {
    let world = World::new();
    let channel = stranger_channel(&world);
    let header = convert::to_header(ZONE);
    world.runtime.block_on(async {
        let mut api = ZoneApiServiceClient::new(channel.clone());
        let request = proto::ReadIndexRequest { header: header.clone(), pledge: false };
        assert_eq!(api.read_index(request).await.unwrap_err().code(), Code::Unauthenticated);
        let request = proto::InviteRequest { header: header.clone(), ttl_s: 9, child: Default::default() };
        assert_eq!(api.invite_zone(request).await.unwrap_err().code(), Code::Unauthenticated);
        let mut transport = ZoneTransportServiceClient::new(channel);
        let request = proto::HeldRequest { header: header.clone(), inodes: vec![1], as_of: None };
        assert_eq!(transport.held(request).await.unwrap_err().code(), Code::Unauthenticated);
        let long = vec![Bytes::from(vec![b'x'; 200]); 400];
        let request = proto::ResolveRequest { header: header.clone(), components: long };
        assert_eq!(api.resolve(request).await.unwrap_err().code(), Code::OutOfRange);
        let request = proto::ResolveRequest { header, components: vec![] };
        assert!(api.resolve(request).await.is_ok());
    });
    assert_eq!((world.count(Reason::NoCertificate), world.count(Reason::TooLarge)), (3, 1));
    assert!(world.fake.callers.lock().is_empty());
}

#[test]
fn a_certificate_of_another_zone_or_ca_is_refused() {
    let world = World::new();
    for zone in [ZoneId([0xcc; 16]), ZONE] {
        let other = ZoneCa::create(zone, &*world.clock).unwrap();
        let identity = member(&other, CLIENT, &world.clock);
        // It trusts the server, as a thief of the address would.
        let clock: Arc<dyn Clock> = world.clock.clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.identity.ca_der().clone()).unwrap();
        let (chain, key) = identity.chain();
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.time_provider = tls::client(&identity, &clock).unwrap().time_provider;
        let channel = channel(&world, config, ZONE.member_dns_name(SERVER));
        let request = proto::ReadIndexRequest { header: convert::to_header(ZONE), pledge: false };
        let refused = world.runtime.block_on(ZoneApiServiceClient::new(channel).read_index(request));
        assert!(matches!(CallError::from(refused.unwrap_err()), CallError::Unreachable(_)));
        // And as a member that does not know the server's CA.
        let client = world.client_of(&identity, SERVER);
        assert!(matches!(world.runtime.block_on(client.read_index(LIMIT)), Err(CallError::Unreachable(_))));
    }
    counted(&world, Reason::BadCertificate);
    assert!(world.fake.callers.lock().is_empty());
}

#[test]
fn a_revoked_certificate_is_refused_at_the_next_message() {
    let world = World::new();
    let client = world.client();
    world.runtime.block_on(async {
        assert_eq!(client.read_index(LIMIT).await, Ok(77));
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let appends = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let mut replies = client.replicate(appends, LIMIT).await.unwrap();
        sender.send(append(0, 10)).unwrap();
        assert_eq!(replies.next().await, Some(Ok(AppendReply::Success)));
        world.fake.revoked.lock().insert(world.identity.certificate().fingerprint);
        sender.send(append(4, 10)).unwrap();
        let refused = replies.next().await;
        assert!(matches!(refused, Some(Err(CallError::Refused(Refusal::Denied(_))))), "{refused:?}");
        let refused = client.read_index(LIMIT).await;
        assert!(matches!(refused, Err(CallError::Refused(Refusal::Denied(_)))), "{refused:?}");
    });
    assert_eq!(world.count(Reason::Revoked), 2);
    assert_eq!(*world.fake.appended.lock(), [0]);
}

#[test]
fn an_expired_certificate_is_refused_on_old_connections_and_new() {
    let world = World::new();
    let client = world.client();
    assert_eq!(world.runtime.block_on(client.read_index(LIMIT)), Ok(77));
    world.clock.advance(366 * 24 * 3600);
    let refused = world.runtime.block_on(client.read_index(LIMIT));
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Denied(_)))), "{refused:?}");
    assert_eq!(world.count(Reason::Expired), 1);
    // The server has a new certificate, the client has not.
    let renewed = member(&world.fake.ca.lock(), SERVER, &world.clock);
    let clock: Arc<dyn Clock> = world.clock.clone();
    world.zones.put(&renewed, &clock).unwrap();
    let refused = world.runtime.block_on(world.client().read_index(LIMIT));
    assert!(matches!(refused, Err(CallError::Unreachable(_))), "{refused:?}");
    assert_eq!(world.count(Reason::Expired), 2);
    let renewed = member(&world.fake.ca.lock(), CLIENT, &world.clock);
    assert_eq!(world.runtime.block_on(world.client_of(&renewed, SERVER).read_index(LIMIT)), Ok(77));
}

#[test]
fn another_member_or_zone_is_not_found_here() {
    let world = World::new();
    let refused = world.runtime.block_on(world.client_of(&world.identity, MemberId(99)).read_index(LIMIT));
    assert!(matches!(refused, Err(CallError::Unreachable(_))), "{refused:?}");
    counted(&world, Reason::WrongName);
    let client = world.client();
    assert_eq!(world.runtime.block_on(client.read_index(LIMIT)), Ok(77));
    world.zones.remove(ZONE);
    let refused = world.runtime.block_on(client.read_index(LIMIT));
    assert!(matches!(refused, Err(CallError::Refused(Refusal::NotFound(_)))), "{refused:?}");
    assert_eq!(world.count(Reason::ZoneGone), 1);
}

#[test]
fn what_a_request_says_is_checked() {
    let world = World::new();
    let channel = member_channel(&world);
    let mut api = ZoneApiServiceClient::new(channel.clone());
    let mut transport = ZoneTransportServiceClient::new(channel).max_encoding_message_size(64 << 20);
    let mut code = |header: Option<proto::Header>| {
        let request = proto::ReadIndexRequest { header, pledge: false };
        world.runtime.block_on(api.read_index(request)).map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(code(convert::to_header(ZONE)), Code::Ok);
    assert_eq!(code(convert::to_header(ZoneId([1; 16]))), Code::PermissionDenied);
    assert_eq!(code(None), Code::InvalidArgument);
    let header = convert::to_header(ZONE).unwrap();
    assert_eq!(code(Some(proto::Header { version: 2, ..header.clone() })), Code::FailedPrecondition);
    assert_eq!(code(Some(proto::Header { zone: Bytes::from_static(b"x"), ..header.clone() })), Code::InvalidArgument);
    let request = proto::HeldRequest { header: Some(header.clone()), inodes: vec![u64::MAX; 300_000], as_of: None };
    let refused = world.runtime.block_on(transport.held(request)).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "3 MB of inodes: {refused:?}");
    let entries = vec![Bytes::from(vec![0; 17 << 20])];
    let request = proto::AppendRequest { header: Some(header), entries, ..Default::default() };
    let refused = world.runtime.block_on(async {
        let replies = transport.replicate_entries(futures_util::stream::iter([request])).await?;
        replies.into_inner().message().await
    });
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange, "an append of 17 MiB");
    let counts = [Reason::OtherZone, Reason::Version, Reason::Malformed, Reason::TooLarge].map(|r| world.count(r));
    assert_eq!(counts, [1, 1, 2, 2]);
}

#[test]
fn noise_and_plain_http_are_refused_and_the_server_lives() {
    let world = World::with(Limits { handshake: Duration::from_millis(300), ..Limits::default() });
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 4000], &b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1]]
    {
        let mut stream = TcpStream::connect(world.server().address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // It may be cut while it still writes.
        let _written = stream.write_all(bytes);
        let mut rest = Vec::new();
        let _read = stream.read_to_end(&mut rest);
        assert!(rest.len() < 64, "at most an alert: {rest:?}");
    }
    let deadline = Instant::now() + LIMIT;
    while world.count(Reason::Handshake) < 4 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(world.runtime.block_on(world.client().read_index(LIMIT)), Ok(77));
}

#[test]
fn strangers_have_few_places_and_not_for_long() {
    let limits = Limits { strangers: 1, stranger_life: Duration::from_millis(500), ..Limits::default() };
    let world = World::with(limits);
    let resolve = |channel: Channel| {
        let request = proto::ResolveRequest { header: convert::to_header(ZONE), components: vec![] };
        world.runtime.block_on(ZoneApiServiceClient::new(channel).resolve(request)).is_ok()
    };
    let first = stranger_channel(&world);
    assert!(resolve(first.clone()));
    assert!(!resolve(stranger_channel(&world)), "the only place is taken");
    counted(&world, Reason::TooManyConnections);
    assert_eq!(world.runtime.block_on(world.client().read_index(LIMIT)), Ok(77), "members have theirs");
    let deadline = Instant::now() + LIMIT;
    while !resolve(stranger_channel(&world)) {
        assert!(Instant::now() < deadline, "its life does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}
