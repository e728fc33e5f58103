//! Starting, timing and ending the programs that do the work, one or several at once.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nexus_bench::{Context, Failure};

use crate::interrupt::{Interrupt, Watched};
use crate::work::Task;

struct Member {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _watched: Watched,
}

impl Member {
    /// A line that the worker says; none if it has failed.
    fn listen(&mut self, interrupt: &Interrupt) -> Result<String, Failure> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).during(|| "listening to a worker".to_owned())?;
        if line.ends_with('\n') {
            return Ok(line.trim_end().to_owned());
        }
        interrupt.check()?;
        Err(Failure::new("a worker failed: its message is above"))
    }

    fn hear(&mut self, word: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        match self.listen(interrupt)? {
            heard if heard == word => Ok(()),
            heard => Err(Failure::new(format!("a worker said {heard}, not {word}"))),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // After `done` it is ending by itself; before, there is nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Worker processes that are ready to start together.
pub struct Crew {
    members: Vec<Member>,
    interrupt: Interrupt,
}

impl Crew {
    /// Starts a worker in each of `dirs`, each doing `count` of `task`, and waits until all are
    /// ready.
    pub fn assemble(
        interrupt: &Interrupt,
        dirs: &[impl AsRef<Path>],
        task: Task,
        count: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        let places = dirs.iter().map(|dir| (dir.as_ref(), None));
        Crew::call(interrupt, places, task, count, seed)
    }

    /// Starts one worker in `dir` that also looks into the same folder on another node.
    pub fn looking_at(
        interrupt: &Interrupt,
        dir: &Path,
        other: &Path,
        task: Task,
        count: u64,
    ) -> Result<Self, Failure> {
        Crew::call(interrupt, std::iter::once((dir, Some(other))), task, count, 0)
    }

    fn call<'a>(
        interrupt: &Interrupt,
        places: impl Iterator<Item = (&'a Path, Option<&'a Path>)>,
        task: Task,
        count: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().during(|| "finding bench-load".to_owned())?;
        let task = task.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let mut crew = Crew { members: Vec::new(), interrupt: interrupt.clone() };
        for (i, (dir, other)) in places.enumerate() {
            let mut command = Command::new(&program);
            command.args(["work", &task, &count.to_string(), &(seed + i as u64).to_string()]);
            if let Some(other) = other {
                command.arg("--other").arg(other);
            }
            let mut child = command
                .current_dir(dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .during(|| "starting a worker".to_owned())?;
            let (stdin, stdout) = match (child.stdin.take(), child.stdout.take()) {
                (Some(stdin), Some(stdout)) => (stdin, BufReader::new(stdout)),
                _ => return Err(Failure::new("a worker has no pipes")),
            };
            let watched = interrupt.watch(&child)?;
            crew.members.push(Member { child, stdin, stdout, _watched: watched });
        }
        for member in &mut crew.members {
            member.hear("ready", interrupt)?;
        }
        Ok(crew)
    }

    /// Lets all go at once.
    pub fn start(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            member.stdin.write_all(b"!").during(|| "starting a worker".to_owned())?;
        }
        Ok(())
    }

    /// Lets all go at once; the time until the last is done.
    pub fn time(mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        self.start()?;
        for member in &mut self.members {
            member.hear("done", &self.interrupt)?;
        }
        Ok(start.elapsed())
    }

    /// Lets all go at once; the times that the first reports.
    pub fn reported_times(mut self) -> Result<Vec<Duration>, Failure> {
        self.start()?;
        self.reports()?.into_iter().next().ok_or_else(|| Failure::new("a crew of nobody"))
    }

    /// Waits until all that were let go have reported; the times of each.
    pub fn reports(mut self) -> Result<Vec<Vec<Duration>>, Failure> {
        let mut all = Vec::new();
        for member in &mut self.members {
            let line = member.listen(&self.interrupt)?;
            let times: Result<Vec<Duration>, _> =
                line.split(' ').map(|word| word.parse().map(Duration::from_nanos)).collect();
            all.push(times.during(|| format!("a worker's report, {line}"))?);
        }
        Ok(all)
    }

    /// Fails if somebody has ended.
    pub fn still_works(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            if !matches!(member.child.try_wait(), Ok(None)) {
                return Err(Failure::new("a worker failed: its message is above"));
            }
        }
        Ok(())
    }
}

/// Runs a program to its end; its time and what it printed. Fails if the program does.
pub fn time_program(interrupt: &Interrupt, command: &mut Command) -> Result<(Duration, Output), Failure> {
    interrupt.check()?;
    let start = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .during(|| format!("starting {:?}", command.get_program()))?;
    let watched = interrupt.watch(&child)?;
    let output = child.wait_with_output().during(|| format!("waiting for {:?}", command.get_program()))?;
    let time = start.elapsed();
    drop(watched);
    interrupt.check()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("{command:?}: {}: {words}", output.status)));
    }
    Ok((time, output))
}
