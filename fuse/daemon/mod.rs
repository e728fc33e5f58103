//! The daemon: from a plan to a mount that is served, watched over and closed in order. What
//! a request means is the adapter's, where data goes is the volume's.

mod handler;
mod launch;
pub mod logger;
mod panics;
mod run;

pub use launch::{Ready, Reporter, start};
pub use run::{Failure, Plan, run};
