//! [`CodedStore`]: compression and encryption before a store that is far away. The bytes that
//! it takes and gives are the blob's own; what the store below sees is in [`format`], under
//! names that tell nothing if there is a key.

mod format;
mod keys;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore, Traffic};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

pub use format::Compression;
use format::{FOOTER, FRAME, Footer, SALT, stored_len};
use keys::{Cipher, Names};
pub use keys::{Key, KeyRing};

/// Bytes that are read of an object's end before it is known how long its table is: enough
/// for a blob of 64 MiB.
const TAIL: u64 = 4 * 1024 + FOOTER as u64;
/// Objects whose tables are remembered, at the most; of a blob of 64 MiB it takes 12 KiB.
const MOST_TABLES: usize = 256;
/// Frames in all of these tables: 12 bytes each, so 3 MiB. A larger table is remembered alone.
const MOST_FRAMES: usize = 1 << 18;
/// Blobs that are listed below at a time.
const LIST_BLOBS: usize = 1024;

/// A store whose objects are compressed, encrypted, or both.
pub struct CodedStore {
    inner: Arc<dyn ObjectStore>,
    compression: Compression,
    keys: Option<KeyRing>,
    names: Option<Names>,
    /// Where a blob is coded before it is stored, in a file without a name.
    scratch: PathBuf,
    random: SystemRandom,
    tables: Mutex<Tables>,
    /// All blobs, in order, while somebody pages through them: their names below have another
    /// order. Eight bytes a blob, which go once the end is told.
    listing: Mutex<Arc<Vec<BlobId>>>,
    next_scratch: AtomicU64,
}

#[derive(Default)]
struct Tables {
    known: HashMap<BlobId, (u64, Arc<Object>)>,
    clock: u64,
    /// Frames of all of them.
    frames: usize,
}

impl Tables {
    fn get(&mut self, id: BlobId) -> Option<Arc<Object>> {
        self.clock += 1;
        let (used, object) = self.known.get_mut(&id)?;
        *used = self.clock;
        Some(object.clone())
    }

    fn insert(&mut self, id: BlobId, object: Arc<Object>) {
        self.remove(id);
        self.clock += 1;
        self.frames += object.table.len();
        self.known.insert(id, (self.clock, object));
        while self.known.len() > MOST_TABLES || (self.frames > MOST_FRAMES && self.known.len() > 1) {
            let oldest = self.known.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: BlobId) {
        if let Some((_, object)) = self.known.remove(&id) {
            self.frames -= object.table.len();
        }
    }
}

/// What is known of an object.
struct Object {
    footer: Footer,
    table: Vec<u32>,
    /// Where each frame begins, and the last one ends.
    starts: Vec<u64>,
    cipher: Option<Cipher>,
}

impl Object {
    fn new(footer: Footer, table: Vec<u32>, cipher: Option<Cipher>) -> Object {
        let mut at = 0;
        let mut starts = vec![0];
        starts.extend(table.iter().map(|entry| {
            at += stored_len(*entry);
            at
        }));
        Object { footer, table, starts, cipher }
    }

    /// Bytes of the whole object.
    fn stored(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default() + self.footer.tail_len()
    }
}

impl CodedStore {
    /// A store over `inner`. New objects are compressed so, and encrypted if there are keys;
    /// what is there is read as it was stored. `scratch` is a folder for blobs on their way.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        compression: Compression,
        keys: Option<KeyRing>,
        scratch: &Path,
    ) -> Result<CodedStore> {
        std::fs::create_dir_all(scratch)
            .map_err(|error| Error::from_io(format!("make {}", scratch.display()), &error))?;
        let names = match &keys {
            Some(keys) => Some(keys.names().ok_or_else(unable)?),
            None => None,
        };
        Ok(CodedStore {
            inner,
            compression,
            keys,
            names,
            scratch: scratch.to_owned(),
            random: SystemRandom::new(),
            tables: Mutex::default(),
            listing: Mutex::default(),
            next_scratch: AtomicU64::new(0),
        })
    }

    fn inner_id(&self, id: BlobId) -> BlobId {
        self.names.as_ref().map_or(id, |names| names.hide(id))
    }

    fn cipher(&self, footer: &Footer, id: BlobId) -> Result<Option<Cipher>> {
        let Some(key_id) = footer.key else {
            // An object that anybody could have put there is not taken for an encrypted one.
            return if self.keys.is_some() { Err(damaged(id, "it is not encrypted")) } else { Ok(None) };
        };
        let key = self.keys.as_ref().and_then(|keys| keys.find(key_id));
        let key = key.ok_or_else(|| {
            let mark: String = key_id.iter().map(|byte| format!("{byte:02x}")).collect();
            Error::Corrupt(format!(
                "blob {:016x} was encrypted with the key of mark {mark}, which is not among those given",
                id.0
            ))
        })?;
        key.cipher(&footer.salt, id).map(Some).ok_or_else(unable)
    }

    /// Reads an object's end.
    async fn look(&self, id: BlobId) -> Result<Arc<Object>> {
        let inner = self.inner_id(id);
        let stored = self.inner.head(inner).await?.len;
        let mut tail = self.inner.get(inner, stored.saturating_sub(TAIL)..stored).await?;
        let footer = tail.last_chunk::<FOOTER>().ok_or_else(|| damaged(id, "it is cut short"))?;
        let footer = Footer::parse(footer).map_err(|why| damaged(id, why))?;
        let wanted = footer.tail_len();
        if wanted > stored {
            return Err(damaged(id, "it is cut short"));
        }
        if wanted > tail.len() as u64 {
            tail = self.inner.get(inner, stored - wanted..stored).await?;
        }
        let skip = (tail.len() as u64).saturating_sub(wanted) as usize;
        let tail = tail.get(skip..).unwrap_or_default();
        let cipher = self.cipher(&footer, id)?;
        let table = footer.open_table(tail, id, cipher.as_ref()).map_err(|why| damaged(id, why))?;
        let object = Arc::new(Object::new(footer, table, cipher));
        if object.stored() != stored {
            return Err(damaged(id, "its length is not what its end says"));
        }
        self.tables.lock().insert(id, object.clone());
        Ok(object)
    }

    async fn read(&self, id: BlobId, range: Range<u64>, ahead: bool) -> Result<Bytes> {
        let known = self.tables.lock().get(id);
        if let Some(object) = known {
            match self.read_by(&object, id, &range, ahead).await {
                // The object may be another than the one remembered: an upload that was given up
                // can arrive after the one that followed it.
                Err(Error::Corrupt(_)) => self.tables.lock().remove(id),
                other => return other,
            }
        }
        let object = self.look(id).await?;
        self.read_by(&object, id, &range, ahead).await
    }

    async fn read_by(&self, object: &Object, id: BlobId, range: &Range<u64>, ahead: bool) -> Result<Bytes> {
        if range.start > range.end || range.end > object.footer.len {
            return Err(Error::Invalid);
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, end) = (range.start / FRAME, range.end.div_ceil(FRAME));
        let start_of = |frame: u64| object.starts.get(frame as usize).copied().ok_or(Error::Invalid);
        let (from, to) = (start_of(first)?, start_of(end)?);
        let inner = self.inner_id(id);
        let asked = if ahead { self.inner.get_ahead(inner, from..to) } else { self.inner.get(inner, from..to) };
        let stored = match asked.await {
            // The object ends before, though its table says that it does not.
            Err(Error::Invalid) => return Err(damaged(id, "it is cut short")),
            other => other?,
        };
        let mut out = Vec::with_capacity(((end - first) * FRAME) as usize);
        for n in first..end {
            let place = (start_of(n)? - from) as usize..(start_of(n + 1)? - from) as usize;
            let bytes = stored.get(place).ok_or_else(|| damaged(id, "the answer is cut short"))?;
            let entry = object.table.get(n as usize).copied().ok_or(Error::Invalid)?;
            let plain = object.footer.decode_frame(n, entry, bytes, id, object.cipher.as_ref());
            out.extend(plain.ok_or_else(|| damaged(id, &format!("frame {n} is not as it was stored")))?);
        }
        let skip = (range.start - first * FRAME) as usize;
        Ok(Bytes::from(out).slice(skip..skip + (range.end - range.start) as usize))
    }

    /// Codes a blob into a file without a name.
    fn encode(&self, id: BlobId, source: &mut dyn BlobSource) -> Result<(Coded, Object)> {
        let len = source.len();
        if len > format::MOST_BYTES {
            return Err(Error::FileTooLarge);
        }
        let mut salt = [0; SALT];
        self.random.fill(&mut salt).map_err(|_| unable())?;
        let key = match &self.keys {
            Some(keys) => Some(keys.first().ok_or_else(unable)?.id()),
            None => None,
        };
        let frames = u32::try_from(len.div_ceil(FRAME)).map_err(|_| Error::FileTooLarge)?;
        let footer = Footer { compression: self.compression, key, frames, len, salt };
        let cipher = self.cipher(&footer, id)?;
        let mut coded = Coded { file: self.scratch_file()?, len: 0, at: 0 };
        let mut table = Vec::new();
        for n in 0..u64::from(frames) {
            let plain = fill(source, (len - n * FRAME).min(FRAME) as usize)?;
            let (entry, stored) = footer.encode_frame(n, &plain, id, cipher.as_ref()).ok_or_else(unable)?;
            coded.append(&stored)?;
            table.push(entry);
        }
        coded.append(&footer.encode(&table, id, cipher.as_ref()).ok_or_else(unable)?)?;
        Ok((coded, Object::new(footer, table, cipher)))
    }

    fn scratch_file(&self) -> Result<File> {
        let failed =
            |error: std::io::Error| Error::from_io(format!("make a file in {}", self.scratch.display()), &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match options.clone().custom_flags(libc::O_TMPFILE).open(&self.scratch) {
            Ok(file) => Ok(file),
            // A file system that has no files without names.
            Err(_) => {
                let number = self.next_scratch.fetch_add(1, Ordering::Relaxed);
                let path = self.scratch.join(format!("coding.{}.{number}", std::process::id()));
                let file = options.create(true).truncate(true).open(&path).map_err(failed)?;
                std::fs::remove_file(&path).map_err(failed)?;
                Ok(file)
            }
        }
    }

    /// All blobs, from the store below, in order of their own ids.
    async fn list_all(&self) -> Result<Vec<BlobId>> {
        let (mut all, mut after) = (Vec::new(), BlobId::NONE);
        loop {
            let page = self.inner.list(after, LIST_BLOBS).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            all.extend(page.iter().map(|line| self.names.as_ref().map_or(line.id, |names| names.show(line.id))));
        }
        all.sort_unstable();
        Ok(all)
    }
}

fn damaged(id: BlobId, why: &str) -> Error {
    Error::Corrupt(format!("blob {:016x} in the object store is damaged: {why}", id.0))
}

fn unable() -> Error {
    Error::Io("the encryption library failed".to_owned())
}

/// The next `len` bytes of a source.
fn fill(source: &mut dyn BlobSource, len: usize) -> Result<Bytes> {
    let first = source.next(len)?;
    if first.len() == len {
        return Ok(first);
    }
    let mut out = first.to_vec();
    while out.len() < len {
        let more = source.next(len - out.len())?;
        if more.is_empty() {
            return Err(Error::Io("a blob ended before its length".to_owned()));
        }
        out.extend_from_slice(&more);
    }
    Ok(out.into())
}

/// A coded blob on its way.
struct Coded {
    file: File,
    len: u64,
    at: u64,
}

impl Coded {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.len).map_err(|error| Error::from_io("write a coded blob", &error))?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl BlobSource for Coded {
    fn len(&self) -> u64 {
        self.len
    }

    fn next(&mut self, max: usize) -> Result<Bytes> {
        let mut buf = vec![0; (self.len - self.at).min(max as u64) as usize];
        self.file.read_exact_at(&mut buf, self.at).map_err(|error| Error::from_io("read a coded blob", &error))?;
        self.at += buf.len() as u64;
        Ok(buf.into())
    }
}

impl ObjectStore for CodedStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (mut coded, object) = self.encode(id, source)?;
            self.inner.put(self.inner_id(id), &mut coded).await?;
            self.tables.lock().insert(id, Arc::new(object));
            Ok(())
        })
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.read(id, range, false))
    }

    fn get_ahead<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.read(id, range, true))
    }

    fn get_original<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        // Who goes through a whole blob begins here, and has its table read and checked once more.
        if range.start == 0 {
            self.tables.lock().remove(id);
        }
        Box::pin(self.read(id, range, false))
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        Box::pin(async move {
            let known = self.tables.lock().get(id);
            let object = match known {
                // Asked each time, for it must be there now.
                Some(object) if self.inner.head(self.inner_id(id)).await?.len == object.stored() => object,
                _ => self.look(id).await?,
            };
            Ok(BlobInfo { id, len: object.footer.len })
        })
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.inner.delete(self.inner_id(id)).await?;
            self.tables.lock().remove(id);
            Ok(())
        })
    }

    fn delete_all<'a>(&'a self, ids: &'a [BlobId]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let inner: Vec<_> = ids.iter().map(|id| self.inner_id(*id)).collect();
            self.inner.delete_all(&inner).await?;
            let mut tables = self.tables.lock();
            ids.iter().for_each(|id| tables.remove(*id));
            Ok(())
        })
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(async move {
            let mut all = self.listing.lock().clone();
            if after == BlobId::NONE || all.is_empty() {
                all = Arc::new(self.list_all().await?);
                *self.listing.lock() = all.clone();
            }
            let above = all.partition_point(|id| *id <= after);
            let page: Vec<Listed> =
                all.iter().skip(above).take(limit).map(|id| Listed { id: *id, len: None }).collect();
            if page.is_empty() {
                *self.listing.lock() = Arc::default();
            }
            Ok(page)
        })
    }

    fn distrust(&self, id: BlobId, range: Range<u64>) {
        self.tables.lock().remove(id);
        self.inner.distrust(self.inner_id(id), range);
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn release<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        self.inner.release()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.inner.traffic()
    }
}

#[cfg(test)]
mod later_tests;
#[cfg(test)]
mod tests;
