//! Running other programs: with a time limit, their output kept, nothing left running.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::failure::{Check, During, Stop, ensure, fail};

/// A program to run.
pub struct Tool {
    command: Command,
    name: String,
    limit: Duration,
    input: Option<Vec<u8>>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    name: String,
    /// Its exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Tool {
    /// The program `name`, looked up in the path.
    pub fn new(name: impl AsRef<OsStr>) -> Tool {
        let mut command = Command::new(name.as_ref());
        command.stdin(Stdio::null()).env("LC_ALL", "C").process_group(0);
        let name = Path::new(name.as_ref()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Tool { command, name, limit: Duration::from_secs(300), input: None }
    }

    /// A line for the shell, which stops at the first error.
    pub fn shell(line: &str) -> Tool {
        Tool::new("bash").args(["-euo", "pipefail", "-c", line])
    }

    /// A Python program given as text.
    pub fn python(program: &str) -> Tool {
        Tool::new("python3").args(["-c", program])
    }

    /// Appends an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.command.arg(arg);
        self
    }

    /// Appends arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Tool {
        self.command.args(args);
        self
    }

    /// Runs in this folder.
    pub fn within(mut self, folder: impl AsRef<Path>) -> Tool {
        self.command.current_dir(folder);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Tool {
        self.command.env(key, value);
        self
    }

    /// Gives it this on standard input.
    pub fn input(mut self, bytes: Vec<u8>) -> Tool {
        self.input = Some(bytes);
        self
    }

    /// Kills it, and fails, after this many seconds (300 without).
    pub fn limit_s(mut self, seconds: u64) -> Tool {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end, whatever that is.
    pub fn run(mut self) -> Check<Ended> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let name = self.name;
        let mut group = match self.command.spawn() {
            Ok(child) => Group(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Stop::Failed(format!("{name} is not installed")));
            }
            Err(error) => fail!("cannot start {name}: {error}"),
        };
        let feed = group.0.stdin.take().zip(self.input.take());
        let feeder = feed.map(|(mut stdin, bytes)| std::thread::spawn(move || stdin.write_all(&bytes)));
        let out = group.0.stdout.take().map(drain);
        let err = group.0.stderr.take().map(drain);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = group.0.try_wait()? {
                break status;
            }
            if start.elapsed() > self.limit {
                group.kill();
                fail!("{name} was still running after {} s", self.limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // What it left running in the background would hold the pipes open.
        group.kill();
        let collect = |reader: Option<Drain>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
        let (out, err) = (collect(out), collect(err));
        if let Some(feeder) = feeder {
            // A program may stop reading before its input ends; its exit code tells if that was right.
            let _ = feeder.join();
        }
        Ok(Ended { name, code: status.code().unwrap_or(-1), out, err })
    }

    /// Runs it; anything but exit code 0 fails. Answers standard output.
    pub fn ok(self) -> Check<String> {
        let ended = self.run()?;
        ended.check()?;
        Ok(ended.out)
    }
}

impl Ended {
    /// Fails unless the exit code was 0.
    pub fn check(&self) -> Check {
        ensure!(self.code == 0, "{} ended with {}: {}", self.name, self.code, self.tail());
        Ok(())
    }

    /// The last lines that it said.
    pub fn tail(&self) -> String {
        let said: Vec<&str> = self.out.lines().chain(self.err.lines()).filter(|line| !line.trim().is_empty()).collect();
        said.iter().skip(said.len().saturating_sub(12)).copied().collect::<Vec<_>>().join(" | ")
    }
}

type Drain = std::thread::JoinHandle<String>;

fn drain(mut from: impl Read + Send + 'static) -> Drain {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A process group that does not outlive this value.
struct Group(Child);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` holds; fails after `limit`, naming what it waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> Check<bool>) -> Check {
    let start = Instant::now();
    while !condition().during(what)? {
        ensure!(start.elapsed() < limit, "still not so after {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}
