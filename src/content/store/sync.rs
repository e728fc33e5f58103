//! One sync for all who wait for one, and no more writes after one has failed.

use nexus_kernel::{Error, Result};
use parking_lot::{Condvar, Mutex};

/// Lets concurrent callers share rounds: a caller is served by the next round that starts, with
/// all that callers brought until then.
pub struct GroupSync<T = ()> {
    rounds: Mutex<Rounds<T>>,
    ended: Condvar,
}

struct Rounds<T> {
    started: u64,
    ended: u64,
    running: bool,
    /// What the next round is for.
    brought: Vec<T>,
    /// The newest round that failed, and with what.
    failure: Option<(u64, Error)>,
}

impl<T> Default for GroupSync<T> {
    fn default() -> GroupSync<T> {
        let rounds = Rounds { started: 0, ended: 0, running: false, brought: Vec::new(), failure: None };
        GroupSync { rounds: Mutex::new(rounds), ended: Condvar::new() }
    }
}

impl<T> GroupSync<T> {
    /// Returns once the round of `work` that took `items` has ended, with its result or a later
    /// round's failure.
    pub fn run(&self, items: impl IntoIterator<Item = T>, work: impl Fn(Vec<T>) -> Result<()>) -> Result<()> {
        let mut rounds = self.rounds.lock();
        // Brought and numbered in one go, so that no other round can take them.
        rounds.brought.extend(items);
        let needed = rounds.started + 1;
        while rounds.ended < needed {
            if rounds.running {
                self.ended.wait(&mut rounds);
                continue;
            }
            rounds.running = true;
            rounds.started += 1;
            let (round, brought) = (rounds.started, std::mem::take(&mut rounds.brought));
            drop(rounds);
            let result = work(brought);
            rounds = self.rounds.lock();
            rounds.running = false;
            rounds.ended = round;
            if let Err(error) = result {
                rounds.failure = Some((round, error));
            }
            self.ended.notify_all();
        }
        match &rounds.failure {
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
        let group = Arc::new(GroupSync::<()>::default());
        let rounds = Arc::new(AtomicU64::new(0));
        let (entered, was_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Arc::new(Mutex::new(may_go));
        let call = |first: bool| {
            let (group, rounds) = (Arc::clone(&group), Arc::clone(&rounds));
            let (entered, may_go) = (entered.clone(), Arc::clone(&may_go));
            std::thread::spawn(move || {
                group.run([], |_| {
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
        let group = GroupSync::<()>::default();
        let poison = Poison::default();
        let fail = |_| Err(poison.set(Error::Io("gone".into())));
        assert_eq!(group.run([], fail), Err(Error::Io("gone".into())));
        assert!(matches!(poison.check(), Err(Error::Unavailable(_))));
        assert!(matches!(group.run([], |_| poison.check()), Err(Error::Unavailable(_))));
    }

    #[test]
    fn a_round_takes_what_was_brought_before_it_began_and_its_failure_reaches_who_brought_it() {
        let group = Arc::new(GroupSync::<u32>::default());
        let (entered, was_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Arc::new(Mutex::new(may_go));
        let call = |item: u32| {
            let (group, entered, may_go) = (Arc::clone(&group), entered.clone(), Arc::clone(&may_go));
            std::thread::spawn(move || {
                group.run([item], |items| {
                    entered.send(items.clone()).unwrap();
                    may_go.lock().recv().unwrap();
                    if items.contains(&1) { Err(Error::Io("one".into())) } else { Ok(()) }
                })
            })
        };
        let first = call(1);
        assert_eq!(was_entered.recv().unwrap(), [1]);
        // Brought while the first round runs, which is not theirs.
        let others = [call(2), call(3)];
        while group.rounds.lock().brought.len() < 2 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Err(Error::Io("one".into())));
        let mut second = was_entered.recv().unwrap();
        second.sort_unstable();
        assert_eq!(second, [2, 3]);
        go.send(()).unwrap();
        for other in others {
            assert_eq!(other.join().unwrap(), Ok(()));
        }
    }
}
