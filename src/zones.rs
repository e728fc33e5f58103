//! Replicated zones of a volume: their metastores, and what is asked of them.

mod closed;

use std::fs;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_kernel::disk::Disk;
use nexus_kernel::failpoint::reach;
use nexus_kernel::metastore::Table;
use nexus_kernel::model::{Blob, BlobState, MountTarget, decode};
use nexus_kernel::{Command, Ino, Metastore, NexusFs, NodeId, Result as KernelResult, Zone, ZoneIndex};
use nexus_zone::node::{Listeners, NewRoot, NodeParts, ZoneMetastores, ZoneNode, ZoneReport};
use nexus_zone::raft::{GroupConfig, Listener, MemberId, Metastores, RaftZoneConfig, ReplicaConfig};
use nexus_zone::{ExportError, export};
use parking_lot::RwLock;

use crate::boot::{ContentState, Volume};
use crate::error::{Error, Result};

pub(crate) use closed::hold_closed;

pub use nexus_zone::net::{Invite, ZoneId};
pub use nexus_zone::node::{ClosedZone, JoinedZone, MemberStatus};
pub use nexus_zone::raft::{MemberId as ZoneMemberId, Role};

/// Port that a node listens at, if nobody says.
pub const DEFAULT_PORT: u16 = 7420;
/// Part of the memory limit that each zone may take: one in this many.
const MEMORY_PART: u64 = 16;

/// Metastores of zones: `zone-<index>-<generation>.redb` in the folder of metastores, of which
/// `zone-<index>.current` says which counts.
pub struct RedbZones {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cache_bytes: usize,
}

impl RedbZones {
    /// In `folder`, each with a cache of that size.
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf, cache_bytes: u64) -> RedbZones {
        RedbZones { disk, folder, cache_bytes: usize::try_from(cache_bytes).unwrap_or(usize::MAX) }
    }

    fn slot(&self, index: ZoneIndex) -> Slot {
        let RedbZones { disk, folder, cache_bytes } = self;
        Slot { disk: disk.clone(), folder: folder.clone(), cache_bytes: *cache_bytes, index }
    }
}

/// One zone's files.
struct Slot {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cache_bytes: usize,
    index: ZoneIndex,
}

impl Slot {
    fn current_path(&self) -> PathBuf {
        self.folder.join(format!("zone-{}.current", self.index))
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("zone-{}-{generation}.redb", self.index))
    }

    fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> nexus_kernel::Error {
        let what = format!("write {}", path.display());
        move |error| nexus_kernel::Error::from_io(what, &error)
    }

    fn generation(&self) -> KernelResult<u64> {
        let path = self.current_path();
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| nexus_kernel::Error::Corrupt(format!("{} is no number", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(nexus_kernel::Error::from_io(format_args!("read {}", path.display()), &error)),
        }
    }

    fn open(&self, generation: u64) -> KernelResult<Arc<dyn Metastore>> {
        self.disk.create_dir_all(&self.folder)?;
        let options = RedbOptions { cache_bytes: self.cache_bytes, ..RedbOptions::default() };
        Ok(Arc::new(RedbMetastore::open_or_create(self.disk.clone(), &self.path(generation), options)?))
    }

    fn remove(&self, generation: u64) -> KernelResult<()> {
        match self.disk.remove(&self.path(generation)) {
            Err(nexus_kernel::Error::NotFound) => Ok(()),
            other => other,
        }
    }
}

impl Metastores for Slot {
    fn stage(&self) -> KernelResult<Arc<dyn Metastore>> {
        let next = self.generation()? + 1;
        self.remove(next)?;
        self.open(next)
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> KernelResult<()> {
        let (old, path) = (self.generation()?, self.current_path());
        let new = path.with_extension("new");
        let written = fs::write(&new, format!("{}\n", old + 1)).and_then(|()| fs::File::open(&new)?.sync_all());
        written.and_then(|()| fs::rename(&new, &path)).map_err(Self::failed(&path))?;
        self.disk.sync_dir(&self.folder)?;
        self.remove(old)
    }
}

impl ZoneMetastores for RedbZones {
    fn open(&self, index: ZoneIndex) -> KernelResult<(Arc<dyn Metastore>, Arc<dyn Metastores>)> {
        let slot = self.slot(index);
        let metastore = slot.open(slot.generation()?)?;
        Ok((metastore, Arc::new(slot)))
    }

    fn remove(&self, index: ZoneIndex) -> KernelResult<()> {
        let slot = self.slot(index);
        let generation = slot.generation()?;
        slot.remove(generation)?;
        slot.remove(generation + 1)?;
        match fs::remove_file(slot.current_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Self::gone(&error)),
            _ => Ok(()),
        }
    }
}

impl RedbZones {
    fn gone(error: &std::io::Error) -> nexus_kernel::Error {
        nexus_kernel::Error::from_io("remove a zone's metastore", error)
    }
}

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
    fn applied(&self, command: &Command, inodes: &[Ino]) {
        let Some(watcher) = self.watch.upgrade().and_then(|watch| watch.watcher.read().clone()) else { return };
        watcher.changed(self.index, inodes);
        if matches!(command, Command::MountZone { .. } | Command::UnmountZone { .. }) {
            watcher.mounts_changed();
        }
    }

    fn replaced(&self) {
        if let Some(watcher) = self.watch.upgrade().and_then(|watch| watch.watcher.read().clone()) {
            watcher.mounts_changed();
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
        let fs = self.0.fs.get().and_then(Weak::upgrade);
        let is_open = |ino: &&Ino| fs.as_ref().is_some_and(|fs| fs.is_open(NodeId::new(index, **ino)));
        inodes.iter().filter(is_open).copied().collect()
    }
}

impl Watch {
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
            },
        )
    }

    /// Answers other nodes from now on; see [`ZoneNode::listen`].
    pub fn listen(&self, address: SocketAddr, advertised: Vec<String>) -> Result<SocketAddr> {
        let node = self.node()?;
        node.listen(address, advertised).map_err(|error| self.failed("listen for other nodes with", error))
    }

    /// Makes the directory `dir`, with all that is in it, a zone of its own.
    pub fn share(&self, dir: NodeId, name: &str) -> Result<Arc<JoinedZone>> {
        let refused = |problem: String| Error::Setting { place: name.to_owned(), problem };
        let failed = |error| self.failed("share a directory of", error);
        if dir.zone() != ZoneIndex(0) || dir.ino() == Ino::ROOT {
            return Err(refused(
                "only a directory of this volume itself, below its root, can be shared; in a zone, make an empty \
                 directory and mount a new zone there (`nexus-fuse zone create`, `zone mount`)"
                    .to_owned(),
            ));
        }
        let (parent, entry) = self.fs.place_of(dir).map_err(failed)?;
        let inode = self.fs.getattr(dir).map_err(failed)?.inode;
        let info = self.root.info();
        let root = NewRoot {
            hash_seed: info.hash_seed,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            within: Some(info.id),
        };
        let node = self.node()?;
        let joined = node.found(name, root).map_err(failed)?;
        // Before files of the zone refer to content, so that none of it is taken for garbage.
        self.zones.add(joined.zone().clone());
        let zone = joined.zone().clone();
        let mut linked = None;
        let shared = self.root.propose_alone(|| {
            let mut exported = Ok(Default::default());
            self.root.read(&mut |state| {
                exported = export(state, dir.ino(), &mut |pairs| {
                    zone.propose(&Command::Import { pairs, done: false }).map(drop)
                });
                Ok(())
            })?;
            match exported {
                Ok(_) => {}
                Err(ExportError::Failed(error)) => return Err(error),
                Err(ExportError::Linked { name, .. }) => {
                    linked = Some(String::from_utf8_lossy(&name).into_owned());
                    return Err(nexus_kernel::Error::TooManyLinks);
                }
            }
            zone.propose(&Command::Import { pairs: Vec::new(), done: true })?;
            reach("share.filled");
            let target = MountTarget { zone: joined.id().0, name: name.to_owned(), addresses: node.addresses() };
            Ok(Command::MountZone {
                parent: parent.ino(),
                name: entry.as_ref().into(),
                replace: true,
                target: nexus_kernel::model::encode(&target)?.to_vec(),
                now: self.root.now(),
            })
        });
        if let Err(error) = shared {
            let dynamic: Arc<dyn Zone> = joined.zone().clone();
            self.zones.remove(&dynamic);
            if let Err(error) = node.leave(&joined) {
                log::warn!("what was made of the zone can't be removed: {error}");
            }
            return Err(match linked {
                Some(file) => refused(format!(
                    "{file:?} has another name outside of the directory (a hard link), which a zone can't have: \
                     remove one of the two first"
                )),
                None => failed(error),
            });
        }
        self.root.sync().map_err(failed)?;
        reach("share.mounted");
        node.made(&joined).map_err(failed)?;
        self.fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed)?;
        if let Err(error) = self.fs.empty_detached(ZoneIndex(0)) {
            log::warn!("what was shared is not removed from its old place yet: {error}");
        }
        Ok(joined)
    }

    /// Joins the zone of an invitation, and mounts it on the empty directory `dir`.
    pub fn join(&self, invite: &Invite, dir: NodeId) -> Result<Arc<JoinedZone>> {
        let failed = |error| self.failed("join a zone with", error);
        let (parent, entry) = self.fs.place_of(dir).map_err(failed)?;
        let node = self.node()?;
        let joined = match node.zone(invite.zone) {
            Some(joined) => joined,
            None => {
                let joined = node.join(invite).map_err(failed)?;
                self.zones.add(joined.zone().clone());
                self.fs.attach_at(joined.index(), joined.zone().clone()).map_err(failed)?;
                joined
            }
        };
        let target =
            MountTarget { zone: invite.zone.0, name: joined.name().to_owned(), addresses: invite.addresses.clone() };
        self.fs.mount_zone(parent, &entry, &target).map_err(failed)?;
        Ok(joined)
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
        let dynamic: Arc<dyn Zone> = joined.zone().clone();
        self.fs.router().detach(joined.index()).map_err(failed)?;
        self.node()?.leave(joined).map_err(failed)?;
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
        zone: RaftZoneConfig::default(),
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
