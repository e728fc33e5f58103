//! [`Questions`]: those who want to know how far the leader is share one question. One that was asked
//! after they came answers them all.

use nexus_kernel::Result;
use parking_lot::{Condvar, Mutex};

/// Questions, one at a time.
#[derive(Default)]
pub struct Questions {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// How many were asked, and whether the last one waits for its answer.
    asked: u64,
    waits: bool,
    answer: Option<Result<u64>>,
}

impl Questions {
    /// The answer to a question that is asked after this call has begun, by this caller's `ask` or another one's.
    pub fn ask(&self, ask: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let mut state = self.state.lock();
        let mine = state.asked + 1;
        loop {
            if !state.waits {
                match &state.answer {
                    Some(answer) if state.asked >= mine => return answer.clone(),
                    _ => break,
                }
            }
            self.answered.wait(&mut state);
        }
        (state.asked, state.waits) = (state.asked + 1, true);
        drop(state);
        let answer = ask();
        let mut state = self.state.lock();
        (state.answer, state.waits) = (Some(answer.clone()), false);
        drop(state);
        self.answered.notify_all();
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nexus_kernel::Error;

    use super::*;

    /// Nobody is given what was true before they asked, and fewer questions are asked than there are callers.
    #[test]
    fn answers_are_never_older_than_the_question() {
        const EACH: u64 = 500;
        let (questions, now, asked) = (Questions::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        let before = now.fetch_add(1, Ordering::SeqCst) + 1;
                        let answer = questions.ask(|| {
                            asked.fetch_add(1, Ordering::SeqCst);
                            let answer = now.load(Ordering::SeqCst);
                            std::thread::yield_now();
                            Ok(answer)
                        });
                        assert!(answer.unwrap() >= before);
                    }
                });
            }
        });
        assert!(asked.load(Ordering::SeqCst) <= 8 * EACH);
        assert_eq!(questions.ask(|| Err(Error::Stale)), Err(Error::Stale));
        assert_eq!(questions.ask(|| Ok(7)), Ok(7), "an error is nobody else's");
    }
}
