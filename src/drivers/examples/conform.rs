//! Holds a bucket in a real server against what a store promises: `conform URL [ENDPOINT]`, with
//! the credentials where the cloud's own tools take them. URL is a prefix that nobody uses; what is
//! made below it is deleted in the end, but for the object that says whose it is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that is a program of its own")]

use std::path::Path;

use nexus_drivers::object_store::{Claimant, CloudOptions, CloudStore, StoreUrl};
use nexus_kernel::conformance::object_store::{Memory, run};
use nexus_kernel::{BlobId, Error, ObjectStore, block_on};

/// Bytes of a blob that goes up in parts, the last of which is short.
const LARGE: u32 = 20_000_001;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let url: StoreUrl = arguments.next().expect("usage: conform URL [ENDPOINT]").parse().unwrap();
    let options = CloudOptions { endpoint: arguments.next(), ..CloudOptions::default() };
    let open = || CloudStore::open(&url, &options).unwrap();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(open().owner().unwrap(), None, "the prefix is in use");
    for step in open().probe("conform") {
        println!("{}: {}", step.what, step.outcome.unwrap());
    }

    let mut store = open();
    claim(&mut store, "one", first.path()).unwrap();
    run(&store, first.path());
    println!("the suite: passed");
    large(&store);
    println!("in parts: passed");
    pages(&store);
    println!("a list of several pages: passed");

    // A copy of the data folder is opened, and the first daemon still runs.
    std::fs::copy(first.path().join("claim"), second.path().join("claim")).unwrap();
    assert!(matches!(claim(&mut open(), "two", first.path()), Err(Error::Corrupt(_))), "another volume's prefix");
    let mut copy = open();
    claim(&mut copy, "one", second.path()).unwrap();
    let id = BlobId::new(9, 1);
    assert!(matches!(block_on(store.put(id, &mut Memory::new("late"))), Err(Error::Unavailable(_))));
    assert!(matches!(block_on(store.delete(id)), Err(Error::Unavailable(_))));
    assert_eq!(block_on(copy.head(id)), Err(Error::NotFound));
    assert!(matches!(claim(&mut open(), "one", first.path()), Err(Error::Corrupt(_))), "an old copy was let in");
    println!("one daemon: passed");
}

fn claim(store: &mut CloudStore, volume: &str, folder: &Path) -> nexus_kernel::Result<()> {
    let word = format!("{:?}", std::time::SystemTime::now());
    store.claim(Claimant { volume: volume.into(), word, file: folder.join("claim") })
}

fn large(store: &CloudStore) {
    let bytes: Vec<u8> = (0..LARGE).map(|at| (at / 7) as u8).collect();
    let id = BlobId::new(8, 1);
    let cut = block_on(store.put(id, &mut Memory::failing(bytes.clone(), 15_000_000)));
    assert!(matches!(cut, Err(Error::Io(_))), "{cut:?}");
    assert_eq!(block_on(store.head(id)), Err(Error::NotFound), "a part of a blob is there");
    block_on(store.put(id, &mut Memory::new(bytes.clone()))).unwrap();
    assert_eq!(block_on(store.head(id)).unwrap().len, u64::from(LARGE));
    assert!(block_on(store.get(id, 0..u64::from(LARGE))).unwrap() == bytes, "other bytes came back");
    assert_eq!(block_on(store.put(id, &mut Memory::new(bytes))), Err(Error::Exists));
    block_on(store.delete(id)).unwrap();
}

/// Lists in steps while more is there than any service tells at once.
fn pages(store: &CloudStore) {
    const BLOBS: u64 = 1100;
    let numbers: Vec<u64> = (1..=BLOBS).collect();
    let each = |what: &(dyn Fn(BlobId) + Sync)| {
        std::thread::scope(|scope| {
            for part in numbers.chunks(BLOBS as usize / 4) {
                scope.spawn(move || part.iter().for_each(|number| what(BlobId::new(7, *number))));
            }
        });
    };
    each(&|id| block_on(store.put(id, &mut Memory::new("x"))).unwrap());
    for step in [300, 2000] {
        let (mut after, mut seen) = (BlobId::NONE, Vec::new());
        loop {
            let listed = block_on(store.list(after, step)).unwrap();
            let Some(last) = listed.last() else { break };
            after = last.id;
            seen.extend(listed.iter().map(|line| line.id));
        }
        assert!(seen == numbers.iter().map(|number| BlobId::new(7, *number)).collect::<Vec<_>>(), "by {step}");
    }
    each(&|id| block_on(store.delete(id)).unwrap());
}
