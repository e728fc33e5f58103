//! `NexusFs`: the syscalls. Each finds its zone, turns the call into reads and commands,
//! and answers; rules of what a command does live in [`crate::machine`], bytes in
//! [`crate::content`]. The syscalls themselves are in the files of this folder, by theme.

mod ahead;
mod attributes;
mod builder;
mod clients;
mod data;
mod detached;
mod directory;
mod extents;
mod handles;
mod locks;
mod mount_points;
mod namespace;
mod open;
mod options;
mod placement;
mod ranges;
mod reaper;
mod releases;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod types;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::command::{Interest, Outcome};
use crate::content::ContentStore;
use crate::error::{Errno, Error, Result};
use crate::ids::{Ino, NodeId, ZoneIndex};
use crate::metastore::Metastore;
use crate::model::{FileKind, Inode, InodeFlags};
use crate::router::VfsRouter;
use crate::zone::Zone;

use ahead::ReadAhead;
use clients::Clients;
use handles::OpenCounts;
use locks::HeldLocks;
use reaper::{Holder, Reaper};

pub use builder::FsBuilder;
pub use clients::{Client, Notice};
pub use locks::{LockAsk, LockFound, LockTicket};
pub use mount_points::ZoneMount;
pub use options::{AtimePolicy, Consistency, FsOptions};
pub use types::{Attr, Caller, DirEntry, FsStats, OpenOptions, Seek, XattrFlags};

/// Orphans from an earlier run that are queued at once.
const LEFT_OVER_PAGE: usize = 65_536;
/// Orphans from an earlier run that are remembered when a read-only start becomes writable;
/// the others wait for the next start.
const LEFT_OVER_LIMIT: usize = 1 << 20;

/// The file system: every syscall, over the zones of a router and one content store.
///
/// Any number of threads may call at once. No lock is held while content is read or
/// written. What a call acknowledges survives as the zone and the content store promise.
/// Rights by mode bits and ACLs are the caller's business (FUSE's `default_permissions`).
pub struct NexusFs {
    // Before the rest: its thread ends first when the file system is dropped.
    reaper: Reaper,
    router: Arc<VfsRouter>,
    content: Arc<dyn ContentStore>,
    handles: Arc<OpenCounts>,
    next_handle: AtomicU64,
    held: HeldLocks,
    clients: Clients,
    ahead: ReadAhead,
    read_only: Arc<AtomicBool>,
    /// Zones whose orphans from an earlier run were not queued yet.
    unswept: Mutex<Vec<ZoneIndex>>,
    atime: AtomicU8,
    consistency: AtomicU8,
    no_majority_is_read_only: AtomicBool,
    caching_client: bool,
    /// Without a caching client: opening (read) and taking names (write) exclude each other,
    /// so that an inode is either seen open and kept, or gone before it is opened.
    open_gate: RwLock<()>,
}

impl NexusFs {
    /// Starts with a metastore alone; everything else can be left out.
    pub fn builder(metastore: Arc<dyn Metastore>) -> FsBuilder {
        FsBuilder::new(metastore)
    }

    /// Starts over a zone that is open already.
    pub fn with_zone(root: Arc<dyn Zone>, content: Arc<dyn ContentStore>, options: FsOptions) -> Result<NexusFs> {
        let router = Arc::new(VfsRouter::new(root));
        let handles = Arc::new(OpenCounts::new());
        let read_only = Arc::new(AtomicBool::new(options.read_only));
        let fs = NexusFs {
            reaper: Reaper::start(router.clone(), handles.clone(), read_only.clone())?,
            router,
            content,
            handles,
            next_handle: AtomicU64::new(1),
            held: HeldLocks::default(),
            clients: Clients::default(),
            ahead: ReadAhead::default(),
            read_only,
            unswept: Mutex::default(),
            atime: AtomicU8::new(options.atime as u8),
            consistency: AtomicU8::default(),
            no_majority_is_read_only: AtomicBool::default(),
            caching_client: options.caching_client,
            open_gate: RwLock::new(()),
        };
        fs.sweep(ZoneIndex(0))?;
        Ok(fs)
    }

    /// Adds a zone, and frees what it left over from an earlier run.
    pub fn attach(&self, zone: Arc<dyn Zone>) -> Result<ZoneIndex> {
        let index = self.router.attach(zone)?;
        self.sweep(index)?;
        Ok(index)
    }

    /// Adds a zone that other nodes have, too, at its place. What it left over is its own
    /// business: others may use it.
    pub fn attach_at(&self, index: ZoneIndex, zone: Arc<dyn Zone>) -> Result<()> {
        self.router.attach_at(index, zone)
    }

    /// Whether a file is open.
    pub fn is_open(&self, node: NodeId) -> bool {
        self.handles.is_open(node)
    }

    /// The mount table.
    pub fn router(&self) -> &Arc<VfsRouter> {
        &self.router
    }

    /// Where content goes.
    pub fn content(&self) -> &Arc<dyn ContentStore> {
        &self.content
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Refuses changes from now on, or takes them again. Calls that are under way finish.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let mut left_over = Vec::new();
        if !read_only {
            let mut unswept = self.unswept.lock();
            for &index in unswept.iter() {
                let zone = self.router.zone(index)?;
                let room = LEFT_OVER_LIMIT.saturating_sub(left_over.len());
                left_over.extend(self.reaper.left_over(index, &*zone, Ino(0), room)?);
            }
            unswept.clear();
        }
        self.read_only.store(read_only, Ordering::Release);
        self.reaper.enqueue_all(left_over);
        self.reaper.switched();
        Ok(())
    }

    /// When reads are noted, from now on.
    pub fn set_atime_policy(&self, policy: AtimePolicy) {
        self.atime.store(policy as u8, Ordering::Relaxed);
    }

    /// What readers of zones that others change may miss, from now on.
    pub fn set_consistency(&self, consistency: Consistency) {
        self.consistency.store(consistency as u8, Ordering::Relaxed);
        // What they keep was told under what held before.
        self.clients.replaced(None);
    }

    /// Has [`NexusFs::errno`] answer EROFS, in place of EIO, where no majority of a zone takes a change.
    pub fn set_no_majority_read_only(&self, read_only: bool) {
        self.no_majority_is_read_only.store(read_only, Ordering::Relaxed);
    }

    /// The errno for an error, as the client has asked for it.
    pub fn errno(&self, error: &Error) -> Errno {
        match error {
            Error::NoMajority(_) if self.no_majority_is_read_only.load(Ordering::Relaxed) => Errno::EROFS,
            error => error.errno(),
        }
    }

    fn consistency(&self) -> Consistency {
        Consistency::from_byte(self.consistency.load(Ordering::Relaxed))
    }

    /// Before what a program relies on being as others left it: opens, names that are not there. Answers
    /// whether anything may have changed by waiting.
    fn freshen(&self, zone: &dyn Zone, interest: Interest<'_>) -> Result<bool> {
        match self.consistency() {
            Consistency::CloseToOpen => zone.catch_up(interest),
            Consistency::Strict => zone.be_current(interest).map(|()| zone.is_replicated()),
            Consistency::Relaxed => Ok(false),
        }
    }

    /// Before a name or attributes that are here are told: only where nothing may be missed.
    fn freshen_if_strict(&self, zone: &dyn Zone, interest: Interest<'_>) -> Result<bool> {
        if self.is_strict() && zone.is_replicated() { self.freshen(zone, interest) } else { Ok(false) }
    }

    /// Whether readers of zones miss nothing that was acknowledged anywhere before they asked.
    pub fn is_strict(&self) -> bool {
        self.consistency() == Consistency::Strict
    }

    /// Frees the orphans that nobody uses any more, before it returns; else that happens
    /// behind the caller's back, soon.
    pub fn reap_now(&self) -> Result<()> {
        self.reaper.reap_now()
    }

    /// The client let go of all its references to these nodes.
    pub fn forget(&self, nodes: &[NodeId]) {
        // A client that opens files by itself tells of their end in no other way.
        for node in nodes {
            self.content.closed(node.ino());
        }
        self.reaper.forgotten(nodes);
    }

    /// Queues what a zone left over from an earlier run, or notes that it is to be done once
    /// changes are allowed.
    fn sweep(&self, index: ZoneIndex) -> Result<()> {
        if self.is_read_only() {
            self.unswept.lock().push(index);
            return Ok(());
        }
        let zone = self.router.zone(index)?;
        let mut after = Ino(0);
        loop {
            let page = self.reaper.left_over(index, &*zone, after, LEFT_OVER_PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.ino();
            self.reaper.enqueue_all(page);
        }
    }

    /// Refuses changes of a read-only file system.
    fn writable(&self) -> Result<()> {
        if self.is_read_only() { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Takes note of an inode that lost its last name by a command proposed with `keep`.
    fn after_removal(&self, index: ZoneIndex, zone: &dyn Zone, outcome: &Outcome) {
        if let Some(removed) = outcome.removed
            && removed.orphaned
            && !zone.is_replicated()
        {
            let holder = if self.caching_client { Holder::Client } else { Holder::Handles };
            self.reaper.orphaned(NodeId::new(index, removed.ino), holder);
        }
    }

    /// Notes a read, if the policy asks for it. A read never fails for that.
    fn touch(&self, zone: &dyn Zone, ino: Ino, inode: &Inode) {
        let policy = AtimePolicy::from_byte(self.atime.load(Ordering::Relaxed));
        // In a zone that others have too, a read would have to be agreed on by all.
        if policy == AtimePolicy::Never || self.is_read_only() || zone.is_replicated() {
            return;
        }
        let now = zone.now();
        if policy.is_due(inode, now)
            && let Err(error) = zone.propose(&crate::Command::SetAtime { ino, atime: now })
        {
            log::debug!("access time of inode {ino} not noted: {error}");
        }
    }
}

/// The inode that a node id names.
fn live(zone: &dyn Zone, ino: Ino) -> Result<Inode> {
    zone.inode(ino)?.ok_or(Error::Stale)
}

/// The inode of a directory.
fn directory_inode(router: &VfsRouter, zone: &dyn Zone, ino: Ino) -> Result<Inode> {
    let inode = live(zone, ino)?;
    match inode.is_dir() {
        true if inode.flags.has(InodeFlags::MOUNT) => Err(mount_points::not_entered(router, zone, ino)),
        true => Ok(inode),
        false => Err(Error::NotDirectory),
    }
}

/// The inode of a regular file.
fn regular_inode(zone: &dyn Zone, ino: Ino) -> Result<Inode> {
    let inode = live(zone, ino)?;
    regular(&inode)?;
    Ok(inode)
}

/// Refuses anything but a regular file.
fn regular(inode: &Inode) -> Result<()> {
    match inode.kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory | FileKind::Mount => Err(Error::IsDirectory),
        FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(Error::Invalid)
        }
    }
}

/// The inode that a command answered with.
fn answered(index: ZoneIndex, outcome: &Outcome) -> Result<Attr> {
    let (ino, inode) = outcome.inode.ok_or_else(|| Error::Corrupt("a command answered without its inode".into()))?;
    Ok(Attr { node: NodeId::new(index, ino), inode })
}
