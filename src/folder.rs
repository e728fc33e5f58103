//! The data folder: what lies where in it, whose it is, and that only one process has it.
//!
//! ```text
//! FORMAT        "nexus volume format 1", the volume's id, its writer id, its drivers and, if its
//!               sealed content is in the cloud, where
//! LOCK          flock(2)ed by the process that has the volume open; its pid and mounts
//! log/          the zone log
//! meta/         a redb file for each zone
//! segments/     content that is being written
//! sums/         checksums of sealed content
//! blobs/        sealed content
//! cache/        sealed content from the cloud
//! store.claim   what this folder last said to the cloud
//! stores        stores beside the one that the volume was made with; see [`crate::stores`]
//! cache.N       sealed content from store N, and store.N.claim what it was last told
//! control.sock  where the command line talks to the daemon
//! daemon.log    what the daemon has to say, and daemon.log.1 before it
//! ```
//!
//! `FORMAT.new` stands in for `FORMAT` from the first moment of a volume's making until all
//! of it is durable: a making that was cut short is taken up again, and a volume that has
//! lost its log is never taken for a new one.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexus_kernel::StoreId;

use crate::coding::{Coding, Compression, KeyUse, compression_name, parse_compression};
use crate::config::{CloudPlace, MetastoreKind, ObjectStoreKind, check_endpoint};
use crate::error::{Error, Result};

/// The volume format that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const FORMAT_TITLE: &str = "nexus volume format ";
const LOCK: &str = "LOCK";
/// Longest FORMAT or LOCK that is read.
const MAX_TEXT_BYTES: u64 = 64 << 10;
/// How often, and how long apart, a lock is tried that nobody living claims.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// Names that a folder may have and still count as empty.
const NOT_CONTENT: [&str; 6] = [LOCK, "control.sock", "daemon.log", "daemon.log.1", "lost+found", "FORMAT.tmp"];

/// What FORMAT says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Random name of the volume.
    pub id: [u8; 16],
    /// This writer's part of blob ids: 24 bits, never zero.
    pub writer: u32,
    /// Where it keeps what.
    pub drivers: Drivers,
    /// Where in the cloud, if that is where its sealed content lies.
    pub cloud: Option<CloudPlace>,
}

impl Identity {
    /// Whether nothing of the volume outlives its daemon.
    pub fn is_throwaway(&self) -> bool {
        self.drivers.are_throwaway() || self.cloud.as_ref().is_some_and(|place| place.url.is_volatile())
    }
}

/// The drivers that a volume was made with. They never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drivers {
    /// Of its metadata.
    pub metastore: MetastoreKind,
    /// Of its sealed content.
    pub object_store: ObjectStoreKind,
}

impl Drivers {
    /// Whether nothing of the volume outlives its daemon.
    pub fn are_throwaway(self) -> bool {
        self.metastore == MetastoreKind::Memory || self.object_store == ObjectStoreKind::Memory
    }
}

impl fmt::Display for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metastore {} and object store {}", self.metastore, self.object_store)
    }
}

/// What stands at a path, found out without changing anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing, or an empty folder.
    Nothing,
    /// A volume whose making was cut short.
    Unfinished(Identity),
    /// A volume.
    Volume(Identity),
}

/// Who has a volume open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// The process, if it got as far as saying so.
    pub pid: Option<u32>,
    /// Where the volume is mounted.
    pub mounts: Vec<PathBuf>,
}

/// A data folder that this process has locked. Dropping it lets go of the lock.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: File,
    identity: Identity,
    finished: bool,
}

impl DataFolder {
    /// Looks at what stands at `path`, and changes nothing.
    pub fn inspect(path: &Path) -> Result<Found> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(Error::io(format!("read the data folder {}", path.display()), error)),
        };
        if let Some(text) = read_text(&path.join(FORMAT))? {
            return Ok(Found::Volume(parse_format(path, &text)?));
        }
        if let Some(text) = read_text(&path.join(FORMAT_NEW))? {
            return Ok(Found::Unfinished(parse_format(path, &text)?));
        }
        for entry in entries {
            let name = entry.map_err(|error| Error::io(format!("read {}", path.display()), error))?.file_name();
            if !NOT_CONTENT.iter().any(|known| name == *known) {
                return Err(Error::NotAVolume { path: path.to_owned(), found: name.to_string_lossy().into_owned() });
            }
        }
        Ok(Found::Nothing)
    }

    /// Locks the volume at `path`, which must be there.
    pub fn open(path: &Path) -> Result<DataFolder> {
        match Self::inspect(path)? {
            Found::Nothing => Err(Error::NoVolume(path.to_owned())),
            Found::Unfinished(identity) | Found::Volume(identity) => Self::lock(path, identity.drivers, identity.cloud),
        }
    }

    /// Locks the volume at `path`, which must have been made with `drivers`; begins to make
    /// one if there is none.
    pub fn open_or_make(path: &Path, drivers: Drivers) -> Result<DataFolder> {
        Self::open_or_make_with(path, drivers, None)
    }

    /// As [`DataFolder::open_or_make`]; `cloud` says where in the cloud a new volume's content
    /// goes. A volume that has its content there already is opened without it, too.
    pub fn open_or_make_with(path: &Path, drivers: Drivers, cloud: Option<CloudPlace>) -> Result<DataFolder> {
        check_drivers(path, &Self::inspect(path)?, drivers, cloud.as_ref())?;
        make_folders(path)?;
        Self::lock(path, drivers, cloud)
    }

    fn lock(path: &Path, drivers: Drivers, cloud: Option<CloudPlace>) -> Result<DataFolder> {
        let path = fs::canonicalize(path).map_err(|error| Error::io(format!("reach {}", path.display()), error))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| Error::io(format!("open {}", lock_path.display()), error))?;
        take(&lock, &lock_path, &path)?;
        // Again, now that nobody else can be making it.
        let found = Self::inspect(&path)?;
        check_drivers(&path, &found, drivers, cloud.as_ref())?;
        let (identity, finished) = match found {
            Found::Volume(identity) => (identity, true),
            Found::Unfinished(identity) => (identity, false),
            Found::Nothing => (begin(&path, drivers, cloud)?, false),
        };
        let folder = DataFolder { path, lock, identity, finished };
        folder.note_mounts(&[])?;
        Ok(folder)
    }

    /// Whether everything in the volume has been there before: what is missing is damage.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Makes a volume of what was begun; everything in it must be durable.
    pub fn finish(&mut self) -> Result<()> {
        if !self.finished {
            let what = || format!("finish the volume in {}", self.path.display());
            fs::rename(self.path.join(FORMAT_NEW), self.path.join(FORMAT)).map_err(|error| Error::io(what(), error))?;
            sync_dir(&self.path).map_err(|error| Error::io(what(), error))?;
            self.finished = true;
        }
        Ok(())
    }

    /// Tells others who has the volume, and where it is mounted.
    pub fn note_mounts(&self, mounts: &[PathBuf]) -> Result<()> {
        let mut text = format!("pid {}\n", std::process::id()).into_bytes();
        for mount in mounts {
            text.extend_from_slice(b"mount ");
            text.extend(mount.as_os_str().as_bytes().iter().flat_map(|byte| byte.escape_ascii()));
            text.push(b'\n');
        }
        self.lock
            .write_all_at(&text, 0)
            .and_then(|()| self.lock.set_len(text.len() as u64))
            .map_err(|error| Error::io(format!("write {}", self.path.join(LOCK).display()), error))
    }

    /// The process that has the volume at `path` open, if there is one.
    pub fn holder(path: &Path) -> Result<Option<Holder>> {
        let lock_path = path.join(LOCK);
        let lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("open {}", lock_path.display()), error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                Ok(Some(read_text(&lock_path)?.map(|text| parse_holder(&text)).unwrap_or_default()))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(format!("lock {}", lock_path.display()), error)),
        }
    }

    /// The folder, as an absolute path without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this volume is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Places in a data folder at `path`.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The zone log.
    pub log: PathBuf,
    /// The metastore files.
    pub meta: PathBuf,
    /// The root zone's metastore.
    pub root_meta: PathBuf,
    /// Open segments.
    pub segments: PathBuf,
    /// Checksums of sealed blobs.
    pub sums: PathBuf,
    /// Sealed blobs.
    pub blobs: PathBuf,
    /// The folder itself.
    pub folder: PathBuf,
    /// Parts of blobs in the cloud.
    pub cache: PathBuf,
    /// What the cloud was last told of this folder.
    pub claim: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The daemon's log.
    pub daemon_log: PathBuf,
}

impl Layout {
    /// The places of the volume at `path`.
    pub fn of(path: &Path) -> Layout {
        let meta = path.join("meta");
        Layout {
            log: path.join("log"),
            root_meta: meta.join("root.redb"),
            meta,
            segments: path.join("segments"),
            sums: path.join("sums"),
            blobs: path.join("blobs"),
            folder: path.to_owned(),
            cache: path.join("cache"),
            claim: path.join("store.claim"),
            socket: path.join("control.sock"),
            daemon_log: path.join("daemon.log"),
        }
    }

    /// Parts of blobs in one of the stores.
    pub fn cache_of(&self, store: StoreId) -> PathBuf {
        if store == StoreId(0) { self.cache.clone() } else { self.folder.join(format!("cache.{store}")) }
    }

    /// What one of the stores was last told of this folder.
    pub fn claim_of(&self, store: StoreId) -> PathBuf {
        if store == StoreId(0) { self.claim.clone() } else { self.folder.join(format!("store.{store}.claim")) }
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // What LOCK says is only a hint to others; the lock itself goes with the descriptor.
        let _ = self.lock.set_len(0);
    }
}

fn check_drivers(path: &Path, found: &Found, wanted: Drivers, cloud: Option<&CloudPlace>) -> Result<()> {
    let (Found::Volume(identity) | Found::Unfinished(identity)) = found else { return Ok(()) };
    let same = match (&identity.cloud, cloud) {
        // Nobody has to say again where it is.
        (Some(_), None) => {
            identity.drivers.metastore == wanted.metastore && wanted.object_store != ObjectStoreKind::Memory
        }
        (Some(made), Some(wanted_place)) => {
            identity.drivers.metastore == wanted.metastore && made.url == wanted_place.url
        }
        (None, Some(_)) => false,
        (None, None) => identity.drivers == wanted,
    };
    if same {
        return Ok(());
    }
    let text = |drivers: Drivers, cloud: Option<&CloudPlace>| match cloud {
        Some(place) => format!("metastore {} and store {}", drivers.metastore, place.url),
        None => drivers.to_string(),
    };
    Err(Error::OtherDrivers {
        path: path.to_owned(),
        made: text(identity.drivers, identity.cloud.as_ref()),
        wanted: text(wanted, cloud),
    })
}

/// Locks, or tells who has the lock. Somebody who only asks for the holder has it for a
/// moment too, so a lock whose holder is not known to live is tried again for a while.
fn take(lock: &File, lock_path: &Path, path: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {
                let holder = read_text(lock_path)?.map(|text| parse_holder(&text)).unwrap_or_default();
                let alive = holder.pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
                tries += 1;
                if alive || tries > LOCK_TRIES {
                    return Err(Error::InUse { path: path.to_owned(), pid: holder.pid, mounts: holder.mounts });
                }
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(format!("lock {}", lock_path.display()), error)),
        }
    }
}

/// Makes the folder, for its owner only, and those above it.
fn make_folders(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::create_dir_all(above).map_err(|error| Error::io(format!("make the folder {}", above.display()), error))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::io(format!("make the data folder {}", path.display()), error)),
    }
}

/// Writes FORMAT.new for a new volume, durably.
fn begin(path: &Path, drivers: Drivers, cloud: Option<CloudPlace>) -> Result<Identity> {
    let what = || format!("begin a volume in {}", path.display());
    let write = move || -> io::Result<Identity> {
        let id = (u128::from(random_u64()?) << 64) | u128::from(random_u64()?);
        let writer = (random_u64()? as u32 & 0x00ff_ffff).max(1);
        let identity = Identity { id: id.to_be_bytes(), writer, drivers, cloud };
        // The folder may have been there, open to others.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        let temporary = path.join("FORMAT.tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(format_text(&identity).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path.join(FORMAT_NEW))?;
        sync_dir(path)?;
        // The folder's own name must not be lost either.
        if let Some(above) = path.parent() {
            sync_dir(above)?;
        }
        Ok(identity)
    };
    write().map_err(|error| Error::io(what(), error))
}

/// A random number, from the system.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A small file's bytes; `None` if it is not there.
fn read_text(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_TEXT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

fn format_text(identity: &Identity) -> String {
    let Drivers { metastore, object_store } = identity.drivers;
    let mut text = format!(
        "{FORMAT_TITLE}{FORMAT_VERSION}\nid {}\nwriter {}\nmetastore {metastore}\nobject_store {object_store}\n",
        id_text(&identity.id),
        identity.writer
    );
    if let Some(CloudPlace { coding, url, endpoint, region, credentials: _ }) = &identity.cloud {
        text.push_str(&format!("store {url}\n"));
        let compression = (coding.compression != Compression::None).then(|| compression_name(coding.compression));
        let key = coding.key.as_ref().map(|key| format!("{} {}", key.mark, key.source));
        for (name, value) in [
            ("endpoint", endpoint.as_ref()),
            ("region", region.as_ref()),
            ("compression", compression.as_ref()),
            ("key", key.as_ref()),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("{name} {value}\n"));
            }
        }
    }
    text
}

/// An id as the 36 characters of a UUID.
pub fn id_text(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in id.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn parse_format(path: &Path, text: &[u8]) -> Result<Identity> {
    let damaged = |problem: &str| Error::Damaged { path: path.to_owned(), problem: format!("FORMAT {problem}") };
    let text = std::str::from_utf8(text).map_err(|_| damaged("is not text"))?;
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix(FORMAT_TITLE))
        .ok_or_else(|| damaged("does not begin with \"nexus volume format\""))?;
    if version != FORMAT_VERSION.to_string() {
        return Err(Error::OtherVersion { path: path.to_owned(), found: version.to_owned(), known: FORMAT_VERSION });
    }
    let mut field = |name: &str| -> Result<&str> {
        let line = lines.next().and_then(|line| line.strip_prefix(name));
        line.and_then(|line| line.strip_prefix(' ')).ok_or_else(|| damaged(&format!("has no {name} line")))
    };
    let id = parse_id(field("id")?).ok_or_else(|| damaged("has an id that is none"))?;
    let writer = field("writer")?
        .parse::<u32>()
        .ok()
        .filter(|writer| (1..1 << 24).contains(writer))
        .ok_or_else(|| damaged("has a writer id out of range"))?;
    let drivers = Drivers {
        metastore: field("metastore")?
            .parse()
            .map_err(|problem: String| damaged(&format!("names a driver: {problem}")))?,
        object_store: field("object_store")?
            .parse()
            .map_err(|problem: String| damaged(&format!("names a driver: {problem}")))?,
    };
    let cloud = match drivers.object_store {
        ObjectStoreKind::Local | ObjectStoreKind::Memory => None,
        ObjectStoreKind::Cloud => {
            let url =
                field("store")?.parse().map_err(|problem: String| damaged(&format!("names a store: {problem}")))?;
            let mut rest = lines.clone().peekable();
            let mut optional = |name: &str| {
                let value = rest.peek().and_then(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
                if value.is_some() {
                    rest.next();
                }
                value
            };
            let (endpoint, region) = (optional("endpoint"), optional("region"));
            let (compression, key) = (optional("compression"), optional("key"));
            let given = [&endpoint, &region, &compression, &key];
            let taken = given.into_iter().filter(|value| value.is_some()).count();
            if let Some(endpoint) = &endpoint {
                check_endpoint(endpoint).map_err(|problem| damaged(&format!("names an endpoint: {problem}")))?;
            }
            for _ in 0..taken {
                lines.next();
            }
            let coding = parse_coding(compression.as_deref(), key.as_deref())
                .map_err(|problem| damaged(&format!("names a coding: {problem}")))?;
            Some(CloudPlace { coding, url, endpoint, region, credentials: None })
        }
    };
    if lines.next().is_some() || !text.ends_with('\n') {
        return Err(damaged("does not end where it should"));
    }
    Ok(Identity { id, writer, drivers, cloud })
}

/// How content is coded, from FORMAT's lines on it.
fn parse_coding(compression: Option<&str>, key: Option<&str>) -> std::result::Result<Coding, String> {
    let key = key.map(|text| {
        let (mark, source) = text.split_once(' ').ok_or("a key has a mark and a source")?;
        Ok::<_, String>(KeyUse { source: source.parse()?, mark: mark.to_owned() })
    });
    let compression = compression.map_or(Ok(Compression::None), parse_compression)?;
    Ok(Coding { compression, key: key.transpose()? })
}

fn parse_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut id = [0u8; 16];
    if digits.len() != 32 || text.len() != 36 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

fn parse_holder(text: &[u8]) -> Holder {
    let mut holder = Holder::default();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(pid) = line.strip_prefix(b"pid ") {
            holder.pid = std::str::from_utf8(pid).ok().and_then(|pid| pid.parse().ok());
        } else if let Some(mount) = line.strip_prefix(b"mount ") {
            holder.mounts.push(PathBuf::from(OsString::from_vec(unescape(mount))));
        }
    }
    holder
}

/// Undoes `escape_ascii`, for the escapes that a path can hold.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
                (digit(*high) * 16 + digit(*low), after)
            }
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [other, after @ ..]) => (*other, after),
            _ => (first, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
