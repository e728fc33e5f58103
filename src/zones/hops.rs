//! Joining a zone by a path from a node that the user names: hop by hop, from a zone that both are members of. Each zone on
//! the way is joined, as only its members are told what stands in it, and by whom they are told they know from the
//! zone before: so nobody is trusted at first sight, and there is no registry.

use std::sync::Arc;

use nexus_kernel::{Interest, NodeId, Zone};
use nexus_zone::node::{JoinedZone, ZoneNode};

use super::ZoneId;
use crate::boot::Volume;
use crate::error::{Error, Result};

/// Zones on the way at the most.
const MOST_HOPS: usize = 32;

fn refused(problem: String) -> Error {
    Error::Setting { place: "join".to_owned(), problem }
}

impl Volume {
    /// Joins the zone that stands where these names lead, from the root of a zone of this node that has a member at
    /// `address`, and mounts it on the empty directory `dir`. All zones on the way must be open.
    pub fn join_by_path(&self, address: &str, names: &[Vec<u8>], dir: NodeId) -> Result<Arc<JoinedZone>> {
        let node = self.node()?;
        let is_there = |joined: &&Arc<JoinedZone>| {
            let members = joined.zone().group().status().membership.members;
            let mut others = members.iter().filter(|(id, _)| **id != joined.member());
            !joined.is_witness() && others.any(|(_, about)| about.addresses.iter().any(|listens| listens == address))
        };
        let zones = node.zones();
        let starts: Vec<_> = zones.iter().filter(is_there).collect();
        if starts.is_empty() {
            return Err(refused(format!(
                "this node is in no zone with a member at {address}, so that it knows nobody there: ask for an \
                 invitation (`nexus-fuse zone invite` there)"
            )));
        }
        // Where several have such a path, the first that leads somewhere is meant.
        let mut last = None;
        for start in starts {
            match self.follow(&node, start.clone(), address, names, dir) {
                Ok(joined) => return Ok(joined),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| refused("no zone leads there".to_owned())))
    }

    fn follow(
        &self,
        node: &Arc<ZoneNode>,
        start: Arc<JoinedZone>,
        address: &str,
        names: &[Vec<u8>],
        dir: NodeId,
    ) -> Result<Arc<JoinedZone>> {
        let failed = |error| self.failed("join a zone with", error);
        let (mut outer, mut left) = (start, names);
        for _ in 0..MOST_HOPS {
            outer.zone().be_current(Interest::Anything).map_err(failed)?;
            let places = self.fs.zone_mounts(outer.index()).map_err(failed)?;
            let place = places.into_iter().find(|place| {
                place.path.len() <= left.len() && place.path.iter().zip(left).all(|(one, other)| one == other)
            });
            let Some(place) = place else {
                let path: Vec<_> = left.iter().map(|name| String::from_utf8_lossy(name)).collect();
                return Err(refused(format!("no zone stands at {} in zone {}", path.join("/"), outer.name())));
            };
            left = left.get(place.path.len()..).unwrap_or_default();
            let (id, is_last) = (ZoneId(place.target.zone), left.is_empty());
            if let Some(joined) = node.zone(id) {
                if is_last {
                    self.mount_zone(&joined, dir)?;
                    return Ok(joined);
                }
                outer = joined;
                continue;
            }
            let mut hints = vec![address.to_owned()];
            hints.extend(place.target.addresses);
            let invite = node.invitation_within(&outer, id, &hints).map_err(failed)?;
            if is_last {
                return self.join(&invite, dir);
            }
            log::info!("zone {} is joined on the way", invite.zone_name);
            let joined = node.join(&invite).map_err(failed)?;
            self.zones.add(joined.zone().clone());
            self.fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed)?;
            outer = joined;
        }
        Err(refused(format!("more than {MOST_HOPS} zones are on the way")))
    }
}
