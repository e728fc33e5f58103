//! Suite of [`crate::metastore::Metastore`]. A durable driver gives media that can be opened
//! again, killed and cut off from power; any other gives a fresh store each time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::metastore::{Durability, Key, MetaRead, Metastore, Table, WriteBatch};

/// Where a store lives. Each medium is one store's own.
pub trait Medium {
    /// Opens the store, making it if there is none.
    fn open(&self) -> Arc<dyn Metastore>;

    /// What the next process finds when this one is killed now; `None` if nothing outlives
    /// the process.
    fn killed(&self) -> Option<Box<dyn Medium>> {
        None
    }

    /// What a power cut now leaves, one of several possible outcomes for each seed; `None` if
    /// the medium can't tell.
    fn power_cut(&self, seed: u64) -> Option<Box<dyn Medium>> {
        let _ = seed;
        None
    }

    /// Fills the medium, or gives the space back; false if it can't.
    fn set_full(&self, full: bool) -> bool {
        let _ = full;
        false
    }
}

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;
type NewMedium<'a> = &'a dyn Fn() -> Box<dyn Medium>;

/// Runs the suite on media from `new`, which are empty.
pub fn run(new: NewMedium<'_>) {
    values(&*new().open());
    order_within_a_batch(&*new().open());
    scans(&*new().open());
    scans_across_many_pages(&*new().open());
    conditions(&*new().open());
    snapshots(&*new().open());
    concurrent_swaps(&*new().open());
    for seed in 1..=4 {
        random_against_model(&*new().open(), seed);
    }
    reopening(new);
    for seed in 1..=6 {
        crashes(new, seed);
    }
    full_medium(new);
}

fn put(table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Table, Key, Option<Bytes>) {
    (table, Key::from_slice(key.as_ref()), Some(Bytes::copy_from_slice(value.as_ref())))
}

fn delete(table: Table, key: impl AsRef<[u8]>) -> (Table, Key, Option<Bytes>) {
    (table, Key::from_slice(key.as_ref()), None)
}

fn batch(writes: Vec<(Table, Key, Option<Bytes>)>) -> WriteBatch {
    WriteBatch { expect: Vec::new(), writes }
}

fn get(store: &dyn Metastore, table: Table, key: impl AsRef<[u8]>) -> Option<Bytes> {
    store.snapshot().unwrap().get(table, key.as_ref()).unwrap()
}

/// Everything in all tables.
fn content(read: &dyn MetaRead) -> Model {
    let mut all = Model::new();
    for table in Table::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            all.insert((table, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        };
        read.scan(table, &[], &[0xff; 300], &mut visit).unwrap();
    }
    all
}

fn apply(model: &mut Model, batch: &WriteBatch) {
    for (table, key, value) in &batch.writes {
        match value {
            Some(value) => model.insert((*table, key.to_vec()), value.to_vec()),
            None => model.remove(&(*table, key.to_vec())),
        };
    }
}

fn values(store: &dyn Metastore) {
    assert!(content(&*store.snapshot().unwrap()).is_empty(), "a new store is empty");
    store.commit(&WriteBatch::default(), Durability::Durable).unwrap();
    store.commit(&batch(vec![delete(Table::Inode, "nothing")]), Durability::Buffered).unwrap();
    let large = vec![0xabu8; 200_000];
    let long = [7u8; 280];
    for table in Table::ALL {
        let writes = vec![
            put(table, "name", table.name()),
            put(table, "empty", ""),
            put(table, long, &large),
            put(table, [0u8], "zero"),
        ];
        store.commit(&batch(writes), Durability::Buffered).unwrap();
    }
    for table in Table::ALL {
        assert_eq!(get(store, table, "name").unwrap(), table.name(), "tables are key spaces of their own");
        assert_eq!(get(store, table, "empty"), Some(Bytes::new()), "an empty value is a value");
        assert_eq!(get(store, table, long).unwrap(), large);
        assert_eq!(get(store, table, [0u8]).unwrap(), "zero");
        assert_eq!(get(store, table, [0u8, 0]), None);
        assert_eq!(get(store, table, "nam"), None);
    }
    store
        .commit(&batch(vec![delete(Table::Inode, long), put(Table::Inode, "name", "new")]), Durability::Durable)
        .unwrap();
    assert_eq!(get(store, Table::Inode, long), None);
    assert_eq!(get(store, Table::Inode, "name").unwrap(), "new");
    assert_eq!(get(store, Table::Dentry, long).unwrap(), large);
    assert!(store.stats().unwrap().stored_bytes > 200_000);
}

fn order_within_a_batch(store: &dyn Metastore) {
    let writes = vec![
        put(Table::Sys, "a", "1"),
        put(Table::Sys, "b", "1"),
        delete(Table::Sys, "b"),
        put(Table::Sys, "a", "2"),
        delete(Table::Sys, "c"),
        put(Table::Sys, "c", "3"),
    ];
    store.commit(&batch(writes), Durability::Buffered).unwrap();
    assert_eq!(get(store, Table::Sys, "a").unwrap(), "2", "the last write to a key wins");
    assert_eq!(get(store, Table::Sys, "b"), None);
    assert_eq!(get(store, Table::Sys, "c").unwrap(), "3");
}

fn keys(read: &dyn MetaRead, range: (&[u8], &[u8]), back: bool, limit: usize) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        assert_eq!(key, value, "a value came with another key");
        seen.push(key.to_vec());
        if seen.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match back {
        false => read.scan(Table::Dentry, range.0, range.1, &mut visit).unwrap(),
        true => read.scan_back(Table::Dentry, range.0, range.1, &mut visit).unwrap(),
    }
    seen
}

fn scans(store: &dyn Metastore) {
    let all: [&[u8]; 6] = [b"a", b"b", b"b\0", b"b\xff", b"c", b"\xff\xff"];
    let writes = all.iter().map(|key| put(Table::Dentry, key, key)).collect();
    store.commit(&batch(writes), Durability::Buffered).unwrap();
    store.commit(&batch(vec![put(Table::Extent, "b", "other table")]), Durability::Buffered).unwrap();
    let read = store.snapshot().unwrap();
    let cases: [(&[u8], &[u8], &[usize]); 9] = [
        (b"", b"\xff\xff\xff", &[0, 1, 2, 3, 4, 5]),
        (b"b", b"c", &[1, 2, 3]),
        (b"b\0", b"c\0", &[2, 3, 4]),
        (b"aa", b"b", &[]),
        (b"c", b"c", &[]),
        (b"c", b"b", &[]),
        (b"", b"", &[]),
        (b"c", b"\xff\xff", &[4]),
        (b"d", b"\xff", &[]),
    ];
    for (start, end, expected) in cases {
        let expected: Vec<Vec<u8>> = expected.iter().map(|i| all[*i].to_vec()).collect();
        assert_eq!(keys(&*read, (start, end), false, usize::MAX), expected, "{start:?}..{end:?}");
        let backwards: Vec<Vec<u8>> = expected.iter().rev().cloned().collect();
        assert_eq!(keys(&*read, (start, end), true, usize::MAX), backwards, "{start:?}..{end:?} backwards");
    }
    assert_eq!(keys(&*read, (b"", b"z"), false, 2), [b"a".to_vec(), b"b".to_vec()], "a visitor can stop");
    assert_eq!(keys(&*read, (b"", b"d"), true, 1), [b"c".to_vec()]);
    let mut nested = 0;
    let mut visit = |key: &[u8], _: &[u8]| {
        nested += keys(&*read, (key, b"\xff\xff\xff"), false, usize::MAX).len();
        assert_eq!(read.get(Table::Dentry, key).unwrap().unwrap(), key);
        ControlFlow::Continue(())
    };
    read.scan(Table::Dentry, b"", b"\xff\xff\xff", &mut visit).unwrap();
    assert_eq!(nested, 6 + 5 + 4 + 3 + 2 + 1, "a visitor may read the same snapshot");
}

fn scans_across_many_pages(store: &dyn Metastore) {
    let key = |i: u32| i.to_be_bytes();
    for step in 0..10 {
        let writes = (0..5000).filter(|i| i % 10 == step).map(|i| put(Table::Dentry, key(i), key(i))).collect();
        store.commit(&batch(writes), Durability::Buffered).unwrap();
    }
    let read = store.snapshot().unwrap();
    let expected = |from: u32, to: u32| (from..to).map(|i| key(i).to_vec()).collect::<Vec<_>>();
    for (from, to) in [(0, 5000), (63, 64), (100, 228), (64, 128), (4990, 5000), (2500, 2563), (0, 65)] {
        let range = (&key(from)[..], &key(to)[..]);
        assert_eq!(keys(&*read, range, false, usize::MAX), expected(from, to));
        let mut backwards = expected(from, to);
        backwards.reverse();
        assert_eq!(keys(&*read, range, true, usize::MAX), backwards);
    }
}

fn conditions(store: &dyn Metastore) {
    let swap = |expect: Vec<(Table, Key, Option<Bytes>)>, to: &str| {
        store.commit(
            &WriteBatch { expect, writes: vec![put(Table::Sys, "k", to), put(Table::Sys, to, "x")] },
            Durability::Buffered,
        )
    };
    assert_eq!(swap(vec![put(Table::Sys, "k", "a")], "b"), Err(Error::Conflict));
    assert_eq!(get(store, Table::Sys, "b"), None, "a conflict changes nothing");
    swap(vec![delete(Table::Sys, "k")], "a").unwrap();
    assert_eq!(swap(vec![delete(Table::Sys, "k")], "b"), Err(Error::Conflict));
    swap(vec![put(Table::Sys, "k", "a"), delete(Table::Inode, "k")], "c").unwrap();
    assert_eq!(
        swap(vec![put(Table::Sys, "k", "c"), put(Table::Inode, "k", "c")], "d"),
        Err(Error::Conflict),
        "all must hold"
    );
    assert_eq!(swap(vec![put(Table::Sys, "k", "cc")], "d"), Err(Error::Conflict), "the whole value counts");
    assert_eq!(get(store, Table::Sys, "k").unwrap(), "c");
    assert_eq!(get(store, Table::Sys, "d"), None);
}

fn snapshots(store: &dyn Metastore) {
    let mut model = Model::new();
    let mut held = Vec::new();
    for round in 0..40u32 {
        let writes = (0..20).map(|i| (i * 7 + round) % 50).map(|key| match (key + round) % 4 {
            0 => delete(Table::Inode, key.to_be_bytes()),
            _ => put(Table::Inode, key.to_be_bytes(), round.to_be_bytes()),
        });
        let batch = batch(writes.collect());
        apply(&mut model, &batch);
        store.commit(&batch, if round % 8 == 0 { Durability::Durable } else { Durability::Buffered }).unwrap();
        let snapshot = store.snapshot().unwrap();
        assert_eq!(content(&*snapshot), model, "a snapshot sees the commit before it");
        held.push((snapshot, model.clone()));
        if round % 3 == 0 {
            held.swap_remove(held.len() / 2);
        }
    }
    for (snapshot, model) in &held {
        assert_eq!(content(&**snapshot), *model, "a snapshot changed");
    }
}

fn concurrent_swaps(store: &dyn Metastore) {
    const EACH: u64 = 50;
    let read = || get(store, Table::Sys, "count").map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    let old = read();
                    let expect = match old {
                        0 => delete(Table::Sys, "count"),
                        _ => put(Table::Sys, "count", old.to_be_bytes()),
                    };
                    let writes = vec![put(Table::Sys, "count", (old + 1).to_be_bytes())];
                    match store.commit(&WriteBatch { expect: vec![expect], writes }, Durability::Buffered) {
                        Ok(()) => done += 1,
                        Err(Error::Conflict) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(read(), 3 * EACH, "two swaps of one value both succeeded");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn random_batch(random: &mut Random) -> WriteBatch {
    let count = 1 + random.below(30);
    batch(
        (0..count)
            .map(|_| {
                let table = Table::ALL[random.below(9) as usize];
                let key = random.below(200).to_be_bytes();
                match random.below(4) {
                    0 => delete(table, key),
                    _ => put(table, key, vec![random.below(256) as u8; random.below(500) as usize]),
                }
            })
            .collect(),
    )
}

fn random_against_model(store: &dyn Metastore, seed: u64) {
    let mut random = Random(seed);
    let mut model = Model::new();
    for _ in 0..60 {
        let batch = random_batch(&mut random);
        apply(&mut model, &batch);
        store.commit(&batch, if random.below(5) == 0 { Durability::Durable } else { Durability::Buffered }).unwrap();
    }
    assert_eq!(content(&*store.snapshot().unwrap()), model, "seed {seed}");
}

fn reopening(new: NewMedium<'_>) {
    let medium = new();
    if medium.killed().is_none() && !survives_closing(new) {
        return;
    }
    let mut model = Model::new();
    let mut random = Random(99);
    for round in 0..5 {
        let store = medium.open();
        assert_eq!(
            content(&*store.snapshot().unwrap()),
            model,
            "closing loses nothing, buffered or not (round {round})"
        );
        for _ in 0..10 {
            let batch = random_batch(&mut random);
            apply(&mut model, &batch);
            store.commit(&batch, Durability::Buffered).unwrap();
        }
    }
}

fn survives_closing(new: NewMedium<'_>) -> bool {
    let medium = new();
    medium.open().commit(&batch(vec![put(Table::Sys, "k", "v")]), Durability::Durable).unwrap();
    get(&*medium.open(), Table::Sys, "k").is_some()
}

/// Kills and power cuts after each commit of a random run: what is found is what some prefix
/// of the commits made, with every durable one in it.
fn crashes(new: NewMedium<'_>, seed: u64) {
    let medium = new();
    if medium.open().commit(&WriteBatch::default(), Durability::Durable).is_err() || medium.killed().is_none() {
        return;
    }
    let store = medium.open();
    let mut random = Random(seed);
    let mut models = vec![Model::new()];
    let mut durable = 0;
    for number in 1..=40u64 {
        let mut batch = random_batch(&mut random);
        batch.writes.push(put(Table::Sys, "number", number.to_be_bytes()));
        let durability = if random.below(4) == 0 { Durability::Durable } else { Durability::Buffered };
        store.commit(&batch, durability).unwrap();
        let mut model = models.last().unwrap().clone();
        apply(&mut model, &batch);
        models.push(model);
        if durability == Durability::Durable {
            durable = number;
        }
        let cuts = (0..3).filter_map(|cut| medium.power_cut(seed * 1000 + number * 10 + cut));
        for left in medium.killed().into_iter().chain(cuts) {
            let recovered = left.open();
            let state = content(&*recovered.snapshot().unwrap());
            let at = state
                .get(&(Table::Sys, b"number".to_vec()))
                .map_or(0, |n| u64::from_be_bytes(n[..].try_into().unwrap()));
            assert!((durable..=number).contains(&at), "seed {seed}: {at} of {number} commits, {durable} durable");
            assert!(
                state == models[at as usize],
                "seed {seed}: the state is no prefix of the commits ({at} of {number})"
            );
            recovered.commit(&random_batch(&mut Random(seed)), Durability::Durable).unwrap();
        }
    }
}

fn full_medium(new: NewMedium<'_>) {
    let medium = new();
    let store = medium.open();
    let mut model = Model::new();
    let mut commit = |writes, durability| {
        let batch = batch(writes);
        store
            .commit(&batch, durability)
            .map(|()| apply(&mut model, &batch))
            .map(|()| model.clone())
            .map_err(|e| (e, model.clone()))
    };
    let large = |n: u8| (0..50u8).map(move |i| put(Table::Xattr, [n, i], vec![n; 60_000])).collect::<Vec<_>>();
    commit(vec![put(Table::Sys, "durable", "1")], Durability::Durable).unwrap();
    commit(vec![put(Table::Sys, "buffered", "1")], Durability::Buffered).unwrap();
    if !medium.set_full(true) {
        return;
    }
    for round in 0..3 {
        let (error, model) = commit(large(round), Durability::Durable).unwrap_err();
        assert_eq!(error, Error::NoSpace);
        assert!(content(&*store.snapshot().unwrap()) == model, "a commit without space changed something");
        // Whether a small change still fits is the driver's affair, but it must be one or the other.
        let (Ok(model) | Err((_, model))) = commit(vec![put(Table::Sys, "small", [round])], Durability::Buffered);
        assert!(content(&*store.snapshot().unwrap()) == model);
    }
    assert!(medium.set_full(false));
    commit(large(9), Durability::Durable).unwrap();
    let model = commit(vec![put(Table::Sys, "end", "1")], Durability::Durable).unwrap();
    assert!(content(&*store.snapshot().unwrap()) == model);
    for left in medium.killed().into_iter().chain((0..5).filter_map(|seed| medium.power_cut(seed))) {
        assert!(content(&*left.open().snapshot().unwrap()) == model, "buffered commits before the full disk are lost");
    }
}
