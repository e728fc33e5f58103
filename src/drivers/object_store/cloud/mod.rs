//! [`CloudStore`]: blobs as objects of a bucket in S3, Google Cloud Storage or Azure.
//!
//! ```text
//! <prefix>/NEXUS                  whose the prefix is, and which daemon may change it: see `fence`
//! <prefix>/blobs/<16 hex digits>  a blob, byte for byte
//! ```

mod body;
mod bucket;
mod connect;
mod failure;
mod fence;
mod folder;
mod inline;
mod limits;
mod probe;
mod profile;
mod unfinished;
mod upload;
mod url;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::ids::BlobId;
use nexus_kernel::object_store::{BlobInfo, BlobSource, BoxFuture, Listed, ObjectStore, Traffic};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetResult, ObjectStoreExt};
use tokio::runtime::Runtime;

pub use bucket::{Bucket, ObjectInfo, PAGE_KEYS, Page};
pub use connect::CloudOptions;
pub use fence::{Claimant, Fence};
pub use limits::{Limiter, StoreLimits};
pub use probe::ProbeStep;
pub use profile::CredentialsFile;
pub use url::{Provider, StoreUrl};

use super::transfer::StoreMemory;
use failure::explain;
use limits::{Limited, Urgency};
use unfinished::Unfinished;

/// How long a store may take to answer when it is opened. It may be tried once more, so that whoever waits
/// does so for about twice as long.
const OPENING: Duration = Duration::from_secs(5);
/// Threads that wait for the network.
const THREADS: usize = 2;
/// What a read is rounded to: a page, which is what a random read asks for.
const GRAIN: u64 = 4 << 10;
/// Bytes of a page, and of an answer that begins at one.
const PAGE: usize = 4 << 10;
const LARGE: usize = 64 << 10;

/// Blobs in a bucket. Every request has a deadline, so no caller waits for ever.
pub struct CloudStore {
    remote: Arc<Remote>,
    /// For a store that is a folder: what remains there of uploads that were cut short.
    leftovers: Option<folder::FolderStore>,
    runtime: Option<Runtime>,
    fence: Option<Fence>,
    /// For a bucket: small reads that somebody waits for.
    inline: Option<inline::Inline>,
    /// What uploads hold in memory.
    memory: Arc<StoreMemory>,
    limiter: Option<Arc<Limiter>>,
    /// The same bucket, asked for no longer than whoever opens the volume waits.
    opening: Option<Arc<Remote>>,
    /// For S3: uploads that an earlier daemon left unfinished.
    unfinished: Option<Arc<Unfinished>>,
    /// When it did not answer at the opening, and what it said.
    silent: Option<(Instant, String)>,
}

/// A bucket with a prefix, as requests see it.
struct Remote {
    objects: Arc<dyn object_store::ObjectStore>,
    /// Stores an object in one request for less.
    light: Option<Arc<dyn object_store::ObjectStore>>,
    /// The service took from `objects` what it had refused from `light`.
    is_light_refused: AtomicBool,
    /// As messages call it.
    name: String,
    prefix: String,
    /// Whether all of it is gone at each start, and what is not found was lost then.
    is_volatile: bool,
    deletes_at_once: usize,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
    /// Tries of the client library's; see [`Traffic::failed_tries`].
    failed_tries: Arc<AtomicU64>,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counters {
    /// What they tell, with what waited for limits.
    fn traffic(&self, limiter: Option<&Limiter>) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (throttled, throttled_ms) = limiter.map_or((0, 0), Limiter::waited);
        Traffic {
            puts: read(&self.puts),
            gets: read(&self.gets),
            heads: read(&self.heads),
            lists: read(&self.lists),
            deletes: read(&self.deletes),
            failures: read(&self.failures),
            failed_tries: read(&self.failed_tries),
            throttled,
            throttled_ms,
            bytes_up: read(&self.bytes_up),
            bytes_down: read(&self.bytes_down),
            ..Traffic::default()
        }
    }
}

impl CloudStore {
    /// A store to read from. Asks nothing yet.
    pub fn open(url: &StoreUrl, options: &CloudOptions) -> Result<CloudStore> {
        CloudStore::limited(url, options, Limiter::new(StoreLimits::default()))
    }

    /// The same with its part of a limit of memory, which other stores share.
    pub fn within(mut self, memory: Arc<StoreMemory>) -> CloudStore {
        self.memory = memory;
        self
    }

    /// The same, under limits.
    pub fn limited(url: &StoreUrl, options: &CloudOptions, limiter: Arc<Limiter>) -> Result<CloudStore> {
        let counters = Arc::<Counters>::default();
        let (place, shared, theirs) = (url.clone(), limiter.clone(), counters.clone());
        let remote = move |options: &CloudOptions| -> Result<Remote> {
            let clients = connect::connect(&place, options, &theirs.failed_tries)?;
            let limited = |client| Arc::new(Limited::new(client, shared.clone())) as Arc<dyn object_store::ObjectStore>;
            Ok(Remote {
                objects: limited(clients.objects),
                light: clients.light.map(limited),
                is_light_refused: AtomicBool::new(false),
                name: place.to_string(),
                prefix: place.prefix.clone(),
                is_volatile: place.is_volatile(),
                deletes_at_once: place.deletes_at_once(),
                counters: theirs.clone(),
            })
        };
        let mut store = CloudStore::over_remote(remote(options)?)?;
        if url.is_bucket() {
            let patience = OPENING.min(options.deadline);
            let usual = options.clone();
            let options = CloudOptions { request_timeout: patience, deadline: patience, ..options.clone() };
            store.opening = Some(Arc::new(remote(&options)?));
            if let Some((s3, region)) = connect::connect_parts(url, &options, &counters.failed_tries)?.s3 {
                store.unfinished = Some(Arc::new(Unfinished::new(s3, region, url, &options)?));
            }
            store.inline = Some(inline::Inline::new(Box::new(move || remote(&usual))));
        }
        store.leftovers = url.folder().map(folder::FolderStore::new);
        store.limiter = Some(limiter);
        Ok(store)
    }

    #[cfg(test)]
    fn over(objects: Arc<dyn object_store::ObjectStore>, name: String, prefix: String) -> Result<CloudStore> {
        let counters = Arc::default();
        CloudStore::over_remote(Remote {
            objects,
            light: None,
            is_light_refused: AtomicBool::new(false),
            name,
            prefix,
            is_volatile: false,
            deletes_at_once: 1,
            counters,
        })
    }

    fn over_remote(remote: Remote) -> Result<CloudStore> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("nexus-cloud")
            .enable_all()
            .build()
            .map_err(|error| Error::from_io("cannot start threads for the object store", &error))?;
        Ok(CloudStore {
            remote: Arc::new(remote),
            leftovers: None,
            runtime: Some(runtime),
            fence: None,
            inline: None,
            memory: StoreMemory::alone(),
            limiter: None,
            opening: None,
            unfinished: None,
            silent: None,
        })
    }

    /// Claims the prefix for the volume that `claimant` speaks for, so that it may be changed.
    /// [`Error::Unavailable`] if the store does not answer, which leaves the claim to the first
    /// change; [`Error::Corrupt`] if the prefix is somebody else's.
    pub fn claim(&mut self, claimant: Claimant) -> Result<()> {
        let fence = Fence::new(claimant);
        let claimed = self.run(fence.clone().claim(self.opening()));
        self.silent = match &claimed {
            Err(Error::Unavailable(why)) => Some((Instant::now(), why.clone())),
            _ => None,
        };
        match claimed {
            Ok(()) | Err(Error::Unavailable(_)) => self.fence = Some(fence),
            Err(_) => {}
        }
        // Whoever had the folder before stores nothing there any more.
        if let (Ok(()), Some(folder)) = (&claimed, &self.leftovers) {
            folder.sweep();
        }
        if claimed.is_ok() {
            self.give_up_unfinished();
        }
        claimed
    }

    /// Whoever had the prefix before ends no upload any more, so what is unfinished there is given up. Listed
    /// before this daemon begins any; a service that can't list them is asked for nothing more.
    fn give_up_unfinished(&self) {
        let Some(unfinished) = self.unfinished.clone() else { return };
        let (theirs, counters, name) = (unfinished.clone(), self.remote.counters.clone(), self.remote.name.clone());
        counters.lists.fetch_add(1, Ordering::Relaxed);
        let begun = match self.run(async move { theirs.list().await }) {
            Ok(begun) if begun.is_empty() => return,
            Ok(begun) => begun,
            Err(error) => return log::debug!("{error}"),
        };
        log::info!("{name}: {} uploads that were cut short are given up", begun.len());
        let Some(runtime) = &self.runtime else { return };
        runtime.spawn(async move {
            for begun in begun {
                counters.deletes.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = unfinished.abort(&begun).await {
                    log::warn!("{error}");
                }
            }
        });
    }

    /// Whose the prefix is; `None` if nobody has claimed it.
    pub fn owner(&self) -> Result<Option<String>> {
        let remote = self.opening();
        self.run(async move { Ok(fence::read(&remote).await?.map(|mark| mark.volume().to_owned())) })
    }

    fn opening(&self) -> Arc<Remote> {
        self.opening.as_ref().unwrap_or(&self.remote).clone()
    }

    /// Runs a request on the store's own threads, and waits for it on this one.
    fn run<T: Send + 'static>(&self, request: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        nexus_kernel::block_on(self.spawn(request))
    }

    fn spawn<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        match &self.runtime {
            Some(runtime) => {
                let task = runtime.spawn(request);
                Box::pin(async move {
                    task.await.unwrap_or_else(|error| Err(Error::Io(format!("a request was cut short: {error}"))))
                })
            }
            None => Box::pin(std::future::ready(Err(Error::Unavailable("the object store is closed".into())))),
        }
    }

    /// Refuses unless this volume may change what is there.
    async fn may_change(remote: Arc<Remote>, fence: Option<Fence>) -> Result<()> {
        match fence {
            Some(fence) => fence.check(remote).await,
            None => Err(Error::ReadOnly),
        }
    }
}

/// All of an answer. A large one begins at a page in memory, so that a disk takes it as it is.
async fn collect(answer: GetResult, wanted: u64) -> object_store::Result<Bytes> {
    use futures_util::StreamExt;
    let room = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_add(PAGE);
    if room < LARGE {
        return answer.bytes().await;
    }
    let mut all: Vec<u8> = Vec::with_capacity(room);
    let skip = all.as_ptr().align_offset(PAGE).min(PAGE);
    all.resize(skip, 0);
    let mut stream = answer.into_stream();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(Bytes::from(all).slice(skip..))
}

impl Remote {
    fn key(&self, rest: &str) -> Key {
        if self.prefix.is_empty() { Key::from(rest) } else { Key::from(format!("{}/{rest}", self.prefix)) }
    }

    fn blobs(&self) -> Key {
        self.key("blobs")
    }

    fn blob(&self, id: BlobId) -> Key {
        self.key(&format!("blobs/{:016x}", id.0))
    }

    /// The kernel's error, counted where it is one for the person who looks at the numbers.
    fn failed(&self, error: &object_store::Error) -> Error {
        let error = explain(&self.name, error);
        if !matches!(error, Error::NotFound | Error::Exists | Error::Conflict) {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    /// "Not found" holds only of a store that is the one it should be: not of an empty bucket,
    /// or another one, under the same name.
    async fn if_here(&self, error: Error) -> Error {
        if error != Error::NotFound || self.is_volatile {
            return error;
        }
        match fence::read(self).await {
            Ok(Some(_)) => Error::NotFound,
            Ok(None) => Error::Unavailable(format!(
                "{} has lost what says whose it is, so nothing else that is missing there counts as deleted",
                self.name
            )),
            Err(error) => error,
        }
    }

    async fn get(&self, id: BlobId, range: Range<u64>, urgency: Urgency) -> Result<Bytes> {
        if range.start > range.end {
            return Err(Error::Invalid);
        }
        if range.is_empty() {
            return match self.len(id).await? {
                len if range.end <= len => Ok(Bytes::new()),
                _ => Err(Error::Invalid),
            };
        }
        let wanted = range.end - range.start;
        self.counters.gets.fetch_add(1, Ordering::Relaxed);
        let mut options = GetOptions::new().with_range(Some(range.clone()));
        options.extensions.insert(urgency);
        let got = match self.objects.get_opts(&self.blob(id), options).await {
            Ok(answer) => collect(answer, wanted).await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) if bytes.len() as u64 == wanted => {
                self.counters.bytes_down.fetch_add(wanted, Ordering::Relaxed);
                Ok(bytes)
            }
            Err(object_store::Error::NotFound { path, source }) => {
                let error = self.failed(&object_store::Error::NotFound { path, source });
                Err(self.if_here(error).await)
            }
            // A range that is not there whole, or an answer that is cut short: the length tells.
            other => match (self.len(id).await?, other) {
                (len, _) if range.end > len => Err(Error::Invalid),
                (_, Ok(bytes)) => Err(Error::Unavailable(format!(
                    "{} answered {} bytes of blob {:016x} for {}..{}",
                    self.name,
                    bytes.len(),
                    id.0,
                    range.start,
                    range.end
                ))),
                (_, Err(error)) => Err(self.failed(&error)),
            },
        }
    }

    async fn len(&self, id: BlobId) -> Result<u64> {
        self.counters.heads.fetch_add(1, Ordering::Relaxed);
        match self.objects.head(&self.blob(id)).await {
            Ok(meta) => Ok(meta.size),
            Err(error) => Err(self.if_here(self.failed(&error)).await),
        }
    }

    async fn delete_all(&self, ids: Vec<BlobId>) -> Result<()> {
        use futures_util::StreamExt;
        let requests = ids.len().div_ceil(self.deletes_at_once);
        self.counters.deletes.fetch_add(requests as u64, Ordering::Relaxed);
        let keys: Vec<_> = ids.into_iter().map(|id| Ok(self.blob(id))).collect();
        let mut gone = self.objects.delete_stream(futures_util::stream::iter(keys).boxed());
        let mut outcome = Ok(());
        // To the end, so that one that can't be deleted keeps no others.
        while let Some(one) = gone.next().await {
            let Err(error) = one else { continue };
            match self.if_here(self.failed(&error)).await {
                Error::NotFound => {}
                error => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    async fn list(&self, after: BlobId, limit: usize) -> Result<Vec<Listed>> {
        use futures_util::StreamExt;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        let mut found = Vec::new();
        let blobs = self.blobs();
        let mut listing = self.objects.list_with_offset(Some(&blobs), &self.blob(after));
        while found.len() < limit
            && let Some(entry) = listing.next().await
        {
            let meta = entry.map_err(|error| self.failed(&error))?;
            // What else lies there is nobody's blob.
            let name = meta.location.filename().filter(|name| name.len() == 16);
            // Not every service knows where to begin.
            let id = name.and_then(|name| u64::from_str_radix(name, 16).ok()).filter(|id| *id > after.0);
            if let Some(id) = id {
                found.push(Listed { id: BlobId(id), len: Some(meta.size) });
            }
        }
        found.sort_unstable_by_key(|info| info.id);
        Ok(found)
    }
}

impl ObjectStore for CloudStore {
    fn put<'a>(&'a self, id: BlobId, source: &'a mut dyn BlobSource) -> BoxFuture<'a, Result<()>> {
        Box::pin(upload::put(self, id, source))
    }

    fn get<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        // The one who waits is the one who polls, so this thread may be kept.
        if let Some(got) = self.inline.as_ref().and_then(|inline| inline.get(id, &range)) {
            return Box::pin(std::future::ready(got));
        }
        let remote = self.remote.clone();
        self.spawn(async move { remote.get(id, range, Urgency::Demand).await })
    }

    fn get_ahead<'a>(&'a self, id: BlobId, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        let remote = self.remote.clone();
        self.spawn(async move { remote.get(id, range, Urgency::Ahead).await })
    }

    fn head<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<BlobInfo>> {
        let remote = self.remote.clone();
        self.spawn(async move { remote.len(id).await.map(|len| BlobInfo { id, len }) })
    }

    fn delete<'a>(&'a self, id: BlobId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.delete_all(&[id]).await })
    }

    fn delete_all<'a>(&'a self, ids: &'a [BlobId]) -> BoxFuture<'a, Result<()>> {
        let (remote, fence, ids) = (self.remote.clone(), self.fence.clone(), ids.to_vec());
        self.spawn(async move {
            Self::may_change(remote.clone(), fence).await?;
            remote.delete_all(ids).await
        })
    }

    fn list<'a>(&'a self, after: BlobId, limit: usize) -> BoxFuture<'a, Result<Vec<Listed>>> {
        // Whoever opens the volume has waited for it, and goes on without.
        if let Some((when, why)) = &self.silent
            && when.elapsed() < OPENING
        {
            return Box::pin(std::future::ready(Err(Error::Unavailable(why.clone()))));
        }
        let remote = self.remote.clone();
        self.spawn(async move {
            // As for what is not found: an empty bucket lists nothing of what this volume has.
            if after == BlobId::NONE && !remote.is_volatile {
                match remote.if_here(Error::NotFound).await {
                    Error::NotFound => {}
                    error => return Err(error),
                }
            }
            remote.list(after, limit).await
        })
    }

    fn release<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        let (remote, fence) = (self.remote.clone(), self.fence.clone());
        self.spawn(async move {
            Self::may_change(remote.clone(), fence).await?;
            if !remote.list(BlobId::NONE, 1).await?.is_empty() {
                return Err(Error::Conflict);
            }
            fence::remove(&remote).await
        })
    }

    fn grain(&self) -> u64 {
        GRAIN
    }

    fn is_local(&self) -> bool {
        false
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(self.remote.counters.traffic(self.limiter.as_deref()))
    }
}

impl Drop for CloudStore {
    fn drop(&mut self) {
        // A request that still runs need not be waited for: nobody asks for its answer.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
