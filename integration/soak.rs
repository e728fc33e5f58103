//! What takes too long for every change: known load makers for minutes, and a zone of five
//! million files.

use std::fs::{self, File};
use std::path::Path;

use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::random::Random;
use crate::report::Case;
use crate::tool::Tool;
use crate::tree;

/// Stressors of stress-ng's file system class and of its I/O class that work on files in a
/// folder that they are given. Left out: those that look at devices, at /proc, or ask for
/// what a file system in user space cannot have (chattr, fanotify marks of a file system,
/// fiemap, verity, raw devices, leases).
const STRESSORS: [&str; 48] = [
    "access",
    "aio",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dnotify",
    "dup",
    "fallocate",
    "fcntl",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inotify",
    "io",
    "iomix",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "mmap",
    "msync",
    "open",
    "readahead",
    "rename",
    "revio",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "unlink",
    "utime",
    "xattr",
    "metamix",
    "rotate",
];

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        STRESSORS.iter().map(|name| Case::new(format!("stress-ng-{name}"), move |lab| stress(lab, name))).collect();
    for clients in [4, 16] {
        cases.push(Case::new(format!("dbench-{clients}"), move |lab| dbench(lab, clients)));
    }
    cases.push(Case::new("five-million-files", five_million_files));
    cases
}

/// One stressor, verifying what it does.
fn stress(lab: &Lab, name: &str) -> Check {
    let place = lab.place("stress")?;
    let folder = place.root().join("stress");
    fs::create_dir(&folder)?;
    let seconds = lab.seconds.unwrap_or(10);
    let stress = || {
        Tool::new("stress-ng")
            // With an absolute path some stressors fail on every file system.
            .args(["--temp-path", ".", "--verify", "--oomable", "--timeout", &seconds.to_string()])
            .args([&format!("--{name}"), "2"])
            .within(&folder)
            .limit_s(seconds * 8 + 120)
            .run()
    };
    let mut ended = stress()?;
    if ended.code == 2 {
        // Some race with their own end, which does not repeat.
        ended = stress()?;
    }
    let skipped = ended.out.contains("skipped: 1") || ended.err.contains("unrecognized option");
    if skipped || matches!(ended.code, 3 | 4) {
        return Err(Stop::Skipped(ended.tail()));
    }
    ended.check()?;
    place.finish()
}

/// A file server's load.
fn dbench(lab: &Lab, clients: u32) -> Check {
    let place = lab.place("dbench")?;
    let seconds = lab.seconds.unwrap_or(120);
    let said = Tool::new("dbench")
        .arg("-D")
        .arg(place.root())
        .args(["-t", &seconds.to_string(), &clients.to_string()])
        .limit_s(seconds * 4 + 300)
        .ok()?;
    ensure!(said.contains("Throughput"), "it did not come to its end");
    place.finish()
}

/// A zone of five million files: made, found after a restart and after SIGKILL, listed.
fn five_million_files(lab: &Lab) -> Check {
    const FOLDERS: u64 = 1000;
    const EACH: u64 = 5000;
    let mut place = lab.place("five-million")?;
    let file = |root: &Path, folder: u64, file: u64| root.join(format!("folder{folder:04}/file{file:04}"));
    for number in 0..FOLDERS {
        fs::create_dir(place.root().join(format!("folder{number:04}")))?;
    }
    for number in 0..EACH {
        for folder in 0..FOLDERS {
            File::create(file(place.root(), folder, number)).during(format!("file {number} of folder {folder}"))?;
        }
    }
    for after in ["a remount", "SIGKILL"] {
        if after == "SIGKILL" {
            place.kill_and_remount()?
        } else {
            place.remount()?
        }
        let mut random = Random::new(lab.seed);
        for _ in 0..20_000 {
            let path = file(place.root(), random.below(FOLDERS), random.below(EACH));
            fs::symlink_metadata(&path).during(format!("{} after {after}", path.display()))?;
        }
        let mut count = 0;
        for folder in 0..FOLDERS {
            count += fs::read_dir(place.root().join(format!("folder{folder:04}")))?.count() as u64;
        }
        ensure!(count == FOLDERS * EACH, "{count} files are listed after {after}");
    }
    let sample = tree::read(&place.root().join("folder0500"))?;
    ensure!(sample.len() as u64 == EACH + 1, "a folder shows {} names", sample.len());
    place.finish()
}
