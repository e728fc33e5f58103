//! The kernel tier: traits of the storage pillars, the file metadata model and its state
//! machine, the VFS router and the syscalls. It imports no other nexus crate and names no
//! driver; what it needs to start is one [`Metastore`].

pub mod behind;
pub mod block_on;
pub mod cache_store;
pub mod clock;
pub mod command;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod content;
pub mod direct_zone;
pub mod disk;
pub mod error;
pub mod failpoint;
#[cfg(test)]
mod fixtures;
pub mod fs;
pub mod ids;
pub mod interrupt;
pub mod locks;
pub mod machine;
pub mod metastore;
pub mod model;
pub mod name;
pub mod object_store;
pub mod overlay;
pub mod protocol;
pub mod readers;
pub mod record_store;
pub mod router;
pub mod scan;
pub mod zone;

pub use block_on::block_on;
pub use clock::{Clock, SystemClock, Timestamp};
pub use command::{Command, Interest, Outcome};
pub use content::ContentStore;
pub use error::{Error, Result};
pub use fs::NexusFs;
pub use ids::{BlobId, Ino, Lsn, NodeId, StoreId, ZoneIndex};
pub use metastore::{MetaRead, Metastore, Table, WriteBatch};
pub use name::Name;
pub use object_store::ObjectStore;
pub use router::VfsRouter;
pub use zone::Zone;
