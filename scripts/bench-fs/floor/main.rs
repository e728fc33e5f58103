//! `floor-fs`: mounts a minimal in-memory file system, to show what FUSE itself costs. Nothing in
//! it outlives the process.

mod fs;
mod node;
mod served;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use nexus_fuse_transport::{Choice, Session};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::served::{Profile, Served};

/// Threads that may block in requests from the device at once, as with Nexus.
const MOST_THREADS: usize = 64;

/// A minimal file system in memory, the floor under what FUSE can do. Stays in front until
/// unmounted or told to end. Needs root.
#[derive(Parser)]
struct Options {
    /// Where to mount.
    target: PathBuf,
    /// What carries the requests: auto, device or io_uring.
    #[arg(long, default_value_t = Choice::Auto)]
    transport: Choice,
    /// Session threads, where the device carries the requests [default: one a processor, 2 to 4].
    #[arg(long)]
    threads: Option<usize>,
    /// Let the kernel gather writes instead of sending each at once.
    #[arg(long)]
    writeback: bool,
    /// Answer OPEN, CREATE and RELEASE of files instead of refusing them once.
    #[arg(long)]
    open: bool,
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

fn run(options: &Options) -> io::Result<()> {
    // A benchmark that was killed leaves no mount behind.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let served = Served::new(Profile {
        writeback: options.writeback,
        ttl: Duration::from_secs(options.ttl_s),
        open: options.open,
        flush: options.flush,
        opendir: options.opendir,
        max_background: options.max_background,
    });
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let settings = served.settings();
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = options.threads.unwrap_or(processors.clamp(2, 4));
    let device = mount_at(&options.target)?;
    let session = Session::start(device, Arc::new(served), &settings, options.transport, threads, MOST_THREADS)
        .map_err(|error| {
            let _ = unmount(&options.target, UnmountFlags::DETACH);
            io::Error::other(error)
        })?;
    eprintln!("floor-fs: requests come over {}", session.transport());
    let target = options.target.clone();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // Unmounted by somebody else meanwhile is fine; used ones go with their last user.
            let _ = unmount(&target, UnmountFlags::DETACH);
        }
    });
    if let Err(error) = widen_read_ahead(&options.target, options.read_ahead_kib) {
        eprintln!("floor-fs: read-ahead stays as it is: {error}");
    }
    session.wait().map_err(io::Error::other)
}

/// Mounts a new connection, as Nexus does for root; answers its device.
fn mount_at(target: &Path) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other");
    mount("floor", target, "fuse.floor", MountFlags::empty(), CString::new(data)?.as_c_str())?;
    Ok(device)
}

fn widen_read_ahead(target: &Path, kib: u32) -> io::Result<()> {
    let device = std::fs::metadata(target)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}
