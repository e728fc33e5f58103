//! Drivers of [`nexus_kernel::ObjectStore`]: a folder on a local disk, memory, a bucket in the
//! cloud, compression and encryption before that, and a cache on the local disk.

mod cached;
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(feature = "cloud")]
mod coded;
mod local_disk_store;
mod memory_store;
mod transfer;

pub use cached::{CacheLimits, CachedStore};
#[cfg(feature = "cloud")]
pub use cloud::{
    Bucket, Claimant, CloudOptions, CloudStore, CredentialsFile, Limiter, ObjectInfo, PAGE_KEYS, Page, ProbeStep,
    Provider, StoreLimits, StoreUrl,
};
#[cfg(feature = "cloud")]
pub use coded::{CodedStore, Compression, Key, KeyRing};
pub use local_disk_store::LocalDiskStore;
pub use memory_store::MemoryStore;
pub use transfer::{StoreMemory, TransferMemory};
