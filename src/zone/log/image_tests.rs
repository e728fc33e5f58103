//! Tests of images: little content is synced with the log alone, comes back from it after a
//! power cut, and is durable in its own file before the log lets go of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_kernel::content::ContentSync;
use nexus_kernel::disk::Disk;
use nexus_kernel::model::Piece;
use nexus_kernel::{Command, Error, Ino, Lsn, StoreId, Timestamp, ZoneIndex};
use parking_lot::Mutex;

use super::format::{HEADER_BYTES, RecordHeader, RecordKind, SegmentHeader};
use super::segment::Records;
use super::{Claim, LogConfig, NodeLog, Preallocate};
use crate::testing::{FileContent, Random, bytes_of, wipe};

const ZONE: ZoneIndex = ZoneIndex(3);
const IMAGE_BYTES: u64 = 2000;
const UNSETTLED_BYTES: u64 = 5000;

fn dir() -> &'static Path {
    Path::new("/data/log")
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: HEADER_BYTES + 1024,
        max_spares: 3,
        image_bytes: IMAGE_BYTES,
        unsettled_bytes: UNSETTLED_BYTES,
        preallocate: Preallocate::Inline,
    }
}

/// A log with its content, on one disk.
struct Subject {
    disk: SimDisk,
    content: Arc<FileContent>,
    log: Arc<NodeLog>,
    /// Paths that were synced since somebody looked.
    synced: Arc<Mutex<Vec<PathBuf>>>,
}

impl Subject {
    fn open(disk: &SimDisk) -> Subject {
        let content = FileContent::open(disk);
        let log = NodeLog::open(Arc::new(disk.clone()), dir(), content.clone(), config()).unwrap();
        log.activate().unwrap();
        let synced = Arc::<Mutex<Vec<PathBuf>>>::default();
        let sink = synced.clone();
        disk.on_sync(move |_, point| sink.lock().push(point.path.clone()));
        Subject { disk: disk.clone(), content, log, synced }
    }

    fn write(&self, data: &[u8]) -> (Lsn, Piece) {
        let piece = self.content.write(data);
        (self.log.append(ZONE, Claim::Normal, &command(piece).encode().unwrap()).unwrap(), piece)
    }

    /// Files of content and of the log that were synced since the last call.
    fn synced(&self) -> (usize, usize) {
        let synced = std::mem::take(&mut *self.synced.lock());
        let is_log = |path: &&PathBuf| path.starts_with(dir());
        (synced.iter().filter(|path| !is_log(path)).count(), synced.iter().filter(is_log).count())
    }
}

fn command(piece: Piece) -> Command {
    Command::Write {
        ino: Ino(2),
        offset: 0,
        pieces: [piece].into_iter().collect(),
        store: StoreId(0),
        kill_privileges: false,
        now: Timestamp::default(),
    }
}

/// Path, offset and header of every image, in order.
fn images(disk: &SimDisk) -> Vec<(PathBuf, u64, RecordHeader)> {
    let mut found = Vec::new();
    for (path, bytes) in bytes_of(disk) {
        let super::format::ParsedHeader::Good(header) = SegmentHeader::parse(&bytes) else { continue };
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let mut records = Records::new(&bytes, &header, Lsn(u64::MAX));
        loop {
            let offset = records.offset();
            match records.next() {
                Some((record, _)) if record.kind == RecordKind::Image => found.push((path.clone(), offset, record)),
                Some(_) => {}
                None => break,
            }
        }
    }
    found
}

fn data(random: &mut Random, len: u64) -> Vec<u8> {
    (0..len).map(|_| random.next() as u8 | 1).collect()
}

#[test]
fn a_sync_of_little_content_is_one_sync_of_the_log_and_one_of_nothing_is_none() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(1);
    subject.write(&data(&mut random, 100));
    subject.write(&data(&mut random, 200));
    subject.log.sync().unwrap();
    assert_eq!(subject.synced(), (0, 1));
    let last = subject.log.last();
    assert_eq!(images(&subject.disk).len(), 2);
    subject.log.sync().unwrap();
    assert_eq!((subject.synced(), subject.log.last()), ((0, 0), last), "nothing is new");
    subject.log.append(ZONE, Claim::Normal, b"no content").unwrap();
    subject.log.sync().unwrap();
    assert_eq!((subject.synced(), subject.log.last()), ((0, 1), Lsn(last.0 + 1)), "no range is imaged twice");
    // Too much for the log.
    subject.write(&data(&mut random, IMAGE_BYTES + 1));
    subject.log.sync().unwrap();
    assert_eq!(subject.synced(), (1, 1));
    assert_eq!(images(&subject.disk).len(), 2);
}

#[test]
fn content_comes_back_from_its_images() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(2);
    let (mut pieces, mut synced) = (Vec::new(), 0);
    for round in 0..60 {
        let len = 1 + random.below(700);
        let data = data(&mut random, len);
        pieces.push(subject.write(&data).1);
        if round % 3 == 2 {
            subject.log.sync().unwrap();
            synced = pieces.len();
        }
        for cut in 0..4 {
            let left = subject.disk.power_cut(round * 10 + cut);
            let found = Subject::open(&left);
            // Once recovered, it needs no log any more, whatever happens next.
            let found = [found.content, FileContent::open(&left.power_cut(cut))];
            for (piece, content) in pieces[..synced].iter().flat_map(|piece| found.iter().map(move |c| (piece, c))) {
                assert!(content.verify(piece).unwrap(), "round {round}, cut {cut}: {piece:?}");
            }
        }
    }
    assert!(subject.content.given.load(std::sync::atomic::Ordering::Relaxed) > 10_000, "hardly any image was made");
}

/// The state that a checkpoint has is not in the log any more: its content must be durable
/// before the segments with its images go.
#[test]
fn no_image_goes_before_its_content_is_durable() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(3);
    let mut pieces = Vec::new();
    for round in 0..40 {
        for _ in 0..1 + random.below(3) {
            let len = 1 + random.below(500);
            let data = data(&mut random, len);
            pieces.push(subject.write(&data).1);
        }
        subject.log.sync().unwrap();
        let before = images(&subject.disk).len();
        let (cuts, expected, log) = (Arc::new(Mutex::new(Vec::new())), pieces.clone(), subject.log.last());
        let sink = cuts.clone();
        subject.disk.on_sync(move |disk, point| {
            sink.lock().extend((0..3).map(|cut| (point.clone(), disk.power_cut(point.number * 10 + cut))));
        });
        subject.log.checkpointed(ZONE, log).unwrap();
        subject.disk.clear_hook();
        cuts.lock().extend((0..3).map(|cut| {
            let after = nexus_drivers::disk::SyncPoint { number: 0, path: PathBuf::new(), folder: false };
            (after, subject.disk.power_cut(round * 10 + cut))
        }));
        for (point, left) in cuts.lock().drain(..) {
            let found = Subject::open(&left);
            for piece in &expected {
                assert!(found.content.verify(piece).unwrap(), "round {round}, cut at {point:?}: {piece:?}");
            }
        }
        assert!(before < 100, "round {round}: images are never given back");
    }
    assert!(subject.log.stats().segments <= 2, "{:?}", subject.log.stats());
}

#[test]
fn many_images_are_settled_by_a_sync() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(4);
    let (mut content, mut log) = (0, 0);
    for _ in 0..100 {
        subject.write(&data(&mut random, 500));
        subject.log.sync().unwrap();
        let synced = subject.synced();
        content += synced.0;
        log += synced.1;
    }
    // One for every ten or so.
    let most = 100 * 500 / UNSETTLED_BYTES as usize;
    assert!((5..=most).contains(&content), "{content} syncs of content");
    assert!(log >= 100);
    subject.log.sync_behind(subject.log.last()).unwrap();
    assert!(subject.synced().0 <= 1);
    subject.log.sync_behind(subject.log.last()).unwrap();
    assert_eq!(subject.synced(), (0, 0), "all is settled");
}

/// After a crash, places that no record tells of are given away anew. An older image of one
/// must not come back over what is there then.
#[test]
fn images_of_earlier_openings_do_not_come_back() {
    let disk = SimDisk::new();
    let subject = Subject::open(&disk);
    let (_, piece) = subject.write(b"old content");
    subject.log.sync().unwrap();
    assert_eq!(images(&disk).len(), 1);
    let again = Subject::open(&disk.power_cut(1));
    let file = again.disk.open(Path::new("/content")).unwrap();
    file.write_at(b"new content", piece.blob_offset).unwrap();
    file.sync_data().unwrap();
    for (how, left) in [("killed", again.disk.fork()), ("power cut", again.disk.power_cut(2))] {
        let found = Subject::open(&left);
        assert_eq!(images(&left).len(), 1, "the image is still in the log");
        let mut bytes = [0; 11];
        found.disk.open(Path::new("/content")).unwrap().read_at(&mut bytes, piece.blob_offset).unwrap();
        assert_eq!(&bytes, b"new content", "{how}");
    }
}

#[test]
fn a_closed_log_needs_no_images() {
    let disk = SimDisk::new();
    let subject = Subject::open(&disk);
    let (_, piece) = subject.write(b"content");
    subject.log.sync().unwrap();
    subject.synced();
    subject.log.close().unwrap();
    assert_eq!(subject.synced().0, 1, "settled by closing");
    let left = disk.power_cut(5);
    let content = FileContent::open(&left);
    assert!(content.verify(&piece).unwrap(), "without the log");
    let before = bytes_of(&left);
    NodeLog::open(Arc::new(left.clone()), dir(), content, config()).unwrap();
    assert!(bytes_of(&left) == before, "an image was put back");
}

#[test]
fn a_damaged_image_is_refused_below_the_mark_and_cut_above_it() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(6);
    let mut lsns = BTreeMap::new();
    for _ in 0..6 {
        let (lsn, piece) = subject.write(&data(&mut random, 300));
        subject.log.sync().unwrap();
        lsns.insert(lsn, piece);
    }
    let open = |disk: &SimDisk| {
        NodeLog::open(Arc::new(disk.clone()), dir(), FileContent::open(disk), config()).map(|log| log.last())
    };
    let all = images(&subject.disk);
    let (last, known) = all.split_last().unwrap();
    for (path, offset, record) in known {
        let damaged = subject.disk.fork();
        damaged.damage(path, offset + 60, 4).unwrap();
        let before = bytes_of(&damaged);
        match open(&damaged) {
            Err(Error::Corrupt(text)) => assert!(text.contains("backup") && text.contains("/data/log"), "{text}"),
            other => panic!("{record:?}: {other:?}"),
        }
        assert!(bytes_of(&damaged) == before, "a refused log was changed");
    }
    let torn = subject.disk.fork();
    wipe(&torn, &last.0, last.1 + 40, 100);
    assert_eq!(open(&torn), Ok(Lsn(last.2.lsn.0 - 1)), "its command stays, as its content is there");
}

#[test]
fn where_the_log_has_no_room_content_is_synced_where_it_is() {
    let subject = Subject::open(&SimDisk::new());
    let mut random = Random(7);
    subject.disk.set_capacity(Some(subject.disk.used_bytes() + 8192));
    let (mut images, mut pieces) = (0, Vec::new());
    loop {
        let piece = subject.content.write(&data(&mut random, 400));
        match subject.log.append(ZONE, Claim::Normal, &command(piece).encode().unwrap()) {
            Ok(_) => pieces.push(piece),
            Err(Error::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
        subject.log.sync().unwrap();
        let synced = subject.synced();
        images += usize::from(synced.0 == 0);
    }
    assert!(images > 0 && pieces.len() > images, "{images} of {}", pieces.len());
    let left = subject.disk.power_cut(3);
    left.set_capacity(None);
    let found = Subject::open(&left);
    assert!(pieces.iter().all(|piece| found.content.verify(piece).unwrap()));
}

/// Programs may store what looks like records, such as a copy of another volume's log. Where
/// the log is torn, they are no evidence of what was durable.
#[test]
fn content_is_never_taken_for_records() {
    for offset in 0..9 {
        let subject = Subject::open(&SimDisk::new());
        subject.log.append(ZONE, Claim::Normal, &command(subject.content.write(b"first")).encode().unwrap()).unwrap();
        subject.log.sync().unwrap();
        let before = subject.log.last();
        let mut forged = vec![1; offset];
        for lsn in 1..20 {
            let (epoch, lsn) = (1, Lsn(lsn));
            let record =
                RecordHeader { len: 0, epoch, zone: ZONE, kind: RecordKind::Mark, lsn, durable: Lsn(lsn.0 - 1) };
            record.encode(b"", &mut forged);
        }
        subject.write(&forged);
        subject.log.sync().unwrap();
        // The command before the image is torn, and so is the head of the image.
        let (path, image_at, _) = images(&subject.disk).pop().unwrap();
        let torn = subject.disk.fork();
        wipe(&torn, &path, image_at - 40, 48);
        assert_eq!(Subject::open(&torn).log.last(), before, "offset {offset}");
    }
}
