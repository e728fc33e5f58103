//! Messages to checked types and back: the one place where a field is believed. Each function
//! refuses what is missing, out of range or inconsistent, and none panics.

use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::{BlobId, Ino, Name};
use nexus_proto as proto;

use super::identity::{Fingerprint, ZoneId};
use super::invite::{Invite, MAX_ADDRESSES, Token, check_address, check_name};
use super::peer::{
    Alive, Append, AppendReply, BlobRange, JoinRequest, Joined, Proposal, Refusal, Resolved, SnapshotHead,
    TransferLeader, VoteReply, VoteRequest, ZoneAddress,
};
use super::pki::MAX_DER;
use crate::mirror::{Part, Ranges};
use crate::raft::{BEFORE_ANNOUNCEMENTS, Entry, Member, MemberId, Position, ProcessId, RestOffer, Vote};

/// Version of the protocol that this build speaks, the only one.
pub const PROTOCOL_VERSION: u32 = 1;
/// Largest chunk of a stream, in bytes.
pub const MAX_CHUNK: usize = 1 << 20;
/// Most bytes of the proposals of one batch, or of the entries of one append.
pub const MAX_BATCH: usize = 15 << 20;
/// Largest encoded membership, in bytes.
const MAX_MEMBERSHIP: usize = 1 << 20;
/// Most entries of an append, and proposals of a batch.
const MAX_ITEMS: usize = 65_536;
/// Most openings of a zone that are told of.
pub const MAX_OPENINGS: usize = 512;
/// Most inodes that are asked for at once.
pub const MAX_INODES: usize = 65_536;
/// Most entries of a directory, or extents of a file, in an answer.
pub const MAX_ENTRIES: usize = 1024;
/// Most blobs that one message is about.
pub const MAX_BLOBS: usize = 4096;
/// Most zones that one sign of life is for.
pub const MAX_RESTING: usize = 4096;
/// Most names of a path.
const MAX_COMPONENTS: usize = 4096;
/// Longest text of a refusal, in bytes.
const MAX_TEXT: usize = 4096;

/// What is wrong with a message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

type Result<T> = std::result::Result<T, Malformed>;

/// A step, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A request for a vote.
    Vote(VoteRequest),
    /// The leader hands its office on.
    Transfer(TransferLeader),
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Malformed(what.into()))
}

fn need<T>(field: Option<T>, what: &str) -> Result<T> {
    field.ok_or_else(|| Malformed(format!("{what} is missing")))
}

fn limit(len: usize, most: usize, what: &str) -> Result<()> {
    if len > most { wrong(format!("{what}: {len}, but at most {most} are taken")) } else { Ok(()) }
}

fn fixed<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Malformed(format!("{what} has {} bytes instead of {N}", bytes.len())))
}

/// The head of a request for `zone`.
pub(super) fn to_header(zone: ZoneId) -> Option<proto::Header> {
    Some(proto::Header { version: PROTOCOL_VERSION, zone: Bytes::copy_from_slice(&zone.0) })
}

/// A zone's id.
pub(super) fn zone(bytes: &[u8]) -> Result<ZoneId> {
    fixed(bytes, "the zone's id").map(ZoneId)
}

pub(super) fn to_vote(vote: Vote) -> Option<proto::Vote> {
    Some(proto::Vote { term: vote.term, candidate: vote.candidate.0, committed: vote.committed })
}

pub(super) fn vote(vote: Option<proto::Vote>) -> Result<Vote> {
    let vote = need(vote, "the vote")?;
    Ok(Vote { term: vote.term, candidate: MemberId(vote.candidate), committed: vote.committed })
}

pub(super) fn to_position(position: Option<Position>) -> Option<proto::Position> {
    position.map(|position| proto::Position { term: position.term, index: position.index })
}

pub(super) fn position(position: Option<proto::Position>) -> Option<Position> {
    position.map(|position| Position { term: position.term, index: position.index })
}

pub(super) fn to_step(zone: ZoneId, step: Step) -> proto::StepRequest {
    use proto::step_request::Step as Wire;
    let step = match step {
        Step::Vote(request) => Wire::Vote(proto::VoteStep {
            vote: to_vote(request.vote),
            last: to_position(request.last),
            is_pre_vote: request.is_pre_vote,
            is_transfer: request.is_transfer,
        }),
        Step::Transfer(request) => Wire::TransferLeader(proto::TransferLeaderStep {
            from: to_vote(request.from),
            to: request.to.0,
            last: to_position(request.last),
        }),
    };
    proto::StepRequest { header: to_header(zone), step: Some(step) }
}

pub(super) fn step(request: proto::StepRequest) -> Result<Step> {
    use proto::step_request::Step as Wire;
    Ok(match need(request.step, "the step")? {
        Wire::Vote(step) => {
            let (is_pre_vote, is_transfer) = (step.is_pre_vote, step.is_transfer);
            Step::Vote(VoteRequest { vote: vote(step.vote)?, last: position(step.last), is_pre_vote, is_transfer })
        }
        Wire::TransferLeader(step) => {
            Step::Transfer(TransferLeader { from: vote(step.from)?, to: MemberId(step.to), last: position(step.last) })
        }
    })
}

pub(super) fn to_rest(zone: ZoneId, offer: &RestOffer) -> proto::RestRequest {
    let process = Bytes::copy_from_slice(&offer.process.0);
    proto::RestRequest {
        header: to_header(zone),
        vote: to_vote(offer.vote),
        last: to_position(Some(offer.last)),
        process,
    }
}

pub(super) fn rest(request: proto::RestRequest) -> Result<RestOffer> {
    let process = ProcessId(fixed(&request.process, "the process")?);
    let last = need(position(request.last), "the last entry")?;
    Ok(RestOffer { vote: vote(request.vote)?, last, process })
}

pub(super) fn rest_reply(reply: &proto::RestReply) -> Result<Option<ProcessId>> {
    if reply.process.is_empty() {
        return Ok(None);
    }
    fixed(&reply.process, "the process").map(|process| Some(ProcessId(process)))
}

pub(super) fn to_alive(zone: ZoneId, alive: &Alive) -> proto::AliveRequest {
    let resting = |(zone, term): &(ZoneId, u64)| proto::RestingZone { zone: to_zone(*zone), term: *term };
    let process = Bytes::copy_from_slice(&alive.process.0);
    proto::AliveRequest { header: to_header(zone), process, zones: alive.zones.iter().map(resting).collect() }
}

pub(super) fn alive(request: proto::AliveRequest) -> Result<Alive> {
    limit(request.zones.len(), MAX_RESTING, "zones")?;
    let process = ProcessId(fixed(&request.process, "the process")?);
    let zones = request.zones.into_iter().map(|resting| Ok((zone(&resting.zone)?, resting.term)));
    Ok(Alive { process, zones: zones.collect::<Result<_>>()? })
}

pub(super) fn to_zone(zone: ZoneId) -> Bytes {
    Bytes::copy_from_slice(&zone.0)
}

pub(super) fn zones(zones: &[Bytes]) -> Result<Vec<ZoneId>> {
    limit(zones.len(), MAX_RESTING, "zones")?;
    zones.iter().map(|bytes| zone(bytes)).collect()
}

pub(super) fn to_vote_reply(reply: VoteReply) -> proto::StepReply {
    proto::StepReply { vote: to_vote(reply.vote), granted: reply.granted, last: to_position(reply.last) }
}

pub(super) fn vote_reply(reply: proto::StepReply) -> Result<VoteReply> {
    Ok(VoteReply { vote: vote(reply.vote)?, granted: reply.granted, last: position(reply.last) })
}

/// Fails if an entry cannot be encoded, or if all are too long together.
pub(super) fn to_append(zone: ZoneId, append: &Append) -> Result<proto::AppendRequest> {
    let encode = |entry: &Entry| entry.encode().map(Bytes::from).map_err(|error| Malformed(error.to_string()));
    let entries = append.entries.iter().map(encode).collect::<Result<Vec<_>>>()?;
    limit(entries.len(), MAX_ITEMS, "entries")?;
    limit(entries.iter().map(Bytes::len).sum(), MAX_BATCH, "bytes of entries")?;
    Ok(proto::AppendRequest {
        header: to_header(zone),
        vote: to_vote(append.vote),
        previous: to_position(append.previous),
        committed: to_position(append.committed),
        entries,
    })
}

pub(super) fn append(request: proto::AppendRequest) -> Result<Append> {
    limit(request.entries.len(), MAX_ITEMS, "entries")?;
    let (vote, previous) = (vote(request.vote)?, position(request.previous));
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut before = previous;
    for bytes in &request.entries {
        let entry = Entry::decode(bytes).map_err(|error| Malformed(error.to_string()))?;
        let expected = match before {
            None => Some(0),
            Some(before) => before.index.checked_add(1),
        };
        if Some(entry.position.index) != expected || before.is_some_and(|before| entry.position.term < before.term) {
            return wrong(format!("the entry at {} does not follow the one before it", entry.position));
        }
        if entry.position.term > vote.term {
            return wrong(format!("the entry at {} is of a later term than its leader's", entry.position));
        }
        before = Some(entry.position);
        entries.push(entry);
    }
    Ok(Append { vote, previous, committed: position(request.committed), entries })
}

pub(super) fn to_append_reply(reply: AppendReply) -> proto::AppendReply {
    use proto::append_reply::Outcome;
    let outcome = match reply {
        AppendReply::Success => Outcome::Success(proto::Done {}),
        AppendReply::Partial(last) => Outcome::Partial(proto::Partial { position: to_position(last) }),
        AppendReply::Conflict => Outcome::Conflict(proto::Done {}),
        AppendReply::HigherVote(vote) => {
            Outcome::HigherVote(proto::Vote { term: vote.term, candidate: vote.candidate.0, committed: vote.committed })
        }
    };
    proto::AppendReply { outcome: Some(outcome) }
}

pub(super) fn append_reply(reply: proto::AppendReply) -> Result<AppendReply> {
    use proto::append_reply::Outcome;
    Ok(match need(reply.outcome, "the outcome")? {
        Outcome::Success(_) => AppendReply::Success,
        Outcome::Partial(partial) => AppendReply::Partial(position(partial.position)),
        Outcome::Conflict(_) => AppendReply::Conflict,
        Outcome::HigherVote(higher) => AppendReply::HigherVote(vote(Some(higher))?),
    })
}

pub(super) fn to_snapshot_head(zone: ZoneId, head: SnapshotHead) -> proto::SnapshotHead {
    proto::SnapshotHead {
        header: to_header(zone),
        vote: to_vote(head.vote),
        id: head.id,
        last: to_position(head.last),
        membership: head.membership,
        total_bytes: head.total_bytes,
    }
}

pub(super) fn snapshot_head(head: proto::SnapshotHead) -> Result<SnapshotHead> {
    limit(head.membership.len(), MAX_MEMBERSHIP, "bytes of membership")?;
    Ok(SnapshotHead {
        vote: vote(head.vote)?,
        id: name(head.id, "the snapshot's id")?,
        last: position(head.last),
        membership: head.membership,
        total_bytes: head.total_bytes,
    })
}

pub(super) fn to_chunk(bytes: Bytes) -> proto::Chunk {
    proto::Chunk { crc32c: crc32c::crc32c(&bytes), bytes }
}

pub(super) fn chunk(chunk: proto::Chunk) -> Result<Bytes> {
    limit(chunk.bytes.len(), MAX_CHUNK, "bytes of a chunk")?;
    match crc32c::crc32c(&chunk.bytes) == chunk.crc32c {
        true => Ok(chunk.bytes),
        false => wrong("a chunk's checksum is wrong"),
    }
}

pub(super) fn to_content(zone: ZoneId, parts: Vec<Part>, durable: &[BlobId]) -> Result<proto::KeepContentRequest> {
    check_content(parts.len(), parts.iter().map(|part| part.bytes.len()).sum(), durable.len())?;
    let part = |part: Part| proto::ContentPart {
        blob: part.blob.0,
        offset: part.offset,
        crc32c: crc32c::crc32c(&part.bytes),
        bytes: part.bytes,
    };
    let durable = durable.iter().map(|blob| blob.0).collect();
    Ok(proto::KeepContentRequest { header: to_header(zone), parts: parts.into_iter().map(part).collect(), durable })
}

pub(super) fn content(request: proto::KeepContentRequest) -> Result<(Vec<Part>, Vec<BlobId>)> {
    let bytes = request.parts.iter().map(|part| part.bytes.len()).sum();
    check_content(request.parts.len(), bytes, request.durable.len())?;
    let part = |part: proto::ContentPart| match part.offset.checked_add(part.bytes.len() as u64) {
        None => wrong("content beyond the end of all blobs"),
        Some(_) if part.bytes.is_empty() => wrong("content without bytes"),
        Some(_) if crc32c::crc32c(&part.bytes) != part.crc32c => wrong("the checksum of content is wrong"),
        Some(_) => Ok(Part { blob: BlobId(part.blob), offset: part.offset, bytes: part.bytes }),
    };
    let parts = request.parts.into_iter().map(part).collect::<Result<_>>()?;
    Ok((parts, request.durable.into_iter().map(BlobId).collect()))
}

fn check_content(parts: usize, bytes: usize, durable: usize) -> Result<()> {
    limit(parts, MAX_ITEMS, "parts of content")?;
    limit(bytes, MAX_BATCH, "bytes of content")?;
    limit(durable, MAX_BLOBS, "blobs")
}

pub(super) fn blobs(blobs: &[u64]) -> Result<Vec<BlobId>> {
    limit(blobs.len(), MAX_BLOBS, "blobs")?;
    Ok(blobs.iter().map(|blob| BlobId(*blob)).collect())
}

pub(super) fn to_kept(kept: &[Ranges]) -> Vec<proto::KeptBlob> {
    let bounds = |ranges: &Ranges| ranges.iter().flat_map(|(start, end)| [start, end]).collect();
    kept.iter().map(|ranges| proto::KeptBlob { bounds: bounds(ranges) }).collect()
}

pub(super) fn kept(blobs: Vec<proto::KeptBlob>) -> Result<Vec<Ranges>> {
    limit(blobs.len(), MAX_BLOBS, "blobs")?;
    let ranges = |kept: proto::KeptBlob| {
        let mut ranges = Ranges::default();
        for bounds in kept.bounds.chunks(2) {
            match bounds {
                [start, end] if start < end => ranges.add(*start, *end),
                _ => return wrong("what is kept of a blob is no list of ranges"),
            }
        }
        Ok(ranges)
    };
    blobs.into_iter().map(ranges).collect()
}

pub(super) fn to_inodes(inodes: &[Ino]) -> Vec<u64> {
    inodes.iter().map(|ino| ino.0).collect()
}

pub(super) fn openings(openings: Vec<u64>) -> Result<Vec<u64>> {
    limit(openings.len(), MAX_OPENINGS, "openings")?;
    if openings.is_empty() { wrong("no opening") } else { Ok(openings) }
}

pub(super) fn inodes(inodes: Vec<u64>) -> Result<Vec<Ino>> {
    limit(inodes.len(), MAX_INODES, "inodes")?;
    match inodes.iter().find(|ino| **ino == 0 || **ino > Ino::MAX.0) {
        Some(ino) => wrong(format!("{ino} is no inode")),
        None => Ok(inodes.into_iter().map(Ino).collect()),
    }
}

pub(super) fn to_proposals(zone: ZoneId, proposals: Vec<Proposal>) -> Result<proto::ProposeRequest> {
    check_batch(proposals.len(), proposals.iter().map(|proposal| proposal.bytes.len()).sum())?;
    let proposal = |proposal: Proposal| proto::Proposal {
        bytes: proposal.bytes,
        deadline_ms: u32::try_from(proposal.deadline.as_millis()).unwrap_or(u32::MAX),
    };
    let proposals = proposals.into_iter().map(proposal).collect();
    Ok(proto::ProposeRequest { header: to_header(zone), proposals })
}

pub(super) fn proposals(request: proto::ProposeRequest) -> Result<Vec<Proposal>> {
    check_batch(request.proposals.len(), request.proposals.iter().map(|proposal| proposal.bytes.len()).sum())?;
    let proposal = |proposal: proto::Proposal| match proposal.bytes.is_empty() {
        true => wrong("a proposal is empty"),
        false => {
            Ok(Proposal { bytes: proposal.bytes, deadline: Duration::from_millis(u64::from(proposal.deadline_ms)) })
        }
    };
    request.proposals.into_iter().map(proposal).collect()
}

fn check_batch(items: usize, bytes: usize) -> Result<()> {
    if items == 0 {
        return wrong("a batch without proposals");
    }
    limit(items, MAX_ITEMS, "proposals")?;
    limit(bytes, MAX_BATCH, "bytes of proposals")
}

pub(super) fn to_refusal(refusal: Refusal) -> std::result::Result<proto::Refusal, Refusal> {
    use proto::refusal::Reason;
    let reason = match refusal {
        Refusal::NotLeader { leader, addresses } => {
            Reason::NotLeader(proto::NotLeader { leader: leader.map(|leader| leader.0), addresses })
        }
        Refusal::Unavailable(text) => Reason::Unavailable(text),
        other => return Err(other),
    };
    Ok(proto::Refusal { reason: Some(reason) })
}

pub(super) fn refusal(refusal: proto::Refusal) -> Result<Refusal> {
    use proto::refusal::Reason;
    Ok(match need(refusal.reason, "the reason")? {
        Reason::NotLeader(not) => {
            Refusal::NotLeader { leader: not.leader.map(MemberId), addresses: addresses(not.addresses)? }
        }
        Reason::Unavailable(text) => {
            limit(text.len(), MAX_TEXT, "bytes of a reason")?;
            Refusal::Unavailable(text)
        }
    })
}

pub(super) fn to_blob_range(zone: ZoneId, range: BlobRange) -> proto::FetchBlobRequest {
    proto::FetchBlobRequest { header: to_header(zone), blob: range.blob.0, offset: range.offset, len: range.len }
}

pub(super) fn blob_range(request: &proto::FetchBlobRequest) -> Result<BlobRange> {
    let range = BlobRange { blob: BlobId(request.blob), offset: request.offset, len: request.len };
    if !range.blob.is_some() {
        return wrong("the blob is missing");
    }
    match range.offset.checked_add(range.len) {
        Some(_) => Ok(range),
        None => wrong("the range ends beyond all numbers"),
    }
}

pub(super) fn to_join(zone: ZoneId, request: JoinRequest) -> proto::JoinRequest {
    proto::JoinRequest {
        header: to_header(zone),
        token: Bytes::copy_from_slice(&request.token.0),
        csr: request.csr,
        member: Some(proto::Member {
            name: request.member.name,
            addresses: request.member.addresses,
            witness: request.member.witness,
            writer: request.member.writer,
        }),
        commands: u32::from(request.commands),
    }
}

pub(super) fn join(request: proto::JoinRequest) -> Result<JoinRequest> {
    limit(request.csr.len(), MAX_DER, "bytes of a signing request")?;
    let member = need(request.member, "the member")?;
    let listens = addresses(member.addresses)?;
    if listens.is_empty() {
        return wrong("the member has no address");
    }
    Ok(JoinRequest {
        token: Token(fixed(&request.token, "the token")?),
        csr: request.csr,
        member: Member {
            name: name(member.name, "the member's name")?,
            addresses: listens,
            writer: member.writer,
            witness: member.witness,
        },
        commands: match request.commands {
            0 => BEFORE_ANNOUNCEMENTS,
            version => u8::try_from(version).map_err(|_| Malformed("a version above 255".into()))?,
        },
    })
}

pub(super) fn to_joined(joined: Joined) -> proto::Joined {
    proto::Joined {
        certificate: joined.certificate,
        ca: joined.ca,
        zone: Bytes::copy_from_slice(&joined.zone.0),
        zone_name: joined.zone_name,
        membership: joined.membership,
        member_id: joined.member.0,
    }
}

pub(super) fn joined(joined: proto::Joined) -> Result<Joined> {
    limit(joined.certificate.len(), MAX_DER, "bytes of a certificate")?;
    limit(joined.ca.len(), MAX_DER, "bytes of the CA's certificate")?;
    limit(joined.membership.len(), MAX_MEMBERSHIP, "bytes of membership")?;
    Ok(Joined {
        certificate: joined.certificate,
        ca: joined.ca,
        zone: zone(&joined.zone)?,
        zone_name: name(joined.zone_name, "the zone's name")?,
        membership: joined.membership,
        member: MemberId(joined.member_id),
    })
}

pub(super) fn ttl(request: &proto::InviteRequest) -> Result<Duration> {
    match request.ttl_s {
        0 => wrong("an invitation that never holds"),
        seconds => Ok(Duration::from_secs(u64::from(seconds))),
    }
}

pub(super) fn child(request: &proto::InviteRequest) -> Result<Option<ZoneId>> {
    (!request.child.is_empty()).then(|| zone(&request.child)).transpose()
}

pub(super) fn to_child(child: Option<ZoneId>) -> Bytes {
    child.map_or_else(Bytes::new, |child| Bytes::copy_from_slice(&child.0))
}

pub(super) fn invite(text: &str) -> Result<Invite> {
    Invite::parse_any_age(text).map_err(|error| Malformed(error.to_string()))
}

pub(super) fn components(components: Vec<Bytes>) -> Result<Vec<Vec<u8>>> {
    limit(components.len(), MAX_COMPONENTS, "names")?;
    let component = |bytes: Bytes| match Name::new(&bytes) {
        Ok(name) => Ok(name.as_bytes().to_vec()),
        Err(error) => wrong(format!("a name of the path: {error}")),
    };
    components.into_iter().map(component).collect()
}

pub(super) fn to_resolved(resolved: Resolved) -> proto::ResolveReply {
    use proto::resolve_reply::Outcome;
    let address = |zone: ZoneAddress| proto::ZoneAddress {
        zone: Bytes::copy_from_slice(&zone.zone.0),
        addresses: zone.addresses,
        ca_fingerprint: Bytes::copy_from_slice(&zone.ca.0),
    };
    let outcome = match resolved {
        Resolved::Here(zone) => Outcome::Here(address(zone)),
        Resolved::Mount { depth, zone } => Outcome::Mount(proto::MountPoint {
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            zone: Some(address(zone)),
        }),
    };
    proto::ResolveReply { outcome: Some(outcome) }
}

/// The answer to a question for `asked` names.
pub(super) fn resolved(reply: proto::ResolveReply, asked: usize) -> Result<Resolved> {
    use proto::resolve_reply::Outcome;
    let address = |address: proto::ZoneAddress| {
        Ok(ZoneAddress {
            zone: zone(&address.zone)?,
            addresses: addresses(address.addresses)?,
            ca: Fingerprint(fixed(&address.ca_fingerprint, "the CA's fingerprint")?),
        })
    };
    Ok(match need(reply.outcome, "the outcome")? {
        Outcome::Here(zone) => Resolved::Here(address(zone)?),
        Outcome::Mount(mount) => match usize::try_from(mount.depth) {
            Ok(depth) if (1..=asked).contains(&depth) => {
                Resolved::Mount { depth, zone: address(need(mount.zone, "the mounted zone")?)? }
            }
            _ => return wrong(format!("a mount point at depth {} of {asked}", mount.depth)),
        },
    })
}

fn addresses(addresses: Vec<String>) -> Result<Vec<String>> {
    limit(addresses.len(), MAX_ADDRESSES, "addresses")?;
    match addresses.iter().find(|address| !check_address(address)) {
        Some(_) => wrong("an address is not HOST:PORT"),
        None => Ok(addresses),
    }
}

fn name(name: String, what: &str) -> Result<String> {
    match check_name(&name) {
        true => Ok(name),
        false => wrong(format!("{what} is empty, too long, or has control characters")),
    }
}
