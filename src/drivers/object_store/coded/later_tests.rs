//! What becomes of an object after its table was remembered, and what requests cost.

use std::sync::atomic::AtomicU64;

use nexus_kernel::block_on;
use nexus_kernel::conformance::object_store::{Memory, run};

use super::tests::{Rig, codings, content, ring};
use super::*;
use crate::object_store::{LocalDiskStore, MemoryStore};

/// A store in memory that counts what it is asked for.
#[derive(Default)]
struct Counted {
    memory: MemoryStore,
    heads: AtomicU64,
    gets: AtomicU64,
}

impl Counted {
    fn take(&self) -> (u64, u64) {
        (self.heads.swap(0, Ordering::Relaxed), self.gets.swap(0, Ordering::Relaxed))
    }
}

impl ObjectStore for Counted {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        self.memory.put(id, source)
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.memory.get(id, range)
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.memory.head(id)
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        self.memory.delete(id)
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        self.memory.list(after, limit)
    }
}

#[test]
fn a_store_on_a_disk_is_coded_as_well() {
    for (compression, keys) in codings() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(crate::disk::RealDisk::new());
        let inner = Arc::new(LocalDiskStore::open(disk, &folder.path().join("blobs")).unwrap());
        run(&CodedStore::new(inner, compression, keys, folder.path()).unwrap(), folder.path());
    }
}

#[test]
fn requests_are_as_few_as_can_be() {
    for (compression, keys) in codings() {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(Counted::default());
        let open = || CodedStore::new(inner.clone(), compression, keys.clone(), folder.path()).unwrap();
        let (id, bytes) = (BlobId::new(5, 9), content(1_000_000, 3));
        let store = open();
        block_on(store.put(id, &mut Memory::new(bytes.clone()))).unwrap();
        inner.take();
        assert!(block_on(store.get(id, 10..900_000)).unwrap() == bytes[10..900_000]);
        assert_eq!(inner.take(), (0, 1), "{compression:?}: what this process stored needs no table");
        let store = open();
        assert_eq!(block_on(store.head(id)).unwrap().len, 1_000_000);
        assert_eq!(inner.take(), (1, 1), "{compression:?}: a blob that is met anew");
        assert_eq!(block_on(store.head(id)).unwrap().len, 1_000_000);
        assert_eq!(inner.take(), (1, 0), "{compression:?}: a blob that is known");
        assert!(block_on(store.get(id, 10..900_000)).unwrap() == bytes[10..900_000]);
        assert_eq!(inner.take(), (0, 1), "{compression:?}");
    }
}

#[test]
fn what_was_cut_short_is_damaged_also_if_its_table_is_remembered() {
    for (compression, keys) in codings() {
        let rig = Rig::new();
        let (id, store) = (BlobId::new(5, 9), rig.open(compression, keys));
        block_on(store.put(id, &mut Memory::new(content(300_000, 3)))).unwrap();
        let (name, object) = rig.object();
        rig.replace(name, object[..1000].to_vec());
        let read = block_on(store.get(id, 200_000..300_000));
        assert!(matches!(read, Err(Error::Corrupt(_))), "{compression:?}: {read:?}");
    }
}

#[test]
fn an_original_is_read_past_its_remembered_table() {
    for (compression, keys) in codings() {
        let rig = Rig::new();
        let (id, store) = (BlobId::new(5, 9), rig.open(compression, keys));
        block_on(store.put(id, &mut Memory::new(content(300_000, 3)))).unwrap();
        let (name, mut object) = rig.object();
        let end = object.len() - 1;
        object[end - FOOTER] ^= 1;
        rig.replace(name, object);
        let read = block_on(store.get_original(id, 0..100));
        assert!(matches!(read, Err(Error::Corrupt(_))), "{compression:?}: {:?}", read.map(|bytes| bytes.len()));
    }
}

#[test]
fn an_object_that_came_later_is_read_by_its_own_table() {
    let (id, bytes) = (BlobId::new(5, 9), content(300_000, 3));
    let rig = Rig::new();
    let store = rig.open(Compression::Lz4, Some(ring(&[7])));
    block_on(store.put(id, &mut Memory::new(bytes.clone()))).unwrap();
    // A try of the same upload that was given up, and arrived all the same.
    let other = Rig::new();
    block_on(other.open(Compression::Lz4, Some(ring(&[7]))).put(id, &mut Memory::new(bytes.clone()))).unwrap();
    let (name, late) = other.object();
    rig.replace(name, late);
    assert!(block_on(store.get(id, 0..300_000)).unwrap() == bytes);
}

#[test]
fn tables_take_bounded_memory() {
    let rig = Rig::new();
    let store = rig.open(Compression::Lz4, None);
    let footer = Footer { compression: Compression::None, key: None, frames: 0, len: 0, salt: [0; SALT] };
    for n in 0..40 {
        let object = Object::new(footer.clone(), vec![1; MOST_FRAMES / 8], None);
        store.tables.lock().insert(BlobId::new(1, n), Arc::new(object));
    }
    let tables = store.tables.lock();
    let frames: usize = tables.known.values().map(|(_, object)| object.table.len()).sum();
    assert!(frames <= MOST_FRAMES, "{frames}");
    assert_eq!(tables.frames, frames);
    assert!(tables.known.contains_key(&BlobId::new(1, 39)));
}

#[test]
fn what_was_listed_is_not_kept() {
    let rig = Rig::new();
    let store = rig.open(Compression::None, Some(ring(&[7])));
    let ids: Vec<BlobId> = (1..50).map(|n| BlobId::new(5, n)).collect();
    for id in &ids {
        block_on(store.put(*id, &mut Memory::new(vec![1; 10]))).unwrap();
    }
    let (mut found, mut after) = (Vec::new(), BlobId::NONE);
    loop {
        let page = block_on(store.list(after, 7)).unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        found.extend(page.iter().map(|line| line.id));
    }
    assert_eq!(found, ids);
    assert!(store.listing.lock().is_empty());
}
