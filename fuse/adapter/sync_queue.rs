//! Lets one session thread at a time wait for the disk on behalf of all who ask meanwhile,
//! so that fsync never takes the last thread that could answer something else.

use parking_lot::Mutex;

/// Requests that wait for a sync. The first to come runs it; those that come while it runs
/// are left in the queue, their threads go on, and the first one serves them together
/// next. Bounded by the callers, each of whom has one request open.
#[derive(Debug)]
pub struct SyncQueue<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    running: bool,
    waiting: Vec<T>,
}

impl<T> Default for SyncQueue<T> {
    fn default() -> SyncQueue<T> {
        SyncQueue { state: Mutex::new(State { running: false, waiting: Vec::new() }) }
    }
}

impl<T> SyncQueue<T> {
    /// Serves `request`: calls `run` with it, then with what has queued up meanwhile, until
    /// nothing has; or leaves it to the thread that is at it already. Each batch starts
    /// after all its requests were made.
    pub fn serve(&self, request: T, run: impl Fn(Vec<T>)) {
        {
            let mut state = self.state.lock();
            if state.running {
                state.waiting.push(request);
                return;
            }
            state.running = true;
        }
        let turn = Turn(self);
        run(vec![request]);
        while let Some(batch) = turn.next() {
            run(batch);
        }
    }
}

/// The right to run. When it goes by a panic, those who wait are dropped, which answers
/// them with an error.
struct Turn<'a, T>(&'a SyncQueue<T>);

impl<T> Turn<'_, T> {
    fn next(&self) -> Option<Vec<T>> {
        let mut state = self.0.state.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.state.lock();
            state.running = false;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn requests_during_a_run_share_the_next_one() {
        let queue = SyncQueue::default();
        let (ran, runs) = channel();
        let (entered, released) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let ran = ran.clone();
            let (queue, entered, released) = (&queue, &entered, &released);
            scope.spawn(move || {
                queue.serve(1, |batch| {
                    if batch == [1] {
                        entered.wait();
                        released.wait();
                    }
                    ran.send(batch).unwrap();
                });
            });
            entered.wait();
            for request in [2, 3, 4] {
                queue.serve(request, |_| panic!("a second thread must not run"));
            }
            released.wait();
        });
        drop(ran);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [vec![1], vec![2, 3, 4]]);
        let (again, runs) = channel();
        queue.serve(5, |batch| again.send(batch).unwrap());
        drop(again);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [vec![5]], "the turn was given back");
    }

    #[test]
    fn a_panic_gives_the_turn_back() {
        let queue = SyncQueue::default();
        let panicked = thread::scope(|scope| scope.spawn(|| queue.serve(1, |_| panic!("on purpose"))).join());
        assert!(panicked.is_err());
        let (ran, runs) = channel();
        queue.serve(2, |batch| ran.send(batch).unwrap());
        drop(ran);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [vec![2]]);
    }
}
