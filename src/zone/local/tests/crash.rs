//! I1, I2 and I3: kills, torn tails and power cuts of a zone over a redb metastore.

use std::collections::HashMap;
use std::path::PathBuf;

use nexus_kernel::disk::Disk;
use nexus_kernel::{Error, Lsn};
use parking_lot::Mutex;

use super::*;
use crate::testing::wipe;

/// States by digest, with the numbers of commands after which they were.
#[derive(Default)]
struct History {
    states: HashMap<u128, Vec<u64>>,
    /// Commands that went through.
    count: u64,
    /// Of them, those before the last sync that returned.
    synced: u64,
}

impl History {
    fn note(&mut self, zone: &LocalZone) {
        self.states.entry(zone.digest().unwrap()).or_default().push(self.count);
    }

    /// The latest moment at which the state was this.
    fn find(&self, digest: u128) -> Option<u64> {
        self.states.get(&digest).and_then(|counts| counts.last()).copied()
    }
}

#[test]
fn power_cuts_leave_a_prefix_whose_content_is_there() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let config = ZoneConfig { memtable_bytes: 12_000, ..zone_config() };
        let disk = SimDisk::new();
        let (zone, content) = on_disk(&disk, config.clone()).unwrap();
        let history = Arc::new(Mutex::new(History::default()));
        history.lock().note(&zone);
        let cuts = Arc::new(AtomicU64::new(0));
        let (seen, counted, cut_config) = (history.clone(), cuts.clone(), config.clone());
        disk.on_sync(move |disk, point| {
            for cut in 0..2 {
                let left = disk.power_cut(seed * 1_000_000 + point.number * 10 + cut);
                let what = format!("seed {seed}, sync {} of {}, cut {cut}", point.number, point.path.display());
                let (zone, content) = on_disk(&left, cut_config.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
                let history = seen.lock();
                let at = history.find(zone.digest().unwrap()).unwrap_or_else(|| panic!("{what}: no prefix"));
                assert!(at >= history.synced, "{what}: {at} of {}, {} synced", history.count, history.synced);
                let mut pieces = Vec::new();
                zone.inner
                    .log
                    .replay(ZONE, Lsn(0), &mut |_, command| {
                        pieces.extend(command.pieces().copied());
                        Ok(())
                    })
                    .ok();
                for piece in pieces {
                    assert!(content.verify(&piece).unwrap(), "{what}: content is missing");
                }
                assert_content_is_there(&zone, left.open(&PathBuf::from("/content")).unwrap().len().unwrap());
                zone.propose(&create(1 << 40, "after the cut")).unwrap();
                zone.sync().unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut commands = Commands::new(seed);
        for _ in 0..500 {
            commands.look(&zone);
            let command = commands.next(&content);
            propose_noting(&zone, &command, &history);
            if commands.below(12) == 0 {
                let count = history.lock().count;
                zone.sync().unwrap();
                history.lock().synced = count;
            }
        }
        disk.clear_hook();
        println!("{} cuts", cuts.load(Ordering::Relaxed));
        assert!(cuts.load(Ordering::Relaxed) > 80);
    }
}

/// Proposes. The state that this makes is noted first: the proposal may drain, and so sync,
/// what it has just made.
fn propose_noting(zone: &LocalZone, command: &Command, history: &Mutex<History>) {
    let mut digest = None;
    zone.read(&mut |state| {
        if let Ok(applied) = nexus_kernel::machine::apply(state, command) {
            digest = Some(digest_after(state, applied.writes));
        }
        Ok(())
    })
    .unwrap();
    if let Some(digest) = digest {
        let mut history = history.lock();
        history.count += 1;
        let count = history.count;
        history.states.entry(digest).or_default().push(count);
    }
    assert_eq!(zone.propose(command).is_ok(), digest.is_some());
}

fn digest_after(
    state: &dyn MetaRead,
    writes: Vec<(Table, nexus_kernel::metastore::Key, Option<bytes::Bytes>)>,
) -> u128 {
    use nexus_kernel::metastore::{Durability, WriteBatch};
    let copy = nexus_drivers::metastore::MemoryMetastore::new();
    let mut batch = WriteBatch::default();
    for table in Table::ALL {
        state
            .scan(table, &[], &[0xff; 300], &mut |key, value| {
                batch.writes.push((table, key.into(), Some(bytes::Bytes::copy_from_slice(value))));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    batch.writes.extend(writes);
    copy.commit(&batch, Durability::Buffered).unwrap();
    crate::digest(&*copy.snapshot().unwrap()).unwrap()
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let disk = SimDisk::new();
    let (zone, content) = on_disk(&disk, ZoneConfig { memtable_bytes: 20_000, ..zone_config() }).unwrap();
    let mut commands = Commands::new(5);
    for step in 0..300 {
        commands.look(&zone);
        let _ = zone.propose(&commands.next(&content));
        if step % 7 == 0 {
            let (found, _) = on_disk(&disk.fork(), zone_config()).unwrap();
            assert_eq!(found.digest().unwrap(), zone.digest().unwrap(), "step {step}");
            assert_eq!(found.usage().unwrap(), zone.usage().unwrap());
        }
    }
}

#[test]
fn a_torn_tail_leaves_the_state_before_it() {
    let disk = SimDisk::new();
    let (zone, content) = on_disk(&disk, zone_config()).unwrap();
    zone.propose(&create(2, "file")).unwrap();
    let before = zone.digest().unwrap();
    let used_before = crate::testing::bytes_of(&disk);
    zone.propose(&write(2, 0, content.write(b"some bytes"))).unwrap();
    let used_after = crate::testing::bytes_of(&disk);
    let (path, range) = used_before
        .iter()
        .zip(&used_after)
        .find_map(|((path, old), (_, new))| {
            let first = (0..old.len()).find(|i| old[*i] != new[*i])?;
            let last = (0..old.len()).rfind(|i| old[*i] != new[*i])?;
            path.starts_with("/log").then(|| (path.clone(), first..last + 1))
        })
        .unwrap();
    for cut in range.clone() {
        let torn = disk.fork();
        wipe(&torn, &path, cut as u64, (range.end - cut) as u64);
        let (found, _) = on_disk(&torn, zone_config()).unwrap();
        assert_eq!(found.digest().unwrap(), before, "cut at {cut}");
        found.propose(&create(3, "another")).unwrap();
        let digest = found.digest().unwrap();
        assert_eq!(on_disk(&torn.fork(), zone_config()).unwrap().0.digest().unwrap(), digest);
    }
}

#[test]
fn a_metastore_that_is_ahead_of_the_log_is_refused() {
    let disk = SimDisk::new();
    let (zone, _) = on_disk(&disk, zone_config()).unwrap();
    for ino in 2..30 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    zone.checkpoint().unwrap();
    drop(zone);
    let empty = SimDisk::new();
    let content = FileContent::open(&empty);
    let log = open_log(&empty, content).unwrap();
    match LocalZone::open(parts(log, redb(&disk)), zone_config()).map(drop) {
        Err(Error::Corrupt(text)) => assert!(text.contains("missing"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(empty.files().iter().all(|(path, _)| !path.starts_with("/log")), "a refused log was changed");
}

#[test]
fn a_metastore_of_another_zone_is_refused() {
    let (disk, other) = (SimDisk::new(), SimDisk::new());
    for disk in [&disk, &other] {
        let (zone, _) = on_disk(disk, zone_config()).unwrap();
        if std::ptr::eq(disk, &other) {
            zone.propose(&create(2, "one")).unwrap();
            zone.propose(&Command::Unlink {
                parent: Ino::ROOT,
                name: name("one"),
                keep: false,
                now: Timestamp::default(),
            })
            .unwrap();
        } else {
            zone.propose(&create(2, "two")).unwrap();
            zone.checkpoint().unwrap();
        }
    }
    let log = open_log(&other.fork(), FileContent::open(&other)).unwrap();
    match LocalZone::open(parts(log, redb(&disk.fork())), zone_config()).map(drop) {
        Err(Error::Corrupt(text)) => assert!(text.contains("does not fit"), "{text}"),
        other => panic!("{other:?}"),
    }
}
