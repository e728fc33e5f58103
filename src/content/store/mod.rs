//! [`SegmentStore`]: content on a local disk. Writes go to segments, reads come from
//! segments and sealed blobs. What is collected when is decided in [`crate::reclaim`].

mod attach;
mod carrier;
mod counter;
mod file_cache;
mod fill;
mod images;
mod known_sums;
mod lanes;
mod layout;
mod mounts;
mod patches;
mod residency;
mod room;
mod runs;
mod seal;
mod sealed;
mod segment;
mod space;
mod sums;
mod sync;
mod unsynced;
mod upload;
mod wake;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use nexus_kernel::content::{ContentStore, ContentSync, Image, ImageLimits, Staged, WriteHint};
use nexus_kernel::disk::{Disk, DiskFile, DiskSpace};
use nexus_kernel::interrupt::let_go_on;
use nexus_kernel::model::{Piece, Placement};
use nexus_kernel::object_store::Traffic;
use nexus_kernel::{BlobId, Clock, Error, Ino, ObjectStore, Result, StoreId};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::config::ContentConfig;
use crate::time::now_ms;

use counter::BlobCounter;
use file_cache::FileCache;
use known_sums::KnownSums;
use lanes::{LaneSizes, Writer};
use layout::{Layout, parse_name};
use mounts::{MountedStore, Mounts};
use patches::Patches;
use room::{Room, Search};
use segment::{Pin, Segment};
use space::{Asker, SpaceGauge};
use sync::{GroupSync, Poison};
use unsynced::Unsynced;

pub(crate) use carrier::Carrier;
pub use mounts::StoreShape;
pub use residency::{Cursor, Residency};
pub use room::{RoomPolicy, WhenFull};
pub(crate) use seal::Where;
pub(crate) use segment::OpenSegment;
#[cfg(test)]
pub(crate) use sums::FrameSums;
pub(crate) use wake::{Call, Wake};

/// Most bytes of one piece; a longer write becomes several.
const MAX_PIECE_BYTES: u64 = 16 << 20;
/// Bytes read at a time where content is held against a checksum.
const VERIFY_BYTES: usize = 1 << 20;
/// How long writers do not wait for the collector after it found nothing to free.
pub(crate) const BARREN_MS: u64 = 1_000;

/// Content on a local disk: implements the kernel's content port.
///
/// Locks, in the order in which they are taken: a store's lanes, counter, segments, a
/// segment's own.
pub struct SegmentStore {
    /// Itself, for what goes on when its caller has gone.
    this: Weak<SegmentStore>,
    disk: Arc<dyn Disk>,
    mounts: Mounts,
    clock: Arc<dyn Clock>,
    layout: Layout,
    config: ContentConfig,
    piece_bytes: usize,
    segments: RwLock<HashMap<BlobId, Arc<Segment>>>,
    counter: Mutex<BlobCounter>,
    files: FileCache,
    known_sums: KnownSums,
    gauge: SpaceGauge,
    room: Room,
    group: GroupSync,
    unsynced: Unsynced,
    patches: Patches,
    poison: Poison,
    attached: AtomicBool,
    /// What an earlier run left over was not looked at yet.
    undecided: Mutex<Option<BTreeSet<BlobId>>>,
    missing: Mutex<BTreeSet<BlobId>>,
    /// A segment was made, and its name is not durable yet.
    new_names: Mutex<bool>,
    /// Blobs that no metadata knows any more. Their files are deleted once the zones are settled.
    condemned: Mutex<BTreeSet<BlobId>>,
    wake: Arc<Wake>,
    /// Held by the one pass of a collector that runs.
    collecting: Mutex<()>,
}

impl SegmentStore {
    /// Opens the store in `dir`, which holds `segments/` and `sums/` (made if missing);
    /// sealed blobs are in `blobs`, and in what [`SegmentStore::mount_store`] adds. `verify` and `read` work at once, `write` after
    /// [`SegmentStore::attach`].
    pub fn open(
        disk: Arc<dyn Disk>,
        blobs: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        config: ContentConfig,
    ) -> Result<Arc<SegmentStore>> {
        let layout = Layout::new(dir);
        disk.create_dir_all(&layout.segments)?;
        disk.create_dir_all(&layout.sums)?;
        let total = disk.space(dir)?.total;
        let shape = StoreShape {
            segment_bytes: config.segment_bytes,
            stream_segment_bytes: config.stream_segment_bytes,
            idle_seal_ms: u64::MAX,
            idle_seal_bytes: u64::MAX,
            fsync_uploads: config.fsync_uploads,
            volatile: false,
        };
        let sizes = lane_sizes(&config, &shape, total);
        let mounts = Mounts::default();
        mounts.add(MountedStore::new(StoreId(0), blobs, shape, sizes))?;
        let now = now_ms(&*clock);
        let mut counter = BlobCounter::open(Arc::clone(&disk), layout.clone(), config.writer)?;
        let mut segments = HashMap::new();
        for (name, len) in disk.list(&layout.segments)? {
            if let Some(id) = parse_name(&name, ".seg") {
                counter.seen(id);
                segments.insert(id, Arc::new(Segment::left_over(id, layout.segment(id), len, now)));
            }
        }
        Ok(Arc::new_cyclic(|this| SegmentStore {
            this: this.clone(),
            gauge: SpaceGauge::new(Arc::clone(&disk), Arc::clone(&clock), dir.to_owned(), config.reserve_bytes),
            room: Room::default(),
            files: FileCache::new(config.sealed_files),
            known_sums: KnownSums::default(),
            counter: Mutex::new(counter),
            segments: RwLock::new(segments),
            group: GroupSync::default(),
            unsynced: Unsynced::default(),
            patches: Patches::default(),
            poison: Poison::default(),
            attached: AtomicBool::new(false),
            undecided: Mutex::new(None),
            missing: Mutex::default(),
            new_names: Mutex::new(true),
            condemned: Mutex::default(),
            wake: Arc::new(Wake::default()),
            collecting: Mutex::default(),
            piece_bytes: usize::try_from(sizes.shared.min(MAX_PIECE_BYTES)).unwrap_or(usize::MAX).max(1),
            disk,
            mounts,
            clock,
            layout,
            config,
        }))
    }

    /// Adds a store. Before [`SegmentStore::attach`] for one that metadata may know of, at any
    /// time for a new one.
    pub fn mount_store(&self, id: StoreId, objects: Arc<dyn ObjectStore>, shape: StoreShape) -> Result<()> {
        let total = self.gauge.space()?.total;
        self.mounts.add(MountedStore::new(id, objects, shape, lane_sizes(&self.config, &shape, total)))
    }

    /// Whether a store is there, which need not answer.
    pub(crate) fn has_store(&self, id: StoreId) -> bool {
        self.mounts.get(id).is_ok()
    }

    /// Takes a store away, in which no content should be. Answers it, to be mounted again if
    /// some is on its way there after all: from now on none begins.
    pub fn unmount_store(&self, id: StoreId) -> Option<(Arc<dyn ObjectStore>, StoreShape)> {
        self.mounts.remove(id).map(|store| (Arc::clone(&store.objects), store.shape))
    }

    /// What a store was asked for; nothing for one that is not there or costs none.
    pub fn traffic(&self, id: StoreId) -> Option<Traffic> {
        self.mounts.get(id).ok()?.objects.traffic()
    }

    /// Most bytes of its content that a store keeps on this disk.
    pub fn cache_limit(&self, id: StoreId) -> Option<u64> {
        self.mounts.get(id).ok()?.objects.cache_limit()
    }

    /// Most bytes that a write keeps in one piece.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.piece_bytes as u64
    }

    /// Settings in use.
    pub fn config(&self) -> &ContentConfig {
        &self.config
    }

    /// Files of segments and blobs that are open now.
    pub fn open_files(&self) -> usize {
        let segments = self.segments.read().values().filter(|segment| segment.held_file().is_some()).count();
        segments + self.files.len()
    }

    /// Bytes in segments that are not sealed, of those made up to `mark`: of a store that is
    /// far away, what is only here.
    pub fn unsealed_bytes(&self, mark: u64) -> u64 {
        self.unsealed(|id| id.origin().1 <= mark)
    }

    /// Bytes on their way to a store.
    pub fn unsealed_bytes_of(&self, store: StoreId) -> u64 {
        self.unsealed(|id| id.store() == store)
    }

    fn unsealed(&self, choose: impl Fn(BlobId) -> bool) -> u64 {
        let segments = self.segments.read();
        let waiting = segments.values().filter(|segment| choose(segment.id()) && !segment.is_redundant());
        waiting.map(|segment| segment.tail()).sum()
    }

    /// The number of the segment made last of those that are not sealed.
    pub fn newest_segment(&self) -> u64 {
        self.segments.read().keys().map(|id| id.origin().1).max().unwrap_or(0)
    }

    pub(crate) fn collecting(&self) -> &Mutex<()> {
        &self.collecting
    }

    pub(crate) fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    pub(crate) fn now_ms(&self) -> u64 {
        now_ms(&*self.clock)
    }

    /// Stores what the collector copies, for a store. It may use most of the reserve.
    pub(crate) fn write_copy(&self, store: StoreId, data: &[u8]) -> Result<Staged> {
        self.stage(store, Writer::Collector, Asker::Collector, data)
    }

    fn stage(&self, store: StoreId, writer: Writer, asker: Asker, data: &[u8]) -> Result<Staged> {
        let mounted = self.mounts.get(store)?;
        self.may_write()?;
        self.gauge.charge(data.len() as u64, asker)?;
        let mut pieces = SmallVec::new();
        let mut pins: SmallVec<[Pin; 2]> = SmallVec::new();
        let mut done = 0u64;
        for part in data.chunks(self.piece_bytes) {
            let part_writer = match writer {
                Writer::File(hint) => Writer::File(WriteHint { offset: hint.offset.saturating_add(done), ..hint }),
                Writer::Collector => Writer::Collector,
            };
            let mut made = false;
            let reserved =
                mounted.lanes.lock().reserve(part_writer, part.len() as u64, self.now_ms(), &mut |limit| {
                    made = true;
                    self.make_segment(store, limit)
                })?;
            let segment = reserved.segment();
            segment.write(part, reserved.at, self.config.writeback_step_bytes)?;
            self.unsynced.note(segment, reserved.at, reserved.at + part.len() as u64);
            let crc = crc32c::crc32c(part);
            pieces.push(Piece { len: part.len() as u64, blob: segment.id(), blob_offset: reserved.at, crc });
            pins.push(reserved.into_pin());
            done += part.len() as u64;
            if made {
                self.wake.work();
                self.park_closed()?;
            }
        }
        Ok(Staged { pieces, store, pin: Box::new(pins) })
    }

    fn make_segment(&self, store: StoreId, limit: u64) -> Result<Arc<Segment>> {
        let id = self.counter.lock().allocate(store)?;
        let path = self.layout.segment(id);
        let file = self.disk.create(&path)?;
        *self.new_names.lock() = true;
        let segment = Arc::new(Segment::new(id, path, limit, file, self.now_ms()));
        self.segments.write().insert(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// Closes the files of segments that wait to be sealed, where there are too many.
    fn park_closed(&self) -> Result<()> {
        let mut closed: Vec<_> = self
            .segments
            .read()
            .values()
            .filter(|segment| segment.is_settled() && segment.held_file().is_some())
            .cloned()
            .collect();
        if closed.len() <= self.config.closed_files {
            return Ok(());
        }
        closed.sort_unstable_by_key(|segment| segment.last_write_ms());
        let excess = closed.len() - self.config.closed_files;
        for segment in closed.iter().take(excess) {
            segment.park(&*self.disk).map_err(|error| self.poison.set(error))?;
        }
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        self.poison.check()?;
        self.patches
            .write_back(|blob| self.disk.open(&self.layout.segment(blob)))
            .map_err(|error| self.poison.set(error))?;
        self.unsynced.sync_begins();
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        if segments.iter().filter(|segment| segment.is_dirty()).nth(1).is_some() {
            for segment in segments.iter().filter(|segment| segment.is_dirty()) {
                segment.start_writeback()?;
            }
        }
        let synced = segments.iter().try_for_each(|segment| segment.sync(&*self.disk).map(|_| ())).and_then(|()| {
            let mut new_names = self.new_names.lock();
            if *new_names {
                self.disk.sync_dir(&self.layout.segments)?;
                *new_names = false;
            }
            Ok(())
        });
        synced.map_err(|error| self.poison.set(error))?;
        self.unsynced.sync_ended();
        Ok(())
    }

    /// The file that holds a blob's bytes, at the same offsets; kept open by the caller.
    /// [`Error::NotFound`] if the blob is gone or in a store that has no local files.
    pub fn local_file(&self, blob: BlobId) -> Result<Arc<dyn DiskFile>> {
        let segment = self.segments.read().get(&blob).cloned();
        if let Some(file) = segment.as_ref().and_then(|segment| segment.held_file()) {
            return Ok(file);
        }
        if let Some(file) = self.files.get(blob) {
            return Ok(file);
        }
        let opened = match segment {
            Some(segment) => self.disk.open(segment.path()),
            None => Err(Error::NotFound),
        };
        let file = match opened {
            // Sealed already, or sealed just now.
            Err(Error::NotFound) => {
                self.disk.open(&self.mounts.of(blob)?.objects.local_path(blob).ok_or(Error::NotFound)?)?
            }
            other => other?,
        };
        self.files.insert(blob, Arc::clone(&file));
        Ok(file)
    }
}

fn lane_sizes(config: &ContentConfig, shape: &StoreShape, total: u64) -> LaneSizes {
    LaneSizes {
        shared: shape.segment_bytes.min((total / 64).max(1 << 20)),
        stream: shape.stream_segment_bytes.min((total / 16).max(1 << 20)),
        stream_after: config.stream_after_bytes,
        streams: config.stream_lanes,
        step: config.allocate_step_bytes.min((total / 1024).max(64 << 10)),
    }
}

impl ContentSync for SegmentStore {
    fn sync(&self) -> Result<()> {
        self.group.run([], |_| self.sync_all())
    }

    fn verify(&self, piece: &Piece) -> Result<bool> {
        let is_lost = self.mounts.of(piece.blob).is_ok_and(|store| store.shape.volatile);
        if is_lost && !self.segments.read().contains_key(&piece.blob) {
            // Which tells nothing of the record, nor of those that follow.
            return Ok(true);
        }
        let end = piece.blob_offset.checked_add(piece.len).ok_or(Error::Invalid)?;
        if self.was_sent(piece.blob, end) {
            return Ok(true);
        }
        match self.blob_len(piece.blob) {
            Ok(len) if end <= len => {}
            Ok(_) | Err(Error::NotFound) => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut buf = vec![0; VERIFY_BYTES.min(usize::try_from(piece.len).unwrap_or(VERIFY_BYTES))];
        let (mut at, mut crc) = (piece.blob_offset, 0);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let part = buf.get_mut(..step).unwrap_or_default();
            match self.read(piece.blob, at, part) {
                Ok(()) => {}
                Err(Error::NotFound | Error::Corrupt(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
            crc = crc32c::crc32c_append(crc, part);
            at += step as u64;
        }
        Ok(crc == piece.crc)
    }

    fn images(&self, limits: ImageLimits, keep: &mut dyn FnMut(Image<'_>) -> Result<()>) -> Result<bool> {
        self.give_images(limits, keep)
    }

    fn restore(&self, image: Image<'_>) -> Result<()> {
        self.take_back(image)
    }
}

impl ContentStore for SegmentStore {
    fn write(&self, hint: WriteHint, data: &[u8]) -> Result<Staged> {
        let mut search = Search::default();
        loop {
            let room = self.check_backlog(hint.store, data.len() as u64);
            match room.and_then(|()| self.stage(hint.store, Writer::File(hint), Asker::Writer, data)) {
                Err(full @ (Error::NoSpace | Error::QuotaExceeded)) => self.await_room(&mut search, full)?,
                other => return other,
            }
        }
    }

    fn read(&self, blob: BlobId, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.local_file(blob) {
            Ok(file) => match self.patches.read(blob, &*file, buf, offset) {
                Some(patched) => patched,
                None => file.read_at(buf, offset),
            },
            Err(Error::NotFound) => self.read_sealed(blob, offset, buf),
            Err(error) => Err(error),
        }
    }

    fn is_fetched(&self, blob: BlobId) -> bool {
        self.is_far(blob) && !self.segments.read().contains_key(&blob)
    }

    fn want(&self, blob: BlobId, range: Range<u64>) -> bool {
        self.want_sealed(blob, range)
    }

    fn closed(&self, ino: Ino) {
        self.mounts.closed(ino);
    }

    fn fsync_uploads(&self, placement: Placement) -> bool {
        self.mounts.fsync_uploads(placement)
    }

    fn is_only_here(&self, blob: BlobId) -> bool {
        self.segments.read().contains_key(&blob) && self.mounts.of(blob).is_ok_and(|store| !store.is_here())
    }

    fn upload(&self, blobs: &[BlobId]) -> Result<()> {
        // It goes on if the caller is killed meanwhile: others may wait for the same, and what is begun in a
        // store has to be ended.
        let (Some(this), blobs) = (self.this.upgrade(), blobs.to_vec()) else { return self.upload_blobs(blobs) };
        let_go_on(move || this.upload_blobs(&blobs)).unwrap_or(Err(Error::Interrupted))
    }

    fn has_store(&self, store: StoreId) -> bool {
        self.mounts.get(store).is_ok()
    }

    fn check_space(&self, len: u64) -> Result<()> {
        self.gauge.check(len, Asker::Writer).inspect_err(|_| self.wake.room())
    }

    fn space(&self) -> Result<DiskSpace> {
        self.gauge.space()
    }
}
