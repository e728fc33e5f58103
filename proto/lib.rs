//! What the nodes of a zone say to each other: the messages and services of `nexus.zone.v1`,
//! generated from the `.proto` files beside this one. Nothing here checks anything; nexus-zone
//! turns messages into checked types, in one place.

#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "generated"
)]
mod generated {
    tonic::include_proto!("nexus.zone.v1");
}

pub use generated::*;
