//! The command line and the daemon as a user meets them: the real program on real mounts, as
//! root. What a mount does with files is the business of the suites beside this folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod helpers;
mod life;
mod ordinary_user;
mod refusals;
mod repair;
mod sandbox;
mod tools;
mod transports;
