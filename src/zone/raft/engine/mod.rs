//! The consensus library behind [`super::Consensus`]: the only folder that names it.

mod group;
mod machine;
#[cfg(test)]
pub mod memory_log;
mod network;
mod types;

pub use group::{Group, GroupConfig};
