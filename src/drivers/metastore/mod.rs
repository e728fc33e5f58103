//! Drivers of [`nexus_kernel::Metastore`]: redb on a disk, and memory.

mod memory_metastore;
mod redb_backend;
mod redb_database;
mod redb_metastore;
mod reserve;
mod scratch_file;

pub use memory_metastore::MemoryMetastore;
pub use redb_metastore::{RedbMetastore, RedbOptions};
