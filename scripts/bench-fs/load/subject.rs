//! What is measured: a folder, and the daemon that serves it if there is one.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure, Role};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt::{Interrupt, Watched};

/// How long a daemon may take to answer first, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at that cannot be waited for.
const GLANCE: Duration = Duration::from_millis(20);

/// One column of the table.
pub struct Subject {
    /// The column.
    pub column: nexus_bench::Subject,
    /// Where its files are made.
    pub root: PathBuf,
    mount: Option<Mount>,
    /// A peer that hangs must not keep the bench from ending.
    _watched: Option<Watched>,
}

/// What a daemon used.
pub struct Usage {
    /// Most memory it had at once, in KiB.
    pub peak_rss_kib: u64,
    /// Processor time it took, its own and the kernel's for it.
    pub cpu: Duration,
}

impl Subject {
    /// A folder of the machine's own file system.
    pub fn folder(name: &str, root: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&root).during(|| format!("making {}", root.display()))?;
        let column = nexus_bench::Subject { name: name.to_owned(), role: Role::Local, transport: String::new() };
        Ok(Subject { column, root, mount: None, _watched: None })
    }

    /// A file system that `command` serves at `target`, staying in front.
    pub fn mounted(
        column: nexus_bench::Subject,
        target: PathBuf,
        log: &Path,
        command: &mut Command,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(&target).during(|| format!("making {}", target.display()))?;
        let mount =
            Mount::start(target.clone(), log, command, interrupt).during(|| format!("mounting {}", column.name))?;
        let peer = column.role == Role::Peer;
        let watched = if peer { Some(interrupt.watch(&mount.daemon)?) } else { None };
        Ok(Subject { column, root: target, mount: Some(mount), _watched: watched })
    }

    /// What its daemon used so far, with the processes that it started.
    pub fn usage(&self) -> Option<Usage> {
        let pids = self.processes();
        let peak = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            peak.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        let peak_rss_kib = pids.iter().filter_map(peak).sum();
        (!pids.is_empty()).then(|| Usage { peak_rss_kib, cpu: self.cpu() })
    }

    fn cpu(&self) -> Duration {
        self.processes().into_iter().filter_map(cpu_time).sum()
    }

    /// Kills its daemon, which leaves its mount behind until this is dropped.
    pub fn kill(&self) -> Result<(), Failure> {
        self.mount.as_ref().map_or(Ok(()), |mount| kill(mount.daemon.id()))
    }

    /// The daemon and its children: some have one that watches and one that works.
    pub fn processes(&self) -> Vec<u32> {
        let Some(mount) = &self.mount else { return Vec::new() };
        let mut all = vec![mount.daemon.id()];
        let tasks = fs::read_dir(format!("/proc/{}/task", mount.daemon.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        all
    }
}

/// Waits until no daemon works on what it was left with, so that it does not slow the next one
/// down; half a minute at most.
pub fn settle(subjects: &[Subject]) {
    settle_on(|| subjects.iter().map(Subject::cpu).collect());
}

/// The same for whatever the processor times are of.
pub fn settle_on(cpu: impl Fn() -> Vec<Duration>) {
    const QUIET: Duration = Duration::from_millis(200);
    rustix::fs::sync();
    let started = Instant::now();
    let mut before = cpu();
    while started.elapsed() < PATIENCE / 2 {
        sleep(QUIET);
        let now = cpu();
        let busy = now.iter().zip(&before).any(|(now, before)| now.saturating_sub(*before) > Duration::from_millis(10));
        if !busy {
            break;
        }
        before = now;
    }
}

/// Ends a process by force.
pub fn kill(pid: u32) -> Result<(), Failure> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| Failure::new("no such process"))?;
    kill_process(pid, Signal::KILL).during(|| "killing a daemon".to_owned())
}

/// How long the threads of some processes were on a processor, to the nanosecond.
pub fn time_run(processes: &[u32]) -> Duration {
    let threads = processes.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten());
    let run = threads.flatten().filter_map(|thread| {
        let told = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    });
    run.sum()
}

/// Processor time of a process, from `/proc/PID/stat`, whose unit is 10 ms on Linux.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold spaces.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    Some(Duration::from_millis(ticks * 10))
}

struct Mount {
    target: PathBuf,
    daemon: Child,
}

impl Mount {
    fn start(target: PathBuf, log: &Path, command: &mut Command, interrupt: &Interrupt) -> Result<Self, Failure> {
        let output = File::create(log).during(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().during(|| "sharing the log".to_owned())?;
        // A group of its own: Ctrl-C is for us, who then unmount in order.
        let daemon = command
            // As `nexus-fuse mount` starts its daemon; a peer's is started so, too.
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .during(|| format!("starting {:?}", command.get_program()))?;
        let mut mount = Mount { target, daemon };
        let started = Instant::now();
        while !mount.answers() {
            interrupt.check()?;
            let ended = mount.daemon.try_wait().during(|| "looking at the daemon".to_owned())?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                let words = fs::read_to_string(log).unwrap_or_default();
                let fate = ended.map_or("no answer in time".to_owned(), |s| s.to_string());
                let line = [command.get_program()].into_iter().chain(command.get_args());
                let line: Vec<_> = line.map(|word| word.to_string_lossy()).collect();
                return Err(Failure::new(format!("{}: {fate}\n{words}", line.join(" "))));
            }
            sleep(GLANCE);
        }
        Ok(mount)
    }

    /// The target lies on another device than the folder that holds it.
    fn answers(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
        let inside = device(&self.target);
        inside.is_some() && inside != self.target.parent().and_then(device)
    }

    fn ended_within(&mut self, time: Duration) -> bool {
        let started = Instant::now();
        loop {
            if !matches!(self.daemon.try_wait(), Ok(None)) {
                return true;
            }
            if started.elapsed() > time {
                return false;
            }
            sleep(GLANCE);
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted =
            unmount(&self.target, UnmountFlags::empty()).or_else(|_| unmount(&self.target, UnmountFlags::DETACH));
        if (unmounted.is_ok() || !self.answers()) && self.ended_within(PATIENCE) {
            return;
        }
        let pid = Pid::from_child(&self.daemon);
        for signal in [Signal::TERM, Signal::KILL] {
            if self.ended_within(Duration::ZERO) {
                break;
            }
            let _ = kill_process(pid, signal);
            if self.ended_within(PATIENCE / 6) {
                break;
            }
        }
        // A daemon that died by force leaves its mount behind.
        let _ = unmount(&self.target, UnmountFlags::DETACH);
    }
}
