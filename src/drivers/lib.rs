//! Drivers of the storage pillars and of the disk. Each implements one trait of the kernel
//! and runs that trait's conformance suite; which ones run is chosen when the process starts.

pub mod cache_store;
pub mod disk;
pub mod metastore;
pub mod object_store;
#[cfg(feature = "sqlite")]
pub mod record_store;
