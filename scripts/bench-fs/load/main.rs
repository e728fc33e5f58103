//! `bench-load`: runs the benchmark and prints its table (`run`), and is its own worker (`work`).

mod crew;
mod interrupt;
mod machine;
mod subject;
mod work;
mod workloads;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use nexus_bench::{Context, Failure, Report, Tree};

use crate::interrupt::Interrupt;
use crate::subject::{Subject, settle};
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
    Run(Box<Run>),
    /// One worker process; started by `run`.
    #[command(hide = true)]
    Work(Work),
}

#[derive(Args)]
struct Run {
    /// What to compare: nexus, floor, ext4 (the file system under --dir), bindfs.
    #[arg(long, value_delimiter = ',', default_value = "nexus,floor,ext4")]
    only: Vec<String>,
    /// Which workloads.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "files,tree,big,sync,sqlite")]
    groups: Vec<Group>,
    /// Runs of each workload; the table gives medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
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
    #[arg(long)]
    markdown: Option<PathBuf>,
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
        let sizes = if self.quick { Sizes::QUICK } else { Sizes::FULL };
        let runs = if self.quick { 1 } else { self.runs.max(1) };
        eprintln!("working in {}, seed {}", folder.path().display(), self.seed);

        let archive = make_archive(folder.path(), sizes.tree_files, self.seed, &interrupt)?;
        let bench = Bench { sizes, archive, interrupt: interrupt.clone(), seed: self.seed };
        // Dropped before the folder: unmounted first, removed then.
        let subjects = self.subjects(folder.path(), &interrupt)?;
        let local = self.local_name();
        let names = subjects.iter().map(|s| s.name.clone()).collect();
        let mut report = Report::new(names, &[&local, "floor"]);
        for run in 0..runs {
            for &group in &self.groups {
                // Another one goes first in each run.
                let order = (0..subjects.len()).map(|i| (i + run) % subjects.len());
                for (i, subject) in order.filter_map(|i| subjects.get(i).map(|s| (i, s))) {
                    settle(&subjects);
                    let start = Instant::now();
                    let mut record = |name: &str, unit, time| report.record(name, unit, i, time);
                    bench.run(group, &subject.root, &mut record).during(|| format!("{group:?} on {}", subject.name))?;
                    let took = start.elapsed().as_secs_f64();
                    eprintln!("run {}/{runs}: {group:?} on {}: {took:.1} s", run + 1, subject.name);
                }
            }
        }
        self.publish(&report, &subjects, folder.path(), runs, load)
    }

    fn local_name(&self) -> String {
        machine::file_system_type(&self.dir).unwrap_or_else(|| "local".to_owned())
    }

    fn nexus_program(&self) -> Result<PathBuf, Failure> {
        self.bin.clone().map_or_else(|| beside("nexus-fuse"), Ok)
    }

    fn subjects(&self, folder: &Path, interrupt: &Interrupt) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        for name in &self.only {
            let target = folder.join(format!("{name}-mount"));
            let data = folder.join(format!("{name}-data"));
            let log = folder.join(format!("{name}.log"));
            let subject = match name.as_str() {
                "nexus" => {
                    let mut command = Command::new(self.nexus_program()?);
                    command.arg("mount").arg(&target).arg("--data").arg(&data).arg("-f");
                    command.args(&self.nexus_arg);
                    Subject::mounted(name, target, &log, &mut command, interrupt)?
                }
                "floor" => {
                    let mut command = Command::new(beside("floor-fs")?);
                    command.arg(&target).args(&self.floor_arg);
                    Subject::mounted(name, target, &log, &mut command, interrupt)?
                }
                "ext4" | "local" => Subject::folder(&self.local_name(), data)?,
                "bindfs" => {
                    fs::create_dir_all(&data).during(|| format!("making {}", data.display()))?;
                    let mut command = Command::new("bindfs");
                    command.arg("-f").arg(&data).arg(&target);
                    Subject::mounted(name, target, &log, &mut command, interrupt)?
                }
                other => return Err(Failure::new(format!("--only {other}: not known"))),
            };
            subjects.push(subject);
        }
        for peer in &self.peer {
            let (name, line) =
                peer.split_once('=').ok_or_else(|| Failure::new(format!("--peer {peer}: want NAME=COMMAND")))?;
            let (target, data) = (folder.join(format!("{name}-mount")), folder.join(name));
            fs::create_dir_all(&data).during(|| format!("making {}", data.display()))?;
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec {line}")]);
            command.env("TARGET", &target).env("DATA", &data);
            let log = folder.join(format!("{name}.log"));
            subjects.push(Subject::mounted(name, target, &log, &mut command, interrupt)?);
        }
        Ok(subjects)
    }

    fn publish(
        &self,
        report: &Report,
        subjects: &[Subject],
        folder: &Path,
        runs: usize,
        load: Option<f64>,
    ) -> Result<(), Failure> {
        let program = self.nexus_program().ok().filter(|_| self.only.iter().any(|n| n == "nexus"));
        let mut facts: Vec<(String, String)> = machine::facts(folder, program.as_deref())
            .into_iter()
            .map(|(what, fact)| (what.to_owned(), fact))
            .collect();
        let seed = self.seed;
        facts.push(("runs".to_owned(), format!("{runs}, medians ± half the range, seed {seed}")));
        if let Some(load) = load {
            // Other people's programs are the first thing to suspect.
            facts.push(("load before".to_owned(), format!("{load:.2}")));
        }
        for subject in subjects {
            if let Some(usage) = subject.usage() {
                let peak = usage.peak_rss_kib as f64 / 1024.0;
                let cpu = usage.cpu.as_secs_f64();
                let fact = format!("peak memory {peak:.0} MiB, processor time {cpu:.1} s");
                facts.push((format!("daemon of {}", subject.name), fact));
            }
        }
        for (what, fact) in &facts {
            println!("{what}: {fact}");
        }
        println!("\nRatios are of times: 2.00 takes twice as long.\n\n{}", report.text());
        if let Some(path) = &self.markdown {
            let mut out = String::new();
            for (what, fact) in &facts {
                let _ = writeln!(out, "- {what}: {fact}");
            }
            let _ = write!(out, "\n{}", report.markdown());
            fs::write(path, out).during(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

/// A program in the folder that this one is in.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().during(|| "finding bench-load".to_owned())?;
    Ok(own.with_file_name(name))
}

/// The tree, packed, so that each subject unpacks the same.
fn make_archive(folder: &Path, files: usize, seed: u64, interrupt: &Interrupt) -> Result<PathBuf, Failure> {
    let source = folder.join("source");
    Tree::plan(seed, files)
        .write(&source.join("tree"))
        .during(|| format!("writing the tree to {}", source.display()))?;
    let archive = folder.join("tree.tar");
    let mut command = Command::new("tar");
    command.arg("-cf").arg(&archive).arg("-C").arg(&source).arg("tree");
    crew::time_program(interrupt, &mut command)?;
    fs::remove_dir_all(&source).during(|| format!("removing {}", source.display()))?;
    Ok(archive)
}
