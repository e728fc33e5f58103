//! Where zones stand in each other: joining one at a place, and no zone within itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use nexus_kernel::model::MountTarget;
use nexus_kernel::{NodeId, ZoneIndex};
use nexus_zone::node::JoinedZone;

use super::{Invite, ZoneId};
use crate::boot::Volume;
use crate::error::{Error, Result};

impl Volume {
    /// Joins the zone of an invitation, and mounts it on the directory `dir`: an empty one, or one
    /// where that zone stands already.
    pub fn join(&self, invite: &Invite, dir: NodeId) -> Result<Arc<JoinedZone>> {
        let failed = |error| self.failed("join a zone with", error);
        let stands = self.standing_at(invite.zone, dir)?;
        self.refuse_loop(invite.zone, dir.zone())?;
        let node = self.node()?;
        let joined = match node.zone(invite.zone) {
            Some(joined) if joined.is_witness() => {
                let problem = "this node is a witness of it: leave it first".to_owned();
                return Err(Error::Setting { place: format!("zone {}", joined.name()), problem });
            }
            Some(joined) => joined,
            None => {
                let joined = node.join(invite).map_err(failed)?;
                self.zones.add(joined.zone().clone());
                self.fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed)?;
                joined
            }
        };
        if !stands {
            self.refuse_loop(invite.zone, dir.zone())?;
            let target = MountTarget {
                zone: invite.zone.0,
                name: joined.name().to_owned(),
                addresses: invite.addresses.clone(),
            };
            self.put_at(dir, &target)?;
        }
        Ok(joined)
    }

    /// Joins the zone of an invitation as a witness, which has none of its files and shows it nowhere.
    pub fn join_as_witness(&self, invite: &Invite) -> Result<Arc<JoinedZone>> {
        self.node()?.witness(invite).map_err(|error| self.failed("join a zone with", error))
    }

    /// Becomes a member of the zone that stands at `dir` within another, if it is open to that one's
    /// members.
    pub fn join_within(&self, dir: NodeId) -> Result<Arc<JoinedZone>> {
        let failed = |error| self.failed("join a zone with", error);
        let refused = |problem: &str| Error::Setting { place: "join".to_owned(), problem: problem.to_owned() };
        let target = self.fs.mounted_at(dir).map_err(failed)?;
        let target = target.ok_or_else(|| refused("no zone stands there: give an invitation, too"))?;
        let node = self.node()?;
        let outer = node.zones().into_iter().find(|joined| joined.index() == dir.zone());
        let outer = outer.ok_or_else(|| {
            refused("the zone stands in no other zone, whose members could be asked: give an invitation, too")
        })?;
        let invite = node.invitation_within(&outer, ZoneId(target.zone), &target.addresses).map_err(failed)?;
        self.join(&invite, dir)
    }

    /// Puts a zone in place of an empty directory.
    pub(super) fn put_at(&self, dir: NodeId, target: &MountTarget) -> Result<()> {
        let failed = |error| self.failed("mount a zone in", error);
        let (parent, entry) = self.fs.place_of(dir).map_err(failed)?;
        self.fs.mount_zone(parent, &entry, target).map_err(failed)
    }

    /// Whether the zone stands at `dir`; another one there is refused.
    pub(super) fn standing_at(&self, zone: ZoneId, dir: NodeId) -> Result<bool> {
        let failed = |error| self.failed("mount a zone in", error);
        match self.fs.mounted_at(dir).map_err(failed)? {
            None => Ok(false),
            Some(target) if target.zone == zone.0 => Ok(true),
            Some(target) => {
                let problem = "another zone stands there: give an empty directory, or that zone's invitation";
                Err(Error::Setting { place: target.name, problem: problem.to_owned() })
            }
        }
    }

    /// Refuses to have `zone` stand in the zone at `place`, if that is within it, as far as this
    /// node knows.
    pub(super) fn refuse_loop(&self, zone: ZoneId, place: ZoneIndex) -> Result<()> {
        let Some(node) = self.node_if_any() else { return Ok(()) };
        let mut ahead = vec![zone];
        let mut seen = BTreeSet::new();
        while let Some(next) = ahead.pop() {
            if !seen.insert(next.0) {
                continue;
            }
            let Some(joined) = node.zone(next) else { continue };
            if joined.index() == place {
                let problem = "the directory is in that zone itself, or in one within it: a zone can't be within \
                               itself; give a directory elsewhere";
                return Err(Error::Setting { place: "zone".to_owned(), problem: problem.to_owned() });
            }
            let below = self.fs.zone_mounts(joined.index());
            let below = below.map_err(|error| self.failed("look at the zones in", error))?;
            ahead.extend(below.into_iter().map(|place| ZoneId(place.target.zone)));
        }
        Ok(())
    }
}
