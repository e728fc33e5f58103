//! Drivers of [`nexus_kernel::cache_store::CacheStore`]. The one that keeps nothing is the
//! kernel's own.

mod memory_cache_store;

pub use memory_cache_store::MemoryCacheStore;
