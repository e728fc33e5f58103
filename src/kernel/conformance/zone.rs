//! Suite of [`crate::Zone`]: what every order of commands has in common. What survives a
//! crash is for each zone's own tests.

mod commands;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::command::{Command, NewKind, SmallBytes};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::machine;
use crate::metastore::{Key, MetaRead, Table, Visitor};
use crate::model::{self, Dentry, keys};
use crate::name::Name;
use crate::zone::{APPLIED_KEY, Zone};

use commands::Commands;

/// What the suite runs on. It writes no content: where a zone asks its content for pieces, the
/// answer has to be that they are there.
pub trait Harness {
    /// A zone that was just formatted, apart from all others.
    fn fresh(&mut self) -> Arc<dyn Zone>;

    /// Closes a zone in good order, and opens it again. The suite has dropped all other
    /// references to it.
    fn reopen(&mut self, zone: Arc<dyn Zone>) -> Arc<dyn Zone>;
}

/// Runs the suite.
pub fn run(harness: &mut dyn Harness) {
    starts_formatted(&*harness.fresh());
    refuses_without_a_trace(&*harness.fresh());
    numbers_are_unique(&*harness.fresh());
    sync_covers_what_came_before(&*harness.fresh());
    reads_see_one_state(&*harness.fresh());
    one_of_many_wins(&*harness.fresh());
    for seed in 0..4 {
        println!("zone suite: seed {seed}");
        does_what_the_machine_does(harness, seed);
    }
}

fn create(zone: &dyn Zone, name: &str, kind: NewKind) -> Result<Ino> {
    let command = Command::Create {
        parent: Ino::ROOT,
        name: SmallBytes::from_slice(name.as_bytes()),
        ino: zone.allocate_ino()?,
        kind,
        mode: 0o644,
        umask: 0o022,
        uid: 1,
        gid: 2,
        now: zone.now(),
    };
    Ok(zone.propose(&command)?.inode.unwrap().0)
}

fn starts_formatted(zone: &dyn Zone) {
    let root = zone.inode(Ino::ROOT).unwrap().expect("a root");
    assert!(root.is_dir() && root.parent == Ino::ROOT && root.size == 0);
    assert_eq!(zone.usage().unwrap().inodes, 1);
    assert!(zone.info().id != [0; 16]);
    let mut info = None;
    zone.read(&mut |state| {
        info = state.zone_info()?;
        Ok(())
    })
    .unwrap();
    assert_eq!(info, Some(zone.info()));
    assert_eq!(zone.inode(Ino(77)), Ok(None));
    assert_eq!(zone.lookup(Ino::ROOT, Name::new(b"none").unwrap()), Ok(None));
    assert_eq!(zone.lookup(Ino(77), Name::new(b"none").unwrap()), Ok(None));
}

fn refuses_without_a_trace(zone: &dyn Zone) {
    let file = create(zone, "f", NewKind::Regular).unwrap();
    let (position, dentry) = zone.lookup(Ino::ROOT, Name::new(b"f").unwrap()).unwrap().expect("the name");
    assert_eq!((dentry.ino, &dentry.name[..]), (file, &b"f"[..]));
    assert!((256..1 << 63).contains(&position));
    let before = dump(zone);
    assert_eq!(create(zone, "f", NewKind::Directory), Err(Error::Exists));
    assert_eq!(create(zone, "a/b", NewKind::Directory), Err(Error::Invalid));
    let now = zone.now();
    let format = Command::Format { id: [9; 16], hash_seed: 1, mode: 0, uid: 0, gid: 0, now };
    assert!(zone.propose(&format).is_err(), "a zone is formatted once");
    assert!(dump(zone) == before, "a refused command changed something");
    let failed = zone.read(&mut |_| Err(Error::Range));
    assert_eq!(failed, Err(Error::Range), "what the reader answers comes through");
}

fn numbers_are_unique(zone: &dyn Zone) {
    let mut numbers = BTreeSet::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..500).map(|_| zone.allocate_ino().unwrap()).collect::<Vec<_>>()))
            .collect();
        for thread in threads {
            numbers.extend(thread.join().unwrap());
        }
    });
    assert_eq!(numbers.len(), 2000);
    assert!(numbers.iter().all(|ino| *ino > Ino::ROOT && *ino <= Ino::MAX));
}

fn sync_covers_what_came_before(zone: &dyn Zone) {
    for n in 0..10 {
        create(zone, &n.to_string(), NewKind::Regular).unwrap();
        let last = zone.stats().unwrap().last;
        zone.sync().unwrap();
        assert!(zone.stats().unwrap().durable >= last);
    }
    let before = dump(zone);
    zone.checkpoint().unwrap();
    let stats = zone.stats().unwrap();
    assert!(stats.checkpoint >= stats.last && stats.durable >= stats.last, "{stats:?}");
    assert!(dump(zone) == before, "a checkpoint changes nothing");
}

/// A directory's count of entries agrees with its entries in every state that a reader sees,
/// while others change it and checkpoints run.
fn reads_see_one_state(zone: &dyn Zone) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) || reads == 0 {
                zone.read(&mut |state| {
                    let size = state.inode(Ino::ROOT)?.expect("a root").size;
                    assert_eq!(entries(state, Ino::ROOT).len() as u64, size, "a reader saw half a command");
                    assert_eq!(state.inode(Ino::ROOT)?.expect("a root").size, size, "a state changed under its reader");
                    Ok(())
                })
                .unwrap();
                reads += 1;
            }
        });
        for n in 0..400 {
            create(zone, &n.to_string(), NewKind::Regular).unwrap();
            if n % 3 == 0 {
                let name = SmallBytes::from_slice((n / 2).to_string().as_bytes());
                let _ = zone.propose(&Command::Unlink { parent: Ino::ROOT, name, keep: n % 2 == 0, now: zone.now() });
            }
            if n % 50 == 0 {
                zone.checkpoint().unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}

fn one_of_many_wins(zone: &dyn Zone) {
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mine = |n: &usize| match create(zone, &n.to_string(), NewKind::Regular) {
                        // Acknowledged means visible, to whoever acknowledged it at least.
                        Ok(ino) => zone.inode(ino).unwrap().is_some(),
                        Err(Error::Exists) => false,
                        Err(error) => panic!("{error}"),
                    };
                    let made = (0..100).filter(mine).count();
                    zone.sync().unwrap();
                    made
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 100);
    assert_eq!(zone.usage().unwrap().inodes, 101);
}

/// A random run of all commands has the answers and leaves the state that the machine alone
/// has, through checkpoints and reopening.
fn does_what_the_machine_does(harness: &mut dyn Harness, seed: u64) {
    let mut zone = harness.fresh();
    let mut model = Model(dump(&*zone));
    let mut commands = Commands::new(seed);
    let mut taken = 0;
    for step in 0..1200 {
        let command = commands.next(&*zone);
        let expected = machine::apply(&model, &command);
        let answer = zone.propose(&command);
        match (&expected, &answer) {
            (Ok(applied), Ok(outcome)) => assert_eq!(&applied.outcome, outcome, "seed {seed} step {step}: {command:?}"),
            (Err(expected), Err(error)) => assert_eq!(expected, error, "seed {seed} step {step}: {command:?}"),
            _ => panic!("seed {seed} step {step}: {command:?}: {answer:?} and not {expected:?}"),
        }
        if let Ok(applied) = expected {
            taken += 1;
            commands.applied(&command, &applied.outcome);
            model.apply(applied.writes);
        }
        match commands.below(60) {
            0 => zone.sync().unwrap(),
            1 => zone.checkpoint().unwrap(),
            2 => zone = harness.reopen(zone),
            _ => {}
        }
        if step % 10 == 0 {
            assert!(dump(&*zone) == model.0, "seed {seed} step {step}: the states differ");
            ranges_agree(&*zone, &model, &mut commands);
        }
    }
    assert_eq!(zone.usage(), model.usage());
    assert!(taken > 400, "seed {seed}: only {taken} commands were taken, so little was tried");
}

/// Scans of parts, both ways, broken off, as the model has them.
fn ranges_agree(zone: &dyn Zone, model: &Model, commands: &mut Commands) {
    let tables = [Table::Dentry, Table::Extent, Table::Inode];
    let table = tables[commands.below(3) as usize];
    let all: Vec<&Key> = model.0.keys().filter(|(t, _)| *t == table).map(|(_, key)| key).collect();
    if all.is_empty() {
        return;
    }
    let pick = |n: u64| all[n as usize % all.len()].clone();
    let (mut start, mut end) = (pick(commands.below(1 << 20)), pick(commands.below(1 << 20)));
    if commands.below(2) == 0 {
        start.push(0);
    }
    if commands.below(2) == 0 {
        end.pop();
    }
    let limit = 1 + commands.below(20) as usize;
    for back in [false, true] {
        let mut seen = Vec::new();
        zone.read(&mut |state| {
            seen = part(state, table, (&start, &end), back, limit);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, part(model, table, (&start, &end), back, limit), "{table:?} {start:?} to {end:?}");
    }
}

fn part(state: &dyn MetaRead, table: Table, range: (&[u8], &[u8]), back: bool, limit: usize) -> Vec<(Key, Bytes)> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push((Key::from_slice(key), Bytes::copy_from_slice(value)));
        if seen.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if back {
        state.scan_back(table, range.0, range.1, &mut visit).unwrap();
    } else {
        state.scan(table, range.0, range.1, &mut visit).unwrap();
    }
    seen
}

fn entries(state: &dyn MetaRead, dir: Ino) -> Vec<Dentry> {
    let (start, end) = keys::prefix(dir.0);
    let mut found = Vec::new();
    let scanned = state.scan(Table::Dentry, &start, &end, &mut |_, value| {
        found.push(model::decode("dentry", value).unwrap());
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    found
}

type Map = BTreeMap<(Table, Key), Bytes>;

/// A zone's whole state, without a node's own notes.
fn dump(zone: &dyn Zone) -> Map {
    let mut map = Map::new();
    zone.read(&mut |state| {
        map.clear();
        for table in Table::ALL {
            state.scan(table, &[], &[0xff; 300], &mut |key, value| {
                if table != Table::Sys || key != APPLIED_KEY.as_bytes() {
                    map.insert((table, Key::from_slice(key)), Bytes::copy_from_slice(value));
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    })
    .unwrap();
    map
}

/// What the machine is run on beside the zone.
struct Model(Map);

impl Model {
    fn apply(&mut self, writes: Vec<(Table, Key, Option<Bytes>)>) {
        for (table, key, value) in writes {
            match value {
                Some(value) => self.0.insert((table, key), value),
                None => self.0.remove(&(table, key)),
            };
        }
    }

    fn range(&self, table: Table, start: &[u8], end: &[u8]) -> impl DoubleEndedIterator<Item = (&Key, &Bytes)> {
        let bounds = (Bound::Included((table, Key::from_slice(start))), Bound::Excluded((table, Key::from_slice(end))));
        let range = (start < end).then_some(bounds);
        range.into_iter().flat_map(|bounds| self.0.range(bounds)).map(|((_, key), value)| (key, value))
    }
}

impl MetaRead for Model {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(table, Key::from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let _ = self.range(table, start, end).try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let _ = self.range(table, start, end).rev().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}
