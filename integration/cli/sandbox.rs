//! A folder for one test, in which mounts, daemons and files stand that end with it,
//! however the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nexus-fuse");

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the file's head.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; -1 if a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Sandbox {
    /// A new one. All tests here need root.
    pub fn new() -> Sandbox {
        assert!(rustix::process::geteuid().is_root(), "these tests mount, which needs root");
        let dir = tempfile::Builder::new().prefix("nexus-cli-").tempdir().unwrap();
        // Ordinary users may pass.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Sandbox { dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command that sees nothing of the settings of whoever runs the tests.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for name in ["DATA", "METASTORE", "OBJECT_STORE", "MEMORY", "CACHE", "LOG", "OPTIONS"] {
            command.env_remove(format!("NEXUS_{name}"));
        }
        command.env("HOME", self.path()).stdin(Stdio::null()).current_dir(self.path());
        command
    }

    /// Runs the program. Words are paths in the sandbox where they begin with `./`.
    pub fn run(&self, words: &[&str]) -> Ended {
        let mut command = self.command(PROGRAM);
        command.args(words);
        Ended::of(command.output().unwrap())
    }

    /// Runs the program, which must succeed; answers what it printed.
    pub fn ok(&self, words: &[&str]) -> String {
        let ended = self.run(words);
        assert_eq!(ended.status, 0, "{words:?}: {ended:?}");
        ended.out
    }

    /// Runs a shell script, with `$PROGRAM` and `$BOX` set.
    pub fn script(&self, text: &str) -> Ended {
        let mut command = self.command("sh");
        command.args(["-euc", text]).env("PROGRAM", PROGRAM).env("BOX", self.path());
        Ended::of(command.output().unwrap())
    }

    /// Starts the program in front.
    pub fn start(&self, words: &[&str]) -> Child {
        self.command(PROGRAM).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Whether something of Nexus is mounted at `name`.
    pub fn is_mounted(&self, name: &str) -> bool {
        let target = self.at(name);
        mounts().iter().any(|(at, kind, _)| *at == target && kind == "fuse.nexus")
    }

    /// The process that has the data folder `name` open.
    pub fn pid(&self, name: &str) -> Option<Pid> {
        daemon_of(&self.at(name))
    }

    /// Kills the daemon of the data folder `name`, as a crash would.
    pub fn crash(&self, name: &str) {
        let pid = self.pid(name).expect("a daemon to kill");
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        wait_for("the daemon's end", || !is_alive(pid));
    }
}

impl Ended {
    pub fn of(output: Output) -> Ended {
        Ended {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Holds that it failed with `status`, with one message that has all `parts`.
    pub fn failed(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {:?}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for (target, _, _) in mounts().iter().rev().filter(|(target, _, _)| target.starts_with(self.path())) {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            if let Some(pid) = daemon_of(&folder) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                wait_for("the daemon's end", || !is_alive(pid));
            }
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
        }
    }
}

/// Waits until `condition` holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Target, type and source of every mount.
pub fn mounts() -> Vec<(PathBuf, String, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let (source, target, kind) = (words.next()?, words.next()?, words.next()?);
        Some((PathBuf::from(target), kind, source))
    };
    text.lines().filter_map(fields).collect()
}

/// Whether a process runs; one that only waits to be collected does not.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// The daemon that has `folder` as its data folder, if it runs this program.
fn daemon_of(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join("LOCK")).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).and_then(Pid::from_raw)?;
    let exe = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok()?;
    (exe.file_name() == Path::new(PROGRAM).file_name() && is_alive(pid)).then_some(pid)
}
