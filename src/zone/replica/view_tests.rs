//! Reads of a view against a plain map.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::Metastore;
use nexus_kernel::metastore::{Durability, Key, WriteBatch};

use super::*;
use crate::testing::Random;

type Model = BTreeMap<(Table, Vec<u8>), Bytes>;

const TABLES: [Table; 3] = [Table::Dentry, Table::Extent, Table::Blob];

fn key(random: &mut Random) -> Key {
    let mut key = keys::pair(random.below(6), random.below(8));
    if random.below(4) == 0 {
        key.truncate(8 + random.below(8) as usize);
    }
    key
}

/// Changes a few random keys, in the model too.
fn changes(random: &mut Random, model: &mut Model) -> Vec<(Table, Key, Change)> {
    let change = |_| {
        let (table, key) = (TABLES[random.below(3) as usize], key(random));
        let key = if key.len() == 16 { key } else { keys::pair(3, random.below(30)) };
        let value = (random.below(3) > 0).then(|| Bytes::from(random.next().to_be_bytes().to_vec()));
        match &value {
            Some(value) => model.insert((table, key.to_vec()), value.clone()),
            None => model.remove(&(table, key.to_vec())),
        };
        (table, key, value)
    };
    (0..10).map(change).collect()
}

fn scanned(
    reader: &Reader<'_>,
    table: Table,
    range: (&Key, &Key),
    direction: Direction,
    limit: usize,
) -> Vec<(Vec<u8>, Bytes)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
        if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match direction {
        Direction::Forward => reader.scan(table, range.0, range.1, &mut visit).unwrap(),
        Direction::Backward => reader.scan_back(table, range.0, range.1, &mut visit).unwrap(),
    }
    found
}

fn assert_agrees(view: &View, caches: &Caches, model: &Model, random: &mut Random) {
    let reader = Reader { view, caches };
    for _ in 0..20 {
        let (table, start, end) = (TABLES[random.below(3) as usize], key(random), key(random));
        let limit = if random.below(2) == 0 { usize::MAX } else { 1 + random.below(4) as usize };
        let within = |((t, k), _): &(&(Table, Vec<u8>), &Bytes)| *t == table && start[..] <= k[..] && k[..] < end[..];
        let all: Vec<_> = model.iter().filter(within).map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let expected: Vec<_> = all.iter().take(limit).cloned().collect();
        assert_eq!(scanned(&reader, table, (&start, &end), Direction::Forward, limit), expected);
        let expected: Vec<_> = all.iter().rev().take(limit).cloned().collect();
        assert_eq!(scanned(&reader, table, (&start, &end), Direction::Backward, limit), expected);
        let key = keys::pair(random.below(6), random.below(8));
        assert_eq!(reader.get(table, &key).unwrap().as_ref(), model.get(&(table, key.to_vec())));
    }
}

/// Changes come in, are put aside and drained; through all of it the view reads as the map.
#[test]
fn reads_as_a_plain_map_would() {
    for seed in 1..=20 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let store = Arc::new(MemoryMetastore::new());
        let mut model = Model::new();
        // What is said to be unborn changes with each drain, and is always true.
        let mut usage = Usage { next_ino: Ino(0), ..Usage::default() };
        let (mut view, caches) = (View::new(Base::newest(store.clone()).unwrap()).unwrap(), Caches::new(0));
        let mut lsn = 0;
        for _ in 0..60 {
            match (random.below(6), view.frozen.clone()) {
                (0, None) if !view.active.is_empty() => view.freeze(),
                (1, Some(frozen)) => {
                    let writes: Vec<_> =
                        frozen.iter().map(|(t, key, change)| (t, Key::from_slice(key), change.clone())).collect();
                    let highest = writes
                        .iter()
                        .filter(|(t, ..)| *t != Table::Blob)
                        .map(|(_, k, _)| keys::parse_pair(k).unwrap().0);
                    usage.next_ino = usage.next_ino.max(Ino(highest.max().map_or(0, |highest| highest + 1)));
                    store.commit(&WriteBatch { expect: Vec::new(), writes }, Durability::Durable).unwrap();
                    view.rebase(Base::newest(store.clone()).unwrap(), usage);
                }
                _ => {
                    lsn += 1;
                    let writes = changes(&mut random, &mut model);
                    let applied = Applied { outcome: Default::default(), writes, inodes: Default::default() };
                    view.apply(applied, Lsn(lsn), &caches).unwrap();
                }
            }
            assert_agrees(&view, &caches, &model, &mut random);
        }
    }
}
