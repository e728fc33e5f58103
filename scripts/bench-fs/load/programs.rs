//! Workloads that are programs: tar, cp, grep, find, rm, git, cargo, SQLite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nexus_bench::{Context, CrateTree, Failure, History, Tree, Unit};

use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::workloads::{Bench, Cache, Record, Sizes};

/// What programs work on: made once, outside the subjects.
pub struct Materials {
    /// The tree, packed, so that each subject unpacks the same.
    archive: PathBuf,
    /// A bare repository.
    repository: Option<PathBuf>,
    /// Where scripts are written.
    folder: PathBuf,
    has_cargo: bool,
}

/// Environment that would lead git or cargo elsewhere.
const MISLEADING: [&str; 11] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
];

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    for variable in MISLEADING {
        command.env_remove(variable);
    }
    // What a user has set up is no part of the workload.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

fn is_here(name: &str) -> bool {
    let here = program(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        eprintln!("{name} is not here: its row is left out");
    }
    here
}

impl Materials {
    /// Makes them in `folder`.
    pub fn make(folder: &Path, sizes: Sizes, seed: u64, interrupt: &Interrupt) -> Result<Self, Failure> {
        let source = folder.join("source");
        Tree::plan(seed, sizes.tree_files)
            .write(&source.join("tree"))
            .during(|| format!("writing the tree to {}", source.display()))?;
        let archive = folder.join("tree.tar");
        let mut command = program("tar");
        command.arg("-cf").arg(&archive).arg("-C").arg(&source).arg("tree");
        time_program(interrupt, &mut command)?;
        fs::remove_dir_all(&source).during(|| format!("removing {}", source.display()))?;
        let repository = if is_here("git") { Some(repository(folder, sizes, seed, interrupt)?) } else { None };
        Ok(Materials { archive, repository, folder: folder.to_owned(), has_cargo: is_here("cargo") })
    }
}

fn repository(folder: &Path, sizes: Sizes, seed: u64, interrupt: &Interrupt) -> Result<PathBuf, Failure> {
    let (stream, path) = (folder.join("history"), folder.join("repository.git"));
    let history = History { seed, files: sizes.clone_files, commits: sizes.clone_commits };
    let written = File::create(&stream).and_then(|file| {
        let mut file = std::io::BufWriter::new(file);
        history.write(&mut file)?;
        std::io::Write::flush(&mut file)
    });
    written.during(|| format!("writing {}", stream.display()))?;
    time_program(interrupt, program("git").args(["init", "--quiet", "--bare"]).arg(&path))?;
    let input = File::open(&stream).during(|| format!("opening {}", stream.display()))?;
    let git = || {
        let mut command = program("git");
        command.arg("-C").arg(&path);
        command
    };
    time_program(interrupt, git().args(["fast-import", "--quiet", "--done"]).stdin(Stdio::from(input)))?;
    time_program(interrupt, git().args(["symbolic-ref", "HEAD", "refs/heads/main"]))?;
    fs::remove_file(&stream).during(|| format!("removing {}", stream.display()))?;
    Ok(path)
}

impl Bench {
    /// tar, cp, grep, find and rm.
    pub fn tree(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        let archive = self.materials.archive.display().to_string();
        let needles = self.sizes.tree_files.div_ceil(100);
        // A cold cache is cold for the program's own file too: `--version` loads it again.
        let mut step = |name: &str, cache: Cache, words: &[&str]| -> Result<Vec<u8>, Failure> {
            let (first, arguments) = words.split_first().ok_or_else(|| Failure::new("no program"))?;
            cache.prepare()?;
            time_program(&self.interrupt, program(first).arg("--version"))?;
            let mut command = program(first);
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

    /// git clone and cargo build.
    pub fn development(&self, dir: &Path, record: &mut Record<'_>) -> Result<(), Failure> {
        if let Some(repository) = &self.materials.repository {
            let url = format!("file://{}", repository.display());
            Cache::AsIs.prepare()?;
            let mut clone = program("git");
            clone.args(["clone", "--quiet", &url, "clone"]).current_dir(dir);
            let (time, _) = time_program(&self.interrupt, &mut clone)?;
            let mut status = program("git");
            status.args(["status", "--porcelain"]).current_dir(dir.join("clone"));
            let (_, output) = time_program(&self.interrupt, &mut status)?;
            if !output.stdout.is_empty() {
                let words = String::from_utf8_lossy(&output.stdout).into_owned();
                return Err(Failure::new(format!("git finds its clone changed: {words}")));
            }
            record("git clone", Unit::Seconds, time);
        }
        if self.materials.has_cargo {
            let root = dir.join("crates");
            self.sizes.crates.write(&root).during(|| format!("writing crates to {}", root.display()))?;
            Cache::AsIs.prepare()?;
            let mut build = program("cargo");
            build.args(["build", "--offline", "--quiet", "--target-dir", "target"]).current_dir(&root);
            let (time, _) = time_program(&self.interrupt, &mut build)?;
            time_program(&self.interrupt, &mut Command::new(root.join("target/debug").join(CrateTree::PROGRAM)))?;
            record("cargo build", Unit::Seconds, time);
        }
        Ok(())
    }

    /// One insert a transaction, in one of SQLite's journal modes.
    pub fn sqlite(&self, dir: &Path, mode: &str, record: &mut Record<'_>) -> Result<(), Failure> {
        let script = self.materials.folder.join(format!("{mode}.sql"));
        fs::write(&script, sql(mode, self.sizes.transactions)).during(|| format!("writing {}", script.display()))?;
        let database = dir.join(mode);
        let input = File::open(&script).during(|| format!("opening {}", script.display()))?;
        let mut command = sqlite_command();
        command.arg(&database).stdin(Stdio::from(input));
        Cache::AsIs.prepare()?;
        let (time, _) = time_program(&self.interrupt, &mut command)?;
        let name = if mode == "wal" { "SQLite WAL" } else { "SQLite rollback" };
        let unit = Unit::Operations(self.sizes.transactions);
        record(&format!("{name}, one insert each"), unit, time);
        Ok(())
    }
}

/// A statement a line, each insert a transaction of its own.
fn sql(mode: &str, transactions: u64) -> String {
    let mut script = format!(
        "PRAGMA journal_mode={mode};\nPRAGMA synchronous=FULL;\n\
         CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, data BLOB);\n"
    );
    for row in 0..transactions {
        script.push_str(&format!("INSERT INTO t(name, data) VALUES ('row {row}', zeroblob(200));\n"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_insert_is_a_transaction() {
        let script = sql("wal", 3);
        assert_eq!(script.matches("INSERT INTO").count(), 3);
        assert!(!script.contains("BEGIN"));
        assert!(script.starts_with("PRAGMA journal_mode=wal;\nPRAGMA synchronous=FULL;\n"));
    }
}
