//! Targets of symlinks, extended attributes and ACLs.

use bytes::Bytes;
use nexus_kernel::model::{Acl, FileKind, InodeFlags, XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};

use super::Repair;

/// What a symlink leads to whose target is lost.
const LOST_TARGET: &[u8] = b"#lost";
/// Bits of the mode that an access ACL's mask is, and that would be the group's without it.
const GROUP_BITS: u32 = 0o070;

impl Repair {
    pub(super) fn attributes(&mut self) {
        self.targets();
        self.xattrs();
    }

    fn targets(&mut self) {
        let inodes = &self.model.inodes;
        let is_link = |ino: &u64| inodes.get(ino).is_some_and(|inode| inode.kind == FileKind::Symlink);
        let stray: Vec<u64> = self.model.symlinks.keys().copied().filter(|ino| !is_link(ino)).collect();
        let links: Vec<u64> = inodes.keys().copied().filter(is_link).collect();
        for ino in stray {
            if let Some(target) = self.model.symlinks.remove(&ino) {
                let shown = String::from_utf8_lossy(&target).into_owned();
                self.say(format_args!("inode {ino}: is no symlink; the target {shown:?} goes"));
            }
        }
        for ino in links {
            let len = match self.model.symlinks.get(&ino) {
                Some(target) => target.len(),
                None => {
                    self.model.symlinks.insert(ino, Bytes::from_static(LOST_TARGET));
                    self.say(format_args!("{}: its target is lost, and is \"#lost\" now", self.path(ino)));
                    LOST_TARGET.len()
                }
            };
            if let Some(inode) = self.model.inodes.get_mut(&ino)
                && inode.size != len as u64
            {
                inode.size = len as u64;
                self.say(format_args!("symlink {ino}: its target has {len} bytes"));
            }
        }
    }

    fn xattrs(&mut self) {
        let all: Vec<(u64, Bytes)> = self.model.xattrs.keys().cloned().collect();
        for (ino, name) in all {
            let shown = String::from_utf8_lossy(&name).into_owned();
            let flag = match &*name {
                XATTR_ACL_ACCESS => InodeFlags::ACL_ACCESS,
                XATTR_ACL_DEFAULT => InodeFlags::ACL_DEFAULT,
                b"security.capability" => InodeFlags::CAPABILITY,
                _ => InodeFlags::XATTR,
            };
            let is_acl = flag == InodeFlags::ACL_ACCESS || flag == InodeFlags::ACL_DEFAULT;
            let key = (ino, name);
            let readable = self.model.xattrs.get(&key).is_some_and(|value| matches!(Acl::parse(value), Ok(Some(_))));
            let Some(inode) = self.model.inodes.get_mut(&ino) else {
                self.model.xattrs.remove(&key);
                self.say(format_args!("attribute {shown:?} of inode {ino}, which is not there, goes"));
                continue;
            };
            if is_acl && !readable {
                // The flag goes below.
                self.model.xattrs.remove(&key);
                self.say(format_args!("inode {ino}: {shown} can't be read, and goes"));
            } else if !inode.flags.has(flag) {
                inode.flags.set(flag, true);
                self.say(format_args!("inode {ino}: its attribute {shown:?} is noted"));
            }
        }
        let acls = [(InodeFlags::ACL_ACCESS, XATTR_ACL_ACCESS), (InodeFlags::ACL_DEFAULT, XATTR_ACL_DEFAULT)];
        let mut lost = Vec::new();
        for (ino, inode) in &mut self.model.inodes {
            for (flag, name) in acls {
                if inode.flags.has(flag) && !self.model.xattrs.contains_key(&(*ino, Bytes::from_static(name))) {
                    inode.flags.set(flag, false);
                    // Nobody gets more than before.
                    if flag == InodeFlags::ACL_ACCESS {
                        inode.mode &= !GROUP_BITS;
                    }
                    lost.push((*ino, String::from_utf8_lossy(name)));
                }
            }
        }
        for (ino, name) in lost {
            self.say(format_args!("{}: has no {name} any more; see who may use it", self.path(ino)));
        }
    }
}
