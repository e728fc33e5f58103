//! Witnesses among a zone's members: they vote and hold the log, and lead only where no other can, until one can.
//!
//! Where a member that has the files is away, the others agree with a witness, so that it can be the only one
//! left with the newest entries. It keeps what not all members have: whoever leads notes how far they are in
//! the zone's state. Then it is elected, as its log is the longest, gives the others what they lack, and hands on.

use nexus_kernel::model;
use nexus_kernel::{Error, Result, Zone};

use super::joined::JoinedZone;
use super::records::read;
use super::steward;
use crate::raft::{EVERYWHERE_KEY, MemberId, Membership};

/// Bytes of entries that a witness keeps at the most. Beyond, the oldest are cut off: a member that lacks them has
/// to have the state of another that has it.
const MOST_LOG_BYTES: usize = 32 << 20;
/// Another number of them, for tests; only in builds with debug assertions.
const BYTES_VARIABLE: &str = "NEXUS_WITNESS_LOG_BYTES";
/// Bytes that it cuts off at least, and those that are worth a note of how far all are.
const STEP_BYTES: usize = 1 << 20;
/// Entries that are worth one.
const STEP: u64 = 1000;

/// Cuts off of this witness' log what all others have, and the oldest of it where it is too long.
pub async fn cut_off(joined: &JoinedZone) {
    let log = joined.log();
    let everywhere = match noted(joined) {
        Ok(noted) => noted.filter(|index| log.bytes() >= STEP_BYTES + log.bytes_after(*index)),
        Err(error) => {
            log::warn!("how far the members of zone {} are can't be read: {error}", joined.name());
            None
        }
    };
    let most = most_bytes();
    let beyond = (log.bytes() > most).then(|| log.beyond(most - most / 8)).flatten();
    if let Some(index) = everywhere.max(beyond) {
        joined.zone().group().compact_to(index).await;
    }
}

fn most_bytes() -> usize {
    let set = cfg!(debug_assertions).then(|| std::env::var(BYTES_VARIABLE).ok()).flatten();
    set.and_then(|text| text.parse().ok()).unwrap_or(MOST_LOG_BYTES)
}

/// Has a member lead that has the files, as soon as one has the whole log; whether one was asked.
pub async fn hand_on(joined: &JoinedZone) -> bool {
    let status = joined.zone().group().status();
    let has_all = |id: &MemberId| {
        let at = status.matched.iter().find(|(other, _)| other == id).and_then(|(_, at)| *at);
        at.is_some_and(|at| Some(at.index) == status.last)
    };
    let Some(id) = status.membership.keepers().find(has_all) else { return false };
    if let Err(error) = joined.zone().group().transfer(id).await {
        log::debug!("a witness leads zone {} for now: {error}", joined.name());
    }
    true
}

/// Where this member leads, and a witness is there: notes how far all others are, if that has changed by
/// enough.
pub async fn note(joined: &JoinedZone) -> Result<()> {
    let status = joined.zone().group().status();
    if joined.is_witness() || !status.membership.has_witness() {
        return Ok(());
    }
    let committed = status.committed.map(|at| at.index);
    let Some(everywhere) = everywhere(&status.membership, joined.member(), &status.matched).unwrap_or(committed) else {
        return Ok(());
    };
    let noted = noted(joined)?.unwrap_or(0);
    let log = joined.log();
    let worth = || log.bytes_after(noted).saturating_sub(log.bytes_after(everywhere)) >= STEP_BYTES;
    if everywhere >= noted + STEP || everywhere > noted && worth() {
        steward::set(joined, EVERYWHERE_KEY.to_owned(), Some(model::encode(&everywhere)?.to_vec())).await?;
    }
    Ok(())
}

/// Up to where all members other than `me` that have the files have the log: `Some(None)` where one has nothing
/// that is known of, `None` where there is no other.
fn everywhere(
    membership: &Membership,
    me: MemberId,
    matched: &[(MemberId, Option<crate::raft::Position>)],
) -> Option<Option<u64>> {
    let at = |id: MemberId| matched.iter().find(|(other, _)| *other == id).and_then(|(_, at)| at.map(|at| at.index));
    membership.keepers().filter(|id| *id != me).map(at).min()
}

fn noted(joined: &JoinedZone) -> Result<Option<u64>> {
    let mut noted = None;
    joined.zone().read(&mut |state| {
        noted = read::<u64>(state, EVERYWHERE_KEY)?;
        Ok(())
    })?;
    Ok(noted)
}

/// The answer to what only a member can do that has the files.
pub fn no_files(what: &str) -> Error {
    Error::Unavailable(format!("a witness has none of the zone's files: {what}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::raft::{Member, Position};

    #[test]
    fn what_the_slowest_with_files_has_is_everywhere() {
        let ids = [1, 2, 3, 4].map(MemberId);
        let membership = Membership {
            voters: vec![BTreeSet::from(ids)],
            members: ids.iter().map(|id| (*id, Member { witness: id.0 == 4, ..Member::default() })).collect(),
        };
        let at = |id, index| (MemberId(id), Some(Position { term: 1, index }));
        // The leader itself does not count, nor does a witness.
        let matched = [at(1, 99), at(2, 7), at(3, 9), at(4, 1)];
        assert_eq!(everywhere(&membership, MemberId(1), &matched), Some(Some(7)));
        assert_eq!(everywhere(&membership, MemberId(1), &[at(2, 7), (MemberId(3), None)]), Some(None));
        assert_eq!(everywhere(&membership, MemberId(1), &[at(2, 7)]), Some(None));
        let two = Membership {
            voters: vec![BTreeSet::from([MemberId(1), MemberId(4)])],
            members: membership.members.clone().into_iter().filter(|(id, _)| [1, 4].contains(&id.0)).collect(),
        };
        assert_eq!(everywhere(&two, MemberId(1), &[at(4, 1)]), None);
    }
}
