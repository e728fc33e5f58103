//! Going on with a zone whose majority is lost for good: the members that are left make a group of
//! their own, at a new term, with what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_kernel::{Command, Error, Interest, Result, Zone};

use super::ZoneNode;
use super::joined::JoinedZone;
use super::records::{member_key, opening_key, pin_key};
use super::steward::{JOINING, LEAVING};
use crate::raft::{Entry, MemberId, Membership, Payload, Position, Vote, version_key};

/// How long those that are left may take to agree on a leader.
const AGREE: Duration = Duration::from_secs(30);
/// Terms that are left out, so that no election among those that are lost has one of them.
const TERMS: u64 = 1_000_000;

/// What a recovery would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryPlan {
    /// The members from then on.
    pub membership: Membership,
    /// Those that are lost: their ids and names.
    pub lost: BTreeMap<MemberId, String>,
}

/// Why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRecovery {
    /// A majority is there, or would be.
    NotNeeded,
    /// This node would be none of them.
    NotWithout,
    /// One that is to stay is no member.
    NoMember,
}

/// What is to be done where of `membership` only `me` and `keep` are left.
pub fn plan(membership: &Membership, me: MemberId, keep: &[MemberId]) -> std::result::Result<RecoveryPlan, NoRecovery> {
    let left: BTreeSet<MemberId> = keep.iter().copied().chain([me]).collect();
    if !membership.members.contains_key(&me) {
        return Err(NoRecovery::NotWithout);
    }
    if !left.iter().all(|id| membership.members.contains_key(id)) {
        return Err(NoRecovery::NoMember);
    }
    let is_majority = |voters: &BTreeSet<MemberId>| voters.intersection(&left).count() * 2 > voters.len();
    if membership.voters.iter().all(is_majority) {
        return Err(NoRecovery::NotNeeded);
    }
    let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
        membership.members.clone().into_iter().partition(|(id, _)| left.contains(id));
    let lost = lost.into_iter().map(|(id, about)| (id, about.name)).collect();
    // Whoever only learned votes now: nobody else is there.
    Ok(RecoveryPlan { membership: Membership { voters: vec![left], members: kept }, lost })
}

impl ZoneNode {
    /// Goes on with a zone as `plan` says. The zone is closed and opened anew meanwhile; it is
    /// what this answers from then on. Must not be called while a majority is there.
    pub fn recover(&self, joined: &Arc<JoinedZone>, plan: &RecoveryPlan) -> Result<Arc<JoinedZone>> {
        let index = joined.index();
        let files = self.folder.read_one(index)?;
        self.close_one(joined)?;
        let log = joined.log().clone();
        let state = log.state();
        let term = state.last.map_or(0, |last| last.term).max(state.vote.map_or(0, |vote| vote.term)) + TERMS;
        let position = Position { term, index: state.last.map_or(0, |last| last.index + 1) };
        let payload = Payload::Membership(plan.membership.clone());
        // A vote of an older term than the last entry's is none.
        wait(|flushed| log.save_vote(Vote { term, candidate: joined.member(), committed: false }, flushed))?;
        wait(|flushed| log.append(vec![Entry { position, payload }], flushed))?;
        let joined = self.start_with(index, &files, log)?;
        let until = Instant::now() + AGREE;
        while joined.zone().be_current(Interest::Anything).is_err() {
            if Instant::now() >= until {
                return Err(Error::Unavailable(
                    "the members that are left do not agree yet; are all of them there? It goes on by itself".into(),
                ));
            }
        }
        self.forget_lost(&joined, plan)?;
        Ok(joined)
    }

    /// Revokes those that are lost. Done once more, it does nothing.
    fn forget_lost(&self, joined: &JoinedZone, plan: &RecoveryPlan) -> Result<()> {
        for id in plan.lost.keys() {
            for key in [
                member_key(*id),
                pin_key(*id),
                version_key(*id),
                opening_key(*id),
                format!("{JOINING}{id}"),
                format!("{LEAVING}{id}"),
            ] {
                joined.zone().propose(&Command::SetSys { key, value: None })?;
            }
        }
        Ok(())
    }
}

/// Waits until a record is durable.
fn wait(save: impl FnOnce(crate::raft::Flushed) -> Result<()>) -> Result<()> {
    let (tell, told) = std::sync::mpsc::channel();
    save(Box::new(move |done| drop(tell.send(done))))?;
    told.recv().map_err(|_| Error::Unavailable("the log has gone away".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn membership(voters: &[u64]) -> Membership {
        let ids: BTreeSet<MemberId> = voters.iter().copied().map(MemberId).collect();
        let member = |id: &MemberId| (*id, Member { name: format!("m{id}"), ..Member::default() });
        Membership { members: ids.iter().map(member).collect(), voters: vec![ids] }
    }

    #[test]
    fn only_a_minority_of_members_is_recovered_to() {
        let five = membership(&[1, 2, 3, 4, 5]);
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect::<Vec<_>>();
        let two = plan(&five, MemberId(1), &ids(&[2])).unwrap();
        assert_eq!(two.membership.voters, [BTreeSet::from([MemberId(1), MemberId(2)])]);
        assert_eq!(two.lost.keys().map(|id| id.0).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(two.membership.members.len(), 2);
        assert_eq!(plan(&five, MemberId(1), &ids(&[2, 3])), Err(NoRecovery::NotNeeded));
        assert_eq!(plan(&five, MemberId(9), &[]), Err(NoRecovery::NotWithout));
        assert_eq!(plan(&five, MemberId(1), &ids(&[8])), Err(NoRecovery::NoMember));
        assert_eq!(plan(&membership(&[1]), MemberId(1), &[]), Err(NoRecovery::NotNeeded));
        // While the members change, both sets must agree.
        let mut changing = membership(&[1, 2, 3]);
        changing.voters.push(BTreeSet::from([MemberId(1)]));
        assert_eq!(plan(&changing, MemberId(1), &[]).unwrap().lost.len(), 2);
    }
}
