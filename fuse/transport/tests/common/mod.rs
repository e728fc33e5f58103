//! A small file system whose every answer a test can watch, delay and change, and its mount.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nexus_fuse_transport::abi::{fopen, init};
use nexus_fuse_transport::{
    Answer, Attr, Bulk, Choice, Entry, Errno, Forget, FsStat, Handler, Header, Listing, ListingEntry, Notifier, Opened,
    Operation, Session, Settings, Time, Transport,
};
use parking_lot::{Condvar, Mutex};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// Node of the file "plain".
pub const PLAIN: u64 = 2;
const DIR: u64 = 3;
const DIRECT: u64 = 4;
const SLOW_DIRECT: u64 = 5;
/// Node of "slow-0"; the others follow.
const SLOW: u64 = 100;
/// Bytes of "direct".
pub const BIG: usize = (3 << 20) + 4097;
/// How long a condition may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(600);

/// What the file system holds, and what it was asked.
#[derive(Clone, Default)]
pub struct State {
    pub plain: Vec<u8>,
    pub direct: Vec<u8>,
    pub lookups: u64,
    pub largest_write: usize,
    /// For each lock, whether it came from flock(2).
    pub locks: Vec<bool>,
    /// Requests in the handler that wait, and all that ever did.
    pub blocked: usize,
    pub blocked_requests: Vec<u64>,
    pub interrupted: Vec<u64>,
    pub released: bool,
    pub told: HashMap<u64, u64>,
    pub forgotten: HashMap<u64, u64>,
}

/// The state, and who waits for it to change.
#[derive(Default)]
pub struct Watched {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watched {
    pub fn get<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Lets all that wait go on.
    pub fn release(&self) {
        self.change(|state| state.released = true);
    }

    /// Waits for a condition; answers the state in which it held.
    pub fn wait_for(&self, holds: impl Fn(&State) -> bool) -> State {
        let mut state = self.state.lock();
        while !holds(&state) {
            assert!(!self.changed.wait_for(&mut state, PATIENCE).timed_out(), "the condition never held");
        }
        state.clone()
    }

    /// Holds request `unique` until it is released or interrupted.
    fn block(&self, unique: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.blocked += 1;
        state.blocked_requests.push(unique);
        self.changed.notify_all();
        while !state.released && !state.interrupted.contains(&unique) {
            self.changed.wait(&mut state);
        }
        state.blocked -= 1;
        if state.released { Ok(()) } else { Err(Errno::new(4)) }
    }
}

struct TestFs(Arc<Watched>);

impl TestFs {
    fn attr(&self, node: u64) -> Attr {
        let (mode, size) = match node {
            1 | DIR => (0o040_755, 0),
            PLAIN => (0o100_644, self.0.get(|state| state.plain.len())),
            DIRECT => (0o100_644, BIG),
            _ => (0o100_644, 4),
        };
        let btime = Time { sec: 1_000_000_007, nsec: 5 };
        let atime = Time { sec: -77, nsec: 0 };
        Attr { ino: node, size: size as u64, mode, nlink: 1, blksize: 4096, btime, atime, ..Attr::default() }
    }

    fn node(name: &[u8]) -> Option<u64> {
        match name {
            b"plain" => Some(PLAIN),
            b"dir" => Some(DIR),
            b"direct" => Some(DIRECT),
            b"slow-direct" => Some(SLOW_DIRECT),
            name => Some(SLOW + std::str::from_utf8(name.strip_prefix(b"slow-")?).ok()?.parse::<u64>().ok()?),
        }
    }
}

impl Handler for TestFs {
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer {
        match operation {
            Operation::Lookup { name } => match TestFs::node(name) {
                None => Errno::ENOENT.into(),
                Some(node) => {
                    self.0.change(|state| {
                        state.lookups += 1;
                        *state.told.entry(node).or_default() += 1;
                    });
                    Answer::Entry(Entry { node, attr: self.attr(node), ttl: TTL })
                }
            },
            Operation::Getattr { .. } => Answer::Attr(self.attr(header.node), TTL),
            Operation::Statx { .. } => Answer::Statx(self.attr(header.node), TTL),
            Operation::Setattr(_) => Answer::Attr(self.attr(header.node), TTL),
            Operation::Open { .. } => {
                let direct = matches!(header.node, DIRECT | SLOW_DIRECT);
                let flags = if direct { fopen::DIRECT_IO } else { fopen::KEEP_CACHE };
                Answer::Opened(Opened { handle: 1, flags })
            }
            Operation::Write { offset, data, .. } => self.0.change(|state| {
                state.largest_write = state.largest_write.max(data.len());
                let from = offset as usize;
                match state.direct.get_mut(from..from + data.len()) {
                    Some(room) => {
                        room.copy_from_slice(data);
                        Answer::Written(data.len() as u32)
                    }
                    None => Errno::EINVAL.into(),
                }
            }),
            Operation::Setlk { request, .. } => {
                self.0.change(|state| state.locks.push(request.flock));
                Answer::Done
            }
            Operation::Unlink { .. } => self.0.block(header.unique).map_or_else(Answer::Error, |()| Answer::Done),
            Operation::Statfs => Answer::Statfs(FsStat { bsize: 4096, namelen: 255, ..FsStat::default() }),
            Operation::Release { .. } | Operation::Releasedir { .. } | Operation::Fsync { .. } => Answer::Done,
            _ => Errno::ENOSYS.into(),
        }
    }

    fn fill(&self, header: &Header, bulk: Bulk, out: &mut [u8]) -> Result<usize, Errno> {
        let content = match (header.node, bulk) {
            (_, Bulk::Readdir { offset, .. } | Bulk::Readdirplus { offset, .. }) => {
                let plus = matches!(bulk, Bulk::Readdirplus { .. });
                let mut listing = Listing::new(out);
                for (position, node, name) in [(1, PLAIN, &b"plain"[..]), (2, DIR, b"dir")] {
                    let attr = self.attr(node);
                    let entry = ListingEntry { name, ino: node, next: position, mode: attr.mode };
                    let added = position <= offset
                        || if plus {
                            listing.add_plus(&entry, &Entry { node, attr, ttl: TTL })
                        } else {
                            listing.add(&entry)
                        };
                    if plus && added && position > offset {
                        self.0.change(|state| *state.told.entry(node).or_default() += 1);
                    }
                }
                return Ok(listing.len());
            }
            (PLAIN, _) => self.0.get(|state| state.plain.clone()),
            (DIRECT, _) => self.0.get(|state| state.direct.clone()),
            _ => {
                self.0.block(header.unique)?;
                b"slow".to_vec()
            }
        };
        let Bulk::Read { offset, .. } = bulk else { return Err(Errno::EINVAL) };
        let rest = content.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(out.len());
        out.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(len)
    }

    fn forget(&self, forgotten: &[Forget]) {
        self.0.change(|state| {
            for forget in forgotten {
                *state.forgotten.entry(forget.node).or_default() += forget.lookups;
            }
        });
    }

    fn interrupt(&self, unique: u64) {
        self.0.change(|state| state.interrupted.push(unique));
    }
}

/// A mount of the file system, which goes when it is dropped.
pub struct Mount {
    state: Arc<Watched>,
    session: Session,
    device: u64,
    dir: TempDir,
}

impl Mount {
    pub fn new(transport: Transport) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("test", dir.path(), "fuse", MountFlags::empty(), data.as_c_str()).unwrap();
        let state = Arc::new(Watched::default());
        state.change(|state| {
            state.plain = b"first".to_vec();
            state.direct = vec![0; BIG];
        });
        let wanted =
            init::POSIX_LOCKS | init::FLOCK_LOCKS | init::ASYNC_READ | init::DO_READDIRPLUS | init::HAS_EXPIRE_ONLY;
        let settings = Settings { wanted, ..Settings::default() };
        let handler = Arc::new(TestFs(Arc::clone(&state)));
        let session = Session::start(fuse.into(), handler, &settings, Choice::Only(transport), 2, 64);
        let session = session
            .inspect_err(|_| {
                let _ = rustix::mount::unmount(dir.path(), UnmountFlags::DETACH);
            })
            .unwrap();
        assert_eq!(session.transport(), transport);
        let device = fs::metadata(dir.path()).unwrap().dev();
        Mount { state, session, device, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> &Watched {
        &self.state
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }

    /// Has the kernel give the connection up, by its control file system.
    pub fn abort(&self) {
        let control = tempfile::tempdir().unwrap();
        rustix::mount::mount("none", control.path(), "fusectl", MountFlags::empty(), None).unwrap();
        // A connection's name there is the minor number of its device.
        let minor = (self.device & 0xff) | (self.device >> 12 & 0xfff00);
        let aborted = fs::write(control.path().join(format!("{minor}/abort")), "1");
        rustix::mount::unmount(control.path(), UnmountFlags::DETACH).unwrap();
        aborted.unwrap();
    }

    pub fn detach(&self) {
        rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }

    pub fn unmount(&self) {
        rustix::mount::unmount(self.dir.path(), UnmountFlags::empty()).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.state.release();
        if thread::panicking() {
            // Who still waits is in this very process, which could not end with them.
            self.abort();
        }
        let _ = rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

/// Runs `test` over each transport that there is on this machine.
pub fn each_transport(test: impl Fn(Transport)) {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        eprintln!("not tested: mounting takes root and /dev/fuse");
        return;
    }
    eprintln!("over the device");
    test(Transport::Device);
    match fs::read_to_string("/sys/module/fuse/parameters/enable_uring") {
        Ok(switch) if switch.trim() == "Y" => {
            eprintln!("over io_uring");
            test(Transport::Ring);
        }
        _ => eprintln!("not tested: FUSE over io_uring, which this kernel does not have or has switched off"),
    }
}
