//! How one mount sees the file system: which node is its root, who seems to own the
//! files, and whether other mounts change them too.

use std::time::Duration;

use nexus_fuse_transport::{Attr, Time};
use nexus_kernel::model::FileKind;
use nexus_kernel::{Error, NodeId, Result, Timestamp, fs};

/// FUSE's number of the mounted directory.
const FUSE_ROOT: u64 = nexus_fuse_transport::abi::ROOT_ID;

/// `st_blksize`.
pub const BLOCK_BYTES: u32 = 4096;

/// How long the kernel may keep what it is told, where nothing changes behind its back.
/// Long, but not for ever: the kernel counts it in jiffies from now.
pub const LONG_TTL: Duration = Duration::from_secs(3600);

/// The same of files that others change, too: the kernel is told of that, so this bounds only what is missed
/// where one of its answers and what it is told cross each other.
pub const FILE_TTL: Duration = Duration::from_secs(1);
/// The same of directories, whose names the kernel can't be made to let go of while it has names in them, and
/// where it can't be made to let go of names at all.
pub const NAME_TTL: Duration = Duration::from_millis(10);

/// Whether anything but this mount changes the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Coherence {
    /// Every change comes through this mount, so the kernel may cache what it likes.
    #[default]
    Sole,
    /// Other mounts of the same file system change it too: the kernel is told of what they change, and drops pages
    /// when a file was changed elsewhere.
    Shared,
}

/// Ids that all files seem to belong to (`uid=` and `gid=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ownership {
    /// Owner of everything.
    pub uid: Option<u32>,
    /// Group of everything.
    pub gid: Option<u32>,
}

impl Ownership {
    /// The part of a change of owner and group that is to be stored. Setting what is shown
    /// anyway changes nothing; anything else can't be done on such a mount.
    pub fn accept(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(Option<u32>, Option<u32>)> {
        fn one(shown: Option<u32>, wanted: Option<u32>) -> Result<Option<u32>> {
            match (shown, wanted) {
                (Some(shown), Some(wanted)) if shown == wanted => Ok(None),
                (Some(_), Some(_)) => Err(Error::NotPermitted),
                (Some(_), None) | (None, _) => Ok(wanted),
            }
        }
        Ok((one(self.uid, uid)?, one(self.gid, gid)?))
    }
}

/// One mount's view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The directory that is mounted.
    pub root: NodeId,
    /// Who seems to own the files.
    pub owner: Ownership,
    /// Who else changes them.
    pub coherence: Coherence,
}

impl View {
    /// The node that the kernel means by `fuse_id`. The mounted directory and FUSE's root
    /// id change places, so that every node keeps exactly one id.
    pub fn node(&self, fuse_id: u64) -> NodeId {
        NodeId(self.swap(fuse_id))
    }

    /// What the kernel calls `node`; also its `st_ino`.
    pub fn fuse_id(&self, node: NodeId) -> u64 {
        self.swap(node.0)
    }

    fn swap(&self, id: u64) -> u64 {
        match id {
            FUSE_ROOT => self.root.0,
            id if id == self.root.0 => FUSE_ROOT,
            id => id,
        }
    }

    /// Attributes as this mount shows them.
    pub fn attr(&self, attr: &fs::Attr) -> Attr {
        let inode = &attr.inode;
        Attr {
            ino: self.fuse_id(attr.node),
            size: attr.size(),
            blocks: attr.blocks(),
            atime: time(inode.atime),
            mtime: time(inode.mtime),
            ctime: time(inode.ctime),
            btime: time(inode.btime),
            mode: kind_bits(inode.kind) | (inode.mode & 0o7777),
            nlink: inode.nlink,
            uid: self.owner.uid.unwrap_or(inode.uid),
            gid: self.owner.gid.unwrap_or(inode.gid),
            rdev: inode.rdev,
            blksize: BLOCK_BYTES,
        }
    }
}

fn time(time: Timestamp) -> Time {
    Time { sec: time.sec, nsec: time.nsec }
}

/// The kind of file in `st_mode`.
pub fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => 0o100_000,
        FileKind::Directory | FileKind::Mount => 0o040_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Fifo => 0o010_000,
        FileKind::Socket => 0o140_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::BlockDevice => 0o060_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(root: u64) -> View {
        View { root: NodeId(root), owner: Ownership::default(), coherence: Coherence::Sole }
    }

    #[test]
    fn ids_map_one_to_one_both_ways() {
        for root in [1, 77, (3 << 48) | 1] {
            let view = view(root);
            assert_eq!(view.node(1), NodeId(root));
            assert_eq!(view.fuse_id(NodeId(root)), 1);
            for id in [1, 2, 77, 78, (3 << 48) | 1] {
                assert_eq!(view.fuse_id(view.node(id)), id, "root {root}, id {id}");
            }
        }
    }

    #[test]
    fn shown_owner_can_be_set_to_itself_only() {
        let owner = Ownership { uid: Some(1000), gid: None };
        assert_eq!(owner.accept(Some(1000), Some(5)), Ok((None, Some(5))));
        assert_eq!(owner.accept(None, None), Ok((None, None)));
        assert_eq!(owner.accept(Some(0), None), Err(Error::NotPermitted));
        assert_eq!(Ownership::default().accept(Some(7), None), Ok((Some(7), None)));
    }
}
