//! One opening of a redb file: a database, its format and its transactions. A failed write
//! makes redb refuse everything after it, so an opening lives until the first failure;
//! [`super::RedbMetastore`] opens the next.
//!
//! Format 1: a table for each [`Table`], named by [`Table::name`], of raw keys and values;
//! and the table `nexus` with `format` (the number 1) and `commit` (how many commits the file
//! holds), each a big-endian u64.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::metastore::{Durability, Table, Visitor, WriteBatch};
use redb::{
    CommitError, Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageError, TableDefinition, TableError, TransactionError,
};

use super::redb_backend::{Failure, FileFacts, RedbBackend, damaged};
use super::redb_metastore::RedbOptions;
use super::scratch_file::ScratchFile;

/// The format that this build writes, and the only one that it reads.
const FORMAT: u64 = 1;

type RawTable = TableDefinition<'static, &'static [u8], &'static [u8]>;
const OWN: TableDefinition<'static, &str, u64> = TableDefinition::new("nexus");

fn raw(table: Table) -> RawTable {
    TableDefinition::new(table.name())
}

/// An open database. Closing it, which dropping does too, makes its buffered commits durable
/// if nothing has failed.
pub struct RedbDatabase {
    database: Option<Database>,
    facts: Arc<FileFacts>,
}

/// Whether to read a file whole before trusting it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    No,
    UpTo(u64),
    Always,
}

/// The tables of one moment.
pub struct Tables {
    tables: [ReadOnlyTable<&'static [u8], &'static [u8]>; Table::ALL.len()],
    facts: Arc<FileFacts>,
}

impl RedbDatabase {
    /// Makes a database with empty tables in the empty file at `path`.
    pub fn format(disk: &dyn Disk, path: &Path, options: &RedbOptions) -> Result<()> {
        let file = disk.create(path)?;
        let this = RedbDatabase::start(file, path, options, false)?;
        this.guard(|database| {
            let mut txn = database.begin_write().map_err(|e| transaction_error(&this.facts, e))?;
            txn.set_quick_repair(true);
            for table in Table::ALL {
                txn.open_table(raw(table)).map_err(|e| table_error(&this.facts, e))?;
            }
            {
                let mut own = txn.open_table(OWN).map_err(|e| table_error(&this.facts, e))?;
                own.insert("format", FORMAT).map_err(|e| this.facts.error(e))?;
                own.insert("commit", 0).map_err(|e| this.facts.error(e))?;
            }
            txn.commit().map_err(|e| commit_error(&this.facts, e))
        })?;
        this.close()
    }

    /// Opens the file at `path`; answers the database and how many commits it holds.
    pub fn open(disk: &dyn Disk, path: &Path, options: &RedbOptions, verify: Verify) -> Result<(RedbDatabase, u64)> {
        RedbDatabase::open_file(disk.open(path)?, path, options, verify)
    }

    /// As [`RedbDatabase::open`] for a file that is open, which is not changed: what is
    /// written stays in memory.
    pub fn open_in_memory(
        file: Arc<dyn DiskFile>,
        path: &Path,
        options: &RedbOptions,
        verify: Verify,
    ) -> Result<(RedbDatabase, u64)> {
        RedbDatabase::open_file(Arc::new(ScratchFile::new(file)?), path, options, verify)
    }

    fn open_file(
        file: Arc<dyn DiskFile>,
        path: &Path,
        options: &RedbOptions,
        verify: Verify,
    ) -> Result<(RedbDatabase, u64)> {
        let len = file.len()?;
        if len == 0 {
            // redb would make a new database of it.
            return Err(damaged(path, &"the file is empty"));
        }
        let verify = match verify {
            Verify::No => false,
            Verify::UpTo(limit) => len <= limit,
            Verify::Always => true,
        };
        let this = RedbDatabase::start(file, path, options, verify)?;
        let commits = this.check_format()?;
        Ok((this, commits))
    }

    fn start(file: Arc<dyn DiskFile>, path: &Path, options: &RedbOptions, verify: bool) -> Result<RedbDatabase> {
        let facts = FileFacts::new(file, path);
        let backend = RedbBackend(facts.clone());
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(verify);
        // redb trusts a file that was closed well, and may panic where that trust is betrayed.
        let opened = catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(backend)));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(error)) => return Err(database_error(&facts, error)),
            Err(_) => return Err(facts.damaged(&"it can't be read")),
        };
        Ok(RedbDatabase { database: Some(database), facts })
    }

    /// The file below.
    pub fn file(&self) -> Arc<dyn DiskFile> {
        self.facts.file()
    }

    fn check_format(&self) -> Result<u64> {
        self.guard(|database| {
            let txn = database.begin_read().map_err(|error| transaction_error(&self.facts, error))?;
            check_format(&txn, &self.facts)
        })
    }

    /// The newest state.
    pub fn tables(&self) -> Result<Tables> {
        self.guard(|database| {
            let txn = database.begin_read().map_err(|error| transaction_error(&self.facts, error))?;
            Tables::open(&txn, &self.facts)
        })
    }

    /// Writes `batches` in one transaction, after which the file holds `commits` commits.
    pub fn commit<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a WriteBatch> + Clone,
        commits: u64,
        durability: Durability,
    ) -> Result<()> {
        self.guard(|database| {
            let mut txn = database.begin_write().map_err(|e| transaction_error(&self.facts, e))?;
            match durability {
                Durability::Durable => txn.set_quick_repair(true),
                Durability::Buffered => {
                    txn.set_durability(redb::Durability::None).map_err(|error| self.facts.io(&error))?
                }
            }
            for table in Table::ALL {
                let writes = batches.clone().into_iter().flat_map(|batch| batch.writes.iter());
                let mut writes = writes.filter(|(other, _, _)| *other == table).peekable();
                if writes.peek().is_none() {
                    continue;
                }
                let mut open = txn.open_table(raw(table)).map_err(|e| table_error(&self.facts, e))?;
                for (_, key, value) in writes {
                    match value {
                        Some(value) => open.insert(key.as_slice(), value.as_ref()).map_err(|e| self.facts.error(e))?,
                        None => open.remove(key.as_slice()).map_err(|e| self.facts.error(e))?,
                    };
                }
            }
            {
                let mut own = txn.open_table(OWN).map_err(|e| table_error(&self.facts, e))?;
                own.insert("commit", commits).map_err(|e| self.facts.error(e))?;
            }
            txn.commit().map_err(|e| commit_error(&self.facts, e))
        })
    }

    /// What failed first since the file was opened.
    pub fn failure(&self) -> Option<Failure> {
        self.facts.failure()
    }

    /// Closes the database. Snapshots of it can't read on.
    pub fn close(mut self) -> Result<()> {
        let Some(database) = self.take() else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| database.close())) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(database_error(&self.facts, error)),
            Err(_) => Err(self.facts.damaged(&"closing it failed")),
        }
    }

    /// The database, if it is to be closed.
    fn take(&mut self) -> Option<Database> {
        let database = self.database.take()?;
        if self.facts.is_damaged() {
            // Closing would write, from a state that is not to be trusted, and may panic where
            // no panic can be caught. Better to lose the memory.
            std::mem::forget(database);
            self.facts.unlock();
            return None;
        }
        Some(database)
    }

    /// Runs `work`, taking a panic in redb for what it is: a file that is not what redb wrote.
    fn guard<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let Some(database) = &self.database else {
            return Err(Error::Unavailable(format!("the metastore {} is closed", self.facts.path().display())));
        };
        if self.facts.is_damaged() {
            return Err(self.facts.damaged(&"damage was met before"));
        }
        match catch_unwind(AssertUnwindSafe(|| work(database))) {
            Ok(result) => result,
            Err(_) => Err(self.facts.damaged(&"a page has the wrong shape")),
        }
    }
}

impl Drop for RedbDatabase {
    fn drop(&mut self) {
        let Some(database) = self.take() else { return };
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            log::error!("{}", self.facts.damaged(&"closing it failed"));
        }
    }
}

/// Refuses all formats but this build's; answers how many commits there are.
fn check_format(txn: &ReadTransaction, facts: &FileFacts) -> Result<u64> {
    let own = match txn.open_table(OWN) {
        Ok(own) => own,
        Err(TableError::TableDoesNotExist(_)) => return Err(facts.damaged(&"no metastore format is noted in it")),
        Err(error) => return Err(table_error(facts, error)),
    };
    let number = |key: &str| match own.get(key) {
        Ok(Some(value)) => Ok(value.value()),
        Ok(None) => Err(facts.damaged(&format_args!("{key} is not noted in it"))),
        Err(error) => Err(facts.error(error)),
    };
    match number("format")? {
        FORMAT => number("commit"),
        other => Err(Error::UnknownVersion(format!(
            "the metastore {} has format {other}, and this build knows format {FORMAT} only; use the build that made it",
            facts.path().display()
        ))),
    }
}

fn transaction_error(facts: &FileFacts, error: TransactionError) -> Error {
    match error {
        TransactionError::Storage(error) => facts.error(error),
        error => facts.io(&error),
    }
}

fn commit_error(facts: &FileFacts, error: CommitError) -> Error {
    match error {
        CommitError::Storage(error) => facts.error(error),
        error => facts.io(&error),
    }
}

fn table_error(facts: &FileFacts, error: TableError) -> Error {
    match error {
        TableError::Storage(error) => facts.error(error),
        error => facts.damaged(&error),
    }
}

fn database_error(facts: &FileFacts, error: DatabaseError) -> Error {
    let file = facts.path().display();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Error::Unavailable(format!("the metastore {file} is in use by another process; stop it first"))
        }
        DatabaseError::UpgradeRequired(version) => Error::UnknownVersion(format!(
            "the metastore {file} is a redb file of version {version}, which this build can't read; use the build that made it"
        )),
        DatabaseError::Storage(error) => facts.error(error),
        error => facts.io(&error),
    }
}

impl Tables {
    fn open(txn: &ReadTransaction, facts: &Arc<FileFacts>) -> Result<Tables> {
        let open = |table: Table| txn.open_table(raw(table)).map_err(|error| table_error(facts, error));
        let [a, b, c, d, e, f, g, h, i] = Table::ALL;
        let tables = [open(a)?, open(b)?, open(c)?, open(d)?, open(e)?, open(f)?, open(g)?, open(h)?, open(i)?];
        Ok(Tables { tables, facts: facts.clone() })
    }

    fn table(&self, table: Table) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>> {
        self.tables.get(table as usize - 1).ok_or(Error::Invalid)
    }

    /// Bytes of the file, and bytes of it that a cache of `limit` holds at the most.
    pub fn sizes(&self, limit: usize) -> Result<(u64, u64)> {
        Ok((self.facts.file().len()?, self.facts.moved_bytes().min(limit as u64)))
    }

    /// The value at `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let table = self.table(table)?;
        match catch_unwind(AssertUnwindSafe(|| ReadableTable::get(table, key))) {
            Ok(Ok(value)) => Ok(value.map(|value| Bytes::copy_from_slice(value.value()))),
            Ok(Err(error)) => Err(self.facts.error(error)),
            Err(_) => Err(self.facts.damaged(&"a page has the wrong shape")),
        }
    }

    /// Visits a range forwards or backwards. `start` is below `end`.
    pub fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<()> {
        let table = self.table(table)?;
        let mut visiting = false;
        let done = catch_unwind(AssertUnwindSafe(|| -> std::result::Result<(), StorageError> {
            let mut range = ReadableTable::range::<&[u8]>(table, start..end)?;
            loop {
                let pair = match order {
                    Order::Ascending => range.next(),
                    Order::Descending => range.next_back(),
                };
                let Some((key, value)) = pair.transpose()? else { return Ok(()) };
                visiting = true;
                let flow = visit(key.value(), value.value());
                visiting = false;
                if let ControlFlow::Break(()) = flow {
                    return Ok(());
                }
            }
        }));
        match done {
            Ok(result) => result.map_err(|error| self.facts.error(error)),
            Err(panic) if visiting => resume_unwind(panic),
            Err(_) => Err(self.facts.damaged(&"a page has the wrong shape")),
        }
    }
}

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}
