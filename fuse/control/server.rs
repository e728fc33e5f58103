//! The daemon's side: a thread that takes connections, and one for each of a bounded number
//! of them.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::protocol::{
    MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Reply, ReplyLine, Request, RequestLine, VERSION, VersionOnly,
};
use super::socket;

/// Connections that are served at once; more are turned away.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does what clients ask for. Called from several threads at once.
pub trait Handler: Send + Sync {
    /// Answers, or says in a sentence why not.
    fn handle(&self, request: Request) -> Result<Reply, String>;
}

/// A listening socket. Dropping it removes the socket and waits for the accepting thread;
/// connections that are being served end by themselves.
pub struct Server {
    path: PathBuf,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, replacing a socket that a dead daemon left.
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let listener = socket::listen(path)?;
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &stopped, &handler))?;
        Ok(Server { path: path.to_owned(), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts until the other end of `stopped` is closed.
fn accept_all(listener: &UnixListener, stopped: &PipeReader, handler: &Arc<dyn Handler>) {
    let serving = Arc::new(AtomicUsize::new(0));
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("the control socket cannot wait for connections: {error}");
                return;
            }
        }
        let [listening, stopping] = waiting;
        if !stopping.revents().is_empty() {
            return;
        }
        if listening.revents().is_empty() {
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("the control socket cannot accept: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if serving.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            serving.fetch_sub(1, Ordering::AcqRel);
            let _ = answer(&stream, Err("too many requests at once: try again".to_owned()));
            continue;
        }
        let guard = Serving(serving.clone());
        let handler = handler.clone();
        let spawned = std::thread::Builder::new().name("control-request".to_owned()).spawn(move || {
            if let Err(error) = serve(&stream, handler.as_ref()) {
                log::debug!("a control connection failed: {error}");
            }
            drop(guard);
        });
        if let Err(error) = spawned {
            log::warn!("the control socket cannot start a thread: {error}");
        }
    }
}

/// Counts a connection for as long as it is served.
struct Serving(Arc<AtomicUsize>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(stream: &UnixStream, handler: &dyn Handler) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match socket::read_line(stream, MAX_REQUEST_BYTES) {
        Ok(None) => Ok(()),
        Ok(Some(line)) => answer(stream, parse(&line).and_then(|request| handler.handle(request))),
        Err(error) => answer(stream, Err(error.to_string())),
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    let bad = |error: serde_json::Error| format!("this is no request: {error}");
    let VersionOnly { version } = serde_json::from_slice(line).map_err(bad)?;
    if version != VERSION {
        return Err(format!(
            "the daemon speaks version {VERSION} of the control protocol, the command line version {version}: use the same nexus-fuse for both"
        ));
    }
    serde_json::from_slice::<RequestLine>(line).map(|line| line.request).map_err(bad)
}

fn answer(mut stream: &UnixStream, answer: Result<Reply, String>) -> io::Result<()> {
    let line = match answer {
        Ok(reply) => ReplyLine { version: VERSION, reply: Some(reply), error: None },
        Err(error) => ReplyLine { version: VERSION, reply: None, error: Some(error) },
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    if bytes.len() as u64 > MAX_REPLY_BYTES {
        bytes = format!("{{\"version\":{VERSION},\"error\":\"the answer is too long\"}}\n").into_bytes();
    }
    stream.write_all(&bytes)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
