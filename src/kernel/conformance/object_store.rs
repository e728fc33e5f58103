//! Suite of [`crate::object_store::ObjectStore`].

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::block_on;
use crate::error::{Error, Result};
use crate::ids::BlobId;
use crate::object_store::{BlobInfo, BlobSource, Listed, ObjectStore};

/// A source of bytes in memory, which may fail half way.
pub struct Memory {
    bytes: Bytes,
    fail_at: Option<usize>,
    given: usize,
}

impl Memory {
    /// A source of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Memory {
        Memory { bytes: bytes.into(), fail_at: None, given: 0 }
    }

    /// A source that fails once `at` bytes were given.
    pub fn failing(bytes: impl Into<Bytes>, at: usize) -> Memory {
        Memory { bytes: bytes.into(), fail_at: Some(at), given: 0 }
    }
}

impl BlobSource for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next(&mut self, max: usize) -> Result<Bytes> {
        if self.fail_at.is_some_and(|at| self.given >= at) {
            return Err(Error::Io("the source failed".into()));
        }
        let end = self.bytes.len().min(self.given + max.min(10_000));
        let piece = self.bytes.slice(self.given..end);
        self.given = end;
        Ok(piece)
    }
}

/// A source that is a local file.
pub struct LocalFile {
    path: PathBuf,
    len: u64,
    at: u64,
}

impl LocalFile {
    /// The file at `path`.
    pub fn new(path: &Path) -> LocalFile {
        LocalFile { path: path.to_owned(), len: std::fs::metadata(path).unwrap().len(), at: 0 }
    }
}

impl BlobSource for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn next(&mut self, max: usize) -> Result<Bytes> {
        let all = std::fs::read(&self.path).unwrap();
        let start = self.at as usize;
        let end = all.len().min(start + max);
        self.at = end as u64;
        Ok(Bytes::copy_from_slice(&all[start..end]))
    }

    fn local_file(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

/// Runs the suite on `store`, which is empty. `scratch` is a folder for local files, on the
/// store's own disk if it has one.
pub fn run(store: &dyn ObjectStore, scratch: &Path) {
    absent(store);
    round_trips(store);
    several_are_deleted_at_once(store);
    put_is_atomic(store);
    local_files(store, scratch);
    lists(store);
    concurrent(store);
}

fn put(store: &dyn ObjectStore, id: BlobId, bytes: impl Into<Bytes>) -> Result<()> {
    block_on(store.put(id, &mut Memory::new(bytes)))
}

fn all(store: &dyn ObjectStore, id: BlobId) -> Result<Bytes> {
    let info = block_on(store.head(id))?;
    assert_eq!(info.id, id);
    block_on(store.get(id, 0..info.len))
}

fn absent(store: &dyn ObjectStore) {
    let id = BlobId::new(1, 1);
    assert_eq!(block_on(store.head(id)), Err(Error::NotFound));
    assert_eq!(block_on(store.get(id, 0..1)), Err(Error::NotFound));
    assert_eq!(block_on(store.get(id, 0..0)), Err(Error::NotFound));
    block_on(store.delete(id)).unwrap();
    assert_eq!(block_on(store.list(BlobId::NONE, 10)), Ok(vec![]));
}

fn round_trips(store: &dyn ObjectStore) {
    for (n, len) in [0usize, 1, 4095, 4096, 100_000, 3_000_000].into_iter().enumerate() {
        let id = BlobId::new(2, n as u64 + 1);
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        put(store, id, bytes.clone()).unwrap();
        assert_eq!(all(store, id).unwrap(), bytes, "{len} bytes");
        assert_eq!(block_on(store.get(id, 0..0)).unwrap(), Bytes::new());
        let len = len as u64;
        if len > 1 {
            assert_eq!(block_on(store.get(id, 1..len)).unwrap(), bytes[1..]);
            assert_eq!(
                block_on(store.get(id, len / 2..len / 2 + 1)).unwrap(),
                bytes[len as usize / 2..len as usize / 2 + 1]
            );
        }
        assert_eq!(block_on(store.get(id, 0..len + 1)), Err(Error::Invalid), "beyond the end");
        assert_eq!(block_on(store.get(id, len + 1..len + 2)), Err(Error::Invalid));
        #[allow(clippy::reversed_empty_ranges, reason = "a caller's mistake is what is tried")]
        let reversed = block_on(store.get(id, 1..0));
        assert_eq!(reversed, Err(Error::Invalid));
        block_on(store.delete(id)).unwrap();
        assert_eq!(block_on(store.head(id)), Err(Error::NotFound));
        block_on(store.delete(id)).unwrap();
    }
}

fn several_are_deleted_at_once(store: &dyn ObjectStore) {
    let ids: Vec<_> = (1..=5).map(|n| BlobId::new(9, n)).collect();
    let (kept, missing) = (BlobId::new(9, 7), BlobId::new(9, 6));
    ids.iter().chain([&kept]).for_each(|id| put(store, *id, "here").unwrap());
    let mut gone = ids.clone();
    gone.insert(2, missing);
    block_on(store.delete_all(&gone)).unwrap();
    gone.iter().for_each(|id| assert_eq!(block_on(store.head(*id)), Err(Error::NotFound)));
    assert_eq!(all(store, kept).unwrap(), "here");
    block_on(store.delete_all(&[kept])).unwrap();
    block_on(store.delete_all(&[])).unwrap();
    assert_eq!(block_on(store.list(BlobId::NONE, 10)), Ok(vec![]));
}

fn put_is_atomic(store: &dyn ObjectStore) {
    let id = BlobId::new(3, 1);
    assert!(block_on(store.put(id, &mut Memory::failing(vec![1; 50_000], 20_000))).is_err());
    assert_eq!(block_on(store.head(id)), Err(Error::NotFound), "half a blob is there");
    put(store, id, "first").unwrap();
    assert_eq!(put(store, id, "second"), Err(Error::Exists));
    assert_eq!(all(store, id).unwrap(), "first");
    block_on(store.delete(id)).unwrap();
}

fn local_files(store: &dyn ObjectStore, scratch: &Path) {
    let (id, path) = (BlobId::new(4, 1), scratch.join("local"));
    std::fs::write(&path, b"from a file").unwrap();
    block_on(store.put(id, &mut LocalFile::new(&path))).unwrap();
    assert_eq!(all(store, id).unwrap(), "from a file");
    if let Some(at) = store.local_path(id) {
        assert_eq!(std::fs::read(at).unwrap(), b"from a file");
        assert!(!path.exists(), "a local file is moved, not copied");
    }
    std::fs::write(&path, b"another").unwrap();
    assert_eq!(block_on(store.put(id, &mut LocalFile::new(&path))), Err(Error::Exists));
    assert_eq!(std::fs::read(&path).unwrap(), b"another", "a refused file stays where it is");
    assert_eq!(all(store, id).unwrap(), "from a file");
    block_on(store.delete(id)).unwrap();
    std::fs::remove_file(&path).unwrap();
}

fn lists(store: &dyn ObjectStore) {
    let ids =
        [BlobId::new(0, 9), BlobId::new(1, 1), BlobId::new(1, 200), BlobId::new(1, 1 << 31), BlobId::new(0xff_ffff, 3)];
    for (n, id) in ids.iter().enumerate().rev() {
        put(store, *id, vec![0; n]).unwrap();
    }
    let infos: Vec<BlobInfo> = ids.iter().enumerate().map(|(n, id)| BlobInfo { id: *id, len: n as u64 }).collect();
    let list = |after, limit| -> Vec<BlobInfo> {
        let listed = block_on(store.list(after, limit)).unwrap();
        // Where a list tells no length, the blob itself does.
        let len = |line: &Listed| line.len.unwrap_or_else(|| block_on(store.head(line.id)).unwrap().len);
        listed.iter().map(|line| BlobInfo { id: line.id, len: len(line) }).collect()
    };
    assert_eq!(list(BlobId::NONE, 100), infos);
    assert_eq!(list(BlobId::NONE, 2), infos[..2]);
    assert_eq!(list(ids[1], 2), infos[2..4], "after an id means above it");
    assert_eq!(list(BlobId::new(1, 100), 100), infos[2..], "the id need not be there");
    assert_eq!(list(ids[4], 100), []);
    assert_eq!(list(BlobId::NONE, 0), []);
    for id in ids {
        block_on(store.delete(id)).unwrap();
    }
    assert_eq!(list(BlobId::NONE, 100), []);
}

/// Of several puts of one id one succeeds, and its bytes are there.
fn concurrent(store: &dyn ObjectStore) {
    for round in 0..10 {
        let id = BlobId::new(5, round + 1);
        let results: Vec<(u8, Result<()>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3u8).map(|n| scope.spawn(move || (n, put(store, id, vec![n; 30_000])))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<u8> = results.iter().filter(|(_, result)| result.is_ok()).map(|(n, _)| *n).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert!(results.iter().all(|(_, result)| matches!(result, Ok(()) | Err(Error::Exists))), "{results:?}");
        assert_eq!(all(store, id).unwrap(), vec![winners[0]; 30_000]);
        block_on(store.delete(id)).unwrap();
    }
}
