//! Tests of the log on a simulated disk: kills, power cuts, damage, full disks.

mod torn;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_drivers::disk::{RealDisk, SimDisk};
use nexus_kernel::content::{ContentSync, NoContent};
use nexus_kernel::disk::Disk;
use nexus_kernel::model::Piece;
use nexus_kernel::{Command, Error, Ino, Lsn, Result, StoreId, Timestamp, ZoneIndex};

use super::format::{HEADER_BYTES, NO_ZONE, RecordHeader, SegmentHeader};
use super::{Claim, LogConfig, NodeLog, Preallocate};
use crate::testing::{FileContent, GatedContent, Random, bytes_of, wipe};

const ZONE: ZoneIndex = ZoneIndex(3);
const SEGMENT: u64 = HEADER_BYTES + 1024;

fn dir() -> &'static Path {
    Path::new("/data/log")
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT,
        max_spares: 3,
        image_bytes: 2000,
        unsettled_bytes: 5000,
        preallocate: Preallocate::Inline,
    }
}

fn open(disk: &SimDisk) -> Result<Arc<NodeLog>> {
    NodeLog::open(Arc::new(disk.clone()), dir(), Arc::new(NoContent), config())
}

fn command(number: u64) -> Command {
    Command::SetSys { key: format!("key {number}"), value: Some(vec![number as u8 | 1; 5]) }
}

fn append(log: &NodeLog, number: u64) -> Result<Lsn> {
    log.append(ZONE, Claim::Normal, &command(number).encode().unwrap())
}

fn append_all(log: &NodeLog, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        append(log, number).unwrap();
    }
}

fn replay(log: &NodeLog, zone: ZoneIndex, after: u64) -> Result<Vec<(u64, Command)>> {
    let mut found = Vec::new();
    log.replay(zone, Lsn(after), &mut |lsn, command| {
        found.push((lsn.0, command));
        Ok(())
    })?;
    Ok(found)
}

fn expected(lsns: impl IntoIterator<Item = u64>) -> Vec<(u64, Command)> {
    lsns.into_iter().map(|lsn| (lsn, command(lsn))).collect()
}

/// Path, offset and bytes of every record, in order.
fn records(disk: &SimDisk) -> Vec<(PathBuf, u64, RecordHeader)> {
    let mut found = Vec::new();
    for (path, len) in disk.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")) {
        let mut bytes = vec![0; len as usize];
        disk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        let super::format::ParsedHeader::Good(header) = SegmentHeader::parse(&bytes) else { continue };
        let mut records = super::segment::Records::new(&bytes, &header, Lsn(u64::MAX));
        loop {
            let offset = records.offset();
            let Some((record, _)) = records.next() else { break };
            found.push((path.clone(), offset, record));
        }
    }
    found
}

fn assert_refused(disk: &SimDisk, what: &str) {
    let before = bytes_of(disk);
    match open(disk) {
        Err(Error::Corrupt(text)) => assert!(text.contains("/data/log") && text.contains("backup"), "{what}: {text}"),
        Err(other) => panic!("{what}: {other:?}"),
        Ok(log) => panic!("{what}: opened, with {} records", log.last()),
    }
    assert!(bytes_of(disk) == before, "{what}: a refused log was changed");
}

#[test]
fn what_was_appended_survives_a_kill() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    assert!(disk.files().is_empty(), "opening makes no file");
    let other = ZoneIndex(9);
    for number in 1..=100 {
        let zone = if number % 3 == 0 { other } else { ZONE };
        assert_eq!(log.append(zone, Claim::Normal, &command(number).encode().unwrap()).unwrap(), Lsn(number));
    }
    assert!(log.stats().segments > 3, "the run is too short to fill segments");
    let log = open(&disk.fork()).unwrap();
    assert_eq!(log.last(), Lsn(100));
    assert_eq!(replay(&log, other, 0).unwrap(), expected((1..=33).map(|i| i * 3)));
    assert_eq!(replay(&log, ZONE, 50).unwrap(), expected((51..=100).filter(|i| i % 3 != 0)));
    append(&log, 101).unwrap();
    assert_eq!(replay(&log, ZONE, 99).unwrap(), expected([100, 101]));
    assert!(replay(&log, ZONE, 101).unwrap().is_empty());
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=8);
    let (path, offset, last) = records(&disk).pop().unwrap();
    let meaning = 32 + u64::from(last.len);
    for cut in 0..meaning {
        let torn = disk.fork();
        wipe(&torn, &path, offset + cut, meaning - cut);
        let log = open(&torn).unwrap();
        assert_eq!(log.last(), Lsn(7), "cut at {cut}");
        // The log goes on behind the cut, and what was cut off never comes back.
        append(&log, 8).unwrap();
        append(&log, 9).unwrap();
        let log = open(&torn.fork()).unwrap();
        assert_eq!(replay(&log, ZONE, 0).unwrap(), expected(1..=9), "cut at {cut}");
    }
}

#[test]
fn a_tail_torn_before_its_end_takes_what_follows_with_it() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=40);
    for (path, offset, record) in records(&disk) {
        let torn = disk.fork();
        wipe(&torn, &path, offset, record.stored_bytes());
        let log = open(&torn).unwrap();
        assert_eq!(log.last().0, record.lsn.0 - 1);
        append_all(&log, record.lsn.0..record.lsn.0 + 60);
        let log = open(&torn.fork()).unwrap();
        assert_eq!(replay(&log, ZONE, 0).unwrap(), expected(1..record.lsn.0 + 60));
    }
}

#[test]
fn damage_below_the_watermark_is_corruption_and_above_it_a_torn_tail() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=30);
    log.sync().unwrap();
    append_all(&log, 31..=50);
    let all = records(&disk);
    assert_eq!(all.len(), 50);
    let mut random = Random(1);
    for (path, offset, record) in &all {
        let meaning = 32 + u64::from(record.len);
        for _ in 0..6 {
            let (byte, bit) = (random.below(meaning), random.below(8));
            let what = format!("record {}, byte {byte}, bit {bit}", record.lsn);
            let bad = disk.fork();
            bad.damage(path, offset + byte, 1 << bit).unwrap();
            if record.lsn.0 <= 30 {
                assert_refused(&bad, &what);
            } else {
                assert_eq!(open(&bad).unwrap().last().0, record.lsn.0 - 1, "{what}");
            }
        }
    }
}

#[test]
fn damaged_headers_are_told_from_torn_ones() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=30);
    log.sync().unwrap();
    append_all(&log, 31..=60);
    let mut firsts: Vec<(PathBuf, u64)> = records(&disk).into_iter().map(|(path, _, r)| (path, r.lsn.0)).collect();
    firsts.dedup_by(|later, earlier| later.0 == earlier.0);
    assert!(firsts.iter().any(|(_, first)| *first > 31), "no segment lies above the watermark");
    for (path, first) in firsts {
        for byte in [0, 9, 20, 30, 45, 50, 61] {
            let bad = disk.fork();
            bad.damage(&path, byte, 4).unwrap();
            if first <= 30 {
                assert_refused(&bad, &format!("header of {}, byte {byte}", path.display()));
            } else {
                assert_eq!(open(&bad).unwrap().last().0, first - 1);
            }
        }
    }
}

#[test]
fn the_first_header_of_an_opening_is_never_taken_for_a_torn_one() {
    let disk = SimDisk::new();
    append_all(&open(&disk).unwrap(), 1..=3);
    append_all(&open(&disk.clone()).unwrap(), 4..=6);
    let (path, _, _) = records(&disk).pop().unwrap();
    disk.damage(&path, 30, 1).unwrap();
    assert_refused(&disk, "header of the last segment");
}

#[test]
fn after_a_mark_or_a_clean_end_nothing_may_be_missing() {
    for clean in [false, true] {
        let disk = SimDisk::new();
        let log = open(&disk).unwrap();
        append_all(&log, 1..=10);
        log.mark().unwrap();
        assert_eq!(log.last(), Lsn(10), "nothing durable, nothing to mark");
        if clean {
            log.close().unwrap();
            assert!(matches!(append(&log, 11), Err(Error::Unavailable(_))));
        } else {
            log.sync().unwrap();
            log.mark().unwrap();
            log.mark().unwrap();
        }
        let all = records(&disk);
        assert_eq!((all.len(), all[10].2.zone), (11, NO_ZONE), "one mark");
        for (path, offset, record) in &all[..10] {
            let bad = disk.fork();
            bad.damage(path, offset + 9, 1).unwrap();
            assert_refused(&bad, &format!("record {}", record.lsn));
        }
        let log = open(&disk).unwrap();
        assert_eq!(replay(&log, ZONE, 0).unwrap(), expected(1..=10));
        append(&log, 12).unwrap();
        assert_eq!(replay(&open(&disk.fork()).unwrap(), ZONE, 10).unwrap(), [(12, command(12))]);
    }
}

#[test]
fn missing_and_cut_files_are_noticed() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=60);
    log.sync().unwrap();
    append(&log, 61).unwrap();
    let mut paths: Vec<PathBuf> = records(&disk).into_iter().map(|(path, ..)| path).collect();
    paths.dedup();
    for path in &paths[1..paths.len() - 1] {
        let bad = disk.fork();
        bad.remove(path).unwrap();
        assert_refused(&bad, "a missing file");
    }
    let bad = disk.fork();
    bad.remove(&paths[0]).unwrap();
    assert!(matches!(replay(&open(&bad).unwrap(), ZONE, 0), Err(Error::Corrupt(text)) if text.contains("missing")));
    let bad = disk.fork();
    bad.remove(paths.last().unwrap()).unwrap();
    assert!(matches!(replay(&open(&bad).unwrap(), ZONE, 60), Err(Error::Corrupt(text)) if text.contains("missing")));
    let bad = disk.fork();
    bad.open(&paths[1]).unwrap().set_len(SEGMENT - 100).unwrap();
    assert_refused(&bad, "a cut file");
    for name in ["0000000000000001.log", "stranger", "00000000000000ff.log"] {
        let strange = disk.fork();
        let _ = strange.create(&dir().join(name));
        assert_eq!(replay(&open(&strange).unwrap(), ZONE, 0).unwrap(), expected(1..=61), "{name}");
    }
}

#[test]
fn another_format_version_is_refused() {
    let disk = SimDisk::new();
    append_all(&open(&disk).unwrap(), 1..=3);
    let (path, ..) = records(&disk).pop().unwrap();
    let file = disk.open(&path).unwrap();
    let mut header = [0; 64];
    file.read_at(&mut header, 0).unwrap();
    header[11] = 9;
    let crc = crc32c::crc32c(&header[..60]).to_be_bytes();
    header[60..].copy_from_slice(&crc);
    file.write_at(&header, 0).unwrap();
    let before = bytes_of(&disk);
    assert!(matches!(open(&disk), Err(Error::UnknownVersion(text)) if text.contains("format 9")));
    assert!(bytes_of(&disk) == before);
}

#[test]
fn covered_segments_are_used_again_and_their_records_never_pass() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let mut next = 1;
    for round in 0..40 {
        append_all(&log, next..next + 17);
        next += 17;
        log.sync().unwrap();
        log.checkpointed(ZONE, Lsn(next - 5)).unwrap();
        let files = disk.files();
        assert!(files.len() <= 6, "round {round}: {files:?}");
        for cut in 0..4 {
            assert_eq!(disk.power_cut(cut).files(), files, "a segment could come back under its old name");
        }
        let log = open(&disk.fork()).unwrap();
        assert_eq!(replay(&log, ZONE, next - 5).unwrap(), expected(next - 4..next), "round {round}");
    }
    let first = records(&disk).first().unwrap().2.lsn.0;
    assert!(first > 300, "no segment was used again");
    assert!(matches!(replay(&log, ZONE, first - 2), Err(Error::Corrupt(text)) if text.contains("missing")));
}

#[test]
fn a_zone_that_was_never_opened_holds_the_log() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    log.append(ZoneIndex(1), Claim::Normal, &command(1).encode().unwrap()).unwrap();
    drop(log);
    let log = open(&disk.clone()).unwrap();
    append_all(&log, 2..=60);
    log.sync().unwrap();
    log.checkpointed(ZONE, Lsn(60)).unwrap();
    assert_eq!(replay(&log, ZoneIndex(1), 0).unwrap(), expected([1]));
    log.forget(ZoneIndex(1)).unwrap();
    log.checkpointed(ZONE, Lsn(60)).unwrap();
    assert!(replay(&log, ZoneIndex(1), 0).is_err());
}

#[test]
fn a_full_disk_refuses_what_takes_space_and_lets_through_what_frees_it() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append(&log, 1).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let mut lsn = 1;
    let refused = loop {
        match append(&log, lsn + 1) {
            Ok(appended) => lsn = appended.0,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Error::NoSpace);
    assert!(lsn > 20, "the ready segment was not used: {lsn}");
    log.sync().unwrap();
    for _ in 0..15 {
        assert_eq!(append(&log, lsn + 1), Err(Error::NoSpace));
        lsn += 1;
        let appended = log.append(ZONE, Claim::Reserved, &command(lsn).encode().unwrap());
        assert_eq!(appended, Ok(Lsn(lsn)), "a command that frees space");
    }
    assert_eq!(replay(&open(&disk.fork()).unwrap(), ZONE, 0).unwrap(), expected(1..=lsn));
    let mut more = 0;
    while log.append(ZONE, Claim::Reserved, &command(lsn + 1).encode().unwrap()).is_ok() {
        lsn += 1;
        more += 1;
        assert!(more < 100, "the reserve never ends");
    }
    // A checkpoint gives segments back, so it ends a shortage too.
    let full = open(&disk.fork()).unwrap();
    drop(full);
    log.sync().unwrap();
    log.checkpointed(ZONE, Lsn(lsn)).unwrap();
    lsn = append(&log, lsn + 1).unwrap().0;
    disk.set_capacity(None);
    append_all(&log, lsn + 1..lsn + 200);
    assert_eq!(log.last(), Lsn(lsn + 199));
}

#[test]
fn after_a_failed_sync_nothing_is_taken() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    append_all(&log, 1..=3);
    log.sync().unwrap();
    append(&log, 4).unwrap();
    disk.fail_after(0, Error::Io("the medium is gone".into()));
    assert_eq!(log.sync(), Err(Error::Io("the medium is gone".into())));
    disk.heal();
    for _ in 0..2 {
        assert!(matches!(append(&log, 5), Err(Error::Unavailable(text)) if text.contains("medium is gone")));
        assert!(matches!(log.sync(), Err(Error::Unavailable(_))));
    }
    assert!(log.close().is_err());
    assert_eq!(replay(&open(&disk).unwrap(), ZONE, 0).unwrap(), expected(1..=4));
}

#[test]
fn syncs_that_meet_share_one() {
    const CALLERS: u64 = 8;
    let disk = SimDisk::new();
    let content = Arc::new(GatedContent::default());
    let log = NodeLog::open(Arc::new(disk.clone()), dir(), content.clone(), config()).unwrap();
    append(&log, 1).unwrap();
    content.gate().shut();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| log.sync_to(Lsn(1)));
        content.gate().await_visitor();
        let others: Vec<_> = (0..CALLERS).map(|i| scope.spawn(move || i)).map(|t| t.join().unwrap()).collect();
        let appended: Vec<Lsn> = others.iter().map(|i| append(&log, 2 + i).unwrap()).collect();
        let log = &log;
        let waiting: Vec<_> = appended.into_iter().map(|lsn| scope.spawn(move || log.sync_to(lsn))).collect();
        content.gate().open();
        assert_eq!(first.join().unwrap(), Ok(()));
        for caller in waiting {
            assert_eq!(caller.join().unwrap(), Ok(()));
        }
    });
    assert_eq!(log.durable(), Lsn(1 + CALLERS));
    assert_eq!(log.stats().syncs, 2, "one for the first, one for all the others");
}

#[test]
fn content_that_is_not_there_cuts_the_log() {
    struct Missing(u64);
    impl ContentSync for Missing {
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn verify(&self, piece: &Piece) -> Result<bool> {
            Ok(piece.blob_offset != self.0)
        }
    }
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let content = FileContent::open(&disk);
    let write = |data: &[u8]| Command::Write {
        ino: Ino(2),
        offset: 0,
        pieces: [content.write(data)].into_iter().collect(),
        store: StoreId(0),
        kill_privileges: false,
        now: Timestamp::default(),
    };
    for number in 0..30u8 {
        log.append(ZONE, Claim::Normal, &write(&[number; 10]).encode().unwrap()).unwrap();
        if number == 9 {
            log.sync().unwrap();
        }
    }
    for missing in 0..30 {
        let copy = disk.fork();
        let log = NodeLog::open(Arc::new(copy.clone()), dir(), Arc::new(Missing(missing * 10)), config()).unwrap();
        // What is known to be durable needs no proof.
        let expected = if missing < 10 { 30 } else { missing };
        assert_eq!(log.last(), Lsn(expected), "missing {missing}");
        let next = log.append(ZONE, Claim::Normal, &command(1).encode().unwrap()).unwrap();
        assert_eq!(next, Lsn(expected + 1));
        let log = NodeLog::open(Arc::new(copy.fork()), dir(), Arc::new(Missing(u64::MAX)), config()).unwrap();
        assert_eq!(log.last(), next);
        assert_eq!(replay(&log, ZONE, expected).unwrap(), [(next.0, command(1))], "what was cut off has come back");
    }
}

#[test]
fn what_is_settled_needs_no_proof() {
    struct Nothing;
    impl ContentSync for Nothing {
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn verify(&self, _piece: &Piece) -> Result<bool> {
            Ok(false)
        }
    }
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let piece = Piece { len: 1, blob: nexus_kernel::BlobId(1), blob_offset: 0, crc: 0 };
    let write = Command::Write {
        ino: Ino(2),
        offset: 0,
        pieces: [piece].into_iter().collect(),
        store: StoreId(0),
        kill_privileges: false,
        now: Timestamp::default(),
    };
    let found =
        |disk: &SimDisk| NodeLog::open(Arc::new(disk.clone()), dir(), Arc::new(Nothing), config()).unwrap().last();
    for round in 0..5 {
        let lsn = log.append(ZONE, Claim::Normal, &write.encode().unwrap()).unwrap();
        log.sync().unwrap();
        assert!(found(&disk.fork()) < lsn, "only the sync told, and nobody remembers it");
        log.settle_to(lsn).unwrap();
        for cut in 0..10 {
            assert!(found(&disk.power_cut(cut)) >= lsn, "round {round}");
        }
        let last = log.last();
        log.settle_to(lsn).unwrap();
        assert_eq!(log.last(), last, "there is a record already");
    }
}

/// A long run with random syncs, checkpoints and openings; at every sync point the power is
/// cut, and what is found must be a prefix with all that was synced.
#[test]
fn power_cuts_leave_a_prefix_with_all_that_was_synced() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let disk = SimDisk::new();
        let synced = Arc::new(parking_lot::Mutex::new((0u64, 0u64)));
        let cuts = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (seen, counted) = (synced.clone(), cuts.clone());
        disk.on_sync(move |disk, point| {
            for cut in 0..3 {
                let left = disk.power_cut(seed * 100_000 + point.number * 10 + cut);
                let (durable, checkpoint) = *seen.lock();
                let log = open(&left).unwrap();
                assert!(
                    log.last().0 >= durable,
                    "seed {seed}, sync {}: lost {durable}, has {}",
                    point.number,
                    log.last()
                );
                let end = log.last().0;
                assert_eq!(replay(&log, ZONE, checkpoint).unwrap(), expected(checkpoint + 1..end + 1));
                // And it goes on from there, also after one more cut.
                append_all(&log, end + 1..end + 4);
                log.sync().unwrap();
                let log = open(&left.power_cut(cut)).unwrap();
                assert_eq!(replay(&log, ZONE, checkpoint).unwrap(), expected(checkpoint + 1..end + 4));
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let mut random = Random(seed);
        let mut log = open(&disk).unwrap();
        let mut next = 1;
        for _ in 0..120 {
            match random.below(10) {
                0 => {
                    let after = synced.lock().1;
                    log = open(&disk).unwrap();
                    assert_eq!(replay(&log, ZONE, after).unwrap(), expected(after + 1..next));
                    log.checkpointed(ZONE, Lsn(after)).unwrap();
                }
                1 => {
                    log.sync().unwrap();
                    *synced.lock() = (next - 1, next - 1);
                    log.checkpointed(ZONE, Lsn(next - 1)).unwrap();
                }
                2 | 3 => {
                    log.sync().unwrap();
                    synced.lock().0 = next - 1;
                }
                _ => {
                    let count = random.below(12);
                    append_all(&log, next..next + count);
                    next += count;
                }
            }
        }
        disk.clear_hook();
        assert!(cuts.load(std::sync::atomic::Ordering::Relaxed) > 200);
    }
}

#[test]
fn works_on_a_real_disk_with_a_thread() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 64 << 10, preallocate: Preallocate::Background, ..LogConfig::default() };
    let open = || NodeLog::open(Arc::new(RealDisk::new()), folder.path(), Arc::new(NoContent), config.clone()).unwrap();
    let log = open();
    std::thread::scope(|scope| {
        for thread in 0..4u16 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..2000 {
                    let lsn = log.append(ZoneIndex(thread), Claim::Normal, &command(number).encode().unwrap()).unwrap();
                    if number % 500 == 0 {
                        log.sync_to(lsn).unwrap();
                        assert!(log.durable() >= lsn);
                    }
                }
            });
        }
    });
    drop(log);
    let log = open();
    assert_eq!(log.last(), Lsn(8000));
    for thread in 0..4 {
        let found: Vec<Command> =
            replay(&log, ZoneIndex(thread), 0).unwrap().into_iter().map(|(_, command)| command).collect();
        assert_eq!(found, (0..2000).map(command).collect::<Vec<_>>());
    }
    log.close().unwrap();
    assert_eq!(open().last(), Lsn(8000), "what was only read is not changed");
    let log = open();
    log.activate().unwrap();
    log.close().unwrap();
    assert_eq!(open().last(), Lsn(8001));
}

#[test]
fn what_does_not_fit_is_refused() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let fits = vec![1; SEGMENT as usize - 4096 - 32];
    log.append(ZONE, Claim::Normal, &fits).unwrap();
    assert_eq!(log.append(ZONE, Claim::Normal, &[&fits[..], &[1]].concat()), Err(Error::TooLong));
    assert_eq!(log.append(NO_ZONE, Claim::Normal, b"x"), Err(Error::Invalid));
    let small = LogConfig { segment_bytes: 4096, ..config() };
    assert!(NodeLog::open(Arc::new(disk), dir(), Arc::new(NoContent), small).is_err());
}
