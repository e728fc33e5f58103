//! Small reads against a server of a few lines, which tells on how many connections it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use nexus_kernel::block_on;
use nexus_kernel::interrupt::Requests;
use nexus_kernel::object_store::ObjectStore;

use super::super::{CloudOptions, CloudStore, CredentialsFile};
use super::*;

/// Answers each request for `bytes=FIRST-LAST` with so many `x`.
struct Server {
    endpoint: String,
    connections: Arc<AtomicUsize>,
    /// It closes each connection after its answer, without a word.
    closes: Arc<AtomicBool>,
    /// Each connection that was closed.
    closed: Receiver<()>,
    /// It answers nothing.
    silent: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (connections, closes, silent) = <(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (told, closed) = channel();
        let server = Server { endpoint, connections, closes, closed, silent };
        let (connections, closes, silent) = (server.connections.clone(), server.closes.clone(), server.silent.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (closes, silent, told) = (closes.clone(), silent.clone(), told.clone());
                std::thread::spawn(move || serve(&stream.unwrap(), &closes, &silent, &told));
            }
        });
        server
    }

    fn store(&self) -> CloudStore {
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
        let options = CloudOptions {
            endpoint: Some(self.endpoint.clone()),
            region: Some("eu-west-1".to_owned()),
            credentials: Some(CredentialsFile { file: keys.path().to_owned(), profile: None }),
            ..Default::default()
        };
        let store = CloudStore::open(&"s3://b/p".parse().unwrap(), &options).unwrap();
        // The clients are made when they are first needed.
        let _ = keys.keep().unwrap();
        store
    }
}

fn serve(stream: &TcpStream, closes: &AtomicBool, silent: &AtomicBool, told: &Sender<()>) {
    let mut lines = BufReader::new(stream).lines();
    let mut range = None;
    while let Some(Ok(line)) = lines.next() {
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (first, last) = said.split_once('-').unwrap();
            range = Some((first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap()));
        }
        if !line.is_empty() || silent.load(Ordering::SeqCst) {
            continue;
        }
        let (first, last) = range.take().unwrap();
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\netag: \"e\"\r\nlast-modified: Fri, 01 Jan 2021 00:00:00 GMT\r\n\
             content-range: bytes {first}-{last}/{}\r\ncontent-length: {}\r\n\r\n",
            1 << 20,
            last + 1 - first
        );
        let mut out = stream;
        out.write_all((head + &"x".repeat(last + 1 - first)).as_bytes()).unwrap();
        if closes.load(Ordering::SeqCst) {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = told.send(());
}

#[test]
fn small_reads_keep_a_connection_and_large_ones_go_the_other_way() {
    let server = Server::start();
    let store = server.store();
    for at in 0..5 {
        let got = block_on(store.get(BlobId(1), at * 4096..(at + 1) * 4096)).unwrap();
        assert_eq!(got.len(), 4096);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert_eq!(store.inline.as_ref().unwrap().clients.lock().made, 1);
    assert_eq!(block_on(store.get(BlobId(1), 0..MOST_BYTES + 1)).unwrap().len() as u64, MOST_BYTES + 1);
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    let traffic = store.traffic().unwrap();
    assert_eq!((traffic.gets, traffic.bytes_down, traffic.failed_tries), (6, 5 * 4096 + MOST_BYTES + 1, 0));
}

/// A service closes a connection that was not used for long; that is no failure of a request.
#[test]
fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let server = Server::start();
    let store = server.store();
    server.closes.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(block_on(store.get(BlobId(1), 0..4096)).unwrap().len(), 4096);
        server.closed.recv().unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 5);
    assert_eq!(store.traffic().unwrap().failed_tries, 0);
}

#[test]
fn who_is_killed_does_not_wait_and_others_find_a_client() {
    let server = Server::start();
    let store = server.store();
    server.silent.store(true, Ordering::SeqCst);
    {
        let requests = Requests::default();
        // Whoever made it is gone.
        let _at = requests.enter(3, u32::MAX / 2);
        requests.interrupt(3);
        assert_eq!(block_on(store.get(BlobId(1), 0..4096)), Err(Error::Interrupted));
    }
    server.silent.store(false, Ordering::SeqCst);
    assert_eq!(block_on(store.get(BlobId(1), 0..4096)).unwrap().len(), 4096);
}
