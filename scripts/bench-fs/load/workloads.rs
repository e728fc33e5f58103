//! The workloads: groups of steps that build on one another, each step timed on one subject.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use nexus_bench::{Context, Failure, Tree, Unit};

use crate::crew::{Crew, time_program};
use crate::interrupt::Interrupt;
use crate::work::Task;

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Files that are made, listed, renamed and unlinked.
    pub files: u64,
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
    /// SQLite transactions, ten inserts each.
    pub transactions: u64,
}

impl Sizes {
    /// What the published table is made with.
    pub const FULL: Sizes = Sizes {
        files: 20_000,
        tree_files: 10_000,
        big_mib: 1024,
        cold_reads: 4_000,
        warm_reads: 100_000,
        random_writes: 20_000,
        sync_files: 1_000,
        transactions: 500,
    };
    /// Enough to see that everything works.
    pub const QUICK: Sizes = Sizes {
        files: 800,
        tree_files: 400,
        big_mib: 32,
        cold_reads: 200,
        warm_reads: 2_000,
        random_writes: 500,
        sync_files: 64,
        transactions: 20,
    };
}

/// A group of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Create, stat, list, rename and unlink of many files.
    Files,
    /// tar, cp, grep, find and rm on a tree of small files.
    Tree,
    /// One big file, in order and at random.
    Big,
    /// Small files, each synced.
    Sync,
    /// SQLite transactions.
    Sqlite,
}

/// What the steps work with.
pub struct Bench {
    /// How much of each.
    pub sizes: Sizes,
    /// The tree's archive.
    pub archive: PathBuf,
    /// Whom to ask whether to go on.
    pub interrupt: Interrupt,
    /// Seed of orders and offsets.
    pub seed: u64,
}

/// Takes a step's time.
pub type Record<'a> = dyn FnMut(&str, Unit, Duration) + 'a;

impl Bench {
    /// Runs a group below `root`, which is left as it was found.
    pub fn run(&self, group: Group, root: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let dir = root.join("bench");
        fs::create_dir(&dir).during(|| format!("making {}", dir.display()))?;
        let result = match group {
            Group::Files => [1, 4].iter().try_for_each(|&n| self.files(&dir, n, record)),
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
        let steps = [
            ("create", Task::Create, Cache::AsIs),
            ("stat cold", Task::Stat, Cache::NoInodes),
            ("stat warm", Task::Stat, Cache::AsIs),
            ("readdir+stat cold", Task::List, Cache::NoInodes),
            ("readdir+stat warm", Task::List, Cache::AsIs),
            ("rename", Task::Rename, Cache::AsIs),
            ("unlink", Task::Unlink, Cache::AsIs),
        ];
        for (name, task, cache) in steps {
            let time = self.crew(&dirs, task, each, cache)?;
            record(&format!("{name}, {}", number(processes)), unit, time);
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

    fn tree(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let archive = self.archive.display().to_string();
        let needles = self.sizes.tree_files.div_ceil(100);
        // A cold cache is cold for the program's own file too: `--version` loads it again.
        let mut step = |name: &str, cache: Cache, words: &[&str]| -> Result<Vec<u8>, Failure> {
            let (program, arguments) = words.split_first().ok_or_else(|| Failure::new("no program"))?;
            cache.prepare()?;
            time_program(&self.interrupt, Command::new(program).arg("--version"))?;
            let mut command = Command::new(program);
            command.args(arguments).current_dir(dir);
            let (time, output) = time_program(&self.interrupt, &mut command)?;
            record(name, Unit::Seconds, time);
            Ok(output.stdout)
        };
        step("untar", Cache::AsIs, &["tar", "-xf", &archive])?;
        step("cp -r", Cache::AsIs, &["cp", "-r", "tree", "copy"])?;
        for (name, cache) in [("grep -r cold", Cache::Nothing), ("grep -r warm", Cache::AsIs)] {
            let found = step(name, cache, &["grep", "-r", Tree::NEEDLE, "tree"])?;
            let lines = found.iter().filter(|b| **b == b'\n').count();
            if lines != needles {
                return Err(Failure::new(format!("grep found {lines} lines of {needles}")));
            }
        }
        for (name, cache) in [("find cold", Cache::NoInodes), ("find warm", Cache::AsIs)] {
            // The size makes it stat every file.
            step(name, cache, &["find", "tree", "-size", "+100M"])?;
        }
        step("rm -rf", Cache::AsIs, &["rm", "-rf", "copy"])?;
        Ok(())
    }

    fn sqlite(&self, dir: &Path, mode: &str, record: &mut Record<'_>) -> Result<(), Failure> {
        let script = self.archive.with_file_name(format!("{mode}.sql"));
        fs::write(&script, sql(mode, self.sizes.transactions)).during(|| format!("writing {}", script.display()))?;
        let database = dir.join(mode);
        let input = fs::File::open(&script).during(|| format!("opening {}", script.display()))?;
        let mut command = sqlite_command();
        command.arg(&database).stdin(Stdio::from(input));
        Cache::AsIs.prepare()?;
        let (time, _) = time_program(&self.interrupt, &mut command)?;
        let name = if mode == "wal" { "SQLite WAL" } else { "SQLite rollback" };
        let unit = Unit::Operations(self.sizes.transactions);
        record(&format!("{name}, transactions"), unit, time);
        Ok(())
    }
}

/// What is to be forgotten before a step. What was written before is on disk in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    AsIs,
    /// Entries and attributes (`drop_caches` 2); the disk's blocks stay in memory.
    NoInodes,
    /// Those, and everything read or written (`drop_caches` 3).
    Nothing,
}

impl Cache {
    fn prepare(self) -> Result<(), Failure> {
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

/// A statement a line.
fn sql(mode: &str, transactions: u64) -> String {
    let mut script = format!(
        "PRAGMA journal_mode={mode};\nPRAGMA synchronous=FULL;\n\
         CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, data BLOB);\n"
    );
    for i in 0..transactions {
        script.push_str("BEGIN;\n");
        for j in 0..10 {
            let row = i * 10 + j;
            script.push_str(&format!("INSERT INTO t(name, data) VALUES ('row {row}', zeroblob(200));\n"));
        }
        script.push_str("COMMIT;\n");
    }
    script
}

/// The `sqlite3` shell, or Python with the module of that name.
fn sqlite_command() -> Command {
    let shell = Command::new("sqlite3").arg("-version").output();
    if shell.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("sqlite3");
        command.arg("-bail");
        return command;
    }
    let mut command = Command::new("python3");
    command.args([
        "-c",
        "import sqlite3, sys\n\
         db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         for line in sys.stdin: db.execute(line)\n\
         db.close()",
    ]);
    command
}
