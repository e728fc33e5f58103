//! The life of a zone on this node beside sharing and joining: made empty, mounted, unmounted, in
//! the trash, back from there, left, destroyed.

use std::sync::Arc;

use nexus_content::{Held, ReclaimConfig};
use nexus_kernel::model::MountTarget;
use nexus_kernel::{NodeId, Zone};
use nexus_zone::node::{ClosedZone, JoinedZone, NewRoot, RecoveryPlan};

use super::ZoneId;
use super::closed::holder;
use crate::boot::Volume;
use crate::error::{Error, Result};
use crate::folder::random_u64;

/// Mode of the root directory of an empty zone.
const ROOT_MODE: u32 = 0o755;

/// Who holds content while a zone is recovered.
const RECOVERING: &str = "recovering";

/// What became of a zone that was unmounted somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// It stands elsewhere in this node's tree, too.
    Elsewhere,
    /// This node took no part in it.
    NotJoined,
    /// Others have it; this node has left it.
    Left,
    /// Nobody else has it: it is in the trash.
    InTrash,
}

impl Volume {
    /// Makes an empty zone that stands nowhere yet, and belongs to this user and group.
    pub fn create_zone(&self, name: &str, (uid, gid): (u32, u32)) -> Result<Arc<JoinedZone>> {
        let failed = |error| self.failed("make a zone with", error);
        let hash_seed = random_u64().map_err(|error| Error::io("read random numbers", error))?;
        let root = NewRoot { hash_seed, mode: ROOT_MODE, uid, gid, within: None };
        let joined = self.node()?.found(name, root).map_err(failed)?;
        self.zones.add(joined.zone().clone());
        self.fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed)?;
        Ok(joined)
    }

    /// Has a zone that this node takes part in stand at the empty directory `dir`, too. One that was in the
    /// trash is there no more.
    pub fn mount_zone(&self, joined: &JoinedZone, dir: NodeId) -> Result<()> {
        if joined.is_witness() {
            let problem = "this node is only a witness of it and has none of its files: leave it, and join it";
            return Err(Error::Setting { place: format!("zone {}", joined.name()), problem: problem.to_owned() });
        }
        self.refuse_loop(joined.id(), dir.zone())?;
        let node = self.node()?;
        if !self.standing_at(joined.id(), dir)? {
            let (zone, name) = (joined.id().0, joined.name().to_owned());
            self.put_at(dir, &MountTarget { zone, name, addresses: node.addresses() })?;
        }
        node.set_trashed(joined, None).map_err(|error| self.failed("take a zone out of the trash of", error))
    }

    /// Takes the zone that stands at `dir` away from there. Its programs must be gone.
    pub fn unmount_zone(&self, dir: NodeId) -> Result<Unmounted> {
        let failed = |error| self.failed("unmount a zone of", error);
        let Some(target) = self.fs.mounted_at(dir).map_err(failed)? else {
            let problem = "no zone stands there: `nexus-fuse zone ls` tells where they do".to_owned();
            return Err(Error::Setting { place: "zone unmount".to_owned(), problem });
        };
        let (parent, name) = self.fs.place_of(dir).map_err(failed)?;
        self.fs.unmount_zone(parent, &name).map_err(failed)?;
        let joined = self.node_if_any().and_then(|node| node.zone(ZoneId(target.zone)));
        let Some(joined) = joined else { return Ok(Unmounted::NotJoined) };
        if self.stands_somewhere(&joined)? {
            return Ok(Unmounted::Elsewhere);
        }
        if joined.zone().group().status().membership.members.len() > 1 {
            // Where it can't be left now, it can be later, or restored.
            self.leave_zone(&joined).or_else(|error| self.put_in_trash(&joined).and(Err(error)))?;
            return Ok(Unmounted::Left);
        }
        self.put_in_trash(&joined)?;
        Ok(Unmounted::InTrash)
    }

    /// Whether any zone of this node has the zone within it.
    pub fn stands_somewhere(&self, joined: &JoinedZone) -> Result<bool> {
        for (index, _) in self.fs.router().zones() {
            let places = self.fs.zone_mounts(index).map_err(|error| self.failed("look at the zones of", error))?;
            if places.iter().any(|place| place.target.zone == joined.id().0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a zone that stands nowhere any more in the trash: this node stays its member.
    pub fn put_in_trash(&self, joined: &JoinedZone) -> Result<()> {
        let since = Some(self.clock.now().sec);
        self.node()?.set_trashed(joined, since).map_err(|error| self.failed("put a zone in the trash of", error))
    }

    /// Since when a zone is in the trash, in seconds since 1970, if it is.
    pub fn trashed_since(&self, joined: &JoinedZone) -> Option<i64> {
        self.node_if_any().and_then(|node| node.trashed(joined))
    }

    /// Deletes a zone for all its members. Answers the names of those that were not reached, and
    /// so still have what they had.
    pub fn destroy_zone(&self, joined: &Arc<JoinedZone>) -> Result<Vec<String>> {
        let failed = |error| self.failed("destroy a zone of", error);
        let node = self.node()?;
        node.announce_end(joined).map_err(failed)?;
        self.take_from_places(joined.id())?;
        let left = node.wait_for_end(joined);
        self.delete_zone_here(joined)?;
        Ok(left)
    }

    /// Deletes what this node has of a zone, whatever its other members have.
    pub fn delete_zone_here(&self, joined: &Arc<JoinedZone>) -> Result<()> {
        let failed = |error| self.failed("delete a zone of", error);
        let dynamic: Arc<dyn Zone> = joined.zone().clone();
        if !joined.is_witness() {
            self.fs.router().detach(joined.index()).map_err(failed)?;
        }
        self.node()?.forget(joined).map_err(failed)?;
        self.zones.remove(&dynamic);
        self.take_from_places(joined.id())
    }

    /// Zones that another member has destroyed.
    pub fn ended_zones(&self) -> Vec<Arc<JoinedZone>> {
        let zones = self.node_if_any().map(|node| node.zones()).unwrap_or_default();
        zones.into_iter().filter(|joined| joined.is_ended()).collect()
    }

    /// Goes on with a zone whose majority is lost for good, as `plan` says. Answers the names of lost
    /// members whose content can't be brought together any more.
    pub fn recover_zone(&self, joined: &Arc<JoinedZone>, plan: &RecoveryPlan) -> Result<Vec<String>> {
        let failed = |error| self.failed("recover a zone of", error);
        if joined.is_witness() {
            let problem = "a witness has none of its files: recover it at a member that has them".to_owned();
            return Err(Error::Setting { place: format!("zone {}", joined.name()), problem });
        }
        let members = joined.zone().group().status().membership.members;
        let (index, before): (_, Arc<dyn Zone>) = (joined.index(), joined.zone().clone());
        // It is closed for a moment, in which nobody knows what it refers to.
        self.zones.hold(RECOVERING, Held::Everything);
        self.fs.router().detach(index).map_err(failed)?;
        let recovered = self.node()?.recover(joined, plan).map_err(failed)?;
        let after: Arc<dyn Zone> = recovered.zone().clone();
        self.zones.add(after.clone());
        self.zones.remove(&before);
        self.fs.attach_at(index, after.clone()).map_err(failed)?;
        self.zones.let_go(RECOVERING);
        let mut lacking = Vec::new();
        for (id, name) in &plan.lost {
            let Some(member) = members.get(id) else { continue };
            let collector = self.collector(ReclaimConfig::default()).reading(self.shared.clone());
            if let Err(error) = collector.adopt(&after, member.writer) {
                log::error!("content that was on member {id} alone is lost to zone {}: {error}", joined.name());
                lacking.push(name.clone());
            }
        }
        Ok(lacking)
    }

    /// Gives up a zone that can't be opened: deletes what this node has of it.
    pub fn give_up_zone(&self, closed: &ClosedZone) -> Result<()> {
        let Some(index) = closed.index else {
            let problem = "the zones of this node can't even be listed: put the data folder right first".to_owned();
            return Err(Error::Setting { place: "zones".to_owned(), problem });
        };
        let failed = |error| self.failed("give up a zone of", error);
        let node = self.node()?;
        node.forget_closed(index).map_err(failed)?;
        // Its content is sorted out from that of the others at the next start.
        self.zones.let_go(&holder(closed));
        self.fs.router().set_closed(node.closed().iter().map(|zone| zone.id.map(|id| id.0)).collect());
        closed.id.map_or(Ok(()), |id| self.take_from_places(id))
    }

    /// A zone that can't be opened, by its name or the beginning of its id.
    pub fn closed_zone_named(&self, name: &str) -> Option<ClosedZone> {
        let is_it = |zone: &ClosedZone| {
            zone.title() == name || (name.len() >= 4 && zone.id.is_some_and(|id| id.to_string().starts_with(name)))
        };
        self.closed_zones().into_iter().find(is_it)
    }

    /// Where nothing stands behind a zone's mount entry any more, it becomes a directory again: in all
    /// zones of this node that take the change.
    pub(super) fn take_from_places(&self, zone: ZoneId) -> Result<()> {
        for (index, _) in self.fs.router().zones() {
            let places = self.fs.zone_mounts(index).map_err(|error| self.failed("look at the zones of", error))?;
            for place in places.iter().filter(|place| place.target.zone == zone.0) {
                let taken = self.fs.place_of(place.node).and_then(|(parent, name)| self.fs.unmount_zone(parent, &name));
                if let Err(error) = taken {
                    log::warn!("the directory of zone {} stays a mount point: {error}", place.target.name);
                }
            }
        }
        Ok(())
    }
}
