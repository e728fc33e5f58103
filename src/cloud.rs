//! A volume whose sealed content is in the cloud: opens its store, claims it, and puts a cache
//! on the local disk before it.

use std::sync::Arc;
use std::time::Duration;

use nexus_content::{ContentConfig, ReclaimConfig, StoreShape};
pub use nexus_drivers::object_store::{Bucket, ObjectInfo, PAGE_KEYS, Page, ProbeStep};
use nexus_drivers::object_store::{CacheLimits, CachedStore, Claimant, CloudOptions, CloudStore, Limiter, StoreMemory};
use nexus_kernel::model::FsyncLevel;
use nexus_kernel::{ObjectStore, StoreId};

use crate::coding::{Coding, Compression, KeySource};
use crate::config::{CloudPlace, Config};
use crate::error::{Error, Result};
use crate::folder::{DataFolder, Found, Layout, id_text, random_u64};
use crate::limits::StoreLimits;

/// Part of the disk that the cache leaves free, and most bytes of it.
const KEEP_FREE: (u64, u64) = (20, 10 << 30);

/// Refuses to run a command that somebody else's data folder names.
fn check_command(folder: &DataFolder, config: &Config, id: StoreId, place: &CloudPlace) -> Result<()> {
    let is_given = id == StoreId(0) && config.store_key.is_some();
    let runs = place.coding.key.as_ref().is_some_and(|key| matches!(key.source, KeySource::Command(_)));
    let owner = rustix::fs::stat(folder.path()).map(|stat| stat.st_uid);
    if is_given || !runs || owner == Ok(rustix::process::geteuid().as_raw()) {
        return Ok(());
    }
    Err(Error::Setting {
        place: format!("store {}", place.url),
        problem: "the data folder belongs to another user and has a command run for the key: see that it may run, \
                  then give it with --store-key"
            .to_owned(),
    })
}

/// Whether the volume's first store was made without any coding; others say so themselves.
fn config_is_plain(folder: &DataFolder, id: StoreId) -> bool {
    id != StoreId(0) || folder.identity().cloud.as_ref().is_none_or(|place| place.coding.is_plain())
}

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only to be read.
    Look,
    /// To be written to; for a `new` volume it has to answer at once.
    Change {
        /// Whether the volume is being made.
        new: bool,
    },
}

/// A store that was opened.
pub struct Opened {
    /// It.
    pub objects: Arc<dyn ObjectStore>,
    /// What is to be told if it does not answer now.
    pub away: Option<String>,
}

/// What a store may have of what it shares with others.
#[derive(Clone)]
pub struct Share {
    /// Requests, and bytes a second.
    pub limiter: Arc<Limiter>,
    /// Memory of content on its way.
    pub memory: Arc<StoreMemory>,
}

/// Opens the store of the volume in `folder`. One that does not answer is opened all the same,
/// unless the volume is new: what is cached can be read, and the rest comes back with it.
pub fn open(folder: &DataFolder, config: &Config, layout: &Layout, access: Access, share: Share) -> Result<Opened> {
    let Some(place) = &folder.identity().cloud else {
        return Err(Error::Damaged { path: folder.path().to_owned(), problem: "FORMAT names no store".to_owned() });
    };
    let place = CloudPlace {
        coding: coding_now(place, config)?,
        url: place.url.clone(),
        endpoint: config.endpoint.clone().or_else(|| place.endpoint.clone()),
        region: config.region.clone().or_else(|| place.region.clone()),
        credentials: place.credentials.clone(),
    };
    open_place(folder, config, (StoreId(0), &place), layout, access, share)
}

/// How the volume's first store is coded, with what is given this time.
fn coding_now(place: &CloudPlace, config: &Config) -> Result<Coding> {
    let mut coding = place.coding.clone();
    let refused = |place: &str, problem: &str| Error::Setting { place: place.to_owned(), problem: problem.to_owned() };
    if coding.is_plain() && config.store_compression.is_some_and(|compression| compression != Compression::None) {
        return Err(refused(
            "store_compression",
            "this volume's store was made without: add another with `nexus-fuse store add`, and migrate",
        ));
    }
    match (&mut coding.key, &config.store_key) {
        (Some(key), Some(source)) => key.source = source.clone(),
        (None, Some(_)) => {
            return Err(refused(
                "store_key",
                "this volume's store is not encrypted: add another with `nexus-fuse store add`, and migrate",
            ));
        }
        (_, None) => {}
    }
    if !coding.is_plain() {
        coding.compression = config.store_compression.unwrap_or(coding.compression);
    }
    Ok(coding)
}

/// Refuses a key for a volume whose content stays on this disk, where nothing is encrypted.
pub fn check_local(config: &Config) -> Result<()> {
    let Some(source) = &config.store_key else { return Ok(()) };
    Err(Error::Setting {
        place: "store_key".to_owned(),
        problem: format!(
            "this volume's content stays on this disk, where {source} would encrypt nothing: give --store with it, or \
             leave it out"
        ),
    })
}

/// Where a new volume's content goes, with the mark of its key.
pub fn new_place(config: &Config) -> Result<Option<CloudPlace>> {
    config.cloud.clone().map(marked).transpose()
}

/// A place with the mark of its key as it is now.
pub(crate) fn marked(mut place: CloudPlace) -> Result<CloudPlace> {
    let marked = place.coding.marked();
    place.coding = marked.map_err(|problem| Error::Setting { place: format!("store {}", place.url), problem })?;
    Ok(place)
}

/// Opens one of the stores of the volume in `folder`, as [`open`] does.
pub fn open_place(
    folder: &DataFolder,
    config: &Config,
    (id, place): (StoreId, &CloudPlace),
    layout: &Layout,
    access: Access,
    share: Share,
) -> Result<Opened> {
    let identity = folder.identity();
    let failed = |error| Error::kernel(folder.path(), format!("use the store {}", place.url), error);
    let refused = |problem| Error::Setting { place: format!("store {}", place.url), problem };
    check_command(folder, config, id, place)?;
    // Before the claim below, which takes the store away from another copy of the data folder.
    let keys = place.coding.keys().map_err(refused)?;
    let mut store = CloudStore::limited(&place.url, &options(place), share.limiter).map_err(failed)?;
    store = store.within(share.memory.clone());
    let scratch = layout.cache_of(id);
    let coded = |store: Arc<dyn ObjectStore>| {
        if place.coding.is_plain() && config_is_plain(folder, id) {
            return Ok(store);
        }
        place.coding.over(store, keys, &scratch).map_err(refused)
    };
    let Access::Change { new } = access else {
        return Ok(Opened { objects: coded(Arc::new(store))?, away: None });
    };
    let random = || random_u64().map_err(|error| Error::io("read random numbers", error));
    let word = format!("{:016x}{:016x}", random()?, random()?);
    let mut away = None;
    match store.claim(Claimant { volume: id_text(&identity.id), word, file: layout.claim_of(id) }) {
        Err(nexus_kernel::Error::Unavailable(why)) if !new => {
            let note = format!("{why}; going on with what is here, the rest will be there once it answers");
            log::warn!("{note}");
            away = Some(note);
        }
        Err(nexus_kernel::Error::Corrupt(problem)) => {
            return Err(refused(problem));
        }
        other => other.map_err(failed)?,
    }
    let total = rustix::fs::statvfs(folder.path()).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    let limits = CacheLimits { bytes: config.store_cache, keep_free: (total / KEEP_FREE.0).min(KEEP_FREE.1) };
    let store = coded(Arc::new(store))?;
    let objects = Arc::new(CachedStore::within(store, &layout.cache_of(id), limits, share.memory).map_err(failed)?);
    Ok(Opened { objects, away })
}

/// Before a new volume is made: refuses a store that does not answer, or that has one already.
pub fn check_new(config: &Config) -> Result<()> {
    if DataFolder::inspect(&config.data)? != Found::Nothing {
        return Ok(());
    }
    let Some(place) = &config.cloud else { return check_local(config) };
    let made = crate::folders::prepare(place, &config.data)?;
    match owner(&config.data, place)? {
        None => {
            try_changes(&config.data, place)?;
            made.keep();
            Ok(())
        }
        Some(volume) => Err(Error::Setting {
            place: format!("store {}", place.url),
            problem: format!("volume {volume} has its content there: choose a prefix of its own for a new one"),
        }),
    }
}

/// The volume that has its content at `place`, if there is one. The store has to answer.
pub fn owner(folder: &std::path::Path, place: &CloudPlace) -> Result<Option<String>> {
    let failed = |error| Error::kernel(folder, format!("use the store {}", place.url), error);
    if let Some(endpoint) = &place.endpoint {
        crate::config::check_endpoint(endpoint)
            .map_err(|problem| Error::Setting { place: "endpoint".to_owned(), problem })?;
    }
    CloudStore::open(&place.url, &options(place)).and_then(|store| store.owner()).map_err(failed)
}

/// Refuses a store that nobody has yet where it can't be changed, or overwrites what it must not.
pub fn try_changes(folder: &std::path::Path, place: &CloudPlace) -> Result<()> {
    let failed = |error| Error::kernel(folder, format!("use the store {}", place.url), error);
    let store = CloudStore::open(&place.url, &options(place)).map_err(failed)?;
    let word = random_u64().map_err(|error| Error::io("read random numbers", error))?;
    store.try_changes(&format!("{word:016x}")).map_err(failed)
}

/// Tries all that a volume asks of a store, and leaves nothing there.
pub fn probe(place: &CloudPlace) -> Result<Vec<ProbeStep>> {
    let failed = |error| Error::Kernel { what: format!("use the store {}", place.url), error };
    if let Some(endpoint) = &place.endpoint {
        crate::config::check_endpoint(endpoint)
            .map_err(|problem| Error::Setting { place: "endpoint".to_owned(), problem })?;
    }
    let store = CloudStore::open(&place.url, &options(place)).map_err(failed)?;
    let word = random_u64().map_err(|error| Error::io("read random numbers", error))?;
    Ok(store.probe(&format!("{word:016x}")))
}

fn options(place: &CloudPlace) -> CloudOptions {
    CloudOptions {
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        credentials: place.credentials.clone(),
        ..CloudOptions::default()
    }
}

/// How content of a store beside the volume's first is cut; as [`content_config`] has it.
pub fn shape(fsync: FsyncLevel, place: &CloudPlace) -> StoreShape {
    let (content, reclaim) = (content_config(), reclaim_config());
    StoreShape {
        segment_bytes: content.segment_bytes,
        stream_segment_bytes: content.stream_segment_bytes,
        idle_seal_ms: reclaim.idle_seal_ms,
        idle_seal_bytes: reclaim.idle_seal_bytes,
        fsync_uploads: fsync != FsyncLevel::Local,
        volatile: place.url.is_volatile(),
    }
}

/// Longest that requests of an attached bucket are tried again, and one try of them.
const ATTACHED: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(15));

/// Opens a bucket that is somebody's own, to be shown as it is; `look` asks it whether it answers.
pub fn bucket(place: &CloudPlace, limits: StoreLimits, look: bool) -> Result<Bucket> {
    let failed = |error| Error::Kernel { what: format!("use the bucket {}", place.url), error };
    if let Some(endpoint) = &place.endpoint {
        crate::config::check_endpoint(endpoint)
            .map_err(|problem| Error::Setting { place: "endpoint".to_owned(), problem })?;
    }
    let options = CloudOptions {
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        credentials: place.credentials.clone(),
        deadline: ATTACHED.0,
        request_timeout: ATTACHED.1,
    };
    let bucket = Bucket::open(&place.url, &options, Limiter::new(limits)).map_err(failed)?;
    if look {
        bucket.page("", true, None, 1).map_err(failed)?;
    }
    Ok(bucket)
}

/// Segments for a store that is far away: what goes up in one request. So a large file goes up, several
/// at a time, while it is still being written, many small ones share a request, and nothing has to be
/// begun, completed or put together there.
pub fn content_config() -> ContentConfig {
    ContentConfig { segment_bytes: 8 << 20, stream_segment_bytes: 8 << 20, ..ContentConfig::default() }
}

/// What nobody writes to any more goes up soon, however little it is.
pub fn reclaim_config() -> ReclaimConfig {
    ReclaimConfig { idle_seal_ms: 10_000, idle_seal_bytes: 1, ..ReclaimConfig::default() }
}
