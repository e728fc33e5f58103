//! [`FolderStore`]: a folder of this machine, or of a server whose disk is mounted, as a bucket.
//!
//! `object_store`'s own [`LocalFileSystem`] does most: what is stored comes whole or not at all, through a
//! file `NAME#1` beside it, and is durable then. What it can't do is done here: replacing an object on the
//! condition that it is still the one that was read, which claims of a volume need; and listing in order.
//!
//! ```text
//! NEXUS.lock    flock(2)ed for as long as NEXUS is compared and replaced
//! ```
//!
//! The folder is looked up anew at each request, so that a disk that comes back is found, and one that is
//! gone answers no "not found".

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::BoxFuture;

const LOCK: &str = "NEXUS.lock";
const CLAIM: &str = "NEXUS";
const BLOBS: &str = "blobs";
/// How long another daemon may hold the lock, which is for two small files.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Objects as files below a folder.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// In the folder `root`, which need not be there yet.
    pub fn new(root: &Path) -> FolderStore {
        FolderStore { root: root.to_owned() }
    }

    fn files(&self) -> Result<LocalFileSystem> {
        Ok(LocalFileSystem::new_with_prefix(&self.root)?.with_fsync(true))
    }

    /// Removes what uploads left that were cut short; only for whom nobody else may store there.
    pub fn sweep(&self) {
        for folder in [self.root.clone(), self.root.join(BLOBS)] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if is_left_over(&name)
                    && let Err(error) = fs::remove_file(entry.path())
                {
                    log::warn!("{} is left over, and can't be removed: {error}", entry.path().display());
                }
            }
        }
    }

    async fn lock(&self) -> Result<File> {
        let path = self.root.join(LOCK);
        let locked = tokio::task::spawn_blocking(move || lock(&path)).await;
        locked.map_err(io::Error::other).and_then(|locked| locked).map_err(|error| Error::Generic {
            store: "folder",
            source: format!("{LOCK} can't be locked ({error}), so that two daemons could not be told apart").into(),
        })
    }
}

/// Whether a file's name is that of an upload of ours that was not ended.
fn is_left_over(name: &str) -> bool {
    let Some((object, number)) = name.split_once('#') else { return false };
    let is_blob = object.len() == 16 && object.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_blob || object == CLAIM) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn lock(path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // It may have been removed just before, with the claim that it was for.
                match fs::metadata(path) {
                    Ok(there) => {
                        let own = file.metadata()?;
                        if (there.dev(), there.ino()) == (own.dev(), own.ino()) {
                            return Ok(file);
                        }
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Err(_) => {}
                }
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

/// Reads the whole range at once; as a stream it would come in many small pieces.
async fn read_now(got: GetResult) -> Result<GetResult> {
    let GetResult { payload, meta, range, attributes, extensions } = got;
    let payload = match payload {
        GetResultPayload::File(file, path) => {
            let (start, len) = (range.start, range.end.saturating_sub(range.start));
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                file.read_exact_at(&mut bytes, start).map(|()| bytes)
            });
            let read = read.await.map_err(io::Error::other).and_then(|read| read);
            let bytes = read.map_err(|error| Error::Generic {
                store: "folder",
                source: format!("{} can't be read: {error}", path.display()).into(),
            })?;
            GetResultPayload::Stream(stream::once(async move { Ok(bytes.into()) }).boxed())
        }
        other => other,
    };
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

impl ObjectStore for FolderStore {
    fn put_opts<'s, 'p, 'f>(
        &'s self,
        location: &'p Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'f, Result<PutResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let files = self.files()?;
            let PutMode::Update(version) = &options.mode else {
                return files.put_opts(location, payload, options).await;
            };
            let _lock = self.lock().await?;
            let there = match files.head(location).await {
                Ok(meta) => meta.e_tag,
                Err(Error::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            if there.is_none() || there != version.e_tag {
                let source = "it was changed meanwhile".into();
                return Err(Error::Precondition { path: location.to_string(), source });
            }
            files.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..options }).await
        })
    }

    fn put_multipart_opts<'s, 'p, 'f>(
        &'s self,
        location: &'p Key,
        options: PutMultipartOptions,
    ) -> BoxFuture<'f, Result<Box<dyn MultipartUpload>>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move { self.files()?.put_multipart_opts(location, options).await })
    }

    fn get_opts<'s, 'p, 'f>(&'s self, location: &'p Key, options: GetOptions) -> BoxFuture<'f, Result<GetResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let head = options.head;
            let got = self.files()?.get_opts(location, options).await?;
            if head { Ok(got) } else { read_now(got).await }
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let root = self.root.clone();
        match self.files() {
            Ok(files) => files.delete_stream(locations).inspect_ok(move |key| gone(&root, key)).boxed(),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = self.files().map(|files| files.list(prefix));
        let sorted = async move {
            let mut found: Vec<ObjectMeta> = found?.try_collect().await?;
            found.sort_unstable_by(|one, other| one.location.cmp(&other.location));
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(sorted).try_flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let is_after = move |meta: &ObjectMeta| std::future::ready(meta.location > offset);
        self.list(prefix).try_filter(is_after).boxed()
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, prefix: Option<&'p Key>) -> BoxFuture<'f, Result<ListResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move { self.files()?.list_with_delimiter(prefix).await })
    }

    fn copy_opts<'s, 'a, 'b, 'f>(
        &'s self,
        from: &'a Key,
        to: &'b Key,
        options: CopyOptions,
    ) -> BoxFuture<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move { self.files()?.copy_opts(from, to, options).await })
    }
}

/// With the claim goes what was made beside it, as far as it is empty.
fn gone(root: &Path, key: &Key) {
    if key.as_ref() == CLAIM {
        // Nobody is disturbed by what stays.
        let _ = fs::remove_file(root.join(LOCK));
        let _ = fs::remove_dir(root.join(BLOBS));
    }
}

#[cfg(test)]
mod tests {
    use object_store::UpdateVersion;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(work)
    }

    fn version(put: PutResult) -> UpdateVersion {
        UpdateVersion { e_tag: put.e_tag, version: put.version }
    }

    /// Of many who replace what they have read, one does.
    #[test]
    fn a_claim_is_replaced_by_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::from(CLAIM);
        run(async {
            let store = FolderStore::new(folder.path());
            let update = |version| PutOptions::from(PutMode::Update(version));
            let none = UpdateVersion { e_tag: Some("x".into()), version: None };
            assert!(matches!(store.put_opts(&key, "a".into(), update(none)).await, Err(Error::Precondition { .. })));
            let mut now = version(store.put_opts(&key, "0".into(), PutMode::Create.into()).await.unwrap());
            assert!(matches!(
                store.put_opts(&key, "0".into(), PutMode::Create.into()).await,
                Err(Error::AlreadyExists { .. })
            ));
            for round in 0..20 {
                let tries = (0..8).map(|who| {
                    let (store, key, version) = (FolderStore::new(folder.path()), key.clone(), now.clone());
                    let text = format!("{round} {who}");
                    tokio::spawn(
                        async move { store.put_opts(&key, text.into(), PutMode::Update(version).into()).await },
                    )
                });
                let mut won = Vec::new();
                for ended in futures_util::future::join_all(tries).await {
                    match ended.unwrap() {
                        Ok(put) => won.push(put),
                        Err(Error::Precondition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(won.len(), 1, "round {round}");
                now = version(won.remove(0));
            }
            store.delete(&key).await.unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something is left beside the claim");
        });
    }

    #[test]
    fn a_folder_that_is_gone_is_not_one_that_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(&folder.path().join("disk"));
        run(async {
            let got = store.get(&Key::from("blobs/x")).await;
            assert!(matches!(got, Err(Error::Generic { .. })), "{got:?}");
            assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
            assert!(store.delete(&Key::from("blobs/x")).await.is_err());
            assert!(store.put(&Key::from("blobs/x"), "x".into()).await.is_err());
            assert!(!folder.path().join("disk").exists(), "it was made");
        });
    }

    #[test]
    fn what_was_cut_short_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(BLOBS)).unwrap();
        let left = ["blobs/0123456789abcdef#1", "NEXUS#12"];
        let other = ["blobs/0123456789abcdef", "NEXUS", "song#1", "blobs/0123456789abcdef#x", "blobs/a#1"];
        for name in left.iter().chain(&other) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        FolderStore::new(folder.path()).sweep();
        assert!(left.iter().all(|name| !folder.path().join(name).exists()));
        assert!(other.iter().all(|name| folder.path().join(name).exists()));
    }
}
