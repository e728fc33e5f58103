//! Drivers of [`nexus_kernel::disk::Disk`]: the machine's own file system, and a simulated
//! one for tests that cut power.

mod image;
mod in_place;
mod real;
mod sim;

#[cfg(test)]
pub(crate) use image::Random;
pub use real::RealDisk;
pub use sim::{SimDisk, SyncPoint};
