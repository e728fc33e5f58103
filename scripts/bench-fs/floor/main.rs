//! `floor-fs`: mounts a minimal in-memory file system, to show what FUSE itself costs. Nothing in
//! it outlives the process.

mod fs;
mod node;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::fs::{FloorFs, Settings};

/// A minimal file system in memory, the floor under what FUSE can do. Stays in front until
/// unmounted or told to end.
#[derive(Parser)]
struct Options {
    /// Where to mount.
    target: PathBuf,
    /// Session threads [default: one a processor, 2 to 4].
    #[arg(long)]
    threads: Option<usize>,
    /// One /dev/fuse descriptor for all threads instead of one each.
    #[arg(long)]
    shared_fd: bool,
    /// Let the kernel gather writes instead of sending each at once.
    #[arg(long)]
    writeback: bool,
    /// Answer FLUSH at each close instead of refusing it once.
    #[arg(long)]
    flush: bool,
    /// Answer OPENDIR each time instead of refusing it once.
    #[arg(long)]
    opendir: bool,
    /// How far the kernel reads ahead, in KiB.
    #[arg(long, default_value_t = 1024)]
    read_ahead_kib: u32,
    /// How long the kernel may cache entries and attributes, in seconds.
    #[arg(long, default_value_t = 3600)]
    ttl_s: u64,
    /// Background requests that the kernel may have under way.
    #[arg(long, default_value_t = 64)]
    max_background: u16,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor-fs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> std::io::Result<()> {
    // A benchmark that was killed leaves no mount behind.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let settings = Settings {
        writeback: options.writeback,
        ttl: Duration::from_secs(options.ttl_s),
        flush: options.flush,
        opendir: options.opendir,
        max_background: options.max_background,
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("floor".to_owned()),
        MountOption::Subtype("floor".to_owned()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    config.n_threads = Some(options.threads.unwrap_or(processors.clamp(2, 4)));
    config.clone_fd = !options.shared_fd;
    let mut session = Session::new(FloorFs::new(settings), &options.target, &config)?;

    let mut unmounter = session.unmount_callable();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            match unmounter.unmount() {
                Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => eprintln!("floor-fs: {error}"),
                // Unmounted by somebody else meanwhile is fine too.
                _ => {}
            }
        }
    });
    let (target, read_ahead_kib) = (options.target.clone(), options.read_ahead_kib);
    std::thread::spawn(move || {
        // Answered by the session, so not from its own thread.
        if let Err(error) = widen_read_ahead(&target, read_ahead_kib) {
            eprintln!("floor-fs: read-ahead stays as it is: {error}");
        }
    });
    session.run()
}

fn widen_read_ahead(target: &Path, kib: u32) -> std::io::Result<()> {
    let device = std::fs::metadata(target)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}
