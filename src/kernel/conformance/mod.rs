//! Suites that every driver of a trait runs in its own tests: what the trait's documentation
//! promises, as assertions. A suite panics with what is broken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the suites are test code that lives beside the traits"
)]

pub mod cache_store;
pub mod disk;
pub mod metastore;
pub mod object_store;

pub mod record_store;
pub mod zone;

pub use crate::block_on::block_on;
