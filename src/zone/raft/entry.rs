//! Entries of a zone's replicated log, in our own encoding: the log on disk and the messages
//! between nodes must outlive any version of the consensus library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use nexus_kernel::{Error, Result};
use serde::{Deserialize, Serialize};

/// Version of the encoding that this build writes, and the newest that it reads.
pub const ENTRY_VERSION: u8 = 1;

/// A node as a member of one zone: a random number, given when it joins and never again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the others know of a member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Member {
    /// A name for people, unique in the zone.
    pub name: String,
    /// Where it listens, `host:port`; several where it has several networks, best first.
    pub addresses: Vec<String>,
    /// Its writer's part of blob ids: whose content is whose.
    pub writer: u32,
    /// Whether it votes and holds the log but keeps no state.
    pub witness: bool,
}

/// Place of an entry in a zone's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// The leader's term.
    pub term: u64,
    /// One more than that of the entry before; the first has 0.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What a member has voted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Who is to lead it.
    pub candidate: MemberId,
    /// Whether a majority has granted it.
    pub committed: bool,
}

/// Who votes. Two sets while the members change: both must agree then.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    /// Sets of voters, one or two.
    pub voters: Vec<BTreeSet<MemberId>>,
    /// All members, those that only learn included.
    pub members: BTreeMap<MemberId, Member>,
}

impl Membership {
    /// Members that vote and are no witnesses.
    pub fn keepers(&self) -> impl Iterator<Item = MemberId> {
        let is_keeper = |id: &&MemberId| self.members.get(id).is_some_and(|about| !about.witness);
        let all: BTreeSet<MemberId> = self.voters.iter().flatten().filter(is_keeper).copied().collect();
        all.into_iter()
    }

    /// One of them other than `me`.
    pub fn another_keeper(&self, me: MemberId) -> Option<MemberId> {
        self.keepers().find(|id| *id != me)
    }

    /// Whether any member is a witness.
    pub fn has_witness(&self) -> bool {
        self.members.values().any(|about| about.witness)
    }
}

/// What an entry brings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: a new leader's first.
    Blank,
    /// Encoded proposals.
    Proposals(Bytes),
    /// From here on, these are the members.
    Membership(Membership),
}

/// An entry of a zone's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// What it brings.
    pub payload: Payload,
}

impl Entry {
    /// Bytes for the log and the network.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode("entry", self)
    }

    /// An entry from the log or the network.
    pub fn decode(bytes: &[u8]) -> Result<Entry> {
        decode("entry", bytes)
    }
}

impl Vote {
    /// Bytes for the log.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode("vote", self)
    }

    /// A vote from the log.
    pub fn decode(bytes: &[u8]) -> Result<Vote> {
        decode("vote", bytes)
    }
}

/// A version byte, then postcard.
pub(super) fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    out.push(ENTRY_VERSION);
    postcard::to_extend(value, out).map_err(|error| Error::Io(format!("cannot encode a {what}: {error}")))
}

/// Reads what [`encode`] wrote; anything but exactly that is refused.
pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&ENTRY_VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, more)) => Err(Error::Corrupt(format!("{what}: {} bytes too many", more.len()))),
            Err(error) => Err(Error::Corrupt(format!("{what}: {error}"))),
        },
        Some((version, _)) => Err(Error::UnknownVersion(format!(
            "{what} of version {version} is not known; this build knows {ENTRY_VERSION}"
        ))),
        None => Err(Error::Corrupt(format!("{what}: empty"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_anything_else_is_refused() {
        let member =
            Member { name: "alice".into(), addresses: vec!["10.0.0.1:7420".into()], writer: 7, witness: false };
        let membership = Membership {
            voters: vec![BTreeSet::from([MemberId(7)])],
            members: BTreeMap::from([(MemberId(7), member)]),
        };
        let payloads =
            [Payload::Blank, Payload::Proposals(Bytes::from_static(b"abc")), Payload::Membership(membership)];
        for (index, payload) in (3u64..).zip(payloads) {
            let entry = Entry { position: Position { term: 2, index }, payload };
            let bytes = entry.encode().unwrap();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..cut]).is_err(), "cut to {cut} bytes");
            }
            assert!(Entry::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
            assert!(matches!(
                Entry::decode(&[&[ENTRY_VERSION + 1], &bytes[1..]].concat()),
                Err(Error::UnknownVersion(_))
            ));
        }
    }
}
