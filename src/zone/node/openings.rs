//! Data folders that were copied, or put back as they were before: a member must not be two, nor forget what it
//! has voted for. Each time that a folder opens a zone it adds a random number to those of the times before, and
//! tells the others of all; whoever knows of one that is not among them knows a later state of that folder, or another
//! that goes on from it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nexus_kernel::{Command, Error, Result, Zone, model};
use parking_lot::Mutex;

use super::joined::JoinedZone;
use super::links::ClientLinks;
use super::records::{opening_key, read};
use crate::net::ZoneId;
use crate::raft::{Member, MemberId, Membership};

/// How long the others may take to answer before a zone is opened without them.
const ANSWER: Duration = Duration::from_secs(1);
/// Who has not answered is not asked again for so long: a node may have many zones with the same others.
const SILENT: Duration = Duration::from_secs(30);

/// The newest openings that other members have told of since this node was started, and who did not answer
/// this one's.
#[derive(Default)]
pub struct Greeted {
    newest: Mutex<HashMap<(ZoneId, MemberId), u64>>,
    silent: Mutex<HashMap<Vec<String>, Instant>>,
}

fn copied() -> Error {
    Error::Corrupt(
        "the data folder was copied from that of a member which runs or has run since, or is an older state of it"
            .into(),
    )
}

impl Greeted {
    /// Whether a member that has opened the zone these times goes on from what is known of it here.
    pub fn goes_on(&self, joined: &JoinedZone, member: MemberId, openings: &[u64]) -> Result<bool> {
        let last = openings.last().copied().unwrap_or_default();
        if member == joined.member() {
            // Somebody says that it is this member, and is not if it is another process.
            return Ok(joined.openings().last() == Some(&last));
        }
        let told = told(joined, member)?;
        let mut newest = self.newest.lock();
        let heard = newest.get(&(joined.id(), member)).copied();
        if told.into_iter().chain(heard).any(|known| !openings.contains(&known)) {
            log::warn!("zone {}: {}: refused member {member}", joined.name(), copied());
            return Ok(false);
        }
        newest.insert((joined.id(), member), last);
        Ok(true)
    }

    /// Asks the others, and whoever answers at this member's own addresses, before it takes part in a zone.
    pub async fn greet(
        &self,
        links: &Arc<ClientLinks>,
        membership: &Membership,
        (me, about): (MemberId, &Member),
        openings: &[u64],
    ) -> Result<()> {
        let others = membership.members.iter().filter(|(id, _)| **id != me).map(|(id, other)| (*id, other));
        let own = membership.members.get(&me).unwrap_or(about);
        let now = Instant::now();
        let is_silent = |other: &Member| {
            let silent = self.silent.lock();
            silent.get(&other.addresses).is_some_and(|since| now < *since + SILENT)
        };
        let asked = others.chain([(me, own)]).filter(|(_, other)| !is_silent(other)).map(|(id, other)| async move {
            let client = links.client(id, other).ok()?;
            // What refuses the question may be of an older build.
            let answer = client.greet(openings, ANSWER).await;
            if let Err(crate::net::CallError::Unreachable(_) | crate::net::CallError::TimedOut) = answer {
                self.silent.lock().insert(other.addresses.clone(), Instant::now());
            }
            answer.ok()
        });
        let answers = join_all(asked).await;
        if answers.into_iter().flatten().any(|goes_on| !goes_on) { Err(copied()) } else { Ok(()) }
    }
}

fn told(joined: &JoinedZone, member: MemberId) -> Result<Option<u64>> {
    let mut told = None;
    joined.zone().read(&mut |state| {
        told = read::<u64>(state, &opening_key(member))?;
        Ok(())
    })?;
    Ok(told)
}

/// Writes into the state that this member has opened the zone. Where that knows of an opening that this
/// folder does not, the member takes no more part.
pub fn tell(joined: &JoinedZone) -> Result<()> {
    let (openings, told) = (joined.openings(), told(joined, joined.member())?);
    let last = openings.last().copied().unwrap_or_default();
    match told {
        Some(told) if told == last => return Ok(()),
        Some(told) if !openings.contains(&told) => {
            log::error!("zone {}: {}; this node takes no more part", joined.name(), copied());
            joined.zone().stop_waiting();
            joined.block_on(joined.zone().group().shut_down());
            return Ok(());
        }
        _ => {}
    }
    let value = Some(model::encode(&last)?.to_vec());
    joined.zone().propose(&Command::SetSys { key: opening_key(joined.member()), value }).map(drop)
}
