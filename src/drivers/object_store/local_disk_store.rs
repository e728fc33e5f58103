//! An object store in a folder: the blob `0123456789abcdef` is the file `ef/0123456789abcdef`,
//! byte for byte. The folder is named by the last byte of the id, which differs between a
//! writer's consecutive blobs. Files that are not named so are nobody's blobs and left alone;
//! what a crash left of a put, `tmp/*`, goes when the store is opened.

use std::collections::HashSet;
use std::future::ready;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::disk::Disk;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore};
use parking_lot::Mutex;

/// Bytes that are taken from a source at a time.
const STEP: usize = 1 << 20;
/// Largest range that one get answers in bytes.
const MAX_GET: u64 = 64 << 20;

/// A folder of blobs.
pub struct LocalDiskStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Blobs that are being put: a rename would replace what another thread has put meanwhile.
    putting: Mutex<HashSet<BlobId>>,
}

/// A blob's place among those being put; gives it back.
struct Putting<'a>(&'a LocalDiskStore, BlobId);

impl LocalDiskStore {
    /// The store in the folder `root`, which is made if it is not there.
    pub fn open(disk: Arc<dyn Disk>, root: &Path) -> Result<LocalDiskStore> {
        let drafts = root.join("tmp");
        disk.create_dir_all(&drafts)?;
        for (name, _) in disk.list(&drafts)? {
            disk.remove(&drafts.join(name))?;
        }
        Ok(LocalDiskStore { disk, root: root.to_owned(), putting: Mutex::default() })
    }

    fn folder(&self, low_byte: u8) -> PathBuf {
        self.root.join(format!("{low_byte:02x}"))
    }

    fn path(&self, id: BlobId) -> PathBuf {
        self.folder(id.0 as u8).join(format!("{:016x}", id.0))
    }

    fn begin(&self, id: BlobId) -> Result<Putting<'_>> {
        if self.putting.lock().insert(id) { Ok(Putting(self, id)) } else { Err(Error::Exists) }
    }

    fn put_now(&self, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
        let _putting = self.begin(id)?;
        let path = self.path(id);
        match self.disk.open(&path) {
            Err(Error::NotFound) => {}
            Ok(_) => return Err(Error::Exists),
            Err(error) => return Err(error),
        }
        let folder = self.folder(id.0 as u8);
        self.disk.create_dir_all(&folder)?;
        let local = source.local_file().map(Path::to_owned);
        let moved = match &local {
            Some(local) => self.move_file(local, &path, source.len())?,
            None => false,
        };
        if !moved {
            self.write_file(id, source, &path)?;
        }
        self.disk.sync_dir(&folder)?;
        if let Some(old) = local.filter(|_| moved).as_deref().and_then(Path::parent) {
            self.disk.sync_dir(old)?;
        }
        Ok(())
    }

    /// Moves a file here; false if it can't be moved and has to be copied.
    fn move_file(&self, from: &Path, to: &Path, len: u64) -> Result<bool> {
        let file = self.disk.open(from)?;
        if file.len()? != len {
            return Err(Error::Io(format!("{} has {} bytes, {len} were announced", from.display(), file.len()?)));
        }
        file.sync_data()?;
        match self.disk.rename(from, to) {
            Ok(()) => Ok(true),
            // On another medium.
            Err(Error::Io(_) | Error::CrossZone) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a file beside and moves it here once it is whole and durable.
    fn write_file(&self, id: BlobId, source: &mut dyn BlobSource, to: &Path) -> Result<()> {
        let draft = self.root.join("tmp").join(format!("{:016x}", id.0));
        match self.disk.remove(&draft) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        let written = self.write_draft(&draft, id, source).and_then(|()| self.disk.rename(&draft, to));
        if written.is_err() {
            // Left over, it goes with the next put of the blob or the next opening.
            let _ = self.disk.remove(&draft);
        }
        written
    }

    fn write_draft(&self, draft: &Path, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
        let file = self.disk.create(draft)?;
        let mut at = 0;
        loop {
            let piece = source.next(STEP)?;
            if piece.is_empty() {
                break;
            }
            file.write_at(&piece, at)?;
            at += piece.len() as u64;
        }
        if at != source.len() {
            return Err(Error::Io(format!("blob {id}: {at} bytes came, {} were announced", source.len())));
        }
        file.sync_data()
    }

    fn get_now(&self, id: BlobId, range: Range<u64>) -> Result<Bytes> {
        let file = self.disk.open(&self.path(id))?;
        if range.start > range.end || range.end > file.len()? || range.end - range.start > MAX_GET {
            return Err(Error::Invalid);
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn delete_now(&self, id: BlobId) -> Result<()> {
        match self.disk.remove(&self.path(id)) {
            Ok(()) => self.disk.sync_dir(&self.folder(id.0 as u8)),
            Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn list_now(&self, after: BlobId, limit: usize) -> Result<Vec<Listed>> {
        let mut infos = Vec::new();
        for low_byte in 0..=u8::MAX {
            let names = match self.disk.list(&self.folder(low_byte)) {
                Ok(names) => names,
                Err(Error::NotFound) => continue,
                Err(error) => return Err(error),
            };
            for (name, len) in names {
                if let Some(id) = parse(&name).filter(|id| *id > after && id.0 as u8 == low_byte) {
                    infos.push(Listed { id, len: Some(len) });
                }
            }
            // No more than asked for is held, plus one folder's.
            infos.sort_unstable_by_key(|info| info.id);
            infos.truncate(limit);
        }
        Ok(infos)
    }
}

impl ObjectStore for LocalDiskStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(self.put_now(id, source)))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(ready(self.get_now(id, range)))
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        let len = self.disk.open(&self.path(id)).and_then(|file| file.len());
        Box::pin(ready(len.map(|len| BlobInfo { id, len })))
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(self.delete_now(id)))
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(ready(self.list_now(after, limit)))
    }

    fn local_path(&self, id: BlobId) -> Option<PathBuf> {
        Some(self.path(id))
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.0.putting.lock().remove(&self.1);
    }
}

/// The blob that a file is named for.
fn parse(name: &str) -> Option<BlobId> {
    let canonical = name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(name, 16).ok().filter(|_| canonical).map(BlobId).filter(|id| id.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{RealDisk, SimDisk};
    use nexus_kernel::conformance::block_on;
    use nexus_kernel::conformance::object_store::{LocalFile, Memory, run};

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalDiskStore::open(Arc::new(RealDisk::new()), &folder.path().join("blobs")).unwrap();
        run(&store, folder.path());
    }

    #[test]
    fn a_local_file_of_another_medium_is_copied() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let store = LocalDiskStore::open(Arc::new(RealDisk::new()), folder.path()).unwrap();
        let path = other.path().join("f");
        std::fs::write(&path, vec![3; 3 << 20]).unwrap();
        block_on(store.put(BlobId(7), &mut LocalFile::new(&path))).unwrap();
        assert_eq!(block_on(store.get(BlobId(7), 0..3 << 20)).unwrap(), vec![3; 3 << 20]);
    }

    #[test]
    fn a_power_cut_leaves_blobs_whole_or_absent() {
        let disk = SimDisk::new();
        let root = Path::new("/blobs");
        let store = LocalDiskStore::open(Arc::new(disk.clone()), root).unwrap();
        let images = Arc::new(Mutex::new(Vec::new()));
        let sink = images.clone();
        disk.on_sync(move |disk, point| {
            sink.lock().extend((0..10).map(|seed| disk.power_cut(point.number * 10 + seed)))
        });
        for id in 1..=3 {
            block_on(store.put(BlobId(id), &mut Memory::new(vec![id as u8; 20_000]))).unwrap();
            images.lock().retain(|image: &SimDisk| {
                let left = LocalDiskStore::open(Arc::new(image.clone()), root).unwrap();
                let list = block_on(left.list(BlobId::NONE, 10)).unwrap();
                assert!(list.len() as u64 >= id - 1, "a blob that was there is lost");
                for info in list {
                    assert_eq!(block_on(left.get(info.id, 0..20_000)).unwrap(), vec![info.id.0 as u8; 20_000]);
                }
                assert!(image.list(&root.join("tmp")).unwrap().is_empty());
                false
            });
        }
        let last = LocalDiskStore::open(Arc::new(disk.power_cut(1)), root).unwrap();
        assert_eq!(block_on(last.list(BlobId::NONE, 10)).unwrap().len(), 3);
    }

    #[test]
    fn strange_files_are_no_blobs() {
        let disk = SimDisk::new();
        let store = LocalDiskStore::open(Arc::new(disk.clone()), Path::new("/b")).unwrap();
        block_on(store.put(BlobId(0x1ab), &mut Memory::new("x"))).unwrap();
        for name in ["ab/note", "ab/00000000000001ac", "ab/00000000000001AB", "ab/+0000000000001ab", "ab/1ab"] {
            disk.create(&Path::new("/b").join(name)).unwrap();
        }
        let list = block_on(store.list(BlobId::NONE, 10)).unwrap();
        assert_eq!(list, [Listed { id: BlobId(0x1ab), len: Some(1) }]);
    }

    #[test]
    fn want_of_space_leaves_nothing_behind() {
        let disk = SimDisk::new();
        let store = LocalDiskStore::open(Arc::new(disk.clone()), Path::new("/b")).unwrap();
        disk.set_capacity(Some(40_000));
        assert_eq!(block_on(store.put(BlobId(1), &mut Memory::new(vec![1; 100_000]))), Err(Error::NoSpace));
        assert_eq!(disk.used_bytes(), 0);
        block_on(store.put(BlobId(1), &mut Memory::new(vec![1; 30_000]))).unwrap();
    }
}
