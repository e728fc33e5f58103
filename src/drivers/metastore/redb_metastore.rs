//! The metastore on redb: one file, one writer, snapshots that are opened once a commit.
//!
//! redb refuses everything after a failed file operation, and forgets the commits that it
//! held in memory only. So this driver keeps the batches since the last durable commit, and
//! after a failure opens the file again and applies them anew: readers and the next writer
//! find the state that was last acknowledged. Only a failed sync, or a write that failed for
//! another reason than space, ends that: what the disk then holds is not known, and commits
//! are refused until the metastore is opened anew.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::metastore::{
    Durability, MetaRead, MetaSnapshot, Metastore, MetastoreStats, Table, Visitor, WriteBatch,
};
use parking_lot::{Mutex, RwLock};

use super::redb_backend::damaged;
use super::redb_database::{Order, RedbDatabase, Tables, Verify};
use super::reserve::Reserve;

/// Bytes of batches kept at the most; a buffered commit beyond that is made durable.
const RETAINED_BYTES: usize = 32 << 20;

/// How to open a redb metastore.
#[derive(Clone, Debug)]
pub struct RedbOptions {
    /// Memory for redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// A file of up to this many bytes is read and verified whole when it is opened, which
    /// takes about 0.06 s for 100 MiB in RAM. Of a larger one, damage is found when it is met.
    pub verify_up_to_bytes: u64,
    /// Space kept back, so that a full disk still takes commits that free some.
    pub reserve_bytes: u64,
}

impl Default for RedbOptions {
    fn default() -> Self {
        RedbOptions { cache_bytes: 64 << 20, verify_up_to_bytes: 128 << 20, reserve_bytes: 8 << 20 }
    }
}

/// A metastore in a redb file.
pub struct RedbMetastore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: RedbOptions,
    writer: Mutex<Writer>,
    current: RwLock<Arc<RedbSnapshot>>,
}

/// What the one writer knows.
struct Writer {
    /// `None` while the file could not be opened again after a failure.
    database: Option<RedbDatabase>,
    /// What readers use meanwhile.
    stand_in: Option<RedbDatabase>,
    /// The metastore's file, as it was opened last.
    file: Arc<dyn DiskFile>,
    /// Number of the newest commit.
    newest: u64,
    /// Commits that the file may not hold yet, with their numbers, ascending.
    retained: Vec<(u64, WriteBatch)>,
    retained_bytes: usize,
    /// Why no commit is taken any more.
    refused: Option<Error>,
    /// None where nothing is written.
    reserve: Option<Reserve>,
}

/// The state after one commit.
struct RedbSnapshot {
    tables: Tables,
    commit: u64,
    inner: Weak<Inner>,
}

impl RedbMetastore {
    /// Opens the metastore at `path`; [`Error::NotFound`] if there is none. A damaged file
    /// answers [`Error::Corrupt`], one of another format [`Error::UnknownVersion`], and one
    /// that another process uses [`Error::Unavailable`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path, options: RedbOptions) -> Result<RedbMetastore> {
        let verify = Verify::UpTo(options.verify_up_to_bytes);
        let (database, newest) = RedbDatabase::open(&*disk, path, &options, verify)?;
        let reserve = Reserve::open(disk.clone(), path, options.reserve_bytes);
        RedbMetastore::start(disk, path, options, database, newest, Some(reserve))
    }

    /// Opens the metastore at `path` for reads. Its file is not changed, not even if a crash
    /// left it unclean; commits answer [`Error::ReadOnly`].
    pub fn open_read_only(disk: Arc<dyn Disk>, path: &Path, options: RedbOptions) -> Result<RedbMetastore> {
        let verify = Verify::UpTo(options.verify_up_to_bytes);
        let (database, newest) = RedbDatabase::open_in_memory(disk.open(path)?, path, &options, verify)?;
        RedbMetastore::start(disk, path, options, database, newest, None)
    }

    fn start(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: RedbOptions,
        database: RedbDatabase,
        newest: u64,
        reserve: Option<Reserve>,
    ) -> Result<RedbMetastore> {
        let tables = database.tables()?;
        let writer = Writer {
            file: database.file(),
            database: Some(database),
            stand_in: None,
            newest,
            retained: Vec::new(),
            retained_bytes: 0,
            refused: reserve.is_none().then_some(Error::ReadOnly),
            reserve,
        };
        let inner = Arc::new_cyclic(|inner| Inner {
            disk,
            path: path.to_owned(),
            options,
            writer: Mutex::new(writer),
            current: RwLock::new(Arc::new(RedbSnapshot { tables, commit: newest, inner: inner.clone() })),
        });
        Ok(RedbMetastore { inner })
    }

    /// Makes an empty metastore at `path`, whose folder exists, and opens it;
    /// [`Error::Exists`] if there is something. After a crash it is there whole or not at all.
    pub fn create(disk: Arc<dyn Disk>, path: &Path, options: RedbOptions) -> Result<RedbMetastore> {
        match disk.open(path) {
            Err(Error::NotFound) => {}
            Ok(_) => return Err(Error::Exists),
            Err(error) => return Err(error),
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        match disk.remove(&draft) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        RedbDatabase::format(&*disk, &draft, &options)?;
        disk.rename(&draft, path)?;
        disk.sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        RedbMetastore::open(disk, path, options)
    }

    /// Opens the metastore at `path`, or makes it if there is none.
    pub fn open_or_create(disk: Arc<dyn Disk>, path: &Path, options: RedbOptions) -> Result<RedbMetastore> {
        match RedbMetastore::open(disk.clone(), path, options.clone()) {
            Err(Error::NotFound) => RedbMetastore::create(disk, path, options),
            other => other,
        }
    }

    /// Reads the whole file at `path` and verifies every page's checksum, for fsck. The
    /// metastore must not be open. The file is not changed.
    pub fn check_integrity(disk: &dyn Disk, path: &Path) -> Result<()> {
        let options = RedbOptions::default();
        let (database, _) = RedbDatabase::open_in_memory(disk.open(path)?, path, &options, Verify::Always)?;
        let tables = database.tables()?;
        for table in Table::ALL {
            let mut visit = |_: &[u8], _: &[u8]| std::ops::ControlFlow::Continue(());
            tables.scan(table, &[], &[0xff; 300], Order::Ascending, &mut visit)?;
        }
        drop(tables);
        database.close()
    }
}

impl Metastore for RedbMetastore {
    fn snapshot(&self) -> Result<Arc<dyn MetaSnapshot>> {
        Ok(self.inner.current.read().clone())
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        self.inner.commit(batch, durability)
    }

    fn stats(&self) -> Result<MetastoreStats> {
        let current = self.inner.current.read().clone();
        let (stored_bytes, cache_bytes) = current.tables.sizes(self.inner.options.cache_bytes)?;
        Ok(MetastoreStats { stored_bytes, cache_bytes })
    }
}

impl Inner {
    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<()> {
        let mut writer = self.writer.lock();
        let done = match self.commit_once(&mut writer, batch, durability) {
            Err(Error::NoSpace | Error::QuotaExceeded)
                if writer.reserve.as_mut().is_some_and(|reserve| reserve.release_for(batch)) =>
            {
                self.commit_once(&mut writer, batch, durability)
            }
            done => done,
        };
        if done.is_ok()
            && durability == Durability::Durable
            && let Some(reserve) = &mut writer.reserve
        {
            reserve.make();
        }
        done
    }

    fn commit_once(&self, writer: &mut Writer, batch: &WriteBatch, durability: Durability) -> Result<()> {
        match &writer.refused {
            None => {}
            Some(Error::ReadOnly) => return Err(Error::ReadOnly),
            Some(why) => {
                return Err(Error::Unavailable(format!("the metastore takes no changes after a failure: {why}")));
            }
        }
        if writer.database.as_ref().is_none_or(|database| database.failure().is_some()) {
            self.recover(writer, None)?;
        }
        let current = self.current.read().clone();
        for (table, key, expected) in &batch.expect {
            if current.tables.get(*table, key)? != *expected {
                return Err(Error::Conflict);
            }
        }
        drop(current);
        let durability = if writer.retained_bytes > RETAINED_BYTES { Durability::Durable } else { durability };
        let number = writer.newest + 1;
        let Some(database) = &writer.database else { return Err(self.closed()) };
        match database.commit([batch], number, durability) {
            Ok(()) => {}
            Err(error) => return self.after_failed_commit(writer, number, error),
        }
        let tables = database.tables();
        writer.newest = number;
        match durability {
            Durability::Durable => writer.forget_retained(),
            Durability::Buffered => writer.retain(number, batch),
        }
        match tables {
            Ok(tables) => self.publish(tables, number),
            // The commit stands; that its state can't be read is the readers' trouble.
            Err(error) => {
                log::error!("metastore {}: {error}", self.path.display());
                let _ = self.recover(writer, None);
            }
        }
        Ok(())
    }

    /// Brings the state before commit `number` back, or finds that the file holds it.
    fn after_failed_commit(&self, writer: &mut Writer, number: u64, error: Error) -> Result<()> {
        if let Error::Corrupt(_) = error {
            // The opening stays as it is, for readers: another would meet the damage, too.
            writer.refuse(&self.path, &error);
            writer.database = None;
            return Err(error);
        }
        if writer.database.as_ref().and_then(RedbDatabase::failure).is_some_and(|failure| failure.is_fatal()) {
            writer.refuse(&self.path, &error);
        }
        if let Err(other) = self.recover(writer, Some(number)) {
            log::error!("metastore {} could not be opened again: {other}", self.path.display());
            return Err(error);
        }
        match &writer.database {
            // The failure came after the file had it all, so the commit only needs a sync.
            Some(database) if writer.newest == number && writer.refused.is_none() => {
                let synced = database.commit([], number, Durability::Durable);
                if let Err(error) = &synced {
                    writer.refuse(&self.path, error);
                } else {
                    writer.forget_retained();
                }
                synced
            }
            _ => Err(error),
        }
    }

    /// Opens the file again and applies what it lacks. It may hold the commit `in_flight`.
    fn recover(&self, writer: &mut Writer, in_flight: Option<u64>) -> Result<()> {
        if let Some(reason @ (Error::Corrupt(_) | Error::ReadOnly)) = &writer.refused {
            return Err(reason.clone());
        }
        if let Some(database) = writer.database.take() {
            // Its failure is known and handled here; closing only tells of it again.
            let _ = database.close();
        }
        match RedbDatabase::open(&*self.disk, &self.path, &self.options, Verify::No) {
            Ok((database, held)) => {
                if held > writer.newest && in_flight != Some(held) {
                    let text =
                        format!("a commit that was given up is in the metastore {} after all", self.path.display());
                    writer.refuse(&self.path, &Error::Io(text));
                }
                self.catch_up(writer, &database, held)?;
                writer.file = database.file();
                writer.database = Some(database);
                writer.stand_in = None;
                Ok(())
            }
            Err(error) => {
                if writer.stand_in.is_none()
                    && let Err(other) = self.read_on(writer)
                {
                    log::error!("metastore {} can't be read: {other}", self.path.display());
                }
                Err(error)
            }
        }
    }

    /// Applies to a database that holds `held` commits what it lacks, and shows it to readers.
    fn catch_up(&self, writer: &mut Writer, database: &RedbDatabase, held: u64) -> Result<()> {
        let missing = writer.retained.iter().filter(|(number, _)| *number > held).map(|(_, batch)| batch);
        let missing: Vec<&WriteBatch> = missing.collect();
        let newest = held.max(writer.newest);
        if held + (missing.len() as u64) < newest {
            return Err(damaged(&self.path, &format_args!("it holds {held} commits and should hold {newest}")));
        }
        if !missing.is_empty() {
            database.commit(missing, newest, Durability::Buffered)?;
        }
        self.publish(database.tables()?, newest);
        writer.newest = newest;
        Ok(())
    }

    /// Keeps reads going where the disk takes no writes.
    fn read_on(&self, writer: &mut Writer) -> Result<()> {
        let (database, held) =
            RedbDatabase::open_in_memory(writer.file.clone(), &self.path, &self.options, Verify::No)?;
        if held > writer.newest {
            return Err(Error::Unavailable("it is not known which state is the newest".into()));
        }
        self.catch_up(writer, &database, held)?;
        writer.stand_in = Some(database);
        Ok(())
    }

    fn publish(&self, tables: Tables, commit: u64) {
        let mut current = self.current.write();
        let inner = current.inner.clone();
        let old = std::mem::replace(&mut *current, Arc::new(RedbSnapshot { tables, commit, inner }));
        drop(current);
        // May end a read transaction, which has no business under the lock.
        drop(old);
    }

    fn closed(&self) -> Error {
        Error::Unavailable(format!("the metastore {} could not be opened again after a failure", self.path.display()))
    }

    /// For a snapshot of state `commit` whose opening of the file has failed: the same state
    /// of a newer opening, if it is still the newest.
    fn replacement(&self, failed: &RedbSnapshot) -> Result<Arc<RedbSnapshot>> {
        let mut writer = self.writer.lock();
        let is_failed = |current: &Arc<RedbSnapshot>| std::ptr::eq(Arc::as_ptr(current), failed);
        let recovered = if is_failed(&self.current.read()) {
            writer.stand_in = None;
            self.recover(&mut writer, None)
        } else {
            Ok(())
        };
        let current = self.current.read().clone();
        if is_failed(&current) {
            recovered.map(|()| current)
        } else if current.commit == failed.commit {
            Ok(current)
        } else {
            Err(Error::Unavailable(format!(
                "an old state of the metastore {} was lost with a failure",
                self.path.display()
            )))
        }
    }
}

impl Writer {
    fn refuse(&mut self, path: &Path, why: &Error) {
        log::error!("metastore {}: {why}; it takes no more changes", path.display());
        self.refused.get_or_insert(why.clone());
    }

    fn retain(&mut self, number: u64, batch: &WriteBatch) {
        let bytes = batch.writes.iter().map(|(_, key, value)| 64 + key.len() + value.as_ref().map_or(0, Bytes::len));
        self.retained_bytes += bytes.sum::<usize>();
        self.retained.push((number, WriteBatch { expect: Vec::new(), writes: batch.writes.clone() }));
    }

    fn forget_retained(&mut self) {
        self.retained = Vec::new();
        self.retained_bytes = 0;
    }
}

impl RedbSnapshot {
    /// Runs `read` here or, where the opening of the file below has failed, on the state that
    /// takes this one's place.
    fn read<T>(&self, mut read: impl FnMut(&Tables) -> Result<T>) -> Result<T> {
        match read(&self.tables) {
            Err(error @ Error::Corrupt(_)) => Err(error),
            Err(error) => {
                let Some(inner) = self.inner.upgrade() else { return Err(error) };
                match inner.replacement(self) {
                    Ok(replacement) => read(&replacement.tables),
                    Err(Error::ReadOnly) => Err(error),
                    Err(other) => Err(other),
                }
            }
            done => done,
        }
    }

    fn scan_in(&self, order: Order, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        // A scan that is cut short goes on behind the last pair that was visited.
        let (mut start, mut end) = (start.to_vec(), end.to_vec());
        self.read(|tables| {
            let (from, to) = (start.clone(), end.clone());
            let mut seen = |key: &[u8], value: &[u8]| {
                match order {
                    Order::Ascending => {
                        start = key.to_vec();
                        start.push(0);
                    }
                    Order::Descending => end = key.to_vec(),
                }
                visit(key, value)
            };
            tables.scan(table, &from, &to, order, &mut seen)
        })
    }
}

impl MetaRead for RedbSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|tables| tables.get(table, key))
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        self.scan_in(Order::Ascending, table, start, end, visit)
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        self.scan_in(Order::Descending, table, start, end, visit)
    }
}

#[cfg(test)]
#[path = "redb_metastore_tests.rs"]
mod tests;
