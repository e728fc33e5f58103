//! What a `NexusFs` is told when it starts.

/// When a read is noted in the file's access time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtimePolicy {
    /// If the noted time is not younger than the last change, or is a day old.
    #[default]
    Relatime,
    /// At every read.
    Strict,
    /// Never.
    Never,
}

/// Options of a `NexusFs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsOptions {
    /// When reads are noted.
    pub atime: AtimePolicy,
    /// Refuse every change; can be switched while running.
    pub read_only: bool,
    /// The client keeps inodes by id without opening them, and tells by `forget` when it
    /// lets go, as the kernel's FUSE client does. Unlinked inodes then stay until they are
    /// forgotten; else until their last handle is released.
    pub caching_client: bool,
}
