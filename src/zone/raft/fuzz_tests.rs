//! Everything of a group that is read from a disk or another node takes anything without a panic:
//! entries, proposals, sessions, marks, states on their way, and records of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::metastore::{Durability, Key, WriteBatch};
use nexus_kernel::{Command, Error, Metastore, Table, ZoneIndex};

use super::entry::{decode, encode};
use super::proposal::Session;
use super::*;
use crate::log::Claim;
use crate::testing::{Random, fuzz};
use crate::{LogConfig, NodeLog, Preallocate};

fn members() -> Membership {
    let member = Member { name: "node".into(), ..Member::default() };
    Membership {
        voters: vec![BTreeSet::from([MemberId(1), MemberId(2)])],
        members: BTreeMap::from([(MemberId(1), member.clone()), (MemberId(2), member)]),
    }
}

fn batch() -> Batch {
    let command = Command::SetSys { key: "k".into(), value: Some(vec![1, 2, 3]) }.encode().unwrap();
    let commands = vec![(7, Bytes::from(command.clone())), (9, command.into())];
    Batch { member: MemberId(1), session: 3, floor: 7, commands }
}

#[test]
fn entries_proposals_and_marks() {
    let at = Position { term: 3, index: 77 };
    for (seed, payload) in [
        (300, Payload::Blank),
        (301, Payload::Membership(members())),
        (302, Payload::Proposals(batch().encode().unwrap())),
    ] {
        let entry = encode("entry", &Entry { position: at, payload }).unwrap();
        fuzz(seed, &entry, |bytes| decode::<Entry>("entry", bytes).is_ok());
    }
    fuzz(303, &batch().encode().unwrap(), |bytes| Batch::decode(bytes).is_ok());
    let mark = Mark { applied: Some(at), membership_at: Some(at), membership: members() };
    fuzz(304, &mark.encode().unwrap(), |bytes| Mark::decode(bytes).is_ok());
    let mut session = Session::default();
    session.begin(&batch());
    session.applied(7, Ok(()));
    session.applied(9, Err(&Error::Exists));
    fuzz(305, &session.encode().unwrap(), |bytes| Session::decode(bytes).is_ok());
    fuzz(306, &encode("member", &members()).unwrap(), |bytes| decode::<Membership>("member", bytes).is_ok());
    let vote = Vote { term: 9, candidate: MemberId(2), committed: true };
    fuzz(307, &encode("vote", &vote).unwrap(), |bytes| decode::<Vote>("vote", bytes).is_ok());
}

#[test]
fn states_on_their_way() {
    let from: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
    let mut write = WriteBatch::default();
    for n in 0..20u8 {
        write.writes.push((Table::ALL[n as usize % 9], Key::from_slice(&[n; 9]), Some(vec![n; 30].into())));
    }
    from.commit(&write, Durability::Buffered).unwrap();
    let piece = Outgoing::new(from.snapshot().unwrap()).piece().unwrap().unwrap();
    fuzz(310, &piece, |bytes| Incoming::new(Arc::new(MemoryMetastore::new())).take(bytes).is_ok());
}

/// Records with a valid checksum and a senseless content: what is refused says so, at the start.
#[test]
fn records_of_the_log() {
    let mut random = Random(320);
    let mut refused = 0;
    for round in 0..400u64 {
        let disk = SimDisk::new();
        let config = LogConfig { segment_bytes: 16 << 10, preallocate: Preallocate::Inline, ..LogConfig::default() };
        let open =
            || NodeLog::open(Arc::new(disk.clone()), Path::new("/log"), Arc::new(NoContent), config.clone()).unwrap();
        let log = open();
        let flusher = Flusher::by_hand(log.clone());
        let group = GroupLog::open(flusher.clone(), ZoneIndex(1)).unwrap();
        let position = |index| Position { term: 1, index };
        let entries = (0..3).map(|index| Entry { position: position(index), payload: Payload::Blank }).collect();
        group.append(entries, Box::new(|_| ())).unwrap();
        let mut seen = Vec::new();
        log.replay_group(ZoneIndex(1), &mut |_, bytes| {
            seen.push(bytes.to_vec());
            Ok(())
        })
        .unwrap();
        let mut bytes = seen[round as usize % seen.len()].clone();
        for _ in 0..=random.below(2) {
            let place = random.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << random.below(8);
        }
        log.append_group(ZoneIndex(1), Claim::Normal, &bytes).unwrap();
        log.sync().unwrap();
        drop((group, flusher, log));
        refused += usize::from(GroupLog::open(Flusher::by_hand(open()), ZoneIndex(1)).is_err());
    }
    assert!(refused > 100, "{refused}");
}
