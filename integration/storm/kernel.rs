//! What the kernel is told and asked beside the mount: to abort a connection, to drop caches,
//! where a process is, what it logged.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::failure::{Check, During, Stop};
use crate::scratch::Scratch;
use crate::tool::Tool;

/// The control files of all FUSE connections, mounted for us.
pub struct Connections(PathBuf);

impl Connections {
    /// Mounts them in `scratch`.
    pub fn new(scratch: &Scratch) -> Check<Connections> {
        let folder = scratch.folder("connections")?;
        match rustix::mount::mount("fusectl", &folder, "fusectl", MountFlags::empty(), None) {
            Ok(()) => Ok(Connections(folder)),
            Err(error) => Err(Stop::Skipped(format!("the control files of FUSE can't be mounted: {error}"))),
        }
    }

    /// Aborts the connection of the mount with this device number.
    pub fn abort(&self, device: u64) -> Check {
        let path = self.0.join(rustix::fs::minor(device).to_string()).join("abort");
        fs::write(&path, "1").during(format!("cannot abort by {}", path.display()))
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// Drops the machine's unused entries and inodes: the daemon is told to forget.
pub fn drop_caches() -> Check {
    fs::write("/proc/sys/vm/drop_caches", "2").during("cannot drop caches")
}

/// State of a process and of each of its threads, and what of the kernel they are in.
pub fn where_is(pid: u32) -> String {
    let tasks: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/task"))
        .map(|tasks| tasks.flatten().map(|task| task.path()).collect())
        .unwrap_or_default();
    let tell = |task: &PathBuf| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).unwrap_or('?');
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        let stack = fs::read_to_string(task.join("stack")).unwrap_or_default();
        let calls: Vec<&str> =
            stack.lines().filter_map(|line| line.split(' ').nth(1)?.split('+').next()).take(6).collect();
        format!("{} {state} in {}", name.trim(), calls.join(" < "))
    };
    format!("process {pid}: {}", tasks.iter().map(tell).collect::<Vec<_>>().join(", "))
}

/// What the kernel logs from now on.
pub struct Messages(Option<String>);

impl Messages {
    /// Begins here.
    pub fn from_now() -> Messages {
        Messages(read_messages().map(|text| text.lines().last().unwrap_or_default().to_owned()))
    }

    /// Lines since that tell of something broken; `None` if the log can't be read.
    pub fn alarming(&self) -> Option<Vec<String>> {
        let (start, text) = (self.0.as_ref()?, read_messages()?);
        let new: Vec<&str> = match text.lines().position(|line| line == start) {
            Some(at) => text.lines().skip(at + 1).collect(),
            None => text.lines().collect(),
        };
        Some(new.iter().enumerate().filter(|(_, line)| is_alarm(line)).flat_map(|(at, _)| around(&new, at)).collect())
    }
}

fn is_alarm(line: &str) -> bool {
    ["WARNING:", "BUG:", "Oops", "blocked for more than", "refcount_t", "general protection", "lockdep"]
        .iter()
        .any(|word| line.contains(word))
}

/// The line, and where it happened.
fn around(lines: &[&str], at: usize) -> Vec<String> {
    lines.iter().skip(at).take(24).map(|line| (*line).to_owned()).collect()
}

fn read_messages() -> Option<String> {
    Path::new("/dev/kmsg").exists().then(|| Tool::new("dmesg").ok().ok()).flatten()
}
