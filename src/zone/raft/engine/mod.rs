//! The consensus library behind [`super::Consensus`]: the only folder that names it.

mod courses;
mod group;
mod log_store;
mod machine;
#[cfg(test)]
pub mod memory_log;
mod network;
#[cfg(test)]
pub mod seeded;
#[cfg(test)]
mod seeded_watch;
#[cfg(test)]
mod suite_tests;
mod tailed;
mod timers;
mod types;

pub use group::{Group, GroupConfig};
pub use log_store::LogStore;
