//! Sends this node's proposals to the leader: many in one entry, several entries at once, and
//! each until it is known to be applied or its time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_kernel::{Error, Result};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::consensus::Consensus;
use super::desk::unclear;
use super::entry::{MemberId, Position};
use super::messages::{Links, Refusal};
use super::pledges::steady_now;
use super::proposal::Batch;
use super::questions::Questions;
use super::replica::Replica;
use super::vantage::Vantage;
use super::zone::next_leader;

/// Proposals that wait to be sent; who comes then waits for room.
const QUEUE: usize = 4096;
/// Entries on their way at once.
const IN_FLIGHT: usize = 8;
/// How long commands wait for those on their way to return, so that more share the next entry.
const GATHERING: Duration = Duration::from_millis(1);
/// How often it is looked whether what is committed is applied here, or will not be in time.
const LOOK: Duration = Duration::from_millis(50);
/// Most commands and bytes of one entry.
const BATCH_COMMANDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// How long to wait for word of another leader before the last one is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Proposals that have their numbers, and go into one entry.
pub struct Queued {
    /// The number of each, and the encoded command, in the order in which they are to be applied.
    pub commands: SmallVec<[(u64, Bytes); 2]>,
    /// When to give up.
    pub until: Instant,
}

impl Queued {
    fn bytes(&self) -> usize {
        self.commands.iter().map(|(_, payload)| payload.len()).sum()
    }
}

/// Takes proposals.
pub struct Proposer {
    sender: mpsc::Sender<Queued>,
    courier: Arc<Courier>,
    runtime: Handle,
    task: Mutex<Option<JoinHandle<()>>>,
    questions: Questions,
    vantage: Arc<Vantage>,
}

/// Brings batches to the leader.
struct Courier {
    replica: Arc<Replica>,
    group: Arc<dyn Consensus>,
    links: Arc<dyn Links>,
    vantage: Arc<Vantage>,
    /// Entries on their way.
    places: Arc<Semaphore>,
    /// Taken by one of them at a time: who comes while it is gone waits for a while.
    turn: Arc<Semaphore>,
}

impl Proposer {
    /// Starts taking proposals.
    pub fn start(replica: Arc<Replica>, group: Arc<dyn Consensus>, links: Arc<dyn Links>, runtime: Handle) -> Proposer {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (places, turn) = (Arc::new(Semaphore::new(IN_FLIGHT)), Arc::new(Semaphore::new(1)));
        let vantage = Arc::new(Vantage::new(replica.clone(), group.tail().clone()));
        let courier = Arc::new(Courier { replica, group, links, vantage: vantage.clone(), places, turn });
        let task = runtime.spawn(run(courier.clone(), receiver));
        Proposer { sender, courier, runtime, task: Mutex::new(Some(task)), questions: Questions::default(), vantage }
    }

    /// Where its tasks run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Queues proposals. Waits for room; not to be called by a task.
    pub fn send(&self, queued: Queued) -> Result<()> {
        self.sender.blocking_send(queued).map_err(|_| Error::Unavailable("the zone is closed".into()))
    }

    /// Asks the leader how far a reader must have come; who asks at the same time shares the question.
    /// Not to be called by a task.
    pub fn read_index(&self, until: Instant) -> Result<u64> {
        self.questions.ask(|| self.runtime.block_on(self.courier.read_index(until)))
    }

    /// Whether the leader has to be asked.
    pub fn vantage(&self) -> &Vantage {
        &self.vantage
    }

    /// Takes nothing more.
    pub fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

async fn run(courier: Arc<Courier>, mut queue: mpsc::Receiver<Queued>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        // While it waits for its turn to be sent, others join it.
        let turn = tokio::time::timeout(GATHERING, courier.turn.clone().acquire_owned()).await;
        let Ok(place) = courier.places.clone().acquire_owned().await else { return };
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_COMMANDS {
            match queue.try_recv() {
                Ok(more) if bytes + more.bytes() > BATCH_BYTES => {
                    next = Some(more);
                    break;
                }
                Ok(more) => {
                    bytes += more.bytes();
                    batch.push(more);
                }
                Err(_) => break,
            }
        }
        let courier = courier.clone();
        tokio::spawn(async move {
            courier.deliver(batch, (turn, place)).await;
        });
    }
}

impl Courier {
    /// Has a batch applied, or fails those who wait for it.
    async fn deliver<P>(&self, queued: Vec<Queued>, place: P) {
        let pending = &self.replica.pending;
        let until = queued.iter().map(|some| some.until).max().unwrap_or_else(Instant::now);
        let commands: Vec<(u64, Bytes)> = queued.into_iter().flat_map(|some| some.commands).collect();
        let seqs: Vec<u64> = commands.iter().map(|(seq, _)| *seq).collect();
        let batch =
            Batch { member: self.replica.me(), session: self.replica.session(), floor: pending.floor(), commands };
        let fail = |error: &Error| seqs.iter().for_each(|seq| pending.answer(*seq, Err(error.clone())));
        let encoded = match batch.encode() {
            Ok(encoded) => encoded,
            Err(error) => return fail(&error),
        };
        let mut leader = self.group.status().leader;
        let mut why = "no member leads it".to_owned();
        while pending.wants(seqs.iter().copied()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return fail(&unclear(&why));
            }
            let refusal = match leader {
                Some(leader) => match tokio::time::timeout(left, self.propose(leader, encoded.clone())).await {
                    // It is committed, and so will be applied here.
                    Ok(Ok(at)) => {
                        drop(place);
                        if leader != self.replica.me() {
                            self.group.committed(at).await;
                        }
                        return self.await_answers(&seqs, until).await;
                    }
                    Ok(Err(refusal)) => refusal,
                    Err(_) => continue,
                },
                None => Refusal::NotLeader(None),
            };
            if let Refusal::Unclear(text) = &refusal {
                why.clone_from(text);
            }
            leader = match next_leader(&refusal) {
                Some(hint) if Some(hint) != leader => Some(hint),
                _ => {
                    let other = self.group.other_leader(leader, PAUSE.min(left)).await;
                    other.or(self.group.status().leader)
                }
            };
        }
    }

    /// What is committed is answered when this node applies it, which may be cut off.
    async fn await_answers(&self, seqs: &[u64], until: Instant) {
        while self.replica.pending.wants(seqs.iter().copied()) {
            if Instant::now() >= until {
                let error = unclear("this member is behind");
                seqs.iter().for_each(|seq| self.replica.pending.answer(*seq, Err(error.clone())));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn propose(&self, leader: MemberId, batch: Bytes) -> std::result::Result<Position, Refusal> {
        if leader == self.replica.me() {
            return self.group.propose(batch).await;
        }
        match self.link(leader) {
            Some(link) => link.propose(batch).await,
            None => Err(Refusal::NotLeader(None)),
        }
    }

    fn link(&self, leader: MemberId) -> Option<Arc<dyn super::messages::Link>> {
        let membership = self.group.status().membership;
        membership.members.get(&leader).map(|member| self.links.link(leader, member))
    }

    async fn read_index(&self, until: Instant) -> Result<u64> {
        let mut leader = self.group.status().leader;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Unavailable("no leader of the zone has answered in time".into()));
            }
            let (sent, pledge) = (steady_now(), self.vantage.is_open());
            let asked = async {
                match leader {
                    Some(leader) if leader == self.replica.me() && pledge => self.group.pledge(leader).await,
                    Some(leader) if leader == self.replica.me() => Ok((self.group.read_index().await?, false)),
                    Some(leader) => match self.link(leader) {
                        Some(link) if pledge => link.pledge().await,
                        Some(link) => Ok((link.read_index().await?, false)),
                        None => Err(Refusal::NotLeader(None)),
                    },
                    None => Err(Refusal::NotLeader(None)),
                }
            };
            let refusal = match tokio::time::timeout(left, asked).await {
                Ok(Ok((index, pledged))) => {
                    if pledged {
                        self.vantage.pledged(sent, index);
                    }
                    return Ok(index);
                }
                Ok(Err(refusal)) => refusal,
                Err(_) => continue,
            };
            leader = match next_leader(&refusal) {
                Some(hint) if Some(hint) != leader => Some(hint),
                _ => {
                    let other = self.group.other_leader(leader, PAUSE.min(left)).await;
                    other.or(self.group.status().leader)
                }
            };
        }
    }
}
