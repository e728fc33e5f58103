//! Facts about the machine, without which numbers mean little.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The facts, a line each.
pub fn facts(data: &Path, nexus: Option<&Path>) -> Vec<(&'static str, String)> {
    let uname = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = read("/proc/meminfo");
    let memory_kib: u64 = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    let mut facts = vec![
        ("kernel", uname.release().to_string_lossy().into_owned()),
        ("processor", format!("{cpus} x {}", model.trim_start_matches([' ', '\t', ':']))),
        ("memory", format!("{:.1} GiB", memory_kib as f64 / 1_048_576.0)),
        ("folder", file_system(data).unwrap_or_else(|| "unknown file system".to_owned())),
    ];
    if let Some(version) = nexus.and_then(version) {
        facts.push(("nexus", version));
    }
    facts
}

/// How busy the machine was in the last minute, in runnable processes.
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Type, device and options of the file system that a folder is on.
fn file_system(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last mount with the longest mount point above the folder is the one that is seen.
    let line = mounts
        .lines()
        .filter(|line| line.split(' ').nth(4).is_some_and(|point| path.starts_with(point)))
        .max_by_key(|line| line.split(' ').nth(4).map_or(0, str::len))?;
    let (_, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, device, options) = (after.next()?, after.next()?, after.next()?);
    Some(format!("{kind} on {device} ({options})"))
}

/// The type of the file system that a folder is on, to name its column.
pub fn file_system_type(path: &Path) -> Option<String> {
    Some(file_system(path)?.split(' ').next()?.to_owned())
}
