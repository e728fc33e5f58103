//! The store over the client library's own memory, which answers as a bucket does.

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::{Memory, run};
use object_store::memory::InMemory;

use super::*;

fn claimed(objects: &Arc<InMemory>, folder: &std::path::Path, volume: &str) -> Result<CloudStore> {
    static WORDS: AtomicU64 = AtomicU64::new(0);
    let mut store = CloudStore::over(objects.clone(), "memory".into(), "some/prefix".into())?;
    let word = format!("w{}", WORDS.fetch_add(1, Ordering::Relaxed));
    store.claim(Claimant { volume: volume.into(), word, file: folder.join("store") })?;
    Ok(store)
}

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    run(&claimed(&Arc::default(), folder.path(), "v").unwrap(), folder.path());
}

fn at(url: &str, folder: &std::path::Path, volume: &str, word: &str) -> Result<CloudStore> {
    let mut store = CloudStore::open(&url.parse().unwrap(), &CloudOptions::default())?;
    store.claim(Claimant { volume: volume.into(), word: word.into(), file: folder.join("claim") })?;
    Ok(store)
}

#[test]
fn folders_and_memory_conform() {
    let scratch = tempfile::tempdir().unwrap();
    for url in [format!("file://{}/a folder", scratch.path().display()), "memory://".to_owned()] {
        std::fs::create_dir_all(scratch.path().join("a folder")).unwrap();
        let claims = tempfile::tempdir().unwrap();
        let store = at(&url, claims.path(), "v", "w").unwrap();
        run(&store, scratch.path());
        // Given away only once it is empty.
        let id = BlobId::new(1, 99);
        block_on(store.put(id, &mut Memory::new("content"))).unwrap();
        assert_eq!(block_on(store.release()), Err(Error::Conflict), "{url}");
        for blob in block_on(store.list(BlobId::NONE, 1000)).unwrap() {
            block_on(store.delete(blob.id)).unwrap();
        }
        assert_eq!(block_on(store.release()), Ok(()));
        assert_eq!(store.owner(), Ok(None));
        assert!(block_on(store.put(id, &mut Memory::new("x"))).is_err(), "{url}: stored without a claim");
    }
    assert_eq!(std::fs::read_dir(scratch.path().join("a folder")).unwrap().count(), 0);
}

#[test]
fn a_folder_has_one_volume_and_one_daemon() {
    let (folder, one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", folder.path().display());
    let old = at(&url, one.path(), "v", "first").unwrap();
    let id = BlobId::new(1, 1);
    block_on(old.put(id, &mut Memory::new("content"))).unwrap();
    assert!(matches!(at(&url, two.path(), "other", "x"), Err(Error::Corrupt(text)) if text.contains("another volume")));
    std::fs::copy(one.path().join("claim"), two.path().join("claim")).unwrap();
    std::fs::write(folder.path().join("blobs/0000000000000001#1"), "half").unwrap();
    let copy = at(&url, two.path(), "v", "second").unwrap();
    assert!(!folder.path().join("blobs/0000000000000001#1").exists(), "half an upload stays");
    assert!(matches!(block_on(old.delete(id)), Err(Error::Unavailable(text)) if text.contains("taken over")));
    assert!(block_on(old.put(BlobId::new(1, 2), &mut Memory::new("more"))).is_err());
    // The disk goes, and an empty folder is in its place: nothing counts as deleted, nothing is stored.
    std::fs::rename(folder.path().join("NEXUS"), folder.path().join("elsewhere")).unwrap();
    std::fs::rename(folder.path().join("blobs"), folder.path().join("elsewhere.blobs")).unwrap();
    assert!(matches!(block_on(copy.get(id, 0..1)), Err(Error::Unavailable(_))));
    assert!(matches!(block_on(copy.put(BlobId::new(1, 3), &mut Memory::new("x"))), Err(Error::Unavailable(_))));
    std::fs::rename(folder.path().join("elsewhere"), folder.path().join("NEXUS")).unwrap();
    std::fs::rename(folder.path().join("elsewhere.blobs"), folder.path().join("blobs")).unwrap();
    assert_eq!(block_on(copy.get(id, 0..7)).unwrap(), "content");
}

#[test]
fn large_blobs_go_up_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let store = claimed(&Arc::default(), folder.path(), "v").unwrap();
    let bytes: Vec<u8> = (0..20_000_001_u32).map(|i| (i / 7) as u8).collect();
    let id = BlobId::new(3, 9);
    let before = store.traffic().unwrap();
    assert!(matches!(block_on(store.put(id, &mut Memory::failing(bytes.clone(), 15_000_000))), Err(Error::Io(_))));
    assert_eq!(block_on(store.head(id)), Err(Error::NotFound));
    block_on(store.put(id, &mut Memory::new(bytes.clone()))).unwrap();
    assert_eq!(block_on(store.get(id, 0..20_000_001)).unwrap(), bytes);
    assert_eq!(block_on(store.put(id, &mut Memory::new(bytes.clone()))), Err(Error::Exists));
    let after = store.traffic().unwrap();
    assert!(after.bytes_up - before.bytes_up >= 20_000_001 && after.puts - before.puts >= 5, "{after:?}");
}

#[test]
fn a_prefix_has_one_volume_and_one_daemon() {
    let (objects, one, two) = (Arc::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = claimed(&objects, one.path(), "v").unwrap();
    let id = BlobId::new(1, 1);
    block_on(old.put(id, &mut Memory::new("content"))).unwrap();
    assert!(
        matches!(claimed(&objects, two.path(), "other"), Err(Error::Corrupt(text)) if text.contains("another volume"))
    );
    // A copy of the data folder is opened; the first daemon still runs.
    std::fs::copy(one.path().join("store"), two.path().join("store")).unwrap();
    let copy = claimed(&objects, two.path(), "v").unwrap();
    assert!(matches!(block_on(old.delete(id)), Err(Error::Unavailable(text)) if text.contains("taken over")));
    assert!(block_on(old.put(BlobId::new(1, 2), &mut Memory::new("more"))).is_err());
    block_on(copy.put(BlobId::new(1, 3), &mut Memory::new("more"))).unwrap();
    // The folder that was left behind can't be opened any more.
    assert!(matches!(claimed(&objects, one.path(), "v"), Err(Error::Corrupt(text)) if text.contains("copy")));
    assert_eq!(block_on(copy.get(id, 0..7)).unwrap(), "content");
}

/// A store that did not answer when it was opened is claimed by the first change, of which there
/// may be several at once.
#[test]
fn changes_that_come_together_claim_once() {
    for round in 0..20 {
        let (objects, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
        let mut store = CloudStore::over(objects, "memory".into(), "some/prefix".into()).unwrap();
        let claimant = Claimant { volume: "v".into(), word: "w".into(), file: folder.path().join("store") };
        store.fence = Some(Fence::new(claimant));
        let put = |n| block_on(store.put(BlobId::new(1, n), &mut Memory::new("content")));
        let puts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || put(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(puts, vec![Ok(()); 8], "round {round}");
        assert_eq!(store.traffic().unwrap().puts, 9);
    }
}

#[test]
fn an_emptied_bucket_is_not_one_without_blobs() {
    let (objects, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
    let store = claimed(&objects, folder.path(), "v").unwrap();
    let id = BlobId::new(1, 1);
    assert_eq!(block_on(store.head(id)), Err(Error::NotFound));
    block_on(objects.delete(&Key::from("some/prefix/NEXUS"))).unwrap();
    assert!(matches!(block_on(store.head(id)), Err(Error::Unavailable(_))));
    assert!(matches!(block_on(store.get(id, 0..1)), Err(Error::Unavailable(_))));
}

#[test]
fn a_probe_tries_everything_and_leaves_nothing() {
    use futures_util::StreamExt;
    let objects = Arc::new(InMemory::new());
    let store = CloudStore::over(objects.clone(), "memory".into(), "some/prefix".into()).unwrap();
    let steps = store.probe("word");
    let what: Vec<_> = steps.iter().map(|step| (step.what, step.outcome.is_ok())).collect();
    let all =
        ["list", "store", "store only what is not there", "read a range", "store in parts", "read a large object"];
    let expected: Vec<_> = all.into_iter().chain(["delete"]).map(|what| (what, true)).collect();
    assert_eq!(what, expected, "{steps:?}");
    use object_store::ObjectStore as _;
    assert!(block_on(objects.list(None).next()).is_none(), "something is left");
}

#[test]
fn without_a_claim_nothing_is_changed() {
    let store = CloudStore::over(Arc::new(InMemory::new()), "memory".into(), String::new()).unwrap();
    assert_eq!(block_on(store.put(BlobId::new(1, 1), &mut Memory::new("x"))), Err(Error::ReadOnly));
    assert_eq!(block_on(store.delete(BlobId::new(1, 1))), Err(Error::ReadOnly));
}

/// What somebody waits for comes before all that is read ahead and was asked for earlier.
#[test]
fn demand_overtakes_what_is_read_ahead() {
    const LEN: u64 = 512 << 10;
    let (objects, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
    let id = BlobId::new(1, 1);
    block_on(claimed(&objects, folder.path(), "v").unwrap().put(id, &mut Memory::new(vec![7; LEN as usize]))).unwrap();
    let limits = StoreLimits { max_requests: Some(2), download: Some(2 << 20), upload: None };
    let limiter = Limiter::new(limits);
    let limited = Arc::new(Limited::new(objects, limiter.clone()));
    let store = CloudStore::over(limited, "memory".into(), "some/prefix".into()).unwrap();
    let (store, done) = (&store, &parking_lot::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                block_on(store.get_ahead(id, 0..LEN)).unwrap();
                done.lock().push("ahead");
            });
        }
        while limiter.waiting() < 4 {
            std::thread::yield_now();
        }
        block_on(store.get(id, 0..LEN)).unwrap();
        done.lock().push("demand");
    });
    assert_eq!(*done.lock(), ["demand", "ahead", "ahead", "ahead", "ahead"]);
}
