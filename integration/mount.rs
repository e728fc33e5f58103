//! One daemon under test: started in front, watched, killed by its pid, never left behind.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::failure::{Check, During, Stop, ensure, fail};
use crate::tool::{Tool, wait_until};
use crate::transport::Transport;

/// How long a daemon may take to answer, to recover and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mount of the daemon under test on a data folder of its own.
pub struct Mount {
    binary: PathBuf,
    data: PathBuf,
    point: PathBuf,
    options: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    transport: Option<Transport>,
    network: Option<PathBuf>,
    log: PathBuf,
    daemon: Option<Child>,
}

impl Mount {
    /// Describes a mount of `data` on `point`; [`Mount::start`] makes it. The daemon's words
    /// are appended to `log`.
    pub fn new(binary: &Path, data: &Path, point: &Path, log: &Path) -> Mount {
        Mount {
            binary: binary.to_owned(),
            data: data.to_owned(),
            point: point.to_owned(),
            options: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            transport: None,
            network: None,
            log: log.to_owned(),
            daemon: None,
        }
    }

    /// Adds mount options, as `-o` takes them.
    pub fn with_options(mut self, options: &str) -> Mount {
        self.options = Some(options.to_owned());
        self
    }

    /// Adds arguments of `mount`.
    pub fn with_arguments(mut self, arguments: &[&str]) -> Mount {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Takes such arguments out again, for the next start.
    pub fn forget_arguments(&mut self, arguments: &[&str]) {
        self.arguments.retain(|argument| !arguments.contains(&argument.as_str()));
    }

    /// Sets an environment variable for the daemon, and for `fsck`.
    pub fn with_variable(mut self, name: &str, value: &str) -> Mount {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a variable out again.
    pub fn without_variable(mut self, name: &str) -> Mount {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    /// The same, for the next start.
    pub fn forget_variable(&mut self, name: &str) {
        self.environment.retain(|(other, _)| other != name);
    }

    /// Has requests carried by `transport`, if one is named; [`Mount::start`] sees to it that they are.
    pub fn over(mut self, transport: Option<Transport>) -> Mount {
        self.transport = transport;
        self
    }

    /// Has the daemon live in this network namespace, a file of /run/netns.
    pub fn within_network(mut self, namespace: &Path) -> Mount {
        self.network = Some(namespace.to_owned());
        self
    }

    /// The program under test, in the environment of this mount's daemon.
    pub fn program(&self) -> Tool {
        let tool = Tool::new(&self.binary);
        self.environment.iter().fold(tool, |tool, (name, value)| tool.env(name, value))
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the daemon and waits until the mount answers.
    pub fn start(&mut self) -> Check {
        self.launch()?;
        let point = self.point.clone();
        wait_until("the mount answers", PATIENCE, || {
            ensure!(self.is_running()?, "the daemon ended: {}", self.last_words());
            Ok(is_mount_point(&point)? && fs::metadata(&point).is_ok())
        })?;
        // It comes right after the mount; a dead daemon's refuses.
        let socket = self.data.join("control.sock");
        wait_until("the daemon can be asked", PATIENCE, || {
            ensure!(self.is_running()?, "the daemon ended: {}", self.last_words());
            Ok(UnixStream::connect(&socket).is_ok())
        })?;
        match self.transport {
            Some(transport) => self.check_transport(transport),
            None => Ok(()),
        }
    }

    /// The daemon says itself what it is served by; a fallback would make the test one of
    /// something else.
    fn check_transport(&mut self, transport: Transport) -> Check {
        let own = format!("\"pid\": {},", self.pid()?);
        let wanted = format!("\"transport\": \"{transport}\"");
        wait_until("the daemon says how it is", PATIENCE, || {
            ensure!(self.is_running()?, "the daemon ended: {}", self.last_words());
            let said = Tool::new(&self.binary).args(["status", "--json"]).arg(&self.point).run()?;
            // Nobody answers before the control socket is there.
            let answered = said.out.contains(&own);
            ensure!(!answered || said.out.contains(&wanted), "it is not mounted over {transport}: {}", said.out);
            Ok(answered)
        })
    }

    /// Starts the daemon, without waiting for anything.
    pub fn launch(&mut self) -> Check {
        ensure!(!self.is_running()?, "the daemon is running already");
        let words = OpenOptions::new().create(true).append(true).open(&self.log)?;
        // Not by `ip netns exec`, which would hide the mount from all others.
        let mut command = match &self.network {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.args(["mount", "-f", "--data"]).arg(&self.data).arg(&self.point);
        command.arg("-o").arg(match &self.options {
            Some(more) => format!("allow_other,{more}"),
            None => "allow_other".to_owned(),
        });
        if let Some(transport) = self.transport {
            command.args(["--transport", &transport.to_string()]);
        }
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words).process_group(0);
        let child = command.spawn().during(format!("cannot start {}", self.binary.display()))?;
        self.daemon = Some(child);
        Ok(())
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Check<u32> {
        match &self.daemon {
            Some(child) => Ok(child.id()),
            None => fail!("the daemon is not running"),
        }
    }

    /// Whether the daemon lives.
    pub fn is_running(&mut self) -> Check<bool> {
        Ok(match &mut self.daemon {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Hands the daemon over to the caller, who ends it. Then there is room for the next one.
    pub fn let_go(&mut self) -> Check<Child> {
        self.daemon.take().ok_or_else(|| Stop::Failed("the daemon is not running".to_owned()))
    }

    /// Takes away what a daemon that is gone left on the mount point.
    pub fn clear(&self) -> Check {
        ensure!(self.daemon.is_none(), "the daemon is running");
        self.detach()
    }

    /// Ends the daemon with SIGKILL and takes the dead mount away.
    pub fn kill(&mut self) -> Check {
        if let Some(mut child) = self.daemon.take() {
            // Only this process: its group may hold helpers that would clean up for it.
            child.kill()?;
            child.wait()?;
        }
        self.detach()
    }

    /// Unmounts as a user does; the daemon must then end by itself, with success.
    pub fn stop(&mut self) -> Check {
        ensure!(self.is_running()?, "the daemon ended before its time: {}", self.last_words());
        let point = self.point.clone();
        wait_until("nothing uses the mount any more", PATIENCE, || {
            match rustix::mount::unmount(&point, UnmountFlags::empty()) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::BUSY) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        self.ended()
    }

    /// Waits until a daemon that was unmounted by its own command has ended, with success.
    pub fn ended(&mut self) -> Check {
        let mut ended = None;
        wait_until("the daemon ends", PATIENCE, || {
            ended = match &mut self.daemon {
                Some(child) => child.try_wait()?,
                None => fail!("the daemon is not running"),
            };
            Ok(ended.is_some())
        })?;
        self.daemon = None;
        match ended {
            Some(status) if status.success() => Ok(()),
            _ => Err(Stop::Failed(format!("the daemon ended with {ended:?}: {}", self.last_words()))),
        }
    }

    /// Holds the data folder against its own rules; the daemon must not run.
    pub fn fsck(&self) -> Check {
        self.program().args(["fsck", "--deep"]).arg(&self.data).run()?.check().during("fsck")
    }

    /// Fails if the daemon has logged an error.
    pub fn check_log(&self) -> Check {
        let said = fs::read(&self.log)?;
        let said = String::from_utf8_lossy(&said);
        let errors: Vec<&str> =
            said.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked")).collect();
        ensure!(errors.is_empty(), "the daemon logged errors: {}", errors.join(" | "));
        Ok(())
    }

    /// What the daemon has logged.
    pub fn log(&self) -> Check<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The end of what the daemon said.
    pub fn last_words(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(8)).copied().collect::<Vec<_>>().join(" | ")
    }

    /// KiB of memory that are the daemon's own: not shared, not mapped from a file.
    pub fn memory_kib(&self) -> Check<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        match line.and_then(|rest| rest.trim().strip_suffix(" kB")).map(str::parse) {
            Some(Ok(kib)) => Ok(kib),
            _ => fail!("the kernel does not tell RssAnon"),
        }
    }

    fn detach(&self) -> Check {
        while is_mount_point(&self.point)? {
            rustix::mount::unmount(&self.point, UnmountFlags::DETACH).during("cannot detach the dead mount")?;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if (self.daemon.is_some() || is_mount_point(&self.point).unwrap_or(true))
            && let Err(error) = self.kill()
        {
            eprintln!("cannot clean up {}: {error:?}", self.point.display());
        }
    }
}

/// Whether something is mounted on `point` now.
pub fn is_mount_point(point: &Path) -> Check<bool> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let wanted = point.to_string_lossy().replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(1) == Some(wanted.as_str())))
}

/// Sends a signal to a process that we started.
pub fn signal(pid: u32, signal: Signal) -> Check {
    match Pid::from_raw(pid as i32) {
        Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
        None => fail!("{pid} is no process id"),
    }
}
