//! The mounted file system: what turns FUSE requests into syscalls of the kernel tier, and
//! the daemon and command line around it. No file system logic lives here.

pub mod adapter;
pub mod attach;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod mount;
pub mod zones;
