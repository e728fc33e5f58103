//! A zone of several daemons, on hosts of their own or on one, and what goes wrong with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::failure::{Check, During, ensure, fail};
use crate::hosts::Hosts;
use crate::lab::Lab;
use crate::mount::{Mount, signal};
use crate::ports;
use crate::scratch::{Image, ImageKind, Scratch};
use crate::tool::{Tool, wait_until};

/// A file by which the zone's own root is known from what lies under it while it is not mounted.
pub const MARKER: &str = "marker";
/// Where daemons listen that have hosts of their own.
const PORT: u16 = 7420;
/// How long a zone may take to be mounted again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that goes wrong with nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Neither hears the other.
    Cut(usize, usize),
    /// The second does not hear the first.
    CutOneWay(usize, usize),
    /// Nobody hears it, and it hears nobody.
    Unplugged(usize),
    /// Its daemon is suspended.
    Suspended(usize),
    /// Its daemon is killed, and started again in the end.
    Killed(usize),
}

/// A change of what is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// Whether it begins, or ends.
    pub begins: bool,
}

/// The daemons.
pub struct Cluster {
    nodes: Vec<Node>,
    /// How many have files; those behind them are witnesses.
    with_files: usize,
    wrong: Mutex<Vec<Fault>>,
    // Last: daemons must be gone before their networks.
    hosts: Mutex<Option<Hosts>>,
}

struct Node {
    mount: Mutex<Mount>,
    point: PathBuf,
    log: PathBuf,
    // After the mount, and before the folder that its image lies in.
    _disk: Option<Image>,
    _scratch: Scratch,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// So many daemons on hosts of their own, all members of one zone, mounted with these options; and so many
    /// that are witnesses.
    pub fn on_hosts(lab: &Lab, (with_files, witnesses): (usize, usize), options: &str) -> Check<Cluster> {
        let count = with_files + witnesses;
        let hosts = Hosts::new(count)?;
        let address = |number| Ok(format!("{}:{PORT}", Hosts::address(number)));
        let on_host = |mount: Mount, number| mount.with_options(options).within_network(&hosts.namespace(number));
        let nodes = start(lab, count, address, on_host)?;
        Cluster::of(nodes, with_files, Some(hosts))
    }

    /// So many daemons on this host, all members of one zone.
    pub fn on_this_host(lab: &Lab, count: usize) -> Check<Cluster> {
        Cluster::of(start(lab, count, |_| ports::address(), |mount, _| mount)?, count, None)
    }

    /// The same, where the last one's data folder is on a disk of so many MiB.
    pub fn with_small_disk(lab: &Lab, count: usize, megabytes: u64) -> Check<(Cluster, PathBuf)> {
        let mut nodes = start(lab, count - 1, |_| ports::address(), |mount, _| mount)?;
        let scratch = Scratch::new(&lab.scratch, "small")?;
        let disk = Image::new(&scratch, ImageKind::Ext4, megabytes)?;
        let folder = disk.path().to_owned();
        let mount = lab.mount_on(&folder.join("data"), &scratch)?;
        let mut mount = mount.with_arguments(&["--listen", &ports::address()?]);
        mount.start()?;
        let mut small = Node::new(mount, scratch);
        small._disk = Some(disk);
        nodes.push(small);
        Ok((Cluster::of(nodes, count, None)?, folder))
    }

    fn of(nodes: Vec<Node>, with_files: usize, hosts: Option<Hosts>) -> Check<Cluster> {
        let cluster = Cluster { nodes, with_files, wrong: Mutex::default(), hosts: Mutex::new(hosts) };
        let mut invite = String::new();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let zone = cluster.zone(number);
            if number == 0 {
                fs::create_dir(&zone)?;
                fs::write(zone.join(MARKER), "here")?;
                invite = node.program().arg("share").arg(&zone).ok()?;
                continue;
            }
            let is_witness = number >= with_files;
            if number > 1 {
                let kind: &[&str] = if is_witness { &["--witness"] } else { &[] };
                invite = cluster.zone_tool(0, &[&["invite", "zone"][..], kind].concat()).ok()?;
            }
            let join = node.program().arg("join").arg(invite.trim());
            let join = match is_witness {
                true => join.args(["--witness", "--mount"]).arg(&node.point),
                false => join.arg(&zone),
            };
            join.ok().during(format!("node {number} joins"))?;
        }
        Ok(cluster)
    }

    /// How many have files, before all others.
    pub fn with_files(&self) -> usize {
        self.with_files
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where the zone is at a node.
    pub fn zone(&self, number: usize) -> PathBuf {
        self.nodes.get(number).map(|node| node.point.join("zone")).unwrap_or_default()
    }

    fn zone_tool(&self, number: usize, arguments: &[&str]) -> Tool {
        match self.nodes.get(number) {
            Some(node) => node.program().arg("zone").args(arguments).arg("--mount").arg(&node.point),
            None => Tool::new("false"),
        }
    }

    /// Has all of it happen, each at its time, until the time is over.
    pub fn play(&self, events: &[Event], length: Duration) -> Check {
        let began = Instant::now();
        for event in events {
            std::thread::sleep(event.at.saturating_sub(began.elapsed()));
            self.change(*event)?;
        }
        std::thread::sleep(length.saturating_sub(began.elapsed()));
        Ok(())
    }

    fn change(&self, event: Event) -> Check {
        {
            let mut wrong = lock(&self.wrong);
            match wrong.iter().position(|fault| *fault == event.fault) {
                _ if event.begins => wrong.push(event.fault),
                Some(place) => drop(wrong.remove(place)),
                None => return Ok(()),
            }
        }
        match event.fault {
            Fault::Cut(..) | Fault::CutOneWay(..) | Fault::Unplugged(_) => self.cut(),
            Fault::Suspended(number) => {
                self.with(number, |mount| signal(mount.pid()?, if event.begins { Signal::STOP } else { Signal::CONT }))
            }
            Fault::Killed(number) => self.with(number, |mount| if event.begins { mount.kill() } else { mount.start() }),
        }
    }

    fn with(&self, number: usize, act: impl FnOnce(&mut Mount) -> Check) -> Check {
        self.nodes.get(number).map_or(Ok(()), |node| act(&mut lock(&node.mount)))
    }

    /// Has the network be as what is wrong says.
    fn cut(&self) -> Check {
        let (mut cuts, mut unplugged) = (BTreeSet::new(), BTreeSet::new());
        for fault in lock(&self.wrong).iter() {
            match *fault {
                Fault::Cut(a, b) => cuts.extend([(a, b), (b, a)]),
                Fault::CutOneWay(a, b) => drop(cuts.insert((a, b))),
                Fault::Unplugged(number) => drop(unplugged.insert(number)),
                Fault::Suspended(_) | Fault::Killed(_) => {}
            }
        }
        match &mut *lock(&self.hosts) {
            Some(hosts) => hosts.set(cuts, unplugged),
            None => fail!("these nodes have no network of their own"),
        }
    }

    /// Ends all that is wrong.
    pub fn heal(&self) -> Check {
        let wrong = std::mem::take(&mut *lock(&self.wrong));
        if !wrong.is_empty() {
            self.cut()?;
        }
        for fault in wrong {
            match fault {
                Fault::Suspended(number) => self.with(number, |mount| signal(mount.pid()?, Signal::CONT))?,
                Fault::Killed(number) => self.with(number, Mount::start)?,
                Fault::Cut(..) | Fault::CutOneWay(..) | Fault::Unplugged(_) => {}
            }
        }
        (0..self.with_files).try_for_each(|number| self.mounted(number))
    }

    /// Waits until the zone is mounted at a node.
    fn mounted(&self, number: usize) -> Check {
        let marker = self.zone(number).join(MARKER);
        wait_until("the zone is mounted at a node", PATIENCE, || Ok(marker.exists()))
    }

    /// Ends a node's daemon, by SIGKILL or as a user does, and starts it again.
    pub fn restart(&self, number: usize, kill: bool) -> Check {
        self.with(number, |mount| {
            if kill {
                mount.kill()?;
            } else {
                mount.program().arg("umount").arg(mount.point()).ok()?;
                mount.ended()?;
                mount.fsck()?;
            }
            mount.start()
        })?;
        self.mounted(number)
    }

    /// All have the same state, once nothing more comes.
    pub fn agree(&self, patience: Duration) -> Check {
        let mut last = Vec::new();
        wait_until("all nodes have the same state", patience, || {
            let digest = |number| self.zone_tool(number, &["digest", "zone"]).ok();
            last = (0..self.with_files).map(digest).collect::<Check<_>>()?;
            Ok(last.iter().all(|digest| Some(digest) == last.first()))
        })
        .during(format!("{last:?}"))
    }

    /// Unmounts all, and holds what is left against its rules.
    pub fn finish(self) -> Check {
        for node in self.nodes.iter().rev() {
            let mut mount = lock(&node.mount);
            mount.program().arg("umount").arg(&node.point).ok()?;
            mount.ended()?;
            mount.fsck()?;
            let said = fs::read_to_string(&node.log)?;
            let bad = said.lines().find(|line| line.contains("panicked") || line.contains("takes no more part"));
            ensure!(bad.is_none(), "a daemon said: {}", bad.unwrap_or_default());
        }
        Ok(())
    }

    /// The end of what each daemon said.
    pub fn last_words(&self) -> String {
        let words = |(number, node): (usize, &Node)| format!("      {number}: {}\n", tail(&node.log));
        self.nodes.iter().enumerate().map(words).collect()
    }
}

/// Starts daemons, which know nothing of each other yet.
fn start(
    lab: &Lab,
    count: usize,
    address: impl Fn(usize) -> Check<String>,
    with: impl Fn(Mount, usize) -> Mount,
) -> Check<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in 0..count {
        let scratch = Scratch::new(&lab.scratch, &format!("n{number}"))?;
        let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
        let mut mount = with(mount.with_arguments(&["--listen", &address(number)?]), number);
        mount.start()?;
        nodes.push(Node::new(mount, scratch));
    }
    Ok(nodes)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n         ")
}

impl Node {
    fn new(mount: Mount, scratch: Scratch) -> Node {
        let (point, log) = (mount.point().to_owned(), scratch.path().join("daemon.log"));
        Node { mount: Mutex::new(mount), point, log, _disk: None, _scratch: scratch }
    }

    fn program(&self) -> Tool {
        lock(&self.mount).program()
    }
}
