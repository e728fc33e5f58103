//! An existing bucket as files: its own objects as a directory tree, each a file, on a mount of
//! its own over a directory of the volume. Nothing of a volume's metadata or content is here.
//!
//! [`Attached`] answers requests; [`Attachments`] are what a daemon has attached, remembered in
//! its data folder.

mod attached;
mod changes;
mod files;
mod listing;
mod manager;
mod served;
#[cfg(test)]
mod tests;
mod tree;

pub use attached::{Attached, View};
pub use manager::{Attachments, Listed, Spec, SpecLimits};
