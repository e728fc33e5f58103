//! Composition root: settings, the data folder, and the only place that names concrete
//! drivers. Everything above it sees [`Volume`] and the kernel tier's traits.

pub mod boot;
pub mod check;
pub mod cloud;
pub mod coding;
pub mod config;
pub mod error;
pub mod folder;
pub mod folders;
pub mod limits;
pub mod memory;
pub mod place;
pub mod repair;
pub mod residency;
mod root_zone;
pub mod stores;
mod surroundings;
pub mod zones;

pub use boot::Volume;
pub use config::{Config, Settings};
pub use error::{Error, Result};
pub use nexus_content::{RoomPolicy, WhenFull};
