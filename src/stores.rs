//! The stores that a volume has beside the one that it was made with: added and taken away
//! while it is mounted, and remembered in the data folder's file `stores`.
//!
//! ```toml
//! [[store]]
//! id = 1                       # part of the ids of blobs; never given to another store
//! name = "archive"
//! url = "s3://bucket/prefix"
//! endpoint = "http://h:9000"   # if not at the usual address
//! region = "eu-west-1"
//! compression = "zstd:3"       # if content is compressed there
//! key = "file:/path"           # if it is encrypted: where the key is, and its mark
//! mark = "0123456789abcdef"
//! credentials = "/path"        # the file with its own credentials, if it has them,
//! profile = "work"             # and the profile in that
//! fsync = "local"              # if fsync does not wait for the store
//! max_requests = 8             # limits, where there are any: requests at once,
//! upload = 1048576             # bytes sent a second,
//! download = 1048576           # and bytes fetched
//!
//! [default]                    # limits of the store that the volume was made with
//! upload = 1048576
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nexus_kernel::StoreId;
use nexus_kernel::model::FsyncLevel;
use serde::{Deserialize, Serialize};

use crate::coding::{Coding, Compression, KeyUse, compression_name, parse_compression};
use crate::config::{CloudPlace, CredentialsFile, check_endpoint};
use crate::error::{Error, Result};
use crate::limits::StoreLimits;

/// What the store that a volume was made with is called.
pub const DEFAULT_STORE: &str = "default";

const FILE: &str = "stores";
const FILE_NEW: &str = "stores.new";
/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Longest name.
const MAX_NAME_BYTES: usize = 64;

/// A store with a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedStore {
    /// Its number.
    pub id: StoreId,
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub place: CloudPlace,
    /// Whether fsync waits for it, where a directory's placement leaves that open.
    pub fsync: FsyncLevel,
    /// What it may be asked for.
    pub limits: StoreLimits,
}

/// The stores of a volume, as its data folder remembers them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreList {
    folder: PathBuf,
    stores: Vec<NamedStore>,
    /// Numbers up to this one were given away, some of them maybe to stores that are gone.
    last_id: u16,
    /// Limits of the store that the volume was made with.
    default: StoreLimits,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    last_id: u16,
    #[serde(default)]
    store: Vec<WrittenStore>,
    #[serde(default, skip_serializing_if = "WrittenLimits::is_empty")]
    default: WrittenLimits,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    download: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStore {
    id: u16,
    name: String,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compression: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fsync: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    download: Option<u64>,
}

impl StoreList {
    /// Reads the list of the volume in `folder`; empty if there is none.
    pub fn load(folder: &Path) -> Result<StoreList> {
        let path = folder.join(FILE);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
            Ok(_) => {}
        }
        let damaged =
            |problem: String| Error::Damaged { path: folder.to_owned(), problem: format!("{FILE}: {problem}") };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text".to_owned()))?;
        let written: Written = toml::from_str(&text).map_err(|error| damaged(error.message().replace('\n', ", ")))?;
        let mut list = StoreList {
            folder: folder.to_owned(),
            stores: Vec::new(),
            last_id: written.last_id,
            default: written.default.limits(),
        };
        for store in written.store {
            let store = store.checked().map_err(damaged)?;
            if list.stores.iter().any(|other| other.id == store.id || other.name == store.name) {
                return Err(damaged(format!("store {} is there twice", store.name)));
            }
            list.last_id = list.last_id.max(store.id.0);
            list.stores.push(store);
        }
        Ok(list)
    }

    /// The stores, in the order in which they were added.
    pub fn stores(&self) -> &[NamedStore] {
        &self.stores
    }

    /// A store's number by its name.
    pub fn id(&self, name: &str) -> Option<StoreId> {
        if name == DEFAULT_STORE {
            return Some(StoreId(0));
        }
        self.stores.iter().find(|store| store.name == name).map(|store| store.id)
    }

    /// A store's name by its number.
    pub fn name(&self, id: StoreId) -> Option<&str> {
        if id == StoreId(0) {
            return Some(DEFAULT_STORE);
        }
        self.stores.iter().find(|store| store.id == id).map(|store| store.name.as_str())
    }

    /// Limits of the store that the volume was made with.
    pub fn default_limits(&self) -> StoreLimits {
        self.default
    }

    /// The store that would be added; a sentence if it can't be.
    pub fn propose(
        &self,
        name: &str,
        place: CloudPlace,
        fsync: FsyncLevel,
        limits: StoreLimits,
    ) -> std::result::Result<NamedStore, String> {
        check_name(name)?;
        if self.id(name).is_some() {
            return Err(format!("there is a store {name} already: choose another name"));
        }
        if let Some(same) = self.stores.iter().find(|store| store.place.url == place.url) {
            return Err(format!("{} is store {} already", place.url, same.name));
        }
        let id = self.last_id.saturating_add(1);
        if id > StoreId::MAX.0 {
            return Err(format!("a volume can have {} stores in its life, and has had them all", StoreId::MAX.0));
        }
        Ok(NamedStore { id: StoreId(id), name: name.to_owned(), place, fsync, limits })
    }

    /// Adds a store, durably.
    pub fn add(&mut self, store: NamedStore) -> Result<()> {
        let mut next = self.clone();
        next.last_id = next.last_id.max(store.id.0);
        next.stores.push(store);
        next.save()?;
        *self = next;
        Ok(())
    }

    /// Forgets a store, durably. Its number is not used again.
    pub fn remove(&mut self, id: StoreId) -> Result<()> {
        let mut next = self.clone();
        next.stores.retain(|store| store.id != id);
        next.save()?;
        *self = next;
        Ok(())
    }

    /// Remembers limits of a store, durably; of one that is not there, nothing.
    pub fn set_limits(&mut self, id: StoreId, limits: StoreLimits) -> Result<()> {
        let mut next = self.clone();
        match next.stores.iter_mut().find(|store| store.id == id) {
            Some(store) => store.limits = limits,
            None if id == StoreId(0) => next.default = limits,
            None => {}
        }
        if next != *self {
            next.save()?;
            *self = next;
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let written = Written {
            last_id: self.last_id,
            store: self.stores.iter().map(WrittenStore::of).collect(),
            default: WrittenLimits::of(self.default),
        };
        let failed = |error: io::Error| Error::io(format!("write {}", self.folder.join(FILE).display()), error);
        let text = toml::to_string(&written).map_err(|error| failed(io::Error::other(error)))?;
        let new = self.folder.join(FILE_NEW);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, self.folder.join(FILE))?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(failed)
    }
}

impl WrittenLimits {
    fn of(limits: StoreLimits) -> WrittenLimits {
        let StoreLimits { max_requests, upload, download } = limits;
        WrittenLimits { max_requests, upload, download }
    }

    fn limits(self) -> StoreLimits {
        let WrittenLimits { max_requests, upload, download } = self;
        StoreLimits { max_requests, upload, download }
    }

    fn is_empty(&self) -> bool {
        *self == WrittenLimits::default()
    }
}

impl WrittenStore {
    fn of(store: &NamedStore) -> WrittenStore {
        let coding = &store.place.coding;
        WrittenStore {
            id: store.id.0,
            name: store.name.clone(),
            url: store.place.url.to_string(),
            endpoint: store.place.endpoint.clone(),
            region: store.place.region.clone(),
            compression: (coding.compression != Compression::None).then(|| compression_name(coding.compression)),
            key: coding.key.as_ref().map(|key| key.source.to_string()),
            mark: coding.key.as_ref().map(|key| key.mark.clone()),
            credentials: store.place.credentials.as_ref().map(|from| from.file.clone()),
            profile: store.place.credentials.as_ref().and_then(|from| from.profile.clone()),
            fsync: (store.fsync != FsyncLevel::Store).then(|| fsync_name(store.fsync).to_owned()),
            max_requests: store.limits.max_requests,
            upload: store.limits.upload,
            download: store.limits.download,
        }
    }

    fn checked(self) -> std::result::Result<NamedStore, String> {
        check_name(&self.name)?;
        if self.id == 0 || self.id > StoreId::MAX.0 {
            return Err(format!("store {} has number {}", self.name, self.id));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        let key = self
            .key
            .map(|source| Ok::<_, String>(KeyUse { source: source.parse()?, mark: self.mark.unwrap_or_default() }));
        let compression = self.compression.as_deref().map_or(Ok(Compression::None), parse_compression)?;
        let coding = Coding { compression, key: key.transpose()? };
        let credentials = self.credentials.map(|file| CredentialsFile { file, profile: self.profile });
        let (url, endpoint, region) = (self.url.parse()?, self.endpoint, self.region);
        let place = CloudPlace { coding, url, endpoint, region, credentials };
        let fsync = self.fsync.as_deref().map_or(Ok(FsyncLevel::Store), parse_fsync)?;
        let limits = StoreLimits { max_requests: self.max_requests, upload: self.upload, download: self.download };
        Ok(NamedStore { id: StoreId(self.id), name: self.name, place, fsync, limits })
    }
}

/// What fsync waits for, by the name that the command line has for it.
pub fn parse_fsync(text: &str) -> std::result::Result<FsyncLevel, String> {
    match text {
        "store" => Ok(FsyncLevel::Store),
        "local" => Ok(FsyncLevel::Local),
        "remote" => Ok(FsyncLevel::Remote),
        _ => Err(format!(
            "{text:?} is nothing that fsync can wait for: use local, remote, or store for what the store says"
        )),
    }
}

/// As [`parse_fsync`] takes it.
pub fn fsync_name(level: FsyncLevel) -> &'static str {
    match level {
        FsyncLevel::Store => "store",
        FsyncLevel::Local => "local",
        FsyncLevel::Remote => "remote",
    }
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err(format!(
            "{name:?} is no name for a store: use up to {MAX_NAME_BYTES} letters, digits, dots, dashes"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StoreLimits = StoreLimits { max_requests: Some(3), upload: Some(1 << 20), download: None };

    fn place(url: &str) -> CloudPlace {
        let coding = Coding { compression: Compression::Lz4, key: None };
        let credentials = Some(CredentialsFile { file: "/k".into(), profile: Some("work".to_owned()) });
        let endpoint = Some("http://h:9000".to_owned());
        CloudPlace { coding, url: url.parse().unwrap(), endpoint, region: None, credentials }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_numbers_are_never_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut list = StoreList::load(folder.path()).unwrap();
        assert!(list.stores().is_empty());
        assert_eq!(list.id(DEFAULT_STORE), Some(StoreId(0)));
        let far = list.propose("far", place("s3://b/p/q"), FsyncLevel::Local, LIMITS).unwrap();
        list.add(far).unwrap();
        let other = list.propose("other", place("gs://b"), FsyncLevel::Store, StoreLimits::default()).unwrap();
        assert_eq!(other.id, StoreId(2));
        list.add(other).unwrap();
        list.set_limits(StoreId(2), LIMITS).unwrap();
        list.set_limits(StoreId(0), StoreLimits { download: Some(5000), ..LIMITS }).unwrap();
        list.set_limits(StoreId(9), LIMITS).unwrap();
        assert_eq!(StoreList::load(folder.path()).unwrap(), list);
        assert_eq!((list.stores()[1].limits, list.default_limits().download), (LIMITS, Some(5000)));
        list.remove(StoreId(2)).unwrap();
        let mut again = StoreList::load(folder.path()).unwrap();
        assert_eq!(again, list);
        let third = again.propose("other", place("gs://b"), FsyncLevel::Store, StoreLimits::default()).unwrap();
        assert_eq!(third.id, StoreId(3));
        again.add(third).unwrap();
        assert_eq!(again.name(StoreId(3)), Some("other"));
        assert_eq!(again.id("nobody"), None);
    }

    #[test]
    fn what_can_not_be_added_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut list = StoreList::load(folder.path()).unwrap();
        for bad in ["", "default", "a b", "a/b", &"x".repeat(65)] {
            assert!(list.propose(bad, place("s3://b"), FsyncLevel::Store, LIMITS).is_err(), "{bad}");
        }
        let far = list.propose("far", place("s3://b"), FsyncLevel::Store, StoreLimits::default()).unwrap();
        list.add(far).unwrap();
        assert!(list.propose("far", place("s3://c"), FsyncLevel::Store, LIMITS).is_err());
        assert!(list.propose("near", place("s3://b"), FsyncLevel::Store, LIMITS).is_err());
    }

    #[test]
    fn a_damaged_list_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let good = "last_id = 1\n\n[[store]]\nid = 1\nname = \"far\"\nurl = \"s3://b\"\n";
        for bad in [
            "x",
            &good.replace("id = 1\nname", "id = 0\nname"),
            &good.replace("s3:", "ftp:"),
            &good.replace("far", "default/x"),
            &format!("{good}fsync = \"never\"\n"),
            &format!("{good}endpoint = \"http://user@h\"\n"),
            &format!("{good}\n[[store]]\nid = 1\nname = \"b\"\nurl = \"s3://c\"\n"),
            &format!("{good}unknown = 1\n"),
        ] {
            std::fs::write(folder.path().join(FILE), bad).unwrap();
            assert!(matches!(StoreList::load(folder.path()), Err(Error::Damaged { .. })), "{bad}");
        }
        std::fs::write(folder.path().join(FILE), good).unwrap();
        assert_eq!(StoreList::load(folder.path()).unwrap().id("far"), Some(StoreId(1)));
    }
}
