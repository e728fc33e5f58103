//! PostgreSQL: a bank under load is stopped hard, recovers, and its books balance.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, test_kill_process};

use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::mount::signal;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// Load, immediate stop of the server, recovery.
pub fn run(lab: &Lab) -> Check {
    let mut place = lab.place("postgres")?;
    let server = Server::new(lab, place.root())?;
    server.start()?;
    server.tool("pgbench", &["-i", "-s", "3", "-q"])?.ok()?;
    let seconds = lab.scale("6", "120");
    server.tool("pgbench", &["-c", "4", "-T", seconds])?.ok()?;
    server.control(&["stop", "-m", "immediate"])?;
    server.start()?;
    server.check()?;
    server.control(&["stop", "-m", "fast"])?;
    place.remount()?;
    server.start()?;
    server.check()?;
    server.control(&["stop", "-m", "fast"])?;
    drop(server);
    place.finish()
}

/// Load, SIGKILL of the file system's daemon, recovery.
pub fn run_with_daemon_killed(lab: &Lab) -> Check {
    lab.needs_mount()?;
    let mut place = lab.place("postgres")?;
    let server = Server::new(lab, place.root())?;
    server.start()?;
    server.tool("pgbench", &["-i", "-s", "2", "-q"])?.ok()?;
    let load = server.tool("pgbench", &["-c", "4", "-t", "100000"])?;
    let load = std::thread::spawn(move || load.run());
    wait_until("the load is under way", Duration::from_secs(60), || {
        let count = server.query("select count(*) from pgbench_history")?;
        Ok(count.trim().parse::<u64>().is_ok_and(|count| count > 300))
    })?;
    let committed: u64 = server.query("select count(*) from pgbench_history")?.trim().parse()?;
    let pid = server.pid()?;
    if let Some(mount) = place.mount() {
        mount.kill()?;
    }
    let _ = load.join();
    end(pid)?;
    if let Some(mount) = place.mount() {
        mount.fsck()?;
        mount.start()?;
    }
    server.start()?;
    server.check()?;
    let now: u64 = server.query("select count(*) from pgbench_history")?.trim().parse()?;
    ensure!(now >= committed, "{committed} transactions were committed, {now} are there");
    server.control(&["stop", "-m", "fast"])?;
    drop(server);
    place.finish()
}

/// A server with its data on the mount; the socket lies beside it, on the machine's own.
struct Server {
    programs: PathBuf,
    folder: PathBuf,
    sockets: Scratch,
}

impl Server {
    fn new(lab: &Lab, root: &Path) -> Check<Server> {
        let server = Server {
            programs: programs()?,
            folder: root.join("postgres"),
            sockets: Scratch::new(&lab.scratch, "socket")?,
        };
        fs::create_dir(&server.folder)?;
        for folder in [&server.folder, server.sockets.path()] {
            Tool::new("chown").arg("postgres").arg(folder).ok()?;
        }
        let data = server.data();
        server.as_postgres("initdb")?.args(["-A", "trust", "-D"]).arg(data).ok()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn as_postgres(&self, program: &str) -> Check<Tool> {
        Ok(Tool::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(self.programs.join(program))
            .within(self.sockets.path()))
    }

    /// A client program.
    fn tool(&self, program: &str, args: &[&str]) -> Check<Tool> {
        let tool = self.as_postgres(program)?.args(args).arg("-h").arg(self.sockets.path());
        Ok(tool.arg("postgres").limit_s(600))
    }

    fn control(&self, args: &[&str]) -> Check {
        let tool = self.as_postgres("pg_ctl")?.args(["-w", "-t", "120", "-D"]).arg(self.data());
        tool.args(args).ok().map(|_| ())
    }

    fn start(&self) -> Check {
        let options = format!("-c listen_addresses='' -k {}", self.sockets.path().display());
        let log = self.sockets.path().join("log");
        let result = self.control(&["start", "-o", &options, "-l", &log.to_string_lossy()]);
        result.map_err(|stop| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(6).collect();
            stop.during(format!("its log, backwards: {}", last.join(" | ")))
        })
    }

    fn query(&self, query: &str) -> Check<String> {
        self.tool("psql", &["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", query])?.ok()
    }

    /// The books balance and the indexes agree with the tables.
    fn check(&self) -> Check {
        let sums = "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from \
                    pgbench_history) and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) \
                    from pgbench_history)";
        let answer = self.query(sums)?;
        ensure!(answer.trim() == "t", "the books do not balance: {answer}");
        self.query("create extension if not exists amcheck")?;
        let indexes = "select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = c.relam \
                       where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p'";
        self.query(indexes).map(|_| ()).during("amcheck")
    }

    fn pid(&self) -> Check<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        Ok(file.lines().next().unwrap_or_default().trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            let _ = end(pid);
        }
    }
}

/// Ends a server at once, without its help.
fn end(pid: u32) -> Check {
    let process = rustix::process::Pid::from_raw(pid as i32);
    let lives = || process.is_some_and(|process| test_kill_process(process).is_ok());
    if lives() {
        signal(pid, Signal::QUIT)?;
    }
    wait_until("the server ends", Duration::from_secs(60), || Ok(!lives()))
}

/// Where Debian keeps the programs of the newest server.
fn programs() -> Check<PathBuf> {
    let mut versions: Vec<PathBuf> = Vec::new();
    if let Ok(listing) = fs::read_dir("/usr/lib/postgresql") {
        for version in listing {
            versions.push(version?.path().join("bin"));
        }
    }
    versions.sort();
    versions.pop().ok_or_else(|| Stop::Failed("PostgreSQL is not installed".to_owned()))
}
