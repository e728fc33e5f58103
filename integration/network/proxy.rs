//! A TCP proxy before the S3 server, which is the network between: it can be away, silent, slow, cut
//! answers short and change them; and it counts requests.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::requests::{Counter, Requests};
use crate::failure::Check;

/// Bytes passed on at a time.
const STEP: usize = 16 << 10;
/// How often a connection that passes nothing on looks at the weather.
const LOOK: Duration = Duration::from_millis(20);
/// Smallest piece of an answer that is changed: what is smaller tells of objects, and is not one.
const MIN_CHANGED: usize = 1024;

/// What the network is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// Nobody is there: connections are cut and refused.
    Away,
    /// Connections are taken, and nothing passes any more.
    Silent,
    /// So many bytes a second pass, in each direction of each connection.
    Slow(u64),
    /// A bit in each larger piece of an answer is not what it was.
    Wrong,
    /// Each connection is cut once so many bytes of answers have passed.
    Short(u64),
}

/// The proxy. Dropping it ends all connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    weather: Mutex<Weather>,
    requests: Mutex<Requests>,
    connections: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl Proxy {
    /// A proxy before `server`, on a port of its own.
    pub fn start(server: SocketAddr) -> Check<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            weather: Mutex::new(Weather::Fair),
            requests: Mutex::default(),
            connections: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || accepting.accept_all(&listener));
        Ok(Proxy { address, shared, thread: Some(thread) })
    }

    /// Where it listens, as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the weather for all connections, also those that are there.
    pub fn set(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
        if weather == Weather::Away {
            self.shared.cut_all();
        }
    }

    /// What came through so far.
    pub fn requests(&self) -> Requests {
        *lock(&self.shared.requests)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.cut_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept_all(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            if self.weather() == Weather::Away {
                let _ = client.shutdown(Shutdown::Both);
                continue;
            }
            let shared = self.clone();
            std::thread::spawn(move || {
                // A connection that fails is what the daemon has to live with.
                let _ = shared.connect(client);
            });
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.peer_addr().is_ok());
        connections.push(client.try_clone()?);
        connections.push(server.try_clone()?);
        drop(connections);
        let (to_server, from_client) = (server.try_clone()?, client.try_clone()?);
        let shared = self.clone();
        let asking = std::thread::spawn(move || {
            let mut counter = Counter::default();
            let _ = shared.pump(from_client, to_server, &mut |shared, bytes| {
                counter.feed(bytes, &mut lock(&shared.requests));
                true
            });
        });
        let mut answered = 0u64;
        let _ = self.pump(server, client, &mut |shared, bytes| {
            answered += bytes.len() as u64;
            match shared.weather() {
                Weather::Wrong if bytes.len() >= MIN_CHANGED => {
                    if let Some(byte) = bytes.last_mut() {
                        *byte ^= 0x10;
                    }
                    true
                }
                Weather::Short(most) => answered <= most,
                _ => true,
            }
        });
        let _ = asking.join();
        Ok(())
    }

    /// Passes bytes on until one side ends, or `see` says so; then cuts both.
    fn pump(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        see: &mut dyn FnMut(&Shared, &mut [u8]) -> bool,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; STEP];
        let result = loop {
            match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Err(error) => break Err(error),
                Ok(count) => {
                    let bytes = buffer.get_mut(..count).unwrap_or_default();
                    while self.weather() == Weather::Silent && !self.over.load(Ordering::SeqCst) {
                        std::thread::sleep(LOOK);
                    }
                    if let Weather::Slow(rate) = self.weather() {
                        std::thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate.max(1)));
                    }
                    if !see(self, bytes) {
                        break Ok(());
                    }
                    if let Err(error) = to.write_all(bytes) {
                        break Err(error);
                    }
                }
            }
        };
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        result
    }

    fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    fn cut_all(&self) {
        for connection in lock(&self.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every line with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = client.read(&mut buffer) {
                        client.write_all(&buffer[..count]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn ask(proxy: &Proxy, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(proxy.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(bytes)?;
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn the_weather_is_what_it_is_called() {
        let proxy = Proxy::start(echo()).unwrap();
        let bytes = vec![b'x'; 2000];
        assert_eq!(ask(&proxy, &bytes).unwrap(), bytes);
        proxy.set(Weather::Wrong);
        assert_ne!(ask(&proxy, &bytes).unwrap(), bytes);
        assert_eq!(ask(&proxy, b"short").unwrap(), b"short");
        proxy.set(Weather::Short(1000));
        assert!(ask(&proxy, &bytes).is_err());
        proxy.set(Weather::Away);
        assert!(ask(&proxy, b"x").is_err());
        proxy.set(Weather::Fair);
        assert_eq!(ask(&proxy, b"GET /b/k HTTP/1.1\r\n\r\n").unwrap().len(), 21);
        assert_eq!(proxy.requests().gets, 1);
    }
}
