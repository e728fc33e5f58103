//! Inodes and their names.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use nexus_kernel::model::{Dentry, FileKind, Inode, MAX_FILE_BYTES, mode};
use nexus_kernel::{Error, Ino, Name, Result};

use super::model::Unreadable;
use super::{Repair, has_data};

/// Where what has lost its name goes.
const LOST_FOUND: &str = "lost+found";

impl Repair {
    /// Gives inodes with impossible numbers possible ones, with all that is theirs.
    pub(super) fn numbers(&mut self) -> Result<()> {
        let bad: Vec<u64> = self.model.inodes.keys().copied().filter(|ino| *ino == 0 || *ino > Ino::MAX.0).collect();
        for old in bad {
            let Some(inode) = self.model.inodes.remove(&old) else { continue };
            let new = self.next_ino()?;
            self.say(format_args!("inode {old}: no file can have this number; it gets {new}"));
            self.model.inodes.insert(new, inode);
            self.move_extents(old, new);
            if let Some(target) = self.model.symlinks.remove(&old) {
                self.model.symlinks.insert(new, target);
            }
            let attributes: Vec<Bytes> =
                self.model.xattrs.keys().filter(|(ino, _)| *ino == old).map(|(_, name)| name.clone()).collect();
            for name in attributes {
                if let Some(value) = self.model.xattrs.remove(&(old, name.clone())) {
                    self.model.xattrs.insert((new, name), value);
                }
            }
            for dentry in self.model.dentries.values_mut().filter(|dentry| dentry.ino.0 == old) {
                dentry.ino = Ino(new);
            }
        }
        Ok(())
    }

    pub(super) fn move_extents(&mut self, from: u64, to: u64) {
        for (at, extent) in self.model.extents_of(from) {
            self.model.extents.remove(&(from, at));
            self.model.extents.insert((to, at), extent);
        }
    }

    /// Kinds, modes and sizes that can't be.
    pub(super) fn inodes(&mut self, unreadable: &Unreadable) -> Result<()> {
        let inos: Vec<u64> = self.model.inodes.keys().copied().collect();
        for ino in inos {
            let is_mount = self.model.inodes.get(&ino).is_some_and(|inode| inode.kind == FileKind::Mount);
            let kind = if is_mount { self.guess_kind(ino, unreadable) } else { None };
            let end = self.data_end(ino);
            let Some(inode) = self.model.inodes.get_mut(&ino) else { continue };
            let mut texts = Vec::new();
            if inode.kind == FileKind::Mount {
                inode.kind = kind.unwrap_or(FileKind::Regular);
                texts.push(format!("inode {ino}: is no mount, but a {:?}", inode.kind));
            }
            if inode.mode & !mode::PERMISSIONS != 0 {
                texts.push(format!("inode {ino}: mode {:o} loses its unknown bits", inode.mode));
                inode.mode &= mode::PERMISSIONS;
            }
            if inode.size > MAX_FILE_BYTES {
                texts.push(format!("inode {ino}: {} bytes can't be; its content has {end}", inode.size));
                inode.size = end;
            }
            texts.into_iter().for_each(|text| self.say(text));
        }
        if !self.model.inodes.get(&Ino::ROOT.0).is_some_and(Inode::is_dir) {
            let root = Inode { mode: 0o755, ..self.blank(FileKind::Directory) };
            if let Some(other) = self.model.inodes.insert(Ino::ROOT.0, root) {
                let ino = self.next_ino()?;
                self.model.inodes.insert(ino, other);
                self.move_extents(Ino::ROOT.0, ino);
            }
            self.say("the root directory is made anew, as root's and with mode 755");
        }
        Ok(())
    }

    /// Makes inodes anew that are missing, or can't be read, where something of them is left.
    pub(super) fn missing_inodes(&mut self, unreadable: &Unreadable) -> Result<()> {
        let mut missing: BTreeSet<u64> = unreadable.inodes.clone();
        missing.extend(self.model.extents.iter().filter(|(_, extent)| has_data(extent.blob)).map(|((ino, _), _)| *ino));
        missing.extend(self.model.dentries.keys().map(|(parent, _)| *parent));
        let names = self.model.dentries.values().filter(|dentry| dentry.kind == FileKind::Symlink);
        missing.extend(names.map(|dentry| dentry.ino.0).filter(|ino| self.model.symlinks.contains_key(ino)));
        missing.retain(|ino| !self.model.inodes.contains_key(ino) && *ino != 0 && *ino <= Ino::MAX.0);
        for ino in missing {
            let Some(kind) = self.guess_kind(ino, unreadable) else { continue };
            let size = match kind {
                FileKind::Symlink => self.model.symlinks.get(&ino).map_or(0, |target| target.len() as u64),
                _ => self.data_end(ino),
            };
            let inode = Inode { size, ..self.blank(kind) };
            self.model.inodes.insert(ino, inode);
            self.say(format_args!("inode {ino}: was gone, and is a {kind:?} of root's now, of {size} bytes"));
        }
        Ok(())
    }

    /// What kind of file an inode was, by what is left of it.
    fn guess_kind(&self, ino: u64, unreadable: &Unreadable) -> Option<FileKind> {
        if self.model.entries(ino).next().is_some() {
            return Some(FileKind::Directory);
        }
        if self.model.symlinks.contains_key(&ino) {
            return Some(FileKind::Symlink);
        }
        if self.model.extents_of(ino).iter().any(|(_, extent)| has_data(extent.blob))
            || unreadable.extents.range((ino, 0)..=(ino, u64::MAX)).next().is_some()
        {
            return Some(FileKind::Regular);
        }
        let named = self.model.dentries.values().find(|dentry| dentry.ino.0 == ino && dentry.kind != FileKind::Mount);
        // A symlink without its target, or a device without its number, would be something else.
        let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Fifo, FileKind::Socket];
        named.map(|dentry| dentry.kind).filter(|kind| kinds.contains(kind))
    }

    /// End of the last extent with bytes of a file.
    fn data_end(&self, ino: u64) -> u64 {
        let ends = self.model.extents.range((ino, 0)..=(ino, u64::MAX)).filter(|(_, extent)| has_data(extent.blob));
        ends.filter_map(|((_, at), extent)| at.checked_add(extent.len))
            .filter(|end| *end <= MAX_FILE_BYTES)
            .max()
            .unwrap_or(0)
    }

    /// Entries that lead nowhere, that nobody can find or that are there twice.
    pub(super) fn dentries(&mut self) -> Result<()> {
        let old = std::mem::take(&mut self.model.dentries);
        let mut displaced = Vec::new();
        let mut names: (u64, BTreeSet<Bytes>) = (0, BTreeSet::new());
        for ((parent, position), mut dentry) in old {
            let shown = format!("{:?} in directory {parent}", String::from_utf8_lossy(&dentry.name));
            if names.0 != parent {
                names = (parent, BTreeSet::new());
            }
            if !self.model.inodes.get(&parent).is_some_and(Inode::is_dir) {
                self.say(format_args!("{shown}: that is no directory; the name goes"));
                continue;
            }
            if Name::new(&dentry.name).is_err() {
                self.say(format_args!("{shown}: is no name, and goes"));
                continue;
            }
            if dentry.kind != FileKind::Mount {
                let Some(child) = self.model.inodes.get(&dentry.ino.0).copied() else {
                    self.say(format_args!("{shown}: nothing is left of inode {}; the name goes", dentry.ino));
                    continue;
                };
                if child.kind != dentry.kind {
                    self.say(format_args!("{shown}: is noted as the {:?} that it is", child.kind));
                    dentry.kind = child.kind;
                }
            }
            if !names.1.insert(dentry.name.clone()) {
                self.say(format_args!("{shown}: is there twice; the second one goes"));
                continue;
            }
            if self.model.is_findable(&dentry.name, position) {
                self.model.dentries.insert((parent, position), dentry);
            } else {
                self.say(format_args!("{shown}: moves to where look-ups find it"));
                displaced.push((parent, dentry));
            }
        }
        for (parent, dentry) in displaced {
            if !self.model.place(parent, dentry) {
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }

    /// Each directory stands in one other, and the way up leads to the root.
    pub(super) fn directories(&mut self) {
        let mut places: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for (at, dentry) in self.model.dentries.iter().filter(|(_, dentry)| dentry.kind == FileKind::Directory) {
            places.entry(dentry.ino.0).or_default().push(*at);
        }
        let mut parents: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (ino, at) in places {
            let said = self.model.inodes.get(&ino).map_or(0, |inode| inode.parent.0);
            let kept = at.iter().find(|(parent, _)| *parent == said).or(at.first()).copied();
            let kept = kept.filter(|_| ino != Ino::ROOT.0);
            for other in at.iter().filter(|other| kept != Some(**other)) {
                self.model.dentries.remove(other);
                self.say(format_args!(
                    "directory {ino}: has more than one name; the one in directory {} goes",
                    other.0
                ));
            }
            let Some(kept) = kept else { continue };
            parents.insert(ino, kept);
        }
        // Directories from which the way up was seen to end somewhere.
        let mut settled: BTreeSet<u64> = BTreeSet::from([Ino::ROOT.0]);
        let inos: Vec<u64> = parents.keys().copied().collect();
        for ino in inos {
            let (mut way, mut at) = (BTreeSet::new(), ino);
            while !settled.contains(&at) && way.insert(at) {
                match parents.get(&at) {
                    Some((parent, _)) => at = *parent,
                    None => break,
                }
            }
            if !settled.contains(&at)
                && let Some(place) = parents.get(&at).copied()
            {
                self.model.dentries.remove(&place);
                parents.remove(&at);
                self.say(format_args!("directory {at}: lies in a loop, and is taken out of directory {}", place.0));
            }
            settled.extend(way);
        }
        for (ino, (parent, _)) in parents {
            self.stand(ino, parent);
        }
        self.stand(Ino::ROOT.0, Ino::ROOT.0);
    }

    fn stand(&mut self, ino: u64, parent: u64) {
        let Some(inode) = self.model.inodes.get_mut(&ino) else { return };
        let old = std::mem::replace(&mut inode.parent, Ino(parent));
        if old.0 != parent {
            self.say(format_args!("directory {ino}: stands in directory {parent}, not in {old}"));
        }
    }

    /// What has no name and does not wait to be reaped gets one.
    pub(super) fn nameless(&mut self) -> Result<()> {
        let mut links: BTreeMap<u64, u32> = BTreeMap::new();
        for dentry in self.model.dentries.values().filter(|dentry| dentry.kind != FileKind::Mount) {
            let count = links.entry(dentry.ino.0).or_default();
            *count = count.saturating_add(1);
        }
        let gone: Vec<u64> =
            self.model.orphans.iter().copied().filter(|ino| !self.model.inodes.contains_key(ino)).collect();
        for ino in gone {
            self.model.orphans.remove(&ino);
            self.say(format_args!("orphan {ino}: there is no such inode; it need not be reaped"));
        }
        let inos: Vec<u64> = self.model.inodes.keys().copied().filter(|ino| *ino != Ino::ROOT.0).collect();
        for ino in inos {
            let has_entries = self.model.entries(ino).next().is_some();
            match (links.contains_key(&ino), self.model.orphans.contains(&ino)) {
                (true, true) => {
                    self.model.orphans.remove(&ino);
                    self.say(format_args!("inode {ino}: has names, and is not reaped"));
                }
                (false, true) if has_entries => {
                    self.model.orphans.remove(&ino);
                    self.adopt(ino)?;
                }
                (false, false) => self.adopt(ino)?,
                (true, false) | (false, true) => {}
            }
        }
        self.model.note_names();
        Ok(())
    }

    /// Gives an inode a name in the directory for what was lost.
    pub(super) fn adopt(&mut self, ino: u64) -> Result<()> {
        let parent = self.lost_found()?;
        let Some(kind) = self.model.inodes.get(&ino).map(|inode| inode.kind) else { return Ok(()) };
        let name = self.free_name(parent, &format!("#{ino}"));
        self.say(format_args!("inode {ino}: has no name any more; it is /{}/{name} now", self.name_of(parent)));
        if !self.model.place(parent, Dentry { ino: Ino(ino), kind, name: Bytes::from(name) }) {
            return Err(Error::NoSpace);
        }
        if kind == FileKind::Directory {
            self.stand(ino, parent);
        }
        Ok(())
    }

    fn lost_found(&mut self) -> Result<u64> {
        if let Some(ino) = self.lost_found {
            return Ok(ino);
        }
        let there = self.model.entries(Ino::ROOT.0).find(|(_, dentry)| dentry.name == LOST_FOUND.as_bytes());
        let found = there.filter(|(_, dentry)| dentry.kind == FileKind::Directory).map(|(_, dentry)| dentry.ino.0);
        let ino = match found {
            Some(ino) => ino,
            None => {
                let ino = self.next_ino()?;
                let inode = self.blank(FileKind::Directory);
                self.model.inodes.insert(ino, inode);
                let name = self.free_name(Ino::ROOT.0, LOST_FOUND);
                self.say(format_args!("directory /{name} is made, for root alone"));
                let dentry = Dentry { ino: Ino(ino), kind: FileKind::Directory, name: Bytes::from(name) };
                if !self.model.place(Ino::ROOT.0, dentry) {
                    return Err(Error::NoSpace);
                }
                ino
            }
        };
        self.lost_found = Some(ino);
        Ok(ino)
    }

    fn name_of(&self, ino: u64) -> String {
        let found = self.model.entries(Ino::ROOT.0).find(|(_, dentry)| dentry.ino.0 == ino);
        found.map_or_else(String::new, |(_, dentry)| String::from_utf8_lossy(&dentry.name).into_owned())
    }

    fn free_name(&self, parent: u64, wanted: &str) -> String {
        let more = (1u64..).map(|number| format!("{wanted}.{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(more);
        names.find(|name| !self.model.has_name(parent, name.as_bytes())).unwrap_or_else(|| wanted.to_owned())
    }
}
