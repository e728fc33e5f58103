//! A client: a thread that makes calls in a node's mount, and writes down what it was told.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::cluster::MARKER;
use crate::history::record::{Call, Key, Line, Moved, NEVER};
use crate::random::Random;

/// Times that a register's value is written, so that half a write would show.
const COPIES: usize = 64;
/// Things of each kind that are in use at once.
const AT_ONCE: u64 = 2;
/// How long they are.
const EPOCH: Duration = Duration::from_millis(1500);

/// What all clients share.
pub struct Common {
    began: Instant,
    /// Values and names that were never used before.
    next: AtomicU64,
    /// Told to end.
    pub stop: AtomicBool,
}

impl Common {
    /// At the beginning of a record.
    pub fn new() -> Common {
        Common { began: Instant::now(), next: AtomicU64::new(1), stop: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A client.
pub struct Client<'a> {
    number: usize,
    zone: PathBuf,
    common: &'a Common,
    random: Random,
    root: Option<OwnedFd>,
    /// What it did.
    pub record: Vec<Line>,
    /// What is wrong by itself, whatever the order.
    pub wrong: Vec<String>,
    /// Calls that failed without having done anything.
    pub refused: usize,
}

/// What became of a call.
enum Done {
    /// This.
    So(Call),
    /// Nobody knows; this if it was done.
    Perhaps(Call),
    /// Nothing.
    Not,
}

impl<'a> Client<'a> {
    /// A client of the zone that is mounted there.
    pub fn new(number: usize, zone: PathBuf, seed: u64, common: &'a Common) -> Client<'a> {
        let random = Random::new(seed.wrapping_mul(1000).wrapping_add(number as u64));
        let (record, wrong) = (Vec::new(), Vec::new());
        Client { number, zone, common, random, root: None, record, wrong, refused: 0 }
    }

    /// Which of so many nodes it is at.
    pub fn node(&self, nodes: usize) -> usize {
        self.number.checked_rem(nodes).unwrap_or(0)
    }

    /// Makes calls until told to stop, in a thread of its own.
    pub fn run(&mut self) {
        if let Err(errno) = own_descriptors() {
            self.wrong.push(format!("a thread cannot have descriptors of its own: {errno}"));
        }
        while !self.common.stop.load(Ordering::Relaxed) {
            let epoch = self.common.began.elapsed().as_millis() / EPOCH.as_millis();
            let number = epoch as u32 * AT_ONCE as u32 + self.random.below(AT_ONCE) as u32;
            let key = match self.random.below(4) {
                0 => Key::Register(number),
                1 => Key::Log(number),
                _ => Key::Names(number),
            };
            self.call(key);
            // So that there is no more of each thing than can be judged.
            std::thread::sleep(Duration::from_micros(self.random.below(6000)));
        }
        // It is one of this thread's.
        self.root = None;
    }

    /// Reads everything that anybody was told of, or has to do with.
    pub fn read_all(&mut self, keys: &[Key]) {
        for key in keys {
            match key {
                Key::Register(_) => self.note(*key, |this, root| this.read_register(root, *key)),
                Key::Log(_) => self.note(*key, |this, root| this.read_log(root, *key)),
                Key::Names(_) => {
                    for slot in 0..2 {
                        self.note(*key, |this, root| this.look(root, *key, slot, true));
                    }
                }
            }
        }
    }

    /// Makes and removes a file; whether that works.
    pub fn is_served(&mut self) -> bool {
        let Some(root) = self.root() else { return false };
        let name = format!("served-{}", self.common.fresh());
        let made = open(&root, &name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY);
        let done = made.and_then(|file| rustix::io::write(&file, b"x")).and_then(|_| unlink(&root, &name));
        self.root = done.is_ok().then_some(root);
        done.is_ok()
    }

    fn call(&mut self, key: Key) {
        let slot = self.random.below(2) as usize;
        let what = self.random.below(12);
        self.note(key, |this, root| match (key, what) {
            (Key::Register(_), 0..6) => this.write_register(root, key),
            (Key::Register(_), _) => this.read_register(root, key),
            (Key::Log(_), 0..8) => this.append(root, key),
            (Key::Log(_), _) => this.read_log(root, key),
            (Key::Names(_), 0..3) => this.make(root, key, slot),
            (Key::Names(_), 3) => this.put(root, key, slot),
            (Key::Names(_), 4 | 5) => this.take(root, key, slot),
            (Key::Names(_), 6 | 7) => this.remove(root, key, slot),
            (Key::Names(_), 8) => this.step(root, key, slot),
            (Key::Names(_), _) => this.look(root, key, slot, what < 10),
        });
    }

    /// Makes one call and writes it down.
    fn note(&mut self, key: Key, call: impl FnOnce(&mut Self, &OwnedFd) -> Done) {
        let Some(root) = self.root() else {
            std::thread::sleep(Duration::from_millis(20));
            return;
        };
        let start = self.common.now();
        let done = call(self, &root);
        let end = self.common.now();
        self.root = matches!(done, Done::So(_)).then_some(root);
        let (call, end) = match done {
            Done::So(call) => (call, end),
            Done::Perhaps(call) => (call, NEVER),
            Done::Not => {
                self.refused += 1;
                return;
            }
        };
        self.record.push(Line { client: self.number, key, call, start, end });
    }

    /// The zone's root; looked up anew after anything went wrong, as its mount may be another.
    fn root(&mut self) -> Option<OwnedFd> {
        self.root.take().or_else(|| {
            let root =
                rustix::fs::open(&self.zone, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            let root = root.ok()?;
            rustix::fs::accessat(&root, MARKER, rustix::fs::Access::EXISTS, AtFlags::empty()).ok()?;
            Some(root)
        })
    }

    fn write_register(&mut self, root: &OwnedFd, key: Key) -> Done {
        let value = self.common.fresh();
        let Ok(file) = open(root, &name(key, 0), OFlags::CREATE | OFlags::WRONLY) else { return Done::Not };
        let bytes = value.to_be_bytes().repeat(COPIES);
        match rustix::io::pwrite(&file, &bytes, 0) {
            Ok(written) if written == bytes.len() && close(file) => Done::So(Call::Write(value)),
            _ => Done::Perhaps(Call::Write(value)),
        }
    }

    fn read_register(&mut self, root: &OwnedFd, key: Key) -> Done {
        let bytes = match read(root, &name(key, 0)) {
            Ok(bytes) => bytes,
            Err(Errno::NOENT) => Vec::new(),
            Err(_) => return Done::Not,
        };
        let values = numbers(&bytes);
        let value = values.first().copied().unwrap_or(0);
        if bytes.len() % (8 * COPIES) != 0 || values.iter().any(|other| *other != value) {
            self.wrong.push(format!("{key:?} was read half-way: {} bytes, {values:?}", bytes.len()));
        }
        Done::So(Call::Read(value))
    }

    fn append(&mut self, root: &OwnedFd, key: Key) -> Done {
        let value = self.common.fresh();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND;
        let Ok(file) = open(root, &name(key, 0), flags) else { return Done::Not };
        match rustix::io::write(&file, &value.to_be_bytes()) {
            Ok(8) if close(file) => Done::So(Call::Append(value)),
            _ => Done::Perhaps(Call::Append(value)),
        }
    }

    fn read_log(&mut self, root: &OwnedFd, key: Key) -> Done {
        match read(root, &name(key, 0)) {
            Ok(bytes) if bytes.len().is_multiple_of(8) => Done::So(Call::ReadLog(numbers(&bytes))),
            Ok(bytes) => {
                self.wrong.push(format!("{key:?} has {} bytes, of appends of 8", bytes.len()));
                Done::Not
            }
            Err(Errno::NOENT) => Done::So(Call::ReadLog(Vec::new())),
            Err(_) => Done::Not,
        }
    }

    fn make(&mut self, root: &OwnedFd, key: Key, slot: usize) -> Done {
        match open(root, &name(key, slot), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY) {
            Ok(file) => Done::So(Call::Make { slot, file: ino(&file), won: true }),
            Err(Errno::EXIST) => Done::So(Call::Make { slot, file: None, won: false }),
            Err(_) => Done::Perhaps(Call::Make { slot, file: None, won: true }),
        }
    }

    fn put(&mut self, root: &OwnedFd, key: Key, slot: usize) -> Done {
        let own = format!("new-{}", self.common.fresh());
        let made = open(root, &own, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY);
        let Some(file) = made.ok().and_then(|file| ino(&file)) else { return Done::Not };
        let call = Call::Put { slot, file };
        match rustix::fs::renameat(root, &own, root, name(key, slot)) {
            Ok(()) => Done::So(call),
            Err(_) => Done::Perhaps(call),
        }
    }

    fn take(&mut self, root: &OwnedFd, key: Key, slot: usize) -> Done {
        let own = format!("taken-{}", self.common.fresh());
        match rustix::fs::renameat(root, name(key, slot), root, &own) {
            Ok(()) => {
                let taken = open(root, &own, OFlags::PATH).ok();
                Done::So(Call::Take { slot, file: taken.and_then(|file| ino(&file)), won: true })
            }
            Err(Errno::NOENT) => Done::So(Call::Take { slot, file: None, won: false }),
            Err(_) => Done::Perhaps(Call::Take { slot, file: None, won: true }),
        }
    }

    fn remove(&mut self, root: &OwnedFd, key: Key, slot: usize) -> Done {
        match unlink(root, &name(key, slot)) {
            Ok(()) => Done::So(Call::Unlink { slot, won: true }),
            Err(Errno::NOENT) => Done::So(Call::Unlink { slot, won: false }),
            Err(_) => Done::Perhaps(Call::Unlink { slot, won: true }),
        }
    }

    fn step(&mut self, root: &OwnedFd, key: Key, from: usize) -> Done {
        let to = name(key, 1 - from.min(1));
        let answer = match rustix::fs::renameat_with(root, name(key, from), root, to, RenameFlags::NOREPLACE) {
            Ok(()) => Moved::Done,
            Err(Errno::NOENT) => Moved::NoSource,
            Err(Errno::EXIST) => Moved::TargetThere,
            Err(_) => return Done::Perhaps(Call::Move { from, answer: Moved::Done }),
        };
        Done::So(Call::Move { from, answer })
    }

    /// By opening the file, or only its name.
    fn look(&mut self, root: &OwnedFd, key: Key, slot: usize, open_it: bool) -> Done {
        let how = if open_it { OFlags::RDONLY } else { OFlags::PATH };
        match open(root, &name(key, slot), how) {
            Ok(file) => match ino(&file) {
                Some(number) => Done::So(Call::Look { slot, file: Some(number) }),
                None => Done::Not,
            },
            Err(Errno::NOENT) => Done::So(Call::Look { slot, file: None }),
            Err(_) => Done::Not,
        }
    }
}

fn name(key: Key, slot: usize) -> String {
    match key {
        Key::Register(number) => format!("register-{number}"),
        Key::Log(number) => format!("log-{number}"),
        Key::Names(number) => format!("name-{number}-{slot}"),
    }
}

fn open(root: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
}

fn unlink(root: &OwnedFd, name: &str) -> Result<(), Errno> {
    rustix::fs::unlinkat(root, name, AtFlags::empty())
}

/// Has descriptors of this thread be its own. Else a program that the suite starts would get a copy of each that is
/// open, and close it as it begins: which waits for ever where the daemon is suspended that the program is to go on.
#[expect(unsafe_code, reason = "descriptors of other threads mean nothing afterwards, or something else")]
fn own_descriptors() -> Result<(), Errno> {
    // SAFETY: a client has no descriptor at this point, and gives none away.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }
}

/// Closes; whether that went well, which dropping would not tell.
#[expect(unsafe_code, reason = "no safe function closes a descriptor and tells what came of it")]
fn close(file: OwnedFd) -> bool {
    // SAFETY: the descriptor is this function's own, and nobody has it afterwards.
    unsafe { libc::close(file.into_raw_fd()) == 0 }
}

/// Reads a file by one call as long as it has less than a page: two could see two states.
fn read(root: &OwnedFd, name: &str) -> Result<Vec<u8>, Errno> {
    let file = open(root, name, OFlags::RDONLY)?;
    let (mut bytes, mut page) = (Vec::new(), [0; 4096]);
    loop {
        let len = rustix::io::read(&file, &mut page)?;
        bytes.extend(page.iter().take(len));
        if len < page.len() {
            return Ok(bytes);
        }
    }
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect()
}

/// A file's number as the kernel has it, without asking the file system.
fn ino(file: &OwnedFd) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse().ok()
}
