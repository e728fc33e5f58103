//! What is put off is seen by this node's readers as if it were there, is proposed in order, and is
//! never lost in silence.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::command::{AttrChange, COMMAND_VERSION, NewKind, RangeOp, SmallBytes};
use nexus_kernel::content::NoContent;
use nexus_kernel::direct_zone::DirectZone;
use nexus_kernel::machine::extents;
use nexus_kernel::model::{Extent, Piece, keys};
use nexus_kernel::{BlobId, StoreId, Table, Timestamp, Zone};

use super::*;
use crate::testing::{Random, Ticks};

/// Long enough for nothing to become due by itself.
const NEVER: Duration = Duration::from_secs(3600);
const HANDLE: u64 = 7;

fn zone() -> DirectZone {
    let format = Command::Format { id: [5; 16], hash_seed: 9, mode: 0o755, uid: 0, gid: 0, now: Timestamp::default() };
    let metastore = Arc::new(MemoryMetastore::new());
    let clock = Arc::new(Ticks::default());
    DirectZone::open_or_format_as(metastore, Arc::new(NoContent), clock, &format).unwrap()
}

fn apply(zone: &DirectZone, layer: &Layer, ino: Ino) {
    // Whether in one command or in several, it comes to the same.
    let version = if layer.bytes().is_multiple_of(2) { COMMAND_VERSION } else { 6 };
    for command in layer.commands(ino, version) {
        zone.propose(&command).unwrap();
    }
}

fn file(zone: &dyn Zone, name: &str) -> Ino {
    let (parent, name, ino) = (Ino::ROOT, SmallBytes::from_slice(name.as_bytes()), zone.allocate_ino().unwrap());
    let (kind, now) = (NewKind::Regular, Timestamp::default());
    zone.propose(&Command::Create { parent, name, ino, kind, mode: 0o644, umask: 0, uid: 0, gid: 0, now }).unwrap();
    ino
}

/// `len` bytes at `offset`, whose content begins at `place` of a blob.
fn write(ino: Ino, offset: u64, len: u64, place: u64, tick: u32) -> FileWrite {
    let piece = Piece { len, blob: BlobId(9), blob_offset: place, crc: 1 };
    let now = Timestamp { sec: 100, nsec: tick };
    let (store, pin) = (StoreId(0), Box::new(()));
    FileWrite {
        ino,
        handle: HANDLE,
        offset,
        pieces: [piece].into_iter().collect(),
        store,
        kill_privileges: false,
        now,
        pin,
    }
}

/// Proposes to a zone; as told, lets nothing through, or fails.
struct Lab {
    zone: DirectZone,
    fails: Mutex<Option<Error>>,
    shut: Mutex<bool>,
    opened: Condvar,
    waits: AtomicBool,
    version: AtomicUsize,
    seen: Mutex<Vec<Command>>,
    lost: Mutex<Vec<Ino>>,
}

impl Lab {
    fn new() -> Arc<Lab> {
        Arc::new(Lab {
            zone: zone(),
            fails: Mutex::new(None),
            shut: Mutex::new(false),
            opened: Condvar::new(),
            waits: AtomicBool::new(false),
            version: AtomicUsize::new(COMMAND_VERSION.into()),
            seen: Mutex::default(),
            lost: Mutex::default(),
        })
    }

    fn shut(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.opened.notify_all();
    }

    /// Until a proposal stands before what is shut.
    fn await_waiting(&self) {
        while !self.waits.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    fn size(&self, ino: Ino) -> u64 {
        self.zone.inode(ino).unwrap().unwrap().size
    }
}

impl Sink for Lab {
    fn propose_all(&self, commands: &[Command]) -> Vec<Result<Outcome>> {
        let mut shut = self.shut.lock();
        while *shut {
            self.waits.store(true, Ordering::SeqCst);
            self.opened.wait(&mut shut);
        }
        self.waits.store(false, Ordering::SeqCst);
        drop(shut);
        self.seen.lock().extend_from_slice(commands);
        match &*self.fails.lock() {
            Some(error) => commands.iter().map(|_| Err(error.clone())).collect(),
            None => commands.iter().map(|command| self.zone.propose(command)).collect(),
        }
    }

    fn propose_in_order(&self, first: &Command, then: &Command) -> [Result<Outcome>; 2] {
        // Only the first fails, if it is to.
        let first = self.propose_all(std::slice::from_ref(first)).remove(0);
        self.seen.lock().push(then.clone());
        [first, self.zone.propose(then)]
    }

    fn version(&self) -> u8 {
        self.version.load(Ordering::SeqCst) as u8
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.zone.inode(ino)
    }

    fn lost(&self, ino: Ino) {
        self.lost.lock().push(ino);
    }
}

fn begin(delay: Duration) -> (Arc<Lab>, Behind, Ino) {
    let lab = Lab::new();
    let ino = file(&lab.zone, "file");
    let behind = Behind::start(lab.clone(), delay).unwrap();
    (lab, behind, ino)
}

fn size(lab: &Lab, behind: &Behind, ino: Ino) -> u64 {
    behind.inode(ino, || lab.zone.inode(ino)).unwrap().unwrap().size
}

/// Each byte's place in its blob; 0 in holes. Holds extents to what readers rely on.
fn places(found: &[(u64, Extent)], len: u64) -> Vec<u64> {
    let mut places = vec![0; len as usize];
    let mut end = 0;
    for (at, extent) in found {
        assert!(*at >= end && extent.len > 0, "{found:?}");
        end = at + extent.len;
        for skip in 0..extent.len {
            places[(at + skip) as usize] = if extent.blob.is_some() { extent.blob_offset + skip } else { u64::MAX };
        }
    }
    places
}

fn scanned(state: &dyn MetaRead, ino: Ino, from: u64, to: u64, back: bool, limit: usize) -> Vec<(u64, Extent)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        let (_, at) = keys::parse_pair(key).unwrap();
        found.push((at, nexus_kernel::model::decode("extent", value).unwrap()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let (start, end) = (keys::extent(ino, from), keys::extent(ino, to));
    match back {
        true => state.scan_back(Table::Extent, &start, &end, &mut visit).unwrap(),
        false => state.scan(Table::Extent, &start, &end, &mut visit).unwrap(),
    }
    found
}

/// Layers over a state read as the state does that has them.
#[test]
fn what_is_put_off_reads_as_if_it_were_there() {
    const LEN: u64 = 120;
    for seed in 0..300 {
        let mut random = Random(seed);
        let (below, with) = (zone(), zone());
        let (ino, other) = (file(&below, "file"), file(&with, "file"));
        assert_eq!(ino, other);
        let mut tick = 0;
        let mut next = |random: &mut Random| {
            tick += 1;
            let offset = random.below(LEN - 20);
            // Often where the last one ended, also in the blob.
            write(ino, offset, 1 + random.below(20), 1_000 * u64::from(tick), tick)
        };
        for _ in 0..random.below(8) {
            let mut layer = Layer::default();
            layer.add(&next(&mut random));
            for zone in [&below, &with] {
                apply(zone, &layer, ino);
            }
        }
        if random.below(3) == 0 {
            let (offset, len) = (random.below(LEN - 20), 1 + random.below(20));
            let (op, kill_privileges, now) = (RangeOp::Allocate, false, Timestamp::default());
            for zone in [&below, &with] {
                zone.propose(&Command::Range { ino, op, offset, len, kill_privileges, now }).unwrap();
            }
        }
        let layers: Layers = (0..2)
            .map(|_| {
                let mut layer = Layer::default();
                for _ in 0..1 + random.below(6) {
                    let one = next(&mut random);
                    layer.add(&one);
                    if random.below(2) == 0 {
                        let (at, place) =
                            (one.offset + one.pieces[0].len, one.pieces[0].blob_offset + one.pieces[0].len);
                        layer.add(&FileWrite { now: one.now, ..write(ino, at, 3, place, 0) });
                    }
                }
                apply(&with, &layer, ino);
                Arc::new(layer)
            })
            .collect();
        let (mut one, mut two) = (None, None);
        with.read(&mut |state| {
            two = Some(extents(state, ino, 0, LEN + 9, usize::MAX)?);
            Ok(())
        })
        .unwrap();
        let expected = places(&two.unwrap(), 2 * LEN);
        below
            .read(&mut |state| {
                let state = Written { state, layers: &|_| layers.clone() };
                one = Some((extents(&state, ino, 0, LEN + 9, usize::MAX)?, state.inode(ino)?));
                let all = scanned(&state, ino, 0, 2 * LEN, false, usize::MAX);
                assert_eq!(places(&all, 2 * LEN), expected, "seed {seed}");
                for _ in 0..20 {
                    let (from, len) = (random.below(LEN), random.below(LEN));
                    let limit = 1 + random.below(4) as usize;
                    let mut within = all.clone();
                    within.retain(|(at, _)| (from..from + len).contains(at));
                    let first: Vec<_> = within.iter().copied().take(limit).collect();
                    assert_eq!(scanned(&state, ino, from, from + len, false, limit), first, "seed {seed}");
                    let last: Vec<_> = within.iter().rev().copied().take(limit).collect();
                    assert_eq!(scanned(&state, ino, from, from + len, true, limit), last, "seed {seed}");
                }
                Ok(())
            })
            .unwrap();
        let (found, inode) = one.unwrap();
        assert_eq!(places(&found, 2 * LEN), expected, "seed {seed}");
        let (inode, applied) = (inode.unwrap(), with.inode(ino).unwrap().unwrap());
        assert_eq!((inode.size, inode.mtime, inode.ctime), (applied.size, applied.mtime, applied.ctime), "seed {seed}");
    }
}

#[test]
fn writes_in_order_become_one_piece_with_its_checksum() {
    let bytes: Vec<u8> = (0..60_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut layer = Layer::default();
    for (number, part) in bytes.chunks(4096).enumerate() {
        let at = 4096 * number as u64;
        let mut one = write(Ino(5), at, part.len() as u64, 100 + at, 1);
        one.pieces[0].crc = crc32c::crc32c(part);
        layer.add(&one);
    }
    let commands = layer.commands(Ino(5), COMMAND_VERSION);
    let [Command::Write { pieces, offset: 0, .. }] = commands.as_slice() else { panic!("{commands:?}") };
    let piece = Piece { len: 60_000, blob: BlobId(9), blob_offset: 100, crc: crc32c::crc32c(&bytes) };
    assert_eq!((pieces.as_slice(), layer.len(), layer.bytes()), ([piece].as_slice(), 1, 60_000));
    let again: Vec<_> = layer.runs(0, u64::MAX).collect();
    assert_eq!(again, [(0, Extent { len: 60_000, blob: BlobId(9), blob_offset: 100 })]);
}

#[test]
fn writes_are_proposed_together_when_their_time_has_come() {
    let (lab, behind, ino) = begin(Duration::from_millis(20));
    for n in 0..10 {
        behind.write(write(ino, 5 * n, 3, 1000 * n, n as u32)).unwrap();
        assert_eq!(size(&lab, &behind, ino), 5 * n + 3);
    }
    let began = Instant::now();
    while lab.size(ino) < 48 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is proposed");
        std::thread::sleep(Duration::from_millis(1));
    }
    behind.settle(ino).unwrap();
    assert!(lab.seen.lock().len() <= 2, "{:?}", lab.seen.lock());
    assert!(behind.shared.is_clean() && behind.shared.state.lock().due.is_empty());
    assert_eq!(behind.shared.state.lock().writes, 0);
}

#[test]
fn a_flush_waits_for_what_is_on_its_way_and_what_came_meanwhile() {
    let (lab, behind, ino) = begin(NEVER);
    behind.write(write(ino, 0, 10, 100, 1)).unwrap();
    lab.shut(true);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| behind.flush(ino, HANDLE));
        lab.await_waiting();
        behind.write(write(ino, 10, 10, 200, 2)).unwrap();
        assert_eq!((size(&lab, &behind, ino), lab.size(ino)), (20, 0), "both layers are seen");
        let second = scope.spawn(|| behind.flush(ino, HANDLE));
        lab.shut(false);
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
        assert_eq!(lab.size(ino), 20);
    });
    let offsets: Vec<_> = lab.seen.lock().iter().map(|command| command.pieces().next().unwrap().blob_offset).collect();
    assert_eq!(offsets, [100, 200], "in their order");
    assert!(behind.shared.is_clean());
}

#[test]
fn what_follows_writes_goes_with_them_where_it_can() {
    let (lab, behind, ino) = begin(NEVER);
    let then = Timestamp { sec: 5, nsec: 5 };
    let change = AttrChange { mtime: Some(then), ..AttrChange::default() };
    let touch = Command::SetAttr { ino, change, now: Timestamp { sec: 200, nsec: 0 } };
    assert!(behind.settle_with(ino, &touch).is_none(), "there is nothing to go with");
    behind.write(write(ino, 0, 10, 100, 1)).unwrap();
    let inode = behind.settle_with(ino, &touch).unwrap().unwrap().inode.unwrap().1;
    assert_eq!((inode.size, inode.mtime), (10, then), "in their order");
    assert!(behind.shared.is_clean() && lab.seen.lock().len() == 2);
    // Where it takes several commands, they go first.
    lab.version.store(6, Ordering::SeqCst);
    behind.write(write(ino, 20, 10, 300, 2)).unwrap();
    behind.write(write(ino, 40, 10, 500, 3)).unwrap();
    assert!(behind.settle_with(ino, &touch).is_none());
    assert!(behind.shared.is_clean() && lab.seen.lock().len() == 4 && lab.size(ino) == 50);
    // Each has its own fate.
    *lab.fails.lock() = Some(Error::Io("no majority".into()));
    behind.write(write(ino, 60, 10, 700, 4)).unwrap();
    let inode = behind.settle_with(ino, &touch).unwrap().unwrap().inode.unwrap().1;
    assert_eq!((inode.size, inode.mtime), (50, then), "what follows is made all the same");
    *lab.fails.lock() = None;
    assert!(behind.sync(ino, HANDLE).is_err() && lab.size(ino) == 50, "writers are told");
}

#[test]
fn what_is_lost_is_told_to_each_open_file_and_takes_along_what_is_behind_it() {
    let (lab, behind, ino) = begin(NEVER);
    let other = file(&lab.zone, "other");
    let through = |handle, offset| FileWrite { handle, ..write(ino, offset, 4, 1000 + offset, 1) };
    let error = Error::Io("no majority".into());
    *lab.fails.lock() = Some(error.clone());
    lab.shut(true);
    behind.write(through(1, 0)).unwrap();
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| behind.flush(ino, 9));
        lab.await_waiting();
        behind.write(through(2, 4)).unwrap();
        behind.write(write(other, 0, 1, 5000, 1)).unwrap();
        lab.shut(false);
        assert_eq!(flushing.join().unwrap(), Ok(()), "who had no part in it closes in peace");
    });
    assert_eq!((size(&lab, &behind, ino), size(&lab, &behind, other)), (0, 1), "what is lost is seen no more");
    assert_eq!(*lab.lost.lock(), [ino], "who keeps what was told of the file hears of it");
    assert_eq!(lab.seen.lock().len(), 1, "what came behind is not proposed");
    *lab.fails.lock() = None;
    assert_eq!(behind.write(through(2, 8)).map(drop), Err(error.clone()), "a write tells it");
    behind.write(through(2, 8)).unwrap();
    assert_eq!(behind.flush(ino, 2), Ok(()), "once");
    for _ in 0..2 {
        assert_eq!(behind.flush(ino, 1), Err(error.clone()), "and so does each close");
    }
    assert_eq!(behind.sync(ino, 1), Err(error), "until it is asked for");
    assert_eq!((behind.sync(ino, 1), behind.flush(ino, 1)), (Ok(()), Ok(())));
    assert_eq!(lab.size(ino), 12);
    behind.flush_all().unwrap();
    assert_eq!(lab.size(other), 1);
    // Who syncs is told, whoever has written.
    *lab.fails.lock() = Some(Error::Stale);
    behind.write(through(3, 0)).unwrap();
    assert_eq!(behind.settle(ino), Err(Error::Stale));
    behind.released(ino, 3);
    assert!(behind.shared.state.lock().lost.is_empty());
}

/// Members of before this command are told of each write, in order, and of none behind one that failed.
#[test]
fn older_members_are_told_of_each_write() {
    let (lab, behind, ino) = begin(NEVER);
    lab.version.store(6, Ordering::SeqCst);
    for n in 0..3 {
        behind.write(write(ino, 10 * n, 5, 1000 * n, n as u32)).unwrap();
    }
    behind.flush(ino, HANDLE).unwrap();
    assert_eq!((lab.seen.lock().len(), lab.size(ino)), (3, 25));
    *lab.fails.lock() = Some(Error::Stale);
    for n in 3..6 {
        behind.write(write(ino, 10 * n, 5, 1000 * n, n as u32)).unwrap();
    }
    assert_eq!(behind.sync(ino, HANDLE), Err(Error::Stale));
    assert_eq!((lab.seen.lock().len(), lab.size(ino)), (4, 25));
}

#[test]
fn much_is_proposed_at_once_and_too_much_makes_writers_wait() {
    let (lab, behind, ino) = begin(NEVER);
    lab.shut(true);
    behind.write(write(ino, 0, ENOUGH_BYTES, 0, 1)).unwrap();
    lab.await_waiting();
    let mut at = ENOUGH_BYTES;
    while at < ENOUGH_BYTES + MOST_BYTES {
        behind.write(write(ino, at, 1 << 20, 2 * at, 2)).unwrap();
        at += 1 << 20;
    }
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| behind.write(write(ino, at, 1, 0, 3)).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        lab.shut(false);
        waits.join().unwrap().unwrap();
    });
    behind.flush(ino, HANDLE).unwrap();
    assert_eq!(lab.size(ino), at + 1);
}

/// What ends after a reader's state was taken is in its sight until it has read, and no longer.
#[test]
fn a_reader_sees_what_ends_after_its_state_was_taken() {
    let (lab, behind, ino) = begin(NEVER);
    behind.write(write(ino, 0, 10, 1000, 1)).unwrap();
    let covered = |state: &dyn MetaRead| {
        let found = extents(state, ino, 0, 100, usize::MAX).unwrap();
        (state.inode(ino).unwrap().unwrap().size, places(&found, 100).iter().filter(|place| **place != 0).count())
    };
    let states = AtomicUsize::new(0);
    let late = |read: &mut Reader<'_>| {
        lab.zone.read(&mut |state| {
            if states.fetch_add(1, Ordering::SeqCst) == 0 {
                behind.settle(ino)?;
            }
            read(state)
        })
    };
    let mut seen = None;
    behind
        .read(late, &mut |state| {
            seen = Some(covered(state));
            Ok(())
        })
        .unwrap();
    assert_eq!((seen, states.load(Ordering::SeqCst)), (Some((10, 10)), 2), "before it looks, another state is taken");

    behind.write(write(ino, 10, 10, 2000, 2)).unwrap();
    let mut seen = Vec::new();
    behind
        .read(|read| lab.zone.read(read), &mut |state| {
            for n in 2..5 {
                behind.settle(ino)?;
                seen.push(covered(state));
                behind.write(write(ino, 10 * n, 10, 2000 * n, 2))?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(20, 20), (30, 30), (40, 40)], "and when it has begun, it keeps what there was");
    behind.settle(ino).unwrap();
    assert!(behind.shared.state.lock().views.is_empty(), "nothing is kept for those who are gone");
}

/// Threads that write, sync and cut files, and readers: nobody sees a file shorter than what was
/// acknowledged.
#[test]
fn readers_never_see_less_than_was_acknowledged() {
    let (lab, behind, _) = begin(Duration::from_millis(1));
    let behind = &behind;
    let inos: Vec<Ino> = (0..4).map(|n| file(&lab.zone, &format!("{n}"))).collect();
    let done = AtomicBool::new(false);
    let acknowledged: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (lab, done, inos, acknowledged) = (&lab, &done, &inos, &acknowledged);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    for (ino, acknowledged) in inos.iter().zip(acknowledged).skip(reader) {
                        let known = acknowledged.load(Ordering::SeqCst) as u64;
                        assert!(size(lab, behind, *ino) >= known);
                        let mut covered = 0;
                        let mut read = |state: &dyn MetaRead| {
                            covered = extents(state, *ino, 0, known, usize::MAX)?.iter().map(|(_, one)| one.len).sum();
                            Ok(())
                        };
                        behind.read(|read| lab.zone.read(read), &mut read).unwrap();
                        assert!(covered >= known, "{covered} of {known}");
                    }
                }
            });
        }
        let writers: Vec<_> = inos
            .iter()
            .zip(&acknowledged)
            .map(|(ino, acknowledged)| {
                scope.spawn(move || {
                    for n in 0..400u64 {
                        behind.write(write(*ino, 8 * n, 8, 16 * n, n as u32)).unwrap();
                        acknowledged.store(8 * (n as usize + 1), Ordering::SeqCst);
                        if n % 37 == 0 {
                            behind.flush(*ino, HANDLE).unwrap();
                        }
                    }
                })
            })
            .collect();
        let joined: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        joined.into_iter().for_each(|joined| joined.unwrap());
    });
    behind.flush_all().unwrap();
    assert!(inos.iter().all(|ino| lab.size(*ino) == 3200));
}
