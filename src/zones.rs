//! Replicated zones of a volume: their metastores, and what is asked of them.

mod check;
mod closed;
mod hops;
mod life;
mod metastores;
mod missing;
mod places;
mod share;

use std::fs;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nexus_kernel::disk::Disk;
use nexus_kernel::fs::Notice;
use nexus_kernel::metastore::Table;
use nexus_kernel::model::{Blob, BlobState, decode};
use nexus_kernel::{Command, Ino, NexusFs, NodeId, Result as KernelResult, Zone, ZoneIndex};
use nexus_zone::node::{Listeners, NodeParts, ZoneNode, ZoneReport};
use nexus_zone::raft::{Change, GroupConfig, Listener, MemberId, Patience, RaftZoneConfig, ReplicaConfig};
use parking_lot::RwLock;

use crate::boot::{ContentState, Volume};
use crate::error::{Error, Result};

pub(crate) use closed::hold_closed;
pub use life::Unmounted;
pub use metastores::RedbZones;

pub use nexus_zone::net::{Invite, ZoneId};
pub use nexus_zone::node::{
    ClosedZone, JoinedZone, MemberStatus, NamedChange, NoRecovery, RecoveryPlan, WatchEvent, plan_recovery,
};
pub use nexus_zone::raft::{MemberId as ZoneMemberId, Role};

/// Port that a node listens at, if nobody says.
pub const DEFAULT_PORT: u16 = 7420;
/// Part of the memory limit that each zone may take: one in this many.
const MEMORY_PART: u64 = 16;

/// What other nodes change, for whoever shows files to programs.
pub trait Watcher: Send + Sync {
    /// These inodes of a zone were changed by another node.
    fn changed(&self, index: ZoneIndex, inodes: &[Ino]);

    /// Zones were mounted or unmounted by another node.
    fn mounts_changed(&self);
}

/// Brings changes to the watcher that there is.
#[derive(Default)]
pub struct Watch {
    watcher: RwLock<Option<Arc<dyn Watcher>>>,
    fs: OnceLock<Weak<NexusFs>>,
    adopter: RwLock<Option<Adopter>>,
}

/// Takes over a zone's content from the writer that is named.
type Adopter = Arc<dyn Fn(ZoneIndex, u32) -> KernelResult<()> + Send + Sync>;

struct Heard {
    watch: Weak<Watch>,
    index: ZoneIndex,
}

impl Listener for Heard {
    fn applied(&self, change: &Change<'_>) {
        let Some(watch) = self.watch.upgrade() else { return };
        let Change { command, outcome, inodes, ours } = *change;
        if let Some(fs) = watch.fs() {
            fs.noticed(self.index, &Notice { command, outcome, inodes, ours });
        }
        let Some(watcher) = watch.watcher.read().clone().filter(|_| !ours) else { return };
        watcher.changed(self.index, inodes);
        // Settings tell of zones that are to be deleted, too.
        if matches!(
            command,
            Command::MountZone { .. }
                | Command::UnmountZone { .. }
                | Command::MountFilled { .. }
                | Command::SetSys { value: Some(_), .. }
        ) {
            watcher.mounts_changed();
        }
    }

    fn replaced(&self) {
        let Some(watch) = self.watch.upgrade() else { return };
        if let Some(fs) = watch.fs() {
            fs.replaced(self.index);
        }
        let watcher = watch.watcher.read().clone();
        if let Some(watcher) = watcher {
            watcher.mounts_changed();
        }
    }

    fn lost(&self, ino: Ino) {
        if let Some(fs) = self.watch.upgrade().and_then(|watch| watch.fs()) {
            fs.writes_lost(self.index, ino);
        }
    }
}

/// The watch as the zones see it.
pub struct Hearing(pub Arc<Watch>);

impl Listeners for Hearing {
    fn listener(&self, index: ZoneIndex) -> Arc<dyn Listener> {
        Arc::new(Heard { watch: Arc::downgrade(&self.0), index })
    }

    fn adopt(&self, index: ZoneIndex, writer: u32) -> KernelResult<()> {
        let adopter = self.0.adopter.read().clone();
        adopter.map_or(Ok(()), |adopter| adopter(index, writer))
    }

    fn held(&self, index: ZoneIndex, inodes: &[Ino]) -> Vec<Ino> {
        let fs = self.0.fs();
        let is_open = |ino: &&Ino| fs.as_ref().is_some_and(|fs| fs.is_open(NodeId::new(index, **ino)));
        inodes.iter().filter(is_open).copied().collect()
    }

    fn in_use(&self, index: ZoneIndex, inodes: &[Ino], at_most: Duration) -> Option<Vec<Ino>> {
        self.0.fs().map_or_else(|| Some(Vec::new()), |fs| fs.in_use(index, inodes, at_most))
    }
}

impl Watch {
    fn fs(&self) -> Option<Arc<NexusFs>> {
        self.fs.get().and_then(Weak::upgrade)
    }

    /// Says who takes content over.
    pub(crate) fn adopt_with(&self, adopter: Adopter) {
        *self.adopter.write() = Some(adopter);
    }

    /// Says whose files are open.
    pub fn of(&self, fs: &Arc<NexusFs>) {
        let _ = self.fs.set(Arc::downgrade(fs));
    }
}

/// Whether the volume at `path` takes part in zones.
pub fn has_zones(path: &Path) -> bool {
    fs::read_dir(path.join("zones")).is_ok_and(|mut entries| entries.next().is_some())
}

impl Volume {
    /// Has a watcher told of what other nodes change.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        *self.watch.watcher.write() = Some(watcher);
    }

    /// Has changes of zones wait so long for a majority of the members, from now on.
    pub fn set_zone_timeout(&self, wait: Duration) {
        self.patience.set(wait);
    }

    /// This node's part in zones, begun if there is none yet.
    pub fn node(&self) -> Result<Arc<ZoneNode>> {
        let mut node = self.node.lock();
        if let Some(node) = &*node {
            return Ok(node.clone());
        }
        let made = self.make_node().map_err(|error| self.failed("take part in zones with", error))?;
        *node = Some(made.clone());
        Ok(made)
    }

    /// This node's part in zones, if it takes any.
    pub fn node_if_any(&self) -> Option<Arc<ZoneNode>> {
        self.node.lock().clone()
    }

    pub(crate) fn make_node(&self) -> KernelResult<Arc<ZoneNode>> {
        make_node(
            self.path(),
            &NodeMakings {
                log: self.log.clone(),
                content: self.content.clone(),
                shared: self.shared.clone(),
                writer: self.identity().writer,
                memory: self.config.memory,
                name: self.config.node_name(),
                watch: self.watch.clone(),
                clock: self.clock.clone(),
                patience: self.patience.clone(),
            },
        )
    }

    /// Answers other nodes from now on; see [`ZoneNode::listen`].
    pub fn listen(&self, address: SocketAddr, advertised: Vec<String>) -> Result<SocketAddr> {
        let node = self.node()?;
        node.listen(address, advertised).map_err(|error| self.failed("listen for other nodes with", error))
    }

    /// A zone that this node takes part in, by its name or the beginning of its id.
    pub fn zone_named(&self, name: &str) -> Result<Arc<JoinedZone>> {
        let zones = self.node_if_any().map(|node| node.zones()).unwrap_or_default();
        let matches = |joined: &&Arc<JoinedZone>| {
            joined.name() == name || (name.len() >= 4 && joined.id().to_string().starts_with(name))
        };
        let found: Vec<_> = zones.iter().filter(matches).collect();
        let problem = match found.as_slice() {
            [one] => return Ok(Arc::clone(one)),
            [] => "this node takes part in no zone of that name: see `nexus-fuse zone ls`",
            _ => "there are several zones of that name: give the beginning of the id instead",
        };
        Err(Error::Setting { place: format!("zone {name}"), problem: problem.to_owned() })
    }

    /// An invitation to a zone, as text.
    pub fn invite(&self, joined: &JoinedZone, ttl: Duration) -> Result<String> {
        let invite = self.node()?.invite(joined, ttl).map_err(|error| self.failed("invite to a zone of", error))?;
        invite.to_text().map_err(|error| Error::Setting { place: "--listen".to_owned(), problem: error.to_string() })
    }

    /// An invitation for a witness, as text.
    pub fn invite_witness(&self, joined: &JoinedZone, ttl: Duration) -> Result<String> {
        let invite = self.node()?.invite_witness(joined, ttl);
        let invite = invite.map_err(|error| self.failed("invite to a zone of", error))?;
        invite.to_text().map_err(|error| Error::Setting { place: "--listen".to_owned(), problem: error.to_string() })
    }

    /// How the zones are.
    pub fn zone_reports(&self) -> Vec<ZoneReport> {
        let zones = self.node_if_any().map(|node| node.zones()).unwrap_or_default();
        zones.iter().filter_map(|joined| joined.report().ok()).collect()
    }

    /// Takes a member out of a zone.
    pub fn remove_member(&self, joined: &JoinedZone, member: MemberId) -> Result<()> {
        self.node()?.remove_member(joined, member).map_err(|error| self.failed("remove a member from a zone of", error))
    }

    /// Leaves a zone. It must be mounted nowhere any more.
    pub fn leave_zone(&self, joined: &Arc<JoinedZone>) -> Result<()> {
        let failed = |error| self.failed("leave a zone with", error);
        if joined.is_witness() {
            return self.node()?.leave(joined).map_err(failed);
        }
        let dynamic: Arc<dyn Zone> = joined.zone().clone();
        let detached = self.fs.router().detach(joined.index()).map_err(failed)?;
        if let Err(error) = self.node()?.leave(joined) {
            // It is a member as before.
            self.fs.attach_at(joined.index(), detached).map_err(failed)?;
            return Err(failed(error));
        }
        self.zones.remove(&dynamic);
        // Nothing stands behind these any more; they become directories again.
        for place in self.fs.zone_mounts(ZoneIndex(0)).map_err(failed)? {
            if place.target.zone == joined.id().0 {
                let (parent, name) = self.fs.place_of(place.node).map_err(failed)?;
                self.fs.unmount_zone(parent, &name).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// What a node is made of, from the composition root's view.
pub(crate) struct NodeMakings {
    pub log: Arc<nexus_zone::NodeLog>,
    pub content: Arc<nexus_content::SegmentStore>,
    pub shared: Arc<nexus_zone::node::SharedContent>,
    pub writer: u32,
    pub memory: u64,
    pub name: String,
    pub watch: Arc<Watch>,
    pub clock: Arc<dyn nexus_kernel::Clock>,
    pub patience: Arc<Patience>,
}

/// Makes a node for the volume at `path`; its zones are still closed.
pub(crate) fn make_node(path: &Path, makings: &NodeMakings) -> KernelResult<Arc<ZoneNode>> {
    let share = makings.memory / MEMORY_PART;
    let disk: Arc<dyn Disk> = Arc::new(nexus_drivers::disk::RealDisk::new());
    let node = ZoneNode::new(NodeParts {
        folder: path.join("zones"),
        mirror: path.join("mirror"),
        disk: disk.clone(),
        log: makings.log.clone(),
        content: makings.content.clone(),
        writer: makings.writer,
        name: makings.name.clone(),
        metastores: Arc::new(RedbZones::new(disk, path.join("meta"), share / 2)),
        listeners: Arc::new(Hearing(makings.watch.clone())),
        clock: makings.clock.clone(),
        replica: ReplicaConfig { memtable_bytes: share / 4, cache_bytes: share / 4 },
        zone: RaftZoneConfig { patience: makings.patience.clone(), ..RaftZoneConfig::default() },
        group: GroupConfig::default(),
    })?;
    makings.shared.connect(&node);
    Ok(node)
}

/// Adds a zone's blobs to `content`.
pub(crate) fn count_content(zone: &dyn Zone, content: &mut ContentState) -> KernelResult<()> {
    zone.read(&mut |state| {
        let mut bad = None;
        state.scan(Table::Blob, &[], &[0xff; 9], &mut |_, value| match decode::<Blob>("blob", value) {
            Ok(blob) => {
                let (count, bytes) = match blob.state {
                    BlobState::Open => (&mut content.segments, &mut content.segment_bytes),
                    BlobState::Sealed => (&mut content.blobs, &mut content.blob_bytes),
                };
                *count += 1;
                *bytes = bytes.saturating_add(blob.len);
                content.live_bytes = content.live_bytes.saturating_add(blob.live);
                ControlFlow::Continue(())
            }
            Err(error) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
        })?;
        bad.map_or(Ok(()), Err)
    })
}
