//! One listener for all zones of a node: TLS with the zone that the client's hello names, then
//! HTTP/2, each request bound to the certificate of its connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nexus_kernel::{Clock, Error, Result};
use parking_lot::RwLock;
use rustls::{CertificateError, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;

use super::identity::{ZoneId, parse_dns_name};
use super::peer::{Caller, Guard, Peer};
use super::pki::{NodeIdentity, PeerCertificate, PkiError};
use super::refusals::{Reason, Refusals};
use super::service::Service;
use super::tls;
use crate::raft::MemberId;

/// What a server takes at once, and for how long. All bounds are of the whole node but for the
/// streams, which are a connection's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections, those in a handshake included.
    pub connections: usize,
    /// Of them without a certificate.
    pub strangers: usize,
    /// How long a connection without a certificate lasts.
    pub stranger_life: Duration,
    /// Requests that have no answer yet.
    pub requests: usize,
    /// Requests and streams of one connection.
    pub streams: u32,
    /// The same without a certificate.
    pub stranger_streams: u32,
    /// How long TLS may take.
    pub handshake: Duration,
    /// How long an answer may take, and the next chunk of a snapshot or a blob.
    pub answer: Duration,
    /// A quiet connection is asked for a sign of life this often...
    pub keepalive: Duration,
    /// ... and is cut if none comes in this time.
    pub keepalive_timeout: Duration,
    /// How long requests in progress may take when the server shuts down.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            strangers: 64,
            stranger_life: Duration::from_secs(60),
            requests: 1024,
            streams: 128,
            stranger_streams: 4,
            handshake: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(5),
            shutdown: Duration::from_secs(2),
        }
    }
}

/// Part of a certificate's time that a connection lasts, and the shortest and longest that it does.
const LIFE_PART: f64 = 5.0 / 6.0;
const LIFE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));

/// The zones that a node serves, each with the identity that it shows there. They come, go and
/// are renewed while the server runs.
#[derive(Default)]
pub struct Zones(RwLock<HashMap<ZoneId, ZoneTls>>);

#[derive(Clone)]
struct ZoneTls {
    member: MemberId,
    config: Arc<ServerConfig>,
}

impl Zones {
    /// Serves a zone from now on, or shows new connections another certificate. Fails if the
    /// identity is of no use for TLS.
    pub fn put(&self, identity: &NodeIdentity, clock: &Arc<dyn Clock>) -> std::result::Result<(), PkiError> {
        let config = tls::server(identity, clock).map_err(|error| PkiError::Certificate(error.to_string()))?;
        let member = identity.certificate().member;
        self.0.write().insert(identity.certificate().zone, ZoneTls { member, config: Arc::new(config) });
        Ok(())
    }

    /// Serves a zone no more: new connections and requests on old ones are refused.
    pub fn remove(&self, zone: ZoneId) {
        self.0.write().remove(&zone);
    }

    pub(super) fn contains(&self, zone: ZoneId) -> bool {
        self.0.read().contains_key(&zone)
    }

    /// What to show a client whose hello names this.
    fn find(&self, name: &str) -> Option<(ZoneId, ZoneTls)> {
        let (zone, member) = parse_dns_name(name)?;
        let found = self.0.read().get(&zone).cloned()?;
        // Another member was at this address before.
        member.is_none_or(|member| member == found.member).then_some((zone, found))
    }
}

/// What a server is made of.
pub struct ServerParts {
    /// Answers.
    pub peer: Arc<dyn Peer>,
    /// Says whose certificates still count.
    pub guard: Arc<dyn Guard>,
    /// The zones.
    pub zones: Arc<Zones>,
    /// For the validity of certificates.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: Limits,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) parts: ServerParts,
    pub(super) refusals: Arc<Refusals>,
    pub(super) requests: Semaphore,
}

/// A connection after its handshake.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) remote: SocketAddr,
    pub(super) zone: ZoneId,
    /// Who it is, and the last second of its certificate. None is a stranger.
    pub(super) caller: Option<(Caller, i64)>,
}

/// A server that runs. Dropping it ends it, without waiting.
pub struct Server {
    address: SocketAddr,
    refusals: Arc<Refusals>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves what comes to `listener`, on the runtime of `handle`, which must have its I/O and
    /// its timers enabled. Fails if the listener cannot be used there.
    pub fn start(listener: std::net::TcpListener, handle: &Handle, parts: ServerParts) -> Result<Server> {
        let failed = |error| Error::from_io("cannot listen for other nodes", &error);
        listener.set_nonblocking(true).map_err(failed)?;
        let _entered = handle.enter();
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let refusals = Arc::<Refusals>::default();
        let requests = Semaphore::new(parts.limits.requests);
        let shared = Arc::new(Shared { parts, refusals: Arc::clone(&refusals), requests });
        let task = Some(handle.spawn(accept(listener, shared, stopped)));
        Ok(Server { address, refusals, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has refused so far.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Takes nothing more, and waits for the requests in progress up to [`Limits::shutdown`].
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It fails only if the runtime ended it first.
            let _ended = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Takes connections until it is told to stop.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let limits = &shared.parts.limits;
    let connections = Arc::new(Semaphore::new(limits.connections));
    let strangers = Arc::new(Semaphore::new(limits.strangers));
    let mut tasks = JoinSet::new();
    loop {
        let (tcp, remote) = tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = tasks.join_next() => continue,
            taken = listener.accept() => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    log::warn!("cannot take a connection: {error}");
                    // Out of descriptors, most likely: let some be closed.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        match Arc::clone(&connections).try_acquire_owned() {
            Ok(permit) => {
                let run = run(tcp, remote, Arc::clone(&shared), Arc::clone(&strangers), stopped.clone(), permit);
                tasks.spawn(run);
            }
            Err(_) => shared.refusals.note(Reason::TooManyConnections, remote, "all are taken"),
        }
    }
    drop(listener);
    let _all_ended = tokio::time::timeout(limits.shutdown, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
}

/// One connection, from its handshake to its end.
async fn run(
    tcp: TcpStream,
    remote: SocketAddr,
    shared: Arc<Shared>,
    strangers: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let limits = shared.parts.limits.clone();
    let shaken = tokio::select! {
        _ = stopped.changed() => return,
        shaken = tokio::time::timeout(limits.handshake, handshake(tcp, remote, &shared)) => shaken,
    };
    let (stream, connection) = match shaken {
        Ok(Ok(done)) => done,
        Ok(Err((reason, text))) => return shared.refusals.note(reason, remote, text),
        Err(_) => return shared.refusals.note(Reason::Handshake, remote, "it took too long"),
    };
    let is_stranger = connection.caller.is_none();
    let _place = match is_stranger.then(|| strangers.try_acquire_owned()).transpose() {
        Ok(place) => place,
        Err(_) => return shared.refusals.note(Reason::TooManyConnections, remote, "too many have no certificate"),
    };
    let life = connection.caller.as_ref().map_or(limits.stranger_life, |(_, not_after_s)| {
        member_life(not_after_s.saturating_sub(shared.parts.clock.now().sec))
    });
    let connection = Arc::new(connection);
    let service = service_fn(move |request| answer(Arc::clone(&connection), request));
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(if is_stranger { limits.stranger_streams } else { limits.streams })
        .initial_stream_window_size(if is_stranger { 64 << 10 } else { 1 << 20 })
        .initial_connection_window_size(if is_stranger { 128 << 10 } else { 4 << 20 })
        .max_header_list_size(16 << 10)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive_timeout);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // How a connection ends is of no interest: whoever had requests on it is told.
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = tokio::time::sleep(life) => if is_stranger { return },
        _ = stopped.changed() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ended = serving.await;
}

/// How long a member's connection lasts before it is to come anew, where its certificate is valid for
/// `left_s` seconds more: it has a new one by then, and no request of it meets the end of the old one.
fn member_life(left_s: i64) -> Duration {
    Duration::from_secs(u64::try_from(left_s).unwrap_or(0)).mul_f64(LIFE_PART).clamp(LIFE.0, LIFE.1)
}

/// TLS with the zone that the client names, and who the client is.
async fn handshake(
    tcp: TcpStream,
    remote: SocketAddr,
    shared: &Arc<Shared>,
) -> std::result::Result<(TlsStream<TcpStream>, Connection), (Reason, String)> {
    let failed = |error: std::io::Error| (classify(&error), error.to_string());
    tcp.set_nodelay(true).map_err(failed)?;
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await.map_err(failed)?;
    let name = hello.client_hello().server_name().map(str::to_owned);
    let name = name.ok_or((Reason::WrongName, "none given".to_owned()))?;
    let (zone, found) = shared.parts.zones.find(&name).ok_or((Reason::WrongName, name))?;
    let stream = hello.into_stream(found.config).await.map_err(failed)?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol().is_none() {
        return Err((Reason::Handshake, "the client does not ask for HTTP/2".into()));
    }
    let caller = match session.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(der) => {
            let certificate =
                PeerCertificate::parse(der).map_err(|error| (Reason::BadCertificate, error.to_string()))?;
            if certificate.zone != zone {
                return Err((Reason::BadCertificate, format!("it is of zone {}", certificate.zone)));
            }
            let caller =
                Caller { zone, member: certificate.member, certificate: certificate.fingerprint, key: certificate.key };
            Some((caller, certificate.not_after_s))
        }
    };
    Ok((stream, Connection { shared: Arc::clone(shared), remote, zone, caller }))
}

fn classify(error: &std::io::Error) -> Reason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Reason::Expired,
        Some(rustls::Error::InvalidCertificate(_)) => Reason::BadCertificate,
        _ => Reason::Handshake,
    }
}

/// One request: whether it may be made at all is decided before any of its body is read.
async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Body>, Infallible> {
    let Ok(_permit) = connection.shared.requests.try_acquire() else {
        return Ok(connection.refuse(Reason::Busy, "all requests that it takes are in progress").into_http());
    };
    Ok(Service::new(Arc::clone(&connection)).call(request).await)
}
