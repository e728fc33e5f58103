//! Drivers of [`nexus_kernel::record_store::RecordStore`].

mod sqlite_record_store;

pub use sqlite_record_store::SqliteRecordStore;
