//! This node's part in replicated zones: founding them, taking others in, joining, leaving, and
//! answering the other members.

mod admissions;
mod closed;
mod content;
mod copies;
mod ending;
mod files;
mod joined;
mod leases;
mod links;
mod open;
mod openings;
mod orphans;
mod pulse;
mod recopy;
mod records;
mod recover;
mod renewal;
mod serve;
mod steward;
mod stored;
mod versions;
mod watch;
mod witness;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nexus_kernel::command::known_version;
use nexus_kernel::disk::Disk;
use nexus_kernel::{Clock, Command, ContentStore, Error, Ino, Interest, Metastore, Result, Zone, ZoneIndex};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Runtime;

use crate::log::NodeLog;
use crate::mirror::MirrorStore;
use crate::net::{
    Fingerprint, Invite, JoinClient, Limits, NodeKey, Server, ServerParts, Timing, Token, ZoneCa, ZoneId, Zones,
};
use crate::raft::{
    Flusher, GroupConfig, GroupLog, Listener, Member, MemberId, Metastores, ProcessId, RaftZoneConfig, ReplicaConfig,
    Role, WITNESS_VERSION, version_key,
};

use files::{ZoneFolder, ZoneRecord};
use records::{CA_KEY, InviteRecord, MemberRecord, NAME_KEY, invite_key, member_key, pin_key, witness_invite_key};

pub use crate::net::{NamedChange, WatchEvent};
pub use closed::ClosedZone;
pub use content::SharedContent;
pub use files::ZoneFiles;
pub use joined::{JoinedZone, MemberStatus, ZoneReport};
pub use recover::{NoRecovery, RecoveryPlan, plan as plan_recovery};
pub use stored::{StoredZone, stored_zones};

/// Most threads of the runtime, which wait for the network more than they work; and the fewest, so that
/// one is left where another can't be interrupted. Beyond the number of processors, they only wake each other.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;
/// How long a new member may take to get the zone's state and a vote.
const CATCH_UP: Duration = Duration::from_secs(600);
/// Inodes of which one question asks whether they are open.
const MOST_ASKED: usize = 65_536;
/// How long the answer to a join may take.
const JOIN: Duration = Duration::from_secs(30);

/// Opens the metastores of zones.
pub trait ZoneMetastores: Send + Sync {
    /// The metastore of a zone, made if it is new, and who replaces it.
    fn open(&self, index: ZoneIndex) -> Result<(Arc<dyn Metastore>, Arc<dyn Metastores>)>;

    /// Deletes a zone's metastore.
    fn remove(&self, index: ZoneIndex) -> Result<()>;
}

/// Hears what other nodes change.
pub trait Listeners: Send + Sync {
    /// Who is told of changes in a zone.
    fn listener(&self, index: ZoneIndex) -> Arc<dyn Listener>;

    /// Takes over what a zone's files have in blobs of another writer, so that it is not lost
    /// with that. To be called by no task.
    fn adopt(&self, index: ZoneIndex, writer: u32) -> Result<()>;

    /// Which of these inodes are open on this node.
    fn held(&self, index: ZoneIndex, inodes: &[Ino]) -> Vec<Ino>;

    /// Which of these inodes programs on this node use in any way; `None` if it can't be told in that
    /// time. Of one without a name, no use begins anew.
    fn in_use(&self, index: ZoneIndex, inodes: &[Ino], at_most: Duration) -> Option<Vec<Ino>>;
}

/// What a node works with.
pub struct NodeParts {
    /// Where it keeps who it is in each zone.
    pub folder: PathBuf,
    /// Where it keeps copies of others' content.
    pub mirror: PathBuf,
    /// The disk below `mirror`.
    pub disk: Arc<dyn Disk>,
    /// The node's log.
    pub log: Arc<NodeLog>,
    /// Its content.
    pub content: Arc<dyn ContentStore>,
    /// Its part of blob ids.
    pub writer: u32,
    /// What people call it.
    pub name: String,
    /// Metastores for zones.
    pub metastores: Arc<dyn ZoneMetastores>,
    /// Who hears of changes.
    pub listeners: Arc<dyn Listeners>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Memory of each zone.
    pub replica: ReplicaConfig,
    /// Patience of each zone.
    pub zone: RaftZoneConfig,
    /// Times of each group.
    pub group: GroupConfig,
}

/// What a new zone's root is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewRoot {
    /// Seed of the positions of names.
    pub hash_seed: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a zone that is to be filled by [`Command::Import`] and then to take the place of a
    /// directory: the zone that this stands in. Until [`ZoneNode::made`], it is among [`ZoneNode::unfinished`].
    pub within: Option<[u8; 16]>,
}

/// A node.
pub struct ZoneNode {
    parts: NodeParts,
    /// This process, to the others.
    process: ProcessId,
    folder: ZoneFolder,
    flusher: Arc<Flusher>,
    mirror: Arc<MirrorStore>,
    zones: RwLock<BTreeMap<ZoneIndex, Arc<JoinedZone>>>,
    closed: RwLock<Vec<ClosedZone>>,
    served: Arc<Zones>,
    server: Mutex<Option<Server>>,
    /// Where others are told to find this node.
    addresses: RwLock<Vec<String>>,
    /// Zones that were opened so far.
    opened: AtomicU32,
    /// The newest openings that other members have told of.
    greeted: openings::Greeted,
    // Last: its threads end when all else is gone.
    runtime: Mutex<Option<Runtime>>,
    handle: tokio::runtime::Handle,
}

impl ZoneNode {
    /// A node whose zones are still closed.
    pub fn new(parts: NodeParts) -> Result<Arc<ZoneNode>> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(processors.clamp(*THREADS.start(), *THREADS.end()))
            .thread_name("nexus-zones")
            .enable_all()
            .build()
            .map_err(|error| Error::from_io("start the threads for zones", &error))?;
        let flusher = Flusher::start(parts.log.clone())?;
        let folder = ZoneFolder::new(parts.folder.clone());
        let indexes: Vec<ZoneIndex> = folder.list()?.into_iter().map(|(index, _)| index).collect();
        let mirror = Arc::new(MirrorStore::open(parts.disk.clone(), parts.mirror.clone(), &indexes)?);
        let handle = runtime.handle().clone();
        let node = Arc::new(ZoneNode {
            process: ProcessId(random()?),
            folder,
            flusher,
            mirror,
            parts,
            zones: RwLock::default(),
            closed: RwLock::default(),
            served: Arc::default(),
            server: Mutex::new(None),
            addresses: RwLock::default(),
            opened: AtomicU32::new(0),
            greeted: Default::default(),
            runtime: Mutex::new(Some(runtime)),
            handle,
        });
        node.handle.spawn(pulse::run(Arc::downgrade(&node)));
        Ok(node)
    }

    /// Opens all zones that this node takes part in; those that can't be are in [`ZoneNode::closed`] then.
    pub fn open(&self) -> Vec<Arc<JoinedZone>> {
        let listed = self.folder.list().unwrap_or_else(|error| {
            self.closed.write().push(ClosedZone::unlisted(&error));
            Vec::new()
        });
        for (index, files) in listed {
            if let Err(error) = files.and_then(|files| self.start(index, &files)) {
                let closed = ClosedZone::new(&self.folder, index, &error);
                log::error!("zone {} can't be opened: {}", closed.title(), closed.why);
                self.closed.write().push(closed);
            }
        }
        self.zones()
    }

    /// Zones that directories were to become when a share was cut short, with the zones that those
    /// directories stand in.
    pub fn unfinished(&self) -> Vec<(Arc<JoinedZone>, [u8; 16])> {
        let zones = self.zones().into_iter();
        zones.filter_map(|joined| self.folder.making(joined.index()).map(|outer| (joined, outer))).collect()
    }

    /// The zone is in its place.
    pub fn made(&self, joined: &JoinedZone) -> Result<()> {
        self.folder.made(joined.index())
    }

    /// Zones that could not be opened.
    pub fn closed(&self) -> Vec<ClosedZone> {
        self.closed.read().clone()
    }

    /// Answers other nodes from now on, at `address`; tells them to come to `advertised`, or,
    /// where that is empty, to where it listens.
    pub fn listen(self: &Arc<ZoneNode>, address: SocketAddr, advertised: Vec<String>) -> Result<SocketAddr> {
        let mut server = self.server.lock();
        if let Some(server) = &*server {
            return Ok(server.address());
        }
        let listener =
            TcpListener::bind(address).map_err(|error| Error::from_io(format_args!("listen at {address}"), &error))?;
        let parts = ServerParts {
            peer: self.clone(),
            guard: self.clone(),
            zones: self.served.clone(),
            clock: self.parts.clock.clone(),
            limits: Limits::default(),
        };
        let started = Server::start(listener, &self.handle, parts)
            .map_err(|error| Error::Io(format!("cannot serve other nodes at {address}: {error}")))?;
        let address = started.address();
        *self.addresses.write() = if advertised.is_empty() { vec![address.to_string()] } else { advertised };
        *server = Some(started);
        Ok(address)
    }

    /// Where it listens, if it does.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.server.lock().as_ref().map(Server::address)
    }

    /// Tells others from now on to come here.
    pub fn advertise(&self, addresses: Vec<String>) {
        *self.addresses.write() = addresses;
    }

    /// Has another member lead a zone. Asked for where this node does not lead, too.
    pub fn transfer(&self, joined: &JoinedZone, to: MemberId) -> Result<()> {
        let group = joined.zone().group();
        let leader = group.status().leader;
        if joined.is_another_witness(to) {
            return Err(witness::no_files("another member must lead"));
        }
        if leader == Some(to) {
            return Ok(());
        }
        if leader != Some(joined.member()) {
            return Err(Error::Unavailable("another node leads the zone: ask there".into()));
        }
        self.handle.block_on(async {
            group.transfer(to).await?;
            match group.other_leader(leader, Duration::from_secs(10)).await {
                Some(_) => Ok(()),
                None => Err(Error::Unavailable("that member has not taken over; is it there?".into())),
            }
        })
    }

    /// Where others are told to find it.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.read().clone()
    }

    /// All zones that are open.
    pub fn zones(&self) -> Vec<Arc<JoinedZone>> {
        self.zones.read().values().cloned().collect()
    }

    /// A zone by its id.
    pub fn zone(&self, id: ZoneId) -> Option<Arc<JoinedZone>> {
        self.zones.read().values().find(|joined| joined.id() == id).cloned()
    }

    fn start(&self, index: ZoneIndex, files: &ZoneFiles) -> Result<Arc<JoinedZone>> {
        self.parts.log.activate()?;
        let log = GroupLog::open(self.flusher.clone(), index)?;
        self.start_with(index, files, Arc::new(log))
    }

    fn start_with(&self, index: ZoneIndex, files: &ZoneFiles, log: Arc<GroupLog>) -> Result<Arc<JoinedZone>> {
        let joined = Arc::new(self.handle.block_on(JoinedZone::open(self, index, files, log))?);
        if let Err(error) = self.served.put(&joined.identity(), &self.parts.clock) {
            joined.close()?;
            return Err(bad_identity(&error));
        }
        self.zones.write().insert(index, joined.clone());
        joined.look_after(self);
        Ok(joined)
    }

    /// A number that rises with each opening of a zone, in this run and from one to the next.
    fn session(&self) -> Result<u64> {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(u64::from(self.parts.log.epoch()?) << 32 | u64::from(opened))
    }

    fn about(&self) -> Member {
        let name = self.parts.name.clone();
        Member { name, addresses: self.addresses(), writer: self.parts.writer, witness: false }
    }

    /// Founds a zone with this node as its only member.
    pub fn found(&self, name: &str, root: NewRoot) -> Result<Arc<JoinedZone>> {
        if self.listening().is_none() {
            return Err(Error::Unavailable("this node does not listen for others".into()));
        }
        let zone = ZoneId(random()?);
        let member = MemberId(u64::from_be_bytes(random()?));
        let clock = &*self.parts.clock;
        let made = || {
            let (ca, key) = (ZoneCa::create(zone, clock)?, NodeKey::create()?);
            let certificate = ca.sign(&key.csr()?, member, clock)?;
            Ok((ca, key, certificate))
        };
        let (ca, key, certificate) = made().map_err(|error| bad_identity(&error))?;
        let about = self.about();
        let record = ZoneRecord { id: zone.0, name: name.to_owned(), member, about: about.clone() };
        let files =
            ZoneFiles { record, ca: ca.certificate().to_vec(), certificate: certificate.clone(), key: key.to_pem() };
        let index = self.folder.next_index()?;
        self.folder.add(index, &files, root.within)?;
        let joined = self.start(index, &files)?;
        self.handle.block_on(joined.zone().group().found(about))?;
        let NewRoot { hash_seed, mode, uid, gid, within } = root;
        let now = joined.zone().now();
        joined.zone().propose(&Command::Format { id: zone.0, hash_seed, mode, uid, gid, now })?;
        let mut settings = vec![
            (CA_KEY.to_owned(), nexus_kernel::model::encode(&ca.to_pem())?.to_vec()),
            (NAME_KEY.to_owned(), nexus_kernel::model::encode(&name.to_owned())?.to_vec()),
            (pin_key(member), nexus_kernel::model::encode(&key.fingerprint().0)?.to_vec()),
            (version_key(member), nexus_kernel::model::encode(&known_version())?.to_vec()),
            (member_key(member), self.member_record(&certificate)?),
        ];
        if within.is_some() {
            settings.push((nexus_kernel::machine::FILLING_KEY.to_owned(), vec![1]));
        }
        for (key, value) in settings {
            joined.zone().propose(&Command::SetSys { key, value: Some(value) })?;
        }
        Ok(joined)
    }

    fn member_record(&self, certificate: &[u8]) -> Result<Vec<u8>> {
        let record = MemberRecord {
            certificate: Fingerprint::of(certificate).0,
            writer: self.parts.writer,
            name: self.parts.name.clone(),
        };
        Ok(nexus_kernel::model::encode(&record)?.to_vec())
    }

    /// An invitation to a zone, for one node, for so long.
    pub fn invite(&self, joined: &JoinedZone, ttl: Duration) -> Result<Invite> {
        let token = Token::create().map_err(|error| Error::Io(error.to_string()))?;
        let now = u64::try_from(self.parts.clock.now().sec).unwrap_or(0);
        let expires_s = now.saturating_add(ttl.as_secs());
        let value = nexus_kernel::model::encode(&InviteRecord { expires_s })?.to_vec();
        joined.zone().propose(&Command::SetSys { key: invite_key(&token.hash()), value: Some(value) })?;
        Ok(Invite {
            addresses: self.addresses(),
            zone: joined.id(),
            zone_name: joined.name().to_owned(),
            ca: Fingerprint::of(joined.identity().ca()),
            token,
            expires_s,
        })
    }

    /// An invitation for a witness alone.
    pub fn invite_witness(&self, joined: &JoinedZone, ttl: Duration) -> Result<Invite> {
        if joined.zone().replica().commands() < WITNESS_VERSION {
            let why = "members of the zone do not know witnesses yet: upgrade them first";
            return Err(Error::Unavailable(why.into()));
        }
        let invite = self.invite(joined, ttl)?;
        let key = witness_invite_key(&invite.token.hash());
        joined.zone().propose(&Command::SetSys { key, value: Some(vec![1]) })?;
        Ok(invite)
    }

    /// Becomes a member of the zone that an invitation is for; done when this node has its state
    /// and a vote.
    pub fn join(&self, invite: &Invite) -> Result<Arc<JoinedZone>> {
        self.join_as(invite, self.about())
    }

    /// The same as a witness, which votes, and has none of the files.
    pub fn witness(&self, invite: &Invite) -> Result<Arc<JoinedZone>> {
        self.join_as(invite, Member { witness: true, ..self.about() })
    }

    fn join_as(&self, invite: &Invite, about: Member) -> Result<Arc<JoinedZone>> {
        if self.zone(invite.zone).is_some() {
            return Err(Error::Exists);
        }
        let clock = self.parts.clock.clone();
        let key = NodeKey::create().map_err(|error| bad_identity(&error))?;
        let client = JoinClient::invited(invite, clock, self.handle.clone(), Timing::default());
        let (answer, _) = self
            .handle
            .block_on(client.join(invite, &key, about.clone(), JOIN))
            .map_err(|error| Error::Unavailable(format!("the zone has not taken this node in: {error}")))?;
        let record = ZoneRecord { id: invite.zone.0, name: answer.zone_name, member: answer.member, about };
        let (certificate, ca) = (answer.certificate.to_vec(), answer.ca.to_vec());
        let files = ZoneFiles { record, ca, certificate, key: key.to_pem() };
        let index = self.folder.next_index()?;
        self.folder.add(index, &files, None)?;
        let joined = self.start(index, &files)?;
        let until = Instant::now() + CATCH_UP;
        while !joined.has_vote() {
            if Instant::now() >= until {
                return Err(Error::Unavailable(
                    "the zone's state has not come yet; joining goes on, see `zone status`".into(),
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        joined.zone().be_current(Interest::Anything)?;
        Ok(joined)
    }

    /// Another member that has one of these files or directories open, as far as they answer.
    pub fn held_elsewhere(&self, joined: &JoinedZone, inodes: &[Ino]) -> Option<String> {
        let members = joined.zone().group().status().membership.members;
        members.iter().filter(|(id, _)| **id != joined.member()).find_map(|(id, about)| {
            let client = joined.links().client(*id, about).ok()?;
            let held = inodes.chunks(MOST_ASKED).any(|inodes| {
                let asked = self.handle.block_on(client.held(inodes, None, JOIN));
                asked.is_ok_and(|held| !held.is_empty())
            });
            held.then(|| about.name.clone())
        })
    }

    /// Takes a member out of a zone: its certificate counts for nothing from then on.
    pub fn remove_member(&self, joined: &JoinedZone, member: MemberId) -> Result<()> {
        leaves_files(joined, member)?;
        steward::ask_to_remove(joined, member, steward::Parting::Removed)
    }

    /// Leaves a zone: the others go on without this node, which forgets all of it.
    pub fn leave(&self, joined: &Arc<JoinedZone>) -> Result<()> {
        let status = joined.zone().group().status();
        if status.membership.members.len() > 1 {
            leaves_files(joined, joined.member())?;
            if status.role == Role::Leader {
                joined.hand_on(&self.handle)?;
            }
            steward::ask_to_remove(joined, joined.member(), steward::Parting::Leaving)?;
        }
        self.forget(joined)
    }

    fn close_one(&self, joined: &Arc<JoinedZone>) -> Result<()> {
        self.served.remove(joined.id());
        self.zones.write().remove(&joined.index());
        joined.close()
    }

    /// Has all who wait for other members give up: this node is about to end.
    pub fn stop_waiting(&self) {
        self.zones().iter().for_each(|joined| {
            joined.leases().end();
            joined.zone().stop_waiting();
        });
    }

    /// Ends all zones on this node in good order.
    pub fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for joined in self.zones() {
            let closed = joined.close();
            if first.is_ok() {
                first = closed;
            }
        }
        if let Some(server) = self.server.lock().take() {
            self.handle.block_on(server.shutdown());
        }
        self.zones.write().clear();
        self.flusher.stop();
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        first
    }
}

impl Drop for ZoneNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// Refuses that a zone is left to witnesses alone.
fn leaves_files(joined: &JoinedZone, member: MemberId) -> Result<()> {
    let membership = joined.zone().group().status().membership;
    let is_keeper = |id: &MemberId| membership.members.get(id).is_some_and(|about| !about.witness);
    match !is_keeper(&member) || membership.members.keys().any(|id| *id != member && is_keeper(id)) {
        true => Ok(()),
        false => Err(Error::Unavailable(
            "only witnesses would be left, which have none of the files: have another member join first, or remove the \
             witnesses, or destroy the zone"
                .into(),
        )),
    }
}

fn bad_identity(error: &crate::net::PkiError) -> Error {
    Error::Io(format!("the certificate of this node: {error}"))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    filled.map_err(|_| Error::Io("there are no random numbers".into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
