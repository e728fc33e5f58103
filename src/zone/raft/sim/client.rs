//! Clients of the simulation: each brings commands to the leader as a node does, again and again
//! until its own replica has the answer, and writes down what it was told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nexus_kernel::model::keys;
use nexus_kernel::{Command, Error, Interest, Table};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::host::Running;
use crate::raft::messages::{Link, Refusal};
use crate::raft::pledges::steady_now;
use crate::raft::proposal::Batch;
use crate::raft::vantage::Standing;
use crate::testing::Random;

/// The register that all clients fight for.
pub const REGISTER: &str = "register";

/// What became of a compare-and-swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Done,
    Refused,
    Nothing,
}

/// A compare-and-swap; times in simulated microseconds.
#[derive(Clone, Debug)]
pub struct Swap {
    pub expect: u64,
    pub value: u64,
    pub start: u64,
    pub end: u64,
    pub told: Told,
}

/// A read of the register.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub value: u64,
    pub start: u64,
    pub end: u64,
    /// Whether the leader was not asked.
    pub pledged: bool,
}

/// What all clients did.
#[derive(Default)]
pub struct Record {
    pub swaps: Vec<Swap>,
    pub reads: Vec<Read>,
    /// Of each client's own counter: the highest acknowledged, and the highest proposed.
    pub counters: std::collections::BTreeMap<u64, (u64, u64)>,
    next: u64,
}

/// What clients share.
pub struct Common {
    pub began: Instant,
    pub record: Mutex<Record>,
}

impl Common {
    pub fn new() -> Common {
        Common { began: Instant::now(), record: Mutex::default() }
    }

    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// Reads a number of the state.
pub fn number(running: &Running, key: &str) -> u64 {
    let value = running.replica.state().fetch(Table::Sys, &keys::sys(key)).unwrap();
    value.map_or(0, |bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()))
}

fn bytes(number: u64) -> Option<Vec<u8>> {
    (number > 0).then(|| number.to_be_bytes().to_vec())
}

/// Works until its member dies or `until`.
pub async fn run(client: u64, running: Arc<Running>, common: Arc<Common>, seed: u64, until: Duration) {
    let mut random = Random(seed);
    while running.alive.load(Ordering::SeqCst) && common.began.elapsed() < until {
        tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        let twice = random.below(5) == 0;
        for _ in 0..random.below(4) {
            read(&running, &common).await;
            tokio::time::sleep(Duration::from_millis(random.below(10))).await;
        }
        if random.below(3) == 0 {
            let (acknowledged, proposed) = common.record.lock().counters.get(&client).copied().unwrap_or_default();
            let count = proposed + 1;
            common.record.lock().counters.insert(client, (acknowledged, count));
            let command = Command::SetSys { key: format!("counter/{client}"), value: bytes(count) };
            if propose(&running, &command, twice).await == Some(Ok(())) {
                common.record.lock().counters.insert(client, (count, count));
            }
            continue;
        }
        let expect = number(&running, REGISTER);
        let start = common.now();
        let value = {
            let mut record = common.record.lock();
            record.next += 1;
            let value = record.next;
            // It may be done though this client never comes to say so.
            record.swaps.push(Swap { expect, value, start, end: start, told: Told::Nothing });
            value
        };
        let command = Command::CompareSys { key: REGISTER.into(), expect: bytes(expect), value: bytes(value) };
        let told = match propose(&running, &command, twice).await {
            Some(Ok(())) => Told::Done,
            Some(Err(Error::Conflict)) => Told::Refused,
            _ => Told::Nothing,
        };
        let end = common.now();
        if let Some(swap) = common.record.lock().swaps.iter_mut().find(|swap| swap.value == value) {
            (swap.end, swap.told) = (end, told);
        }
    }
}

/// Reads the register as a node's programs do, unless this member dies, or nobody answers.
async fn read(running: &Running, common: &Common) {
    let start = common.now();
    let standing = running.vantage.standing(Interest::Anything);
    let (after, pledged) = match standing {
        Standing::Current => (0, true),
        Standing::Behind(index) => (index, true),
        Standing::Blind => {
            let sent = steady_now();
            let asked = match running.group.status().leader {
                Some(leader) if leader == running.replica.me() => running.group.pledge(leader).await,
                Some(leader) => running.links.to(leader).pledge().await,
                None => Err(Refusal::NotLeader(None)),
            };
            let Ok((index, granted)) = asked else { return };
            if granted {
                running.vantage.pledged(sent, index);
            }
            (index, false)
        }
    };
    for _ in 0..100 {
        if running.replica.applied() >= after && running.alive.load(Ordering::SeqCst) {
            let read = Read { value: number(running, REGISTER), start, end: common.now(), pledged };
            return common.record.lock().reads.push(read);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Has a command applied; `None` if this member died before it could be told.
pub async fn propose(running: &Running, command: &Command, twice: bool) -> Option<Result<(), Error>> {
    let pending = &running.replica.pending;
    let (seq, answer) = pending.add();
    let batch = Batch {
        member: running.replica.me(),
        session: running.replica.session(),
        floor: pending.floor(),
        commands: vec![(seq, command.encode().unwrap().into())],
    };
    let encoded = batch.encode().unwrap();
    let mut sent = 0;
    loop {
        if let Some(told) = answer.wait(Duration::ZERO) {
            return match told {
                Err(error) if error.is_unclear() => None,
                told => Some(told.map(drop)),
            };
        }
        if !running.alive.load(Ordering::SeqCst) {
            return None;
        }
        let leader = running.group.status().leader;
        let proposed = match leader {
            Some(leader) if leader == running.replica.me() => running.group.propose(encoded.clone()).await,
            Some(leader) => running.links.to(leader).propose(encoded.clone()).await,
            None => Err(Refusal::NotLeader(None)),
        };
        sent += 1;
        if let Ok(at) = proposed {
            running.group.committed(at).await;
        }
        if proposed.is_err() || (twice && sent == 1) {
            // Once more: to whoever leads by then, or though it is done already.
            running.group.other_leader(leader, Duration::from_millis(60)).await;
            continue;
        }
        // It is committed; this member hears of it, unless it is cut off, or dies.
        for _ in 0..200 {
            if !running.replica.pending.wants([seq]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
