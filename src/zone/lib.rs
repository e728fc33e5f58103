//! The zone tier: the node log, which makes commands durable; local zones, which it orders too;
//! and zones that several nodes have: their groups (`raft`), their network (`net`), and a node's
//! part in them (`node`). Content is reached through the kernel's port alone, and of FUSE nothing
//! is known here.

mod digest;
mod export;
mod local;
mod log;
pub mod mirror;
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
