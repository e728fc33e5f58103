//! [`Bucket`]: somebody's own objects below a prefix, by their keys: paged listings, ranged
//! reads of one state of an object, whole puts, copies, deletes. Calls wait; each has a deadline.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::interrupt::unless_given_up;
use nexus_kernel::object_store::Traffic;
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{CopyMode, CopyOptions, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::Counters;
use super::connect::{CloudOptions, client_options, connect_parts};
use super::failure::explain;
use super::limits::{Limited, Limiter, StoreLimits, Urgency, Way};
use super::url::StoreUrl;

/// Threads that wait for the network.
const THREADS: usize = 2;
/// Bytes of a part of an upload, and how many are under way at once.
const PART: u64 = 8 << 20;
const PARTS: usize = 2;
/// Keys of a page at the most.
pub const PAGE_KEYS: usize = 1000;

/// An object as listings tell of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    /// Its key below the bucket's prefix, without a slash at its end.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was stored: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// Tells its states apart.
    pub etag: Option<String>,
}

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Objects.
    pub objects: Vec<ObjectInfo>,
    /// What comes before the next slash in keys that have one, without that slash.
    pub prefixes: Vec<String>,
    /// Where the listing goes on; `None` at its end.
    pub next: Option<String>,
}

/// Objects below a prefix.
pub struct Bucket {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// `None` where a listing comes as a whole.
    pages: Option<Arc<dyn PaginatedListStore>>,
    markers: Option<Markers>,
    /// What goes past `objects` begins here, too.
    limiter: Arc<Limiter>,
    counters: Counters,
    name: String,
    prefix: String,
}

/// Makes and deletes objects whose keys end in a slash, which the client library can't name.
struct Markers {
    store: AmazonS3,
    region: String,
    http: HttpClient,
}

impl Bucket {
    /// The bucket at `url`. Asks nothing yet.
    pub fn open(url: &StoreUrl, options: &CloudOptions, limiter: Arc<Limiter>) -> Result<Bucket> {
        let counters = Counters::default();
        let parts = connect_parts(url, options, &counters.failed_tries)?;
        let markers = match parts.s3 {
            Some((store, region)) => {
                let http = ReqwestConnector::default().connect(&client_options(options));
                let http = http.map_err(|error| explain(&url.to_string(), &error))?;
                Some(Markers { store, region, http })
            }
            None => None,
        };
        let prefix = url.prefix.clone();
        let objects = Arc::new(Limited::new(parts.objects, limiter.clone()));
        let (pages, name) = (Some(parts.pages), url.to_string());
        Bucket::over(Inner { objects, pages, markers, limiter, counters, name, prefix })
    }

    /// An empty one in memory, for tests.
    pub fn in_memory() -> Result<Bucket> {
        Bucket::in_memory_under(StoreLimits::default())
    }

    fn in_memory_under(limits: StoreLimits) -> Result<Bucket> {
        let limiter = Limiter::new(limits);
        let objects = Arc::new(Limited::new(Arc::new(object_store::memory::InMemory::new()), limiter.clone()));
        let (counters, name, prefix) = (Counters::default(), "memory".into(), String::new());
        Bucket::over(Inner { objects, pages: None, markers: None, limiter, counters, name, prefix })
    }

    fn over(inner: Inner) -> Result<Bucket> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("nexus-bucket")
            .enable_all()
            .build()
            .map_err(|error| Error::from_io("cannot start threads for the bucket", &error))?;
        Ok(Bucket { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let closed = || Error::Unavailable("the bucket is closed".into());
        self.runtime.as_ref().map(|runtime| runtime.spawn(work)).ok_or_else(closed)
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        join(self.spawn(work)?)
    }

    /// The same for what only brings something: it goes on without a caller who is killed.
    fn ask<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let ended = unless_given_up(self.spawn(work)?).ok_or(Error::Interrupted)?;
        ended.unwrap_or_else(cut_short)
    }

    /// What it was asked for since it was opened.
    pub fn traffic(&self) -> Traffic {
        self.inner.counters.traffic(Some(&self.inner.limiter))
    }

    /// Other limits, for requests that wait already, too.
    pub fn set_limits(&self, limits: StoreLimits) {
        self.inner.limiter.set(limits);
    }

    /// A page of at most `most` keys that begin with `prefix`; those with a further slash are
    /// told as prefixes if it is `delimited`.
    pub fn page(&self, prefix: &str, delimited: bool, token: Option<String>, most: usize) -> Result<Page> {
        let (inner, prefix) = (self.inner.clone(), self.inner.full(prefix));
        self.ask(async move { inner.page(prefix, delimited, token, most).await })
    }

    /// Bytes of the state `etag` of an object. [`Error::Conflict`] if it is in another one.
    pub fn read(&self, key: &str, etag: Option<String>, range: Range<u64>) -> Result<Bytes> {
        let (inner, key) = (self.inner.clone(), self.inner.key(key)?);
        self.ask(async move {
            let wanted = range.end.saturating_sub(range.start);
            count(&inner.counters.gets);
            let options = GetOptions { if_match: etag.clone(), range: Some(range.into()), ..GetOptions::default() };
            let got = inner.objects.get_opts(&key, options).await.map_err(|error| inner.failed(&error))?;
            // Not every service heeds the condition.
            if etag.is_some() && got.meta.e_tag.is_some() && got.meta.e_tag != etag {
                return Err(Error::Conflict);
            }
            let bytes = got.bytes().await.map_err(|error| inner.failed(&error))?;
            inner.counters.bytes_down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(Error::Conflict) }
        })
    }

    /// Stores the first `len` bytes of `file` as an object, whole or not at all; answers its
    /// ETag. With `exclusive`, [`Error::Exists`] if there is one.
    pub fn put(&self, key: &str, file: &File, len: u64, exclusive: bool) -> Result<Option<String>> {
        let (inner, key) = (self.inner.clone(), self.inner.key(key)?);
        if len > PART {
            return self.put_parts(key, file, len);
        }
        let bytes = read_part(file, 0, len)?;
        self.run(async move {
            count(&inner.counters.puts);
            let mode = if exclusive { PutMode::Create } else { PutMode::Overwrite };
            let put = inner.objects.put_opts(&key, bytes.into(), PutOptions::from(mode)).await;
            let etag = put.map(|put| put.e_tag).map_err(|error| inner.failed(&error))?;
            inner.counters.bytes_up.fetch_add(len, Ordering::Relaxed);
            Ok(etag)
        })
    }

    fn put_parts(&self, key: Key, file: &File, len: u64) -> Result<Option<String>> {
        let inner = self.inner.clone();
        count(&inner.counters.puts);
        let mut upload =
            self.run(async move { inner.objects.put_multipart(&key).await.map_err(|error| inner.failed(&error)) })?;
        let mut under_way: VecDeque<JoinHandle<Result<()>>> = VecDeque::new();
        let mut at = 0;
        let mut sent = Ok(());
        while sent.is_ok() && at < len {
            if under_way.len() == PARTS
                && let Some(oldest) = under_way.pop_front()
            {
                sent = join(oldest);
            }
            let take = PART.min(len - at);
            sent = sent.and_then(|()| {
                let sending = upload.put_part(PutPayload::from(read_part(file, at, take)?));
                let inner = self.inner.clone();
                count(&inner.counters.puts);
                under_way.push_back(self.spawn(async move {
                    sending.await.map_err(|error| inner.failed(&error))?;
                    inner.counters.bytes_up.fetch_add(take, Ordering::Relaxed);
                    Ok(())
                })?);
                Ok(())
            });
            at += take;
        }
        for part in under_way {
            let came = join(part);
            sent = sent.and(came);
        }
        let inner = self.inner.clone();
        self.run(async move {
            let done = match sent {
                Ok(()) => {
                    count(&inner.counters.puts);
                    upload.complete().await.map(|put| put.e_tag).map_err(|error| inner.failed(&error))
                }
                Err(error) => Err(error),
            };
            if done.is_err()
                && let Err(left) = upload.abort().await
            {
                log::warn!("{}: parts of an upload stay behind: {left}", inner.name);
            }
            done
        })
    }

    /// Copies an object within the bucket, over what is there.
    pub fn copy(&self, from: &str, to: &str) -> Result<()> {
        let (inner, from, to) = (self.inner.clone(), self.inner.key(from)?, self.inner.key(to)?);
        self.run(async move {
            count(&inner.counters.puts);
            let options = CopyOptions::new().with_mode(CopyMode::Overwrite);
            inner.objects.copy_opts(&from, &to, options).await.map_err(|error| inner.failed(&error))
        })
    }

    /// Deletes an object. One that is not there is deleted already.
    pub fn delete(&self, key: &str) -> Result<()> {
        let (inner, key) = (self.inner.clone(), self.inner.key(key)?);
        self.run(async move {
            count(&inner.counters.deletes);
            match inner.objects.delete(&key).await.map_err(|error| inner.failed(&error)) {
                Err(Error::NotFound) => Ok(()),
                other => other,
            }
        })
    }

    /// Makes the empty object `<dir>/` that shows an empty directory to others; `false` where
    /// the service is one to which that can't be said.
    pub fn make_marker(&self, dir: &str) -> Result<bool> {
        self.marker("PUT", dir, |counters| &counters.puts)
    }

    /// Deletes it again.
    pub fn drop_marker(&self, dir: &str) -> Result<bool> {
        self.marker("DELETE", dir, |counters| &counters.deletes)
    }

    fn marker(&self, method: &'static str, dir: &str, counter: fn(&Counters) -> &AtomicU64) -> Result<bool> {
        let (inner, key) = (self.inner.clone(), self.inner.key(dir)?);
        self.run(async move {
            match &inner.markers {
                Some(markers) => {
                    let _place = inner.limiter.begin(Way::Up, 0, Urgency::Demand).await;
                    count(counter(&inner.counters));
                    markers.send(&inner.name, method, &key).await.map(|()| true)
                }
                None => Ok(false),
            }
        })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Markers {
    async fn send(&self, name: &str, method: &str, key: &Key) -> Result<()> {
        let bad = |what: String| Error::Unavailable(format!("{name}: cannot ask for a directory's marker: {what}"));
        let method = method.parse().map_err(|_| Error::Invalid)?;
        let minute = std::time::Duration::from_secs(60);
        // Only for the address; the request is signed anew.
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        let signed = self.store.signed_url(request.method().clone(), key, minute).await;
        let mut url = signed.map_err(|error| explain(name, &error))?;
        url.set_query(None);
        let path = format!("{}/", url.path());
        url.set_path(&path);
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|error| bad(format!("{error}")))?;
        let credential = self.store.credentials().get_credential().await.map_err(|error| explain(name, &error))?;
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region);
        authorizer.try_authorize(&mut request, None).map_err(|error| explain(name, &error))?;
        let response = self.http.execute(request).await.map_err(|error| bad(error.to_string()))?;
        if response.status().is_success() { Ok(()) } else { Err(bad(format!("the answer is {}", response.status()))) }
    }
}

impl Inner {
    fn full(&self, rest: &str) -> String {
        if self.prefix.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.prefix) }
    }

    fn key(&self, rest: &str) -> Result<Key> {
        let key = Key::parse(self.full(rest)).map_err(|_| Error::Invalid)?;
        if rest.is_empty() { Err(Error::Invalid) } else { Ok(key) }
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        match error {
            object_store::Error::InvalidPath { source } => Error::Io(format!(
                "{}: a key can't be a file name, so its directory can't be shown: {source}",
                self.name
            )),
            error => {
                let error = explain(&self.name, error);
                if !matches!(error, Error::NotFound | Error::Exists | Error::Conflict) {
                    count(&self.counters.failures);
                }
                error
            }
        }
    }

    fn relative(&self, key: &Key) -> String {
        let key = key.as_ref();
        let rest = if self.prefix.is_empty() { Some(key) } else { key.strip_prefix(self.prefix.as_str()) };
        rest.unwrap_or(key).trim_start_matches('/').to_owned()
    }

    async fn page(&self, prefix: String, delimited: bool, token: Option<String>, most: usize) -> Result<Page> {
        count(&self.counters.lists);
        let (result, next) = match &self.pages {
            Some(pages) => {
                let options = PaginatedListOptions {
                    delimiter: delimited.then_some("/".into()),
                    max_keys: Some(most.min(PAGE_KEYS)),
                    page_token: token,
                    ..PaginatedListOptions::default()
                };
                let _place = self.limiter.begin(Way::Down, 0, Urgency::Demand).await;
                let page = pages.list_paginated(Some(&prefix), options).await.map_err(|error| self.failed(&error))?;
                (page.result, page.page_token)
            }
            None => (self.whole(&prefix, delimited).await?, None),
        };
        let objects = result.objects.into_iter().map(|meta| ObjectInfo {
            key: self.relative(&meta.location),
            size: meta.size,
            modified: (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos()),
            etag: meta.e_tag,
        });
        let prefixes = result.common_prefixes.iter().map(|key| self.relative(key)).collect();
        Ok(Page { objects: objects.collect(), prefixes, next })
    }

    /// A listing of a store that has no pages.
    async fn whole(&self, prefix: &str, delimited: bool) -> Result<object_store::ListResult> {
        use futures_util::TryStreamExt;
        let folder = Key::from(prefix.rsplit_once('/').map_or("", |(folder, _)| folder));
        let mut result = if delimited {
            self.objects.list_with_delimiter(Some(&folder)).await.map_err(|error| self.failed(&error))?
        } else {
            let objects: std::result::Result<Vec<_>, _> = self.objects.list(Some(&folder)).try_collect().await;
            let objects = objects.map_err(|error| self.failed(&error))?;
            object_store::ListResult { common_prefixes: Vec::new(), objects, extensions: Default::default() }
        };
        result.objects.retain(|meta| meta.location.as_ref().starts_with(prefix));
        result.common_prefixes.retain(|key| key.as_ref().starts_with(prefix));
        Ok(result)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn join<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    nexus_kernel::block_on(task).unwrap_or_else(cut_short)
}

fn cut_short<T>(error: tokio::task::JoinError) -> Result<T> {
    Err(Error::Io(format!("a request was cut short: {error}")))
}

fn read_part(file: &File, at: u64, len: u64) -> Result<Bytes> {
    let mut part = vec![0; len as usize];
    file.read_exact_at(&mut part, at).map_err(|error| Error::from_io("cannot read what is to be stored", &error))?;
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn limits_hold_for_parts_and_ranges() {
        const RATE: u64 = 8 << 20;
        let limits = StoreLimits { max_requests: Some(2), upload: Some(RATE), download: Some(RATE) };
        let bucket = Bucket::in_memory_under(limits).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * RATE).unwrap();
        let took = |work: &dyn Fn()| {
            let began = std::time::Instant::now();
            work();
            began.elapsed().as_secs_f64()
        };
        let up = took(&|| drop(bucket.put("a", &file, 2 * RATE, false).unwrap()));
        let down = took(&|| drop(bucket.read("a", None, 0..RATE).unwrap()));
        assert!(up > 1.2 && down > 0.5, "2 s of sending took {up} s, 1 s of fetching {down} s");
    }

    #[test]
    fn objects_are_put_listed_read_copied_and_deleted() {
        let bucket = Bucket::in_memory().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let etag = bucket.put("a/b", &file, 7, true).unwrap();
        assert_eq!(bucket.put("a/b", &file, 7, true), Err(Error::Exists));
        assert_eq!(bucket.read("a/b", etag.clone(), 1..4).unwrap(), "ont");
        bucket.copy("a/b", "c").unwrap();
        let page = bucket.page("", true, None, 10).unwrap();
        assert_eq!((page.prefixes, page.objects.len()), (vec!["a".to_owned()], 1));
        assert_eq!(bucket.page("a/", false, None, 10).unwrap().objects[0].key, "a/b");
        bucket.put("a/b", &file, 3, false).unwrap();
        assert_eq!(bucket.read("a/b", etag, 0..1), Err(Error::Conflict));
        bucket.delete("a/b").unwrap();
        assert_eq!(bucket.read("a/b", None, 0..1), Err(Error::NotFound));
        assert_eq!(bucket.put("a//b", &file, 3, false), Err(Error::Invalid));
        let Traffic { puts, gets, heads, lists, deletes, failures, bytes_up, bytes_down, .. } = bucket.traffic();
        assert_eq!((puts, gets, heads, lists, deletes, failures), (4, 3, 0, 2, 1, 0), "copies are puts, too");
        assert_eq!((bytes_up, bytes_down), (10, 3));
    }
}
