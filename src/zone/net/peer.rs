//! What a node answers to others, in plain types: the port between the network and the rest
//! of the zone tier. Everything in a request has been checked when a [`Peer`] sees it.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use nexus_kernel::{BlobId, Ino};

use super::identity::{Fingerprint, ZoneId};
use super::invite::{Invite, Token};
use crate::mirror::{Part, Ranges};
use crate::raft::{Entry, Member, MemberId, Position, ProcessId, RestOffer, Vote};

/// A stream without an end of its own type.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// An answer that is on its way. It is dropped, wherever it waits, once nobody waits for it.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Why a peer did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another member leads the zone: ask that one. Only the calls that only a leader can
    /// answer (propose, read index, join, invite) carry it; others say `Unavailable` for it.
    #[error("this member does not lead the zone")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<MemberId>,
        /// Where it listens, best first.
        addresses: Vec<String>,
    },
    /// Not now; the text says why. Asking again may help.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The asker may not; the text says why. Asking again does not help.
    #[error("denied: {0}")]
    Denied(String),
    /// There is no such thing; the text says what.
    #[error("not found: {0}")]
    NotFound(String),
    /// The request makes no sense, or is of another version; the text says why.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// Who asks: a member of the zone, by its certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Caller {
    /// The zone that the connection and the request are for.
    pub zone: ZoneId,
    /// The member.
    pub member: MemberId,
    /// SHA-256 of its certificate.
    pub certificate: Fingerprint,
    /// SHA-256 of the public key in it.
    pub key: Fingerprint,
}

/// Asks for a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoteRequest {
    /// What the candidate asks to be voted for.
    pub vote: Vote,
    /// Its last entry, if it has any.
    pub last: Option<Position>,
    /// Whether it only asks what the answer would be.
    pub is_pre_vote: bool,
    /// Whether the leader has asked it to stand.
    pub is_transfer: bool,
}

/// The answer to [`VoteRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoteReply {
    /// What the member has voted for now.
    pub vote: Vote,
    /// Whether it grants the request.
    pub granted: bool,
    /// Its last entry, if it has any.
    pub last: Option<Position>,
}

/// The leader hands its office on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferLeader {
    /// The leader's vote.
    pub from: Vote,
    /// Who is to lead.
    pub to: MemberId,
    /// The leader's last entry, if it has any.
    pub last: Option<Position>,
}

/// Entries for a follower's log; none is a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first of these; none if that is the log's first.
    pub previous: Option<Position>,
    /// Up to where a majority has the log, if anywhere.
    pub committed: Option<Position>,
    /// One index after the other from `previous` on, terms never falling.
    pub entries: Vec<Entry>,
}

/// The answer to one [`Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendReply {
    /// All entries are in the log.
    Success,
    /// Only those up to here are in the log yet; `None`: none is.
    Partial(Option<Position>),
    /// `previous` is not in the log.
    Conflict,
    /// The member has voted for somebody else since.
    HigherVote(Vote),
}

/// What a snapshot's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHead {
    /// The leader's vote.
    pub vote: Vote,
    /// A name, unique in the zone: 1 to 255 bytes, no control characters.
    pub id: String,
    /// The last entry that it contains, if any.
    pub last: Option<Position>,
    /// The encoded membership as of then, at most 1 MiB.
    pub membership: Bytes,
    /// How many bytes follow.
    pub total_bytes: u64,
}

/// An encoded proposal, at most 15 MiB with all others of its batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The proposal.
    pub bytes: Bytes,
    /// How long an answer is of use, in whole milliseconds up to 2^32-1.
    pub deadline: Duration,
}

/// Some bytes of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobRange {
    /// The blob.
    pub blob: BlobId,
    /// The first byte.
    pub offset: u64,
    /// How many; `offset + len` does not overflow.
    pub len: u64,
}

/// A node asks to become a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// From its invitation.
    pub token: Token,
    /// A PKCS#10 request, DER: the only field that [`crate::net::ZoneCa::sign`] is yet to check.
    pub csr: Bytes,
    /// What the others are to know of it.
    pub member: Member,
    /// The newest version of commands that it knows.
    pub commands: u8,
}

/// What a new member is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Its certificate, DER.
    pub certificate: Bytes,
    /// The CA's, DER.
    pub ca: Bytes,
    /// The zone.
    pub zone: ZoneId,
    /// The zone's name for people.
    pub zone_name: String,
    /// The encoded membership, at most 1 MiB.
    pub membership: Bytes,
    /// Its id as a member.
    pub member: MemberId,
}

/// A read of metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// An inode's attributes.
    Inode(Ino),
    /// What a name is the name of, and its attributes.
    Lookup(Ino, Vec<u8>),
    /// Entries of a directory behind a position, so many.
    ReadDir(Ino, u64, usize),
    /// Extents of a file that end behind an offset, so many.
    Extents(Ino, u64, usize),
}

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueryAnswer {
    /// It is as of what is before this index.
    pub index: u64,
    /// As the query asks for; see the `.proto` file.
    pub records: Vec<Bytes>,
}

/// A name that came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedChange {
    /// In which directory.
    pub parent: Ino,
    /// The name.
    pub name: Bytes,
    /// What it is the name of, if that is known.
    pub inode: Option<Ino>,
    /// Whether it is gone.
    pub removed: bool,
}

/// What an entry of the log changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchEvent {
    /// Where to go on.
    pub next: u64,
    /// Inodes that changed.
    pub inodes: Vec<Ino>,
    /// Names that came and went.
    pub names: Vec<NamedChange>,
    /// Changes before `next` were left out.
    pub fell_behind: bool,
}

/// Where a zone is to be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneAddress {
    /// The zone.
    pub zone: ZoneId,
    /// Where its members listen, best first; at most [`crate::net::MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// Of its CA: whom to trust there.
    pub ca: Fingerprint,
}

/// One hop of a path's way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The asked zone has the path itself.
    Here(ZoneAddress),
    /// The path leads over a mount point.
    Mount {
        /// How many components lead to it, at least 1 and at most as many as were asked for.
        depth: usize,
        /// The zone that is mounted there.
        zone: ZoneAddress,
    },
}

/// A process lives, and leads zones in which nothing happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alive {
    /// The process.
    pub process: ProcessId,
    /// At most [`crate::net::MAX_RESTING`] zones, with the terms that it leads them at.
    pub zones: Vec<(ZoneId, u64)>,
}

/// Whether a certificate is still a member's. Asked at every request and at every message of a
/// stream, so it must be quick: a look into a table, no disk, no network.
pub trait Guard: Send + Sync + 'static {
    /// Whether `caller` is a member of its zone now, with this certificate.
    fn is_member(&self, caller: &Caller) -> bool;
}

/// A node, as the others of its zones see it. One serves all zones of the node; each call
/// says which is meant. Calls come at the same time, and in any order but for the messages of
/// one stream. The futures and streams may be dropped at any point.
pub trait Peer: Send + Sync + 'static {
    /// Votes, or says how it would.
    fn vote(&self, caller: Caller, request: VoteRequest) -> Answer<'_, VoteReply>;

    /// Takes over, or notes who does.
    fn transfer_leader(&self, caller: Caller, request: TransferLeader) -> Answer<'_, ()>;

    /// Takes entries. Gives one reply for each, in their order; the input ends where the leader
    /// ended it or the connection broke. An error ends the stream.
    fn replicate(
        &self,
        caller: Caller,
        appends: BoxStream<Append>,
    ) -> Answer<'_, BoxStream<Result<AppendReply, Refusal>>>;

    /// Takes a snapshot, and says what the member has voted for now. The chunks have been
    /// checked; they are as many bytes as the head says, or the last item is an error that says
    /// why they end early, and the snapshot is void.
    fn install_snapshot(
        &self,
        caller: Caller,
        head: SnapshotHead,
        chunks: BoxStream<Result<Bytes, String>>,
    ) -> Answer<'_, Vote>;

    /// Which of these inodes are open here; with `as_of`, one more than the index of an entry, which of
    /// them programs use here in any way once that is applied. At most 65,536 are asked for.
    fn held(&self, caller: Caller, inodes: Vec<Ino>, as_of: Option<u64>) -> Answer<'_, Vec<Ino>>;

    /// Keeps bytes of blobs that the caller has written, and makes all durable that was kept of
    /// `durable`.
    fn keep_content(&self, caller: Caller, parts: Vec<Part>, durable: Vec<BlobId>) -> Answer<'_, ()>;

    /// What is kept durably of these blobs, at most 4,096, one for each.
    fn kept_content(&self, caller: Caller, blobs: Vec<BlobId>) -> Answer<'_, Vec<Ranges>>;

    /// Awaits no heartbeats from now on, if it knows of nothing that happens; this process, if so.
    fn rest(&self, caller: Caller, offer: RestOffer) -> Answer<'_, Option<ProcessId>>;

    /// Whether the caller, whose data folder has opened the zone these times, goes on from where it was: the
    /// newest opening that is known of it is among them. At most [`crate::net::MAX_OPENINGS`], the newest last.
    fn greet(&self, caller: Caller, openings: Vec<u64>) -> Answer<'_, bool>;

    /// Notes a sign of life; which of the zones do not rest here. The caller's zone says nothing
    /// of the others: that the process is their leader's must be known from them.
    fn alive(&self, caller: Caller, alive: Alive) -> Answer<'_, Vec<ZoneId>>;

    /// Puts a batch into the log, all in one entry, whose position is the answer.
    fn propose(&self, caller: Caller, proposals: Vec<Proposal>) -> Answer<'_, Position>;

    /// An index that, once applied, makes a read see all that was acknowledged before the call.
    fn read_index(&self, caller: Caller) -> Answer<'_, u64>;

    /// The same; and whether nothing is committed without the caller for a time, which only the leader can say.
    fn pledge(&self, caller: Caller) -> Answer<'_, (u64, bool)>;

    /// Hears that the caller's locks of a session are in use. Denied if they have ended.
    fn renew_locks(&self, caller: Caller, session: u64) -> Answer<'_, ()>;

    /// The bytes of a range, fewer if the blob ends before, in pieces of any size.
    fn fetch_blob(&self, caller: Caller, range: BlobRange) -> Answer<'_, BoxStream<Result<Bytes, Refusal>>>;

    /// Makes whoever has this token a member. The asker is a stranger.
    fn join(&self, zone: ZoneId, request: JoinRequest) -> Answer<'_, Joined>;

    /// Makes an invitation that holds for `ttl`, whole seconds: to the caller's zone, or to one that
    /// stands in that and is open to its members.
    fn invite(&self, caller: Caller, child: Option<ZoneId>, ttl: Duration) -> Answer<'_, Invite>;

    /// Reads metadata, as of now; also at least of what is before `at_least`.
    fn query(&self, caller: Caller, at_least: u64, query: Query) -> Answer<'_, QueryAnswer>;

    /// Tells of changes from `from` on, or from now on, as they come. Nobody waits for who does not take them:
    /// what is too long ago is left out, and that told.
    fn watch(&self, caller: Caller, from: Option<u64>) -> Answer<'_, BoxStream<Result<WatchEvent, Refusal>>>;

    /// Where the path of these names, each a valid one, leads: from the zone's root on, at most
    /// 4,096 names. The asker may be a stranger: say nothing but what the way needs.
    fn resolve(&self, zone: ZoneId, components: Vec<Vec<u8>>) -> Answer<'_, Resolved>;
}
