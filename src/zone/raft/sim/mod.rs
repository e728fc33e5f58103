//! A simulation of the zone layer, deterministic to the last bit: several members in one thread,
//! with time, chance, network and disks of the simulation. Real are the consensus library, the
//! groups' logs on the node's log, the replicas with their state machine, and snapshots.
//!
//! What must hold, whatever happens: nobody votes twice in a term, a term has one leader, members that
//! have applied the same entries have the same state, and what was acknowledged was done, once, in an order that
//! keeps to the times of the calls. When all is well again, all go on and agree.
//!
//! `NEXUS_SIM_SEED` and `NEXUS_SIM_COUNT` run other seeds than CI does.

mod client;
mod host;
mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::Command;

use super::engine::seeded;
use super::pledges::SINCE;
use super::{GroupConfig, Member, MemberId, Role, version_key};
use crate::testing::Random;
use client::{Common, REGISTER, Read, Swap, Told, number};
use host::{Host, Running};
use net::Net;

/// How long there is trouble.
const TROUBLE: Duration = Duration::from_millis(2500);
/// Within this all go on once all is well.
const LIVENESS: Duration = Duration::from_secs(20);

struct World {
    net: Arc<Net>,
    hosts: Vec<Host>,
    common: Arc<Common>,
    config: GroupConfig,
    random: Random,
    clients: u64,
    /// State sums by how many entries are applied.
    digests: BTreeMap<u64, u128>,
    /// Leaders by term.
    leaders: BTreeMap<u64, MemberId>,
    trace: Vec<String>,
    /// Reads for which nobody was asked.
    pledged: usize,
    /// Whether all is said at once, with one seed.
    is_loud: bool,
}

fn member(id: MemberId, witness: bool) -> Member {
    Member { name: format!("m{id}"), witness, ..Member::default() }
}

impl World {
    fn new(seed: u64, has_witness: bool) -> World {
        let mut random = Random(seed);
        let count = if random.below(4) == 0 { 5 } else { 3 };
        World {
            net: Arc::new(Net::new(seed)),
            hosts: (1..=count).map(|id| Host::new(MemberId(id), has_witness && id == count)).collect(),
            common: Arc::new(Common::new()),
            config: GroupConfig {
                heartbeat: Duration::from_millis(50),
                election: Duration::from_millis(200),
                snapshot_entries: 30 + random.below(100),
                keep_entries: random.below(30),
                message_entries: 1 + random.below(20),
                ..GroupConfig::default()
            },
            random,
            clients: 0,
            digests: BTreeMap::new(),
            leaders: BTreeMap::new(),
            trace: Vec::new(),
            pledged: 0,
            is_loud: setting("NEXUS_SIM_COUNT", 0) == 1,
        }
    }

    fn note(&mut self, what: String) {
        if self.is_loud {
            println!("{} {what}", self.common.now());
        }
        self.trace.push(format!("{} {what}", self.common.now()));
    }

    fn running(&self) -> impl Iterator<Item = &Arc<Running>> {
        self.hosts.iter().filter_map(|host| host.running.as_ref())
    }

    async fn start(&mut self, place: usize) {
        let seed = self.random.next();
        self.hosts[place].start(&self.net, seed, &self.config).await;
        if self.hosts[place].is_witness {
            return;
        }
        for _ in 0..2 {
            self.clients += 1;
            let running = self.hosts[place].running.clone().unwrap();
            let (client, seed) = (self.clients, self.random.next());
            tokio::spawn(client::run(client, running, self.common.clone(), seed, TROUBLE));
        }
    }

    /// A group of all, formatted.
    async fn found(&mut self) {
        for place in 0..self.hosts.len() {
            let seed = self.random.next();
            self.hosts[place].start(&self.net, seed, &self.config).await;
        }
        let first = self.hosts[0].running.clone().unwrap();
        first.group.found(member(MemberId(1), false)).await.unwrap();
        let now = nexus_kernel::Timestamp { sec: 1, nsec: 0 };
        let format = Command::Format { id: [5; 16], hash_seed: 9, mode: 0o755, uid: 0, gid: 0, now };
        client::propose(&first, &format, false).await.unwrap().unwrap();
        for id in 2..=self.hosts.len() as u64 {
            let (mut tries, witness) = (0, self.hosts[id as usize - 1].is_witness);
            while let Err(error) = first.group.add(MemberId(id), member(MemberId(id), witness)).await {
                tries += 1;
                assert!(tries < 50, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        for id in (1..=self.hosts.len() as u64).map(MemberId) {
            let value = nexus_kernel::model::encode(&SINCE).unwrap().to_vec();
            let command = Command::SetSys { key: version_key(id), value: Some(value) };
            client::propose(&first, &command, false).await.unwrap().unwrap();
        }
        self.common = Arc::new(Common::new());
        for place in (0..self.hosts.len()).filter(|place| !self.hosts[*place].is_witness) {
            for _ in 0..2 {
                self.clients += 1;
                let running = self.hosts[place].running.clone().unwrap();
                let (client, seed) = (self.clients, self.random.next());
                tokio::spawn(client::run(client, running, self.common.clone(), seed, TROUBLE));
            }
        }
    }

    /// Something goes wrong, or is mended.
    async fn trouble(&mut self) {
        let count = self.hosts.len() as u64;
        let place = self.random.below(count) as usize;
        let other = (place + 1 + self.random.below(count - 1) as usize) % self.hosts.len();
        let (one, two) = (self.hosts[place].id, self.hosts[other].id);
        let ids: Vec<MemberId> = self.hosts.iter().map(|host| host.id).collect();
        match self.random.below(10) {
            0 | 1 => {
                self.note(format!("{one} is cut off"));
                ids.iter().for_each(|id| self.net.cut(one, *id));
                ids.iter().for_each(|id| self.net.cut(*id, one));
            }
            2 => {
                self.note(format!("{one} is not heard by {two}"));
                self.net.cut(one, two);
            }
            3 => {
                self.note(format!("{one} is heard by nobody"));
                ids.iter().for_each(|id| self.net.cut(one, *id));
            }
            4 | 5 => {
                self.note("connections are mended".into());
                self.net.heal();
            }
            6 | 7 => {
                let power = (self.random.below(2) == 0).then(|| self.random.next());
                self.note(format!("{one} is gone, power: {power:?}"));
                self.hosts[place].stop(&self.net, power);
            }
            _ => {
                for place in 0..self.hosts.len() {
                    if self.hosts[place].running.is_none() {
                        self.note(format!("{} is back", self.hosts[place].id));
                        self.start(place).await;
                    }
                }
            }
        }
    }

    /// What each member's state has, for a person to compare.
    fn tell_states(&self) {
        for running in self.running() {
            println!(
                "member {}, {} applied, {:?}",
                running.replica.me(),
                running.replica.applied(),
                running.replica.drained()
            );
            let tell = &mut |state: &dyn nexus_kernel::MetaRead| {
                for table in nexus_kernel::Table::ALL {
                    state.scan(table, &[], &[0xff; 600], &mut |key, value| {
                        println!("  {table:?} {} {value:02x?}", String::from_utf8_lossy(key));
                        std::ops::ControlFlow::Continue(())
                    })?;
                }
                Ok(())
            };
            running.replica.state().read(tell).unwrap();
        }
    }

    /// What must hold at any time.
    fn check(&mut self) {
        let mut seen = Vec::new();
        for running in self.hosts.iter().filter_map(|host| host.running.as_ref()) {
            let applied = running.replica.applied();
            let mut digest = 0;
            running
                .replica
                .state()
                .read(&mut |state| {
                    digest = crate::digest(state)?;
                    Ok(())
                })
                .unwrap();
            let status = running.group.status();
            if status.role == Role::Leader {
                let before = *self.leaders.entry(status.term).or_insert(running.replica.me());
                assert_eq!(before, running.replica.me(), "term {} has two leaders", status.term);
            }
            if applied > 0 && !running.replica.is_witness() {
                let before = *self.digests.entry(applied).or_insert(digest);
                if before != digest {
                    self.tell_states();
                }
                assert_eq!(before, digest, "{} entries have two outcomes, one at {}", applied, running.replica.me());
            }
            seen.push((running.replica.me().0, applied, status.term, digest as u64));
        }
        self.note(format!("{seen:x?}"));
        assert!(self.net.wrong.lock().is_empty(), "{:?}", self.net.wrong.lock());
    }

    /// Ends all trouble, and waits until all are at the same point.
    async fn mend(&mut self) {
        self.net.heal();
        for place in 0..self.hosts.len() {
            if self.hosts[place].running.is_none() {
                self.start(place).await;
            }
        }
        let since = self.common.now();
        // One more change of each, which so has to be as far as all before it.
        for running in self.running().cloned().collect::<Vec<_>>() {
            let key = format!("mended/{}", running.replica.me());
            let command = Command::SetSys { key, value: Some(vec![1]) };
            let done = tokio::time::timeout(LIVENESS, client::propose(&running, &command, false)).await;
            let late = done.as_ref().map_or(true, |told| *told != Some(Ok(())));
            assert!(!late, "{} is not served: {done:?}, {:?}", running.replica.me(), running.group.status());
        }
        loop {
            let applied: BTreeSet<u64> = self.running().map(|running| running.replica.applied()).collect();
            if applied.len() == 1 {
                break;
            }
            let waited = Duration::from_micros(self.common.now() - since);
            assert!(waited < LIVENESS, "after {waited:?} members are at {applied:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.check();
    }

    /// Whether what clients were told fits what is there.
    fn judge(&mut self) {
        let last = self.running().next().map(|running| number(running, REGISTER)).unwrap();
        let record = std::mem::take(&mut *self.common.record.lock());
        let chain = judge_swaps(&record.swaps, last).unwrap();
        judge_reads(&chain, &record.reads).unwrap();
        self.pledged = record.reads.iter().filter(|read| read.pledged).count();
        for (client, (acknowledged, proposed)) in &record.counters {
            let found = number(self.running().next().unwrap(), &format!("counter/{client}"));
            assert!(
                (*acknowledged..=*proposed).contains(&found),
                "client {client} counted to {acknowledged}, and was told so; it is {found} of {proposed}"
            );
        }
        for swap in &record.swaps {
            self.trace.push(format!("{swap:?}"));
        }
    }
}

/// The values that the register had, from the last one back, must be a chain in which all that was
/// acknowledged is, nothing that was refused, and all in an order that keeps to the times.
fn judge_swaps(swaps: &[Swap], last: u64) -> Result<Vec<&Swap>, String> {
    let by_value: BTreeMap<u64, &Swap> = swaps.iter().map(|swap| (swap.value, swap)).collect();
    let mut chain = Vec::new();
    let mut value = last;
    while value != 0 {
        let Some(swap) = by_value.get(&value) else { return Err(format!("{value} is from nobody")) };
        if swap.told == Told::Refused {
            return Err(format!("{swap:?} was refused, and done"));
        }
        chain.push(*swap);
        if chain.len() > swaps.len() {
            return Err("a swap was done twice".into());
        }
        value = swap.expect;
    }
    chain.reverse();
    let done = swaps.iter().filter(|swap| swap.told == Told::Done).count();
    let there = chain.iter().filter(|swap| swap.told == Told::Done).count();
    if done != there {
        let lost =
            swaps.iter().find(|swap| swap.told == Told::Done && !chain.iter().any(|one| one.value == swap.value));
        return Err(format!("{lost:?} was acknowledged, and is lost"));
    }
    let mut latest_start = 0;
    for swap in &chain {
        // Of one that nobody answered the end is not known.
        if swap.told == Told::Done && swap.end < latest_start {
            return Err(format!("{swap:?} ended before one began that came before it"));
        }
        latest_start = latest_start.max(swap.start);
    }
    Ok(chain)
}

/// No read is of what was replaced before it began, of what was begun after it ended, or of what is older than what a
/// read before it was told.
fn judge_reads(chain: &[&Swap], reads: &[Read]) -> Result<(), String> {
    let places: BTreeMap<u64, usize> = chain.iter().enumerate().map(|(at, swap)| (swap.value, at + 1)).collect();
    let mut placed = Vec::new();
    for read in reads {
        let place = if read.value == 0 { Some(0) } else { places.get(&read.value).copied() };
        placed.push((place.ok_or_else(|| format!("{read:?} is of what nobody wrote"))?, read));
    }
    // What had ended before a read began, in order of its ends: the newest of it is the least that the read may tell.
    let done = chain.iter().zip(1..).filter(|(swap, _)| swap.told == Told::Done);
    let mut told: Vec<(u64, usize, &dyn Debug)> = done.map(|(swap, at)| (swap.end, at, swap as &dyn Debug)).collect();
    told.extend(placed.iter().map(|(place, read)| (read.end, *place, *read as &dyn Debug)));
    told.sort_by_key(|(end, ..)| *end);
    placed.sort_by_key(|(_, read)| read.start);
    let (mut told, mut newest): (_, (u64, usize, &dyn Debug)) =
        (told.into_iter().peekable(), (0, 0, &"nothing" as &dyn Debug));
    for (place, read) in placed {
        while let Some(next) = told.next_if(|(end, ..)| *end < read.start) {
            newest = if next.1 > newest.1 { next } else { newest };
        }
        if place < newest.1 {
            return Err(format!("{read:?} misses {:?}", newest.2));
        }
        let (before, _) = chain.split_at(place);
        if let Some(early) = before.iter().rev().find(|swap| swap.start > read.end) {
            return Err(format!("{read:?} is of {early:?}"));
        }
    }
    Ok(())
}

/// Runs a seed; answers what happened.
fn simulate(seed: u64, has_witness: bool) -> (Vec<String>, usize) {
    seeded::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let trace = runtime.block_on(async {
        let mut world = World::new(seed, has_witness);
        world.found().await;
        while world.common.began.elapsed() < TROUBLE {
            let pause = 20 + world.random.below(250);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.check();
            world.trouble().await;
        }
        world.mend().await;
        world.judge();
        (world.trace, world.pledged)
    });
    drop(runtime);
    trace
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run_seeds(count: u64, has_witness: bool) {
    let (first, count) = (setting("NEXUS_SIM_SEED", 1), setting("NEXUS_SIM_COUNT", count));
    let (began, mut events, mut pledged) = (std::time::Instant::now(), 0, 0);
    let failed: Vec<u64> = (first..first + count)
        .filter(|seed| {
            let ended = std::panic::catch_unwind(|| simulate(*seed, has_witness));
            events += ended.as_ref().map_or(0, |(trace, _)| trace.len());
            pledged += ended.as_ref().map_or(0, |(_, pledged)| *pledged);
            ended.inspect_err(|_| println!("seed {seed} failed: NEXUS_SIM_SEED={seed} NEXUS_SIM_COUNT=1")).is_err()
        })
        .collect();
    println!("{count} seeds from {first}: {events} events, {pledged} reads by pledges in {:.1?}", began.elapsed());
    assert!(pledged > 0);
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn many_seeds() {
    run_seeds(2000, false);
}

/// The last member is a witness.
#[test]
fn many_seeds_with_a_witness() {
    run_seeds(500, true);
}

/// After a power cut a leader may lack entries of its term that others have: it must not go on in that term.
#[test]
fn who_led_is_elected_anew_after_a_power_cut() {
    seeded::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(1, false);
        world.found().await;
        let before = world.running().next().unwrap().group.status();
        assert_eq!((before.role, before.leader), (Role::Leader, Some(MemberId(1))));
        world.hosts[0].stop(&world.net, Some(7));
        world.start(0).await;
        let after = world.running().next().unwrap().group.status();
        assert!(after.role != Role::Leader, "{after:?}");
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.check();
        let status: Vec<_> = world.running().map(|running| running.group.status()).collect();
        assert!(status.iter().any(|status| status.role == Role::Leader && status.term > before.term), "{status:?}");
    });
}

#[test]
fn the_same_seed_runs_the_same_way() {
    for seed in [3, 8, 21] {
        let ((once, _), (again, _)) = (simulate(seed, seed == 8), simulate(seed, seed == 8));
        let differs = once.iter().zip(&again).position(|(a, b)| a != b);
        assert_eq!(differs.map(|at| (&once[at], &again[at])), None, "seed {seed}");
        assert_eq!(once.len(), again.len());
        assert_ne!(once, simulate(seed + 100, false).0);
    }
}

#[test]
fn what_is_wrong_is_found() {
    let swap = |value, expect, start, end, told| Swap { expect, value, start, end, told };
    let right = [swap(1, 0, 0, 5, Told::Done), swap(2, 1, 6, 8, Told::Nothing), swap(3, 2, 7, 9, Told::Done)];
    let chain = judge_swaps(&right, 3).unwrap();
    let read = |value, start, end| Read { value, start, end, pledged: true };
    assert_eq!(judge_reads(&chain, &[read(0, 0, 9), read(1, 3, 8), read(2, 6, 9), read(3, 8, 20)]), Ok(()));
    assert!(judge_reads(&chain, &[read(0, 6, 9)]).is_err(), "what was acknowledged is missed");
    assert!(judge_reads(&chain, &[read(2, 3, 5)]).is_err(), "of what is not begun");
    assert!(judge_reads(&chain, &[read(3, 7, 8), read(1, 8, 9)]).is_ok(), "at the same time");
    assert!(judge_reads(&chain, &[read(2, 6, 7), read(1, 8, 9)]).is_err(), "back in time");
    assert!(judge_reads(&chain, &[read(7, 6, 7)]).is_err(), "from nobody");
    assert!(judge_swaps(&right, 1).is_err(), "lost");
    assert!(judge_swaps(&right, 4).is_err(), "from nobody");
    let twice = [swap(1, 0, 0, 5, Told::Done), swap(2, 0, 6, 8, Told::Done)];
    assert!(judge_swaps(&twice, 2).is_err(), "two on the same");
    assert!(judge_swaps(&[swap(1, 0, 0, 5, Told::Refused)], 1).is_err());
    let late = [swap(1, 0, 10, 12, Told::Done), swap(2, 1, 0, 5, Told::Done)];
    assert!(judge_swaps(&late, 2).is_err(), "before its time");
}
