//! An [`Adapter`] as a session serves it: requests unpacked, replies packed, errors turned into
//! their numbers.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_fuse_transport::abi::{O_APPEND, fopen, init};
use nexus_fuse_transport::{
    Answer, Attr, Bulk, CopyRange, Entry, Errno, Forget, FsStat, Handler, Header, Listing, ListingEntry, Notifier,
    Opened, Operation, Settings,
};
use nexus_kernel::fs::{Caller, Client, LockTicket};
use nexus_kernel::interrupt::Requests;
use nexus_kernel::model::FileKind;
use nexus_kernel::{Error, Name, NodeId, Result, ZoneIndex};

use super::calls::Calls;
use super::notices::{Notices, Since};
use super::ops::Adapter;
use super::references::References;
use super::translate::{XattrAnswer, xattr_answer};
use super::view::{BLOCK_BYTES, Coherence, FILE_TTL, LONG_TTL, NAME_TTL, kind_bits};
use super::waits::LockWaits;

/// The bits of `st_mode` that tell the kind.
const S_IFMT: u32 = 0o170_000;

/// An [`Adapter`] behind a session.
pub struct Served {
    adapter: Adapter,
    /// Whether the kernel opens files by itself and asks for nothing: it keeps their pages from
    /// one open to the next then, and holds the node while a file is open.
    opens_itself: bool,
    references: Arc<References>,
    calls: Calls,
    notices: Notices,
    /// Whether the zone has another mount on this node, too.
    is_accompanied: AtomicBool,
    requests: Requests,
    waits: LockWaits,
}

impl Served {
    /// Serves `adapter`.
    pub fn new(adapter: Adapter) -> Served {
        let references = Arc::new(References::new());
        Served {
            opens_itself: adapter.keeps_cache(),
            references: references.clone(),
            calls: Calls::default(),
            notices: Notices::new(references),
            is_accompanied: AtomicBool::new(false),
            requests: Requests::default(),
            waits: LockWaits::default(),
            adapter,
        }
    }

    /// Tells the kernel of what other nodes change by this.
    pub fn tell_by(&self, notifier: Notifier) {
        self.notices.by(notifier);
    }

    /// What to ask of the kernel. Left out on purpose: ATOMIC_O_TRUNC (the kernel would have a
    /// running program's file cut before it answers ETXTBSY), the writeback cache (an
    /// acknowledged write must survive SIGKILL), and, where nobody else has the files, POSIX_LOCKS
    /// and FLOCK_LOCKS (the kernel keeps locks itself, OFD ones too).
    pub fn settings(&self) -> Settings {
        let wanted = init::ASYNC_READ
            | init::EXPORT_SUPPORT
            | init::PARALLEL_DIROPS
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::DONT_MASK
            | init::POSIX_ACL
            | init::HANDLE_KILLPRIV_V2
            | init::CACHE_SYMLINKS
            | init::ASYNC_DIO
            | init::NO_OPENDIR_SUPPORT
            | init::CREATE_SUPP_GROUP
            | init::HAS_EXPIRE_ONLY;
        let shared = match self.adapter.view().coherence {
            Coherence::Sole => 0,
            Coherence::Shared => {
                init::AUTO_INVAL_DATA | init::POSIX_LOCKS | init::FLOCK_LOCKS | init::DIRECT_IO_ALLOW_MMAP
            }
        };
        Settings { wanted: wanted | shared, ..Settings::default() }
    }

    /// What the kernel is told of a node; it will say when it lets go of it.
    fn entry(&self, attr: Attr, since: Option<Since>) -> Entry {
        self.references.add(attr.ino);
        // Only now: whoever hears of a change afterwards finds the reference, and tells the kernel.
        Entry { node: attr.ino, attr, ttl: self.ttl(&attr, since, true) }
    }

    /// What has been heard of others' changes.
    fn now(&self) -> Option<Since> {
        self.notices.now()
    }

    /// How long the kernel may keep attributes that were looked up since then, and the name that they were looked
    /// up by; it is certain that they will be told, or they are only listed.
    fn ttl(&self, attr: &Attr, since: Option<Since>, is_certain: bool) -> Duration {
        let is_directory = attr.mode & S_IFMT == kind_bits(FileKind::Directory);
        match self.adapter.view().coherence {
            Coherence::Sole => LONG_TTL,
            // Writes through another mount of this node count at once, and are told of only later.
            Coherence::Shared if self.is_accompanied.load(Ordering::SeqCst) => Duration::ZERO,
            Coherence::Shared if self.adapter.is_strict() || !self.notices.may_keep(attr.ino, since, is_certain) => {
                Duration::ZERO
            }
            Coherence::Shared if is_directory || !self.notices.tells_names() => NAME_TTL,
            Coherence::Shared => FILE_TTL,
        }
    }

    fn lookup(&self, parent: u64, name: &[u8], since: Option<Since>) -> Result<Answer> {
        match self.adapter.lookup(parent, name)? {
            Some(attr) => Ok(Answer::Entry(self.entry(attr, since))),
            // The kernel keeps the absence of a name, too, where nobody else could make it.
            None if !self.is_shared() => Ok(Answer::Entry(Entry { ttl: LONG_TTL, ..Entry::default() })),
            None => Err(Error::NotFound),
        }
    }

    fn copy(&self, header: &Header, copy: &CopyRange) -> Result<Answer> {
        // An answer of 32 bits is cut at a whole page.
        const MOST: u64 = 0xffff_f000;
        let len = if copy.wide { copy.len } else { copy.len.min(MOST) };
        let (from, to) = ((header.node, copy.offset_in), (copy.node_out, copy.handle_out, copy.offset_out));
        let copied = self.adapter.copy_file_range(header, from, to, len, copy.flags)?;
        Ok(if copy.wide { Answer::Copied(copied) } else { Answer::Written(copied as u32) })
    }

    fn statfs(&self, node: u64) -> Result<Answer> {
        let unit = u64::from(BLOCK_BYTES);
        let stats = self.adapter.statfs(node)?;
        Ok(Answer::Statfs(FsStat {
            blocks: stats.total_bytes / unit,
            bfree: stats.free_bytes / unit,
            bavail: stats.available_bytes / unit,
            files: stats.used_inodes.saturating_add(stats.free_inodes),
            ffree: stats.free_inodes,
            bsize: BLOCK_BYTES,
            namelen: Name::MAX_BYTES as u32,
        }))
    }

    fn answer(&self, header: &Header, operation: Operation<'_>) -> Result<Answer> {
        let (adapter, node) = (&self.adapter, header.node);
        let caller = |umask| Caller { uid: header.uid, gid: header.gid, umask };
        let since = self.now();
        let made = |attr| Answer::Entry(self.entry(attr, since));
        let known = |attr| (attr, self.ttl(&attr, since, true));
        let done = |()| Answer::Done;
        match operation {
            Operation::Lookup { name } => self.lookup(node, name, since),
            Operation::Getattr { .. } => adapter.getattr(node).map(known).map(|(attr, ttl)| Answer::Attr(attr, ttl)),
            Operation::Statx { .. } => adapter.getattr(node).map(known).map(|(attr, ttl)| Answer::Statx(attr, ttl)),
            Operation::Setattr(set) => {
                adapter.setattr(header, node, &set).map(known).map(|(attr, ttl)| Answer::Attr(attr, ttl))
            }
            Operation::Readlink => adapter.readlink(node).map(Answer::Data),
            Operation::Symlink { name, target, .. } => adapter.symlink(&caller(0), node, name, target).map(made),
            Operation::Mknod { name, mode, rdev, umask, .. } => {
                adapter.mknod(&caller(umask), node, name, mode, rdev).map(made)
            }
            Operation::Mkdir { name, mode, umask, .. } => adapter.mkdir(&caller(umask), node, name, mode).map(made),
            // The kernel makes the file with MKNOD then, and opens it by itself.
            Operation::Create { .. } | Operation::Open { .. } if self.opens_itself => Ok(Answer::Error(Errno::ENOSYS)),
            Operation::Create { name, mode, umask, flags, kill_privileges, .. } => {
                let (attr, handle) = adapter.create(&caller(umask), node, name, mode, flags, kill_privileges)?;
                Ok(Answer::Created(self.entry(attr, since), Opened { handle, flags: self.reply_flags(flags) }))
            }
            Operation::Tmpfile { mode, umask, .. } => {
                let (attr, handle) = adapter.tmpfile(&caller(umask), node, mode)?;
                let flags = if self.opens_itself { fopen::KEEP_CACHE } else { 0 };
                let created = Answer::Created(self.entry(attr, since), Opened { handle, flags });
                if self.opens_itself {
                    // Nobody will tell of its end but FORGET.
                    adapter.release(attr.ino, handle)?;
                }
                Ok(created)
            }
            Operation::Unlink { name } => adapter.unlink(node, name).map(done),
            Operation::Rmdir { name } => adapter.rmdir(node, name).map(done),
            Operation::Rename { name, new_parent, new_name, flags } => {
                adapter.rename(node, name, new_parent, new_name, flags).map(done)
            }
            Operation::Link { node: file, name } => adapter.link(file, node, name).map(made),
            Operation::Open { flags, kill_privileges } => {
                let handle = adapter.open(header, node, flags, kill_privileges)?;
                Ok(Answer::Opened(Opened { handle, flags: self.reply_flags(flags) }))
            }
            Operation::Write { handle, data, append: true, kill_privileges, .. } if self.is_shared() => {
                adapter.append(header, node, handle, data, kill_privileges).map(Answer::Written)
            }
            Operation::Write { handle, offset, data, kill_privileges, .. } => {
                adapter.write(header, node, handle, offset, data, kill_privileges).map(Answer::Written)
            }
            Operation::Release { handle, .. } => adapter.release(node, handle).map(done),
            Operation::Fsync { handle, data_only } => adapter.fsync(node, handle, data_only).map(done),
            Operation::Fsyncdir { data_only, .. } => adapter.fsyncdir(node, data_only).map(done),
            Operation::Syncfs => adapter.fsync(node, 0, false).map(done),
            Operation::Statfs => self.statfs(node),
            Operation::Setxattr(set) => {
                adapter.setxattr(node, set.name, set.value, set.flags, set.kill_setgid).map(done)
            }
            Operation::Getxattr { name, size } => fit(adapter.getxattr(node, name)?, size),
            Operation::Listxattr { size } => fit(adapter.listxattr(&caller(0), node)?.into(), size),
            Operation::Removexattr { name } => adapter.removexattr(node, name).map(done),
            Operation::Fallocate(ask) => adapter.fallocate(header, node, &ask).map(done),
            Operation::Lseek { offset, whence, .. } => adapter.lseek(node, offset, whence).map(Answer::Offset),
            Operation::CopyFileRange(copy) => self.copy(header, &copy),
            Operation::Opendir { .. } => Ok(self.opendir()),
            Operation::Releasedir { .. } => Ok(Answer::Done),
            Operation::Destroy => {
                self.waits.end();
                self.references.clear();
                Ok(Answer::Done)
            }
            Operation::Ioctl { .. } => Ok(Answer::Error(Errno::ENOTTY)),
            Operation::Flush { handle, owner } if self.is_shared() => adapter.flush(node, handle, owner).map(done),
            Operation::Getlk(request) if self.is_shared() => adapter.getlk(node, &request).map(Answer::Lock),
            Operation::Setlk { request, wait: false } if self.is_shared() => {
                adapter.setlk(node, &request, None).map(done)
            }
            Operation::Setlk { request, wait: true } if self.is_shared() => {
                let work = |ticket: &LockTicket| adapter.setlk(node, &request, Some(ticket));
                self.waits.wait(header.unique, work).map(done)
            }
            // What the kernel does itself once it is told that nobody here does. Of FLUSH: each
            // write is answered with its own fate, so closing has nothing to add, and the kernel
            // writes dirty pages of mappings at close all the same.
            Operation::Flush { .. }
            | Operation::Access { .. }
            | Operation::Getlk(_)
            | Operation::Setlk { .. }
            | Operation::Unknown => Ok(Answer::Error(Errno::ENOSYS)),
        }
    }

    /// The errno to answer; what a person should know of is logged here, where it ends.
    fn failed(&self, header: &Header, error: &Error) -> Errno {
        if error.is_unclear() || matches!(error, Error::Corrupt(_) | Error::UnknownVersion(_)) {
            log::error!("{} of node {} failed: {error}", header.name(), header.node);
        }
        Errno::new(self.adapter.errno(error) as i32)
    }

    /// Whether other nodes have the files, too. Locks are kept here then, as they hold there.
    fn is_shared(&self) -> bool {
        self.adapter.view().coherence == Coherence::Shared
    }

    /// What to tell the kernel of a descriptor opened with these flags. Where others append, too, the
    /// kernel does not know where what is appended comes to lie, and must not keep it in its pages. Nor
    /// may it where nothing is to be missed: of a file that another node makes longer, a reader meets
    /// zeros in the last page whose bytes were read before the new size was learned.
    fn reply_flags(&self, open: u32) -> u32 {
        let direct = self.is_shared() && (open & O_APPEND != 0 || self.adapter.is_strict());
        if direct { fopen::DIRECT_IO } else { 0 }
    }

    /// Listings go by cookies and need no handle; the kernel asks once, and then keeps
    /// listings in its page cache until the directory changes.
    fn opendir(&self) -> Answer {
        match self.adapter.view().coherence {
            Coherence::Sole => Answer::Error(Errno::ENOSYS),
            Coherence::Shared => Answer::Opened(Opened::default()),
        }
    }

    fn list(&self, node: u64, cookie: u64, with_attr: bool, out: &mut [u8]) -> Result<usize> {
        let mut listing = Listing::new(out);
        let since = self.now();
        self.adapter.list(node, cookie, with_attr, &mut |entry, id, attr| {
            let mode = kind_bits(entry.kind);
            let line = ListingEntry { name: &entry.name, ino: id, next: entry.cookie, mode };
            let added = match attr {
                _ if !with_attr => listing.add(&line),
                Some(attr) => {
                    // Of what it is listed the kernel does not know whether it was told of a change meanwhile.
                    let ttl = if self.is_shared() { self.ttl(&attr, since, false).min(NAME_TTL) } else { LONG_TTL };
                    let added = listing.add_plus(&line, &Entry { node: attr.ino, attr, ttl });
                    if added {
                        self.references.add(attr.ino);
                    }
                    added
                }
                None => listing.add_plus(&line, &Entry::unknown(id, mode)),
            };
            if added { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(listing.len())
    }
}

impl Handler for Served {
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer {
        let _at = self.requests.enter(header.unique, header.pid);
        let _call = (self.is_shared() && gives_nodes(&operation)).then(|| self.calls.begin());
        let answer = self.answer(header, operation).unwrap_or_else(|error| Answer::Error(self.failed(header, &error)));
        // Whoever waited for others' changes finds them all.
        self.notices.deliver();
        answer
    }

    fn fill(&self, header: &Header, bulk: Bulk, out: &mut [u8]) -> std::result::Result<usize, Errno> {
        let _at = self.requests.enter(header.unique, header.pid);
        let _call = (self.is_shared() && matches!(bulk, Bulk::Readdirplus { .. })).then(|| self.calls.begin());
        let filled = match bulk {
            Bulk::Read { handle, offset, .. } => self.adapter.read(header.node, handle, offset, out),
            Bulk::Readdir { offset, .. } => self.list(header.node, offset, false, out),
            Bulk::Readdirplus { offset, .. } => self.list(header.node, offset, true, out),
        };
        self.notices.deliver();
        filled.map_err(|error| self.failed(header, &error))
    }

    fn forget(&self, forgotten: &[Forget]) {
        let gone = forgotten.iter().filter(|forget| self.references.remove(forget.node, forget.lookups));
        self.adapter.forget(gone.map(|forget| forget.node));
    }

    fn interrupt(&self, unique: u64) {
        self.requests.interrupt(unique);
        self.waits.interrupt(unique);
    }
}

impl Client for Served {
    fn zone(&self) -> ZoneIndex {
        self.adapter.view().root.zone()
    }

    fn has(&self, node: NodeId) -> bool {
        self.references.has(self.adapter.view().fuse_id(node))
    }

    fn settle(&self, until: Instant) -> bool {
        self.calls.settle(until)
    }

    fn changed(&self, nodes: &[NodeId]) {
        self.notices.changed(nodes.iter().map(|node| self.adapter.view().fuse_id(*node)), false);
    }

    fn renamed(&self, nodes: &[NodeId]) {
        self.notices.changed(nodes.iter().map(|node| self.adapter.view().fuse_id(*node)), true);
    }

    fn replaced(&self) {
        self.notices.replaced();
    }

    fn accompanied(&self) {
        self.is_accompanied.store(true, Ordering::SeqCst);
        self.notices.replaced();
    }
}

/// Whether the answer may tell the kernel of a node, or open one.
fn gives_nodes(operation: &Operation<'_>) -> bool {
    matches!(
        operation,
        Operation::Lookup { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Symlink { .. }
            | Operation::Link { .. }
            | Operation::Create { .. }
            | Operation::Tmpfile { .. }
            | Operation::Open { .. }
    )
}

/// Fits an attribute's value to the caller's buffer.
fn fit(value: Bytes, size: u32) -> Result<Answer> {
    Ok(match xattr_answer(&value, size)? {
        XattrAnswer::Size(len) => Answer::XattrSize(len),
        XattrAnswer::Data(_) => Answer::Data(value),
    })
}
