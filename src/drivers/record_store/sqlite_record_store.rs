//! A record store in a SQLite database: one connection, used by one thread at a time.
//! Transactions begin with the write lock, so that they wait for other processes' instead of
//! meeting a conflict half way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_kernel::error::{Error, Result};
use nexus_kernel::record_store::{RecordStore, RecordTransaction, Row, Value};
use parking_lot::ReentrantMutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, ffi, params_from_iter};

/// How long a statement waits for another process that uses the database.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// The only pragmas that statements may use: others change how durable the store is.
const PRAGMAS: [&str; 2] = ["table_info", "user_version"];

/// A record store in SQLite.
///
/// A closure of [`RecordStore::transaction`] must use the transaction it is given: the store
/// itself refuses to be used from within one.
pub struct SqliteRecordStore {
    name: String,
    /// Reentrant, so that use from within a transaction is an error instead of a deadlock.
    connection: ReentrantMutex<Connection>,
    /// Whether what runs now is this driver's own, or a caller's statement.
    own: Arc<AtomicBool>,
}

impl SqliteRecordStore {
    /// Opens the database at `path`, making it if there is none. What is there but no
    /// database is [`Error::Corrupt`].
    pub fn open(path: &Path) -> Result<SqliteRecordStore> {
        let name = path.display().to_string();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| translate(&name, error))?;
        let store = SqliteRecordStore::new(name, connection)?;
        let mode: String = store
            .own(|connection| connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)))?;
        if mode != "wal" {
            return Err(store.refuse(format_args!("cannot keep a write-ahead log here, only \"{mode}\"")));
        }
        store.own(|connection| connection.pragma_update(None, "synchronous", "FULL"))?;
        Ok(store)
    }

    /// An empty store that ends with the value.
    pub fn open_in_memory() -> Result<SqliteRecordStore> {
        let name = "in memory".to_owned();
        let connection = Connection::open_in_memory().map_err(|error| translate(&name, error))?;
        SqliteRecordStore::new(name, connection)
    }

    fn new(name: String, connection: Connection) -> Result<SqliteRecordStore> {
        let own = Arc::new(AtomicBool::new(false));
        let seen = own.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| match seen.load(Ordering::Relaxed) {
            true => Authorization::Allow,
            false => permit(&context),
        }));
        let store = SqliteRecordStore { name, connection: ReentrantMutex::new(connection), own };
        store.own(|connection| {
            connection.busy_timeout(BUSY_WAIT)?;
            connection.pragma_update(None, "foreign_keys", true)
        })?;
        Ok(store)
    }

    /// Runs what only this driver may.
    fn own<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock();
        self.own.store(true, Ordering::Relaxed);
        let result = work(&connection);
        self.own.store(false, Ordering::Relaxed);
        result.map_err(|error| self.error(error))
    }

    fn prepare<'a>(&self, connection: &'a Connection, sql: &str, params: &[Value]) -> Result<Statement<'a>> {
        if params.iter().any(|value| matches!(value, Value::Real(real) if real.is_nan())) {
            // SQLite would keep NULL in its place.
            return Err(self.refuse("a parameter is not a number"));
        }
        if sql.contains('\0') {
            // SQLite would take it for the end, and leave out what follows.
            return Err(self.refuse("a statement with a zero byte"));
        }
        connection.prepare(sql).map_err(|error| self.error(error))
    }

    fn rows(&self, statement: &mut Statement<'_>, params: &[Value]) -> Result<Vec<Row>> {
        let columns = statement.column_count();
        let mut rows =
            statement.query(params_from_iter(params.iter().map(bound))).map_err(|error| self.error(error))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            let value = |column| self.value(row.get_ref(column).map_err(|error| self.error(error))?);
            all.push((0..columns).map(value).collect::<Result<Row>>()?);
        }
        Ok(all)
    }

    fn value(&self, value: ValueRef<'_>) -> Result<Value> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(integer) => Value::Integer(integer),
            ValueRef::Real(real) => Value::Real(real),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(error) => return Err(Error::Corrupt(format!("record store {}: a text: {error}", self.name))),
            },
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        })
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        translate(&self.name, error)
    }

    fn refuse(&self, what: impl std::fmt::Display) -> Error {
        Error::Io(format!("record store {}: {what}", self.name))
    }
}

impl RecordStore for SqliteRecordStore {
    fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        let connection = self.connection.lock();
        if !connection.is_autocommit() {
            return Err(self.refuse("used from within its own transaction"));
        }
        let mut statement = self.prepare(&connection, sql, params)?;
        if !statement.readonly() {
            return Err(self.refuse("a statement that changes something needs a transaction"));
        }
        self.rows(&mut statement, params)
    }

    fn transaction(&self, work: &mut dyn FnMut(&mut dyn RecordTransaction) -> Result<()>) -> Result<()> {
        let connection = self.connection.lock();
        if !connection.is_autocommit() {
            return Err(self.refuse("used from within its own transaction"));
        }
        self.own(|connection| connection.execute_batch("BEGIN IMMEDIATE"))?;
        let mut transaction = Transaction { store: self, connection: &connection };
        work(&mut transaction)?;
        transaction.check()?;
        self.own(|connection| connection.execute_batch("COMMIT"))
    }
}

/// An open transaction; what is not committed when it goes is rolled back.
struct Transaction<'a> {
    store: &'a SqliteRecordStore,
    connection: &'a Connection,
}

impl Transaction<'_> {
    /// Refuses to go on after a rollback that a statement or an error brought about: what
    /// followed would be committed without what came before.
    fn check(&self) -> Result<()> {
        match self.connection.is_autocommit() {
            true => Err(self.store.refuse("the transaction was rolled back by an earlier error")),
            false => Ok(()),
        }
    }
}

impl RecordTransaction for Transaction<'_> {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64> {
        self.check()?;
        let mut statement = self.store.prepare(self.connection, sql, params)?;
        if statement.column_count() > 0 {
            return Err(self.store.refuse("a statement that answers rows is a query"));
        }
        let before = self.connection.total_changes();
        let params = params_from_iter(params.iter().map(bound));
        let changed = statement.execute(params).map_err(|error| self.store.error(error))?;
        // SQLite's count is the last one's where a statement counts nothing, such as CREATE.
        let counted = self.connection.total_changes() != before;
        Ok(if counted { changed as u64 } else { 0 })
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        self.check()?;
        let mut statement = self.store.prepare(self.connection, sql, params)?;
        self.store.rows(&mut statement, params)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.store.own(|connection| connection.execute_batch("ROLLBACK"))
        {
            log::error!("{error}: while rolling back; the store refuses all use until it is opened again");
        }
    }
}

/// Whether a caller's statement may do this. Transactions are the driver's own affair, as are
/// its settings and its files.
fn permit(context: &AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. } => Authorization::Deny,
        AuthAction::Pragma { pragma_name, .. } if !PRAGMAS.contains(&pragma_name) => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

fn bound(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

/// What SQLite says, in the kernel's words.
fn translate(name: &str, error: rusqlite::Error) -> Error {
    let text = format!("record store {name}: {error}");
    let Some(cause) = error.sqlite_error() else { return Error::Io(text) };
    match cause.code {
        ErrorCode::DiskFull => Error::NoSpace,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Error::Corrupt(text),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => Error::Conflict,
        ErrorCode::ReadOnly => Error::ReadOnly,
        ErrorCode::PermissionDenied => Error::AccessDenied,
        ErrorCode::TooBig => Error::TooLong,
        ErrorCode::ConstraintViolation
            if matches!(
                cause.extended_code,
                ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID
            ) =>
        {
            Error::Exists
        }
        _ => Error::Io(text),
    }
}

#[cfg(test)]
#[path = "sqlite_record_store_tests.rs"]
mod tests;
