//! Coded blobs over a store in memory that can be looked into and changed.

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::{LocalFile, Memory, run};

use super::*;
use crate::object_store::MemoryStore;

pub(super) fn ring(names: &[u8]) -> KeyRing {
    let lines: String = names.iter().map(|byte| format!("k{byte}:{}\n", format!("{byte:02x}").repeat(32))).collect();
    KeyRing::parse(&lines).unwrap()
}

pub(super) struct Rig {
    inner: Arc<MemoryStore>,
    folder: tempfile::TempDir,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig { inner: Arc::new(MemoryStore::new()), folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn open(&self, compression: Compression, keys: Option<KeyRing>) -> CodedStore {
        CodedStore::new(self.inner.clone(), compression, keys, self.folder.path()).unwrap()
    }

    /// The one object below.
    pub(super) fn object(&self) -> (BlobId, Vec<u8>) {
        let listed = block_on(self.inner.list(BlobId::NONE, 10)).unwrap();
        assert_eq!(listed.len(), 1);
        let id = listed[0].id;
        (id, block_on(self.inner.get(id, 0..listed[0].len.unwrap())).unwrap().to_vec())
    }

    pub(super) fn replace(&self, id: BlobId, bytes: Vec<u8>) {
        block_on(self.inner.delete(id)).unwrap();
        block_on(self.inner.put(id, &mut Memory::new(bytes))).unwrap();
    }
}

pub(super) fn codings() -> Vec<(Compression, Option<KeyRing>)> {
    let mut all = Vec::new();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
        all.push((compression, None));
        all.push((compression, Some(ring(&[7]))));
    }
    all
}

/// Bytes some of which compress well.
pub(super) fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (i >> 16) % 2 == 0 { (i / 100) as u8 } else { (state >> 56) as u8 }
        })
        .collect()
}

#[test]
fn every_coding_is_a_store_like_any_other() {
    for (compression, keys) in codings() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let inner = Arc::new(MemoryStore::new());
            CodedStore::new(inner, compression, keys.clone(), folder.path()).unwrap()
        };
        run(&open(), folder.path());
        // A source's own file stays where it is: what is stored is another.
        let path = folder.path().join("source");
        std::fs::write(&path, content(100_000, 1)).unwrap();
        block_on(open().put(BlobId::new(1, 1), &mut LocalFile::new(&path))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content(100_000, 1));
    }
}

#[test]
fn every_range_comes_back_also_to_another_process() {
    for (compression, keys) in codings() {
        let rig = Rig::new();
        let bytes = content(300_000, 3);
        let id = BlobId::new(5, 9);
        block_on(rig.open(compression, keys.clone()).put(id, &mut Memory::new(bytes.clone()))).unwrap();
        let store = rig.open(compression, keys.clone());
        let mut state = 11u64;
        for _ in 0..200 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (state >> 33) as usize % bytes.len();
            let end = (start + (state >> 20) as usize % 150_000).min(bytes.len());
            let read = block_on(store.get(id, start as u64..end as u64)).unwrap();
            assert!(read == bytes[start..end], "{compression:?}, {start}..{end}");
        }
        assert_eq!(block_on(store.head(id)).unwrap().len, 300_000);
        if compression != Compression::None {
            assert!(rig.object().1.len() < 250_000, "{compression:?} did not compress");
        }
        // It is read whatever new objects are stored with.
        let other = rig.open(Compression::None, keys.clone());
        assert!(block_on(other.get(id, 0..300_000)).unwrap() == bytes);
    }
}

#[test]
fn nothing_changed_is_taken_for_genuine() {
    for (compression, keys) in codings() {
        let encrypted = keys.is_some();
        let rig = Rig::new();
        let bytes = content(500, 3);
        let id = BlobId::new(5, 9);
        block_on(rig.open(compression, keys.clone()).put(id, &mut Memory::new(bytes.clone()))).unwrap();
        let (name, object) = rig.object();
        for at in 0..object.len() {
            let mut changed = object.clone();
            changed[at] ^= 0x10;
            rig.replace(name, changed);
            let read = block_on(rig.open(compression, keys.clone()).get(id, 0..500));
            match read {
                Err(Error::Corrupt(_)) => {}
                // What is not encrypted is held against checksums above this.
                _ if !encrypted && at < object.len() - FOOTER => {}
                other => panic!("{compression:?}, byte {at} of {}: {other:?}", object.len()),
            }
        }
        for cut in 0..object.len() {
            rig.replace(name, object[..cut].to_vec());
            let read = block_on(rig.open(compression, keys.clone()).get(id, 0..500));
            assert!(read.is_err(), "cut at {cut}");
        }
        rig.replace(name, object);
        assert_eq!(block_on(rig.open(compression, keys.clone()).get(id, 0..500)).unwrap(), bytes);
    }
}

#[test]
fn frames_and_objects_can_not_stand_in_for_others() {
    let rig = Rig::new();
    let store = rig.open(Compression::None, Some(ring(&[7])));
    let id = BlobId::new(5, 9);
    block_on(store.put(id, &mut Memory::new(content(3 * FRAME as usize, 3)))).unwrap();
    let (name, object) = rig.object();
    let frame = FRAME as usize + format::TAG;
    let swapped = [&object[frame..2 * frame], &object[..frame], &object[2 * frame..]].concat();
    rig.replace(name, swapped);
    assert!(matches!(block_on(store.get(id, 0..10)), Err(Error::Corrupt(_))));
    // Under another blob's name, it is not that blob.
    let other = BlobId::new(5, 10);
    block_on(rig.inner.put(store.inner_id(other), &mut Memory::new(object))).unwrap();
    assert!(matches!(block_on(store.get(other, 0..10)), Err(Error::Corrupt(_))));
}

#[test]
fn keys_can_be_rotated_and_wrong_ones_are_told() {
    let rig = Rig::new();
    let (first, second) = (BlobId::new(5, 1), BlobId::new(5, 2));
    let put = |keys: &[u8], id| {
        block_on(rig.open(Compression::Lz4, Some(ring(keys))).put(id, &mut Memory::new(content(1000, 1)))).unwrap();
    };
    put(&[1], first);
    put(&[2, 1], second);
    let store = rig.open(Compression::Lz4, Some(ring(&[2, 1])));
    for id in [first, second] {
        assert_eq!(block_on(store.get(id, 0..1000)).unwrap(), content(1000, 1));
    }
    let listed: Vec<BlobId> = block_on(store.list(BlobId::NONE, 10)).unwrap().iter().map(|line| line.id).collect();
    assert_eq!(listed, [first, second]);
    // The older key alone does not read what the newer one encrypted, and says so.
    match block_on(rig.open(Compression::Lz4, Some(ring(&[1]))).get(second, 0..1000)) {
        Err(Error::Corrupt(text)) => assert!(text.contains("not among those given"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_ne!(ring(&[2]).names_id(), ring(&[1]).names_id());
    assert_eq!(ring(&[2, 1]).names_id(), ring(&[1]).names_id());
}

#[test]
fn names_and_bytes_tell_nothing() {
    let rig = Rig::new();
    let id = BlobId::new(5, 1);
    let text = b"a sentence that must not be seen ".repeat(100);
    block_on(rig.open(Compression::None, Some(ring(&[1]))).put(id, &mut Memory::new(text))).unwrap();
    let (name, object) = rig.object();
    assert_ne!(name, id);
    assert!(!object.windows(8).any(|window| window == b"sentence"));
    // Without a key it is not read, and with one nothing is read that was stored without.
    assert!(block_on(rig.open(Compression::None, None).get(name, 0..10)).is_err());
    let plain = Rig::new();
    block_on(plain.open(Compression::None, None).put(id, &mut Memory::new(vec![1; 100]))).unwrap();
    let (_, object) = plain.object();
    let keyed = plain.open(Compression::None, Some(ring(&[1])));
    block_on(plain.inner.put(keyed.inner_id(id), &mut Memory::new(object))).unwrap();
    assert!(matches!(block_on(keyed.get(id, 0..10)), Err(Error::Corrupt(_))));
}
