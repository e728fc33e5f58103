//! Zones in the mounted tree: each is a mount of its own, over the directory that its entry
//! stands in, so that the kernel treats its files as those of a file system that others
//! change too, while all else stays as fast as what this mount alone changes.

mod asks;
mod audit;
mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus::Volume;
use nexus::zones::{DEFAULT_PORT, Role, Watcher, ZoneId};
use nexus_fuse_transport::{Choice, Transport};
use nexus_kernel::model::MountTarget;
use nexus_kernel::{Ino, NodeId, ZoneIndex};
use parking_lot::{Condvar, Mutex};

use crate::adapter::Coherence;
use crate::control::{ClosedView, ElsewhereView, ZoneMember, ZoneView};
use crate::mount::{self, MountOptions, MountSpec, Mounted, Unmount, ZONE_TYPE};

/// Zones within zones that are mounted at the most.
const DEEPEST: usize = 32;

/// How often it is looked for what shares that were cut short have left.
const MEND: Duration = Duration::from_secs(10);

/// The zones of a daemon's mount.
pub struct ZoneMounts {
    volume: Arc<Volume>,
    root: PathBuf,
    /// Whether the mount shows the volume's root.
    whole: bool,
    source: String,
    options: MountOptions,
    mounted: Mutex<BTreeMap<PathBuf, (ZoneIndex, Mounted)>>,
    /// Zones that it was told of how to join them.
    told: Mutex<BTreeSet<ElsewhereView>>,
    /// Zones that other members have destroyed, and since when this node knows.
    ended: Mutex<BTreeMap<[u8; 16], Instant>>,
    stale: Mutex<Stale>,
    changed: Condvar,
}

/// Where a zone stands in the mount.
struct Place {
    path: PathBuf,
    /// The directory below it.
    node: NodeId,
    target: MountTarget,
    /// Its place on this node, if that takes part in it.
    joined: Option<ZoneIndex>,
}

#[derive(Default)]
struct Stale {
    is_stale: bool,
    suspended: bool,
    stopping: bool,
}

/// Has the mounts brought up to date when another node mounts zones.
struct Alarm(std::sync::Weak<ZoneMounts>);

impl Watcher for Alarm {
    fn changed(&self, _index: ZoneIndex, _inodes: &[Ino]) {}

    fn mounts_changed(&self) {
        if let Some(mounts) = self.0.upgrade() {
            mounts.stale.lock().is_stale = true;
            mounts.changed.notify_all();
        }
    }
}

impl ZoneMounts {
    /// For a volume that is mounted; nothing is mounted in it yet.
    pub fn new(volume: Arc<Volume>, mounted: &Mounted, options: &MountOptions) -> Arc<ZoneMounts> {
        let kept = MountOptions {
            allow_other: options.allow_other,
            read_only: options.read_only,
            atime: options.atime,
            // Calls wait for other nodes, which must not hold up those behind them.
            transport: Some(Choice::Only(Transport::Device)),
            nonempty: true,
            ..MountOptions::default()
        };
        let mounts = Arc::new(ZoneMounts {
            volume: volume.clone(),
            root: mounted.target().to_owned(),
            whole: options.subdir.is_none(),
            source: mounted.source().to_owned(),
            options: kept,
            mounted: Mutex::default(),
            told: Mutex::default(),
            ended: Mutex::default(),
            stale: Mutex::default(),
            changed: Condvar::new(),
        });
        if let Some(timeout) = options.zone_timeout {
            volume.set_zone_timeout(timeout);
        }
        volume.watch(Arc::new(Alarm(Arc::downgrade(&mounts))));
        mounts
    }

    /// Listens as the options say, or as it did last, and mounts what is to be there.
    pub fn begin(self: &Arc<ZoneMounts>, options: &MountOptions) -> Result<(), String> {
        if let Some(address) = options.listen {
            self.listen(address, options.advertise.clone())?;
        } else if let Some((address, advertised)) = self.remembered() {
            // Members must be found where the others know them.
            if let Err(problem) = self.listen(address, advertised) {
                log::error!("{problem}; other nodes can't reach this one");
            }
        }
        self.volume.mend_shares();
        self.refresh();
        let mounts = Arc::downgrade(self);
        let mut next_mend = Instant::now() + MEND;
        let spawned = std::thread::Builder::new().name("zone-mounts".into()).spawn(move || {
            while let Some(mounts) = mounts.upgrade() {
                let mut stale = mounts.stale.lock();
                if !stale.is_stale && !stale.stopping {
                    mounts.changed.wait_for(&mut stale, Duration::from_secs(1));
                }
                if stale.stopping {
                    return;
                }
                let wanted = std::mem::take(&mut stale.is_stale) && !stale.suspended;
                drop(stale);
                if Instant::now() >= next_mend {
                    mounts.volume.mend_shares();
                    mounts.volume.mend_missing();
                    next_mend = Instant::now() + MEND;
                }
                if wanted {
                    mounts.refresh();
                }
                mounts.end_zones();
            }
        });
        spawned.map(drop).map_err(|error| format!("cannot look after zones: {error}"))
    }

    fn memory(&self) -> PathBuf {
        self.volume.path().join("zones").join("listen")
    }

    fn remembered(&self) -> Option<(SocketAddr, Vec<String>)> {
        let text = std::fs::read_to_string(self.memory()).ok()?;
        let mut lines = text.lines();
        let address = lines.next()?.parse().ok()?;
        Some((address, lines.map(str::to_owned).collect()))
    }

    fn listen(&self, address: SocketAddr, advertised: Vec<String>) -> Result<(), String> {
        let bound = self.volume.listen(address, Vec::new()).map_err(|error| error.to_string())?;
        let advertised = if advertised.is_empty() { reachable(bound) } else { advertised };
        let node = self.volume.node().map_err(|error| error.to_string())?;
        node.advertise(advertised.clone());
        log::info!("listening for other nodes at {bound}, told to come to {}", advertised.join(", "));
        let kept = SocketAddr::new(address.ip(), bound.port());
        let lines: Vec<String> = std::iter::once(kept.to_string()).chain(advertised).collect();
        let folder = self.volume.path().join("zones");
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(self.memory(), format!("{}\n", lines.join("\n"))));
        written.map_err(|error| format!("{} can't be written: {error}", self.memory().display()))
    }

    /// Listens somewhere, if it does not yet: who makes or joins a zone asks for it.
    fn ensure_listening(&self) -> Result<(), String> {
        if self.volume.node_if_any().is_some_and(|node| node.listening().is_some()) {
            return Ok(());
        }
        let any = |port| SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port);
        // Another daemon of this machine may have the usual port.
        self.listen(any(DEFAULT_PORT), Vec::new()).or_else(|_| self.listen(any(0), Vec::new()))
    }

    /// Places where zones stand, outer ones first.
    fn survey(&self) -> Vec<Place> {
        let mut found = Vec::new();
        if !self.whole {
            return found;
        }
        let node = self.volume.node_if_any();
        let mut ahead = vec![(self.root.clone(), ZoneIndex(0), vec![ZoneIndex(0)])];
        while let Some((base, index, above)) = ahead.pop() {
            let mounts = self.volume.fs().zone_mounts(index).unwrap_or_else(|error| {
                log::warn!("what is mounted in zone {index} can't be told: {error}");
                Vec::new()
            });
            for place in mounts {
                let names = place.path.iter().map(|name| OsStr::from_bytes(name));
                let path = names.fold(base.clone(), |path, name| path.join(name));
                let joined = node.as_ref().and_then(|node| node.zone(ZoneId(place.target.zone)));
                let joined = joined.map(|joined| joined.index());
                found.push(Place { path: path.clone(), node: place.node, target: place.target, joined });
                // A zone within itself would have no end.
                if let Some(joined) = joined
                    && !above.contains(&joined)
                    && above.len() <= DEEPEST
                {
                    let above = above.iter().copied().chain([joined]).collect();
                    ahead.push((path, joined, above));
                }
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found
    }

    /// Zones that stand in the mount, and that this node takes no part in.
    pub fn elsewhere(&self) -> Vec<ElsewhereView> {
        self.not_joined(&self.survey())
    }

    fn not_joined(&self, places: &[Place]) -> Vec<ElsewhereView> {
        let closed: Vec<ZoneId> = self.volume.closed_zones().into_iter().filter_map(|zone| zone.id).collect();
        let not_joined = places.iter().filter(|place| place.joined.is_none());
        let open = not_joined.filter(|place| !closed.contains(&ZoneId(place.target.zone)));
        let view = |place: &Place| ElsewhereView {
            path: place.path.clone(),
            name: place.target.name.clone(),
            id: ZoneId(place.target.zone).to_string(),
            addresses: place.target.addresses.clone(),
        };
        open.map(view).collect()
    }

    /// Mounts what is to be there and is not, and takes away what is not to be there any more.
    pub fn refresh(&self) {
        let places = self.survey();
        let elsewhere: BTreeSet<ElsewhereView> = self.not_joined(&places).into_iter().collect();
        let wanted = places.into_iter().filter_map(|place| Some((place.path, place.joined?)));
        let wanted: Vec<(PathBuf, ZoneIndex)> = wanted.collect();
        let mut told = self.told.lock();
        for zone in elsewhere.difference(&told) {
            log::info!("{}", zone.advice());
        }
        *told = elsewhere;
        drop(told);
        let mut mounted = self.mounted.lock();
        let keep: BTreeSet<_> = wanted.iter().cloned().collect();
        let gone: Vec<PathBuf> = mounted
            .iter()
            .filter(|(path, (index, mount))| !keep.contains(&((*path).clone(), *index)) || !mount.is_served())
            .map(|(path, _)| path.clone())
            .collect();
        // What is mounted below goes with it, and comes again if it is still wanted.
        let below = |path: &PathBuf| gone.iter().any(|gone| path.starts_with(gone));
        let gone: Vec<PathBuf> = mounted.keys().filter(|path| below(path)).cloned().collect();
        let mut lost = BTreeSet::new();
        for path in gone.into_iter().rev() {
            lost.extend(mounted.remove(&path).map(|(index, _)| index));
        }
        for (path, index) in wanted {
            lost.remove(&index);
            self.put_up(&mut mounted, path, index);
        }
        drop(mounted);
        lost.into_iter().for_each(|index| self.lost_its_place(index));
    }

    /// A zone that another member of the one around it has unmounted is not to be forgotten.
    fn lost_its_place(&self, index: ZoneIndex) {
        let joined =
            self.volume.node_if_any().and_then(|node| node.zones().into_iter().find(|joined| joined.index() == index));
        let Some(joined) = joined else { return };
        if self.stale.lock().suspended || !matches!(self.volume.stands_somewhere(&joined), Ok(false)) {
            return;
        }
        match self.volume.put_in_trash(&joined) {
            Ok(()) => log::info!("zone {} stands nowhere any more: it is in the trash", joined.name()),
            Err(error) => log::warn!("{error}"),
        }
    }

    fn put_up(&self, mounted: &mut BTreeMap<PathBuf, (ZoneIndex, Mounted)>, path: PathBuf, index: ZoneIndex) {
        if mounted.contains_key(&path) {
            return;
        }
        let spec = MountSpec {
            source: self.source.clone(),
            target: path.clone(),
            options: self.options.clone(),
            coherence: Coherence::Shared,
            fs_type: ZONE_TYPE,
        };
        match mount::serve(spec, self.volume.fs().clone(), NodeId::new(index, Ino::ROOT)) {
            Ok(mount) => {
                log::info!("zone {index} is mounted at {}", path.display());
                mounted.insert(path, (index, mount));
            }
            Err(error) => log::warn!("zone {index} can't be mounted: {error}"),
        }
    }

    /// Mounts a zone over a directory that it is about to take the place of, so that there is no
    /// moment at which programs find neither.
    fn show(&self, dir: NodeId, index: ZoneIndex) {
        let bases = match dir.zone() {
            ZoneIndex(0) if self.whole => vec![self.root.clone()],
            ZoneIndex(0) => Vec::new(),
            outer => self.places(outer),
        };
        match self.volume.fs().path_in_zone(dir) {
            Ok(names) => {
                let mut mounted = self.mounted.lock();
                for base in bases {
                    let names = names.iter().map(|name| OsStr::from_bytes(name));
                    let path = names.fold(base, |path, name| path.join(name));
                    // What is mounted below would be hidden with the directory.
                    let below: Vec<PathBuf> =
                        mounted.keys().filter(|other| other.starts_with(&path)).cloned().collect();
                    let below: Vec<_> = below
                        .into_iter()
                        .rev()
                        .filter_map(|path| mounted.remove(&path).map(|(index, _)| (path, index)))
                        .collect();
                    self.put_up(&mut mounted, path, index);
                    for (path, index) in below.into_iter().rev() {
                        self.put_up(&mut mounted, path, index);
                    }
                }
            }
            Err(error) => log::warn!("zone {index} is not mounted yet: {error}"),
        }
    }

    /// Unmounts all zones, inner ones first, for the mount around them is to go.
    pub fn suspend(&self, how: Unmount) -> Result<(), String> {
        self.stale.lock().suspended = true;
        let mut mounted = self.mounted.lock();
        while let Some((path, (index, mount))) = mounted.pop_last() {
            if let Err(error) = mount.unmount(how) {
                mounted.insert(path, (index, mount));
                drop(mounted);
                self.resume();
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Mounts them again.
    pub fn resume(&self) {
        self.stale.lock().suspended = false;
        self.refresh();
    }

    /// Ends looking after them.
    pub fn stop(&self) {
        self.stale.lock().stopping = true;
        self.changed.notify_all();
    }

    fn places(&self, index: ZoneIndex) -> Vec<PathBuf> {
        let mounted = self.mounted.lock();
        mounted.iter().filter(|(_, (other, _))| *other == index).map(|(path, _)| path.clone()).collect()
    }

    fn trashed_since(&self, index: ZoneIndex) -> Option<i64> {
        let node = self.volume.node_if_any()?;
        let joined = node.zones().into_iter().find(|joined| joined.index() == index)?;
        self.volume.trashed_since(&joined)
    }

    fn closed(&self) -> Vec<ClosedView> {
        let closed = self.volume.closed_zones().into_iter();
        let view = |zone: nexus::zones::ClosedZone| ClosedView {
            name: zone.title(),
            id: zone.id.map(|id| id.to_string()),
            why: zone.why,
        };
        closed.map(view).collect()
    }

    fn views(&self) -> Vec<ZoneView> {
        let reports = self.volume.zone_reports();
        let views = reports.into_iter().map(|report| {
            let last = report.group.last;
            let members = report.members.iter().map(|member| ZoneMember {
                id: member.id.to_string(),
                name: member.about.name.clone(),
                addresses: member.about.addresses.clone(),
                votes: member.votes,
                witness: member.about.witness,
                leads: member.leads,
                here: member.id == report.member,
                lag: last.zip(member.matched).map(|(last, matched)| last.saturating_sub(matched)),
            });
            ZoneView {
                witness: report.members.iter().any(|member| member.id == report.member && member.about.witness),
                name: report.name.clone(),
                id: report.id.to_string(),
                mounts: self.places(report.index),
                role: role(report.group.role).to_owned(),
                trashed_since: self.trashed_since(report.index),
                has_quorum: report.has_quorum,
                resting: report.group.resting,
                term: report.group.term,
                last,
                committed: report.group.committed.map(|at| at.index),
                applied: report.group.applied.map(|at| at.index),
                checkpoint: report.stats.checkpoint.0,
                log_bytes: report.log_bytes,
                replicas: report.replicas,
                open: report.open,
                commands: report.commands,
                lacking_bytes: report.lacking_bytes,
                mirror_bytes: report.mirror_bytes,
                metastore_bytes: report.stats.metastore_bytes,
                members: members.collect(),
            }
        });
        views.collect()
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

/// Where others can come to, if it listens at `bound`: there, or, where that is every address,
/// at each that the machine has.
fn reachable(bound: SocketAddr) -> Vec<String> {
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let mut found: Vec<String> = local_addresses(Path::new("/proc/net/fib_trie"))
        .into_iter()
        .map(|ip| format!("{ip}:{}", bound.port()))
        .collect();
    if found.is_empty() {
        found.push(format!("127.0.0.1:{}", bound.port()));
    }
    found.truncate(8);
    found
}

/// The machine's own addresses but the loopback's, as the kernel lists them: a line with an
/// address, then one that says that it is a local host's.
fn local_addresses(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<IpAddr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|ip| !ip.is_loopback()));
        }
    }
    found.into_iter().collect()
}
