//! Proposals of this node that wait for their answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::{Error, Outcome, Result};
use parking_lot::{Condvar, Mutex};

/// Where an answer arrives.
#[derive(Default)]
pub struct Answer {
    slot: Mutex<Option<Result<Outcome>>>,
    arrived: Condvar,
}

impl Answer {
    fn give(&self, answer: Result<Outcome>) {
        self.slot.lock().get_or_insert(answer);
        self.arrived.notify_all();
    }

    /// Waits for the answer, at most that long.
    pub fn wait(&self, at_most: Duration) -> Option<Result<Outcome>> {
        let mut slot = self.slot.lock();
        if slot.is_none() {
            self.arrived.wait_for(&mut slot, at_most);
        }
        slot.take()
    }
}

/// All that wait, by number.
#[derive(Default)]
pub struct Pending {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    answers: BTreeMap<u64, Arc<Answer>>,
}

impl Pending {
    /// A new number, and where its answer will be.
    pub fn add(&self) -> (u64, Arc<Answer>) {
        let mut waiting = self.waiting.lock();
        waiting.next += 1;
        let seq = waiting.next;
        let answer = Arc::new(Answer::default());
        waiting.answers.insert(seq, answer.clone());
        (seq, answer)
    }

    /// Below this, nobody waits.
    pub fn floor(&self) -> u64 {
        let waiting = self.waiting.lock();
        waiting.answers.keys().next().copied().unwrap_or(waiting.next + 1)
    }

    /// Answers a number; who has given up hears nothing.
    pub fn answer(&self, seq: u64, answer: Result<Outcome>) {
        let waiting = self.waiting.lock().answers.remove(&seq);
        if let Some(waiting) = waiting {
            waiting.give(answer);
        }
    }

    /// Whether anybody still waits for one of these.
    pub fn wants(&self, seqs: impl IntoIterator<Item = u64>) -> bool {
        let waiting = self.waiting.lock();
        seqs.into_iter().any(|seq| waiting.answers.contains_key(&seq))
    }

    /// Numbers that wait.
    pub fn numbers(&self) -> Vec<u64> {
        self.waiting.lock().answers.keys().copied().collect()
    }

    /// Answers all with the same failure.
    pub fn fail_all(&self, error: &Error) {
        let all = std::mem::take(&mut self.waiting.lock().answers);
        for answer in all.into_values() {
            answer.give(Err(error.clone()));
        }
    }
}
