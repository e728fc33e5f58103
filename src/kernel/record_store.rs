//! The `RecordStore` pillar: relational ACID records for services. The kernel itself never
//! uses one; the trait stands here because services import only the kernel.

use crate::error::Result;

/// A value of a column.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// 64-bit signed integer.
    Integer(i64),
    /// 64-bit float. A store may refuse one that is not a number.
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A row, in the order of the statement's columns.
pub type Row = Vec<Value>;

/// A relational store.
///
/// Implementors guarantee: statements take `?1`, `?2`, ... as parameters; `transaction`
/// runs its closure's statements atomically and serializably, is durable when it returns
/// `Ok`, and leaves nothing behind when the closure returns an error, which comes back as it
/// is. A row that a unique key forbids is [`Error::Exists`]; [`Error::Conflict`] says that
/// the transaction did nothing and may be tried again.
///
/// [`Error::Exists`]: crate::error::Error::Exists
/// [`Error::Conflict`]: crate::error::Error::Conflict
pub trait RecordStore: Send + Sync {
    /// Runs a statement that only reads, outside a transaction of its own.
    fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>>;
    /// Runs `work` in a transaction.
    fn transaction(&self, work: &mut dyn FnMut(&mut dyn RecordTransaction) -> Result<()>) -> Result<()>;
}

/// Statements within a transaction.
pub trait RecordTransaction {
    /// Runs a statement; answers the number of rows that it changed.
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64>;
    /// Runs a query.
    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>>;
}
