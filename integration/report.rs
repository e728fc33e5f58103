//! Running cases one after the other, and the line that closes a suite.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::failure::{Check, Stop};
use crate::lab::Lab;

/// One test of a suite.
pub struct Case {
    /// Its name, by which it can be run alone.
    pub name: String,
    run: Box<dyn Fn(&Lab) -> Check>,
}

impl Case {
    /// A case that runs this.
    pub fn new(name: impl Into<String>, run: impl Fn(&Lab) -> Check + 'static) -> Case {
        Case { name: name.into(), run: Box::new(run) }
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
    for case in cases {
        if !filter.is_empty() && !filter.iter().any(|part| case.name.contains(part.as_str())) {
            continue;
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(lab)))
            .unwrap_or_else(|panic| Err(Stop::Failed(format!("panic: {}", panic_text(&*panic)))));
        let seconds = start.elapsed().as_secs_f32();
        match &result {
            Ok(()) => println!("ok      {} ({seconds:.1} s)", case.name),
            Err(Stop::Failed(reason)) => println!("FAILED  {} ({seconds:.1} s): {reason}", case.name),
            Err(Stop::Skipped(reason)) => println!("skipped {}: {reason}", case.name),
        }
        tally.count(&result);
    }
    tally
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "of unknown kind".to_owned(),
    }
}
