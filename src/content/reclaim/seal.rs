//! Segments that nobody writes to go to their stores, those of stores that are far away two at a
//! time: while the checksums of one are made, the network is busy with the other.

use std::thread;
use std::vec::IntoIter;

use nexus_kernel::failpoint::reach;
use nexus_kernel::model::BlobState;
use nexus_kernel::{BlobId, Command, Error, Result};
use parking_lot::Mutex;

use super::{Memory, Progress, Reclaimer};

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
    left: IntoIter<(BlobId, u64)>,
    budget: u64,
    memory: &'a mut Memory,
    progress: &'a mut Progress,
}

impl Reclaimer {
    /// Seals while there is a budget; what was begun then is ended beyond it.
    pub(super) fn seal_settled(&self, budget: &mut u64, memory: &mut Memory, progress: &mut Progress) -> Result<()> {
        let settled = self.store.settled();
        let several = settled.iter().filter(|(id, _)| self.store.is_far(*id)).nth(1).is_some();
        let round = Mutex::new(Round { left: settled.into_iter(), budget: *budget, memory, progress });
        let ended = thread::scope(|scope| {
            // Without a thread for it, it is done one at a time.
            let second = thread::Builder::new().name("nexus-seal".into());
            let second = several.then(|| second.spawn_scoped(scope, || self.seal_round(&round)).ok()).flatten();
            let ended = self.seal_round(&round);
            let died = |_| Err(Error::Io("a thread that seals had panicked".into()));
            ended.and(second.map_or(Ok(()), |second| second.join().unwrap_or_else(died)))
        });
        *budget = round.into_inner().budget;
        ended
    }

    fn seal_round(&self, round: &Mutex<Round<'_>>) -> Result<()> {
        loop {
            let next = {
                let mut round = round.lock();
                if round.left.len() > 0 && (round.budget == 0 || self.store.wake().is_stopped()) {
                    round.progress.more = true;
                    return Ok(());
                }
                let Round { left, memory, .. } = &mut *round;
                left.find(|(id, _)| !memory.is_away(id.store()))
            };
            let Some((id, _)) = next else { return Ok(()) };
            let outcome = self.seal_one(id);
            let mut round = round.lock();
            match outcome {
                Ok(Outcome::Left) => {}
                Ok(Outcome::Sealed(len, far)) => {
                    round.budget = round.budget.saturating_sub(len);
                    round.progress.sealed += 1;
                    round.progress.sent += u64::from(far);
                }
                Ok(Outcome::Failed(error)) => {
                    if let Err(error) = round.memory.pass_over_store(id.store(), error) {
                        round.left = IntoIter::default();
                        return Err(error);
                    }
                }
                Err(error) => {
                    round.left = IntoIter::default();
                    return Err(error);
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
