//! Looks after a zone's members: whoever leads takes in those who were let in, and takes out
//! those who are to go. What is to be done stands in the zone's state, so it is done whoever
//! leads, and goes on where a leader was cut off.

use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::{Duration, Instant};

use nexus_kernel::model::{self};
use nexus_kernel::{Command, Error, MetaRead, Result, Table, Zone};

use super::joined::JoinedZone;
use super::pulse;
use super::records::{member_key, opening_key, pin_key};
use super::witness;
use crate::raft::{Member, MemberId, PAUSE_LEASE, Role, version_key};

/// How often it looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the log is relieved.
const RELIEF: Duration = Duration::from_secs(2);
/// Bytes of entries in memory from which on a snapshot is to make them unnecessary.
const MOST_LOG_BYTES: usize = 16 << 20;
/// How often a witness offers that another leads.
const OFFER: Duration = Duration::from_secs(1);
/// How long a member that is to go may take to be out.
const REMOVAL: Duration = Duration::from_secs(30);
/// The same for one that leaves, whose content is copied first.
const PARTING: Duration = Duration::from_secs(3600);

/// How a member goes. The numbers are values of [`LEAVING`] records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Parting {
    /// By itself: what it alone has is taken over first.
    Leaving = 1,
    /// Taken out by another.
    Removed = 2,
}

/// Members that were let in; their value is an encoded [`Member`].
pub const JOINING: &str = "joining/";
/// Members that are to go.
pub const LEAVING: &str = "leaving/";

/// Looks after a zone until it is gone.
pub async fn run(zone: Weak<JoinedZone>) {
    let (mut seen, mut relieved, mut offered) = (None, Instant::now(), None);
    let mut mark = Watched::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        pulse::rested(&zone).await;
        let Some(joined) = zone.upgrade() else { return };
        if relieved.elapsed() >= RELIEF {
            relieved = Instant::now();
            let log = joined.log().clone();
            if joined.is_witness() {
                witness::cut_off(&joined).await;
            } else if log.bytes() > MOST_LOG_BYTES {
                joined.zone().group().compact().await;
            }
            if joined.zone().group().status().role == Role::Leader
                && let Err(error) = witness::note(&joined).await
            {
                log::debug!("how far all members are is not noted yet: {error}");
            }
            let relief = tokio::task::spawn_blocking(move || log.relieve()).await;
            if let Ok(Err(error)) = relief {
                log::warn!("the log of zone {} can't be relieved: {error}", joined.name());
            }
        }
        if joined.zone().group().status().role != Role::Leader {
            (seen, offered) = (None, None);
            continue;
        }
        if joined.is_witness() {
            // Offering it stops changes for a moment.
            if offered.is_none_or(|at: Instant| at.elapsed() >= OFFER) && witness::hand_on(&joined).await {
                offered = Some(Instant::now());
            }
            continue;
        }
        if let Err(error) = mark.end_left_behind(&joined).await {
            log::warn!("zone {} stays paused: {error}", joined.name());
        }
        let applied = joined.zone().replica().applied();
        if seen == Some(applied) {
            continue;
        }
        match tend(&joined).await {
            Ok(()) => seen = Some(applied),
            Err(error) => {
                log::warn!("the members of zone {} can't be changed yet: {error}", joined.name());
                tokio::time::sleep(PAUSE * 5).await;
            }
        }
    }
}

/// A mark that pauses the zone, and since when it is as it is.
#[derive(Default)]
struct Watched(Option<(bytes::Bytes, Instant)>);

impl Watched {
    /// Ends a pause whose maker does not renew it.
    async fn end_left_behind(&mut self, joined: &JoinedZone) -> Result<()> {
        let Some(mark) = joined.zone().replica().paused()? else {
            self.0 = None;
            return Ok(());
        };
        match &self.0 {
            Some((seen, since)) if *seen == mark => {
                if since.elapsed() < PAUSE_LEASE {
                    return Ok(());
                }
            }
            _ => {
                self.0 = Some((mark, Instant::now()));
                return Ok(());
            }
        }
        self.0 = None;
        log::info!("zone {} goes on: who has paused it is gone", joined.name());
        match propose(joined, Command::Pause { expect: Some(mark.to_vec()), mark: None }).await {
            Err(Error::Conflict) => Ok(()),
            other => other,
        }
    }
}

async fn tend(joined: &JoinedZone) -> Result<()> {
    let group = joined.zone().group().clone();
    for (id, value) in listed(joined, LEAVING)? {
        if id == joined.member() {
            // Somebody else leads it out.
            if let Some(other) = group.status().membership.another_keeper(id) {
                group.transfer(other).await?;
            }
            continue;
        }
        let leaves = value.as_ref() == [Parting::Leaving as u8];
        let writer = group.status().membership.members.get(&id).map(|member| member.writer);
        if let Some(writer) = writer {
            let (listeners, index) = (joined.listeners().clone(), joined.index());
            let adopted = tokio::task::spawn_blocking(move || listeners.adopt(index, writer)).await;
            let adopted = adopted.map_err(|error| Error::Io(error.to_string()))?;
            match adopted {
                Err(error) if leaves => return Err(error),
                // Who is removed may be gone for good, with what it had.
                Err(error) => log::error!("content that was on member {id} alone is lost to the zone: {error}"),
                Ok(()) => {}
            }
        }
        group.remove(id).await?;
        log::info!("member {id} is no member of zone {} any more", joined.name());
        for key in [
            member_key(id),
            pin_key(id),
            version_key(id),
            opening_key(id),
            format!("{LEAVING}{id}"),
            format!("{JOINING}{id}"),
        ] {
            set(joined, key, None).await?;
        }
    }
    for (id, value) in listed(joined, JOINING)? {
        let member: Member = model::decode("member", &value)?;
        group.add(id, member.clone()).await?;
        log::info!("{} is a member of zone {} from now on", member.name, joined.name());
        set(joined, format!("{JOINING}{id}"), None).await?;
    }
    Ok(())
}

pub(super) async fn set(joined: &JoinedZone, key: String, value: Option<Vec<u8>>) -> Result<()> {
    propose(joined, Command::SetSys { key, value }).await
}

async fn propose(joined: &JoinedZone, command: Command) -> Result<()> {
    let zone = joined.zone().clone();
    let proposed = tokio::task::spawn_blocking(move || zone.propose(&command)).await;
    proposed.map_err(|error| Error::Io(error.to_string()))?.map(drop)
}

/// Members whose names stand behind a prefix.
fn listed(joined: &JoinedZone, prefix: &str) -> Result<Vec<(MemberId, bytes::Bytes)>> {
    let mut found = Vec::new();
    joined.zone().read(&mut |state: &dyn MetaRead| {
        found.clear();
        let end = prefix.replace('/', "0");
        state.scan(Table::Sys, prefix.as_bytes(), end.as_bytes(), &mut |key, value| {
            let digits = key.get(prefix.len()..).and_then(|digits| std::str::from_utf8(digits).ok());
            let id = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            found.extend(id.map(|id| (MemberId(id), bytes::Bytes::copy_from_slice(value))));
            ControlFlow::Continue(())
        })
    })?;
    Ok(found)
}

/// Has whoever leads take a member out, and waits until it has.
pub fn ask_to_remove(joined: &JoinedZone, member: MemberId, how: Parting) -> Result<()> {
    let is_there = || joined.zone().group().status().membership.members.contains_key(&member);
    if !is_there() {
        return Err(Error::NotFound);
    }
    // Revoked first: it is not to come back while it is taken out.
    joined.zone().propose(&Command::SetSys { key: format!("{LEAVING}{member}"), value: Some(vec![how as u8]) })?;
    let until = Instant::now() + if how == Parting::Leaving { PARTING } else { REMOVAL };
    while is_there() {
        // The others have stopped to tell who is out, which therefore has to ask.
        if member == joined.member() {
            let others = joined.zone().group().status().membership.members;
            let mut others = others.iter().filter(|(id, _)| **id != member);
            if others.any(|(id, about)| joined.links().is_turned_away(*id, about)) {
                return Ok(());
            }
        }
        if Instant::now() >= until {
            return Err(Error::Unavailable("the member is to go, but is not out yet; see `zone status`".into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
