//! Zones that are open to members of the zones that they stand in. Such a one asks a node that is a member of
//! both, over its connection in the outer zone, for an invitation to the inner: so it trusts nobody whom it did not
//! trust before, and tells nobody else anything. Each zone knows only those that stand in itself, so a path through several
//! zones is joined one after the other.

use std::time::Duration;

use nexus_kernel::scan::stands_in;
use nexus_kernel::{Command, Error, Result, Table, Zone, model::keys};

use super::joined::JoinedZone;
use super::records::OPEN_KEY;
use super::serve::refused;
use super::{JOIN, ZoneNode};
use crate::net::{self, CallError, Invite, ZoneId};

/// How long such an invitation holds: it is used at once.
const VALID: Duration = Duration::from_secs(600);

impl JoinedZone {
    /// Whether members of zones that it stands in may join it.
    pub fn is_open(&self) -> Result<bool> {
        let mut open = false;
        self.zone().read(&mut |state| {
            open = state.get(Table::Sys, &keys::sys(OPEN_KEY))?.is_some();
            Ok(())
        })?;
        Ok(open)
    }

    /// Says whether they may, from now on.
    pub fn set_open(&self, open: bool) -> Result<()> {
        let value = open.then(|| vec![1]);
        self.zone().propose(&Command::SetSys { key: OPEN_KEY.to_owned(), value }).map(drop)
    }
}

impl ZoneNode {
    /// An invitation to a zone for a member of `outer`.
    pub(super) fn invite_to_child(
        &self,
        outer: &JoinedZone,
        child: ZoneId,
        ttl: Duration,
    ) -> std::result::Result<Invite, net::Refusal> {
        let failed = |error: Error| refused(&error);
        let unknown = || net::Refusal::NotFound("no zone of this node stands there".into());
        if !stands_in(&**outer.zone(), &child.0).map_err(failed)? {
            return Err(unknown());
        }
        let joined = self.zone(child).ok_or_else(unknown)?;
        if !joined.is_open().map_err(failed)? {
            return Err(net::Refusal::Denied("it is not open to members of the zone that it stands in".into()));
        }
        self.invite(&joined, ttl.min(VALID)).map_err(failed)
    }

    /// An invitation to a zone that stands in `outer`, from any member of both; those at `hints` are asked
    /// first.
    pub fn invitation_within(&self, outer: &JoinedZone, child: ZoneId, hints: &[String]) -> Result<Invite> {
        let members = outer.zone().group().status().membership.members;
        let mut others: Vec<_> = members.iter().filter(|(id, _)| **id != outer.member()).collect();
        others.sort_by_key(|(_, about)| !about.addresses.iter().any(|address| hints.contains(address)));
        let (mut denied, mut silent) = (false, Vec::new());
        for (id, about) in others {
            let client = outer.links().client(*id, about)?;
            match outer.block_on(client.invite(Some(child), VALID, JOIN)) {
                Ok(invite) if invite.zone == child => return Ok(invite),
                Err(CallError::Refused(net::Refusal::Denied(_))) => denied = true,
                Err(CallError::Refused(net::Refusal::NotFound(_))) => {}
                Ok(_) | Err(_) => silent.push(about.name.clone()),
            }
        }
        Err(Error::Unavailable(if denied {
            "the zone is not open to members of the zone around it: a member of it must invite this node (`nexus-fuse \
             zone invite`), or open it (`nexus-fuse zone open`)"
                .into()
        } else if silent.is_empty() {
            "no other member of the zone around it takes part in it: ask a member of it for an invitation".into()
        } else {
            format!("no member of both zones has answered; not reached: {}", silent.join(", "))
        }))
    }
}
