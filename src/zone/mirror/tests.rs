//! Copies, also across power cuts.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_kernel::{BlobId, ZoneIndex};

use super::*;

const ZONE: ZoneIndex = ZoneIndex(3);

fn open(disk: &SimDisk) -> MirrorStore {
    MirrorStore::open(Arc::new(disk.clone()), PathBuf::from("/mirror"), &[ZONE]).unwrap()
}

/// What a blob has at each place, as content never changes.
fn content(blob: BlobId, offset: u64, len: u64) -> Bytes {
    (offset..offset + len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ blob.0) as u8).collect()
}

fn part(blob: BlobId, offset: u64, len: u64) -> Part {
    Part { blob, offset, bytes: content(blob, offset, len) }
}

#[test]
fn what_was_put_is_read_and_nothing_else() {
    let store = open(&SimDisk::new());
    let blob = BlobId(7);
    store.put(ZONE, &[part(blob, 100, 50), part(blob, 150, 10), part(blob, 90, 30)], &[blob]).unwrap();
    let mut buf = vec![0; 70];
    assert!(store.read(blob, 90, &mut buf).unwrap());
    assert_eq!(buf, content(blob, 90, 70));
    assert!(!store.read(blob, 89, &mut buf).unwrap(), "a gap is no zeros");
    assert!(!store.read(blob, 91, &mut buf).unwrap());
    assert!(!store.read(BlobId(8), 0, &mut buf).unwrap());
    assert_eq!(store.ranges(ZONE, blob).unwrap().iter().collect::<Vec<_>>(), [(90, 160)]);
    let before = store.bytes(ZONE);
    store.put(ZONE, &[part(blob, 95, 20)], &[blob]).unwrap();
    assert_eq!(store.bytes(ZONE), before, "what is there is not kept again");
}

#[test]
fn copies_are_removed_alone_and_with_their_zone() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let blobs = [BlobId(1), BlobId(2)];
    store.put(ZONE, &[part(blobs[0], 0, 10), part(blobs[1], 0, 10)], &blobs).unwrap();
    store.put(ZoneIndex(4), &[part(blobs[0], 5, 10)], &blobs[..1]).unwrap();
    store.remove(ZONE, blobs[0]).unwrap();
    assert!(!store.read(blobs[0], 0, &mut [0; 5]).unwrap());
    assert!(store.read(blobs[0], 5, &mut [0; 5]).unwrap(), "the other zone's is its own");
    store.remove_zone(ZONE).unwrap();
    assert!(!store.read(blobs[1], 0, &mut [0; 5]).unwrap());
    assert_eq!(open(&disk).blobs(ZONE), []);
}

#[test]
fn more_files_than_stay_open_are_all_read() {
    let store = open(&SimDisk::new());
    for id in 0..300 {
        store.put(ZONE, &[part(BlobId(id), id, 20)], &[BlobId(id)]).unwrap();
    }
    for id in 0..300 {
        let mut buf = [0; 20];
        assert!(store.read(BlobId(id), id, &mut buf).unwrap());
        assert_eq!(buf[..], content(BlobId(id), id, 20)[..]);
        // Added to after it was closed and opened again.
        store.put(ZONE, &[part(BlobId(id), id + 20, 5)], &[BlobId(id)]).unwrap();
        assert!(store.read(BlobId(id), id + 1, &mut [0; 24]).unwrap());
    }
}

/// Power is cut at random; what was durable is there, and what is there is right.
#[test]
fn power_cuts_lose_nothing_that_was_durable() {
    for seed in 0..60u64 {
        let mut next = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            next ^= next << 13;
            next ^= next >> 7;
            next ^= next << 17;
            next % below
        };
        let mut disk = SimDisk::new();
        let mut durable: Vec<Ranges> = vec![Ranges::default(); 3];
        for _ in 0..6 {
            let store = open(&disk);
            let mut written = durable.clone();
            for _ in 0..random(12) {
                let blob = random(3);
                let (offset, len) = (random(5_000), 1 + random(600));
                let sync = random(2) == 0;
                let blobs = [BlobId(blob)];
                store.put(ZONE, &[part(blobs[0], offset, len)], if sync { &blobs } else { &[] }).unwrap();
                written[blob as usize].add(offset, offset + len);
                if sync {
                    durable[blob as usize] = written[blob as usize].clone();
                }
            }
            drop(store);
            disk = disk.power_cut(seed ^ random(u64::MAX));
            let store = open(&disk);
            for (id, durable) in durable.iter().enumerate() {
                let blob = BlobId(id as u64);
                let there = store.ranges(ZONE, blob).unwrap();
                for (start, end) in durable.iter() {
                    assert!(there.missing(start, end).is_empty(), "seed {seed}: blob {id} lost {start}..{end}");
                }
                for (start, end) in there.iter() {
                    let mut buf = vec![0; (end - start) as usize];
                    assert!(store.read(blob, start, &mut buf).unwrap());
                    assert_eq!(buf, content(blob, start, end - start), "seed {seed}: blob {id} has wrong bytes");
                }
            }
        }
    }
}
