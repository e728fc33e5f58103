//! A place for the daemons of a peer: namespaces of processes, network and mounts of their own. So
//! they meet no other service of the machine, nobody on its network reaches them, and none of them
//! outlives the room: it ends with the bench, however that ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure};
use parking_lot::Mutex;

use crate::interrupt::Interrupt;

/// Where the daemons answer: an address for documentation, on the room's loopback.
pub const ADDRESS: &str = "192.0.2.1";
/// How long something may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(100);

/// Ends when its standard input does. Arguments are pairs: a folder, and where it is seen instead of
/// what is there.
const INIT: &str = r#"
ip link set lo up && ip address add "$0/32" dev lo && mount -t tmpfs none /run || exit 1
while [ $# -gt 0 ]; do mkdir -p "$2" && mount --bind "$1" "$2" || exit 1; shift 2; done
echo ready
read -r _
"#;

/// The room.
pub struct Room {
    holder: Child,
    stdin: Option<ChildStdin>,
    init: u32,
    daemons: Mutex<Vec<Child>>,
}

impl Room {
    /// An empty one, in which some folders are seen elsewhere.
    pub fn open(seen_at: &[(PathBuf, &str)]) -> Result<Self, Failure> {
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--net",
            "--mount",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            INIT,
            ADDRESS,
        ]);
        for (folder, place) in seen_at {
            fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
            command.arg(folder).arg(place);
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut holder = pipes.spawn().during(|| "starting unshare".to_owned())?;
        let (stdin, stdout) = (holder.stdin.take(), holder.stdout.take());
        let mut room = Room { holder, stdin, init: 0, daemons: Mutex::default() };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).during(|| "waiting for a room".to_owned())?;
        }
        let holder = room.holder.id();
        let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).unwrap_or_default();
        match children.trim().parse() {
            Ok(init) if line.trim() == "ready" => room.init = init,
            _ => return Err(Failure::new("namespaces of their own can't be made for the daemons (unshare, ip)")),
        }
        Ok(room)
    }

    /// A command in the room.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--pid", "--net", "--mount"]).arg(program);
        command
    }

    /// A command that only has the room's network: what it mounts is seen outside.
    pub fn with_network(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net"]).arg(program);
        command
    }

    /// Starts a daemon that stays in front.
    pub fn keep(&self, command: &mut Command, log: &Path) -> Result<(), Failure> {
        let output = File::create(log).during(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().during(|| "sharing the log".to_owned())?;
        let command = command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().during(|| format!("starting {:?}", command.get_program()))?;
        self.daemons.lock().push(child);
        Ok(())
    }

    /// Whether somebody listens at a port.
    pub fn listens(&self, port: u16) -> bool {
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.init)).unwrap_or_default();
        sockets.lines().any(|line| {
            // Number, local address, remote address, state; 0A listens.
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().is_some_and(|address| address.ends_with(&format!(":{port:04X}")));
            local && words.nth(1) == Some("0A")
        })
    }

    /// The processes in it, without the one that holds it open and those that led others in.
    pub fn processes(&self) -> Vec<u32> {
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(self.init);
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.init && own.is_some() && space(*pid) == own).collect()
    }

    /// The one process in it whose command line has such an argument.
    pub fn process_with(&self, argument: &str) -> Option<u32> {
        self.processes().into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        })
    }
}

/// Waits until something is there.
pub fn wait(what: &str, interrupt: &Interrupt, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
    let started = Instant::now();
    while !is_so() {
        interrupt.check()?;
        if started.elapsed() > PATIENCE {
            return Err(Failure::new(format!("{what}: not within {} s", PATIENCE.as_secs())));
        }
        sleep(GLANCE);
    }
    Ok(())
}

impl Drop for Room {
    fn drop(&mut self) {
        self.stdin = None;
        // Its first process ends by itself now, and with it all others; the signal is for one that was
        // never ready.
        let started = Instant::now();
        while matches!(self.holder.try_wait(), Ok(None)) && started.elapsed() < PATIENCE / 12 {
            sleep(GLANCE / 5);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for daemon in self.daemons.get_mut() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
