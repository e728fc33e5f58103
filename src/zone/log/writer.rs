//! The end of the log: the segment that takes records, and those before it that somebody
//! still needs. One caller at a time; what a sync has to do is handed out as a list.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_kernel::content::Image;
use nexus_kernel::disk::{Disk, DiskFile};
use nexus_kernel::error::{Error, Result};
use nexus_kernel::{Lsn, ZoneIndex};

use super::config::LogConfig;
use super::format::{
    HEADER_BYTES, NO_ZONE, RecordHeader, RecordKind, SegmentHeader, image_header, mask_image, stored_bytes,
};
use super::pool::{Claim, Pool, Spare};
use super::scan::{Scan, Scanned};
use super::segment::{segment_path, spare_path};

/// What a sync has to do, for everything up to `target` to be durable.
pub struct SyncWork {
    /// Last record that it covers.
    pub target: Lsn,
    /// Files with records, in order.
    pub files: Vec<Arc<dyn DiskFile>>,
    /// Whether names were changed.
    pub names: bool,
}

/// The writing end.
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: LogConfig,
    epoch: u32,
    next: Lsn,
    number: u64,
    file: Arc<dyn DiskFile>,
    first: Lsn,
    offset: u64,
    /// Full segments, oldest first.
    full: VecDeque<Scanned>,
    /// Those of this opening that hold records not synced yet.
    unsynced: Vec<Arc<dyn DiskFile>>,
    names_changed: bool,
    /// What the metastore of each zone has.
    checkpoints: BTreeMap<ZoneIndex, Lsn>,
    /// Last command of any zone.
    last_command: Lsn,
    /// Highest `durable` that a record or header tells, and up to where the log has to be
    /// durable for that to be known after a crash.
    recorded: (Lsn, Lsn),
    images: Images,
    payload: Vec<u8>,
    buffer: Vec<u8>,
}

/// Which images are still needed. They are settled in order: the content of those up to
/// `settled` is durable where it is.
#[derive(Clone, Copy, Default)]
struct Images {
    last: Lsn,
    settled: Lsn,
    /// Bytes of all that were written, and of those up to `settled`.
    bytes: u64,
    settled_bytes: u64,
}

/// Images written so far, to be named when they are settled.
#[derive(Clone, Copy)]
pub struct ImagesUpTo {
    last: Lsn,
    bytes: u64,
}

impl Writer {
    /// Goes on after `scan` in a segment of its own, whose header is durable when this
    /// returns. Everything that `scan` found must be durable already.
    pub fn start(disk: Arc<dyn Disk>, dir: &Path, config: &LogConfig, scan: &Scan, pool: &Pool) -> Result<Writer> {
        let Spare { serial, file } = pool.take(Claim::Reserved)?;
        let epoch =
            scan.epoch.checked_add(1).ok_or_else(|| Error::Unavailable("the log was opened too often".into()))?;
        let number = scan.segments.last().map_or(1, |last| last.header.number + 1);
        let durable = Lsn(scan.end.0 - 1);
        let header = SegmentHeader { epoch, number, first: scan.end, durable, segment_bytes: config.segment_bytes };
        file.write_at(&header.encode(), 0)?;
        file.sync_data()?;
        disk.rename(&spare_path(dir, serial), &segment_path(dir, number))?;
        disk.sync_dir(dir)?;
        Ok(Writer {
            disk,
            dir: dir.to_owned(),
            config: config.clone(),
            epoch,
            next: scan.end,
            number,
            file,
            first: scan.end,
            offset: HEADER_BYTES,
            full: scan.segments.iter().cloned().collect(),
            unsynced: Vec::new(),
            names_changed: false,
            // Of a zone that nobody has opened yet, everything may be needed.
            checkpoints: scan.zones.iter().map(|zone| (*zone, Lsn(0))).collect(),
            last_command: durable,
            recorded: (durable, durable),
            images: Images::default(),
            payload: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Last record written.
    pub fn last(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    /// Of the segments that this writer fills.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Adds a record. On an error there is none.
    pub fn append(
        &mut self,
        pool: &Pool,
        claim: Claim,
        zone: ZoneIndex,
        kind: RecordKind,
        payload: &[u8],
        durable: Lsn,
    ) -> Result<Lsn> {
        if payload.len() > self.config.max_payload() {
            return Err(Error::TooLong);
        }
        self.make_room(pool, claim, stored_bytes(payload.len()) as u64, durable)?;
        let len = u32::try_from(payload.len()).map_err(|_| Error::TooLong)?;
        let record = RecordHeader { len, epoch: self.epoch, zone, kind, lsn: self.next, durable };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        record.encode(payload, &mut buffer);
        let written = self.file.write_at(&buffer, self.offset);
        self.buffer = buffer;
        written?;
        self.offset += record.stored_bytes();
        self.next = Lsn(record.lsn.0 + 1);
        if durable > self.recorded.0 {
            self.recorded = (durable, record.lsn);
        }
        if matches!(kind, RecordKind::Command | RecordKind::Group) {
            self.last_command = record.lsn;
            self.checkpoints.entry(zone).or_default();
        }
        Ok(record.lsn)
    }

    /// Adds a copy of content. It takes no space that is kept back.
    pub fn append_image(&mut self, pool: &Pool, image: Image<'_>, durable: Lsn) -> Result<()> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        payload.extend_from_slice(&image_header(image.blob, image.offset));
        payload.extend_from_slice(image.bytes);
        mask_image(self.epoch, self.next, &mut payload);
        let appended = self.append(pool, Claim::Normal, NO_ZONE, RecordKind::Image, &payload, durable);
        self.images.bytes += payload.len() as u64;
        self.payload = payload;
        self.images.last = appended?;
        Ok(())
    }

    /// The images so far. Once their content is durable where it is, they can be settled.
    pub fn images(&self) -> ImagesUpTo {
        ImagesUpTo { last: self.images.last, bytes: self.images.bytes }
    }

    /// Notes that the content of images is durable where it is.
    pub fn settled(&mut self, images: ImagesUpTo) {
        self.images.settled = self.images.settled.max(images.last);
        self.images.settled_bytes = self.images.settled_bytes.max(images.bytes);
    }

    /// Bytes of images that are not settled; 0 if all are.
    pub fn unsettled_bytes(&self) -> u64 {
        if self.images.last > self.images.settled { self.images.bytes - self.images.settled_bytes } else { 0 }
    }

    fn make_room(&mut self, pool: &Pool, claim: Claim, bytes: u64, durable: Lsn) -> Result<()> {
        let left = self.config.segment_bytes - self.offset;
        if bytes > left {
            return self.roll(pool, claim, durable);
        }
        if claim == Claim::Normal && pool.is_short() {
            let kept_back = left - bytes < self.config.reserve() || pool.len() == 0;
            if kept_back && !pool.relieve() {
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }

    /// Goes on in the next segment.
    fn roll(&mut self, pool: &Pool, claim: Claim, durable: Lsn) -> Result<()> {
        let Spare { serial, file } = pool.take(claim)?;
        let number = self.number + 1;
        let header = SegmentHeader {
            epoch: self.epoch,
            number,
            first: self.next,
            durable,
            segment_bytes: self.config.segment_bytes,
        };
        file.write_at(&header.encode(), 0)?;
        self.disk.rename(&spare_path(&self.dir, serial), &segment_path(&self.dir, number))?;
        self.names_changed = true;
        self.full.push_back(Scanned { header: self.current_header(), end: self.next });
        self.unsynced.push(std::mem::replace(&mut self.file, file));
        self.number = number;
        self.first = self.next;
        self.offset = HEADER_BYTES;
        Ok(())
    }

    /// The current segment's header, but for `durable`.
    fn current_header(&self) -> SegmentHeader {
        SegmentHeader {
            epoch: self.epoch,
            number: self.number,
            first: self.first,
            durable: Lsn(0),
            segment_bytes: self.config.segment_bytes,
        }
    }

    /// Whether a command is durable of which no record tells so.
    pub fn wants_mark(&self, durable: Lsn) -> bool {
        self.recorded.0 < self.last_command && self.last_command <= durable
    }

    /// The record by which it will be known after a crash that `lsn` was durable, if there is
    /// one already.
    pub fn record_of(&self, lsn: Lsn) -> Option<Lsn> {
        let (durable, by) = self.recorded;
        (durable >= lsn).then_some(by)
    }

    /// Hands out what is to be synced now.
    pub fn sync_work(&mut self) -> SyncWork {
        let mut files = std::mem::take(&mut self.unsynced);
        files.push(self.file.clone());
        SyncWork { target: self.last(), files, names: std::mem::take(&mut self.names_changed) }
    }

    /// Notes what a zone's metastore has.
    pub fn checkpointed(&mut self, zone: ZoneIndex, checkpoint: Lsn) {
        self.checkpoints.insert(zone, checkpoint);
    }

    /// Forgets a zone that is no more.
    pub fn forget(&mut self, zone: ZoneIndex) {
        self.checkpoints.remove(&zone);
    }

    /// Whether segments could be given back if all images were settled.
    pub fn waits_for_images(&self, durable: Lsn) -> bool {
        self.unsettled_bytes() > 0 && self.full.front().is_some_and(|first| first.end.0 <= self.covered(durable).0 + 1)
    }

    /// Takes the full segments out that no zone needs any more, and no content; all durable.
    pub fn take_covered(&mut self, durable: Lsn) -> Vec<Scanned> {
        let covered = match self.unsettled_bytes() {
            0 => self.covered(durable),
            _ => self.covered(durable).min(self.images.settled),
        };
        let count = self.full.iter().take_while(|segment| segment.end.0 <= covered.0 + 1).count();
        self.full.drain(..count).collect()
    }

    /// Up to where no zone needs the log.
    fn covered(&self, durable: Lsn) -> Lsn {
        // A zone must find all records after its checkpoint, even if none of them is its own:
        // that is how it knows that no segment is missing.
        self.checkpoints.values().min().copied().unwrap_or(durable).min(durable)
    }

    /// Full segments that a zone still needs.
    pub fn held_back_by(&self, zone: ZoneIndex) -> u64 {
        let needs = self.checkpoints.get(&zone).copied().unwrap_or(Lsn(u64::MAX - 1));
        self.full.iter().filter(|segment| segment.end.0 > needs.0 + 1).count() as u64
    }

    /// Full segments that are still kept.
    pub fn full_segments(&self) -> u64 {
        self.full.len() as u64
    }

    /// All segments with records, in order.
    pub fn segments(&self) -> Vec<Scanned> {
        let current = Scanned { header: self.current_header(), end: self.next };
        self.full.iter().cloned().chain([current]).collect()
    }
}
