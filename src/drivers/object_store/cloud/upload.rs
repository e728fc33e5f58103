//! Storing a blob: a small one in one request, a large one in parts that go up side by side.
//! It is there whole or not at all.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobSource, BoxFuture};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::sync::atomic::Ordering;

use super::CloudStore;

/// Bytes of a part. S3 takes no smaller ones than 5 MiB, and 10,000 of them.
const PART: usize = 8 << 20;
/// Parts under way at once; with the one that is being read they are what an upload holds in memory.
const PARTS: usize = 2;
/// Bytes read from a source at a time.
const STEP: usize = 1 << 20;

type Upload = Box<dyn MultipartUpload>;

/// Stores a blob.
pub(super) async fn put(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    if source.len() <= PART as u64 { put_whole(store, id, source).await } else { put_parts(store, id, source).await }
}

async fn put_whole(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    let bytes = next_part(source)?;
    check_len(id, bytes.len() as u64, source)?;
    let remote = store.remote.clone();
    let len = bytes.len() as u64;
    store
        .spawn(async move {
            remote.counters.puts.fetch_add(1, Ordering::Relaxed);
            let options = PutOptions::from(PutMode::Create);
            let put = remote.objects.put_opts(&remote.blob(id), bytes.into(), options).await;
            put.map_err(|error| remote.failed(&error))?;
            remote.counters.bytes_up.fetch_add(len, Ordering::Relaxed);
            Ok(())
        })
        .await
}

async fn put_parts(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource) -> Result<()> {
    let remote = store.remote.clone();
    // Nobody else makes this blob, so it is enough to look before.
    let begun = store.spawn(async move {
        match remote.len(id).await {
            Ok(_) => return Err(Error::Exists),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        remote.counters.puts.fetch_add(1, Ordering::Relaxed);
        remote.objects.put_multipart(&remote.blob(id)).await.map_err(|error| remote.failed(&error))
    });
    let mut upload = begun.await?;
    let sent = send_parts(store, id, source, &mut upload).await;
    let remote = store.remote.clone();
    let end = store.spawn(async move {
        match sent {
            Ok(()) => {
                remote.counters.puts.fetch_add(1, Ordering::Relaxed);
                upload.complete().await.map(drop).map_err(|error| remote.failed(&error))
            }
            Err(error) => {
                if let Err(left) = upload.abort().await {
                    log::warn!("{}: parts of blob {:016x} stay behind: {left}", remote.name, id.0);
                }
                Err(error)
            }
        }
    });
    end.await
}

async fn send_parts(store: &CloudStore, id: BlobId, source: &mut dyn BlobSource, upload: &mut Upload) -> Result<()> {
    let mut under_way: VecDeque<BoxFuture<'static, Result<()>>> = VecDeque::new();
    let mut total = 0;
    loop {
        let part = next_part(source)?;
        if part.is_empty() {
            break;
        }
        total += part.len() as u64;
        if under_way.len() == PARTS
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.await?;
        }
        under_way.push_back(send_part(store, upload, part));
    }
    for part in under_way {
        part.await?;
    }
    check_len(id, total, source)
}

/// Starts to send a part; the answer is when it has arrived.
fn send_part(store: &CloudStore, upload: &mut Upload, part: Bytes) -> BoxFuture<'static, Result<()>> {
    let (remote, len) = (store.remote.clone(), part.len() as u64);
    remote.counters.puts.fetch_add(1, Ordering::Relaxed);
    let sending = upload.put_part(PutPayload::from(part));
    store.spawn(async move {
        sending.await.map_err(|error| remote.failed(&error))?;
        remote.counters.bytes_up.fetch_add(len, Ordering::Relaxed);
        Ok(())
    })
}

/// The next bytes of a source, as many as a part has unless it ends.
fn next_part(source: &mut dyn BlobSource) -> Result<Bytes> {
    let mut part = BytesMut::new();
    while part.len() < PART {
        let piece = source.next(STEP.min(PART - part.len()))?;
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
