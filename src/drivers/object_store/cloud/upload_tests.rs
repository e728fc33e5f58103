//! Uploads to a store that tells what it was asked for, and fails when told to.

use std::future::{poll_fn, ready};
use std::sync::atomic::AtomicUsize;
use std::task::Poll;

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::Memory;
use object_store::memory::InMemory;
use object_store::{PutResult, UploadPart};
use parking_lot::Mutex;

use super::super::super::transfer::TRANSFER_BYTES;
use super::*;

/// Parts that uploads may have in memory at once.
const PARTS: usize = (TRANSFER_BYTES - TRANSFER_BYTES / 4) as usize / PART;

/// What happened to an upload, in order.
#[derive(Debug, Default)]
struct Log {
    events: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Log {
    fn note(&self, event: impl Into<String>) {
        self.events.lock().push(event.into());
    }
}

#[derive(Debug)]
struct Fake {
    log: Arc<Log>,
    parts: usize,
    fails_at: Option<usize>,
    completes: bool,
    /// A part ends only once two were under way at the same time.
    meets: bool,
}

fn failure() -> object_store::Error {
    object_store::Error::Generic { store: "fake", source: "told to".into() }
}

/// Lets others run for a while.
async fn dawdle(rounds: usize) {
    let mut left = rounds;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl MultipartUpload for Fake {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        let (log, part, fails) = (self.log.clone(), self.parts, self.fails_at == Some(self.parts));
        self.parts += 1;
        let now = log.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        log.most.fetch_max(now, Ordering::SeqCst);
        let meets = self.meets;
        Box::pin(async move {
            // Whoever sends may be kept from it for longer than any number of rounds.
            while meets && log.most.load(Ordering::SeqCst) < 2 {
                dawdle(1).await;
            }
            dawdle(if fails { 1 } else { 2_000 }).await;
            log.note(format!("part {part}"));
            log.under_way.fetch_sub(1, Ordering::SeqCst);
            if fails { Err(failure()) } else { Ok(()) }
        })
    }

    fn complete<'a, 'f>(&'a mut self) -> BoxFuture<'f, object_store::Result<PutResult>>
    where
        'a: 'f,
        Self: 'f,
    {
        self.log.note("complete");
        let put = PutResult { e_tag: None, version: None, extensions: Default::default() };
        Box::pin(ready(if self.completes { Ok(put) } else { Err(failure()) }))
    }

    fn abort<'a, 'f>(&'a mut self) -> BoxFuture<'f, object_store::Result<()>>
    where
        'a: 'f,
        Self: 'f,
    {
        self.log.note(format!("abort with {} under way", self.log.under_way.load(Ordering::SeqCst)));
        Box::pin(ready(Ok(())))
    }
}

fn store() -> CloudStore {
    CloudStore::over(Arc::new(InMemory::new()), "memory".into(), String::new()).unwrap()
}

fn put(store: &CloudStore, log: &Arc<Log>, parts: usize, fails_at: Option<usize>, completes: bool) -> Result<()> {
    put_by(store, parts, Fake { log: log.clone(), parts: 0, fails_at, completes, meets: false })
}

fn put_by(store: &CloudStore, parts: usize, upload: Fake) -> Result<()> {
    block_on(put_begun(store, BlobId::new(1, 1), &mut Memory::new(vec![7; parts * PART]), Box::new(upload)))
}

#[test]
fn a_part_that_fails_aborts_once_the_late_ones_have_come() {
    for fails_at in [1, PARTS + 1] {
        let log = Arc::new(Log::default());
        assert!(put(&store(), &log, PARTS + 2, Some(fails_at), true).is_err());
        let events = log.events.lock();
        assert_eq!(events.last().unwrap(), "abort with 0 under way", "{events:?}");
        assert!(events.iter().all(|event| event != "complete"), "{events:?}");
    }
}

#[test]
fn a_completion_that_fails_aborts() {
    let log = Arc::new(Log::default());
    assert!(put(&store(), &log, 2, None, false).is_err());
    let events = log.events.lock();
    assert_eq!(events[events.len() - 2..], ["complete", "abort with 0 under way"]);
}

#[test]
fn all_uploads_to_a_store_share_the_room_for_parts() {
    let (store, log) = (store(), Arc::new(Log::default()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let upload = Fake { log: log.clone(), parts: 0, fails_at: None, completes: true, meets: true };
            let store = &store;
            scope.spawn(move || put_by(store, PARTS + 1, upload).unwrap());
        }
    });
    assert_eq!(log.events.lock().iter().filter(|event| *event == "complete").count(), 3);
    let most = log.most.load(Ordering::SeqCst);
    assert!((2..=PARTS).contains(&most), "{most} parts at once");
    assert_eq!(store.memory.held(), 0);
}

#[test]
fn an_upload_that_is_not_wanted_is_taken_back() {
    let store = store();
    let remote = store.remote.clone();
    block_on(store.spawn(async move {
        remote.objects.put(&remote.blob(BlobId::new(1, 1)), "there".into()).await.unwrap();
        Ok(())
    }))
    .unwrap();
    let begun = block_on(store.spawn(begin(store.remote.clone(), BlobId::new(1, 1))));
    assert_eq!(begun.err(), Some(Error::Exists));
}

/// A server that takes no body without a signature, or only such, and tells what it got.
fn picky(unsigned: bool, requests: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{Read, Write};
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    let told = std::thread::spawn(move || {
        let answer_one = |_| {
            let (mut stream, _) = server.accept().unwrap();
            let (mut text, mut part) = (String::new(), [0; 4096]);
            while !text.ends_with("the body") {
                let n = stream.read(&mut part).unwrap();
                text.push_str(std::str::from_utf8(&part[..n]).unwrap());
            }
            let text = text.to_ascii_lowercase();
            let is_unsigned = text.contains("x-amz-content-sha256: unsigned-payload");
            let is_summed = text.contains("x-amz-checksum-crc64nvme: ");
            let status = if is_unsigned == unsigned { "200 OK" } else { "400 Bad Request" };
            let head = format!("HTTP/1.1 {status}\r\netag: \"e\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            format!("unsigned {is_unsigned} summed {is_summed}")
        };
        (0..requests).map(answer_one).collect()
    });
    (endpoint, told)
}

#[test]
fn bodies_go_with_a_checksum_and_are_signed_where_that_is_refused() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
    let credentials = Some(crate::object_store::CredentialsFile { file: keys.path().to_owned(), profile: None });
    let (light, signed) = ("unsigned true summed true", "unsigned false summed false");
    for (unsigned, expected) in [(true, vec![light, light]), (false, vec![light, signed, signed])] {
        let (endpoint, told) = picky(unsigned, expected.len());
        let options = super::super::CloudOptions {
            endpoint: Some(endpoint),
            region: Some("eu-west-1".to_owned()),
            credentials: credentials.clone(),
            ..Default::default()
        };
        let store = CloudStore::open(&"s3://b/p".parse().unwrap(), &options).unwrap();
        for id in 1..3 {
            let remote = store.remote.clone();
            let put = store.spawn(async move {
                let put = remote.put_new(&remote.blob(BlobId(id)), "the body".into()).await;
                put.map_err(|error| remote.failed(&error))
            });
            block_on(put).unwrap();
        }
        assert_eq!(told.join().unwrap(), expected);
    }
}
