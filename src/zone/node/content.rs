//! Content that other members have: what is not on this machine is fetched from the member
//! that wrote it, or, where that does not answer, from one that keeps a copy, and kept in
//! memory for a while.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use nexus_kernel::content::{ContentStore, ContentSync, Image, ImageLimits, Staged, WriteHint};
use nexus_kernel::disk::DiskSpace;
use nexus_kernel::model::{Piece, Placement};
use nexus_kernel::scan::find_blob;
use nexus_kernel::{BlobId, Error, Ino, Result, StoreId};
use parking_lot::Mutex;

use super::ZoneNode;
use crate::net::{BlobRange, CallError, PeerClient, Refusal};

/// Bytes that are fetched at once, from a multiple of as many on.
const CHUNK: u64 = 512 << 10;
/// Bytes that are kept.
const KEPT: usize = 32 << 20;
/// How long a piece may take to come from its writer, before those are asked that have copies,
/// and from each of these.
const FIRST: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(10);
/// How long a writer that did not answer is asked after those that have copies.
const AWAY: Duration = Duration::from_secs(5);

/// Content of this machine, and of the members of its zones.
pub struct SharedContent {
    local: Arc<dyn ContentStore>,
    writer: u32,
    node: OnceLock<Weak<ZoneNode>>,
    kept: Mutex<Kept>,
    /// Writers that did not answer, and when.
    away: Mutex<HashMap<u32, Instant>>,
}

#[derive(Default)]
struct Kept {
    chunks: HashMap<(BlobId, u64), Bytes>,
    order: VecDeque<(BlobId, u64)>,
    bytes: usize,
}

impl Kept {
    fn put(&mut self, place: (BlobId, u64), chunk: Bytes) {
        self.bytes += chunk.len();
        match self.chunks.insert(place, chunk) {
            Some(old) => self.bytes -= old.len(),
            None => self.order.push_back(place),
        }
        while self.bytes > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.chunks.remove(&oldest).map_or(0, |chunk| chunk.len());
        }
    }
}

impl SharedContent {
    /// The content in `local`, whose blobs `writer` makes.
    pub fn new(local: Arc<dyn ContentStore>, writer: u32) -> Arc<SharedContent> {
        Arc::new(SharedContent { local, writer, node: OnceLock::new(), kept: Mutex::default(), away: Mutex::default() })
    }

    /// Fetches through this node from now on.
    pub fn connect(&self, node: &Arc<ZoneNode>) {
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn fetch(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let node = self.node.get().and_then(Weak::upgrade).ok_or(Error::NotFound)?;
        if node.read_copy(blob, offset, buf) {
            return Ok(());
        }
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let start = at - at % CHUNK;
            let skip = (at - start) as usize;
            let wanted = rest.len().min(CHUNK as usize - skip);
            let Some(to) = rest.get_mut(..wanted) else { return Err(short(blob)) };
            self.fetch_part(&node, blob, start, skip, to)?;
            done += wanted;
        }
        Ok(())
    }

    /// Fills `to` with bytes of the chunk that begins at `start`, from `skip` on.
    fn fetch_part(&self, node: &ZoneNode, blob: BlobId, start: u64, skip: usize, to: &mut [u8]) -> Result<()> {
        let writer = blob.origin().0;
        let is_away = self.away.lock().get(&writer).is_some_and(|since| since.elapsed() < AWAY);
        if is_away && node.fetch_copy(blob, start + skip as u64, to).is_ok() {
            return Ok(());
        }
        match self.chunk(node, blob, start, skip + to.len()) {
            Ok(chunk) => {
                to.copy_from_slice(chunk.get(skip..skip + to.len()).ok_or_else(|| short(blob))?);
                Ok(())
            }
            Err(error) => {
                self.away.lock().insert(writer, Instant::now());
                // What the writer says tells more than that there is no copy either.
                node.fetch_copy(blob, start + skip as u64, to).map_err(|_| error)
            }
        }
    }

    /// The bytes of a blob from `start` on, at least `needed` of them.
    fn chunk(&self, node: &ZoneNode, blob: BlobId, start: u64, needed: usize) -> Result<Bytes> {
        let place = (blob, start);
        if let Some(chunk) = self.kept.lock().chunks.get(&place).filter(|chunk| chunk.len() >= needed) {
            return Ok(chunk.clone());
        }
        let chunk = node.fetch(blob, start, needed as u64)?;
        if chunk.len() < needed {
            return Err(short(blob));
        }
        self.kept.lock().put(place, chunk.clone());
        Ok(chunk)
    }
}

fn short(blob: BlobId) -> Error {
    Error::Io(format!("blob {:016x}: the member that has it sent less than was asked for", blob.0))
}

impl ZoneNode {
    /// Bytes of another member's blob from `start` on: up to [`CHUNK`], at least `needed`.
    fn fetch(&self, blob: BlobId, start: u64, needed: u64) -> Result<Bytes> {
        for joined in self.zones() {
            let Some(known) = find_blob(&**joined.zone(), blob)? else { continue };
            let members = joined.zone().group().status().membership.members;
            let writer = members.into_iter().find(|(_, member)| member.writer == blob.origin().0);
            let Some((id, member)) = writer else { continue };
            let len = known.len.saturating_sub(start).min(CHUNK).max(needed);
            let client = joined.links().client(id, &member)?;
            let range = BlobRange { blob, offset: start, len };
            return self.handle.block_on(receive(&client, range, FIRST)).map_err(|error| match error {
                CallError::Refused(Refusal::NotFound(_)) => Error::NotFound,
                other => Error::Io(format!(
                    "blob {:016x} is on {} alone, which does not send it now: {other}",
                    blob.0, member.name
                )),
            });
        }
        Err(Error::NotFound)
    }

    /// Fills `to` with bytes of another member's blob, from this node's copy or another
    /// member's.
    fn fetch_copy(&self, blob: BlobId, offset: u64, to: &mut [u8]) -> Result<()> {
        for joined in self.zones() {
            if find_blob(&**joined.zone(), blob)?.is_none() {
                continue;
            }
            let me = joined.member();
            let members = joined.zone().group().status().membership.members;
            for (id, member) in members.iter().filter(|(id, member)| **id != me && member.writer != blob.origin().0) {
                let client = joined.links().client(*id, member)?;
                let range = BlobRange { blob, offset, len: to.len() as u64 };
                match self.handle.block_on(receive(&client, range, LIMIT)) {
                    Ok(bytes) if bytes.len() == to.len() => {
                        to.copy_from_slice(&bytes);
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(error) => log::debug!("{} has no copy of blob {:016x}: {error}", member.name, blob.0),
                }
            }
        }
        Err(Error::NotFound)
    }

    /// Fills `buf` from this node's copy of a blob, if that has all of it.
    fn read_copy(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> bool {
        match self.mirror.read(blob, offset, buf) {
            Ok(is_there) => is_there,
            Err(error) => {
                log::error!("the copy of blob {:016x} can't be read: {error}", blob.0);
                false
            }
        }
    }
}

/// The bytes of a range.
async fn receive(client: &PeerClient, range: BlobRange, limit: Duration) -> std::result::Result<Bytes, CallError> {
    let mut pieces = client.fetch_blob(range, limit).await?;
    let mut bytes = BytesMut::with_capacity(range.len as usize);
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes.freeze())
}

impl ContentSync for SharedContent {
    fn sync(&self) -> Result<()> {
        self.local.sync()
    }

    fn verify(&self, piece: &Piece) -> Result<bool> {
        self.local.verify(piece)
    }

    fn images(&self, limits: ImageLimits, keep: &mut dyn FnMut(Image<'_>) -> Result<()>) -> Result<bool> {
        self.local.images(limits, keep)
    }

    fn restore(&self, image: Image<'_>) -> Result<()> {
        self.local.restore(image)
    }
}

impl ContentStore for SharedContent {
    fn write(&self, hint: WriteHint, data: &[u8]) -> Result<Staged> {
        self.local.write(hint, data)
    }

    fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.local.read(blob, offset, buf) {
            Err(Error::NotFound) if blob.origin().0 != self.writer => self.fetch(blob, offset, buf),
            // What is damaged or missing here others may have a copy of.
            Err(error @ (Error::NotFound | Error::Corrupt(_) | Error::Io(_))) if blob.origin().0 == self.writer => {
                let node = self.node.get().and_then(Weak::upgrade);
                let copied = node.is_some_and(|node| node.fetch_copy(blob, offset, buf).is_ok());
                if copied { Ok(()) } else { Err(error) }
            }
            done => done,
        }
    }

    fn fsync_uploads(&self, placement: Placement) -> bool {
        self.local.fsync_uploads(placement)
    }

    fn is_only_here(&self, blob: BlobId) -> bool {
        self.local.is_only_here(blob)
    }

    fn upload(&self, blobs: &[BlobId]) -> Result<()> {
        self.local.upload(blobs)
    }

    fn has_store(&self, store: StoreId) -> bool {
        self.local.has_store(store)
    }

    fn is_fetched(&self, blob: BlobId) -> bool {
        blob.origin().0 == self.writer && self.local.is_fetched(blob)
    }

    fn want(&self, blob: BlobId, range: Range<u64>) -> bool {
        self.local.want(blob, range)
    }

    fn closed(&self, ino: Ino) {
        self.local.closed(ino);
    }

    fn check_space(&self, len: u64) -> Result<()> {
        self.local.check_space(len)
    }

    fn space(&self) -> Result<DiskSpace> {
        self.local.space()
    }
}
