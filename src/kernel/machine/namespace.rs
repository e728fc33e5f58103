//! Commands on names: format, create, link, unlink, rename.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::command::{Command, NewKind, Outcome, Removed, RenameMode};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::machine::txn::Txn;
use crate::metastore::{MetaRead, Table};
use crate::model::{
    self, Acl, Dentry, FileKind, Inode, InodeFlags, MAX_LINKS, Usage, XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT, ZoneInfo,
    keys, mode, name_hash,
};
use crate::name::Name;

/// Most extents that an unlink frees at once; a bigger file becomes an orphan and is reaped.
const FREE_INLINE_EXTENTS: u32 = 64;
/// Longest target of a symbolic link, in bytes.
const MAX_SYMLINK_BYTES: usize = 4095;

/// A name with where it stands.
struct Entry {
    position: u64,
    dentry: Dentry,
}

impl Txn<'_> {
    pub(super) fn format(&mut self, info: ZoneInfo, mode: u32, uid: u32, gid: u32) -> Result<Outcome> {
        if self.zone_info()?.is_some() {
            return Err(Error::Exists);
        }
        self.put(Table::Sys, keys::sys(ZoneInfo::KEY), model::encode(&info)?);
        let now = info.created;
        let root = Inode {
            kind: FileKind::Directory,
            mode: mode & mode::PERMISSIONS,
            uid,
            gid,
            nlink: 2,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: Ino::ROOT,
            flags: InodeFlags::default(),
        };
        self.put_inode(Ino::ROOT, Some(root));
        *self.usage_mut()? = Usage { inodes: 1, allocated: 0, next_ino: Ino(Ino::ROOT.0 + 1) };
        Ok(Outcome { inode: Some((Ino::ROOT, root)), ..Outcome::default() })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn create(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        kind: &NewKind,
        (mode, umask): (u32, u32),
        (uid, gid): (u32, u32),
        now: Timestamp,
    ) -> Result<Outcome> {
        let name = Name::new(name)?;
        let mut dir = self.directory(parent)?;
        if self.entry(parent, &dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        self.check_unused(ino)?;
        let (file_kind, rdev, size) = match kind {
            NewKind::Regular => (FileKind::Regular, 0, 0),
            NewKind::Directory => (FileKind::Directory, 0, 0),
            NewKind::Symlink(target) => (FileKind::Symlink, 0, target.len() as u64),
            NewKind::Fifo => (FileKind::Fifo, 0, 0),
            NewKind::Socket => (FileKind::Socket, 0, 0),
            NewKind::CharDevice(rdev) => (FileKind::CharDevice, *rdev, 0),
            NewKind::BlockDevice(rdev) => (FileKind::BlockDevice, *rdev, 0),
        };
        let is_dir = file_kind == FileKind::Directory;
        if is_dir && dir.nlink >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let mut inode = Inode {
            kind: file_kind,
            mode: mode & mode::PERMISSIONS,
            uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev,
            size,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_dir { parent } else { Ino(0) },
            flags: dir.flags.inherited(),
        };
        if let NewKind::Symlink(target) = kind {
            if target.is_empty() {
                return Err(Error::NotFound);
            }
            if target.len() > MAX_SYMLINK_BYTES {
                return Err(Error::TooLong);
            }
            inode.mode = 0o777;
            self.put(Table::Symlink, keys::ino(ino), Bytes::copy_from_slice(target));
        } else {
            self.inherit_acl(parent, &dir, ino, &mut inode, umask)?;
        }
        if dir.mode & mode::S_ISGID != 0 {
            inode.gid = dir.gid;
            if is_dir {
                inode.mode |= mode::S_ISGID;
            }
        }
        self.add_entry(
            parent,
            &mut dir,
            Dentry { ino, kind: file_kind, name: Bytes::copy_from_slice(name.as_bytes()) },
        )?;
        if is_dir {
            dir.nlink += 1;
        }
        self.touch_directory(parent, dir, now);
        self.put_inode(ino, Some(inode));
        self.count_inode(ino)?;
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    /// A file without a name: an orphan, which a link makes a file like any other.
    pub(super) fn create_unnamed(
        &mut self,
        parent: Ino,
        ino: Ino,
        (mode, umask): (u32, u32),
        (uid, gid): (u32, u32),
        now: Timestamp,
    ) -> Result<Outcome> {
        let dir = self.directory(parent)?;
        self.check_unused(ino)?;
        let mut inode = Inode {
            kind: FileKind::Regular,
            mode: mode & mode::PERMISSIONS,
            uid,
            gid: if dir.mode & mode::S_ISGID != 0 { dir.gid } else { gid },
            nlink: 0,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: Ino(0),
            flags: dir.flags.inherited(),
        };
        inode.flags.set(InodeFlags::UNNAMED, true);
        self.inherit_acl(parent, &dir, ino, &mut inode, umask)?;
        self.put_inode(ino, Some(inode));
        self.put(Table::Orphan, keys::ino(ino), Bytes::new());
        self.count_inode(ino)?;
        let removed = Some(Removed { ino, orphaned: true });
        Ok(Outcome { inode: Some((ino, inode)), removed, ..Outcome::default() })
    }

    /// Refuses an inode number that can't be given to a new file.
    fn check_unused(&mut self, ino: Ino) -> Result<()> {
        if ino <= Ino::ROOT || ino > Ino::MAX || self.find_inode(ino)?.is_some() {
            return Err(Error::Conflict);
        }
        Ok(())
    }

    fn count_inode(&mut self, ino: Ino) -> Result<()> {
        let usage = self.usage_mut()?;
        usage.inodes += 1;
        usage.next_ino = usage.next_ino.max(Ino(ino.0 + 1));
        Ok(())
    }

    /// Mode bits and ACLs of a new file: from the parent's default ACL, or else by umask.
    fn inherit_acl(&mut self, parent: Ino, dir: &Inode, ino: Ino, inode: &mut Inode, umask: u32) -> Result<()> {
        if !dir.flags.has(InodeFlags::ACL_DEFAULT) {
            inode.mode &= !umask;
            return Ok(());
        }
        let value = self
            .get(Table::Xattr, &keys::xattr(parent, XATTR_ACL_DEFAULT))?
            .ok_or_else(|| Error::Corrupt(format!("directory {parent} has lost its default ACL")))?;
        let default = Acl::parse(&value)
            .ok()
            .flatten()
            .ok_or_else(|| Error::Corrupt(format!("directory {parent} has a damaged default ACL")))?;
        let (access, bits) = default.inherit(inode.mode);
        inode.mode = (inode.mode & !0o777) | bits;
        if !access.is_minimal() {
            self.put(Table::Xattr, keys::xattr(ino, XATTR_ACL_ACCESS), access.to_bytes().into());
            inode.flags.set(InodeFlags::ACL_ACCESS, true);
        }
        if inode.is_dir() {
            self.put(Table::Xattr, keys::xattr(ino, XATTR_ACL_DEFAULT), value);
            inode.flags.set(InodeFlags::ACL_DEFAULT, true);
        }
        Ok(())
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8], now: Timestamp) -> Result<Outcome> {
        let name = Name::new(name)?;
        let mut inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(Error::NotPermitted);
        }
        if inode.nlink == 0 {
            // What lost its last name stays without one; what never had one may get its first.
            if !inode.flags.has(InodeFlags::UNNAMED) {
                return Err(Error::NotFound);
            }
            inode.flags.set(InodeFlags::UNNAMED, false);
            self.delete(Table::Orphan, keys::ino(ino));
        }
        if inode.nlink >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let mut dir = self.directory(parent)?;
        if self.entry(parent, &dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        let dentry = Dentry { ino, kind: inode.kind, name: Bytes::copy_from_slice(name.as_bytes()) };
        self.add_entry(parent, &mut dir, dentry)?;
        self.touch_directory(parent, dir, now);
        inode.nlink += 1;
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8], keep: bool, now: Timestamp) -> Result<Outcome> {
        let mut dir = self.directory(parent)?;
        let Entry { position, dentry } = self.entry(parent, &dir, Name::new(name)?)?.ok_or(Error::NotFound)?;
        if matches!(dentry.kind, FileKind::Directory | FileKind::Mount) {
            return Err(Error::IsDirectory);
        }
        self.remove_entry(parent, &mut dir, position);
        self.touch_directory(parent, dir, now);
        let removed = self.drop_name(dentry.ino, keep, now)?;
        Ok(Outcome { removed: Some(removed), ..Outcome::default() })
    }

    pub(super) fn remove_dir(&mut self, parent: Ino, name: &[u8], keep: bool, now: Timestamp) -> Result<Outcome> {
        let mut dir = self.directory(parent)?;
        let Entry { position, dentry } = self.entry(parent, &dir, Name::new(name)?)?.ok_or(Error::NotFound)?;
        match dentry.kind {
            FileKind::Directory => {}
            FileKind::Mount => return Err(Error::Busy),
            _ => return Err(Error::NotDirectory),
        }
        if self.inode(dentry.ino)?.size != 0 {
            return Err(Error::NotEmpty);
        }
        self.remove_entry(parent, &mut dir, position);
        dir.nlink -= 1;
        self.touch_directory(parent, dir, now);
        let removed = self.drop_name(dentry.ino, keep, now)?;
        Ok(Outcome { removed: Some(removed), ..Outcome::default() })
    }

    pub(super) fn rename(&mut self, command: &Command) -> Result<Outcome> {
        let Command::Rename { parent, name, new_parent, new_name, mode, whiteout, keep, now } = command else {
            return Err(Error::Invalid);
        };
        let (parent, new_parent, now) = (*parent, *new_parent, *now);
        let (name, new_name) = (Name::new(name)?, Name::new(new_name)?);
        let dir = self.directory(parent)?;
        let new_dir = self.directory(new_parent)?;
        let source = self.entry(parent, &dir, name)?.ok_or(Error::NotFound)?;
        let target = self.entry(new_parent, &new_dir, new_name)?;
        if source.dentry.kind == FileKind::Mount || target.as_ref().is_some_and(|t| t.dentry.kind == FileKind::Mount) {
            return Err(Error::Busy);
        }
        if source.dentry.kind == FileKind::Directory {
            self.check_not_below(source.dentry.ino, new_parent)?;
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Err(Error::Exists),
            (RenameMode::Exchange, None) => Err(Error::NotFound),
            (RenameMode::Exchange, Some(target)) => {
                if target.dentry.kind == FileKind::Directory {
                    self.check_not_below(target.dentry.ino, parent)?;
                }
                self.exchange((parent, source), (new_parent, target), now)
            }
            // Two names of one inode: POSIX has rename do nothing and succeed.
            (RenameMode::Replace, Some(target)) if target.dentry.ino == source.dentry.ino => Ok(Outcome::default()),
            (RenameMode::Replace, Some(target)) => {
                self.check_replaceable(&source.dentry, &target.dentry)?;
                self.relink((parent, source), (new_parent, new_name), Some(target), (*whiteout, *keep, now))
            }
            (RenameMode::Replace | RenameMode::NoReplace, None) => {
                self.relink((parent, source), (new_parent, new_name), None, (*whiteout, *keep, now))
            }
        }
    }

    /// Moves a name to where nothing stands, or where `target` may be replaced.
    fn relink(
        &mut self,
        (parent, source): (Ino, Entry),
        (new_parent, new_name): (Ino, Name<'_>),
        target: Option<Entry>,
        (whiteout, keep, now): (Option<Ino>, bool, Timestamp),
    ) -> Result<Outcome> {
        let moves_dir = source.dentry.kind == FileKind::Directory;
        let mut removed = None;
        if let Some(target) = target {
            let mut new_dir = self.directory(new_parent)?;
            self.remove_entry(new_parent, &mut new_dir, target.position);
            if target.dentry.kind == FileKind::Directory {
                new_dir.nlink -= 1;
            }
            self.put_inode(new_parent, Some(new_dir));
            removed = Some(self.drop_name(target.dentry.ino, keep, now)?);
        }
        let mut dir = self.directory(parent)?;
        self.remove_entry(parent, &mut dir, source.position);
        if moves_dir {
            dir.nlink -= 1;
        }
        self.touch_directory(parent, dir, now);
        let mut new_dir = self.directory(new_parent)?;
        if moves_dir && new_dir.nlink >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let old_name = source.dentry.name.clone();
        let dentry = Dentry { name: Bytes::copy_from_slice(new_name.as_bytes()), ..source.dentry };
        let ino = dentry.ino;
        self.add_entry(new_parent, &mut new_dir, dentry)?;
        if moves_dir {
            new_dir.nlink += 1;
        }
        self.touch_directory(new_parent, new_dir, now);
        let inode = self.moved(ino, new_parent, now)?;
        if let Some(whiteout) = whiteout {
            let owner = (inode.uid, inode.gid);
            self.create(parent, &old_name, whiteout, &NewKind::CharDevice(0), (0, 0), owner, now)?;
        }
        Ok(Outcome { inode: Some((ino, inode)), removed, count: 0 })
    }

    fn exchange(
        &mut self,
        (parent, a): (Ino, Entry),
        (new_parent, b): (Ino, Entry),
        now: Timestamp,
    ) -> Result<Outcome> {
        let is_dir = |entry: &Entry| entry.dentry.kind == FileKind::Directory;
        if parent != new_parent && is_dir(&a) != is_dir(&b) {
            let (loses, gains) = if is_dir(&a) { (parent, new_parent) } else { (new_parent, parent) };
            let mut dir = self.directory(gains)?;
            if dir.nlink >= MAX_LINKS {
                return Err(Error::TooManyLinks);
            }
            dir.nlink += 1;
            self.put_inode(gains, Some(dir));
            let mut dir = self.directory(loses)?;
            dir.nlink -= 1;
            self.put_inode(loses, Some(dir));
        }
        let at_a = Dentry { name: a.dentry.name.clone(), ..b.dentry.clone() };
        let at_b = Dentry { name: b.dentry.name.clone(), ..a.dentry.clone() };
        self.put(Table::Dentry, keys::dentry(parent, a.position), model::encode(&at_a)?);
        self.put(Table::Dentry, keys::dentry(new_parent, b.position), model::encode(&at_b)?);
        for ino in [parent, new_parent] {
            let dir = self.directory(ino)?;
            self.touch_directory(ino, dir, now);
        }
        self.moved(b.dentry.ino, parent, now)?;
        let inode = self.moved(a.dentry.ino, new_parent, now)?;
        Ok(Outcome { inode: Some((a.dentry.ino, inode)), ..Outcome::default() })
    }

    /// What a move changes in the inode itself.
    fn moved(&mut self, ino: Ino, new_parent: Ino, now: Timestamp) -> Result<Inode> {
        let mut inode = self.inode(ino)?;
        inode.ctime = now;
        if inode.is_dir() {
            inode.parent = new_parent;
        }
        self.put_inode(ino, Some(inode));
        Ok(inode)
    }

    fn check_replaceable(&mut self, source: &Dentry, target: &Dentry) -> Result<()> {
        match (source.kind == FileKind::Directory, target.kind == FileKind::Directory) {
            (true, false) => Err(Error::NotDirectory),
            (false, true) => Err(Error::IsDirectory),
            (true, true) if self.inode(target.ino)?.size != 0 => Err(Error::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Refuses to move directory `ino` to `to`, if `to` is it or lies below it.
    fn check_not_below(&mut self, ino: Ino, to: Ino) -> Result<()> {
        let mut at = to;
        loop {
            if at == ino {
                return Err(Error::Invalid);
            }
            if at == Ino::ROOT {
                return Ok(());
            }
            // Only ancestors are passed, and none of them is kept: a deep path must not
            // fill the transaction.
            at = match self.inodes_at_hand(at) {
                Some(inode) => inode.parent,
                None => MetaRead::inode(self, at)?.ok_or(Error::Stale)?.parent,
            };
        }
    }

    fn entry(&mut self, parent: Ino, dir: &Inode, name: Name<'_>) -> Result<Option<Entry>> {
        let found = self.find_name(parent, dir, name.as_bytes())?;
        Ok(found.map(|(position, dentry)| Entry { position, dentry }))
    }

    /// Puts a new name at the first free position of its hash.
    fn add_entry(&mut self, parent: Ino, dir: &mut Inode, dentry: Dentry) -> Result<()> {
        let first = name_hash(self.hash_seed()?, &dentry.name);
        let position = self.free_position(parent, first)?;
        if position != first {
            dir.flags.set(InodeFlags::COLLIDED, true);
        }
        self.put(Table::Dentry, keys::dentry(parent, position), model::encode(&dentry)?);
        dir.size += 1;
        Ok(())
    }

    fn remove_entry(&mut self, parent: Ino, dir: &mut Inode, position: u64) {
        self.delete(Table::Dentry, keys::dentry(parent, position));
        dir.size = dir.size.saturating_sub(1);
    }

    fn touch_directory(&mut self, ino: Ino, mut dir: Inode, now: Timestamp) {
        dir.mtime = now;
        dir.ctime = now;
        self.put_inode(ino, Some(dir));
    }

    /// Takes one name from an inode; at the last one frees it or leaves it to be reaped.
    fn drop_name(&mut self, ino: Ino, keep: bool, now: Timestamp) -> Result<Removed> {
        let mut inode = self.inode(ino)?;
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.ctime = now;
        self.put_inode(ino, Some(inode));
        if inode.nlink > 0 {
            return Ok(Removed { ino, orphaned: false });
        }
        let mut budget = FREE_INLINE_EXTENTS;
        if !keep && self.free_inode(ino, &mut budget)? {
            return Ok(Removed { ino, orphaned: false });
        }
        self.put(Table::Orphan, keys::ino(ino), Bytes::new());
        Ok(Removed { ino, orphaned: true })
    }

    pub(super) fn reap(&mut self, inos: &[Ino], mut budget: u32) -> Result<Outcome> {
        let mut left = 0;
        for &ino in inos {
            if MetaRead::get(self, Table::Orphan, &keys::ino(ino))?.is_none() {
                continue;
            }
            if self.free_inode(ino, &mut budget)? {
                self.delete(Table::Orphan, keys::ino(ino));
            } else {
                left += 1;
            }
        }
        Ok(Outcome { count: left, ..Outcome::default() })
    }
}
