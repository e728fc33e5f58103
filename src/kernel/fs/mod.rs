//! `NexusFs`: the syscalls. Each finds its zone, turns the call into reads and commands,
//! and answers; rules of what a command does live in [`crate::machine`], bytes in
//! [`crate::content`].

mod types;

pub use types::{Attr, Caller, DirEntry, FsStats, OpenOptions, Seek, XattrFlags};
