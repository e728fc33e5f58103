//! Zones in the mounted tree: each is a mount of its own, over the directory that its entry
//! stands in, so that the kernel treats its files as those of a file system that others
//! change too, while all else stays as fast as what this mount alone changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus::Volume;
use nexus::zones::{DEFAULT_PORT, Invite, Role, Watcher, ZoneId};
use nexus_fuse_transport::{Choice, Transport};
use nexus_kernel::{Clock, Ino, NodeId, SystemClock, ZoneIndex};
use parking_lot::{Condvar, Mutex};

use crate::adapter::Coherence;
use crate::control::{ClosedView, ElsewhereView, Reply, ZoneAsk, ZoneMember, ZoneView};
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
    stale: Mutex<Stale>,
    changed: Condvar,
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
            stale: Mutex::default(),
            changed: Condvar::new(),
        });
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
                    next_mend = Instant::now() + MEND;
                }
                if wanted {
                    mounts.refresh();
                }
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

    /// Places where zones are to be mounted, outer ones first, and those of zones that this node
    /// takes no part in.
    fn survey(&self) -> (Vec<(PathBuf, ZoneIndex)>, Vec<ElsewhereView>) {
        let (mut wanted, mut elsewhere) = (Vec::new(), Vec::new());
        if !self.whole {
            return (wanted, elsewhere);
        }
        let node = self.volume.node_if_any();
        let closed: Vec<ZoneId> = self.volume.closed_zones().into_iter().filter_map(|zone| zone.id).collect();
        let mut ahead = vec![(self.root.clone(), ZoneIndex(0), vec![ZoneIndex(0)])];
        while let Some((base, index, above)) = ahead.pop() {
            let mounts = self.volume.fs().zone_mounts(index).unwrap_or_else(|error| {
                log::warn!("what is mounted in zone {index} can't be told: {error}");
                Vec::new()
            });
            for place in mounts {
                let names = place.path.iter().map(|name| OsStr::from_bytes(name));
                let path = names.fold(base.clone(), |path, name| path.join(name));
                let id = ZoneId(place.target.zone);
                let Some(joined) = node.as_ref().and_then(|node| node.zone(id)) else {
                    let (name, addresses) = (place.target.name, place.target.addresses);
                    if !closed.contains(&id) {
                        elsewhere.push(ElsewhereView { path, name, id: id.to_string(), addresses });
                    }
                    continue;
                };
                // A zone within itself would have no end.
                if above.contains(&joined.index()) || above.len() > DEEPEST {
                    continue;
                }
                let above = above.iter().copied().chain([joined.index()]).collect();
                wanted.push((path.clone(), joined.index()));
                ahead.push((path, joined.index(), above));
            }
        }
        wanted.sort();
        (wanted, elsewhere)
    }

    /// Zones that stand in the mount, and that this node takes no part in.
    pub fn elsewhere(&self) -> Vec<ElsewhereView> {
        self.survey().1
    }

    /// Mounts what is to be there and is not, and takes away what is not to be there any more.
    pub fn refresh(&self) {
        let (wanted, elsewhere) = self.survey();
        let elsewhere: BTreeSet<ElsewhereView> = elsewhere.into_iter().collect();
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
        for path in gone.into_iter().rev() {
            mounted.remove(&path);
        }
        for (path, index) in wanted {
            self.put_up(&mut mounted, path, index);
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

    /// Does what is asked; `node` is the directory that an inode number of the outer mount means.
    pub fn handle(&self, ask: ZoneAsk, node: impl Fn(u64) -> NodeId) -> Result<Reply, String> {
        let text = |error: nexus::Error| error.to_string();
        match ask {
            ZoneAsk::Share { inode, name, ttl_sec, replicas } => {
                self.ensure_listening()?;
                let dir = node(inode);
                let shared = self.volume.share(dir, &name, &|joined| self.show(dir, joined.index()));
                // Where it failed, what was shown already is taken away.
                let joined = shared.inspect_err(|_| self.refresh()).map_err(text)?;
                if let Some(replicas) = replicas {
                    joined.set_replicas(replicas).map_err(|error| error.to_string())?;
                }
                self.refresh();
                let invite = self.volume.invite(&joined, Duration::from_secs(ttl_sec)).map_err(text)?;
                Ok(Reply::Text { text: invite })
            }
            ZoneAsk::Join { invite, inode } => {
                let invite = Invite::parse(&invite, SystemClock.now()).map_err(|error| error.to_string())?;
                self.ensure_listening()?;
                let joined = self.volume.join(&invite, node(inode)).map_err(text)?;
                self.refresh();
                Ok(Reply::Text { text: joined.name().to_owned() })
            }
            ZoneAsk::List => {
                let (zones, closed, elsewhere) = (self.views(), self.closed(), self.elsewhere());
                Ok(Reply::Zones { zones, closed, elsewhere })
            }
            ZoneAsk::Invite { name, ttl_sec } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                let invite = self.volume.invite(&joined, Duration::from_secs(ttl_sec)).map_err(text)?;
                Ok(Reply::Text { text: invite })
            }
            ZoneAsk::RemoveMember { name, member } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                let member = find_member(&joined, &member)?;
                if member == joined.member() {
                    return Err("that is this node: use `nexus-fuse zone leave`".to_owned());
                }
                self.volume.remove_member(&joined, member).map_err(text)?;
                Ok(Reply::Done)
            }
            ZoneAsk::TransferLeader { name, member } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                let member = find_member(&joined, &member)?;
                let node = self.volume.node().map_err(text)?;
                node.transfer(&joined, member).map_err(|error| error.to_string())?;
                Ok(Reply::Done)
            }
            ZoneAsk::SetReplicas { name, replicas } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                joined.set_replicas(replicas).map_err(|error| error.to_string())?;
                Ok(Reply::Done)
            }
            ZoneAsk::Leave { name } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                let report = joined.report().map_err(|error| error.to_string())?;
                if report.members.len() < 2 && report.group.role != Role::Stopped {
                    return Err(format!(
                        "this node is the last member of zone {name}, whose files would be gone: copy them out of it, \
                         or have another node join first"
                    ));
                }
                let places: Vec<PathBuf> = self.places(joined.index());
                if let Some(place) = places.first() {
                    let within = mount::table::mounts().map_err(|error| error.to_string())?;
                    if within.iter().any(|entry| entry.target != *place && entry.target.starts_with(place)) {
                        return Err(format!("something is mounted below {}: take it away first", place.display()));
                    }
                }
                for place in &places {
                    let mount = self.mounted.lock().remove(place);
                    if let Some((index, mount)) = mount
                        && let Err(error) = mount.unmount(Unmount::WhenIdle)
                    {
                        self.mounted.lock().insert(place.clone(), (index, mount));
                        return Err(error.to_string());
                    }
                }
                self.volume.leave_zone(&joined).map_err(text)?;
                self.refresh();
                Ok(Reply::Done)
            }
            ZoneAsk::Digest { name } => {
                let joined = self.volume.zone_named(&name).map_err(text)?;
                let (index, digest) = joined.zone().digest().map_err(|error| error.to_string())?;
                Ok(Reply::Text { text: format!("{digest:032x} at {index}") })
            }
        }
    }

    fn places(&self, index: ZoneIndex) -> Vec<PathBuf> {
        let mounted = self.mounted.lock();
        mounted.iter().filter(|(_, (other, _))| *other == index).map(|(path, _)| path.clone()).collect()
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
                leads: member.leads,
                here: member.id == report.member,
                lag: last.zip(member.matched).map(|(last, matched)| last.saturating_sub(matched)),
            });
            ZoneView {
                name: report.name.clone(),
                id: report.id.to_string(),
                mounts: self.places(report.index),
                role: role(report.group.role).to_owned(),
                has_quorum: report.has_quorum,
                resting: report.group.resting,
                term: report.group.term,
                last,
                committed: report.group.committed.map(|at| at.index),
                applied: report.group.applied.map(|at| at.index),
                checkpoint: report.stats.checkpoint.0,
                log_bytes: report.log_bytes,
                replicas: report.replicas,
                lacking_bytes: report.lacking_bytes,
                mirror_bytes: report.mirror_bytes,
                metastore_bytes: report.stats.metastore_bytes,
                members: members.collect(),
            }
        });
        views.collect()
    }
}

fn find_member(joined: &nexus::zones::JoinedZone, wanted: &str) -> Result<nexus::zones::ZoneMemberId, String> {
    let report = joined.report().map_err(|error| error.to_string())?;
    let matches = |member: &&nexus::zones::MemberStatus| {
        member.about.name == wanted || (wanted.len() >= 4 && member.id.to_string().starts_with(wanted))
    };
    let found: Vec<_> = report.members.iter().filter(matches).collect();
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(format!("zone {} has no member {wanted}: see `nexus-fuse zone status`", joined.name())),
        _ => Err(format!("zone {} has several members {wanted}: give the beginning of an id", joined.name())),
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
