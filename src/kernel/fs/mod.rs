//! `NexusFs`: the syscalls. Each finds its zone, turns the call into reads and commands,
//! and answers; rules of what a command does live in [`crate::machine`], bytes in
//! [`crate::content`].

mod options;
mod types;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{AttrChange, NewKind, RangeOp, RenameMode};
use crate::content::ContentStore;
use crate::error::{Error, Result};
use crate::ids::NodeId;
use crate::metastore::Metastore;
use crate::router::VfsRouter;
use crate::zone::Zone;

pub use options::{AtimePolicy, FsOptions};
pub use types::{Attr, Caller, DirEntry, FsStats, OpenOptions, Seek, XattrFlags};

/// The file system: every syscall, over the zones of a router and one content store.
pub struct NexusFs {
    router: Arc<VfsRouter>,
    content: Arc<dyn ContentStore>,
}

/// Puts a [`NexusFs`] together.
pub struct FsBuilder {
    metastore: Arc<dyn Metastore>,
}

impl FsBuilder {
    /// Where content goes; without it, only metadata works.
    pub fn content(self, _content: Arc<dyn ContentStore>) -> FsBuilder {
        self
    }

    /// Options; the default ones fit an embedded kernel.
    pub fn options(self, _options: FsOptions) -> FsBuilder {
        self
    }

    /// Owner of the root directory, where the metastore is empty and is formatted now.
    pub fn root_owner(self, _uid: u32, _gid: u32) -> FsBuilder {
        self
    }

    /// Opens the metastore, formatting it if it is empty, and starts.
    pub fn build(self) -> Result<NexusFs> {
        let _ = self.metastore;
        Err(Error::NotSupported)
    }
}

#[allow(unused_variables, reason = "signatures that the adapter builds on")]
impl NexusFs {
    /// Starts with a metastore alone.
    pub fn builder(metastore: Arc<dyn Metastore>) -> FsBuilder {
        FsBuilder { metastore }
    }
    /// Starts over a zone that is open already.
    pub fn with_zone(root: Arc<dyn Zone>, content: Arc<dyn ContentStore>, options: FsOptions) -> Result<NexusFs> {
        Ok(NexusFs { router: Arc::new(VfsRouter::new(root)), content })
    }
    /// The mount table.
    pub fn router(&self) -> &Arc<VfsRouter> {
        &self.router
    }
    /// Where content goes.
    pub fn content(&self) -> &Arc<dyn ContentStore> {
        &self.content
    }
    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        false
    }
    /// Refuses changes from now on, or takes them again.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// When reads are noted, from now on.
    pub fn set_atime_policy(&self, policy: AtimePolicy) {}
    /// Frees the orphans that nobody uses any more, now.
    pub fn reap_now(&self) -> Result<()> {
        Err(Error::NotSupported)
    }

    /// Finds a name. "." and ".." are understood.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attr> {
        Err(Error::NotSupported)
    }
    /// The client let go of these nodes (all its references). Never fails, never blocks long.
    pub fn forget(&self, nodes: &[NodeId]) {}
    /// Attributes.
    pub fn getattr(&self, node: NodeId) -> Result<Attr> {
        Err(Error::NotSupported)
    }
    /// Changes attributes; rights have been checked by the caller's side.
    pub fn setattr(&self, caller: &Caller, node: NodeId, change: &AttrChange) -> Result<Attr> {
        Err(Error::NotSupported)
    }
    /// The directory that a directory stands in; the root's is itself.
    pub fn parent_of(&self, node: NodeId) -> Result<NodeId> {
        Err(Error::NotSupported)
    }
    /// Target of a symbolic link.
    pub fn readlink(&self, node: NodeId) -> Result<Bytes> {
        Err(Error::NotSupported)
    }
    /// Makes a file of any kind: mknod, mkdir and symlink in one.
    pub fn make(&self, caller: &Caller, parent: NodeId, name: &[u8], kind: NewKind, mode: u32) -> Result<Attr> {
        Err(Error::NotSupported)
    }
    /// Takes a name from anything but a directory.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Removes an empty directory.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Moves a name. `whiteout` leaves a character device 0:0 at the source.
    pub fn rename(
        &self, parent: NodeId, name: &[u8], new_parent: NodeId, new_name: &[u8], mode: RenameMode, whiteout: bool,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Gives a file one more name.
    pub fn link(&self, node: NodeId, new_parent: NodeId, new_name: &[u8]) -> Result<Attr> {
        Err(Error::NotSupported)
    }

    /// Opens a regular file; answers the handle.
    pub fn open(&self, node: NodeId, options: OpenOptions) -> Result<u64> {
        Err(Error::NotSupported)
    }
    /// Makes and opens a regular file, or opens the one that is there unless `exclusive`.
    pub fn create(
        &self, caller: &Caller, parent: NodeId, name: &[u8], mode: u32, options: OpenOptions,
    ) -> Result<(Attr, u64)> {
        Err(Error::NotSupported)
    }
    /// Appends at most `len` bytes to `buf`; fewer only at the end of the file. Holes are zeros.
    pub fn read(&self, node: NodeId, handle: u64, offset: u64, buf: &mut Vec<u8>, len: usize) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Writes; answers how many bytes.
    pub fn write(&self, node: NodeId, handle: u64, offset: u64, data: &[u8], kill_privileges: bool) -> Result<usize> {
        Err(Error::NotSupported)
    }
    /// A descriptor of the handle is being closed.
    pub fn flush(&self, node: NodeId, handle: u64) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// The handle is gone.
    pub fn release(&self, node: NodeId, handle: u64) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Makes the file durable, and with it all that came before.
    pub fn fsync(&self, node: NodeId, datasync: bool) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Allocates, punches, zeroes, collapses or inserts a range.
    pub fn fallocate(&self, node: NodeId, op: RangeOp, offset: u64, len: u64) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Next data or hole; reserved zeros count as a hole.
    pub fn seek(&self, node: NodeId, offset: u64, what: Seek) -> Result<u64> {
        Err(Error::NotSupported)
    }
    /// Shares a range of one file with another; answers how many bytes, fewer at the source's end.
    pub fn copy_file_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, len: u64) -> Result<u64> {
        Err(Error::NotSupported)
    }

    /// Opens a directory; answers the handle.
    pub fn opendir(&self, node: NodeId) -> Result<u64> {
        Err(Error::NotSupported)
    }
    /// The directory handle is gone.
    pub fn releasedir(&self, node: NodeId, handle: u64) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Hands out entries after `cookie` (0 for the start) until the sink breaks, or a bounded
    /// number was handed out. A call that hands out none means the end. An entry at which the
    /// sink breaks was not taken: it comes again. "." has cookie 1, ".." 2, neither has `attr`.
    pub fn readdir(
        &self, node: NodeId, cookie: u64, with_attr: bool, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Makes the directory durable, and with it all that came before.
    pub fn fsyncdir(&self, node: NodeId, datasync: bool) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Numbers of the volume that holds `node`.
    pub fn statfs(&self, node: NodeId) -> Result<FsStats> {
        Err(Error::NotSupported)
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, node: NodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Value of an extended attribute.
    pub fn getxattr(&self, node: NodeId, name: &[u8]) -> Result<Bytes> {
        Err(Error::NotSupported)
    }
    /// Names of all extended attributes, each followed by NUL, as listxattr(2) answers them;
    /// `trusted.` ones only for the superuser.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }
    /// Removes an extended attribute.
    pub fn removexattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
}
