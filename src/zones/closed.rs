//! Zones that can't be opened, and those that a share which was cut short left behind.

use std::sync::Arc;

use nexus_content::{Held, ZoneSet};
use nexus_kernel::zone::SETTLED_KEY;
use nexus_kernel::{Command, Interest, Result as KernelResult};
use nexus_zone::node::{ClosedZone, JoinedZone};
use nexus_zone::raft::Role;

use crate::boot::Volume;

/// Has nothing deleted that zones may refer to which can't be opened.
pub(crate) fn hold_closed(zones: &ZoneSet, closed: &[ClosedZone]) {
    for zone in closed {
        zones.hold(&holder(zone), Held::Everything);
    }
}

pub(super) fn holder(zone: &ClosedZone) -> String {
    format!("closed {}", zone.index.map_or_else(String::new, |index| index.to_string()))
}

impl Volume {
    /// Zones of this node that can't be opened.
    pub fn closed_zones(&self) -> Vec<ClosedZone> {
        self.node_if_any().map(|node| node.closed()).unwrap_or_default()
    }

    pub(crate) fn closed_problems(&self) -> Vec<String> {
        let closed = self.closed_zones();
        let mut problems: Vec<String> =
            closed.iter().map(|zone| format!("zone {} can't be opened: {}", zone.title(), zone.why)).collect();
        if !closed.is_empty() {
            problems.push(
                "no content is deleted while a zone is not open, since it may be that zone's; space is not given back"
                    .to_owned(),
            );
        }
        problems
    }

    /// Ends what shares that were cut short have left: a zone that stands in its place stays, one
    /// that does not goes, as the directory is still there. `false` if that can't be told yet of some.
    /// What zones were put in place of is removed, by whoever leads.
    pub fn mend_shares(&self) -> bool {
        let Some(node) = self.node_if_any() else { return true };
        // One that is under way is no leftover.
        let Some(_alone) = self.sharing.try_lock() else { return false };
        let mut all = true;
        for (joined, outer) in node.unfinished() {
            match self.mend_share(&joined, &outer) {
                Ok(done) => all &= done,
                Err(error) => {
                    log::warn!("what a share that was cut short left of zone {} stays: {error}", joined.name());
                    all = false;
                }
            }
        }
        for joined in node.zones() {
            if !self.fs.is_read_only()
                && !joined.is_witness()
                && joined.zone().group().status().role == Role::Leader
                && let Err(error) = self.fs.empty_detached(joined.index())
            {
                log::warn!("what was shared of zone {} is not removed from its old place yet: {error}", joined.name());
            }
        }
        all
    }

    fn mend_share(&self, joined: &Arc<JoinedZone>, outer: &[u8; 16]) -> KernelResult<bool> {
        let Some(node) = self.node_if_any() else { return Ok(true) };
        let around = self.fs.router().zones().into_iter().find(|(_, zone)| zone.info().id == *outer);
        // Where the zone around it is not open, nobody knows whether it stands there.
        let Some((index, around)) = around else { return Ok(false) };
        // Behind this, none that was proposed before is applied any more: who has given up an answer
        // says so with the next proposal.
        let settled = Command::SetSys { key: SETTLED_KEY.into(), value: None };
        if around.propose(&settled).is_err() || around.be_current(Interest::Anything).is_err() {
            return Ok(false);
        }
        if self.fs.zone_mounts(index)?.iter().any(|place| place.target.zone == joined.id().0) {
            node.made(joined)?;
            return Ok(true);
        }
        log::info!("zone {} was never put in place, as a share was cut short: it is removed", joined.name());
        self.take_back(joined)?;
        Ok(true)
    }
}
