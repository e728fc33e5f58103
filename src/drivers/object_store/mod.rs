//! Drivers of [`nexus_kernel::ObjectStore`]: a folder on a local disk, and memory.

mod local_disk_store;
mod memory_store;

pub use local_disk_store::LocalDiskStore;
pub use memory_store::MemoryStore;
