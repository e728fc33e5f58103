//! What one worker process does: plain system calls in a loop, in the folder that it was started
//! in. It says `ready`, waits for a byte, works, says `done`: the crew's clock runs in between.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use nexus_bench::{Context, Failure, Rng};
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps, chmodat, fsync, linkat, mkdirat, openat, renameat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite, read, write};

use crate::nodes::{elsewhere, steady};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Make `count` empty files.
    Create,
    /// `stat` each, in random order.
    Stat,
    /// List the folder and `stat` each entry, as `ls -l` does.
    List,
    /// Give each another name in the same folder.
    Rename,
    /// Unlink each, under its second name.
    Unlink,
    /// Make `count` folders.
    Mkdir,
    /// Give each file of `create` a further name.
    Link,
    /// Make `count` symbolic links.
    Symlink,
    /// Set mode and times of each file of `create`.
    Setattr,
    /// Make `count` files of 4 KiB, each synced before it is closed.
    SyncFiles,
    /// Write one file of `count` MiB, then sync it.
    WriteBig,
    /// Read it from start to end.
    ReadBig,
    /// Read `count` random blocks of 4 KiB of it.
    ReadRandom,
    /// Write `count` random blocks of 4 KiB of it, then sync it.
    WriteRandom,
    /// Write a file of `count` MiB, again and again, until it is ended by force.
    Flood,
    /// Time each of many small changes and look-ups for `count` seconds, and say how long they took.
    Latency,
    /// Open and close each file of `create`, in random order.
    Open,
    /// Write `count` blocks of 4 KiB to one file in order, then sync it.
    WriteSmall,
    /// Write `count` blocks of 4 KiB to one file, and sync it after each.
    SyncBlocks,
    /// Make `count` files, and time each from there until `--other` has it.
    Appear,
    /// Unlink them, and time each from there until `--other` has it no more.
    Vanish,
    /// Make files of 4 KiB for `count` seconds, and say how long they took.
    Steady,
}

/// The work of one process.
#[derive(Args, Clone, Debug)]
pub struct Work {
    /// What to do.
    #[arg(value_enum)]
    pub task: Task,
    /// How often, or how much.
    pub count: u64,
    /// Seed of orders and offsets.
    pub seed: u64,
    /// The same folder on another node.
    #[arg(long)]
    pub other: Option<PathBuf>,
}

pub const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
const BIG: &str = "big";

impl Work {
    /// Does the work when told to.
    pub fn run(self) -> Result<(), Failure> {
        // Nobody is left behind by a bench that was killed.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .during(|| "asking to end with the bench".to_owned())?;
        let mut order: Vec<u64> = (0..self.count).collect();
        if matches!(self.task, Task::Stat | Task::Open) {
            Rng::new(self.seed).shuffle(&mut order);
        }
        say("ready")?;
        let mut go = [0];
        std::io::stdin().read_exact(&mut go).during(|| "waiting for the start".to_owned())?;
        self.perform(&order)?;
        say("done")
    }

    fn perform(&self, order: &[u64]) -> Result<(), Failure> {
        match self.task {
            Task::Create => each(order, |i| {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(CWD, name('f', i), flags, Mode::from_raw_mode(0o644)).map(drop)
            }),
            Task::Stat => each(order, |i| statat(CWD, name('f', i), AtFlags::SYMLINK_NOFOLLOW).map(drop)),
            Task::List => list(self.count),
            Task::Rename => each(order, |i| renameat(CWD, name('f', i), CWD, name('g', i))),
            Task::Unlink => each(order, |i| unlinkat(CWD, name('g', i), AtFlags::empty())),
            Task::Mkdir => each(order, |i| mkdirat(CWD, name('d', i), Mode::from_raw_mode(0o755))),
            Task::Link => each(order, |i| linkat(CWD, name('f', i), CWD, name('l', i), AtFlags::empty())),
            Task::Symlink => each(order, |i| symlinkat(name('f', i), CWD, name('y', i))),
            Task::Setattr => {
                let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 1 };
                let times = Timestamps { last_access: time, last_modification: time };
                each(order, |i| {
                    chmodat(CWD, name('f', i), Mode::from_raw_mode(0o600), AtFlags::empty())?;
                    utimensat(CWD, name('f', i), &times, AtFlags::empty())
                })
            }
            Task::Flood => loop {
                write_big(order)?;
            },
            Task::Latency => latency(Duration::from_secs(self.count)),
            Task::Open => {
                each(order, |i| openat(CWD, name('f', i), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop))
            }
            Task::WriteSmall => {
                let file = blocks_to(order, false)?;
                fsync(&file).during(|| "fsync".to_owned())
            }
            Task::SyncBlocks => blocks_to(order, true).map(drop),
            Task::Appear | Task::Vanish => {
                let other = self.other.as_deref().ok_or_else(|| Failure::new("--other is missing"))?;
                elsewhere(self.task, order, other)
            }
            Task::Steady => steady(Duration::from_secs(self.count)),
            Task::SyncFiles => {
                let mut data = [0; BLOCK];
                Rng::new(self.seed).fill(&mut data);
                each(order, |i| {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    let file = openat(CWD, name('s', i), flags, Mode::from_raw_mode(0o644))?;
                    write(&file, &data)?;
                    fsync(&file)
                })
            }
            Task::WriteBig => {
                let file = write_big(order)?;
                fsync(&file).during(|| "fsync".to_owned())
            }
            Task::ReadBig => {
                let file = open_big(OFlags::RDONLY)?;
                let mut buf = vec![0; MIB];
                let mut total = 0_u64;
                loop {
                    match read(&file, buf.as_mut_slice()).during(|| "read".to_owned())? {
                        0 => break,
                        n => total += n as u64,
                    }
                }
                expect("bytes read", total, self.count * MIB as u64)
            }
            Task::ReadRandom => {
                let file = open_big(OFlags::RDONLY)?;
                let blocks = blocks(&file)?;
                let mut rng = Rng::new(self.seed);
                let mut buf = [0; BLOCK];
                each(order, |_| pread(&file, &mut buf, rng.below(blocks) * BLOCK as u64).map(drop))
            }
            Task::WriteRandom => {
                let file = open_big(OFlags::WRONLY)?;
                let blocks = blocks(&file)?;
                let mut rng = Rng::new(self.seed);
                let mut data = [0; BLOCK];
                rng.fill(&mut data);
                each(order, |_| pwrite(&file, &data, rng.below(blocks) * BLOCK as u64).map(drop))?;
                fsync(&file).during(|| "fsync".to_owned())
            }
        }
    }
}

/// Answers the crew.
pub fn say(word: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).during(|| "answering".to_owned())
}

/// The name of a file.
pub fn name(kind: char, i: u64) -> String {
    format!("{kind}{i:06}")
}

fn each(order: &[u64], mut act: impl FnMut(u64) -> rustix::io::Result<()>) -> Result<(), Failure> {
    for &i in order {
        act(i).during(|| format!("step {i}"))?;
    }
    Ok(())
}

fn expect(what: &str, got: u64, wanted: u64) -> Result<(), Failure> {
    if got == wanted {
        return Ok(());
    }
    Err(Failure::new(format!("{what}: {got}, expected {wanted}")))
}

/// Writes the big file from its start, a MiB for each of `order`.
fn write_big(order: &[u64]) -> Result<rustix::fd::OwnedFd, Failure> {
    let mut data = vec![0; MIB];
    Rng::new(order.len() as u64).fill(&mut data);
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(CWD, BIG, flags, Mode::from_raw_mode(0o644)).during(|| "making the big file".to_owned())?;
    each(order, |_| {
        let mut left = data.as_slice();
        while !left.is_empty() {
            let wrote = write(&file, left)?;
            left = left.get(wrote..).unwrap_or_default();
        }
        Ok(())
    })?;
    Ok(file)
}

/// Writes a block for each of `order` to a file that is made.
fn blocks_to(order: &[u64], sync_each: bool) -> Result<rustix::fd::OwnedFd, Failure> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(CWD, "blocks", flags, Mode::from_raw_mode(0o644)).during(|| "making a file".to_owned())?;
    let mut data = [0; BLOCK];
    Rng::new(order.len() as u64).fill(&mut data);
    each(order, |_| {
        write(&file, &data)?;
        if sync_each { fsync(&file) } else { Ok(()) }
    })?;
    Ok(file)
}

/// Says the median, the 99.99th percentile and the longest of some times, in nanoseconds.
pub fn report(mut times: Vec<u64>) -> Result<(), Failure> {
    times.sort_unstable();
    let at = |per_ten_thousand: usize| {
        times.get((times.len() * per_ten_thousand / 10_000).min(times.len().saturating_sub(1)))
    };
    match (at(5_000), at(9_999), times.last()) {
        (Some(median), Some(rare), Some(longest)) => say(&format!("{median} {rare} {longest}")),
        _ => Err(Failure::new("nothing was timed")),
    }
}

/// Nanoseconds since then.
pub fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Times each of seven kinds of operations in turn, none of which the kernel's caches answer, and
/// says the median, the 99.99th percentile and the longest, in nanoseconds.
fn latency(span: Duration) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(0o755);
    let mut times: Vec<u64> = Vec::new();
    let mut timed = |what: &str, act: &dyn Fn() -> rustix::io::Result<()>| {
        let start = Instant::now();
        act().during(|| what.to_owned())?;
        times.push(nanos(start));
        Ok::<_, Failure>(())
    };
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < span {
        let (file, moved, folder, absent) = (name('f', round), name('g', round), name('d', round), name('n', round));
        timed("create", &|| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(CWD, &file, flags, mode).map(drop)
        })?;
        timed("stat of a name that is not there", &|| match statat(CWD, &absent, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map(drop),
        })?;
        timed("chmod", &|| chmodat(CWD, &file, Mode::from_raw_mode(0o600), AtFlags::empty()))?;
        timed("rename", &|| renameat(CWD, &file, CWD, &moved))?;
        timed("mkdir", &|| mkdirat(CWD, &folder, mode))?;
        timed("unlink", &|| unlinkat(CWD, &moved, AtFlags::empty()))?;
        timed("rmdir", &|| unlinkat(CWD, &folder, AtFlags::REMOVEDIR))?;
        round += 1;
    }
    report(times)
}

fn open_big(flags: OFlags) -> Result<rustix::fd::OwnedFd, Failure> {
    openat(CWD, BIG, flags | OFlags::CLOEXEC, Mode::empty()).during(|| "opening the big file".to_owned())
}

fn blocks(file: &rustix::fd::OwnedFd) -> Result<u64, Failure> {
    let stat = rustix::fs::fstat(file).during(|| "fstat".to_owned())?;
    Ok(stat.st_size as u64 / BLOCK as u64)
}

fn list(count: u64) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, ".", flags, Mode::empty()).during(|| "opening the folder".to_owned())?;
    let mut seen = 0;
    for entry in Dir::read_from(&folder).during(|| "reading the folder".to_owned())? {
        let entry = entry.during(|| "reading the folder".to_owned())?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            .during(|| format!("stat of {:?}", entry.file_name()))?;
        seen += 1;
    }
    expect("entries listed", seen, count)
}
