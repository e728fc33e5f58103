//! The model test: random system calls by several users on the place under test and on a
//! folder of the machine's own file system, which must answer and look the same. A failing
//! sequence is shrunk and printed.

mod actor;
mod compare;
mod generate;
mod holes;
mod op;
mod shrink;
mod side;

use std::fs;
use std::time::{Duration, Instant};

use crate::failure::{Check, Stop};
use crate::lab::{Lab, Place};
use crate::report::Tally;
use crate::scratch::Scratch;
use actor::Actors;
use compare::{Difference, Pair};
use op::Op;

/// Calls in one sequence.
const LENGTH: usize = 600;
/// Seconds in CI.
const CI_SECONDS: u64 = 75;
/// Seconds in a soak.
const SOAK_SECONDS: u64 = 3600;
/// Seconds that shrinking one failure may take.
const SHRINK_SECONDS: u64 = 120;
/// Failures after which there is no point in going on.
const MAX_FAILURES: usize = 3;

/// Runs sequence after sequence until the time is over. With a filter, its words are seeds
/// to run instead.
pub fn run(lab: &Lab, filter: &[String]) -> Tally {
    let mut tally = Tally::default();
    let ci_seconds = if lab.zone { CI_SECONDS / 2 } else { CI_SECONDS };
    let end = Instant::now() + Duration::from_secs(lab.seconds.unwrap_or(lab.scale(ci_seconds, SOAK_SECONDS)));
    let wanted: Vec<u64> = filter.iter().filter_map(|word| word.parse().ok()).collect();
    let seeds: Box<dyn Iterator<Item = u64>> =
        if wanted.is_empty() { Box::new(lab.seed..) } else { Box::new(wanted.into_iter()) };
    let mut bench = None;
    for (round, seed) in seeds.enumerate() {
        if round > 0 && filter.is_empty() && Instant::now() > end {
            break;
        }
        let result = one_seed(lab, &mut bench, seed);
        match &result {
            Ok(()) if round % 20 == 0 => {
                let succeeded = bench.as_ref().map_or(0, |bench| bench.succeeded);
                println!("ok      seeds from {seed}, {LENGTH} calls each ({succeeded} of this seed's succeeded)");
            }
            Ok(()) => {}
            Err(Stop::Failed(reason)) => {
                println!("FAILED  seed {seed}: {reason}");
                bench = None;
            }
            Err(Stop::Skipped(reason)) => println!("skipped {reason}"),
        }
        tally.count(&result);
        if tally.failed == MAX_FAILURES || tally.skipped > 0 {
            break;
        }
    }
    if let Some(Err(stop)) = bench.map(|bench| bench.place.finish()) {
        println!("FAILED  in the end: {stop:?}");
        tally.failed += 1;
    }
    tally
}

/// What a sequence runs on; kept from one to the next.
struct Bench {
    place: Place,
    oracle: Scratch,
    actors: Actors,
    runs: usize,
    /// Calls of the last run that did not fail.
    succeeded: usize,
}

impl Bench {
    fn new(lab: &Lab) -> Check<Bench> {
        let place = lab.place("model")?;
        Ok(Bench {
            place,
            oracle: Scratch::new(&lab.scratch, "oracle")?,
            actors: Actors::new()?,
            runs: 0,
            succeeded: 0,
        })
    }

    /// Runs `ops` in fresh folders; `then` sees them once all is closed.
    fn run(
        &mut self,
        ops: &[Op],
        then: impl FnOnce(&mut Place, &std::path::Path, &std::path::Path) -> Check<Option<String>>,
    ) -> Check<Option<Difference>> {
        self.runs += 1;
        let name = format!("run{}", self.runs);
        let (ours, oracle) = (self.place.root().join(&name), self.oracle.path().join(&name));
        let pair = Pair::new(&ours, &oracle)?;
        let mut difference = pair.run(&self.actors, ops)?;
        self.succeeded = pair.succeeded();
        drop(pair);
        if difference.is_none() {
            difference = then(&mut self.place, &ours, &oracle)?.map(|what| Difference { after: ops.len(), what });
        }
        fs::remove_dir_all(&oracle)?;
        fs::remove_dir_all(&ours)?;
        Ok(difference)
    }
}

/// Whether and how to restart the daemon between the calls and a last comparison.
fn restart(seed: u64, place: &mut Place) -> Check<bool> {
    match seed % 8 {
        2 => place.remount().map(|()| true),
        6 => place.kill_and_remount().map(|()| true),
        _ => Ok(false),
    }
}

fn one_seed(lab: &Lab, bench: &mut Option<Bench>, seed: u64) -> Check {
    let current = match bench {
        Some(bench) => bench,
        None => bench.insert(Bench::new(lab)?),
    };
    let ops = generate::sequence(seed, LENGTH);
    let difference = attempt(current, seed, &ops)?;
    let Some(difference) = difference else {
        return Ok(());
    };
    let failing = ops.get(..difference.after).unwrap_or(&ops);
    let first = difference.what.clone();
    let mut last = difference;
    let short = shrink::shrink(failing, Duration::from_secs(SHRINK_SECONDS), |ops| {
        match attempt(current, seed, ops) {
            Ok(Some(difference)) => {
                last = difference;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(stop) => {
                // The daemon may have died of it.
                *current = Bench::new(lab)?;
                last = Difference { after: ops.len(), what: format!("{stop:?}") };
                Ok(true)
            }
        }
    })?;
    if short.len() == failing.len() {
        last.what = format!("{first}\n        (no shorter sequence fails; the last calls were)");
    }
    let lines: Vec<String> = short
        .iter()
        .skip(short.len().saturating_sub(40))
        .map(|op| format!("\n          {:?} umask {:03o} {:?}", op.user, op.umask, op.call))
        .collect();
    Err(Stop::Failed(format!("{}\n        at the end of{}", last.what, lines.concat())))
}

fn attempt(bench: &mut Bench, seed: u64, ops: &[Op]) -> Check<Option<Difference>> {
    bench.run(ops, |place, ours, oracle| {
        if restart(seed, place)? {
            return Ok(compare::compare_trees(ours, oracle)?.map(|what| format!("after a restart: {what}")));
        }
        Ok(None)
    })
}
