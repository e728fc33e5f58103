//! What the benchmark programs share and can be tested without a mount: seeded numbers, the
//! generated trees and histories, medians, the bars, the report. Mounting and measuring live in the
//! binaries.

mod bars;
mod crates;
mod failure;
mod history;
mod json;
mod report;
mod rng;
mod samples;
mod tree;

pub use bars::{BARS, Bar, Limit, MOST_MEMORY_MIB, bar};
pub use crates::CrateTree;
pub use failure::{Context, Failure};
pub use history::History;
pub use json::json;
pub use report::{Report, Role, Row, Subject, Unit};
pub use rng::Rng;
pub use samples::Samples;
pub use tree::{Tree, TreeFile};
