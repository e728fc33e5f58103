//! What the benchmark programs share and can be tested without a mount: seeded numbers, the
//! generated tree, medians, the report. Mounting and measuring live in the binaries.

mod failure;
mod report;
mod rng;
mod samples;
mod tree;

pub use failure::{Context, Failure};
pub use report::{Report, Row, Unit};
pub use rng::Rng;
pub use samples::Samples;
pub use tree::{Tree, TreeFile};
