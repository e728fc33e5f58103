//! The floor: a minimal in-memory FUSE file system.

fn main() {}
