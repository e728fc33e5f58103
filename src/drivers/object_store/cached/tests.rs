//! The cache over a store in memory that counts, fails and lies when told to.

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::{LocalFile, Memory, run};
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};

use super::*;
use crate::object_store::MemoryStore;

#[derive(Default)]
struct Remote {
    memory: MemoryStore,
    gets: AtomicU64,
    got_bytes: AtomicU64,
    is_fine: bool,
    /// Answers begin at a page in memory.
    is_aligned: bool,
    away: AtomicBool,
    /// Requests that fetch ahead are not answered.
    ahead_is_stuck: AtomicBool,
    stuck: AtomicU64,
}

impl Remote {
    fn answer<T: Send + 'static>(&self, answer: BoxFuture<'_, Result<T>>) -> BoxFuture<'_, Result<T>> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(ready(Err(Error::Unavailable("away".into()))));
        }
        Box::pin(ready(block_on(answer)))
    }
}

impl ObjectStore for Remote {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        self.answer(self.memory.put(id, source))
    }
    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.got_bytes.fetch_add(range.end - range.start, Ordering::SeqCst);
        let is_ahead = std::thread::current().name().is_some_and(|name| name.starts_with("nexus-ahead"));
        if is_ahead && self.ahead_is_stuck.load(Ordering::SeqCst) {
            self.stuck.fetch_add(1, Ordering::SeqCst);
            while self.ahead_is_stuck.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        let got = self.answer(self.memory.get(id, range));
        if !self.is_aligned {
            return got;
        }
        Box::pin(async move {
            let bytes = got.await?;
            let mut all: Vec<u8> = Vec::with_capacity(bytes.len() + keep::ALIGN);
            all.resize(all.as_ptr().align_offset(keep::ALIGN), 0);
            let skip = all.len();
            all.extend_from_slice(&bytes);
            Ok(Bytes::from(all).slice(skip..))
        })
    }
    fn grain(&self) -> u64 {
        if self.is_fine { 4096 } else { FRAME }
    }
    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.answer(self.memory.head(id))
    }
    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.answer(self.memory.delete(id))
    }
    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.answer(self.memory.list(after, limit))
    }
}

const PLENTY: CacheLimits = CacheLimits { bytes: 1 << 30, keep_free: 0 };

fn bytes(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(seed | 1) >> 5) as u8).collect()
}

fn put(store: &dyn ObjectStore, id: u64, len: u64) -> Vec<u8> {
    let content = bytes(len, id);
    block_on(store.put(BlobId(id), &mut Memory::new(content.clone()))).unwrap();
    content
}

fn get(store: &dyn ObjectStore, id: u64, range: Range<u64>) -> Result<Bytes> {
    block_on(store.get(BlobId(id), range))
}

/// Waits until nothing is on its way.
fn settle(store: &CachedStore) {
    while !store.0.state.lock().is_settled() {
        std::thread::yield_now();
    }
}

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = CachedStore::open(Arc::new(MemoryStore::new()), &folder.path().join("cache"), PLENTY).unwrap();
    run(&store, folder.path());
}

#[test]
fn what_was_read_once_is_read_again_while_the_store_is_away_and_after_a_restart() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let content = put(&*remote, 7, 10 * FRAME + 100);
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    for range in [3 * FRAME..4 * FRAME, 10 * FRAME..10 * FRAME + 100] {
        assert_eq!(get(&store, 7, range.clone()).unwrap(), content[range.start as usize..range.end as usize]);
    }
    remote.away.store(true, Ordering::SeqCst);
    assert_eq!(get(&store, 7, 3 * FRAME + 5..3 * FRAME + 9).unwrap(), content[(3 * FRAME + 5) as usize..][..4]);
    assert!(matches!(get(&store, 7, 0..10), Err(Error::Unavailable(_))));
    drop(store);
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    let end = 10 * FRAME;
    assert_eq!(get(&store, 7, end..end + 100).unwrap(), content[end as usize..]);
    assert!(matches!(get(&store, 7, 5 * FRAME..5 * FRAME + 1), Err(Error::Unavailable(_))));
    remote.away.store(false, Ordering::SeqCst);
    assert_eq!(get(&store, 7, 0..end).unwrap(), content[..end as usize]);
}

#[test]
fn what_is_wrong_in_the_cache_is_fetched_anew() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let content = put(&*remote, 7, 3 * FRAME);
    let store = CachedStore::open(remote, folder.path(), PLENTY).unwrap();
    assert_eq!(get(&store, 7, 0..3 * FRAME).unwrap(), content);
    settle(&store);
    let path = folder.path().join(format!("{:016x}", 7));
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"rubbish", FRAME + 3).unwrap();
    assert_ne!(get(&store, 7, 0..3 * FRAME).unwrap(), content);
    store.distrust(BlobId(7), FRAME..2 * FRAME);
    assert_eq!(get(&store, 7, 0..3 * FRAME).unwrap(), content);
}

#[test]
fn it_stays_within_its_limit_and_throws_out_what_is_not_used() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let limits = CacheLimits { bytes: 8 * FRAME, keep_free: 0 };
    let contents: Vec<_> = (1..=4).map(|id| put(&*remote, id, 3 * FRAME)).collect();
    let store = CachedStore::open(remote.clone(), folder.path(), limits).unwrap();
    for id in [1, 2, 1, 3, 1, 4] {
        assert_eq!(get(&store, id, 0..3 * FRAME).unwrap(), contents[id as usize - 1]);
        assert!(store.0.state.lock().bytes <= limits.bytes);
    }
    let before = remote.gets.load(Ordering::SeqCst);
    get(&store, 1, 0..FRAME).unwrap();
    assert_eq!(remote.gets.load(Ordering::SeqCst), before, "what was used all the time is still there");
    get(&store, 2, 0..FRAME).unwrap();
    assert_eq!(remote.gets.load(Ordering::SeqCst), before + 1);
    // A blob larger than the cache is read all the same.
    let large = put(&*remote, 9, 20 * FRAME);
    assert_eq!(get(&store, 9, 0..20 * FRAME).unwrap(), large);
    let files: u64 = fs::read_dir(folder.path()).unwrap().count() as u64;
    assert!(files <= 3, "{files} files");
}

#[test]
fn a_file_that_goes_up_stays_as_cache() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let store = CachedStore::open(remote.clone(), &folder.path().join("cache"), PLENTY).unwrap();
    let (path, content) = (folder.path().join("segment"), bytes(5 * FRAME, 3));
    fs::write(&path, &content).unwrap();
    block_on(store.put(BlobId(5), &mut LocalFile::new(&path))).unwrap();
    assert!(!path.exists());
    remote.away.store(true, Ordering::SeqCst);
    assert_eq!(get(&store, 5, 0..5 * FRAME).unwrap(), content);
    remote.away.store(false, Ordering::SeqCst);
    block_on(store.delete(BlobId(5))).unwrap();
    assert_eq!(get(&store, 5, 0..1), Err(Error::NotFound));
}

#[test]
fn reading_in_order_takes_few_requests_and_many_readers_share_them() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let total = 40_u64 << 20;
    let content = put(&*remote, 7, total);
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for frame in 0..total / FRAME {
                    let range = frame * FRAME..(frame + 1) * FRAME;
                    let got = get(&store, 7, range.clone()).unwrap();
                    assert_eq!(got, content[range.start as usize..range.end as usize]);
                }
            });
        }
    });
    let pieces = total / FRAME / PIECE;
    let gets = remote.gets.load(Ordering::SeqCst);
    // Four readers at slightly different places look less sequential than one.
    assert!(gets <= 16 * pieces, "{gets} requests");
    let alone = Arc::new(Remote::default());
    put(&*alone, 7, total);
    let store = CachedStore::open(alone.clone(), &folder.path().join("alone"), PLENTY).unwrap();
    for at in (0..total).step_by(4096) {
        get(&store, 7, at / FRAME * FRAME..(at / FRAME + 1) * FRAME).unwrap();
    }
    let gets = alone.gets.load(Ordering::SeqCst);
    assert!(gets <= 40, "{gets} requests for {total} bytes in order");
}

#[test]
fn a_reader_does_not_wait_for_what_nobody_has_begun_to_fetch() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let last = FETCHERS as u64 + 1;
    let contents: Vec<_> = (1..=last).map(|id| put(&*remote, id, 64 * FRAME)).collect();
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    remote.ahead_is_stuck.store(true, Ordering::SeqCst);
    for id in 1..last {
        get(&store, id, 0..FRAME).unwrap();
        get(&store, id, FRAME..2 * FRAME).unwrap();
        while remote.stuck.load(Ordering::SeqCst) < id {
            std::thread::yield_now();
        }
    }
    for frame in 0..64 {
        let range = frame * FRAME..(frame + 1) * FRAME;
        let got = get(&store, last, range.clone()).unwrap();
        assert_eq!(got, contents[last as usize - 1][range.start as usize..range.end as usize]);
    }
    remote.ahead_is_stuck.store(false, Ordering::SeqCst);
}

#[test]
fn a_fetch_that_ends_after_its_blob_was_thrown_out_counts_for_nothing() {
    let remote = Arc::new(Remote::default());
    let dir = tempfile::tempdir().unwrap();
    let cache = CachedStore::open(remote.clone(), dir.path(), PLENTY).unwrap();
    let (id, content) = (BlobId::new(1, 1), bytes(10 * FRAME, 3));
    block_on(remote.put(id, &mut Memory::new(content.clone()))).unwrap();
    block_on(cache.get(id, 0..10)).unwrap();
    let life = cache.0.state.lock().blobs[&id].life;
    cache.0.forget(id);
    block_on(cache.get(id, 0..10)).unwrap();
    let units = 7..8;
    let fetch = Fetch { id, life, len: 10 * FRAME, units: &units, ahead: false, reserved: false, read: FRAME };
    cache.0.fetch(&fetch).unwrap();
    settle(&cache);
    assert_eq!((cache.cached(id, 0..10 * FRAME), cache.0.state.lock().memory), (FRAME, FRAME));
    let read = block_on(cache.get(id, 7 * FRAME..8 * FRAME)).unwrap();
    assert!(read == content[7 * FRAME as usize..8 * FRAME as usize]);
}

#[test]
fn of_a_fine_store_a_read_that_stands_alone_fetches_no_more_than_its_pages() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote { is_fine: true, ..Remote::default() }));
    let content = put(&*remote, 7, 20 * FRAME + 100);
    let fetched = |store: &CachedStore, at: u64, len: u64| {
        let before = (remote.gets.load(Ordering::SeqCst), remote.got_bytes.load(Ordering::SeqCst));
        assert_eq!(get(store, 7, at..at + len).unwrap(), content[at as usize..(at + len) as usize]);
        (remote.gets.load(Ordering::SeqCst) - before.0, remote.got_bytes.load(Ordering::SeqCst) - before.1)
    };
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    assert_eq!(fetched(&store, 5 * FRAME + 4100, 10), (1, 4096));
    assert_eq!(fetched(&store, 5 * FRAME + 4096, 4096), (0, 0));
    assert_eq!(fetched(&store, 12 * FRAME + 4000, 200), (1, 8192));
    assert_eq!(store.cached(BlobId(7), 0..21 * FRAME), 3 * 4096);
    // What is there after a restart is what was there before.
    drop(store);
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    assert_eq!(store.cached(BlobId(7), 0..21 * FRAME), 3 * 4096);
    assert_eq!(fetched(&store, 5 * FRAME + 4096, 4096), (0, 0));
    // A second one nearby brings the frame, and so does a large one.
    assert_eq!(fetched(&store, 5 * FRAME + 50_000, 10), (1, FRAME));
    assert_eq!(fetched(&store, 5 * FRAME, FRAME), (0, 0));
    assert_eq!(fetched(&store, 8 * FRAME, FRAME), (1, FRAME));
    // The end of the blob, which is shorter than a page.
    assert_eq!(fetched(&store, 20 * FRAME + 10, 50), (1, 100));
    settle(&store);
    store.distrust(BlobId(7), 5 * FRAME + 4096..5 * FRAME + 8192);
    assert_eq!(store.cached(BlobId(7), 5 * FRAME..6 * FRAME), FRAME - 4096);
    assert_eq!(fetched(&store, 5 * FRAME, FRAME).0, 1);
    assert_eq!(store.evict(BlobId(7)), 2 * FRAME + 2 * 4096 + 100);
}

#[test]
fn what_came_is_read_from_memory_until_the_disk_has_it() {
    for is_aligned in [false, true] {
        let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote { is_aligned, ..Remote::default() }));
        let content = put(&*remote, 7, 40 * FRAME + 5000);
        let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
        let same = |store: &CachedStore, range: Range<u64>| {
            let mut out = vec![1; (range.end - range.start) as usize];
            block_on(store.read(BlobId(7), range.start, &mut out)).unwrap();
            assert_eq!(out, content[range.start as usize..range.end as usize], "{range:?}");
        };
        for range in [2 * FRAME + 10..5 * FRAME, 4 * FRAME..9 * FRAME + 1, 39 * FRAME..40 * FRAME + 5000] {
            same(&store, range);
        }
        let path = folder.path().join(format!("{:016x}", 7));
        assert_eq!(fs::metadata(&path).unwrap().len(), content.len() as u64);
        // What the threads had no time for is written at the end.
        drop(store);
        remote.away.store(true, Ordering::SeqCst);
        let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
        for range in [2 * FRAME..10 * FRAME, 39 * FRAME..40 * FRAME + 5000, 3 * FRAME + 1..3 * FRAME + 2] {
            same(&store, range);
        }
        assert_eq!(
            fs::read(&path).unwrap()[2 * FRAME as usize..10 * FRAME as usize],
            content[2 * FRAME as usize..10 * FRAME as usize]
        );
        assert_eq!(store.0.state.lock().memory, 0);
    }
}

#[test]
fn a_cache_of_many_blobs_has_few_files_open() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    let contents: Vec<_> = (1..=300).map(|id| put(&*remote, id, 1000)).collect();
    let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
    let read_all = |store: &CachedStore| {
        for (id, content) in (1..).zip(&contents) {
            assert_eq!(get(store, id, 0..1000).unwrap(), *content);
            let open = store.0.state.lock().blobs.values().filter(|cached| cached.file.is_some()).count();
            assert!(open <= 64, "{open} files are open");
        }
    };
    read_all(&store);
    settle(&store);
    remote.away.store(true, Ordering::SeqCst);
    read_all(&store);
    drop(store);
    read_all(&CachedStore::open(remote, folder.path(), PLENTY).unwrap());
}

#[test]
fn what_nobody_comes_for_does_not_stay_in_memory() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Remote::default()));
    put(&*remote, 7, 64 * FRAME);
    let store = CachedStore::open(remote, folder.path(), PLENTY).unwrap();
    assert!(store.want(BlobId(7), 64 * FRAME, 0..64 * FRAME));
    while store.0.state.lock().memory > 0 {
        std::thread::yield_now();
    }
    settle(&store);
    assert_eq!(store.cached(BlobId(7), 0..64 * FRAME), 64 * FRAME);
}
