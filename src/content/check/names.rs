//! Checks of inodes, names and attributes.

use std::ops::ControlFlow;

use nexus_kernel::metastore::MetaRead;
use nexus_kernel::model::{
    self, Acl, Dentry, FileKind, Inode, InodeFlags, MAX_FILE_BYTES, SLOT_BITS, Usage, XATTR_ACL_ACCESS,
    XATTR_ACL_DEFAULT, ZoneInfo, keys, name_hash,
};
use nexus_kernel::{Ino, Name, Result, Table};

use super::Checker;

/// Entries of one directory, as they are counted.
#[derive(Default)]
struct Folder {
    ino: Ino,
    entries: u64,
    folders: u32,
    displaced: bool,
}

impl Checker<'_> {
    pub(super) fn list_inodes(&mut self, state: &dyn MetaRead) -> Result<()> {
        self.each(state, Table::Inode, |checker, key, value| {
            let ino = Ino(keys::parse_one(key)?);
            let inode: Inode = model::decode("inode", value)?;
            checker.summary.inodes += 1;
            checker.marks.change(ino, |mark| mark.kind = Some(inode.kind));
            if ino.0 == 0 || ino > Ino::MAX {
                checker.damage(format_args!("inode {ino}: no file can have this number"));
            }
            if inode.kind == FileKind::Mount {
                checker.damage(format_args!("inode {ino}: mounts have no inodes"));
            }
            if inode.mode & !model::mode::PERMISSIONS != 0 {
                checker.damage(format_args!("inode {ino}: mode {:o} has unknown bits", inode.mode));
            }
            if inode.size > MAX_FILE_BYTES {
                checker.damage(format_args!("inode {ino}: {} bytes are more than a file can have", inode.size));
            }
            Ok(())
        })?;
        self.each(state, Table::Orphan, |checker, key, _| {
            let ino = Ino(keys::parse_one(key)?);
            if checker.marks.get(ino).kind.is_none() {
                checker.damage(format_args!("orphan {ino}: there is no such inode"));
            }
            checker.marks.change(ino, |mark| mark.orphan = true);
            Ok(())
        })
    }

    pub(super) fn check_dentries(&mut self, state: &dyn MetaRead) -> Result<()> {
        let seed = state.zone_info()?.map(|info| info.hash_seed);
        let mut folder = Folder::default();
        self.each(state, Table::Dentry, |checker, key, value| {
            let (parent, position) = keys::parse_pair(key)?;
            let parent = Ino(parent);
            if parent != folder.ino {
                let done = std::mem::replace(&mut folder, Folder { ino: parent, ..Folder::default() });
                checker.check_folder(state, &done)?;
            }
            checker.summary.dentries += 1;
            folder.entries += 1;
            let dentry: Dentry = model::decode("dentry", value)?;
            let name = format!("{:?} in directory {parent}", String::from_utf8_lossy(&dentry.name));
            if Name::new(&dentry.name).is_err() {
                checker.damage(format_args!("{name}: not a name"));
            }
            if let Some(seed) = seed {
                let first = name_hash(seed, &dentry.name);
                if position < first || position >= first + (1 << SLOT_BITS) {
                    checker.damage(format_args!("{name}: stands at a position that look-ups do not find"));
                }
                folder.displaced |= position != first;
                if position > first && checker.has_twin(state, parent, (first, position), &dentry)? {
                    checker.damage(format_args!("{name}: is there twice"));
                }
            }
            // A zone is mounted on a directory, which is here whatever becomes of the zone.
            let is_dir = matches!(dentry.kind, FileKind::Directory | FileKind::Mount);
            let wanted = if is_dir { FileKind::Directory } else { dentry.kind };
            let mark = checker.marks.get(dentry.ino);
            match mark.kind {
                None => checker.damage(format_args!("{name}: inode {} is not there", dentry.ino)),
                Some(kind) if kind != wanted => {
                    checker.damage(format_args!("{name}: inode {} is of another kind", dentry.ino));
                }
                Some(_) => {}
            }
            if is_dir {
                let is_mount = dentry.kind == FileKind::Mount;
                if state.inode(dentry.ino)?.is_some_and(|child| child.flags.has(InodeFlags::MOUNT) != is_mount) {
                    checker.damage(format_args!("{name}: the entry and its directory disagree on a zone"));
                }
                folder.folders += 1;
                if let Some(child) = state.inode(dentry.ino)?.filter(|child| child.parent != parent) {
                    checker.damage(format_args!("{name}: inode {} says it stands in {}", dentry.ino, child.parent));
                }
            }
            checker.marks.change(dentry.ino, |mark| mark.links = mark.links.saturating_add(1));
            Ok(())
        })?;
        self.check_folder(state, &folder)
    }

    /// Whether the same name stands before this one among those of its hash.
    fn has_twin(
        &self,
        state: &dyn MetaRead,
        parent: Ino,
        (first, position): (u64, u64),
        dentry: &Dentry,
    ) -> Result<bool> {
        let mut twin = false;
        let (start, end) = (keys::dentry(parent, first), keys::dentry(parent, position));
        state.scan(Table::Dentry, &start, &end, &mut |_, value| {
            twin |= model::decode::<Dentry>("dentry", value).is_ok_and(|other| other.name == dentry.name);
            if twin { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(twin)
    }

    /// A directory against its entries.
    fn check_folder(&mut self, state: &dyn MetaRead, folder: &Folder) -> Result<()> {
        let ino = folder.ino;
        if ino.0 == 0 {
            return Ok(());
        }
        let Some(inode) = state.inode(ino)?.filter(Inode::is_dir) else {
            self.damage(format_args!("directory {ino}: has {} entries, but is not there", folder.entries));
            return Ok(());
        };
        self.marks.change(ino, |mark| mark.counted = true);
        if inode.size != folder.entries {
            self.damage(format_args!("directory {ino}: counts {} entries, has {}", inode.size, folder.entries));
        }
        if inode.nlink != folder.folders.saturating_add(2) {
            self.damage(format_args!("directory {ino}: {} links for {} subdirectories", inode.nlink, folder.folders));
        }
        if folder.displaced && !inode.flags.has(InodeFlags::COLLIDED) {
            self.damage(format_args!("directory {ino}: names of equal hash are not noted"));
        }
        Ok(())
    }

    pub(super) fn check_inodes(&mut self, state: &dyn MetaRead) -> Result<()> {
        let mut highest = Ino::ROOT;
        let mut allocated = 0u64;
        if self.marks.get(Ino::ROOT).kind != Some(FileKind::Directory) {
            self.damage("the root directory is missing");
        }
        self.each(state, Table::Inode, |checker, key, value| {
            let ino = Ino(keys::parse_one(key)?);
            let inode: Inode = model::decode("inode", value)?;
            highest = highest.max(ino);
            allocated = allocated.saturating_add(inode.allocated);
            let mark = checker.marks.get(ino);
            if mark.orphan != (inode.nlink == 0) {
                let text =
                    if mark.orphan { "waits to be reaped, but has names" } else { "has no name, but is no orphan" };
                checker.damage(format_args!("inode {ino}: {text}"));
            }
            if inode.is_dir() {
                checker.check_directory(state, ino, &inode)?;
            } else {
                if mark.links != inode.nlink {
                    checker.damage(format_args!("inode {ino}: counts {} names, has {}", inode.nlink, mark.links));
                }
                if !mark.counted && inode.allocated != 0 {
                    checker.damage(format_args!("inode {ino}: counts {} bytes, but has none", inode.allocated));
                }
            }
            if inode.kind == FileKind::Symlink {
                match state.get(Table::Symlink, &keys::ino(ino))? {
                    Some(target) if target.len() as u64 == inode.size => {}
                    Some(_) => checker.damage(format_args!("symlink {ino}: its target has another length")),
                    None => checker.damage(format_args!("symlink {ino}: has lost its target")),
                }
            }
            Ok(())
        })?;
        let usage = state.usage()?;
        if usage.next_ino <= highest {
            self.damage(format_args!("the next inode number is {}, but {highest} is in use", usage.next_ino));
        }
        let expected = Usage { inodes: self.summary.inodes, allocated, next_ino: usage.next_ino };
        if usage != expected {
            self.damage(format_args!(
                "the zone counts {} inodes and {} bytes, has {} and {}",
                usage.inodes, usage.allocated, expected.inodes, expected.allocated
            ));
        }
        Ok(())
    }

    fn check_directory(&mut self, state: &dyn MetaRead, ino: Ino, inode: &Inode) -> Result<()> {
        let mark = self.marks.get(ino);
        let expected = u32::from(inode.nlink != 0 && ino != Ino::ROOT);
        if mark.links != expected {
            self.damage(format_args!("directory {ino}: has {} names", mark.links));
        }
        if !mark.counted && (inode.size != 0 || !matches!(inode.nlink, 0 | 2)) {
            self.damage(format_args!(
                "directory {ino}: counts {} entries and {} links, but is empty",
                inode.size, inode.nlink
            ));
        }
        if inode.nlink == 0 {
            return Ok(());
        }
        // The way up, as far as it is not known to lead to the root.
        let mut way = vec![ino];
        let mut at = ino;
        while at != Ino::ROOT && !self.marks.get(at).rooted {
            let parent = state.inode(at)?.filter(Inode::is_dir).map(|inode| inode.parent);
            match parent {
                Some(parent) if (way.len() as u64) <= self.summary.inodes => at = parent,
                Some(_) => {
                    self.damage(format_args!("directory {ino}: lies in a loop"));
                    break;
                }
                None => {
                    self.damage(format_args!("directory {ino}: a directory above it, {at}, is not there"));
                    break;
                }
            }
            way.push(at);
        }
        // Told once for all that lie below.
        for ino in way {
            self.marks.change(ino, |mark| mark.rooted = true);
        }
        Ok(())
    }

    pub(super) fn check_attributes(&mut self, state: &dyn MetaRead) -> Result<()> {
        self.each(state, Table::Symlink, |checker, key, _| {
            let ino = Ino(keys::parse_one(key)?);
            let is_mount = state.inode(ino)?.is_some_and(|inode| inode.flags.has(InodeFlags::MOUNT));
            if checker.marks.get(ino).kind != Some(FileKind::Symlink) && !is_mount {
                checker.damage(format_args!("a symlink's target belongs to inode {ino}, which is none"));
            }
            Ok(())
        })?;
        self.each(state, Table::Xattr, |checker, key, value| {
            let name = keys::parse_xattr_name(key)?;
            let ino = Ino(keys::parse_one(key.get(..8).unwrap_or_default())?);
            let shown = String::from_utf8_lossy(name).into_owned();
            let Some(inode) = state.inode(ino)? else {
                checker.damage(format_args!("attribute {shown:?} belongs to inode {ino}, which is not there"));
                return Ok(());
            };
            let flag = match name {
                XATTR_ACL_ACCESS => InodeFlags::ACL_ACCESS,
                XATTR_ACL_DEFAULT => InodeFlags::ACL_DEFAULT,
                b"security.capability" => InodeFlags::CAPABILITY,
                _ => InodeFlags::XATTR,
            };
            if !inode.flags.has(flag) {
                checker.damage(format_args!("inode {ino}: its attribute {shown:?} is not noted"));
            }
            if (flag == InodeFlags::ACL_ACCESS || flag == InodeFlags::ACL_DEFAULT)
                && !matches!(Acl::parse(value), Ok(Some(_)))
            {
                checker.damage(format_args!("inode {ino}: {shown} can't be read"));
            }
            Ok(())
        })?;
        self.each(state, Table::Inode, |checker, key, value| {
            let ino = Ino(keys::parse_one(key)?);
            let inode: Inode = model::decode("inode", value)?;
            for (flag, name) in
                [(InodeFlags::ACL_ACCESS, XATTR_ACL_ACCESS), (InodeFlags::ACL_DEFAULT, XATTR_ACL_DEFAULT)]
            {
                if inode.flags.has(flag) && state.get(Table::Xattr, &keys::xattr(ino, name))?.is_none() {
                    checker.damage(format_args!("inode {ino}: has lost its {}", String::from_utf8_lossy(name)));
                }
            }
            Ok(())
        })
    }

    pub(super) fn check_settings(&mut self, state: &dyn MetaRead) -> Result<()> {
        if state.get(Table::Sys, &keys::sys(ZoneInfo::KEY))?.is_none() {
            self.damage("the zone does not know its own id");
        }
        Ok(())
    }
}
