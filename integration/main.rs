//! `nexus-suite`: the suites that run on a real mount. What each one asks is told at the
//! head of its module; this file only reads the command line.

mod attach;
mod clouds;
mod cluster;
mod crash;
mod failure;
mod fsx;
mod history;
mod hosts;
mod lab;
mod limits;
mod model;
mod mount;
mod network;
mod pjdfstest;
mod ports;
mod programs;
mod random;
mod report;
mod scratch;
mod soak;
mod store;
mod storm;
mod tool;
mod transport;
mod tree;
mod zones;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use lab::Lab;
use transport::Transport;

/// Runs suites of tests on a mount of the real daemon. As root.
#[derive(Parser)]
struct Arguments {
    /// Which suite.
    suite: Suite,
    /// Only cases whose names contain one of these; seeds, for the suites that are made of seeds.
    cases: Vec<String>,
    /// The daemon's binary.
    #[arg(long, default_value = "target/debug/nexus-fuse")]
    binary: PathBuf,
    /// Folder with the binaries of pjdfstest and fsx; other tools lie beside it.
    #[arg(long, default_value = "target/tools/bin")]
    tools: PathBuf,
    /// Folder on the machine's own file system for everything temporary.
    #[arg(long, default_value = "/tmp")]
    scratch: PathBuf,
    /// Test this folder instead of a mount.
    #[arg(long, value_name = "FOLDER")]
    no_mount: Option<PathBuf>,
    /// What carries the kernel's requests; else the daemon decides, and crash tries each.
    #[arg(long)]
    transport: Option<Transport>,
    /// Have the content of what is tested in an S3 server, behind a cache of hardly anything.
    #[arg(long)]
    store: bool,
    /// Test on the mount of a zone that three daemons have.
    #[arg(long, conflicts_with_all = ["store", "no_mount"])]
    zone: bool,
    /// Where random runs begin; each prints the seeds that it uses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds for the suites that run as long as they are told to.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs of history, each with the next seed.
    #[arg(long)]
    seeds: Option<u64>,
    /// Minutes of history instead.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// Run long.
    #[arg(long)]
    soak: bool,
    /// One case, for the process that runs others beside it.
    #[arg(long, hide = true, value_name = "CASE")]
    only: Option<String>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Suite {
    /// Names, modes, owners and times, by pjdfstest.
    Pjdfstest,
    /// Content under random reads, writes, maps and cuts, by fsx.
    Fsx,
    /// Random system calls, compared with the machine's own file system.
    Model,
    /// SIGKILL and power loss under load.
    Crash,
    /// Unmounting, aborts, killed and stopped processes under load.
    Storm,
    /// Programs that people run.
    Programs,
    /// Content in a real S3 server, which is slow, away, killed and damaged.
    Store,
    /// Content in stand-ins for Google Cloud Storage and Azure.
    Clouds,
    /// An existing bucket as files.
    Attach,
    /// A directory that several daemons have.
    Zones,
    /// What clients of several daemons are told while these are cut off, suspended and killed.
    History,
    /// The network before such a server: slow, wrong, cut, counted.
    Network,
    /// Sizes: many files, large files, full disks.
    Limits,
    /// Load makers for minutes, five million files.
    Soak,
    /// One client of `storm`, which starts it.
    #[value(hide = true)]
    StormClient,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(stop) => {
            eprintln!("{stop:?}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing failed, and something passed.
fn run(arguments: &Arguments) -> failure::Check<bool> {
    if arguments.suite == Suite::StormClient {
        return storm::client(&arguments.cases).map(|()| true);
    }
    let lab = Lab {
        binary: std::path::absolute(&arguments.binary)?,
        tools: std::path::absolute(&arguments.tools)?,
        scratch: arguments.scratch.canonicalize()?,
        folder: arguments.no_mount.as_ref().map(|folder| folder.canonicalize()).transpose()?,
        transport: arguments.transport,
        store: arguments.store,
        zone: arguments.zone,
        soak: arguments.soak,
        seed: arguments.seed,
        seconds: arguments.seconds,
        only: arguments.only.clone(),
    };
    let filter = &arguments.cases;
    let (name, tally) = match arguments.suite {
        Suite::Pjdfstest => ("pjdfstest", pjdfstest::run(&lab, filter)),
        Suite::Fsx => ("fsx", report::run(&lab, &fsx::cases(&lab), filter)),
        Suite::Model => ("model", model::run(&lab, filter)),
        Suite::Crash => ("crash", report::run(&lab, &crash::cases(&lab), filter)),
        Suite::Storm => ("storm", storm::run(&lab, filter)),
        Suite::Programs => ("programs", report::run(&lab, &programs::cases(), filter)),
        Suite::Store => ("store", report::run(&lab, &store::cases(), filter)),
        Suite::Clouds => ("clouds", report::run(&lab, &clouds::cases(), filter)),
        Suite::Attach => ("attach", report::run(&lab, &attach::cases(), filter)),
        Suite::Zones => ("zones", report::run_beside(&lab, &zones::cases(), filter, zones::LANES)),
        Suite::History => {
            let amount = history::Amount { seeds: arguments.seeds, minutes: arguments.minutes };
            ("history", history::run(&lab, amount, filter))
        }
        Suite::Network => ("network", report::run(&lab, &network::cases(), filter)),
        Suite::Limits => ("limits", report::run(&lab, &limits::cases(), filter)),
        Suite::Soak => ("soak", report::run(&lab, &soak::cases(), filter)),
        Suite::StormClient => return Ok(true),
    };
    let name = if lab.store { format!("{name}-store") } else { name.to_owned() };
    let name = if lab.zone { format!("{name}-zone") } else { name };
    let name = lab.transport.map_or(name.clone(), |transport| format!("{name}-{transport}"));
    if lab.only.is_none() {
        println!("{}", tally.line(&name));
    }
    let is_missing = lab.transport.is_some_and(|transport| transport.needed().is_err());
    Ok(tally.failed == 0 && (tally.passed > 0 || is_missing))
}
