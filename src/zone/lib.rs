//! The zone tier: the node log, which orders commands and makes them durable, and the local
//! zone, which keeps what is newer than its metastore in memory. It knows nothing of files'
//! bytes beyond [`nexus_kernel::content::ContentSync`], and nothing of FUSE.

mod digest;
mod export;
mod local;
mod log;
pub mod net;
pub mod node;
pub mod raft;
mod replica;
#[cfg(test)]
mod testing;

pub use crate::digest::digest;
pub use crate::export::{ExportError, Pair, export};
pub use crate::local::{Access, Background, LocalZone, NewZone, ZoneConfig, ZoneParts};
pub use crate::log::{Claim, LogConfig, LogStats, NodeLog, Preallocate};
