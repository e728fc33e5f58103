//! One daemon's life: check, open, mount, serve, unmount, close.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nexus::folder::{DataFolder, Layout};
use nexus::{Config, RoomPolicy, Volume};
use nexus_kernel::fs::FsOptions;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::handler::DaemonHandler;
use super::launch::Ready;
use super::{logger, panics};
use crate::adapter::Coherence;
use crate::attach::Attachments;
use crate::control::Server;
use crate::mount::{self, MountError, MountOptions, MountSpec, Mounted, Unmount};
use crate::zones::ZoneMounts;

/// How long a daemon that is closing may hold a data folder that a new one wants.
const CLOSING_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries.
const CLOSING_PAUSE: Duration = Duration::from_millis(20);
/// How long users of a mount that must go may take to close their files.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// What to mount where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Mount point.
    pub target: PathBuf,
    /// Source as /proc/mounts shows it.
    pub source: String,
    /// All settings.
    pub config: Config,
    /// Whether the log goes to the data folder and not to standard error.
    pub log_to_file: bool,
}

impl Plan {
    /// Where the daemon logs once it has its data folder.
    pub fn daemon_log(&self) -> PathBuf {
        Layout::of(&self.config.data).daemon_log
    }
}

/// Why there was no mount, or why it ended badly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is what its source says")]
pub enum Failure {
    #[error(transparent)]
    Volume(#[from] nexus::Error),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(
        "the store {} lies in {}, a mount of Nexus: a store has to be outside of all of them",
        folder.display(),
        mount.display()
    )]
    InMount { folder: PathBuf, mount: PathBuf },
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
    #[error("the daemon stopped after an error of its own; nothing that was acknowledged is lost, mount again")]
    Panicked,
}

/// What can happen to a daemon.
#[derive(Debug)]
pub enum Event {
    /// A signal that asks it to end.
    Terminate,
    /// The mount is gone.
    Ended(Result<(), String>),
    /// A thread panicked.
    Panicked,
}

/// Runs a daemon in this process until its mount is gone; `ready` is called once the mount
/// answers.
pub fn run(plan: &Plan, ready: &mut dyn FnMut(&Ready)) -> Result<(), Failure> {
    let options = MountOptions::parse(&plan.config.options).map_err(MountError::from)?;
    mount::check_able(&options)?;
    let point = mount::prepare(&plan.target, options.nonempty)?;
    let result = run_on(plan, options, &point, ready);
    if result.is_err() && point.created {
        // Only as empty as it was made; somebody else's files stay.
        let _ = std::fs::remove_dir(&point.target);
    }
    result
}

fn run_on(
    plan: &Plan,
    options: MountOptions,
    point: &mount::MountPoint,
    ready: &mut dyn FnMut(&Ready),
) -> Result<(), Failure> {
    if let Some(folder) = plan.config.cloud.as_ref().and_then(|place| place.url.folder()) {
        check_outside(&[nexus::folders::real(folder).unwrap_or_else(|_| folder.to_owned())], Some(&point.target))?;
    }
    let folder = open_folder(&plan.config)?;
    if plan.log_to_file {
        logger::to_file(&Layout::of(folder.path()).daemon_log)
            .map_err(|error| Failure::System("open the log", error))?;
    }
    log::info!("nexus-fuse {} opens {}", env!("CARGO_PKG_VERSION"), folder.path().display());
    let (events, happened) = mpsc::channel();
    panics::watch(events.clone());
    let made = !folder.is_finished();
    let fs_options =
        FsOptions { atime: options.atime_policy(), read_only: options.is_read_only(), caching_client: true };
    let volume = Arc::new(Volume::open(folder, &plan.config, fs_options)?);
    volume.set_room_policy(options.room_policy(RoomPolicy::default()));
    if let Err(problem) = check_outside(&volume.store_folders(), Some(&point.target)) {
        close(&volume)?;
        return Err(problem);
    }
    let served = serve(plan, options, &volume, events.clone());
    let (mounted, signals) = match served {
        Ok(served) => served,
        Err(failure) => {
            close(&volume)?;
            return Err(failure);
        }
    };
    let mut notes = Vec::new();
    let zones = zones(plan, &volume, &mounted, &mut notes)?;
    let attachments = Arc::new(attach(plan, &volume, &mounted)?);
    let (config, inside) = (plan.config.clone(), Inside { attachments: attachments.clone(), zones: zones.clone() });
    let handler = DaemonHandler::new(volume.clone(), mounted.clone(), attachments, zones, config);
    // Without a socket the mount works, and can be unmounted; only nobody can ask how it is.
    let server = Server::start(&Layout::of(volume.path()).socket, Arc::new(handler))
        .inspect_err(|error| log::error!("the control socket cannot be made: {error}"));
    notes.extend(volume.away().iter().cloned());
    for name in volume.emptied_stores() {
        let note = format!("store {name} was in memory: what files had there is gone, and reading it gives EIO");
        log::warn!("{note}");
        notes.push(note);
    }
    if point.cleared > 0 {
        notes.push("a dead daemon's mount was cleared away".to_owned());
    }
    if let Err(error) = &server {
        notes.push(format!("the control socket cannot be made ({error}), so status and fsck cannot ask the daemon"));
    }
    log::info!("{} is mounted at {}", plan.source, mounted.target().display());
    ready(&Ready {
        pid: std::process::id(),
        target: mounted.target().to_owned(),
        data: volume.path().to_owned(),
        made,
        throwaway: volume.identity().is_throwaway(),
        notes,
    });
    let ended = supervise(&happened, &mounted, &inside);
    inside.take_away();
    inside.zones.stop();
    drop(server);
    signals.end();
    let closed = match ended {
        Err(Failure::Panicked) => {
            // Nothing in this process is to be trusted with the volume any more.
            log::error!("the daemon stops; the next mount recovers the volume");
            std::process::exit(panics::EXIT_STATUS);
        }
        ended => close(&volume).and(ended),
    };
    if mounted.is_served() {
        // Threads that still answer users of the mount keep the volume's files open until this
        // process is gone, so nobody may have the folder before.
        std::mem::forget(volume);
    }
    log::info!("the daemon ends");
    closed
}

/// Refuses stores in folders of a mount of Nexus, which would wait for themselves, or of one that is
/// about to be made at `target`.
pub(super) fn check_outside(folders: &[PathBuf], target: Option<&Path>) -> Result<(), Failure> {
    let table = mount::table::nexus_mounts().unwrap_or_default();
    for folder in folders {
        let mut mounts = table.iter().map(|entry| entry.target.as_path()).chain(target);
        if let Some(mount) = mounts.find(|mount| folder.starts_with(mount)) {
            return Err(Failure::InMount { folder: folder.clone(), mount: mount.to_owned() });
        }
    }
    Ok(())
}

/// Locks the data folder. A daemon whose mount is gone is about to let go of it: waits for that.
fn open_folder(config: &Config) -> Result<DataFolder, Failure> {
    nexus::cloud::check_new(config)?;
    let cloud = nexus::cloud::new_place(config)?;
    let deadline = Instant::now() + CLOSING_PATIENCE;
    loop {
        match DataFolder::open_or_make_with(&config.data, config.drivers, cloud.clone()) {
            Err(nexus::Error::InUse { mounts, .. }) if is_closing(&mounts) && Instant::now() < deadline => {
                std::thread::sleep(CLOSING_PAUSE);
            }
            other => return Ok(other?),
        }
    }
}

/// Whether a daemon that was mounted at these places is mounted at none of them any more.
fn is_closing(mounts: &[PathBuf]) -> bool {
    let Ok(table) = mount::table::nexus_mounts() else { return false };
    !mounts.is_empty() && !mounts.iter().any(|target| table.iter().any(|entry| entry.target == *target))
}

/// Mounts, and has signals and the mount's end reported to `events`.
fn serve(
    plan: &Plan,
    options: MountOptions,
    volume: &Volume,
    events: Sender<Event>,
) -> Result<(Arc<Mounted>, SignalWatch), Failure> {
    let root = match &options.subdir {
        Some(path) => mount::resolve_subdir(volume.fs(), path)?,
        None => nexus_kernel::NodeId::ROOT,
    };
    let fs_type = mount::FS_TYPE;
    let (source, target, coherence) = (plan.source.clone(), plan.target.clone(), Coherence::Sole);
    let spec = MountSpec { source, target, options, coherence, fs_type };
    let signals = SignalWatch::start(events.clone()).map_err(|error| Failure::System("take signals", error))?;
    let mounted = Arc::new(mount::serve(spec, volume.fs().clone(), root)?);
    volume.note_mounts(&[mounted.target().to_owned()])?;
    let watched = mounted.clone();
    std::thread::Builder::new()
        .name("mount-watch".to_owned())
        .spawn(move || {
            let ended = watched.wait().map_err(|error| error.to_string());
            // Before the volume closes: the mount keeps its files open.
            drop(watched);
            let _ = events.send(Event::Ended(ended));
        })
        .map_err(|error| Failure::System("watch the mount", error))?;
    Ok((mounted, signals))
}

/// Attaches what was attached when the volume was last mounted.
fn attach(plan: &Plan, volume: &Volume, mounted: &Mounted) -> Result<Attachments, Failure> {
    let options = MountOptions::parse(&plan.config.options).map_err(MountError::from)?;
    let attachments = Attachments::new(volume.path(), mounted.target(), &options);
    attachments.restore();
    Ok(attachments)
}

/// What is mounted in the mount.
struct Inside {
    attachments: Arc<Attachments>,
    zones: Arc<ZoneMounts>,
}

impl Inside {
    /// Takes it away, whoever uses it.
    fn take_away(&self) {
        for taken in [self.attachments.suspend(Unmount::Lazy), self.zones.suspend(Unmount::Lazy)] {
            if let Err(problem) = taken {
                log::warn!("{problem}");
            }
        }
    }
}

/// Mounts the zones that stand in the mount, and listens for other nodes.
fn zones(
    plan: &Plan,
    volume: &Arc<Volume>,
    mounted: &Mounted,
    notes: &mut Vec<String>,
) -> Result<Arc<ZoneMounts>, Failure> {
    let options = MountOptions::parse(&plan.config.options).map_err(MountError::from)?;
    let zones = ZoneMounts::new(volume.clone(), mounted, &options);
    if let Err(problem) = zones.begin(&options) {
        log::error!("{problem}");
        notes.push(problem);
    }
    Ok(zones)
}

/// Waits until the mount is gone, and takes it away when told to.
fn supervise(happened: &Receiver<Event>, mounted: &Mounted, inside: &Inside) -> Result<(), Failure> {
    let mut deadline: Option<Instant> = None;
    loop {
        let event = match deadline {
            None => happened.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => happened.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Ended(Ok(()))) => return Ok(()),
            Ok(Event::Ended(Err(problem))) => {
                detach(mounted);
                return Err(Failure::System("serve the mount", std::io::Error::other(problem)));
            }
            Ok(Event::Panicked) => {
                detach(mounted);
                return Err(Failure::Panicked);
            }
            Ok(Event::Terminate) if deadline.is_none() => {
                log::info!("asked to end: unmounting {}", mounted.target().display());
                inside.take_away();
                match mounted.unmount(Unmount::WhenIdle) {
                    Ok(()) => {}
                    Err(error) => {
                        log::warn!("{error}; detaching it");
                        flush(mounted.target());
                        detach(mounted);
                    }
                }
                deadline = Some(Instant::now() + DETACH_PATIENCE);
            }
            Ok(Event::Terminate) => {}
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("files are still open; their users will get errors");
                return Ok(());
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Has the kernel hand over what programs wrote through mmap.
fn flush(target: &Path) {
    let flushed = std::fs::File::open(target).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    if let Err(error) = flushed {
        log::warn!("cannot flush {}: {error}", target.display());
    }
}

fn detach(mounted: &Mounted) {
    if let Err(error) = mounted.unmount(Unmount::Lazy) {
        log::error!("{error}");
    }
}

/// Refuses what may still come, makes all durable, and lets go of the folder.
fn close(volume: &Volume) -> Result<(), Failure> {
    log::info!("closing {}", volume.path().display());
    volume.close().inspect_err(|error| log::error!("{error}"))?;
    Ok(())
}

/// Turns signals into events.
struct SignalWatch {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl SignalWatch {
    fn start(events: Sender<Event>) -> std::io::Result<SignalWatch> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if signal != SIGHUP {
                    let _ = events.send(Event::Terminate);
                } else if let Err(error) = logger::reopen() {
                    log::error!("the log cannot be reopened: {error}");
                }
            }
        })?;
        Ok(SignalWatch { handle, thread })
    }

    /// Takes no more signals.
    fn end(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}
