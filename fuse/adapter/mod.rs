//! The FUSE adapter: turns requests of the kernel's FUSE client into syscalls of
//! [`nexus_kernel::NexusFs`], and their answers into replies. No file system logic.
//!
//! In two layers, so that another transport can take fuser's place: [`Adapter`] speaks the
//! protocol's own terms (node ids, flag words, mode bits) and knows no transport;
//! [`FuserTransport`] only unpacks fuser's requests and packs its replies. The pure
//! translations between the two worlds stand in [`translate`].

mod fuser;
mod fuser_types;
mod groups;
mod ops;
mod stat;
mod sync_queue;
pub mod translate;
mod view;

pub use fuser::FuserTransport;
pub use fuser_types::is_noise;
pub use ops::{Adapter, AdapterOptions, ListingSink, SetAttr, SetTime};
pub use stat::Stat;
pub use view::{Coherence, Ownership, View};
