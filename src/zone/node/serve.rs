//! What this node answers to others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexus_kernel::command::known_version;
use nexus_kernel::model::{self, LockSession, keys};
use nexus_kernel::scan::find_blob;
use nexus_kernel::{BlobId, Command, Error, Ino, Interest, Result, Table, Zone};

use super::ZoneNode;
use super::joined::JoinedZone;
use super::links::Frames;
use super::orphans;
use super::records::{
    CA_KEY, InviteRecord, MemberRecord, invite_key, is_member, member_key, pin_key, read, witness_invite_key,
};
use super::steward::JOINING;
use crate::mirror::{Part, Ranges};
use crate::net::{
    self, Answer, BlobRange, BoxStream, Caller, Fingerprint, Guard, Invite, JoinRequest, Joined, Peer, Proposal,
    Resolved, SnapshotHead, ZoneAddress, ZoneCa, ZoneId,
};
use crate::raft::{self, Mark, MemberId, Position, ProcessId, RestOffer, Vote, WITNESS_VERSION, version_key};

/// Bytes of a blob that are read and sent at a time.
const PIECE: u64 = 256 << 10;

pub(super) fn refused(error: &Error) -> net::Refusal {
    match error {
        Error::NotFound => net::Refusal::NotFound("there is no such thing here".into()),
        Error::Invalid => net::Refusal::Invalid("the request makes no sense".into()),
        other => net::Refusal::Unavailable(other.to_string()),
    }
}

impl ZoneNode {
    fn asked(&self, zone: ZoneId) -> std::result::Result<Arc<JoinedZone>, net::Refusal> {
        self.zone(zone).ok_or_else(|| net::Refusal::NotFound("this node takes no part in the zone".into()))
    }

    fn not_leader(joined: &JoinedZone, refusal: &raft::Refusal) -> net::Refusal {
        match refusal {
            raft::Refusal::NotLeader(leader) => {
                let membership = joined.zone().group().status().membership;
                let about = leader.and_then(|leader| membership.members.get(&leader).cloned());
                let addresses = about.map(|about| about.addresses).unwrap_or_default();
                net::Refusal::NotLeader { leader: *leader, addresses }
            }
            raft::Refusal::Unclear(text) => net::Refusal::Unavailable(text.clone()),
        }
    }
}

impl Guard for ZoneNode {
    fn is_member(&self, caller: &Caller) -> bool {
        let Some(joined) = self.zone(caller.zone) else { return false };
        joined.admissions().admits(joined.zone().replica(), caller, || {
            let (mut known, mut any) = (false, false);
            joined.zone().read(&mut |state| {
                let own = member_key(joined.member());
                any = (joined.is_witness() || state.zone_info()?.is_some())
                    && read::<MemberRecord>(state, &own)?.is_some();
                known = is_member(state, caller.member, &caller.certificate, &caller.key)?;
                Ok(())
            })?;
            // Before the first state has come, the CA's word has to do: it signs members alone.
            Ok(known || !any)
        })
    }
}

impl Peer for ZoneNode {
    fn vote(&self, caller: Caller, request: net::VoteRequest) -> Answer<'_, net::VoteReply> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let net::VoteRequest { vote, last, is_pre_vote, is_transfer } = request;
            let request = raft::VoteRequest { vote, last, pre: is_pre_vote, transfer: is_transfer };
            let reply = joined.zone().group().on_vote(request).await.map_err(|error| refused(&error))?;
            Ok(net::VoteReply { vote: reply.vote, granted: reply.granted, last: reply.last })
        })
    }

    fn transfer_leader(&self, caller: Caller, request: net::TransferLeader) -> Answer<'_, ()> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let net::TransferLeader { from, to, last } = request;
            if joined.is_witness() && to == joined.member() {
                return Err(net::Refusal::Denied("a witness does not lead".into()));
            }
            let request = raft::TransferLeader { from, to, last };
            match joined.zone().group().on_transfer_leader(request).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(net::Refusal::Unavailable("this member can't lead now".into())),
                Err(error) => Err(refused(&error)),
            }
        })
    }

    fn replicate(
        &self,
        caller: Caller,
        appends: BoxStream<net::Append>,
    ) -> Answer<'_, BoxStream<std::result::Result<net::AppendReply, net::Refusal>>> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let last = Arc::new(parking_lot::Mutex::new(std::collections::VecDeque::new()));
            let noted = last.clone();
            let appends = appends.map(move |append| {
                let net::Append { vote, previous, committed, entries } = append;
                noted.lock().push_back(entries.last().map(|entry| entry.position).or(previous));
                raft::Append { vote, previous, committed, entries }
            });
            let replies = joined.zone().group().on_replicate(appends.boxed());
            let replies = replies.map(move |reply| {
                let sent = last.lock().pop_front().flatten();
                match reply.map_err(|error| refused(&error))? {
                    raft::AppendReply::Matched(at) if at == sent => Ok(net::AppendReply::Success),
                    raft::AppendReply::Matched(at) => Ok(net::AppendReply::Partial(at)),
                    raft::AppendReply::Conflict(_) => Ok(net::AppendReply::Conflict),
                    raft::AppendReply::HigherVote(vote) => Ok(net::AppendReply::HigherVote(vote)),
                }
            });
            Ok(Box::pin(replies) as BoxStream<_>)
        })
    }

    fn install_snapshot(
        &self,
        caller: Caller,
        head: SnapshotHead,
        mut chunks: BoxStream<std::result::Result<Bytes, String>>,
    ) -> Answer<'_, Vote> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            // It has none of the files.
            if joined.is_another_witness(caller.member) {
                return Err(net::Refusal::Denied("a witness has no state to give".into()));
            }
            let mark = Mark::decode(&head.membership).map_err(|error| net::Refusal::Invalid(error.to_string()))?;
            let work = |work: &mut dyn FnMut() -> Result<()>| {
                tokio::task::block_in_place(work).map_err(|error| refused(&error))
            };
            let mut incoming = None;
            work(&mut || {
                incoming = Some(joined.zone().replica().stage()?);
                Ok(())
            })?;
            let mut incoming = incoming.ok_or_else(|| refused(&Error::Invalid))?;
            let mut frames = Frames::default();
            while let Some(chunk) = chunks.next().await {
                frames.feed(&chunk.map_err(net::Refusal::Invalid)?);
                work(&mut || {
                    while let Some(piece) = frames.next()? {
                        incoming.take(&piece)?;
                    }
                    Ok(())
                })?;
            }
            if !frames.is_empty() {
                return Err(net::Refusal::Invalid("the snapshot ends within a piece".into()));
            }
            let staged = tokio::task::block_in_place(|| incoming.finish()).map_err(|error| refused(&error))?;
            joined.zone().group().on_snapshot(head.vote, mark, staged).await.map_err(|error| refused(&error))
        })
    }

    fn held(&self, caller: Caller, inodes: Vec<Ino>, as_of: Option<u64>) -> Answer<'_, Vec<Ino>> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let Some(applied) = as_of else { return Ok(self.parts.listeners.held(joined.index(), &inodes)) };
            tokio::task::block_in_place(|| orphans::in_use(&joined, inodes, applied)).map_err(|error| refused(&error))
        })
    }

    fn keep_content(&self, caller: Caller, parts: Vec<Part>, durable: Vec<BlobId>) -> Answer<'_, ()> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            if joined.is_witness() {
                return Err(net::Refusal::Denied("a witness keeps no content".into()));
            }
            tokio::task::block_in_place(|| {
                let mut blobs = parts.iter().map(|part| part.blob).chain(durable.iter().copied());
                let mut record = None;
                let looked = joined.zone().read(&mut |state| {
                    record = read::<MemberRecord>(state, &member_key(caller.member))?;
                    Ok(())
                });
                looked.map_err(|error| refused(&error))?;
                // A new member's record may not have come yet; the others' blobs are theirs alone.
                if record.is_some_and(|record| blobs.any(|blob| blob.origin().0 != record.writer)) {
                    return Err(net::Refusal::Denied("a member has copies made of its own content alone".into()));
                }
                let bytes: u64 = parts.iter().map(|part| part.bytes.len() as u64).sum();
                let kept = self.parts.content.check_space(bytes);
                let kept = kept.and_then(|()| self.mirror.put(joined.index(), &parts, &durable));
                kept.map_err(|error| refused(&error))
            })
        })
    }

    fn kept_content(&self, caller: Caller, blobs: Vec<BlobId>) -> Answer<'_, Vec<Ranges>> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            tokio::task::block_in_place(|| {
                let kept = blobs.iter().map(|blob| self.mirror.ranges(joined.index(), *blob));
                kept.collect::<Result<Vec<_>>>().map_err(|error| refused(&error))
            })
        })
    }

    fn rest(&self, caller: Caller, offer: RestOffer) -> Answer<'_, Option<ProcessId>> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            if offer.vote.candidate != caller.member {
                return Err(net::Refusal::Denied("a member asks others to rest under itself alone".into()));
            }
            Ok(joined.zone().group().on_rest(&offer).then_some(self.process))
        })
    }

    fn greet(&self, caller: Caller, openings: Vec<u64>) -> Answer<'_, bool> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            self.greeted.goes_on(&joined, caller.member, &openings).map_err(|error| refused(&error))
        })
    }

    fn alive(&self, _caller: Caller, alive: net::Alive) -> Answer<'_, Vec<ZoneId>> {
        Box::pin(async move { Ok(self.heard(&alive)) })
    }

    fn propose(&self, caller: Caller, proposals: Vec<Proposal>) -> Answer<'_, Position> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let mut last = Position::default();
            for proposal in proposals {
                let batch =
                    raft::Batch::decode(&proposal.bytes).map_err(|error| net::Refusal::Invalid(error.to_string()))?;
                if batch.member != caller.member {
                    return Err(net::Refusal::Denied("a member proposes for itself alone".into()));
                }
                let proposed = joined.zone().group().propose(proposal.bytes).await;
                last = proposed.map_err(|refusal| Self::not_leader(&joined, &refusal))?;
            }
            Ok(last)
        })
    }

    fn read_index(&self, caller: Caller) -> Answer<'_, u64> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let index = joined.zone().group().read_index().await;
            index.map_err(|refusal| Self::not_leader(&joined, &refusal))
        })
    }

    fn pledge(&self, caller: Caller) -> Answer<'_, (u64, bool)> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let pledge = joined.zone().group().pledge(caller.member).await;
            pledge.map_err(|refusal| Self::not_leader(&joined, &refusal))
        })
    }

    fn renew_locks(&self, caller: Caller, session: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            let session = LockSession { member: caller.member.0, number: session };
            match joined.leases().hear(session).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(net::Refusal::Denied("the locks of this session are over".into())),
                Err(refusal) => Err(Self::not_leader(&joined, &refusal)),
            }
        })
    }

    fn fetch_blob(
        &self,
        caller: Caller,
        range: BlobRange,
    ) -> Answer<'_, BoxStream<std::result::Result<Bytes, net::Refusal>>> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            // Of this zone's content, and no other's.
            if find_blob(&**joined.zone(), range.blob).map_err(|error| refused(&error))?.is_none() {
                return Err(net::Refusal::NotFound("the zone has no such blob".into()));
            }
            let (content, mirror) = (self.parts.content.clone(), self.mirror.clone());
            let end = range.offset.saturating_add(range.len);
            let pieces = stream::unfold(Some(range.offset), move |at| {
                let (content, mirror) = (content.clone(), mirror.clone());
                async move {
                    let at = at.filter(|at| *at < end)?;
                    let len = PIECE.min(end - at);
                    let read = tokio::task::block_in_place(|| -> Result<Bytes> {
                        let mut bytes = vec![0; len as usize];
                        match content.read(range.blob, at, &mut bytes) {
                            Err(Error::NotFound) if mirror.read(range.blob, at, &mut bytes)? => {}
                            other => other?,
                        }
                        Ok(Bytes::from(bytes))
                    });
                    match read {
                        Ok(bytes) => Some((Ok(bytes), Some(at + len))),
                        Err(error) => Some((Err(refused(&error)), None)),
                    }
                }
            });
            Ok(Box::pin(pieces) as BoxStream<_>)
        })
    }

    fn join(&self, zone: ZoneId, request: JoinRequest) -> Answer<'_, Joined> {
        Box::pin(async move {
            let joined = self.asked(zone)?;
            tokio::task::block_in_place(|| self.let_in(&joined, &request))
        })
    }

    fn invite(&self, caller: Caller, child: Option<ZoneId>, ttl: Duration) -> Answer<'_, Invite> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            tokio::task::block_in_place(|| match child {
                None => ZoneNode::invite(self, &joined, ttl).map_err(|error| refused(&error)),
                Some(child) => self.invite_to_child(&joined, child, ttl),
            })
        })
    }

    fn query(&self, caller: Caller, at_least: u64, query: net::Query) -> Answer<'_, net::QueryAnswer> {
        Box::pin(async move {
            let joined = self.asked(caller.zone)?;
            tokio::task::block_in_place(|| joined.query(at_least, &query))
        })
    }

    fn watch(
        &self,
        caller: Caller,
        from: Option<u64>,
    ) -> Answer<'_, BoxStream<std::result::Result<net::WatchEvent, net::Refusal>>> {
        Box::pin(async move {
            let events = self.asked(caller.zone)?.watch(from)?;
            Ok(Box::pin(events.map(Ok)) as BoxStream<_>)
        })
    }

    fn resolve(&self, zone: ZoneId, _components: Vec<Vec<u8>>) -> Answer<'_, Resolved> {
        Box::pin(async move {
            let joined = self.asked(zone)?;
            let ca = Fingerprint::of(joined.identity().ca());
            Ok(Resolved::Here(ZoneAddress { zone, addresses: self.addresses(), ca }))
        })
    }
}

impl ZoneNode {
    /// Makes whoever has a token that was not used yet a member, to be taken in by the leader.
    fn let_in(&self, joined: &JoinedZone, request: &JoinRequest) -> std::result::Result<Joined, net::Refusal> {
        let denied = |why: &str| net::Refusal::Denied(why.to_owned());
        let failed = |error: Error| refused(&error);
        let zone = joined.zone();
        zone.be_current(Interest::Anything).map_err(failed)?;
        let key = invite_key(&request.token.hash());
        let only_witness = witness_invite_key(&request.token.hash());
        let (mut invite, mut ca, mut clash, mut is_for_witness) = (None, None, false, false);
        zone.read(&mut |state| {
            invite = state.get(Table::Sys, &keys::sys(&key))?;
            ca = read::<String>(state, CA_KEY)?;
            is_for_witness = state.get(Table::Sys, &keys::sys(&only_witness))?.is_some();
            Ok(())
        })
        .map_err(failed)?;
        let invite = invite.ok_or_else(|| denied("the invitation is not known: it was used, or taken back"))?;
        let record: InviteRecord = model::decode("invitation", &invite).map_err(failed)?;
        let now = self.parts.clock.now().sec;
        if u64::try_from(now).unwrap_or(0) >= record.expires_s {
            return Err(denied("the invitation has expired"));
        }
        let membership = zone.group().status().membership;
        for member in membership.members.values() {
            clash |= member.writer == request.member.writer;
        }
        if clash {
            return Err(denied("a member of the zone already has the data folder that this node's was copied from"));
        }
        if is_for_witness && !request.member.witness {
            return Err(denied("the invitation is for a witness: `nexus-fuse join INVITATION --witness`"));
        }
        if request.member.witness && zone.replica().commands() < WITNESS_VERSION {
            return Err(denied("members of the zone do not know witnesses yet: upgrade them first"));
        }
        let used = zone.replica().commands().min(known_version());
        if request.commands < used {
            return Err(denied(&format!(
                "the zone uses commands of version {used}, and that node's build knows no newer than {}: it must be \
                 upgraded first",
                request.commands
            )));
        }
        let ca = ca.ok_or_else(|| refused(&Error::NotFound))?;
        let ca = ZoneCa::from_pem(&ca).map_err(|error| net::Refusal::Unavailable(error.to_string()))?;
        let id = MemberId(u64::from_be_bytes(super::random().map_err(failed)?));
        let certificate =
            ca.sign(&request.csr, id, &*self.parts.clock).map_err(|error| net::Refusal::Invalid(error.to_string()))?;
        // Works once: of two that come with it at the same time, one is refused here.
        let used = Command::CompareSys { key, expect: Some(invite.to_vec()), value: None };
        zone.propose(&used).map_err(|error| match error {
            Error::Conflict => denied("the invitation was used already"),
            other => refused(&other),
        })?;
        if is_for_witness {
            zone.propose(&Command::SetSys { key: only_witness, value: None }).map_err(failed)?;
        }
        let record = MemberRecord {
            certificate: Fingerprint::of(&certificate).0,
            writer: request.member.writer,
            name: request.member.name.clone(),
        };
        let shown =
            net::PeerCertificate::parse(&certificate).map_err(|error| net::Refusal::Invalid(error.to_string()))?;
        let settings = [
            (version_key(id), model::encode(&request.commands).map_err(failed)?),
            (pin_key(id), model::encode(&shown.key.0).map_err(failed)?),
            (member_key(id), model::encode(&record).map_err(failed)?),
            (format!("{JOINING}{id}"), model::encode(&request.member).map_err(failed)?),
        ];
        for (key, value) in settings {
            zone.propose(&Command::SetSys { key, value: Some(value.to_vec()) }).map_err(failed)?;
        }
        let membership = model::encode(&membership).map_err(failed)?;
        Ok(Joined {
            certificate: certificate.into(),
            ca: Bytes::copy_from_slice(joined.identity().ca()),
            zone: joined.id(),
            zone_name: joined.name().to_owned(),
            membership,
            member: id,
        })
    }
}
