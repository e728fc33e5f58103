//! Segments that nobody writes to go to their stores, those of stores that are far away several at a
//! time, and with them those that are closed meanwhile: a large file that is being written keeps the
//! network busy.

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use nexus_kernel::failpoint::reach;
use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, Command, Error, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Memory, Need, Progress, Reclaimer};

/// Segments that are sent at once.
const SENDERS: usize = 8;
/// How long a pass goes on to send what is closed meanwhile.
const SENDING: Duration = Duration::from_secs(5);
/// How often who has nothing to send looks for more while others send.
const LOOK: Duration = Duration::from_millis(10);

/// What became of a segment.
enum Outcome {
    /// It is in its store; its bytes, and whether that is far away.
    Sealed(u64, bool),
    /// It was not worth it.
    Left,
    /// It could not be read or stored; others may.
    Failed(Error),
}

/// What is left to do, for those who do it.
struct Round<'a> {
    left: VecDeque<BlobId>,
    /// All that was ever in `left`.
    seen: BTreeSet<BlobId>,
    /// How many have something to do.
    busy: usize,
    /// Something was begun.
    begun: bool,
    /// Nothing more is.
    over: bool,
    until: Instant,
    /// It makes way for a pass that makes room.
    yields: bool,
    budget: u64,
    memory: &'a mut Memory,
    progress: &'a mut Progress,
}

/// A round, for several threads.
struct Shared<'a> {
    round: Mutex<Round<'a>>,
    /// Somebody has ended what he did.
    ended: Condvar,
}

impl Reclaimer {
    /// Seals while there is a budget, which counts what stays on this machine, and for some time; what was
    /// begun then is ended.
    pub(super) fn seal_settled(
        &self,
        need: Need,
        budget: &mut u64,
        memory: &mut Memory,
        progress: &mut Progress,
    ) -> Result<()> {
        let settled = self.store.settled();
        let far: Vec<_> = settled.iter().filter(|(id, _)| self.store.is_far(*id)).collect();
        // One that is full will be followed by others.
        let is_stream = far.iter().any(|(id, bytes)| *bytes > self.store.segment_bytes(id.store()) / 2);
        let others = if far.len() > 1 || is_stream { SENDERS - 1 } else { 0 };
        let round = Round {
            seen: settled.iter().map(|(id, _)| *id).collect(),
            left: settled.into_iter().map(|(id, _)| id).collect(),
            busy: 0,
            begun: false,
            over: false,
            until: Instant::now() + SENDING,
            yields: need == Need::Calm,
            budget: *budget,
            memory,
            progress,
        };
        let shared = Shared { round: Mutex::new(round), ended: Condvar::new() };
        let ended = thread::scope(|scope| {
            // Without threads for it, it is done one at a time.
            let name = |number| thread::Builder::new().name(format!("nexus-seal-{number}"));
            let others: Vec<_> =
                (0..others).filter_map(|i| name(i).spawn_scoped(scope, || self.seal_round(&shared)).ok()).collect();
            let ended = self.seal_round(&shared);
            let died = |_| Err(Error::Io("a thread that seals had panicked".into()));
            others.into_iter().map(|other| other.join().unwrap_or_else(died)).fold(ended, Result::and)
        });
        *budget = shared.round.into_inner().budget;
        ended
    }

    fn seal_round(&self, shared: &Shared<'_>) -> Result<()> {
        let mut round = shared.round.lock();
        loop {
            let Some(id) = self.next_to_seal(shared, &mut round) else { return Ok(()) };
            round.busy += 1;
            let outcome = MutexGuard::unlocked(&mut round, || self.seal_one(id));
            round.busy -= 1;
            shared.ended.notify_all();
            let failed = match outcome {
                Ok(Outcome::Left) => Ok(()),
                Ok(Outcome::Sealed(len, far)) => {
                    round.progress.sealed += 1;
                    if far {
                        round.progress.sent += 1;
                    } else {
                        round.budget = round.budget.saturating_sub(len);
                    }
                    Ok(())
                }
                Ok(Outcome::Failed(error)) => round.memory.pass_over_store(id.store(), error),
                Err(error) => Err(error),
            };
            if failed.is_err() {
                round.over = true;
                return failed;
            }
        }
    }

    /// What to seal next; `None` once there is nothing, or nothing more is to be begun.
    fn next_to_seal(&self, shared: &Shared<'_>, round: &mut MutexGuard<'_, Round<'_>>) -> Option<BlobId> {
        loop {
            let wake = self.store.wake();
            let makes_way = round.yields && round.begun && wake.is_wanted();
            let is_late = Instant::now() >= round.until || makes_way || wake.is_stopped();
            if !round.over && !round.left.is_empty() && (is_late || round.budget == 0) {
                round.progress.more = true;
                round.over = true;
            }
            if round.over {
                return None;
            }
            while let Some(id) = round.left.pop_front() {
                if !round.memory.is_away(id.store()) {
                    round.begun = true;
                    return Some(id);
                }
            }
            if round.busy == 0 {
                return None;
            }
            let _ = shared.ended.wait_for(round, LOOK);
            let closed = self.store.settled().into_iter().map(|(id, _)| id).filter(|id| self.store.is_far(*id));
            for id in closed {
                if round.seen.insert(id) {
                    round.left.push_back(id);
                }
            }
        }
    }

    fn seal_one(&self, id: BlobId) -> Result<Outcome> {
        if self.store.is_condemned(id) {
            return Ok(Outcome::Left);
        }
        // It was settled before the records are read, so they tell of all its writes.
        let records = self.records(id)?;
        if records.is_empty() {
            if !self.store.is_undecided() && !self.zones.holds(id) {
                self.store.condemn([id]);
            }
            return Ok(Outcome::Left);
        }
        let (len, outcome) = if records.iter().all(|(_, blob)| blob.live == 0) {
            // Not worth moving: it is dropped from where it is.
            (records.iter().map(|(_, blob)| blob.len).max().unwrap_or(0), Outcome::Left)
        } else {
            match self.store.seal(id) {
                Ok(len) => (len, Outcome::Sealed(len, self.store.is_far(id))),
                Err(error) => return Ok(Outcome::Failed(error)),
            }
        };
        for (zone, blob) in records {
            if blob.state == BlobState::Open {
                zone.propose(&Command::SealBlob { blob: id, len: len.max(blob.len) })?;
                reach("seal.told");
            }
        }
        Ok(outcome)
    }
}
