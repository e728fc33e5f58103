//! Doubles and helpers for the tests of this crate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_drivers::disk::SimDisk;
use nexus_kernel::content::{ContentSync, Image, ImageLimits};
use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Clock, Error, Result, Timestamp};
use parking_lot::{Condvar, Mutex};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A clock that ticks a nanosecond at each look.
#[derive(Default)]
pub struct Ticks(pub AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: 1_700_000_000, nsec: self.0.fetch_add(1, Ordering::Relaxed) as u32 }
    }
}

/// Content of one blob, in one file of a disk, as a segment store would keep it.
///
/// Gives images away, and puts them back at once: unlike a real store, also where the log is
/// only looked at.
pub struct FileContent {
    file: Arc<dyn DiskFile>,
    end: AtomicU64,
    /// Ranges that are neither durable nor given away, and whether one is not known.
    unsynced: Mutex<Vec<(u64, u64)>>,
    /// Bytes given away.
    pub given: AtomicU64,
}

impl FileContent {
    pub const BLOB: BlobId = BlobId(7);

    fn path() -> PathBuf {
        PathBuf::from("/content")
    }

    /// Opens the file, or makes it.
    pub fn open(disk: &SimDisk) -> Arc<FileContent> {
        let file = match disk.create(&FileContent::path()) {
            Err(Error::Exists) => disk.open(&FileContent::path()).unwrap(),
            created => {
                disk.sync_dir(Path::new("/")).unwrap();
                created.unwrap()
            }
        };
        let end = AtomicU64::new(file.len().unwrap());
        Arc::new(FileContent { file, end, unsynced: Mutex::default(), given: AtomicU64::new(0) })
    }

    /// Stores bytes.
    pub fn write(&self, data: &[u8]) -> Piece {
        let blob_offset = self.end.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write_at(data, blob_offset).unwrap();
        self.unsynced.lock().push((blob_offset, blob_offset + data.len() as u64));
        Piece { len: data.len() as u64, blob: FileContent::BLOB, blob_offset, crc: crc32c::crc32c(data) }
    }
}

impl ContentSync for FileContent {
    fn sync(&self) -> Result<()> {
        let known = self.unsynced.lock().len();
        self.file.sync_data()?;
        self.unsynced.lock().drain(..known);
        Ok(())
    }

    fn verify(&self, piece: &Piece) -> Result<bool> {
        let mut bytes = vec![0; piece.len as usize];
        match self.file.read_at(&mut bytes, piece.blob_offset) {
            Ok(()) => Ok(crc32c::crc32c(&bytes) == piece.crc),
            Err(Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn images(&self, limits: ImageLimits, keep: &mut dyn FnMut(Image<'_>) -> Result<()>) -> Result<bool> {
        let mut unsynced = self.unsynced.lock();
        if unsynced.iter().map(|(start, end)| end - start).sum::<u64>() > limits.total {
            return Ok(false);
        }
        for (start, end) in &*unsynced {
            for offset in (*start..*end).step_by(limits.each) {
                let mut bytes = vec![0; limits.each.min((end - offset) as usize)];
                self.file.read_at(&mut bytes, offset)?;
                keep(Image { blob: FileContent::BLOB, offset, bytes: &bytes })?;
                self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }
        unsynced.clear();
        Ok(true)
    }

    fn restore(&self, image: Image<'_>) -> Result<()> {
        assert_eq!(image.blob, FileContent::BLOB);
        self.file.write_at(image.bytes, image.offset)
    }
}

/// Content whose syncs wait for a gate to open.
#[derive(Default)]
pub struct GatedContent {
    gate: Gate,
}

impl GatedContent {
    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl ContentSync for GatedContent {
    fn sync(&self) -> Result<()> {
        self.gate.pass();
        Ok(())
    }

    fn verify(&self, _piece: &Piece) -> Result<bool> {
        Ok(true)
    }
}

/// Something that can be closed for a while.
#[derive(Default)]
pub struct Gate {
    shut: AtomicBool,
    inside: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    pub fn open(&self) {
        let _inside = self.inside.lock();
        self.shut.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Waits until somebody stands at the gate.
    pub fn await_visitor(&self) {
        let mut inside = self.inside.lock();
        while *inside == 0 {
            self.changed.wait(&mut inside);
        }
    }

    pub fn pass(&self) {
        let mut inside = self.inside.lock();
        *inside += 1;
        self.changed.notify_all();
        while self.shut.load(Ordering::SeqCst) {
            self.changed.wait(&mut inside);
        }
        *inside -= 1;
    }
}

/// Bytes of every file, to tell whether something was changed.
pub fn bytes_of(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |(path, len): (PathBuf, u64)| {
        let mut bytes = vec![0; len as usize];
        disk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        (path, bytes)
    };
    disk.files().into_iter().map(read).collect()
}

/// Overwrites a range with zeros.
pub fn wipe(disk: &SimDisk, path: &Path, offset: u64, len: u64) {
    disk.open(path).unwrap().write_at(&vec![0; len as usize], offset).unwrap();
}

/// Rounds of [`fuzz`] for each parser in CI.
const FUZZ_ROUNDS: usize = 4_000;
/// Parsers that are fuzzed, about: they share the time of a long run.
const FUZZ_TARGETS: u32 = 40;

/// Something like `valid`, or nothing like it.
fn broken(random: &mut Random, valid: &[u8]) -> Vec<u8> {
    if random.below(8) == 0 {
        return (0..random.below(300)).map(|_| random.next() as u8).collect();
    }
    let mut bytes = valid.to_vec();
    for _ in 0..=random.below(3) {
        let place = random.below(bytes.len().max(1) as u64) as usize;
        match random.below(5) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place.min(bytes.len()), random.next() as u8),
            2 if place < bytes.len() => drop(bytes.remove(place)),
            3 => bytes.extend_from_within(place.min(bytes.len())..),
            _ if place < bytes.len() => bytes[place] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

/// Gives a parser what it takes, then changes of it: so many, or, with `NEXUS_FUZZ_SECONDS`, as long as
/// its share of that is, from `NEXUS_FUZZ_SEED`. Returns how many were taken, for whether a parser
/// believes everything shows there, and of how many.
pub fn fuzz(seed: u64, valid: &[u8], mut parse: impl FnMut(&[u8]) -> bool) -> (usize, usize) {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    assert!(parse(valid), "what the changes are of is taken");
    let mut random = Random(seed.wrapping_add(setting("NEXUS_FUZZ_SEED").unwrap_or(0) << 32));
    let until = setting("NEXUS_FUZZ_SECONDS")
        .map(|seconds| std::time::Instant::now() + std::time::Duration::from_secs(seconds) / FUZZ_TARGETS);
    let (mut taken, mut rounds) = (0, 0);
    while rounds < FUZZ_ROUNDS || until.is_some_and(|until| std::time::Instant::now() < until) {
        taken += usize::from(parse(&broken(&mut random, valid)));
        rounds += 1;
    }
    assert!(taken < rounds, "something is refused");
    (taken, rounds)
}
