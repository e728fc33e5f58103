//! What reading ahead costs and saves: requests and bytes at the store, by how a blob is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::Memory;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed};

use super::state::AHEAD_BYTES;
use super::*;
use crate::object_store::MemoryStore;

/// A store in memory that counts, and holds requests back when told to.
#[derive(Default)]
struct Counting {
    memory: MemoryStore,
    gets: AtomicU64,
    bytes: AtomicU64,
    /// Requests that fetch ahead are not answered.
    held: AtomicBool,
    holding: AtomicU64,
}

impl ObjectStore for Counting {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        self.memory.put(id, source)
    }
    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(range.end - range.start, Ordering::SeqCst);
        self.memory.get(id, range)
    }
    fn get_ahead<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        if self.held.load(Ordering::SeqCst) {
            self.holding.fetch_add(1, Ordering::SeqCst);
            while self.held.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        self.get(id, range)
    }
    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.memory.head(id)
    }
    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.memory.delete(id)
    }
    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.memory.list(after, limit)
    }
}

const PLENTY: CacheLimits = CacheLimits { bytes: 1 << 30, keep_free: 0 };
const TOTAL: u64 = 40 << 20;

struct Bench {
    remote: Arc<Counting>,
    store: CachedStore,
    content: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A cache before so many blobs with the same content, from number 1 on.
    fn new(blobs: u64) -> Bench {
        let (folder, remote) = (tempfile::tempdir().unwrap(), Arc::new(Counting::default()));
        let content: Vec<u8> = (0..TOTAL).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect();
        for id in 1..=blobs {
            block_on(remote.put(BlobId(id), &mut Memory::new(content.clone()))).unwrap();
        }
        let store = CachedStore::open(remote.clone(), folder.path(), PLENTY).unwrap();
        Bench { remote, store, content, _folder: folder }
    }

    fn read(&self, blob: u64, range: Range<u64>) {
        let got = block_on(self.store.get(BlobId(blob), range.clone())).unwrap();
        assert_eq!(got, self.content[range.start as usize..range.end as usize]);
    }

    /// Waits until nothing is fetched ahead; answers requests and bytes so far.
    fn settled(&self) -> (u64, u64) {
        while !self.store.0.state.lock().is_settled() {
            std::thread::yield_now();
        }
        (self.remote.gets.load(Ordering::SeqCst), self.remote.bytes.load(Ordering::SeqCst))
    }
}

#[test]
fn forward_and_backward_take_few_requests_and_nothing_twice() {
    for backward in [false, true] {
        let bench = Bench::new(1);
        for number in 0..TOTAL / 4096 {
            let at = if backward { TOTAL - (number + 1) * 4096 } else { number * 4096 };
            bench.read(1, at..at + 4096);
        }
        let (gets, bytes) = bench.settled();
        assert!(gets <= 32, "{gets} requests, backward: {backward}");
        assert_eq!(bytes, TOTAL, "backward: {backward}");
    }
}

#[test]
fn two_readers_in_one_blob_are_both_served_ahead() {
    let bench = Bench::new(1);
    for at in (0..TOTAL / 2).step_by(4096) {
        bench.read(1, at..at + 4096);
        bench.read(1, TOTAL / 2 + at..TOTAL / 2 + at + 4096);
    }
    let (gets, bytes) = bench.settled();
    assert!(gets <= 56, "{gets} requests");
    // The first one's window ends where the second one was, of which the disk may have been too slow to keep all.
    assert!((TOTAL..TOTAL + (12 << 20)).contains(&bytes), "{bytes} bytes");
}

#[test]
fn steps_bring_what_is_read_and_nothing_between() {
    let bench = Bench::new(1);
    for at in (0..TOTAL).step_by(256 << 10) {
        bench.read(1, at..at + 4096);
    }
    let (gets, bytes) = bench.settled();
    assert_eq!((gets, bytes), (TOTAL / (256 << 10), TOTAL / 4));
}

#[test]
fn random_reads_bring_what_is_asked_for() {
    let bench = Bench::new(1);
    let (mut random, mut asked) = (1_u64, std::collections::HashSet::new());
    for _ in 0..300 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (random >> 33) % (TOTAL / 4096) * 4096;
        asked.insert(at / FRAME);
        bench.read(1, at..at + 4096);
    }
    let (gets, bytes) = bench.settled();
    assert_eq!((gets, bytes), (asked.len() as u64, asked.len() as u64 * FRAME));
}

#[test]
fn a_reader_goes_on_in_the_next_blob_as_fast_as_it_was() {
    let bench = Bench::new(2);
    for at in (0..TOTAL).step_by(1 << 20) {
        bench.read(1, at..at + (1 << 20));
    }
    let before = bench.settled().1;
    bench.read(2, 0..4096);
    let ahead = bench.settled().1 - before;
    assert!(ahead > 8 << 20, "{ahead} bytes ahead");
}

#[test]
fn what_is_there_is_not_fetched_again_with_the_gaps_around_it() {
    let bench = Bench::new(1);
    bench.read(1, 4 * FRAME..12 * FRAME);
    bench.read(1, 2 * FRAME..16 * FRAME);
    assert_eq!(bench.settled(), (3, 14 * FRAME));
}

#[test]
fn many_readers_share_one_limit_of_memory() {
    let blobs = 6;
    let bench = Bench::new(blobs);
    bench.remote.held.store(true, Ordering::SeqCst);
    let most = |bench: &Bench| {
        let reserved = bench.store.0.state.lock().memory;
        assert!(reserved <= AHEAD_BYTES, "{reserved} bytes");
        reserved
    };
    // Each takes what is queued for it itself, so that only what the threads hold is in its way.
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..=blobs)
            .map(|blob| {
                let bench = &bench;
                scope.spawn(move || {
                    for at in (0..TOTAL / 2).step_by(FRAME as usize) {
                        bench.read(blob, at..at + FRAME);
                        most(bench);
                    }
                })
            })
            .collect();
        // A reader that waits for what is held asks for no more, so one may be all there is.
        let is_held = || bench.remote.holding.load(Ordering::SeqCst) > 0;
        while !is_held() && !readers.iter().all(|reader| reader.is_finished()) {
            std::thread::yield_now();
        }
        most(&bench);
        bench.remote.held.store(false, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    bench.settled();
    assert!(bench.store.0.state.lock().blobs.values().all(|cached| !cached.frames.is_busy()));
}

#[test]
fn what_does_not_fit_the_limit_is_refused() {
    let mut state = State::new(FRAME, super::StoreMemory::alone());
    let pieces = AHEAD_BYTES / (PIECE * FRAME);
    for number in 0..pieces {
        assert!(state.enqueue(BlobId(1), &(number * PIECE..(number + 1) * PIECE)));
    }
    assert!(!state.enqueue(BlobId(1), &(0..1)));
    state.release(&(0..PIECE));
    assert!(state.enqueue(BlobId(1), &(0..1)));
}

/// What a file goes on with in other blobs is asked for by whoever knows that, up to what there is memory for.
#[test]
fn what_will_be_read_is_fetched_while_there_is_memory() {
    let bench = Bench::new(2);
    assert!(bench.store.want(BlobId(1), TOTAL, 8 << 20..TOTAL - (16 << 20)));
    let (gets, bytes) = bench.settled();
    assert_eq!((gets, bytes), (8, 16 << 20));
    let is_there = |range: Range<u64>| bench.store.cached(BlobId(1), range.clone()) == range.end - range.start;
    assert!(is_there(8 << 20..24 << 20) && !is_there(0..1 << 20));
    // Nothing of that is fetched again, and what was read and kept makes room.
    bench.read(1, 8 << 20..24 << 20);
    assert!(bench.store.want(BlobId(1), TOTAL, 8 << 20..TOTAL));
    assert_eq!(bench.settled().1, 32 << 20);
    bench.remote.held.store(true, Ordering::SeqCst);
    assert!(!bench.store.want(BlobId(2), TOTAL, 0..TOTAL), "more than there may be in memory");
    assert!(bench.store.0.state.lock().memory <= AHEAD_BYTES);
    bench.remote.held.store(false, Ordering::SeqCst);
    bench.settled();
    bench.read(2, 0..TOTAL);
    bench.read(1, 0..TOTAL);
}
