//! The file metadata model: what stands in each table, its keys and its encoding.

mod acl;
mod blob;
mod codec;
mod dentry;
mod extent;
mod inode;
pub mod keys;
mod lock;
mod mount;
mod placement;
mod usage;

pub use acl::{Acl, AclEntry, AclTag, XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
pub use blob::{Blob, BlobState};
pub use codec::{decode, encode};
pub use dentry::{Dentry, SLOT_BITS, name_hash};
pub use extent::{Extent, Piece};
pub use inode::{FileKind, Inode, InodeFlags, MAX_FILE_BYTES, MAX_LINKS, mode};
pub use lock::{FileLock, FileLocks, LAST_BYTE, LockChange, LockOwner, LockSession, LockWait};
pub use mount::MountTarget;
pub use placement::{FsyncLevel, Placement};
pub use usage::{Usage, ZoneInfo};
