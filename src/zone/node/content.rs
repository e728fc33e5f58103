//! Content that other members have: what is not on this machine is fetched from the member
//! that wrote it, and kept in memory for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use nexus_kernel::content::{ContentStore, ContentSync, Image, ImageLimits, Staged, WriteHint};
use nexus_kernel::disk::DiskSpace;
use nexus_kernel::model::{self, Blob, Piece, Placement, keys};
use nexus_kernel::{BlobId, Error, Ino, Result, StoreId, Table, Zone};
use parking_lot::Mutex;

use super::ZoneNode;
use super::joined::JoinedZone;
use crate::net::{BlobRange, CallError, Refusal};

/// Bytes that are fetched at once, from a multiple of as many on.
const CHUNK: u64 = 512 << 10;
/// Bytes that are kept.
const KEPT: usize = 32 << 20;
/// How long a piece may take to come.
const LIMIT: Duration = Duration::from_secs(10);

/// Content of this machine, and of the members of its zones.
pub struct SharedContent {
    local: Arc<dyn ContentStore>,
    writer: u32,
    node: OnceLock<Weak<ZoneNode>>,
    kept: Mutex<Kept>,
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
        Arc::new(SharedContent { local, writer, node: OnceLock::new(), kept: Mutex::default() })
    }

    /// Fetches through this node from now on.
    pub fn connect(&self, node: &Arc<ZoneNode>) {
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn fetch(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let node = self.node.get().and_then(Weak::upgrade).ok_or(Error::NotFound)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let start = at - at % CHUNK;
            let skip = (at - start) as usize;
            let wanted = rest.len().min(CHUNK as usize - skip);
            let chunk = self.chunk(&node, blob, start, skip + wanted)?;
            let part = chunk.get(skip..skip + wanted).ok_or_else(|| short(blob))?;
            if let Some(to) = rest.get_mut(..wanted) {
                to.copy_from_slice(part);
            }
            done += wanted;
        }
        Ok(())
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
            let Some(known) = find_blob(&joined, blob)? else { continue };
            let members = joined.zone().group().status().membership.members;
            let writer = members.into_iter().find(|(_, member)| member.writer == blob.origin().0);
            let Some((id, member)) = writer else { continue };
            let len = known.len.saturating_sub(start).min(CHUNK).max(needed);
            let client = joined.links().client(id, &member)?;
            let range = BlobRange { blob, offset: start, len };
            let fetched = self.handle.block_on(async {
                let mut pieces = client.fetch_blob(range, LIMIT).await?;
                let mut bytes = BytesMut::with_capacity(len as usize);
                while let Some(piece) = pieces.next().await {
                    bytes.extend_from_slice(&piece?);
                }
                Ok::<_, CallError>(bytes.freeze())
            });
            return fetched.map_err(|error| match error {
                CallError::Refused(Refusal::NotFound(_)) => Error::NotFound,
                other => Error::Io(format!(
                    "blob {:016x} is on {} alone, which does not send it now: {other}",
                    blob.0, member.name
                )),
            });
        }
        Err(Error::NotFound)
    }
}

fn find_blob(joined: &JoinedZone, blob: BlobId) -> Result<Option<Blob>> {
    let mut found = None;
    joined.zone().read(&mut |state| {
        let value = state.get(Table::Blob, &keys::blob(blob))?;
        found = value.map(|value| model::decode("blob", &value)).transpose()?;
        Ok(())
    })?;
    Ok(found)
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
