//! Running cases one after the other, or some beside each other, and the line that closes a suite.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use crate::failure::{Check, Stop};
use crate::lab::Lab;

/// One test of a suite.
pub struct Case {
    /// Its name, by which it can be run alone.
    pub name: String,
    run: Box<dyn Fn(&Lab) -> Check>,
    is_alone: bool,
}

impl Case {
    /// A case that runs this.
    pub fn new(name: impl Into<String>, run: impl Fn(&Lab) -> Check + 'static) -> Case {
        Case { name: name.into(), run: Box::new(run), is_alone: false }
    }

    /// The same, with nothing beside it: it measures, or asks for all that the machine has.
    pub fn alone(mut self) -> Case {
        self.is_alone = true;
        self
    }

    fn is_wanted(&self, filter: &[String]) -> bool {
        filter.is_empty() || filter.iter().any(|part| self.name.contains(part.as_str()))
    }
}

/// What came of a suite.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that could not run here.
    pub skipped: usize,
}

impl Tally {
    /// The closing line.
    pub fn line(&self, suite: &str) -> String {
        format!("{suite}: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Counts one more result.
    pub fn count(&mut self, result: &Check) {
        match result {
            Ok(()) => self.passed += 1,
            Err(Stop::Failed(_)) => self.failed += 1,
            Err(Stop::Skipped(_)) => self.skipped += 1,
        }
    }
}

/// Runs the cases whose names contain one of `filter` (all, if it is empty), saying each result.
pub fn run(lab: &Lab, cases: &[Case], filter: &[String]) -> Tally {
    let mut tally = Tally::default();
    for case in cases.iter().filter(|case| case.is_wanted(filter)) {
        tally.count(&run_case(lab, case));
    }
    tally
}

/// As [`run`], `lanes` cases at a time, for a suite that waits more than it works. Those that want to be alone come
/// afterwards. Each case has a process of its own, so that what it says stays together.
pub fn run_beside(lab: &Lab, cases: &[Case], filter: &[String], lanes: usize) -> Tally {
    if let Some(name) = &lab.only {
        let mut tally = Tally::default();
        cases.iter().filter(|case| case.name == *name).for_each(|case| tally.count(&run_case(lab, case)));
        return tally;
    }
    let wanted: Vec<&Case> = cases.iter().filter(|case| case.is_wanted(filter)).collect();
    if wanted.len() < 2 {
        return run(lab, cases, filter);
    }
    let (alone, beside): (Vec<&Case>, Vec<&Case>) = wanted.into_iter().partition(|case| case.is_alone);
    let names = |cases: Vec<&Case>| cases.into_iter().map(|case| case.name.clone()).collect::<VecDeque<String>>();
    let tally = Mutex::new(Tally::default());
    for (queue, lanes) in [(names(beside), lanes), (names(alone), 1)] {
        let queue = Mutex::new(queue);
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    // Not held while a case runs.
                    let next = || locked(&queue).pop_front();
                    while let Some(name) = next() {
                        let result = run_elsewhere(&name);
                        locked(&tally).count(&result);
                    }
                });
            }
        });
    }
    *locked(&tally)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a case in a process of its own, which says the result.
fn run_elsewhere(name: &str) -> Check {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).arg("--only").arg(name).stdin(Stdio::null()).stderr(Stdio::inherit());
    let ended = command.output()?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let result = said.lines().rev().find_map(|line| match line.split_once(' ')? {
        ("ok", _) => Some(Ok(())),
        ("FAILED", why) => Some(Err(Stop::Failed(why.to_owned()))),
        ("skipped", why) => Some(Err(Stop::Skipped(why.to_owned()))),
        _ => None,
    });
    let mut out = io::stdout().lock();
    out.write_all(&ended.stdout)?;
    let result = result.unwrap_or_else(|| {
        writeln!(out, "FAILED  {name}: its process ended with {}", ended.status)?;
        Err(Stop::Failed(ended.status.to_string()))
    });
    out.flush()?;
    result
}

fn run_case(lab: &Lab, case: &Case) -> Check {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(lab)))
        .unwrap_or_else(|panic| Err(Stop::Failed(format!("panic: {}", panic_text(&*panic)))));
    let seconds = start.elapsed().as_secs_f32();
    match &result {
        Ok(()) => println!("ok      {} ({seconds:.1} s)", case.name),
        Err(Stop::Failed(reason)) => println!("FAILED  {} ({seconds:.1} s): {reason}", case.name),
        Err(Stop::Skipped(reason)) => println!("skipped {}: {reason}", case.name),
    }
    result
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "of unknown kind".to_owned(),
    }
}
