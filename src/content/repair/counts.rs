//! What is counted: names, entries, bytes, inodes.

use std::collections::BTreeMap;

use nexus_kernel::Ino;
use nexus_kernel::model::{FileKind, InodeFlags, Usage};

use super::Repair;

/// What stands in a directory.
#[derive(Clone, Copy, Default)]
struct Held {
    entries: u64,
    folders: u32,
    displaced: bool,
}

impl Repair {
    pub(super) fn counts(&mut self) {
        let mut held: BTreeMap<u64, Held> = BTreeMap::new();
        let mut links: BTreeMap<u64, u32> = BTreeMap::new();
        for ((parent, position), dentry) in &self.model.dentries {
            let one = held.entry(*parent).or_default();
            one.entries += 1;
            one.displaced |= *position != self.model.first_position(&dentry.name);
            if dentry.kind == FileKind::Directory {
                one.folders = one.folders.saturating_add(1);
            }
            if dentry.kind != FileKind::Mount {
                let count = links.entry(dentry.ino.0).or_default();
                *count = count.saturating_add(1);
            }
        }
        let allocated = self.allocated();
        let mut said = Vec::new();
        let mut total = 0u64;
        for (ino, inode) in &mut self.model.inodes {
            let orphan = self.model.orphans.contains(ino);
            let bytes = allocated.get(ino).copied().unwrap_or(0);
            total = total.saturating_add(bytes);
            let mut set = |what: &str, old: &mut u64, new: u64| {
                if std::mem::replace(old, new) != new {
                    said.push(format!("inode {ino}: its {what} is set to {new}"));
                }
            };
            set("number of bytes on disk", &mut inode.allocated, bytes);
            let mut nlink = u64::from(inode.nlink);
            if inode.is_dir() {
                let held = held.get(ino).copied().unwrap_or_default();
                set("number of entries", &mut inode.size, held.entries);
                set("number of links", &mut nlink, if orphan { 0 } else { u64::from(held.folders) + 2 });
                if held.displaced && !inode.flags.has(InodeFlags::COLLIDED) {
                    inode.flags.set(InodeFlags::COLLIDED, true);
                    said.push(format!("directory {ino}: names of equal hash are noted"));
                }
            } else {
                set("number of names", &mut nlink, u64::from(links.get(ino).copied().unwrap_or(0)));
            }
            inode.nlink = u32::try_from(nlink).unwrap_or(u32::MAX);
        }
        said.into_iter().for_each(|text| self.say(text));
        let old = self.model.usage;
        let next_ino = old.next_ino.max(Ino(self.highest().0 + 1));
        let new = Usage { inodes: self.model.inodes.len() as u64, allocated: total, next_ino };
        if old.next_ino != next_ino {
            self.say(format_args!("the next inode number is {next_ino}"));
        }
        if (old.inodes, old.allocated) != (new.inodes, new.allocated) {
            self.say(format_args!("the zone counts {} inodes and {} bytes", new.inodes, new.allocated));
        }
        self.model.usage = new;
    }
}
