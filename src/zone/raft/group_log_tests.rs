//! Kills, power cuts and long lives of groups' logs, on a simulated disk.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_kernel::Command;
use nexus_kernel::content::NoContent;

use super::*;
use crate::raft::entry::{MemberId, Payload};
use crate::testing::Random;
use crate::{LogConfig, NodeLog, Preallocate};

const GROUPS: [ZoneIndex; 2] = [ZoneIndex(1), ZoneIndex(2)];
const LOCAL: ZoneIndex = ZoneIndex(0);

fn open(disk: &SimDisk) -> (Arc<NodeLog>, Vec<GroupLog>) {
    let config =
        LogConfig { segment_bytes: 16 << 10, max_spares: 3, preallocate: Preallocate::Inline, ..LogConfig::default() };
    let log = NodeLog::open(Arc::new(disk.clone()), Path::new("/log"), Arc::new(NoContent), config).unwrap();
    let flusher = Flusher::start(log.clone()).unwrap();
    (log, GROUPS.iter().map(|zone| GroupLog::open(flusher.clone(), *zone).unwrap()).collect())
}

fn command(number: u64) -> Vec<u8> {
    Command::SetSys { key: format!("{number}"), value: Some(vec![7; 100]) }.encode().unwrap()
}

/// What a group's log must hold.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<Position>,
    vote: Option<Vote>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<Position> {
        self.entries.last_key_value().map(|(_, entry)| entry.position).or(self.purged)
    }
}

/// Does a random thing to a group; answers whether it is known to be durable by then.
fn step(random: &mut Random, group: &GroupLog, model: &mut Model, wait: bool, between: &mut Vec<Model>) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    let flushed: Flushed = Box::new(move |done| drop(tell.send(done)));
    match random.below(12) {
        0 => {
            model.term += 1;
            let vote = Vote { term: model.term, candidate: MemberId(random.below(3)), committed: random.below(2) == 0 };
            group.save_vote(vote, flushed).unwrap();
            model.vote = Some(vote);
        }
        1 if !model.entries.is_empty() => {
            let (first, last) = (*model.entries.keys().next().unwrap(), *model.entries.keys().last().unwrap());
            let keep = first + random.below(last - first + 1);
            let kept = model.entries.get(&keep).map(|entry| entry.position);
            group.truncate_after(kept).unwrap();
            model.entries.retain(|index, _| *index <= keep);
            return false;
        }
        2 if model.entries.len() > 3 => {
            let upto = model.entries.values().nth(random.below(3) as usize).unwrap().position;
            group.purge(upto).unwrap();
            model.entries.retain(|index, _| *index > upto.index);
            model.purged = Some(upto);
            return false;
        }
        _ => {
            let mut entries = Vec::new();
            for _ in 0..1 + random.below(4) {
                let index = model.last().map_or(0, |last| last.index + 1);
                let payload = Payload::Proposals(Bytes::from(vec![random.next() as u8; random.below(300) as usize]));
                let entry = Entry { position: Position { term: model.term.max(1), index }, payload };
                model.entries.insert(index, entry.clone());
                entries.push(entry);
                between.push(Model { term: 0, ..model.clone() });
            }
            group.append(entries, flushed).unwrap();
        }
    }
    if wait {
        told.recv().unwrap().unwrap();
    }
    wait
}

fn found(group: &GroupLog) -> Model {
    let state = group.state();
    let start = state.purged.map_or(0, |purged| purged.index + 1);
    let entries = group.entries(start..u64::MAX);
    assert_eq!(entries.last().map(|entry| entry.position).or(state.purged), state.last);
    Model {
        entries: entries.into_iter().map(|entry| (entry.position.index, entry)).collect(),
        purged: state.purged,
        vote: state.vote,
        term: 0,
    }
}

#[test]
fn a_power_cut_leaves_what_was_at_some_moment_since_the_last_sync() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let disk = SimDisk::new();
        let (log, groups) = open(&disk);
        let mut models = [Model::default(), Model::default()];
        // All states of each group since what is known to be durable.
        let mut since: [Vec<Model>; 2] = [vec![Model::default()], vec![Model::default()]];
        for number in 0..250 {
            if random.below(3) == 0 {
                log.append(LOCAL, Claim::Normal, &command(number)).unwrap();
            }
            let which = random.below(2) as usize;
            let wait = random.below(4) == 0;
            let durable = step(&mut random, &groups[which], &mut models[which], wait, &mut since[which]);
            let now = |model: &Model| Model { term: 0, ..model.clone() };
            since[which].push(now(&models[which]));
            if durable {
                // One log: what came before in the other group is durable too.
                for (states, model) in since.iter_mut().zip(&models) {
                    *states = vec![now(model)];
                }
            }
            if random.below(20) == 0 {
                groups[which].relieve().unwrap();
            }
            if random.below(8) == 0 {
                let left = if random.below(3) == 0 { disk.fork() } else { disk.power_cut(random.next()) };
                let (_log, again) = open(&left);
                for (which, group) in again.iter().enumerate() {
                    let found = found(group);
                    let last = found.last();
                    assert!(since[which].contains(&found), "seed {seed}, step {number}, group {which}: {last:?}");
                }
            }
        }
    }
}

#[test]
fn an_idle_group_does_not_hold_the_log_back() {
    let disk = SimDisk::new();
    let (log, groups) = open(&disk);
    let (mut random, mut model) = (Random(5), Model::default());
    for _ in 0..20 {
        step(&mut random, &groups[0], &mut model, true, &mut Vec::new());
    }
    let before = found(&groups[0]);
    for number in 0..5000 {
        let lsn = log.append(LOCAL, Claim::Normal, &command(number)).unwrap();
        if number % 100 == 0 {
            log.sync().unwrap();
            log.checkpointed(LOCAL, lsn).unwrap();
            groups[0].relieve().unwrap();
        }
    }
    let segments = log.stats().segments;
    assert!(segments < 12, "{segments} segments are kept for an idle group");
    assert_eq!(found(&groups[0]), before);
    let (_log, again) = open(&disk.fork());
    assert_eq!(found(&again[0]), before);
}

#[test]
fn an_entry_that_leaves_a_hole_is_refused() {
    let (_log, groups) = open(&SimDisk::new());
    let entry = |index| Entry { position: Position { term: 1, index }, payload: Payload::Blank };
    groups[0].append(vec![entry(0), entry(1)], Box::new(|_| ())).unwrap();
    assert!(groups[0].append(vec![entry(3)], Box::new(|_| ())).is_err());
    assert_eq!(groups[0].entries(1..9), [entry(1)]);
    assert!(groups[0].entries(2..9).is_empty());
}
