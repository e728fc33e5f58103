//! A directory that three nodes have: three daemons of Nexus on this machine with one zone, against a
//! volume of one daemon, and against other file systems that keep three copies.

mod gluster;
mod moose;
mod room;
mod rows;
mod zone;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure, Report, Role};

use crate::interrupt::Interrupt;
use crate::peers;
use crate::small;

/// How much is done.
#[derive(Clone, Copy)]
pub struct Amounts {
    /// Files that are read, and made by one process.
    pub files: u64,
    /// Files that sixteen processes make together.
    pub crowd_files: u64,
    /// Files that are looked for on another node.
    pub seen_files: u64,
    /// The large file, in MiB.
    pub large_mib: u64,
    /// Blocks of 4 KiB that are written in order.
    pub small_writes: u64,
    /// Blocks of 4 KiB of which each is synced.
    pub synced_writes: u64,
    /// Files that are unpacked.
    pub tree_files: usize,
    /// Seconds of files being made, in which a node is killed.
    pub failover_s: u64,
    /// Seconds of idling.
    pub idle_s: u64,
}

impl Amounts {
    /// What is published.
    pub const FULL: Amounts = Amounts {
        files: 5_000,
        crowd_files: 8_000,
        seen_files: 100,
        large_mib: 256,
        small_writes: 2_000,
        synced_writes: 500,
        tree_files: 5_000,
        failover_s: 15,
        idle_s: 30,
    };
    /// Enough to see that everything works.
    pub const QUICK: Amounts = Amounts {
        files: 200,
        crowd_files: 320,
        seen_files: 10,
        large_mib: 16,
        small_writes: 100,
        synced_writes: 20,
        tree_files: 100,
        failover_s: 8,
        idle_s: 3,
    };
}

/// What stays the same in all runs.
pub struct Bench<'a> {
    /// The daemon's program.
    pub program: &'a Path,
    /// Where everything lies.
    pub folder: &'a Path,
    /// Further arguments of the daemons.
    pub arguments: &'a [String],
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// How much is done.
    pub amounts: Amounts,
    /// Seed of contents and orders.
    pub seed: u64,
    /// Whether other file systems are measured too.
    pub peers: bool,
}

/// The table and the lines above it.
pub struct Outcome {
    /// The table.
    pub report: Report,
    /// What peers lacked or failed at.
    pub failed: Vec<String>,
}

/// A file system that is up, with the same files in a folder of each of its nodes.
pub trait Cluster {
    /// The folder on each node. The first is where work is done, the second is another node, and
    /// neither leads if one of them does.
    fn points(&self) -> Vec<PathBuf>;

    /// All of its processes.
    fn processes(&self) -> Vec<u32>;

    /// The node that is missed most when it is killed, by its place among the points; `None` where
    /// there is only one.
    fn victim(&self) -> Result<Option<usize>, Failure>;

    /// Kills it.
    fn kill(&mut self, victim: usize) -> Result<(), Failure>;
}

/// Whom the columns are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zone,
    Single,
    Gluster,
    Moose,
}

impl Kind {
    fn column(self) -> nexus_bench::Subject {
        let (name, role) = match self {
            Kind::Zone => ("nexus", Role::Nexus),
            Kind::Single => ("one daemon", Role::Local),
            Kind::Gluster => (peers::GLUSTERFS.name, Role::Peer),
            Kind::Moose => (peers::MOOSEFS.name, Role::Peer),
        };
        nexus_bench::Subject { name: name.to_owned(), role, transport: String::new() }
    }
}

impl Bench<'_> {
    /// Does all of it `runs` times.
    pub fn run(&self, runs: usize) -> Result<Outcome, Failure> {
        let mut failed = Vec::new();
        let mut kinds = vec![Kind::Zone, Kind::Single];
        for (kind, peer) in [(Kind::Gluster, peers::GLUSTERFS), (Kind::Moose, peers::MOOSEFS)] {
            match peer.check() {
                _ if !self.peers => {}
                Ok(()) => kinds.push(kind),
                Err(failure) => {
                    eprintln!("{failure}");
                    failed.push(failure.to_string());
                }
            }
        }
        let mut outcome = Outcome { report: Report::new(kinds.iter().map(|kind| kind.column()).collect()), failed };
        let archive = small::archive(self.folder, self.amounts.tree_files, self.seed, self.interrupt)?;
        for run in 0..runs {
            // Another one goes first in each run; nothing of the others is up meanwhile.
            for (i, kind) in (0..kinds.len()).map(|i| (i + run) % kinds.len()).filter_map(|i| Some((i, *kinds.get(i)?)))
            {
                let started = Instant::now();
                let mut record =
                    |row: &str, time: Duration| rows::record(&mut outcome.report, &self.amounts, row, i, time);
                let folder = self.folder.join(format!("{kind:?}-{run}").to_lowercase());
                let done = self.one(kind, &folder, &archive, &mut record);
                match done.during(|| format!("run {} of {}", run + 1, kind.column().name)) {
                    Err(failure) if kind.column().role == Role::Peer => {
                        self.interrupt.check()?;
                        eprintln!("{failure}");
                        outcome.failed.push(failure.to_string());
                    }
                    done => done?,
                }
                let took = started.elapsed().as_secs_f64();
                eprintln!("run {}/{runs}: {}: {took:.1} s", run + 1, kind.column().name);
            }
        }
        Ok(outcome)
    }

    fn one(
        &self,
        kind: Kind,
        folder: &Path,
        archive: &Path,
        record: &mut dyn FnMut(&str, Duration),
    ) -> Result<(), Failure> {
        std::fs::create_dir(folder).during(|| format!("making {}", folder.display()))?;
        let done = self.start(kind, folder).and_then(|mut cluster| {
            let done = self.rows(cluster.as_mut(), archive, record);
            drop(cluster);
            done
        });
        let removed = std::fs::remove_dir_all(folder).during(|| format!("removing {}", folder.display()));
        done.and(removed)
    }

    fn start(&self, kind: Kind, folder: &Path) -> Result<Box<dyn Cluster>, Failure> {
        Ok(match kind {
            Kind::Zone => Box::new(zone::Zone::start(self, folder, 3)?),
            Kind::Single => Box::new(zone::Zone::start(self, folder, 1)?),
            Kind::Gluster => Box::new(gluster::Gluster::start(folder, self.interrupt)?),
            Kind::Moose => Box::new(moose::Moose::start(folder, self.interrupt)?),
        })
    }
}
