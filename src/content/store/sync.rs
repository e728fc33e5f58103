//! One sync for all who wait for one, and no more writes after one has failed.

use nexus_kernel::{Error, Result};
use parking_lot::{Condvar, Mutex};

/// Lets concurrent callers share rounds: a caller is served by any round that started after
/// it called.
#[derive(Default)]
pub struct GroupSync {
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    started: u64,
    ended: u64,
    running: bool,
    result: Option<Error>,
    /// The newest round that failed, and with what.
    last_failure: Option<(u64, Error)>,
}

impl GroupSync {
    /// Returns once a round of `work` that started after this call has ended, with its result.
    pub fn run(&self, work: impl Fn() -> Result<()>) -> Result<()> {
        let mut rounds = self.rounds.lock();
        let needed = rounds.started + 1;
        while rounds.ended < needed {
            if rounds.running {
                self.ended.wait(&mut rounds);
                continue;
            }
            rounds.running = true;
            rounds.started += 1;
            let round = rounds.started;
            drop(rounds);
            let result = work();
            rounds = self.rounds.lock();
            rounds.running = false;
            rounds.ended = round;
            rounds.result = result.err();
            if let Some(error) = rounds.result.clone() {
                rounds.last_failure = Some((round, error));
            }
            self.ended.notify_all();
        }
        // A later round may have ended by now; a failure is never followed by a success.
        match &rounds.result {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// As [`GroupSync::run`], where a failed round says nothing of the next one: a caller gets
    /// the failure of any round that ended since it may have been served.
    pub fn run_each(&self, work: impl Fn() -> Result<()>) -> Result<()> {
        let needed = self.rounds.lock().started + 1;
        // What `run` answers is of the newest round.
        let _ = self.run(work);
        match &self.rounds.lock().last_failure {
            Some((round, error)) if *round >= needed => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// What makes a store refuse changes for good.
#[derive(Default)]
pub struct Poison(Mutex<Option<String>>);

impl Poison {
    /// Notes a failure after which the medium's state is unknown; answers it.
    pub fn set(&self, error: Error) -> Error {
        log::error!("content can no longer be made durable, refusing writes from now on: {error}");
        self.0.lock().get_or_insert_with(|| error.to_string());
        error
    }

    /// [`Error::Unavailable`] after a failure.
    pub fn check(&self) -> Result<()> {
        match &*self.0.lock() {
            Some(text) => Err(Error::Unavailable(format!("writing content failed before: {text}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn callers_during_a_round_share_the_next_one() {
        let group = Arc::new(GroupSync::default());
        let rounds = Arc::new(AtomicU64::new(0));
        let (entered, was_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Arc::new(Mutex::new(may_go));
        let call = |first: bool| {
            let (group, rounds) = (Arc::clone(&group), Arc::clone(&rounds));
            let (entered, may_go) = (entered.clone(), Arc::clone(&may_go));
            std::thread::spawn(move || {
                group.run(|| {
                    rounds.fetch_add(1, Ordering::SeqCst);
                    if first {
                        entered.send(()).unwrap();
                        may_go.lock().recv().unwrap();
                    }
                    Ok(())
                })
            })
        };
        let leader = call(true);
        was_entered.recv().unwrap();
        let others: Vec<_> = (0..8).map(|_| call(false)).collect();
        go.send(()).unwrap();
        leader.join().unwrap().unwrap();
        for other in others {
            other.join().unwrap().unwrap();
        }
        // The eight came during the first round or after it: at least one more, and none
        // of them could count the first one, unless it came after the second had started.
        let rounds = rounds.load(Ordering::SeqCst);
        assert!((2..=9).contains(&rounds), "{rounds}");
    }

    #[test]
    fn a_failure_reaches_every_waiter() {
        let group = GroupSync::default();
        let poison = Poison::default();
        let fail = || Err(poison.set(Error::Io("gone".into())));
        assert_eq!(group.run(fail), Err(Error::Io("gone".into())));
        assert!(matches!(poison.check(), Err(Error::Unavailable(_))));
        assert!(matches!(group.run(|| poison.check()), Err(Error::Unavailable(_))));
    }
}
