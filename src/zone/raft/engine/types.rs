//! The consensus library's types, and how ours become theirs and back.

use std::fmt;
use std::io;

use bytes::Bytes;
use nexus_kernel::{Error, Result};
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use openraft::{EntryPayload, StoredMembership};

use crate::raft::entry::{Entry, Member, MemberId, Membership, Payload, Position, Vote};

/// Encoded proposals, as an entry carries them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposals(pub Bytes);

impl fmt::Display for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of proposals", self.0.len())
    }
}

#[cfg(test)]
type GroupRuntime = super::seeded::SeededRuntime;
#[cfg(not(test))]
type GroupRuntime = openraft_rt_tokio::TokioRuntime;

openraft::declare_raft_types!(
    /// The types that a zone's group is made of.
    pub TypeConfig:
        D = Proposals,
        R = (),
        NodeId = u64,
        Node = Member,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = GroupRuntime,
);

/// The library's place in a log.
pub type RaftLogId = openraft::LogId<CommittedLeaderId<u64>>;
/// The library's vote.
pub type RaftVote = openraft::Vote<LeaderId<u64, u64>>;
/// The library's entry.
pub type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// The library's members.
pub type RaftMembership = openraft::Membership<u64, Member>;

/// Their place as ours.
pub fn position(id: &RaftLogId) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}

/// Our place as theirs.
pub fn log_id(position: Position) -> RaftLogId {
    RaftLogId { leader_id: CommittedLeaderId::new(position.term), index: position.index }
}

/// Their vote as ours.
pub fn vote(vote: &RaftVote) -> Vote {
    let leader = vote.leader_id();
    Vote { term: leader.term, candidate: MemberId(leader.voted_for), committed: vote.is_committed() }
}

/// Our vote as theirs.
pub fn raft_vote(vote: Vote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term, vote.candidate.0)
    } else {
        RaftVote::new(vote.term, vote.candidate.0)
    }
}

/// Their members as ours.
pub fn membership(theirs: &RaftMembership) -> Membership {
    Membership {
        voters: theirs.get_joint_config().iter().map(|set| set.iter().copied().map(MemberId).collect()).collect(),
        members: theirs.nodes().map(|(id, member)| (MemberId(*id), member.clone())).collect(),
    }
}

/// Our members as theirs.
pub fn raft_membership(ours: &Membership) -> Result<RaftMembership> {
    let voters = ours.voters.iter().map(|set| set.iter().map(|id| id.0).collect()).collect();
    let members: std::collections::BTreeMap<u64, Member> =
        ours.members.iter().map(|(id, member)| (id.0, member.clone())).collect();
    RaftMembership::new(voters, members).map_err(|error| Error::Corrupt(format!("members of a zone: {error}")))
}

/// Members with the entry that they are from.
pub fn stored_membership(at: Option<Position>, ours: &Membership) -> Result<StoredMembershipOf> {
    if at.is_none() {
        return Ok(StoredMembershipOf::default());
    }
    Ok(StoredMembership::new(at.map(log_id), raft_membership(ours)?))
}

/// The library's members with their place.
pub type StoredMembershipOf = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;

/// Their entry as ours.
pub fn entry(theirs: &RaftEntry) -> Entry {
    let payload = match &theirs.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(proposals) => Payload::Proposals(proposals.0.clone()),
        EntryPayload::Membership(members) => Payload::Membership(membership(members)),
    };
    Entry { position: position(&theirs.log_id), payload }
}

/// Our entry as theirs.
pub fn raft_entry(ours: Entry) -> Result<RaftEntry> {
    let payload = match ours.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Proposals(bytes) => EntryPayload::Normal(Proposals(bytes)),
        Payload::Membership(members) => EntryPayload::Membership(raft_membership(&members)?),
    };
    Ok(openraft::Entry { log_id: log_id(ours.position), payload })
}

/// Our error as the library takes it from storage.
pub fn io_error(error: &Error) -> io::Error {
    io::Error::other(error.to_string())
}
