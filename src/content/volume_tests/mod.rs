//! Tests of store, collector and checker together, on a simulated disk.

mod basic;
mod crash;
mod far;
mod full;
mod held;
mod images;
mod promised;
mod random;
mod remote;
pub(crate) mod rig;
mod sent;
mod threads;
