//! Going to the background: the command starts the same program again as the daemon, and
//! waits on a pipe, the daemon's standard output, until the mount answers or cannot be.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::run::Plan;

/// Longest report in bytes.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// The variable of the C library's tunables, and what is put into it.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");

/// What is told once the mount answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The daemon.
    pub pid: u32,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Where the data lies.
    pub data: PathBuf,
    /// Whether the volume was made just now.
    pub made: bool,
    /// Whether all is gone when the daemon ends.
    pub throwaway: bool,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// The daemon's one line on the pipe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready(Ready),
    Failed(String),
}

/// Starts a daemon, and waits until its mount answers. On an error no daemon is left.
pub fn start(plan: &Plan) -> Result<Ready, String> {
    let cannot = |error: io::Error| format!("cannot start the daemon: {error}");
    keep_descriptors_here().map_err(cannot)?;
    let (reports, pipe) = io::pipe().map_err(cannot)?;
    let mut child = command(plan).stdin(Stdio::null()).stdout(pipe).spawn().map_err(cannot)?;
    let mut line = Vec::new();
    // The command that holds the pipe's writing end is gone by now, so that the daemon's
    // death ends the reading.
    let read = BufReader::new(reports).take(MAX_REPORT_BYTES).read_until(b'\n', &mut line);
    match read.map(|_| serde_json::from_slice(&line)) {
        Ok(Ok(Report::Ready(ready))) => Ok(ready),
        Ok(Ok(Report::Failed(problem))) => {
            let _ = child.wait();
            Err(problem)
        }
        _ => {
            let ended = child.wait().map_or_else(|error| error.to_string(), describe);
            Err(format!("the daemon {ended} before the mount answered; its log is {}", plan.daemon_log().display()))
        }
    }
}

/// Whatever this process got from its parent beyond the standard streams (a lock that a
/// script holds, say) ends with it, and is not kept open by the daemon.
fn keep_descriptors_here() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        #[expect(
            unsafe_code,
            reason = "the number is only handed to fcntl(2), which answers EBADF for one that is closed"
        )]
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn command(plan: &Plan) -> Command {
    let config = &plan.config;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("nexus-fuse").arg("mount").arg("--daemon").arg(&plan.source);
    command.env(TUNABLES.0, tunables(std::env::var_os(TUNABLES.0)));
    command.arg("--data").arg(&config.data);
    command.arg("--metastore").arg(config.drivers.metastore.to_string());
    match &config.cloud {
        Some(place) => command.arg("--store").arg(place.url.to_string()),
        None => command.arg("--object-store").arg(config.drivers.object_store.to_string()),
    };
    for (flag, value) in [("--endpoint", &config.endpoint), ("--region", &config.region)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    if config.volatile {
        command.arg("--volatile");
    }
    command.arg("--store-cache").arg(config.store_cache.to_string());
    command.arg("--store-fsync").arg(nexus::stores::fsync_name(config.store_fsync));
    if let Some(compression) = config.store_compression {
        command.arg("--store-compression").arg(nexus::coding::compression_name(compression));
    }
    if let Some(key) = &config.store_key {
        command.arg("--store-key").arg(key.to_string());
    }
    let nexus::limits::LimitsChange { max_requests, upload, download } = config.store_limits;
    if let Some(count) = max_requests {
        command.arg("--store-max-requests").arg(count.to_string());
    }
    for (flag, rate) in [("--store-upload-limit", upload), ("--store-download-limit", download)] {
        if let Some(rate) = rate {
            command.arg(flag).arg(rate.to_string());
        }
    }
    command.arg("--memory").arg(config.memory.to_string());
    if let Some(cache) = config.cache {
        command.arg("--cache").arg(cache.to_string());
    }
    command.arg("--log").arg(config.log.to_string());
    if !config.options.is_empty() {
        command.arg("-o").arg(&config.options);
    }
    command.arg("--").arg(&plan.target);
    command
}

/// The C library's tunables for the daemon. It registers each thread for restartable sequences,
/// which nothing here uses, and the kernel then writes to the thread's memory each time that it
/// begins to run: a twentieth of what a request costs.
fn tunables(given: Option<OsString>) -> OsString {
    let mut tunables = given.filter(|given| !given.is_empty()).map_or_else(OsString::new, |mut given| {
        given.push(":");
        given
    });
    tunables.push(TUNABLES.1);
    tunables
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        (Some(code), _) => format!("ended with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The daemon's end of the pipe.
pub struct Reporter(());

impl Reporter {
    /// Leaves the session of the terminal. Standard output is the pipe.
    pub fn begin() -> Reporter {
        // Fails only where this process leads a session already, which is as good.
        let _ = rustix::process::setsid();
        // Else it would be called "exe", as it was started through /proc.
        let _ = rustix::thread::set_name(c"nexus-fuse");
        Reporter(())
    }

    /// Tells that the mount answers, and lets go of the terminal.
    pub fn ready(&self, ready: &Ready) {
        // All but the pipe before the command goes on, so that it leaves nothing half done.
        let null = let_go().inspect_err(|error| log::warn!("cannot let go of the terminal: {error}"));
        self.send(&Report::Ready(ready.clone()));
        if let Ok(null) = null
            && let Err(error) = rustix::stdio::dup2_stdout(&null)
        {
            log::warn!("cannot let go of the pipe: {error}");
        }
    }

    /// Tells why there is no mount.
    pub fn failed(&self, problem: &str) {
        self.send(&Report::Failed(problem.to_owned()));
    }

    fn send(&self, report: &Report) {
        let sent = serde_json::to_vec(report).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            let mut stdout = io::stdout().lock();
            stdout.write_all(&line)?;
            stdout.flush()
        });
        if let Err(error) = sent {
            // The command was interrupted; the mount is there all the same.
            log::warn!("nobody waits for the report: {error}");
        }
    }
}

/// Input and errors go nowhere, and the working folder holds no medium back; answers what
/// stands for nowhere.
fn let_go() -> io::Result<File> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")?;
    Ok(null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunables_are_added_to_those_that_are_there() {
        assert_eq!(tunables(None), "glibc.pthread.rseq=0");
        assert_eq!(tunables(Some("".into())), "glibc.pthread.rseq=0");
        assert_eq!(tunables(Some("glibc.malloc.check=1".into())), "glibc.malloc.check=1:glibc.pthread.rseq=0");
    }
}
