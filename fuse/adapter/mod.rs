//! The FUSE adapter: turns requests of the kernel's FUSE client into syscalls of
//! [`nexus_kernel::NexusFs`], and their answers into replies. No file system logic.
//!
//! In two layers: [`Adapter`] speaks the protocol's own terms (node ids, flag words, mode
//! bits), a method for each opcode; [`Served`] is what a session of [`nexus_fuse_transport`]
//! calls, and only unpacks requests and packs replies. The pure translations between the two
//! worlds stand in [`translate`].

mod calls;
mod groups;
mod notices;
mod ops;
mod references;
mod served;
pub mod translate;
mod view;
mod waits;

pub use ops::{Adapter, AdapterOptions, ListingSink};
pub use served::Served;
pub use view::{Coherence, Ownership, View};
pub use waits::MOST_WAITS;
