//! What a zone's state says of its members and invitations: names in its `sys` table.

use nexus_kernel::model::{self, keys};
use nexus_kernel::{MetaRead, Result, Table};
use serde::{Deserialize, Serialize};

use crate::net::{Fingerprint, TokenHash};
use crate::raft::MemberId;

/// The CA's certificate and key, PEM: any member may take others in.
pub const CA_KEY: &str = "zone/ca";
/// Set once the zone is to be deleted by all its members: the name of the one who asked for it.
/// Behind it, with `/` and a member's id, stands who knows.
pub const ENDED_KEY: &str = "zone/ended";
/// There if members of zones that the zone stands in may join it without an invitation from its own.
pub const OPEN_KEY: &str = "zone/open";
/// What people call the zone.
pub const NAME_KEY: &str = "zone/name";

/// On how many nodes each byte of content is to be, the writer among them (u32).
pub const REPLICAS_KEY: &str = "zone/replicas";
/// The same, where nobody has said.
pub const DEFAULT_REPLICAS: u32 = 2;

/// Value at `member/<id>`: who may take part. Taking it away revokes the certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// SHA-256 of the certificate that the member came with.
    pub certificate: [u8; 32],
    /// Its writer's part of blob ids.
    pub writer: u32,
    /// What people call it.
    pub name: String,
}

/// Name of the SHA-256 of a member's public key: any certificate of this key counts, so that it can be
/// renewed.
pub fn pin_key(id: MemberId) -> String {
    format!("pin/{id}")
}

/// Name of the number of a member's newest opening of the zone (u64).
pub fn opening_key(id: MemberId) -> String {
    format!("opening/{id}")
}

/// Value at `invite/<hash>`: a token that works once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InviteRecord {
    /// Seconds since 1970 from which on it does not work any more.
    pub expires_s: u64,
}

/// Name of a member's record.
pub fn member_key(id: MemberId) -> String {
    format!("member/{id}")
}

/// Name of an invitation's record.
pub fn invite_key(hash: &TokenHash) -> String {
    let digits: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("invite/{digits}")
}

/// Name of what says that an invitation is for a witness alone.
pub fn witness_invite_key(hash: &TokenHash) -> String {
    format!("{}/witness", invite_key(hash))
}

/// A record, if it is there.
pub fn read<T: serde::de::DeserializeOwned>(state: &dyn MetaRead, key: &str) -> Result<Option<T>> {
    let found = state.get(Table::Sys, &keys::sys(key))?;
    found.map(|bytes| model::decode("record of a zone", &bytes)).transpose()
}

/// Whether a certificate with this fingerprint, and with a key with this one, is a member's.
pub fn is_member(state: &dyn MetaRead, id: MemberId, certificate: &Fingerprint, key: &Fingerprint) -> Result<bool> {
    let Some(record) = read::<MemberRecord>(state, &member_key(id))? else { return Ok(false) };
    Ok(record.certificate == certificate.0 || is_pinned(state, id, key)?)
}

/// Whether a member's key is the one with this fingerprint.
pub fn is_pinned(state: &dyn MetaRead, id: MemberId, key: &Fingerprint) -> Result<bool> {
    Ok(read::<[u8; 32]>(state, &pin_key(id))? == Some(key.0))
}
