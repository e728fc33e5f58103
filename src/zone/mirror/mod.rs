//! Copies of other members' content on this node's disk, so that what a member has synced is
//! not lost with its disk. A blob of another member is a file here, `<zone>/<blob>.mir`, to
//! which ranges of it are appended as they come; it goes when the zone has forgotten the blob.

mod file;
mod ranges;
mod store;
#[cfg(test)]
mod tests;

pub use ranges::Ranges;
pub use store::{MirrorStore, Part};
