//! [`JoinedZone`]: a zone that this node takes part in.

use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::zone::ZoneStats;
use nexus_kernel::{Command, Error, Result, Zone, ZoneIndex};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::admissions::Admissions;
use super::copies::{CopyParts, ZoneCopies, encode_replicas};
use super::files::ZoneFiles;
use super::leases::{self, LeaseParts, Leases};
use super::links::ClientLinks;
use super::records::REPLICAS_KEY;
use super::watch::{Hub, Overheard};
use super::{Listeners, ZoneNode};
use super::{orphans, recopy, renewal, steward, versions};
use crate::mirror::MirrorStore;
use crate::net::{NodeIdentity, NodeKey, ZoneId};
use crate::raft::{
    Consensus, Group, GroupLog, GroupStatus, LogStore, Member, MemberId, RaftParts, RaftZone, Replica, Role,
};

/// How long a leader waits for another to take over.
const HAND_ON: Duration = Duration::from_secs(10);

/// A zone that this node takes part in.
pub struct JoinedZone {
    index: ZoneIndex,
    id: ZoneId,
    name: String,
    member: MemberId,
    is_witness: bool,
    zone: Arc<RaftZone>,
    log: Arc<GroupLog>,
    links: Arc<ClientLinks>,
    copies: Arc<ZoneCopies>,
    admissions: Admissions,
    leases: Arc<Leases>,
    openings: Vec<u64>,
    hub: Arc<Hub>,
    mirror: Arc<MirrorStore>,
    runtime: Handle,
    listeners: Arc<dyn Listeners>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A member, as another sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub id: MemberId,
    /// What the others know of it.
    pub about: Member,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Up to which index it has the log; known where the leader is asked.
    pub matched: Option<u64>,
}

/// How a zone is, from one of its members.
#[derive(Clone, Debug)]
pub struct ZoneReport {
    /// Its place on this node.
    pub index: ZoneIndex,
    /// Which zone.
    pub id: ZoneId,
    /// What people call it.
    pub name: String,
    /// This node as a member.
    pub member: MemberId,
    /// Its group, as this member sees it.
    pub group: GroupStatus,
    /// Its members.
    pub members: Vec<MemberStatus>,
    /// Whether a majority is known to be there: of the leader itself, or of a member that
    /// knows a leader.
    pub has_quorum: bool,
    /// Its log and metastore here.
    pub stats: ZoneStats,
    /// Bytes of entries that are kept for the others.
    pub log_bytes: u64,
    /// On how many nodes each byte of content is to be.
    pub replicas: u32,
    /// The newest version of commands that all members know.
    pub commands: u8,
    /// Whether members of the zones that it stands in may join without an invitation.
    pub open: bool,
    /// Bytes that this node has written and of which there are too few copies, as of the last look.
    pub lacking_bytes: u64,
    /// Bytes of copies that this node keeps for others.
    pub mirror_bytes: u64,
}

impl JoinedZone {
    /// Opens a zone. To be called within the runtime.
    pub(super) async fn open(
        node: &ZoneNode,
        index: ZoneIndex,
        files: &ZoneFiles,
        log: Arc<GroupLog>,
    ) -> Result<JoinedZone> {
        let parts = &node.parts;
        let record = &files.record;
        let bad =
            |error: crate::net::PkiError| Error::Corrupt(format!("the certificate for zone {}: {error}", record.name));
        let key = NodeKey::from_pem(&files.key).map_err(bad)?;
        let (metastore, metastores) = parts.metastores.open(index)?;
        parts.log.activate()?;
        let session = node.session()?;
        let hub = Hub::new();
        let listener = Arc::new(Overheard { listener: parts.listeners.listener(index), hub: hub.clone() });
        let replica = Replica::open(record.member, session, metastore, metastores, listener, parts.replica.clone())?;
        let is_witness = record.about.witness;
        let replica = Arc::new(if is_witness { replica.of_witness() } else { replica });
        hub.begin(replica.applied());
        if replica.mark().applied < log.state().purged {
            return Err(Error::Corrupt(format!(
                "the metastore of zone {} (meta/zone-{index}-*.redb) is missing, or older than the log",
                record.name
            )));
        }
        let identity = renewal::at_opening(node, index, files, &key, &replica).map_err(bad)?;
        let links = Arc::new(ClientLinks::new(identity, parts.clock.clone(), node.handle.clone()));
        let openings = node.folder.open_anew(index, u64::from_be_bytes(super::random()?))?;
        let membership = replica.mark().membership;
        node.greeted.greet(&links, &membership, (record.member, &record.about), &openings).await?;
        let group = Group::start(replica.clone(), LogStore(log.clone()), links.clone(), &parts.group).await?;
        let group: Arc<dyn Consensus> = Arc::new(group);
        let copies = CopyParts {
            replica: replica.clone(),
            group: group.clone(),
            links: links.clone(),
            content: parts.content.clone(),
            patience: parts.zone.patience.clone(),
        };
        let copies = Arc::new(ZoneCopies::start(copies, node.handle.clone()));
        let leases = Arc::new(Leases::new(LeaseParts {
            replica: replica.clone(),
            group: group.clone(),
            links: links.clone(),
            runtime: node.handle.clone(),
        }));
        let raft = RaftParts {
            replica,
            group,
            links: links.clone(),
            content: parts.content.clone(),
            copies: copies.clone(),
            clock: parts.clock.clone(),
            runtime: node.handle.clone(),
        };
        let zone = Arc::new(RaftZone::new(raft, parts.zone.clone())?);
        zone.hold_locks_by(leases.clone());
        Ok(JoinedZone {
            index,
            id: record.zone(),
            name: record.name.clone(),
            member: record.member,
            is_witness,
            zone,
            log,
            links,
            copies,
            admissions: Admissions::default(),
            leases,
            openings,
            hub,
            mirror: node.mirror.clone(),
            runtime: node.handle.clone(),
            listeners: parts.listeners.clone(),
            tasks: Mutex::default(),
        })
    }

    /// Has tasks look after members that come and go, after the log, and after copies of content.
    pub(super) fn look_after(self: &Arc<JoinedZone>, node: &ZoneNode) {
        self.tasks.lock().extend([
            self.runtime.spawn(steward::run(Arc::downgrade(self))),
            self.runtime.spawn(renewal::run(Arc::downgrade(self), renewal::Renewal::new(node))),
            self.runtime.spawn(versions::run(Arc::downgrade(self))),
        ]);
        if self.is_witness {
            // It has neither files nor locks nor content to look after.
            return;
        }
        let recopier = recopy::run(Arc::downgrade(self), node.mirror.clone(), node.parts.writer);
        let leases = leases::run(Arc::downgrade(self));
        let orphans = orphans::run(Arc::downgrade(self));
        self.tasks.lock().extend([
            self.runtime.spawn(recopier),
            self.runtime.spawn(leases),
            self.runtime.spawn(orphans),
        ]);
    }

    /// Its newest changes.
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Copies of its content on other members.
    pub(super) fn copies(&self) -> &Arc<ZoneCopies> {
        &self.copies
    }

    /// Numbers of the times that this node's folder has opened the zone, the newest last.
    pub(super) fn openings(&self) -> &[u64] {
        &self.openings
    }

    /// Who was found to be a member.
    pub(super) fn admissions(&self) -> &Admissions {
        &self.admissions
    }

    /// Sessions by which locks are held.
    pub(super) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Waits for an answer. To be called by no task.
    pub(super) fn block_on<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    /// On how many nodes each byte of content is to be.
    pub fn replicas(&self) -> u32 {
        u32::try_from(self.copies.wanted()).unwrap_or(u32::MAX)
    }

    /// Asks for content to be on so many nodes from now on, what there is already as well.
    pub fn set_replicas(&self, replicas: u32) -> Result<()> {
        let value = Some(encode_replicas(replicas)?);
        self.zone.propose(&Command::SetSys { key: REPLICAS_KEY.to_owned(), value }).map(drop)
    }

    /// Its place in this node's mount table.
    pub fn index(&self) -> ZoneIndex {
        self.index
    }

    /// Which zone.
    pub fn id(&self) -> ZoneId {
        self.id
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This node as a member.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Whether this node only votes here, and has none of the files.
    pub fn is_witness(&self) -> bool {
        self.is_witness
    }

    /// Whether a member is a witness.
    pub(super) fn is_another_witness(&self, id: MemberId) -> bool {
        self.zone.group().status().membership.members.get(&id).is_some_and(|about| about.witness)
    }

    /// This node's certificate.
    pub fn identity(&self) -> NodeIdentity {
        self.links.identity()
    }

    /// The zone.
    pub fn zone(&self) -> &Arc<RaftZone> {
        &self.zone
    }

    /// Its log on this node.
    pub(super) fn log(&self) -> &Arc<GroupLog> {
        &self.log
    }

    /// Who looks after the rest of this node.
    pub(super) fn listeners(&self) -> &Arc<dyn Listeners> {
        &self.listeners
    }

    /// Ways to its members.
    pub(super) fn links(&self) -> &Arc<ClientLinks> {
        &self.links
    }

    /// Whether this node votes by now.
    pub fn has_vote(&self) -> bool {
        let membership = self.zone.group().status().membership;
        membership.voters.iter().any(|voters| voters.contains(&self.member))
    }

    /// How it is.
    pub fn report(&self) -> Result<ZoneReport> {
        let group = self.zone.group().status();
        let members = group.membership.members.iter().map(|(id, about)| MemberStatus {
            id: *id,
            about: about.clone(),
            votes: group.membership.voters.iter().any(|voters| voters.contains(id)),
            leads: group.leader == Some(*id),
            matched: group.matched.iter().find(|(other, _)| other == id).and_then(|(_, at)| at.map(|at| at.index)),
        });
        let silent = group.quorum_silent.is_some_and(|time| time > Duration::from_secs(3));
        Ok(ZoneReport {
            index: self.index,
            id: self.id,
            name: self.name.clone(),
            member: self.member,
            members: members.collect(),
            has_quorum: group.leader.is_some() && !silent && group.role != Role::Candidate,
            stats: self.zone.stats()?,
            log_bytes: self.log.bytes() as u64,
            replicas: self.replicas(),
            open: self.is_open()?,
            commands: self.zone.replica().commands(),
            lacking_bytes: self.copies.lacking(),
            mirror_bytes: self.mirror.bytes(self.index),
            group,
        })
    }

    /// Has another member lead; any that votes and has the files.
    pub(super) fn hand_on(&self, runtime: &Handle) -> Result<()> {
        let status = self.zone.group().status();
        let other = status.membership.another_keeper(self.member);
        let Some(other) = other else { return Ok(()) };
        runtime.block_on(async {
            self.zone.group().transfer(other).await?;
            match self.zone.group().other_leader(Some(self.member), HAND_ON).await {
                Some(_) => Ok(()),
                None => Err(Error::Unavailable("no other member has taken over as leader; try again".into())),
            }
        })
    }

    /// Ends it on this node.
    pub(super) fn close(&self) -> Result<()> {
        self.leases.end();
        self.hub.close();
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.zone.close()
    }
}
