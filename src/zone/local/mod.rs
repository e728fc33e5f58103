//! The local zone: commands are ordered by appending to this node's log, applied to a table
//! in memory, and drained behind into a metastore.
//!
//! Locks, in the order in which they are taken: `drain`, `writer`, `view`. Caches have their
//! own, and are taken last.

mod checkpoint;
mod config;
mod inner;
mod open;
mod pressure;
#[cfg(test)]
mod tests;
mod threads;
mod zone;

pub use config::{Access, Background, NewZone, ZoneConfig, ZoneParts};
pub use zone::LocalZone;
