//! `floor-fs`: mounts a minimal in-memory file system, to show what FUSE itself costs. Nothing in
//! it outlives the process.

mod fs;
mod node;

use std::path::PathBuf;
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
    /// Session threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A /dev/fuse descriptor of its own for each thread.
    #[arg(long)]
    clone_fd: bool,
    /// Send each write(2) at once instead of letting the kernel gather them.
    #[arg(long)]
    no_writeback: bool,
    /// Ask the kernel for no FLUSH on close.
    #[arg(long)]
    noflush: bool,
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
        writeback: !options.no_writeback,
        ttl: Duration::from_secs(options.ttl_s),
        noflush: options.noflush,
        max_background: options.max_background,
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("floor".to_owned()),
        MountOption::Subtype("floor".to_owned()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads);
    config.clone_fd = options.clone_fd;
    let mut session = Session::new(FloorFs::new(settings), &options.target, &config)?;

    let mut unmounter = session.unmount_callable();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = unmounter.unmount() {
                eprintln!("floor-fs: {error}");
            }
        }
    });
    session.run()
}
