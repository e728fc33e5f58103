//! Group commit: who wants something durable shares a round of syncing with all who want the
//! same. Threads are woken as seldom as can be: one that comes while a round runs sleeps until
//! the round after it has ended, but for the one that is to lead that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_kernel::Lsn;
use nexus_kernel::error::{Error, Result};
use parking_lot::{Condvar, Mutex};

/// The rounds of one log.
#[derive(Default)]
pub struct Rounds {
    state: Mutex<State>,
    /// Those who wait for the rounds of even and of odd numbers.
    ended: [Condvar; 2],
    /// Copies, to be read without the lock.
    durable: AtomicU64,
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    durable: Lsn,
    /// Number of the round that runs, or that ran last.
    round: u64,
    busy: bool,
    /// Why nothing is made durable any more.
    failure: Option<Error>,
}

/// A leader's turn. Its end, whatever it is, is what the others wait for.
struct Turn<'a> {
    rounds: &'a Rounds,
    outcome: Result<Lsn>,
}

impl Rounds {
    /// With everything up to `durable` durable.
    pub fn new(durable: Lsn) -> Rounds {
        let rounds = Rounds::default();
        rounds.advance(durable);
        rounds
    }

    /// Up to where everything is durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Notes that everything up to `durable` is durable.
    pub fn advance(&self, durable: Lsn) {
        self.state.lock().advance(durable, &self.durable);
    }

    /// What made a round fail, or was noted by [`Rounds::fail`].
    pub fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.state.lock().failure.clone().map_or(Ok(()), Err)
    }

    /// Makes every call fail from now on; what came first is what they are told.
    pub fn fail(&self, error: &Error) {
        self.state.lock().failure.get_or_insert_with(|| error.clone());
        self.failed.store(true, Ordering::Release);
    }

    /// Returns once everything up to `lsn` is durable. Unless it is, or somebody else is at it,
    /// runs `work`, which answers up to where it made all durable, at least up to what there
    /// was when it began. After a failure nothing is run: `Err(None)`; the caller whose own
    /// round it was gets the error.
    pub fn run(&self, lsn: Lsn, work: impl FnOnce() -> Result<Lsn>) -> std::result::Result<(), Option<Error>> {
        let mut state = self.state.lock();
        let mut mine = None;
        while state.failure.is_none() && state.durable < lsn && state.busy {
            // The round that runs may have begun without this record, the next one can't.
            let mine = *mine.get_or_insert(state.round + 1);
            self.ended_of(mine).wait(&mut state);
        }
        let done = match state.failure {
            Some(_) => Some(Err(None)),
            None if state.durable >= lsn => Some(Ok(())),
            None => None,
        };
        if let Some(done) = done {
            // Woken to lead, and with nothing to do: somebody else may have.
            if let (Some(mine), false) = (mine, state.busy) {
                self.ended_of(mine).notify_one();
            }
            return done;
        }
        state.busy = true;
        state.round += 1;
        drop(state);
        let mut turn = Turn { rounds: self, outcome: Err(Error::Io("the sync has panicked".into())) };
        turn.outcome = work();
        match turn.outcome.clone() {
            Ok(target) if target < lsn => Err(Some(Error::Invalid)),
            Ok(_) => Ok(()),
            Err(error) => Err(Some(error)),
        }
    }

    fn ended_of(&self, round: u64) -> &Condvar {
        let [even, odd] = &self.ended;
        if round.is_multiple_of(2) { even } else { odd }
    }
}

impl State {
    fn advance(&mut self, durable: Lsn, copy: &AtomicU64) {
        self.durable = self.durable.max(durable);
        copy.store(self.durable.0, Ordering::Release);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let rounds = self.rounds;
        match &self.outcome {
            Ok(target) => rounds.advance(*target),
            Err(error) => rounds.fail(error),
        }
        let mut state = rounds.state.lock();
        state.busy = false;
        let (round, failed) = (state.round, state.failure.is_some());
        drop(state);
        rounds.ended_of(round).notify_all();
        if failed {
            rounds.ended_of(round + 1).notify_all();
        } else {
            rounds.ended_of(round + 1).notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Records are numbers; a round makes durable what there was when it began.
    #[test]
    fn everybody_returns_with_what_they_asked_for_and_rounds_are_shared() {
        const THREADS: u64 = 16;
        const EACH: u64 = 300;
        let rounds = Rounds::default();
        let (last, run) = (AtomicU64::new(0), AtomicU64::new(0));
        let sync = |lsn| {
            rounds.run(lsn, || {
                run.fetch_add(1, Ordering::SeqCst);
                let target = last.load(Ordering::SeqCst);
                std::thread::yield_now();
                Ok(Lsn(target))
            })
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (rounds, last, sync) = (&rounds, &last, &sync);
                scope.spawn(move || {
                    for step in 0..EACH {
                        let lsn = Lsn(last.fetch_add(1, Ordering::SeqCst) + 1);
                        if (step + thread) % 3 != 0 {
                            sync(lsn).unwrap();
                            assert!(rounds.durable() >= lsn);
                        }
                    }
                });
            }
        });
        sync(Lsn(THREADS * EACH)).unwrap();
        let run = run.load(Ordering::SeqCst);
        assert!(run < THREADS * EACH, "{run} rounds");
    }

    #[test]
    fn a_failure_or_a_panic_reaches_everybody() {
        for panics in [false, true] {
            let rounds = Rounds::default();
            let gate = Mutex::new(());
            let shut = gate.lock();
            std::thread::scope(|scope| {
                let (rounds, gate) = (&rounds, &gate);
                let leader = scope.spawn(move || {
                    rounds.run(Lsn(1), || {
                        drop(gate.lock());
                        assert!(!panics, "on purpose");
                        Err(Error::Io("gone".into()))
                    })
                });
                while !rounds.state.lock().busy {
                    std::thread::yield_now();
                }
                let waiting: Vec<_> =
                    (1..9).map(|lsn| scope.spawn(move || rounds.run(Lsn(lsn), || panic!("no more rounds")))).collect();
                drop(shut);
                match leader.join() {
                    Ok(outcome) => assert_eq!(outcome, Err(Some(Error::Io("gone".into())))),
                    Err(_) => assert!(panics),
                }
                for waiting in waiting {
                    assert_eq!(waiting.join().unwrap(), Err(None));
                }
            });
            assert!(matches!(rounds.check(), Err(Error::Io(_))));
            assert_eq!(rounds.run(Lsn(1), || Ok(Lsn(1))), Err(None));
        }
    }
}
