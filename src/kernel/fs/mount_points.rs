//! Where zones are mounted in a zone's tree.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::NexusFs;
use crate::command::{Command, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId, ZoneIndex};
use crate::machine::MOUNT_PREFIX;
use crate::metastore::{MetaRead, Table};
use crate::model::{self, Dentry, InodeFlags, MountTarget, keys};
use crate::name::Name;
use crate::router::VfsRouter;
use crate::zone::Zone;

/// Deepest directory that is looked for on the way to the root.
const MAX_DEPTH: usize = 4096;

/// A place in a zone's tree where another zone stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneMount {
    /// The directory below it.
    pub node: NodeId,
    /// The names that lead there from the zone's root.
    pub path: Vec<Bytes>,
    /// The zone that stands there.
    pub target: MountTarget,
}

impl NexusFs {
    /// All places in a zone where others are mounted.
    pub fn zone_mounts(&self, index: ZoneIndex) -> Result<Vec<ZoneMount>> {
        let zone = self.router.zone(index)?;
        let mut found = Vec::new();
        zone.read(&mut |state| {
            found.clear();
            let mut places = Vec::new();
            let end = MOUNT_PREFIX.replace('/', "0");
            state.scan(Table::Sys, MOUNT_PREFIX.as_bytes(), end.as_bytes(), &mut |key, value| {
                let number = key.get(MOUNT_PREFIX.len()..).and_then(|text| std::str::from_utf8(text).ok());
                let ino = number.and_then(|text| text.parse().ok()).map(Ino);
                let parent = <[u8; 8]>::try_from(value).ok().map(u64::from_be_bytes).map(Ino);
                places.extend(ino.zip(parent));
                ControlFlow::Continue(())
            })?;
            for (ino, _) in places {
                let Some(target) = state.get(Table::Symlink, &keys::ino(ino))? else { continue };
                let target = model::decode("mount target", &target)?;
                found.push(ZoneMount { node: NodeId::new(index, ino), path: path_of(state, ino)?, target });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The directory and the name by which a directory is found.
    pub fn place_of(&self, node: NodeId) -> Result<(NodeId, Bytes)> {
        let zone = self.router.zone(node.zone())?;
        let mut found = None;
        zone.read(&mut |state| {
            let parent = state.inode(node.ino())?.ok_or(Error::Stale)?.parent;
            found = name_of(state, parent, node.ino())?.map(|name| (NodeId::new(node.zone(), parent), name));
            Ok(())
        })?;
        found.ok_or(Error::NotFound)
    }

    /// The names that lead to a directory from its zone's root.
    pub fn path_in_zone(&self, dir: NodeId) -> Result<Vec<Bytes>> {
        let (zone, ino) = self.router.resolve(dir)?;
        let mut path = Vec::new();
        zone.read(&mut |state| {
            path = path_of(state, ino)?;
            Ok(())
        })?;
        Ok(path)
    }

    /// The zone that stands at a directory, if one does.
    pub fn mounted_at(&self, dir: NodeId) -> Result<Option<MountTarget>> {
        let (zone, ino) = self.router.resolve(dir)?;
        target_at(&*zone, ino)
    }

    /// Puts a zone in place of an empty directory.
    pub fn mount_zone(&self, parent: NodeId, name: &[u8], target: &MountTarget) -> Result<()> {
        self.writable()?;
        let (zone, dir) = self.router.resolve(parent)?;
        let name = SmallBytes::from_slice(Name::new(name)?.as_bytes());
        let target = model::encode(target)?.to_vec();
        let command = Command::MountZone { parent: dir, name, replace: false, target, now: zone.now() };
        zone.propose(&command).map(drop)
    }

    /// Takes a zone out of its place, which becomes an empty directory.
    pub fn unmount_zone(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.writable()?;
        let (zone, dir) = self.router.resolve(parent)?;
        let name = SmallBytes::from_slice(Name::new(name)?.as_bytes());
        zone.propose(&Command::UnmountZone { parent: dir, name, now: zone.now() }).map(drop)
    }
}

/// Why a directory that a zone is mounted on can't be looked into.
pub(super) fn not_entered(router: &VfsRouter, zone: &dyn Zone, ino: Ino) -> Error {
    match target_at(zone, ino) {
        Err(error) => error,
        Ok(Some(target)) if router.is_closed(&target.zone) => {
            Error::Io(format!("zone {}, which is mounted there, can't be opened", target.name))
        }
        Ok(_) => Error::Remote,
    }
}

fn target_at(zone: &dyn Zone, ino: Ino) -> Result<Option<MountTarget>> {
    let mut target = None;
    zone.read(&mut |state| {
        let is_mount = state.inode(ino)?.is_some_and(|inode| inode.flags.has(InodeFlags::MOUNT));
        let found = if is_mount { state.get(Table::Symlink, &keys::ino(ino))? } else { None };
        target = found.map(|found| model::decode::<MountTarget>("mount target", &found)).transpose()?;
        Ok(())
    })?;
    Ok(target)
}

/// The names that lead to a directory from the root.
fn path_of(state: &dyn MetaRead, ino: Ino) -> Result<Vec<Bytes>> {
    let (mut path, mut at) = (Vec::new(), ino);
    while at != Ino::ROOT {
        let parent = state.inode(at)?.ok_or(Error::Stale)?.parent;
        path.push(name_of(state, parent, at)?.ok_or(Error::Stale)?);
        at = parent;
        if path.len() > MAX_DEPTH {
            return Err(Error::Corrupt(format!("directory {ino} is below itself")));
        }
    }
    path.reverse();
    Ok(path)
}

/// What a directory is called in the one that it stands in.
fn name_of(state: &dyn MetaRead, parent: Ino, ino: Ino) -> Result<Option<Bytes>> {
    let (mut found, mut bad) = (None, None);
    let (start, end) = keys::prefix(parent.0);
    state.scan(Table::Dentry, &start, &end, &mut |_, value| {
        match Dentry::decode(&Bytes::copy_from_slice(value)) {
            Ok(dentry) if dentry.ino == ino => found = Some(dentry.name),
            Ok(_) => return ControlFlow::Continue(()),
            Err(error) => bad = Some(error),
        }
        ControlFlow::Break(())
    })?;
    bad.map_or(Ok(found), Err)
}
