//! The limits over the client library's own memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt};

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn store(limits: StoreLimits) -> (Arc<Limited>, Arc<Limiter>) {
    let limiter = Limiter::new(limits);
    (Arc::new(Limited::new(Arc::new(InMemory::new()), limiter.clone())), limiter)
}

#[test]
fn bytes_are_paid_for_before_they_are_sent() {
    let (store, limiter) = store(StoreLimits { upload: Some(1 << 20), ..StoreLimits::default() });
    runtime().block_on(async {
        let began = Instant::now();
        let mut upload = store.put_multipart(&Path::from("a")).await.unwrap();
        for _ in 0..2 {
            upload.put_part(vec![0; 256 << 10].into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        limiter.set(StoreLimits::default());
        let began = Instant::now();
        store.put(&Path::from("b"), Bytes::from(vec![0; 16 << 20]).into()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(limiter.limits(), StoreLimits::default());
    });
}

#[test]
fn a_read_holds_its_place_until_its_bytes_are_there() {
    let (store, limiter) = store(StoreLimits { max_requests: Some(1), ..StoreLimits::default() });
    runtime().block_on(async {
        let path = Path::from("a");
        store.put(&path, Bytes::from_static(b"content").into()).await.unwrap();
        let got = store.get_opts(&path, GetOptions::default()).await.unwrap();
        assert!(matches!(got.payload, GetResultPayload::Stream(_)));
        let second = Arc::new(AtomicBool::new(false));
        let (other, done, at) = (store.clone(), second.clone(), path.clone());
        let task = tokio::spawn(async move {
            other.head(&at).await.unwrap();
            done.store(true, Ordering::SeqCst);
        });
        while limiter.state.lock().slots.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!second.load(Ordering::SeqCst), "two were under way");
        assert_eq!(got.bytes().await.unwrap(), "content");
        task.await.unwrap();
        // Whoever is given up while it waits leaves nothing behind.
        let held = store.get_opts(&path, GetOptions::default()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), store.head(&path)).await.is_err());
        drop(held);
        store.head(&path).await.unwrap();
        assert_eq!(limiter.state.lock().slots.waiting(), 0);
    });
}
