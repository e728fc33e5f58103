//! Work on a directory that several nodes have: what one does is looked for on another, and files
//! are made while a node is killed.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::{Errno, write};

use crate::work::{BLOCK, Task, name, nanos, report};

/// How often another node is looked at; no time is told more exactly.
const GLANCE: Duration = Duration::from_micros(50);
/// A file that is not seen after this will not be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes or unlinks files here, and times each from when that is done until a `stat` on the other
/// node says so.
pub fn elsewhere(task: Task, order: &[u64], other: &Path) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, other, flags, Mode::empty()).during(|| format!("opening {}", other.display()))?;
    let is_there = |file: &str| match statat(&folder, file, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::STALE) => Ok(false),
        Err(error) => Err(error).during(|| format!("stat of {file} elsewhere")),
    };
    let mut times = Vec::new();
    for &i in order {
        let file = name('v', i);
        let appears = task == Task::Appear;
        if appears {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(CWD, &file, flags, Mode::from_raw_mode(0o644)).during(|| format!("making {file}"))?;
        } else {
            // It is known there when it goes.
            until(|| is_there(&file)).during(|| format!("looking for {file}"))?;
            unlinkat(CWD, &file, AtFlags::empty()).during(|| format!("unlinking {file}"))?;
        }
        let start = Instant::now();
        until(|| Ok(is_there(&file)? == appears)).during(|| format!("looking for {file}"))?;
        times.push(nanos(start));
    }
    report(times)
}

fn until(mut done: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!("not within {} s", PATIENCE.as_secs())));
        }
        sleep(GLANCE);
    }
    Ok(())
}

/// Makes files of 4 KiB one after the other, and says how long they took. All of them must be there
/// at the end.
pub fn steady(span: Duration) -> Result<(), Failure> {
    let data = [1; BLOCK];
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < span {
        let file = name('k', times.len() as u64);
        let began = Instant::now();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat(CWD, &file, flags, Mode::from_raw_mode(0o644)).during(|| format!("making {file}"))?;
        let wrote = write(&fd, &data).during(|| format!("writing {file}"))?;
        drop(fd);
        times.push(nanos(began));
        if wrote != BLOCK {
            return Err(Failure::new(format!("{file}: {wrote} bytes were written")));
        }
    }
    let folder = openat(CWD, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = folder.during(|| "opening the folder".to_owned())?;
    let mut listed = 0;
    for entry in Dir::read_from(&folder).during(|| "reading the folder".to_owned())? {
        let entry = entry.during(|| "reading the folder".to_owned())?;
        listed += usize::from(entry.file_name().to_bytes().starts_with(b"k"));
    }
    if listed != times.len() {
        return Err(Failure::new(format!("{listed} files are there, {} were made", times.len())));
    }
    report(times)
}
