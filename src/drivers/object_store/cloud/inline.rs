//! Small reads that somebody waits for are asked for on the thread that waits: to wake a thread of the store
//! for a request and to be woken by it takes as long as a service nearby takes to answer.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::interrupt::is_given_up;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

use super::Remote;
use super::limits::Urgency;

/// Most bytes that are asked for so: others take longer than any thread to wake.
const MOST_BYTES: u64 = 64 << 10;
/// Clients for it, each with a connection of its own. Who meets none that is free asks as others do.
const CLIENTS: usize = 4;
/// How often who waits looks whether he is killed.
const LOOK: Duration = Duration::from_millis(100);

type MakeRemote = Box<dyn Fn() -> Result<Remote> + Send + Sync>;

/// Clients that run on the threads that use them.
pub struct Inline {
    make: MakeRemote,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    idle: Vec<Client>,
    made: usize,
}

struct Client {
    remote: Arc<Remote>,
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
}

impl Inline {
    /// None yet; `make` connects one.
    pub fn new(make: MakeRemote) -> Inline {
        Inline { make, clients: Mutex::default() }
    }

    /// Bytes of a small range, or that nobody waits for them any more; `None` if this is not the way to ask.
    pub fn get(&self, id: BlobId, range: &Range<u64>) -> Option<Result<Bytes>> {
        // A thread of a runtime must not wait.
        if range.end.saturating_sub(range.start) > MOST_BYTES || Handle::try_current().is_ok() {
            return None;
        }
        let client = self.client()?;
        let got = client.runtime.as_ref().map(|runtime| {
            let asked = async {
                // Nobody looked at the connection meanwhile: that the service has closed it is seen first.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                client.remote.get(id, range.clone(), Urgency::Demand).await
            };
            runtime.block_on(unless_given_up(asked)).unwrap_or(Err(Error::Interrupted))
        });
        self.clients.lock().idle.push(client);
        got
    }

    /// One that is free. The one used last comes first, as its connection is the least likely to be closed.
    fn client(&self) -> Option<Client> {
        {
            let mut clients = self.clients.lock();
            match clients.idle.pop() {
                None if clients.made < CLIENTS => clients.made += 1,
                idle => return idle,
            }
        }
        let made = (self.make)().and_then(|remote| {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::from_io("cannot start a client of the store", &error))?;
            Ok(Client { remote: Arc::new(remote), runtime: Some(runtime) })
        });
        made.inspect_err(|error| {
            log::debug!("{error}");
            self.clients.lock().made -= 1;
        })
        .ok()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for a future, or until whoever made this thread's request gives up: then `None`.
async fn unless_given_up<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        let mut look = pin!(tokio::time::sleep(LOOK));
        let ended = std::future::poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            look.as_mut().poll(context).map(|()| None)
        });
        match ended.await {
            Some(value) => return Some(value),
            None if is_given_up() => return None,
            None => {}
        }
    }
}

#[cfg(test)]
#[path = "inline_tests.rs"]
mod tests;
