//! Replicated zones: what a group of members agrees on, and in which order. Nothing outside
//! the folder `engine` names the consensus library.

mod behind;
mod consensus;
mod copies;
mod desk;
mod engine;
mod entry;
mod flusher;
mod group_log;
mod messages;
mod patience;
mod pause;
mod pending;
mod pledges;
mod proposal;
mod proposer;
mod questions;
mod replica;
mod rest;
mod snapshot;
mod tail;
mod vantage;
mod versions;
mod witness;
mod zone;

pub use consensus::{Consensus, GroupStatus, Role};
pub use copies::{Copies, Copying, NoCopies, Span};
pub use engine::{Group, GroupConfig, LogStore};
pub use entry::{Entry, Member, MemberId, Membership, Payload, Position, Vote};
pub use flusher::{Flushed, Flusher};
pub use group_log::{GroupLog, GroupState};
pub use messages::{Append, AppendReply, Link, Links, Refusal, TransferLeader, VoteReply, VoteRequest};
pub use patience::Patience;
pub use pause::{LEASE as PAUSE_LEASE, Pause};
pub use proposal::Batch;
pub use replica::{Change, Deaf, Listener, Mark, Metastores, Replica, ReplicaConfig};
pub use rest::{ProcessId, Rest, RestConfig, RestOffer, Timers};
pub use snapshot::{Incoming, Outgoing};
pub use tail::Tail;
pub use versions::{BEFORE_ANNOUNCEMENTS, announced, version_key};
pub use witness::{EVERYWHERE_KEY, WITNESS_VERSION};
pub use zone::{RaftParts, RaftZone, RaftZoneConfig};

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
