//! Settings: where they come from, and which of several wins. In rising order: the
//! environment, the configuration file, the flags of the command line.
//!
//! ```toml
//! # /etc/nexus/config.toml for root, else $XDG_CONFIG_HOME/nexus/config.toml
//! data = "/srv/nexus"        # NEXUS_DATA          --data
//! metastore = "redb"         # NEXUS_METASTORE     --metastore      redb, memory
//! object_store = "local"     # NEXUS_OBJECT_STORE  --object-store   local, memory
//! store = "s3://bucket/dir"  # NEXUS_STORE         --store          sealed content in the cloud, or file:///path
//! endpoint = "http://h:9000" # NEXUS_ENDPOINT      --endpoint       where that answers, if elsewhere
//! region = "eu-west-1"       # NEXUS_REGION        --region
//! store_cache = "10G"        # NEXUS_STORE_CACHE   --store-cache    how much of it is kept on this disk
//! store_compression = "zstd" # NEXUS_STORE_COMPRESSION --store-compression   none, lz4, zstd, zstd:LEVEL
//! store_key = "file:/k"       # NEXUS_STORE_KEY  --store-key      encrypts: file:/PATH, env:NAME, command:CMD
//! store_fsync = "remote"    # NEXUS_STORE_FSYNC   --store-fsync    what fsync waits for: remote, local
//! store_max_requests = "8"   # NEXUS_STORE_MAX_REQUESTS   --store-max-requests   at once; none for no limit
//! store_upload_limit = "10M" # NEXUS_STORE_UPLOAD_LIMIT   --store-upload-limit   bytes a second
//! store_download_limit = "none" # NEXUS_STORE_DOWNLOAD_LIMIT --store-download-limit
//! memory = "512M"            # NEXUS_MEMORY        --memory
//! cache = "96M"              # NEXUS_CACHE         --cache
//! log = "info"               # NEXUS_LOG           --log
//! options = "noatime"        # NEXUS_OPTIONS       -o
//! ```

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use nexus_drivers::object_store::{CredentialsFile, StoreUrl};
use nexus_kernel::model::FsyncLevel;
use serde::{Deserialize, Deserializer};

use crate::coding::{Coding, Compression, KeySource, KeyUse, parse_compression};
use crate::error::{Error, Result};
use crate::folder::Drivers;
use crate::limits::{Count, LimitsChange, Rate};
use crate::memory::{self, MemoryPlan};
use crate::stores::parse_fsync;
pub use crate::surroundings::Surroundings;

/// Longest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The volume that is meant when nobody names one.
pub const DEFAULT_VOLUME: &str = "default";

/// How much of a cloud's content is kept on this disk if nobody says.
pub const DEFAULT_STORE_CACHE: u64 = 10 << 30;

/// Which metastore keeps the metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetastoreKind {
    /// redb, in the data folder.
    #[default]
    Redb,
    /// Memory: gone when the daemon ends.
    Memory,
}

/// Which object store keeps sealed content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ObjectStoreKind {
    /// Files in the data folder.
    #[default]
    Local,
    /// Memory: gone when the daemon ends.
    Memory,
    /// A bucket of S3, Google Cloud Storage or Azure; see [`CloudPlace`].
    Cloud,
}

/// Where in the cloud a volume's sealed content lies. Credentials are no part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloudPlace {
    /// How content is coded there.
    pub coding: Coding,
    /// Bucket and prefix.
    pub url: StoreUrl,
    /// Where the service answers, if not at its usual address.
    pub endpoint: Option<String>,
    /// The bucket's region, where that counts.
    pub region: Option<String>,
    /// Its own credentials, by the file that has them; else those of the daemon.
    pub credentials: Option<CredentialsFile>,
}

/// A number of bytes, as people write it: `64M`, `1GiB`, `1048576`. Units are binary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

/// What to open, with every setting decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Where the volume keeps what.
    pub drivers: Drivers,
    /// Where in the cloud a new volume's content goes; a volume that is there knows itself.
    pub cloud: Option<CloudPlace>,
    /// Where the cloud answers this time, in place of what the volume remembers.
    pub endpoint: Option<String>,
    /// Its region, likewise.
    pub region: Option<String>,
    /// Whether a new volume may have its content in memory, and so be gone with its daemon.
    pub volatile: bool,
    /// Bytes of the cloud's content that are kept on this disk at the most.
    pub store_cache: u64,
    /// What fsync of content in the cloud waits for, where a directory's placement leaves that open.
    pub store_fsync: FsyncLevel,
    /// Limits of the volume's first store that are said anew.
    pub store_limits: LimitsChange,
    /// How new content is compressed this time, in a store whose content is coded.
    pub store_compression: Option<Compression>,
    /// Where its keys are this time.
    pub store_key: Option<KeySource>,
    /// Memory limit in bytes.
    pub memory: u64,
    /// How much of that is for caches; a share if left open.
    pub cache: Option<u64>,
    /// How much is logged.
    pub log: log::LevelFilter,
    /// Mount options that are always on, comma-separated.
    pub options: String,
}

/// Settings from one source; `None` leaves the decision to another.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// See [`Config::data`].
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// See [`Drivers::metastore`].
    #[serde(default, deserialize_with = "parsed")]
    pub metastore: Option<MetastoreKind>,
    /// See [`Drivers::object_store`].
    #[serde(default, deserialize_with = "parsed")]
    pub object_store: Option<ObjectStoreKind>,
    /// See [`Config::cloud`].
    #[serde(default, deserialize_with = "parsed")]
    pub store: Option<StoreUrl>,
    /// See [`Config::endpoint`].
    #[serde(default)]
    pub endpoint: Option<String>,
    /// See [`Config::region`].
    #[serde(default)]
    pub region: Option<String>,
    /// See [`Config::volatile`]; a flag only.
    #[serde(skip)]
    pub volatile: bool,
    /// See [`Config::store_cache`].
    #[serde(default, deserialize_with = "byte_size")]
    pub store_cache: Option<ByteSize>,
    /// See [`Config::store_fsync`].
    #[serde(default, deserialize_with = "fsync_level")]
    pub store_fsync: Option<FsyncLevel>,
    /// See [`Config::store_limits`].
    #[serde(default, deserialize_with = "parsed")]
    pub store_max_requests: Option<Count>,
    /// See [`Config::store_limits`].
    #[serde(default, deserialize_with = "parsed")]
    pub store_upload_limit: Option<Rate>,
    /// See [`Config::store_limits`].
    #[serde(default, deserialize_with = "parsed")]
    pub store_download_limit: Option<Rate>,
    /// See [`Config::store_compression`].
    #[serde(default, deserialize_with = "compression")]
    pub store_compression: Option<Compression>,
    /// See [`Config::store_key`].
    #[serde(default, deserialize_with = "parsed")]
    pub store_key: Option<KeySource>,
    /// See [`Config::memory`].
    #[serde(default, deserialize_with = "byte_size")]
    pub memory: Option<ByteSize>,
    /// See [`Config::cache`].
    #[serde(default, deserialize_with = "byte_size")]
    pub cache: Option<ByteSize>,
    /// See [`Config::log`].
    #[serde(default, deserialize_with = "level")]
    pub log: Option<log::LevelFilter>,
    /// See [`Config::options`].
    #[serde(default)]
    pub options: Option<String>,
}

impl Settings {
    /// Settings from environment variables, through `get`. Empty ones count as unset.
    pub fn from_environment(get: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        let text = |name: &str| -> Result<Option<String>> {
            match get(name).filter(|value| !value.is_empty()).map(OsString::into_string) {
                None => Ok(None),
                Some(Ok(value)) => Ok(Some(value)),
                Some(Err(value)) => Err(setting(name, format!("{} is not UTF-8", value.to_string_lossy()))),
            }
        };
        Ok(Settings {
            data: get("NEXUS_DATA").filter(|value| !value.is_empty()).map(PathBuf::from),
            metastore: parse_variable("NEXUS_METASTORE", text("NEXUS_METASTORE")?)?,
            object_store: parse_variable("NEXUS_OBJECT_STORE", text("NEXUS_OBJECT_STORE")?)?,
            store: parse_variable("NEXUS_STORE", text("NEXUS_STORE")?)?,
            endpoint: text("NEXUS_ENDPOINT")?,
            region: text("NEXUS_REGION")?,
            volatile: false,
            store_cache: parse_variable("NEXUS_STORE_CACHE", text("NEXUS_STORE_CACHE")?)?,
            store_compression: text("NEXUS_STORE_COMPRESSION")?
                .map(|name| parse_compression(&name).map_err(|problem| setting("NEXUS_STORE_COMPRESSION", problem)))
                .transpose()?,
            store_key: parse_variable("NEXUS_STORE_KEY", text("NEXUS_STORE_KEY")?)?,
            store_fsync: text("NEXUS_STORE_FSYNC")?
                .map(|level| parse_fsync(&level).map_err(|problem| setting("NEXUS_STORE_FSYNC", problem)))
                .transpose()?,
            store_max_requests: parse_variable("NEXUS_STORE_MAX_REQUESTS", text("NEXUS_STORE_MAX_REQUESTS")?)?,
            store_upload_limit: parse_variable("NEXUS_STORE_UPLOAD_LIMIT", text("NEXUS_STORE_UPLOAD_LIMIT")?)?,
            store_download_limit: parse_variable("NEXUS_STORE_DOWNLOAD_LIMIT", text("NEXUS_STORE_DOWNLOAD_LIMIT")?)?,
            memory: parse_variable("NEXUS_MEMORY", text("NEXUS_MEMORY")?)?,
            cache: parse_variable("NEXUS_CACHE", text("NEXUS_CACHE")?)?,
            log: text("NEXUS_LOG")?
                .map(|level| parse_level(&level).map_err(|problem| setting("NEXUS_LOG", problem)))
                .transpose()?,
            options: text("NEXUS_OPTIONS")?,
        })
    }

    /// Settings from a configuration file, which must be there.
    pub fn from_file(path: &Path) -> Result<Settings> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| Error::io(format!("read the configuration file {}", path.display()), error))?;
        let place = |line: usize| format!("{}, line {line}", path.display());
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(setting(path.display(), "a configuration file is never longer than 1 MiB".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            setting(place(line_at(before, before.len())), "this is not UTF-8 text".to_owned())
        })?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text.as_bytes(), span.start));
            setting(place(line), error.message().replace('\n', ", "))
        })
    }

    /// The configuration file where it is looked for; no settings if there is none.
    pub fn from_default_file(surroundings: &Surroundings) -> Result<Settings> {
        match surroundings.config_file().map(|path| Settings::from_file(&path)) {
            None => Ok(Settings::default()),
            Some(Err(Error::Io { error, .. }))
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(Settings::default())
            }
            Some(other) => other,
        }
    }

    /// `flags` over the file (`file`, or the one where it is looked for) over the environment
    /// of this process.
    pub fn layered(file: Option<&Path>, flags: Settings) -> Result<Settings> {
        let environment = Settings::from_environment(|name| std::env::var_os(name))?;
        let from_file = match file {
            Some(path) => Settings::from_file(path)?,
            None => Settings::from_default_file(&Surroundings::of_process())?,
        };
        Ok(environment.under(from_file).under(flags))
    }

    /// These settings, where `stronger` leaves them open. Mount options add up.
    pub fn under(self, stronger: Settings) -> Settings {
        Settings {
            data: stronger.data.or(self.data),
            metastore: stronger.metastore.or(self.metastore),
            object_store: stronger.object_store.or(self.object_store),
            store: stronger.store.or(self.store),
            endpoint: stronger.endpoint.or(self.endpoint),
            region: stronger.region.or(self.region),
            volatile: stronger.volatile || self.volatile,
            store_cache: stronger.store_cache.or(self.store_cache),
            store_fsync: stronger.store_fsync.or(self.store_fsync),
            store_max_requests: stronger.store_max_requests.or(self.store_max_requests),
            store_upload_limit: stronger.store_upload_limit.or(self.store_upload_limit),
            store_download_limit: stronger.store_download_limit.or(self.store_download_limit),
            store_compression: stronger.store_compression.or(self.store_compression),
            store_key: stronger.store_key.or(self.store_key),
            memory: stronger.memory.or(self.memory),
            cache: stronger.cache.or(self.cache),
            log: stronger.log.or(self.log),
            options: match (self.options, stronger.options) {
                (Some(weak), Some(strong)) => Some(format!("{weak},{strong}")),
                (weak, strong) => strong.or(weak),
            },
        }
    }

    /// Decides what is still open, and checks the whole.
    pub fn decide(self, surroundings: &Surroundings) -> Result<Config> {
        let data = match self.data {
            Some(data) if data.as_os_str().is_empty() => {
                return Err(setting("data", "the data folder has no name".to_owned()));
            }
            Some(data) => {
                std::path::absolute(&data).map_err(|error| Error::io(format!("reach {}", data.display()), error))?
            }
            None => surroundings.volume(Path::new(DEFAULT_VOLUME))?,
        };
        let memory = self.memory.map_or(memory::DEFAULT_BYTES, |size| size.0);
        if memory < memory::MIN_BYTES {
            return Err(setting(
                "memory",
                format!("{} is too little: give at least {}", ByteSize(memory), ByteSize(memory::MIN_BYTES)),
            ));
        }
        let cache = self.cache.map(|size| size.0);
        let most = MemoryPlan::most_cache(memory);
        if let Some(cache) = cache.filter(|cache| *cache > most) {
            let problem = format!(
                "{} is too much for caches: of {} of memory they may have {}",
                ByteSize(cache),
                ByteSize(memory),
                ByteSize(most)
            );
            return Err(setting("cache", problem));
        }
        let metastore = self.metastore.unwrap_or_default();
        let object_store = match (&self.store, self.object_store) {
            (Some(_), _) => ObjectStoreKind::Cloud,
            (None, Some(ObjectStoreKind::Cloud)) => {
                return Err(setting("object_store", "which one in the cloud, --store tells".to_owned()));
            }
            (None, kind) => kind.unwrap_or_default(),
        };
        if self.store.is_some() && metastore == MetastoreKind::Memory {
            let problem = "content in the cloud needs metadata that stays: leave the metastore as it is".to_owned();
            return Err(setting("store", problem));
        }
        if self.store.as_ref().is_some_and(StoreUrl::is_volatile) && !self.volatile {
            let problem = "all of the volume would be gone when the daemon ends, as its content is in memory: give \
                           --volatile if that is what you want, or a store that lasts"
                .to_owned();
            return Err(setting("store", problem));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint).map_err(|problem| setting("endpoint", problem))?;
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if let Some(region) = self.region.as_ref().filter(|region| region.is_empty() || !region.bytes().all(plain)) {
            return Err(setting("region", format!("{region:?} is no region: write it like eu-west-1")));
        }
        let (endpoint, region) = (self.endpoint, self.region);
        let coding = Coding {
            compression: self.store_compression.unwrap_or_default(),
            key: self.store_key.clone().map(|source| KeyUse { source, mark: String::new() }),
        };
        let cloud = self.store.map(|url| CloudPlace {
            coding,
            url,
            endpoint: endpoint.clone(),
            region: region.clone(),
            credentials: None,
        });
        Ok(Config {
            data,
            drivers: Drivers { metastore, object_store },
            cloud,
            endpoint,
            region,
            volatile: self.volatile,
            store_cache: self.store_cache.map_or(DEFAULT_STORE_CACHE, |size| size.0),
            store_fsync: self.store_fsync.unwrap_or_default(),
            store_limits: LimitsChange {
                max_requests: self.store_max_requests,
                upload: self.store_upload_limit,
                download: self.store_download_limit,
            },
            store_compression: self.store_compression,
            store_key: self.store_key,
            memory,
            cache,
            log: self.log.unwrap_or(log::LevelFilter::Info),
            options: self.options.unwrap_or_default(),
        })
    }
}

impl Config {
    /// What other nodes are told that this one is called: the machine's name.
    pub fn node_name(&self) -> String {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if name.is_empty() { "node".to_owned() } else { name }
    }

    /// Decides all settings; see [`Settings::layered`].
    pub fn load(file: Option<&Path>, flags: Settings) -> Result<Config> {
        Settings::layered(file, flags)?.decide(&Surroundings::of_process())
    }
}

/// Refuses what is no address, or holds a password that would be written down.
pub(crate) fn check_endpoint(endpoint: &str) -> std::result::Result<(), String> {
    let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    match host {
        None | Some("") => Err(format!("{endpoint:?} is no address: write it like https://host:port")),
        Some(host) if host.contains(['@', '\n', ' ']) => {
            Err("an address has no user and no password; credentials come from the environment or files".to_owned())
        }
        Some(_) => Ok(()),
    }
}

fn setting(place: impl fmt::Display, problem: String) -> Error {
    Error::Setting { place: place.to_string(), problem }
}

/// Number of the line that the byte at `offset` stands in, from 1.
fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn parse_variable<T: FromStr<Err = String>>(name: &str, value: Option<String>) -> Result<Option<T>> {
    value.map(|value| value.parse().map_err(|problem| setting(name, problem))).transpose()
}

/// A level by its name: off, error, warn, info, debug, trace.
pub fn parse_level(text: &str) -> std::result::Result<log::LevelFilter, String> {
    text.parse().map_err(|_| format!("{text:?} is no log level: use off, error, warn, info, debug or trace"))
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<log::LevelFilter>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_level(&text).map(Some).map_err(serde::de::Error::custom)
}

fn compression<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Compression>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_compression(&text).map(Some).map_err(serde::de::Error::custom)
}

fn fsync_level<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<FsyncLevel>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_fsync(&text).map(Some).map_err(serde::de::Error::custom)
}

fn byte_size<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<ByteSize>, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = ByteSize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size like \"256M\"")
        }

        fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> std::result::Result<ByteSize, E> {
            u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size is never negative"))
        }

        fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> std::result::Result<ByteSize, E> {
            Ok(ByteSize(bytes))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<ByteSize, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor).map(Some)
}

impl FromStr for MetastoreKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "redb" => Ok(MetastoreKind::Redb),
            "memory" => Ok(MetastoreKind::Memory),
            _ => Err(format!("{text:?} is no metastore: use redb or memory")),
        }
    }
}

impl fmt::Display for MetastoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MetastoreKind::Redb => "redb",
            MetastoreKind::Memory => "memory",
        })
    }
}

impl FromStr for ObjectStoreKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "local" => Ok(ObjectStoreKind::Local),
            "memory" => Ok(ObjectStoreKind::Memory),
            "cloud" => Ok(ObjectStoreKind::Cloud),
            _ => Err(format!("{text:?} is no object store: use local or memory, or --store for one in the cloud")),
        }
    }
}

impl fmt::Display for ObjectStoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectStoreKind::Local => "local",
            ObjectStoreKind::Memory => "memory",
            ObjectStoreKind::Cloud => "cloud",
        })
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("{text:?} is no size: write it like 64M, 1G or 1048576");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(bad()),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        let name = units.get(unit).unwrap_or(&"B");
        if unit == 0 || value.fract() == 0.0 { write!(f, "{value:.0} {name}") } else { write!(f, "{value:.1} {name}") }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
