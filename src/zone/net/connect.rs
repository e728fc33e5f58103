//! How a client comes to a connection: addresses in turn, TLS, a pause after failures.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::tls;

/// Most calls of one client at once.
const MAX_CALLS: usize = 256;

/// A client's times.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long connecting to one address may take, TLS included.
    pub connect: Duration,
    /// The pause after a first failure; it doubles with each further one...
    pub backoff: Duration,
    /// ... up to this. Of each pause, a random part between a half and all is made.
    pub max_backoff: Duration,
    /// A connection on which calls are in progress is asked for a sign of life this often...
    pub keepalive: Duration,
    /// ... and is cut if none comes in this time.
    pub keepalive_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(1),
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            keepalive: Duration::from_millis(750),
            keepalive_timeout: Duration::from_secs(1),
        }
    }
}

/// Whom a client wants to reach, and what it shows.
pub(super) struct Target {
    name: String,
    state: Mutex<State>,
}

struct State {
    addresses: Vec<String>,
    tls: Arc<ClientConfig>,
    failures: u32,
    not_before: Option<Instant>,
    connected: Option<Instant>,
}

impl Target {
    pub(super) fn new(name: String, addresses: Vec<String>, tls: ClientConfig) -> Target {
        let tls = Arc::new(tls);
        Target { name, state: Mutex::new(State { addresses, tls, failures: 0, not_before: None, connected: None }) }
    }

    pub(super) fn set_addresses(&self, addresses: Vec<String>) {
        let mut state = self.state.lock();
        if state.addresses != addresses {
            state.addresses = addresses;
            (state.failures, state.not_before) = (0, None);
        }
    }

    pub(super) fn set_tls(&self, tls: ClientConfig) {
        self.state.lock().tls = Arc::new(tls);
    }
}

/// Opens connections for a tonic channel, which asks for one whenever it has none.
#[derive(Clone)]
pub(super) struct Connector {
    target: Arc<Target>,
    timing: Timing,
}

impl Connector {
    pub(super) fn new(target: Arc<Target>, timing: Timing) -> Connector {
        Connector { target, timing }
    }

    /// A channel that connects when it is first used.
    pub(super) fn channel(self, handle: &Handle) -> Channel {
        let _entered = handle.enter();
        // The address says nothing: the connector knows better.
        Endpoint::from_static("http://zone.nexus")
            .http2_keep_alive_interval(self.timing.keepalive)
            .keep_alive_timeout(self.timing.keepalive_timeout)
            // Connections of zones in which nothing happens cost nothing.
            .keep_alive_while_idle(false)
            .concurrency_limit(MAX_CALLS)
            .buffer_size(MAX_CALLS)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .http2_max_header_list_size(16 << 10)
            .connect_with_connector_lazy(self)
    }

    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let (addresses, config) = {
            let mut state = self.target.state.lock();
            let now = Instant::now();
            // A connection that broke at once, most likely because the peer refused it, is one
            // that failed.
            match state.connected.take() {
                Some(at) if now.duration_since(at) < self.timing.max_backoff => self.failed(&mut state),
                Some(_) => (state.failures, state.not_before) = (0, None),
                None => {}
            }
            if let Some(pause) = state.not_before.and_then(|at| at.checked_duration_since(now)) {
                return Err(io::Error::other(format!("it failed before; the next attempt is in {pause:?}")));
            }
            (state.addresses.clone(), Arc::clone(&state.tls))
        };
        let mut failures = Vec::new();
        for address in &addresses {
            match tokio::time::timeout(self.timing.connect, self.attempt(address, &config)).await {
                Ok(Ok(stream)) => {
                    self.target.state.lock().connected = Some(Instant::now());
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => failures.push(format!("{address}: {error}")),
                Err(_) => failures.push(format!("{address}: no answer in {:?}", self.timing.connect)),
            }
        }
        self.failed(&mut self.target.state.lock());
        match failures.is_empty() {
            true => Err(io::Error::other("no address of it is known")),
            false => Err(io::Error::other(failures.join("; "))),
        }
    }

    fn failed(&self, state: &mut State) {
        let most = self.timing.backoff.saturating_mul(1 << state.failures.min(16)).min(self.timing.max_backoff);
        // Half of the pause, and a random part of the other half.
        let random = RandomState::new().hash_one(state.failures) % 1024;
        let pause = most / 2 + (most / 2).mul_f64(random as f64 / 1024.0);
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(Instant::now() + pause);
    }

    async fn attempt(&self, address: &str, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = tls::server_name(&self.target.name).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(config)).connect(name, tcp).await
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
