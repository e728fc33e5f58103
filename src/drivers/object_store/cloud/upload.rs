//! Storing a blob: a small one in one request, a large one in parts that go up side by side.
//! It is there whole or not at all.

use bytes::{Bytes, BytesMut};
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobSource, BoxFuture};
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::transfer::PartMemory;
use super::failure::is_refusal_of_form;
use super::{CloudStore, Remote};

/// Bytes of a part. S3 takes no smaller ones than 5 MiB, and 10,000 of them.
const PART: usize = 8 << 20;

type Upload = Box<dyn MultipartUpload>;
type Sending = FuturesUnordered<BoxFuture<'static, Result<()>>>;

/// Stores a blob, if this volume may.
pub(super) async fn put(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    if source.len() <= PART as u64 {
        return put_whole(store, id, source).await;
    }
    may_change(store).await?;
    put_parts(store, id, source).await
}

/// Refuses unless this volume may change what is there; is asked from now on, not once somebody waits.
fn may_change(store: &CloudStore) -> BoxFuture<'static, Result<()>> {
    store.spawn(CloudStore::may_change(store.remote.clone(), store.fence.clone()))
}

async fn put_whole(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    let room = store.memory.take_part(source.len()).await;
    // While the bytes are read.
    let may = may_change(store);
    let bytes = next_part(source)?;
    check_len(id, bytes.len() as u64, source)?;
    may.await?;
    let remote = store.remote.clone();
    let len = bytes.len() as u64;
    store
        .spawn(async move {
            let put = remote.put_new(&remote.blob(id), bytes.into()).await;
            drop(room);
            put.map_err(|error| remote.failed(&error))?;
            remote.counters.bytes_up.fetch_add(len, Ordering::Relaxed);
            Ok(())
        })
        .await
}

impl Remote {
    /// Stores an object that is not there yet, in one request.
    async fn put_new(&self, key: &Key, body: PutPayload) -> object_store::Result<()> {
        let options = || PutOptions::from(PutMode::Create);
        let light = self.light.as_ref().filter(|_| !self.is_light_refused.load(Ordering::Relaxed));
        if let Some(light) = light {
            self.counters.puts.fetch_add(1, Ordering::Relaxed);
            match light.put_opts(key, body.clone(), options()).await {
                Err(error) if is_refusal_of_form(&error) => {}
                other => return other.map(drop),
            }
        }
        self.counters.puts.fetch_add(1, Ordering::Relaxed);
        self.objects.put_opts(key, body, options()).await?;
        if light.is_some() && !self.is_light_refused.swap(true, Ordering::Relaxed) {
            log::info!("{}: bodies are signed from now on, as it does not take them otherwise", self.name);
        }
        Ok(())
    }
}

async fn put_parts(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    let upload = store.spawn(begin(store.remote.clone(), id)).await?;
    put_begun(store, id, source, upload).await
}

/// Sends all parts of an upload and completes it, or leaves nothing of it.
async fn put_begun(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource, mut upload: Upload) -> Result<()> {
    let mut sending = Sending::new();
    let sent = send_parts(store, id, source, &mut upload, &mut sending).await;
    // A part that comes after an abort may stay behind.
    while sending.next().await.is_some() {}
    let remote = store.remote.clone();
    let end = store.spawn(async move {
        let done = match sent {
            Ok(()) => {
                remote.counters.puts.fetch_add(1, Ordering::Relaxed);
                upload.complete().await.map(drop).map_err(|error| remote.failed(&error))
            }
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(left) = upload.abort().await
        {
            log::warn!("{}: parts of blob {:016x} stay behind: {left}", remote.name, id.0);
        }
        done
    });
    end.await
}

/// Begins an upload, and looks meanwhile whether the blob is there: nobody else makes it, so that
/// is enough.
async fn begin(remote: Arc<Remote>, id: BlobId) -> Result<Upload> {
    let key = remote.blob(id);
    remote.counters.puts.fetch_add(1, Ordering::Relaxed);
    let (there, begun) = join(remote.len(id), remote.objects.put_multipart(&key)).await;
    let refused = match there {
        Err(Error::NotFound) => return begun.map_err(|error| remote.failed(&error)),
        Ok(_) => Error::Exists,
        Err(error) => error,
    };
    if let Ok(mut upload) = begun
        && let Err(left) = upload.abort().await
    {
        log::warn!("{}: an upload of blob {:016x} stays behind: {left}", remote.name, id.0);
    }
    Err(refused)
}

/// Sends all parts; on failure those in `sending` are still on their way.
async fn send_parts(
    store: &CloudStore,
    id: BlobId,
    source: &mut dyn BlobSource,
    upload: &mut Upload,
    sending: &mut Sending,
) -> Result<()> {
    let mut total = 0;
    loop {
        // Whichever part ends first makes room, of this upload or of another.
        let room = store.memory.take_part(source.len().min(PART as u64)).await;
        while let Some(Some(ended)) = sending.next().now_or_never() {
            ended?;
        }
        let part = next_part(source)?;
        if part.is_empty() {
            break;
        }
        total += part.len() as u64;
        sending.push(send_part(store, upload, part, room));
    }
    while let Some(ended) = sending.next().await {
        ended?;
    }
    check_len(id, total, source)
}

/// Starts to send a part; the answer is when it has arrived.
fn send_part(store: &CloudStore, upload: &mut Upload, part: Bytes, room: PartMemory) -> BoxFuture<'static, Result<()>> {
    let (remote, len) = (store.remote.clone(), part.len() as u64);
    remote.counters.puts.fetch_add(1, Ordering::Relaxed);
    let sending = upload.put_part(PutPayload::from(part));
    store.spawn(async move {
        let sent = sending.await;
        drop(room);
        sent.map_err(|error| remote.failed(&error))?;
        remote.counters.bytes_up.fetch_add(len, Ordering::Relaxed);
        Ok(())
    })
}

/// The next bytes of a source, as many as a part has unless it ends.
fn next_part(source: &mut dyn BlobSource) -> Result<Bytes> {
    let most = source.len().min(PART as u64) as usize;
    let first = source.next(PART)?;
    // Most give all that is asked for at once.
    if first.len() >= most || first.is_empty() {
        return Ok(first);
    }
    let mut part = BytesMut::with_capacity(most);
    part.extend_from_slice(&first);
    while part.len() < PART {
        let piece = source.next(PART - part.len())?;
        if piece.is_empty() {
            break;
        }
        part.extend_from_slice(&piece);
    }
    Ok(part.freeze())
}

fn check_len(id: BlobId, came: u64, source: &dyn BlobSource) -> Result<()> {
    if came == source.len() {
        return Ok(());
    }
    Err(Error::Io(format!("blob {:016x}: {came} bytes came, {} were announced", id.0, source.len())))
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
