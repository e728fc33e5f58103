//! `FileMetadataProtocol`: metadata by path, for services and tools that do not hold node ids.
//! Content is not reached this way.

use bytes::Bytes;
use std::ops::ControlFlow;

use crate::command::AttrChange;
use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, DirEntry, NexusFs, XattrFlags};
use crate::ids::NodeId;
use crate::model::FileKind;

/// Symbolic links that are followed on the way of one path, as Linux has it.
pub const MAX_LINKS_FOLLOWED: usize = 40;
/// Longest path in bytes, before symbolic links.
pub const MAX_PATH_BYTES: usize = 4096;

/// Whether a symbolic link at the end of a path stands for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// Its target is meant.
    Follow,
    /// The link is meant.
    Stay,
}

/// Metadata by path. Paths are bytes, with `/` between components, and start at the root of
/// the volume, with or without a leading `/`; so do absolute targets of symbolic links.
/// `..` at the root stays there. No rights are checked: the caller acts as the system.
pub trait FileMetadataProtocol: Send + Sync {
    /// The node that a path means. [`Error::NotFound`], [`Error::NotDirectory`] where a
    /// component before the last is no directory, [`Error::LinkLoop`] after
    /// [`MAX_LINKS_FOLLOWED`] symbolic links, [`Error::NameTooLong`].
    fn resolve(&self, path: &[u8], last: LastLink) -> Result<NodeId>;

    /// Attributes of what a path means.
    fn stat(&self, path: &[u8], last: LastLink) -> Result<Attr>;

    /// Whether there is anything at the path; a symbolic link counts, whatever it points at.
    fn exists(&self, path: &[u8]) -> Result<bool>;

    /// Entries of a directory after `cookie` (0 for the start), without "." and "..", at
    /// most `limit`; none at the end. Go on with the last entry's cookie.
    fn list(&self, path: &[u8], cookie: u64, limit: usize) -> Result<Vec<DirEntry>>;

    /// Target of a symbolic link.
    fn read_link(&self, path: &[u8]) -> Result<Bytes>;

    /// Changes attributes.
    fn set_attr(&self, path: &[u8], change: &AttrChange) -> Result<Attr>;

    /// Value of an extended attribute.
    fn get_xattr(&self, path: &[u8], name: &[u8]) -> Result<Bytes>;

    /// Sets an extended attribute.
    fn set_xattr(&self, path: &[u8], name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()>;

    /// Names of all extended attributes.
    fn list_xattrs(&self, path: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Removes an extended attribute.
    fn remove_xattr(&self, path: &[u8], name: &[u8]) -> Result<()>;
}

impl FileMetadataProtocol for NexusFs {
    fn resolve(&self, path: &[u8], last: LastLink) -> Result<NodeId> {
        Ok(walk(self, path, last)?.node)
    }

    fn stat(&self, path: &[u8], last: LastLink) -> Result<Attr> {
        walk(self, path, last)
    }

    fn exists(&self, path: &[u8]) -> Result<bool> {
        match walk(self, path, LastLink::Stay) {
            Ok(_) => Ok(true),
            Err(Error::NotFound | Error::NotDirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &[u8], cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        let node = self.resolve(path, LastLink::Follow)?;
        let mut entries = Vec::new();
        // Past the cookies of "." and "..".
        let mut after = cookie.max(2);
        while entries.len() < limit {
            let before = entries.len();
            self.readdir(node, after, true, &mut |entry| {
                if entries.len() == limit {
                    return ControlFlow::Break(());
                }
                after = entry.cookie;
                entries.push(entry);
                ControlFlow::Continue(())
            })?;
            if entries.len() == before {
                break;
            }
        }
        Ok(entries)
    }

    fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        self.readlink(self.resolve(path, LastLink::Stay)?)
    }

    fn set_attr(&self, path: &[u8], change: &AttrChange) -> Result<Attr> {
        self.setattr(&Caller::ROOT, self.resolve(path, LastLink::Follow)?, change)
    }

    fn get_xattr(&self, path: &[u8], name: &[u8]) -> Result<Bytes> {
        self.getxattr(self.resolve(path, LastLink::Follow)?, name)
    }

    fn set_xattr(&self, path: &[u8], name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.setxattr(self.resolve(path, LastLink::Follow)?, name, value, flags)
    }

    fn list_xattrs(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let names = self.listxattr(&Caller::ROOT, self.resolve(path, LastLink::Follow)?)?;
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn remove_xattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        self.removexattr(self.resolve(path, LastLink::Follow)?, name)
    }
}

/// Goes a path from the root, a component at a time.
fn walk(fs: &NexusFs, path: &[u8], last: LastLink) -> Result<Attr> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Error::NameTooLong);
    }
    let mut at = fs.getattr(NodeId::ROOT)?;
    let mut followed = 0;
    // What is still to be gone, the next component last. Bounded, as each link adds at most
    // the components of one target.
    let mut ahead: Vec<Vec<u8>> = Vec::new();
    push_components(&mut ahead, path);
    while let Some(component) = ahead.pop() {
        if !at.inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        if component.is_empty() {
            // What a trailing slash leaves: it asks for a directory, which `at` is.
            continue;
        }
        let found = fs.lookup(at.node, &component)?;
        let stands_last = ahead.is_empty() && last == LastLink::Stay;
        if found.inode.kind != FileKind::Symlink || stands_last {
            at = found;
            continue;
        }
        followed += 1;
        if followed > MAX_LINKS_FOLLOWED {
            return Err(Error::LinkLoop);
        }
        let target = fs.readlink(found.node)?;
        if target.starts_with(b"/") {
            at = fs.getattr(NodeId::ROOT)?;
        }
        push_components(&mut ahead, &target);
    }
    Ok(at)
}

/// Puts the components of `path` on the stack, the first on top; a trailing slash becomes
/// an empty component.
fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    if path.ends_with(b"/") {
        ahead.push(Vec::new());
    }
    let components = path.split(|byte| *byte == b'/').rev();
    ahead.extend(components.filter(|component| !component.is_empty()).map(<[u8]>::to_vec));
}
