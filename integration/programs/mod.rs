//! Programs that people run on a file system, each of which checks its own result.

mod cargo;
mod copies;
mod git;
mod postgres;
mod scripts;
mod sqlite;
mod watch;

use crate::report::Case;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("git", git::run),
        Case::new("cargo", cargo::run),
        Case::new("postgres", postgres::run),
        Case::new("postgres-daemon-killed", postgres::run_with_daemon_killed),
        Case::new("rsync", |lab| copies::run(lab, copies::RSYNC)),
        Case::new("tar", |lab| copies::run(lab, copies::TAR)),
        Case::new("cp", |lab| copies::run(lab, copies::CP)),
        Case::new("mmap", scripts::mmap),
        Case::new("locks", scripts::locks),
        Case::new("inotify", watch::run),
    ];
    for journal in ["wal", "delete", "truncate"] {
        cases.push(Case::new(format!("sqlite-{journal}"), move |lab| sqlite::run(lab, journal)));
    }
    cases
}
