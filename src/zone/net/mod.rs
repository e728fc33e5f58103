//! A zone's network: gRPC over TLS, both sides with certificates of the zone's own CA. It
//! carries messages and says who sent them; what they mean is the business of a [`Peer`].

mod client;
mod connect;
mod convert;
mod identity;
mod invite;
mod join;
mod peer;
mod pki;
mod refusals;
mod server;
mod service;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod watching;

pub use client::{CallError, PeerClient};
pub use connect::Timing;
pub use convert::{MAX_BATCH, MAX_CHUNK, MAX_ENTRIES, MAX_INODES, MAX_OPENINGS, MAX_RESTING, PROTOCOL_VERSION};
pub use identity::{Fingerprint, ParseIdError, ZoneId};
pub use invite::{Invite, InviteError, MAX_ADDRESSES, Token, TokenHash, check_address};
pub use join::JoinClient;
pub use peer::{
    Alive, Answer, Append, AppendReply, BlobRange, BoxStream, Caller, Guard, JoinRequest, Joined, NamedChange, Peer,
    Proposal, Query, QueryAnswer, Refusal, Resolved, SnapshotHead, TransferLeader, VoteReply, VoteRequest, WatchEvent,
    ZoneAddress,
};
pub use pki::{NodeIdentity, NodeKey, PeerCertificate, PkiError, ZoneCa};
pub use refusals::{Reason, Refusals};
pub use server::{Limits, Server, ServerParts, Zones};
