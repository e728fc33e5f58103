//! The workloads: groups of steps that build on one another, each step timed on one subject.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nexus_bench::{Context, CrateTree, Failure, Unit};

use crate::crew::Crew;
use crate::interrupt::Interrupt;
use crate::programs::Materials;
use crate::work::Task;

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Files that are made, listed, renamed and unlinked.
    pub files: u64,
    /// Folders and links that are made, files whose mode and times are set.
    pub names: u64,
    /// Files of the tree.
    pub tree_files: usize,
    /// Size of the big file, in MiB.
    pub big_mib: u64,
    /// Random reads from a cold cache.
    pub cold_reads: u64,
    /// Random reads from a warm cache.
    pub warm_reads: u64,
    /// Random writes.
    pub random_writes: u64,
    /// Files that are synced one by one.
    pub sync_files: u64,
    /// SQLite transactions, one insert each.
    pub transactions: u64,
    /// Files of the repository that is cloned.
    pub clone_files: usize,
    /// Its commits.
    pub clone_commits: u64,
    /// The crates that are built.
    pub crates: CrateTree,
    /// How long small operations are timed beside a writer, in seconds.
    pub latency_s: u64,
}

impl Sizes {
    /// What the published table is made with.
    pub const FULL: Sizes = Sizes {
        files: 20_000,
        names: 10_000,
        tree_files: 10_000,
        big_mib: 1024,
        cold_reads: 4_000,
        warm_reads: 100_000,
        random_writes: 20_000,
        sync_files: 1_000,
        transactions: 500,
        clone_files: 1_500,
        clone_commits: 300,
        crates: CrateTree { libraries: 10, modules: 3 },
        latency_s: 60,
    };
    /// Enough to see that everything works.
    pub const QUICK: Sizes = Sizes {
        files: 800,
        names: 400,
        tree_files: 400,
        big_mib: 32,
        cold_reads: 200,
        warm_reads: 2_000,
        random_writes: 500,
        sync_files: 64,
        transactions: 20,
        clone_files: 100,
        clone_commits: 20,
        crates: CrateTree { libraries: 3, modules: 2 },
        latency_s: 3,
    };
}

/// A group of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Create, stat, list, rename and unlink of many files.
    Files,
    /// mkdir, link, symlink, chmod and utimes.
    Names,
    /// tar, cp, grep, find and rm on a tree of small files.
    Tree,
    /// git clone and cargo build.
    Programs,
    /// One big file, in order and at random.
    Big,
    /// Small files, each synced.
    Sync,
    /// SQLite transactions.
    Sqlite,
    /// Small operations while another process writes.
    Latency,
}

/// What the steps work with.
pub struct Bench {
    /// How much of each.
    pub sizes: Sizes,
    /// What programs work on.
    pub materials: Materials,
    /// Whom to ask whether to go on.
    pub interrupt: Interrupt,
    /// Seed of orders and offsets.
    pub seed: u64,
}

/// Steps on many files, by one process and by several.
const FILES: [(&str, Task, Cache); 7] = [
    ("create", Task::Create, Cache::AsIs),
    ("stat cold", Task::Stat, Cache::NoInodes),
    ("stat warm", Task::Stat, Cache::AsIs),
    ("readdir+stat cold", Task::List, Cache::NoInodes),
    ("readdir+stat warm", Task::List, Cache::AsIs),
    ("rename", Task::Rename, Cache::AsIs),
    ("unlink", Task::Unlink, Cache::AsIs),
];
/// Other changes of names and attributes, each in a folder of its own; whether it needs files.
const NAMES: [(&str, Task, bool); 4] = [
    ("mkdir", Task::Mkdir, false),
    ("link", Task::Link, true),
    ("symlink", Task::Symlink, false),
    ("chmod+utimes", Task::Setattr, true),
];
/// What a latency worker reports, in order.
const LATENCY: [&str; 3] = ["p50", "p99.99", "longest"];

/// Takes a step's time.
pub type Record<'a> = dyn FnMut(&str, Unit, Duration) + 'a;

impl Bench {
    /// Runs a group below `root`, which is left as it was found.
    pub fn run(&self, group: Group, root: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let dir = root.join("bench");
        fs::create_dir(&dir).during(|| format!("making {}", dir.display()))?;
        let result = match group {
            Group::Files => [1, 4].iter().try_for_each(|&n| self.files(&dir, n, record)),
            Group::Names => self.names(&dir, record),
            Group::Programs => self.development(&dir, record),
            Group::Latency => self.latency(&dir, record),
            Group::Tree => self.tree(&dir, record),
            Group::Big => self.big(&dir, record),
            Group::Sync => [1, 16].iter().try_for_each(|&n| self.sync(&dir, n, record)),
            Group::Sqlite => ["wal", "delete"].iter().try_for_each(|m| self.sqlite(&dir, m, record)),
        };
        let removed = fs::remove_dir_all(&dir).during(|| format!("removing {}", dir.display()));
        result.and(removed)
    }

    fn files(&self, dir: &Path, processes: u64, record: &mut Record<'_>) -> Result<(), Failure> {
        let dirs = folders(dir, processes)?;
        let each = self.sizes.files / processes;
        let unit = Unit::Operations(each * processes);
        for (name, task, cache) in FILES {
            let time = self.crew(&dirs, task, each, cache)?;
            record(&format!("{name}, {}", number(processes)), unit, time);
        }
        Ok(())
    }

    fn names(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let count = self.sizes.names;
        for (name, task, with_files) in NAMES {
            let place = dir.join(name);
            fs::create_dir(&place).during(|| format!("making {}", place.display()))?;
            let dirs = [place];
            if with_files {
                self.crew(&dirs, Task::Create, count, Cache::AsIs)?;
            }
            let time = self.crew(&dirs, task, count, Cache::AsIs)?;
            record(&format!("{name}, {}", number(1)), Unit::Operations(count), time);
        }
        Ok(())
    }

    fn latency(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let (flooded, timed) = (dir.join("flooded"), dir.join("timed"));
        for path in [&flooded, &timed] {
            fs::create_dir(path).during(|| format!("making {}", path.display()))?;
        }
        Cache::AsIs.prepare()?;
        let mut flood = Crew::assemble(&self.interrupt, &[flooded], Task::Flood, self.sizes.big_mib, self.seed)?;
        let clock = Crew::assemble(&self.interrupt, &[timed], Task::Latency, self.sizes.latency_s, self.seed)?;
        flood.start()?;
        let times = clock.reported_times()?;
        flood.still_works()?;
        for (name, time) in LATENCY.into_iter().zip(times) {
            record(&format!("metadata beside a writer, {name}"), Unit::Latency, time);
        }
        Ok(())
    }

    fn sync(&self, dir: &Path, processes: u64, record: &mut Record<'_>) -> Result<(), Failure> {
        let dirs = folders(dir, processes)?;
        let total = self.sizes.sync_files;
        // Together they make the total, as nearly as it divides.
        let each = total / processes;
        let time = self.crew(&dirs, Task::SyncFiles, each, Cache::AsIs)?;
        let name = format!("write+fsync+close 4 KiB, {}", number(processes));
        record(&name, Unit::Operations(each * processes), time);
        Ok(())
    }

    fn big(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let sizes = self.sizes;
        let whole = Unit::Bytes(sizes.big_mib << 20);
        let operations = Unit::Operations;
        let steps = [
            ("sequential write+fsync", Task::WriteBig, sizes.big_mib, Cache::AsIs, Some(whole)),
            ("sequential read cold", Task::ReadBig, sizes.big_mib, Cache::Nothing, Some(whole)),
            ("sequential read warm", Task::ReadBig, sizes.big_mib, Cache::AsIs, Some(whole)),
            (
                "random read 4 KiB warm",
                Task::ReadRandom,
                sizes.warm_reads,
                Cache::AsIs,
                Some(operations(sizes.warm_reads)),
            ),
            (
                "random read 4 KiB cold",
                Task::ReadRandom,
                sizes.cold_reads,
                Cache::Nothing,
                Some(operations(sizes.cold_reads)),
            ),
            // Untimed: the random writes find all of the file cached.
            ("", Task::ReadBig, sizes.big_mib, Cache::AsIs, None),
            (
                "random write 4 KiB+fsync",
                Task::WriteRandom,
                sizes.random_writes,
                Cache::AsIs,
                Some(operations(sizes.random_writes)),
            ),
        ];
        for (name, task, count, cache, unit) in steps {
            let time = self.crew(&[dir.to_owned()], task, count, cache)?;
            if let Some(unit) = unit {
                record(name, unit, time);
            }
        }
        Ok(())
    }

    fn crew(&self, dirs: &[PathBuf], task: Task, count: u64, cache: Cache) -> Result<Duration, Failure> {
        self.interrupt.check()?;
        let crew = Crew::assemble(&self.interrupt, dirs, task, count, self.seed)?;
        cache.prepare()?;
        crew.time()
    }
}

/// What is to be forgotten before a step. What was written before is on disk in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Nothing.
    AsIs,
    /// Entries and attributes (`drop_caches` 2); the disk's blocks stay in memory.
    NoInodes,
    /// Those, and everything read or written (`drop_caches` 3).
    Nothing,
}

impl Cache {
    /// Forgets.
    pub fn prepare(self) -> Result<(), Failure> {
        rustix::fs::sync();
        let what = match self {
            Cache::AsIs => return Ok(()),
            Cache::NoInodes => "2",
            Cache::Nothing => "3",
        };
        fs::write("/proc/sys/vm/drop_caches", what).during(|| "dropping caches".to_owned())
    }
}

fn number(processes: u64) -> String {
    if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") }
}

/// A folder for each process.
fn folders(dir: &Path, processes: u64) -> Result<Vec<PathBuf>, Failure> {
    (0..processes)
        .map(|i| {
            let path = dir.join(format!("{processes}-{i}"));
            fs::create_dir(&path).during(|| format!("making {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use nexus_bench::BARS;

    use super::*;

    #[test]
    fn every_bar_of_one_and_of_many_processes_has_its_row() {
        let per_process = FILES.iter().map(|(name, ..)| *name).chain(NAMES.iter().map(|(name, ..)| *name));
        let known: Vec<&str> = per_process.collect();
        for bar in BARS {
            let Some((name, processes)) = bar.row.split_once(", ") else { continue };
            if processes == number(1) || processes == number(4) {
                let synced = name.starts_with("write+fsync+close");
                assert!(synced || known.contains(&name), "{}", bar.row);
            }
        }
        let rare = format!("metadata beside a writer, {}", LATENCY[1]);
        assert!(BARS.iter().any(|bar| bar.row == rare));
    }
}
