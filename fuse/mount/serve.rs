//! Mounting a file system and serving it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nexus_fuse_transport::{Handler, Session, SessionError, Settings, Transport};
use nexus_kernel::fs::Client;
use nexus_kernel::{NexusFs, NodeId};

use super::change::{Unmount, unmount};
use super::error::MountError;
use super::options::MountOptions;
use super::point::{MountPoint, prepare};
use super::table::mount_at;
use super::{direct, fusermount, is_root};
use crate::adapter::{Adapter, AdapterOptions, Coherence, MOST_WAITS, Ownership, Served, View};

/// Read-ahead of the mount, in KiB: one request of the largest size.
const READ_AHEAD_KIB: u32 = 1024;
/// Threads that may block in requests from the device at once; beyond, requests wait in the kernel.
const MOST_THREADS: usize = 64;

/// What to mount where.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The volume's name, shown as the source in /proc/mounts.
    pub source: String,
    /// The mount point.
    pub target: PathBuf,
    /// Parsed options.
    pub options: MountOptions,
    /// Whether this is the only mount of the file system.
    pub coherence: Coherence,
    /// Its type, as /proc/mounts shows it.
    pub fs_type: &'static str,
}

impl MountSpec {
    /// A sole mount of `source` on `target` with default options.
    pub fn new(source: impl Into<String>, target: impl Into<PathBuf>) -> MountSpec {
        MountSpec {
            source: source.into(),
            target: target.into(),
            options: MountOptions::default(),
            coherence: Coherence::Sole,
            fs_type: super::FS_TYPE,
        }
    }
}

/// A mount that is being served. Dropping it takes the mount away, lazily if need be.
#[derive(Debug)]
pub struct Mounted {
    source: String,
    target: PathBuf,
    device: (u32, u32),
    created: bool,
    cleared: usize,
    view: View,
    session: Session,
}

impl Mounted {
    /// The volume's name.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The mount point, absolute and without links.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether the mount point was not there and has been made.
    pub fn created_target(&self) -> bool {
        self.created
    }

    /// Dead mounts of earlier daemons that were detached from the mount point.
    pub fn cleared_stale(&self) -> usize {
        self.cleared
    }

    /// The node that `stat` shows with this inode number.
    pub fn node(&self, st_ino: u64) -> NodeId {
        self.view.node(st_ino)
    }

    /// What carries the kernel's requests.
    pub fn transport(&self) -> Transport {
        self.session.transport()
    }

    /// Why that is not io_uring; `None` if it is.
    pub fn why_not_ring(&self) -> Option<&str> {
        self.session.why_not_ring()
    }

    /// Whether it is still mounted and served.
    pub fn is_served(&self) -> bool {
        self.session.is_served()
    }

    /// Waits until the mount is gone, by whomever.
    pub fn wait(&self) -> Result<(), MountError> {
        let failed = |text: String| MountError::Session { target: self.target.clone(), error: io::Error::other(text) };
        self.session.wait().map_err(failed)
    }

    /// Takes the mount away. Done already is fine.
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        if !self.is_here() {
            return Ok(());
        }
        unmount(&self.target, how)
    }

    /// Whether what stands at the mount point is this mount, and not a later one.
    fn is_here(&self) -> bool {
        matches!(mount_at(&self.target), Ok(Some(entry)) if entry.device == self.device && entry.is_ours())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Unmount::Lazy) {
            log::warn!("{error}");
        }
    }
}

/// Mounts the directory `root` of `fs` as `spec` tells; returns once the mount answers.
/// With a sole mount, its atime policy becomes the file system's.
pub fn serve(spec: MountSpec, fs: Arc<NexusFs>, root: NodeId) -> Result<Mounted, MountError> {
    let point = prepare(&spec.target, spec.options.nonempty)?;
    if spec.coherence == Coherence::Sole {
        fs.set_atime_policy(spec.options.atime_policy());
        fs.set_consistency(spec.options.consistency.unwrap_or_default());
        fs.set_no_majority_read_only(spec.options.zone_read_only == Some(true));
    }
    let view =
        View { root, owner: Ownership { uid: spec.options.uid, gid: spec.options.gid }, coherence: spec.coherence };
    let served = Arc::new(Served::new(adapter(&spec, fs.clone(), view)));
    if spec.coherence == Coherence::Shared {
        let client: Arc<dyn Client> = served.clone();
        fs.add_client(Arc::downgrade(&client));
    }
    let settings = served.settings();
    let mounted = start(spec.fs_type, spec.source, &spec.options, (point, view), served.clone(), &settings)?;
    served.tell_by(mounted.session.notifier());
    Ok(mounted)
}

/// Mounts an attached bucket, which `handler` answers for, on the empty directory `target`.
pub fn serve_attached(
    source: &str,
    target: &Path,
    options: &MountOptions,
    handler: Arc<dyn Handler>,
    settings: &Settings,
) -> Result<Mounted, MountError> {
    let point = prepare(target, false)?;
    let view = View { root: NodeId::ROOT, owner: Ownership::default(), coherence: Coherence::Shared };
    start(super::ATTACHED_TYPE, source.to_owned(), options, (point, view), handler, settings)
}

fn start(
    fs_type: &str,
    source: String,
    options: &MountOptions,
    (point, view): (MountPoint, View),
    handler: Arc<dyn Handler>,
    settings: &Settings,
) -> Result<Mounted, MountError> {
    let target = point.target;
    let (device, undo): (_, fn(&Path)) = if is_root() {
        (direct::mount(fs_type, &source, &target, options)?, |target| drop(direct::unmount(target, true)))
    } else {
        (fusermount::mount(fs_type, &source, &target, options)?, |target| drop(fusermount::unmount(target, true)))
    };
    let standing = mount_at(&target).ok().flatten().filter(super::table::Entry::is_ours);
    let choice = options.transport.unwrap_or_default();
    // Those that wait for locks keep none from the others.
    let most = if view.coherence == Coherence::Shared { MOST_THREADS + MOST_WAITS } else { MOST_THREADS };
    let started = Session::start(device, handler, settings, choice, default_threads(), most);
    let session = started.map_err(|error| {
        undo(&target);
        MountError::Session { target: target.clone(), error: cause(error) }
    })?;
    // From here on the mount stands, and goes again if anything fails.
    let mounted = Mounted {
        source,
        target,
        device: standing.map(|entry| entry.device).unwrap_or_default(),
        created: point.created,
        cleared: point.cleared,
        view,
        session,
    };
    // The session threads answer this; a refusal is an answer too, but a dead mount's is not.
    if let Err(errno @ (rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)) =
        rustix::fs::statfs(&mounted.target)
    {
        return Err(MountError::Session { target: mounted.target.clone(), error: errno.into() });
    }
    widen_read_ahead(mounted.device);
    Ok(mounted)
}

fn adapter(spec: &MountSpec, fs: Arc<NexusFs>, view: View) -> Adapter {
    let options = &spec.options;
    let sync = options.sync == Some(true);
    let adapter = AdapterOptions {
        sync_names: sync || options.dirsync == Some(true),
        sync_attributes: sync,
        note_every_read: options.atime_policy() == nexus_kernel::fs::AtimePolicy::Strict,
    };
    Adapter::new(fs, view, adapter)
}

/// A session's error as what it is, or as what it says.
fn cause(error: SessionError) -> io::Error {
    match error {
        SessionError::Device(error) => error,
        error => io::Error::other(error),
    }
}

/// Enough to answer while one thread waits for a disk, few enough to share two cores.
fn default_threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

/// Reads ahead further than the kernel's 128 KiB, whatever INIT says. Root only, and only
/// for speed, so a failure is no matter.
fn widen_read_ahead((major, minor): (u32, u32)) {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("{path}: {error}");
    }
}

/// The directory of `fs` that `subdir=PATH` names. Links are not followed.
pub fn resolve_subdir(fs: &NexusFs, path: &Path) -> Result<NodeId, MountError> {
    use std::os::unix::ffi::OsStrExt;
    let refused = |error| MountError::Subdir { path: path.to_owned(), error };
    let mut node = NodeId::ROOT;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                let attr = fs.lookup(node, name.as_bytes()).map_err(refused)?;
                if !attr.inode.is_dir() {
                    return Err(refused(nexus_kernel::Error::NotDirectory));
                }
                node = attr.node;
            }
            Component::ParentDir | Component::Prefix(_) => return Err(refused(nexus_kernel::Error::Invalid)),
        }
    }
    Ok(node)
}
