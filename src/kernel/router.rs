//! The VFS router: from node ids to zones. A zone's place in the table is the high part of
//! the ids of its nodes.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId, ZoneIndex};
use crate::zone::Zone;

/// The mount table. Index 0 is the root zone, there from the start.
pub struct VfsRouter {
    zones: RwLock<Vec<Option<Arc<dyn Zone>>>>,
    closed: RwLock<Vec<Option<[u8; 16]>>>,
}

impl VfsRouter {
    /// A table with `root` as its only zone.
    pub fn new(root: Arc<dyn Zone>) -> VfsRouter {
        VfsRouter { zones: RwLock::new(vec![Some(root)]), closed: RwLock::default() }
    }

    /// Notes zones that this node takes part in, but that can't be opened, by their ids, as far as
    /// those are known.
    pub fn set_closed(&self, zones: Vec<Option<[u8; 16]>>) {
        *self.closed.write() = zones;
    }

    /// Whether a zone is, or may be, one that can't be opened.
    pub fn is_closed(&self, zone: &[u8; 16]) -> bool {
        self.closed.read().iter().any(|closed| closed.is_none_or(|closed| closed == *zone))
    }

    /// Adds a zone. Places are never used twice, so that an old node id can't name a new zone's file.
    pub fn attach(&self, zone: Arc<dyn Zone>) -> Result<ZoneIndex> {
        let mut zones = self.zones.write();
        let index = u16::try_from(zones.len()).map_err(|_| Error::NoSpace)?;
        zones.push(Some(zone));
        Ok(ZoneIndex(index))
    }

    /// Adds a zone at a place of its own; [`Error::Exists`] if that is taken.
    pub fn attach_at(&self, index: ZoneIndex, zone: Arc<dyn Zone>) -> Result<()> {
        let mut zones = self.zones.write();
        let place = usize::from(index.0);
        if zones.len() <= place {
            zones.resize(place + 1, None);
        }
        match zones.get_mut(place) {
            Some(free @ None) => {
                *free = Some(zone);
                Ok(())
            }
            _ => Err(Error::Exists),
        }
    }

    /// Takes a zone out; its nodes are stale from now on. The root zone stays.
    pub fn detach(&self, index: ZoneIndex) -> Result<Arc<dyn Zone>> {
        if index == ZoneIndex(0) {
            return Err(Error::Invalid);
        }
        self.zones.write().get_mut(usize::from(index.0)).and_then(Option::take).ok_or(Error::Stale)
    }

    /// The zone and inode number that a node id means.
    pub fn resolve(&self, node: NodeId) -> Result<(Arc<dyn Zone>, Ino)> {
        Ok((self.zone(node.zone())?, node.ino()))
    }

    /// The zone at a place.
    pub fn zone(&self, index: ZoneIndex) -> Result<Arc<dyn Zone>> {
        self.zones.read().get(usize::from(index.0)).cloned().flatten().ok_or(Error::Stale)
    }

    /// All zones with their places.
    pub fn zones(&self) -> Vec<(ZoneIndex, Arc<dyn Zone>)> {
        (0u16..).zip(self.zones.read().iter()).filter_map(|(i, z)| z.clone().map(|z| (ZoneIndex(i), z))).collect()
    }
}
