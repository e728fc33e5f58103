//! Places where other zones stand. To a repair they are directories like any other; only once names are
//! settled do zones stand there again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use nexus_kernel::machine::MOUNT_PREFIX;
use nexus_kernel::metastore::{Key, MetaRead};
use nexus_kernel::model::{self, FileKind, InodeFlags, MountTarget, keys};
use nexus_kernel::{Result, Table};

use super::model::Model;

/// Zones in a zone.
#[derive(Default)]
pub(super) struct Mounts {
    /// What stands at which directory.
    targets: BTreeMap<u64, Bytes>,
    /// In which directory those are: as it is noted, and as it is to be.
    noted: BTreeMap<String, Bytes>,
    wanted: BTreeMap<String, Bytes>,
}

impl Mounts {
    pub fn load(state: &dyn MetaRead) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        let end = MOUNT_PREFIX.replace('/', "0");
        state.scan(Table::Sys, MOUNT_PREFIX.as_bytes(), end.as_bytes(), &mut |key, value| {
            mounts.noted.insert(String::from_utf8_lossy(key).into_owned(), Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        Ok(mounts)
    }

    /// Makes them directories; what is wrong with some, a sentence each.
    pub fn take_out(&mut self, model: &mut Model) -> Vec<String> {
        let mut said = Vec::new();
        for (ino, inode) in model.inodes.iter_mut().filter(|(_, inode)| inode.flags.has(InodeFlags::MOUNT)) {
            inode.flags.set(InodeFlags::MOUNT, false);
            let target = model.symlinks.get(ino).filter(|target| model::decode::<MountTarget>("", target).is_ok());
            match target.cloned().filter(|_| inode.is_dir()) {
                Some(target) => {
                    model.symlinks.remove(ino);
                    self.targets.insert(*ino, target);
                }
                None => said.push(format!(
                    "inode {ino}: nothing tells which zone stood there, and it is a directory; `nexus-fuse zone mount` has \
                     one stand there again"
                )),
            }
        }
        for dentry in model.dentries.values_mut() {
            let is_mount = self.targets.contains_key(&dentry.ino.0);
            if is_mount != (dentry.kind == FileKind::Mount) {
                let name = String::from_utf8_lossy(&dentry.name).into_owned();
                let what = if is_mount { "a zone stands there, which is noted" } else { "no zone stands there" };
                said.push(format!("{name:?}, inode {}: {what}", dentry.ino));
            }
            if is_mount || dentry.kind == FileKind::Mount {
                dentry.kind = FileKind::Directory;
            }
        }
        said
    }

    /// Has them stand where their directories are.
    pub fn put_back(&mut self, model: &mut Model) {
        for ((parent, _), dentry) in &mut model.dentries {
            if self.targets.contains_key(&dentry.ino.0) {
                dentry.kind = FileKind::Mount;
                let place = Bytes::copy_from_slice(&parent.to_be_bytes());
                self.wanted.insert(format!("{MOUNT_PREFIX}{}", dentry.ino), place);
            }
        }
        for (ino, target) in &self.targets {
            if let Some(inode) = model.inodes.get_mut(ino) {
                inode.flags.set(InodeFlags::MOUNT, true);
                model.symlinks.insert(*ino, target.clone());
            }
        }
    }

    /// What has to be written of where they are.
    pub fn changes(&self) -> Vec<(Table, Key, Option<Bytes>)> {
        let gone = self.noted.keys().filter(|key| !self.wanted.contains_key(*key));
        let gone = gone.map(|key| (Table::Sys, keys::sys(key), None));
        let new = self.wanted.iter().filter(|(key, place)| self.noted.get(*key) != Some(*place));
        gone.chain(new.map(|(key, place)| (Table::Sys, keys::sys(key), Some(place.clone())))).collect()
    }
}
