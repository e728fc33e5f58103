//! [`NodeLog`]: opening, appending, group commit, giving segments back, closing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use nexus_kernel::content::{ContentSync, Image, ImageLimits};
use nexus_kernel::disk::Disk;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::{Command, Lsn, ZoneIndex};
use parking_lot::{Mutex, MutexGuard};

use super::config::LogConfig;
use super::format::{NO_ZONE, RecordKind};
use super::pool::{Claim, Pool, Spare};
use super::rounds::Rounds;
use super::scan::{ADVICE, Scan, Scanned, scan};
use super::segment::{Records, read_file, segment_path, spare_path, unfinished_path};
use super::writer::{ImagesUpTo, Writer};

/// The write-ahead log of a node, for all its zones.
///
/// - Opening reads and changes nothing; the first change does what recovery has to do.
/// - When [`NodeLog::append`] returns, the record survives SIGKILL of this process.
/// - When [`NodeLog::sync_to`] returns, everything up to that LSN, with the content written
///   before it, survives power loss. Callers that meet share one sync.
/// - After a failed sync or an unclear write nothing more is taken: [`Error::Unavailable`].
/// - Dropping the log without [`NodeLog::close`] is like a crash.
pub struct NodeLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    content: Arc<dyn ContentSync>,
    config: LogConfig,
    pool: Arc<Pool>,
    state: Mutex<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
    rounds: Rounds,
    syncs: AtomicU64,
    image_bytes: AtomicU64,
}

enum State {
    /// Opened; nothing was changed yet.
    Found(Box<Scan>),
    /// Taking records.
    Writing(Box<Writer>),
    /// Closed in good order.
    Closed,
}

/// Facts about the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Last record.
    pub last: Lsn,
    /// Last record known to be durable.
    pub durable: Lsn,
    /// Segments with records that are still needed.
    pub segments: u64,
    /// Bytes of all segment files, ready ones included.
    pub bytes: u64,
    /// Syncs of the disk since it was opened.
    pub syncs: u64,
}

impl NodeLog {
    /// Opens the log in the folder `dir`; a folder that is not there, or empty, is a new log.
    /// Where recovery has to choose, content that `content` can't verify is taken as lost.
    ///
    /// [`Error::Corrupt`] where a record is damaged that was safely on disk.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        content: Arc<dyn ContentSync>,
        config: LogConfig,
    ) -> Result<Arc<NodeLog>> {
        config.check()?;
        let found = scan(&*disk, dir, &*content)?;
        let mut ready = Vec::new();
        for (serial, _) in found.spares.iter().filter(|(_, len)| *len == config.segment_bytes) {
            ready.push(Spare { serial: *serial, file: disk.open_in_place(&spare_path(dir, *serial))? });
        }
        let serials = found.spares.iter().map(|(serial, _)| serial).chain(&found.unfinished);
        let next_serial = serials.max().map_or(0, |highest| highest.saturating_add(1));
        let pool = Pool::new(disk.clone(), dir.to_owned(), config.clone(), ready.into(), next_serial);
        let durable = found.durable;
        Ok(Arc::new(NodeLog {
            disk,
            dir: dir.to_owned(),
            content,
            config,
            pool: Arc::new(pool),
            state: Mutex::new(State::Found(Box::new(found))),
            thread: Mutex::new(None),
            rounds: Rounds::new(durable),
            syncs: AtomicU64::new(0),
            image_bytes: AtomicU64::new(0),
        }))
    }

    /// Last record.
    pub fn last(&self) -> Lsn {
        match &*self.state.lock() {
            State::Found(scan) => Lsn(scan.end.0 - 1),
            State::Writing(writer) => writer.last(),
            State::Closed => self.durable(),
        }
    }

    /// Last record known to be durable.
    pub fn durable(&self) -> Lsn {
        self.rounds.durable()
    }

    /// Whether there are segments beside the one that takes records.
    pub fn keeps_segments(&self) -> bool {
        match &*self.state.lock() {
            State::Writing(writer) => writer.full_segments() > 0,
            State::Found(_) | State::Closed => false,
        }
    }

    /// Facts for `status`.
    pub fn stats(&self) -> LogStats {
        let (last, segments) = match &*self.state.lock() {
            State::Found(scan) => (Lsn(scan.end.0 - 1), scan.segments.len() as u64),
            State::Writing(writer) => (writer.last(), writer.full_segments() + 1),
            State::Closed => (self.durable(), 0),
        };
        let files = segments + self.pool.len() as u64;
        let syncs = self.syncs.load(Ordering::Relaxed);
        LogStats { last, durable: self.durable(), segments, bytes: files * self.config.segment_bytes, syncs }
    }

    /// Does what recovery has to do, so that the log takes records; once.
    pub fn activate(&self) -> Result<()> {
        self.writing().map(drop)
    }

    /// Rises by one each time the log is opened for writing, which this does.
    pub fn epoch(&self) -> Result<u32> {
        match &*self.writing()? {
            State::Writing(writer) => Ok(writer.epoch()),
            State::Found(_) | State::Closed => Err(closed()),
        }
    }

    /// Adds a command of `zone` that was applied. `claim` tells whether it may use what is
    /// kept back for commands that free space. [`Error::NoSpace`] adds nothing.
    pub fn append(&self, zone: ZoneIndex, claim: Claim, payload: &[u8]) -> Result<Lsn> {
        if zone == NO_ZONE {
            return Err(Error::Invalid);
        }
        self.append_record(claim, zone, RecordKind::Command, payload)
    }

    /// Adds a record of a replicated zone's log, as [`NodeLog::append`] adds commands.
    pub fn append_group(&self, zone: ZoneIndex, claim: Claim, payload: &[u8]) -> Result<Lsn> {
        if zone == NO_ZONE {
            return Err(Error::Invalid);
        }
        self.append_record(claim, zone, RecordKind::Group, payload)
    }

    /// Full segments that a zone still needs.
    pub fn held_back_by(&self, zone: ZoneIndex) -> u64 {
        match &*self.state.lock() {
            State::Writing(writer) => writer.held_back_by(zone),
            State::Found(_) | State::Closed => 0,
        }
    }

    fn append_record(&self, claim: Claim, zone: ZoneIndex, kind: RecordKind, payload: &[u8]) -> Result<Lsn> {
        let mut state = self.writing()?;
        let State::Writing(writer) = &mut *state else { return Err(closed()) };
        let appended = writer.append(&self.pool, claim, zone, kind, payload, self.durable());
        match &appended {
            Ok(_) | Err(Error::NoSpace | Error::QuotaExceeded | Error::TooLong) => {}
            Err(error) => self.poison(error),
        }
        appended
    }

    /// Makes everything up to `lsn` durable, with its content: a little content as images in
    /// the log, more where it is. The order of content and log does not matter, since recovery
    /// verifies the content of what is not known to be durable; the answer has to wait for both.
    pub fn sync_to(&self, lsn: Lsn) -> Result<()> {
        if self.durable() >= lsn {
            return self.check();
        }
        self.activate()?;
        match self.rounds.run(lsn, || self.sync_once().inspect_err(|error| self.complain(error))) {
            Ok(()) => Ok(()),
            Err(Some(error)) => Err(error),
            Err(None) => self.check(),
        }
    }

    /// Whether changes are still taken.
    pub fn check(&self) -> Result<()> {
        self.rounds.check().map_err(|error| refused(&error))
    }

    /// Makes everything so far durable.
    pub fn sync(&self) -> Result<()> {
        self.sync_to(self.last())
    }

    fn sync_once(&self) -> Result<Lsn> {
        let (work, settles) = {
            let mut state = self.writing()?;
            let State::Writing(writer) = &mut *state else { return Err(closed()) };
            // No record comes between: what is imaged is the content of all records so far.
            let settles = if self.take_images(writer)? { None } else { Some(writer.images()) };
            (writer.sync_work(), settles)
        };
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if let Some(images) = settles {
            self.settle(images)?;
        }
        for file in &work.files {
            file.sync_data()?;
        }
        if work.names {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(work.target)
    }

    /// Copies content that is not durable into the log, if it is little.
    fn take_images(&self, writer: &mut Writer) -> Result<bool> {
        if self.config.image_bytes == 0 || writer.unsettled_bytes() >= self.config.unsettled_bytes {
            return Ok(false);
        }
        let limits = ImageLimits { total: self.config.image_bytes, each: self.config.max_image() };
        let durable = self.durable();
        let keep = &mut |image: Image<'_>| {
            self.image_bytes.fetch_add(image.bytes.len() as u64, Ordering::Relaxed);
            writer.append_image(&self.pool, image, durable)
        };
        match self.content.images(limits, keep) {
            Err(Error::NoSpace | Error::QuotaExceeded) => Ok(false),
            other => other,
        }
    }

    /// As [`NodeLog::sync_to`], but for when nobody waits: content is made durable where it
    /// is, and who wants a sync meanwhile need not wait for that.
    pub fn sync_behind(&self, lsn: Lsn) -> Result<()> {
        let images = match &*self.state.lock() {
            State::Writing(writer) if writer.unsettled_bytes() > 0 || lsn > self.durable() => writer.images(),
            _ => return self.check(),
        };
        self.settle(images)?;
        self.sync_to(lsn)
    }

    /// Makes content durable where it is, so that the log need not keep these images.
    fn settle(&self, images: ImagesUpTo) -> Result<()> {
        self.content.sync().inspect_err(|error| self.poison(error))?;
        if let State::Writing(writer) = &mut *self.state.lock() {
            writer.settled(images);
        }
        Ok(())
    }

    /// Settles all images, if there are any.
    fn settle_all(&self) -> Result<()> {
        let images = match &*self.state.lock() {
            State::Writing(writer) if writer.unsettled_bytes() > 0 => writer.images(),
            _ => return Ok(()),
        };
        self.settle(images)
    }

    /// Bytes of content copied into the log since it was opened.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes.load(Ordering::Relaxed)
    }

    /// Writes down what is durable, if no record tells yet; for idle times. Damage to any
    /// record before the mark is then told from a torn tail.
    pub fn mark(&self) -> Result<()> {
        let wanted = match &*self.state.lock() {
            State::Writing(writer) => writer.wants_mark(self.durable()),
            State::Found(_) | State::Closed => false,
        };
        if wanted { self.append_record(Claim::Reserved, NO_ZONE, RecordKind::Mark, &[]).map(drop) } else { Ok(()) }
    }

    /// As [`NodeLog::sync_to`]; and no recovery will ask for the content of what is up to
    /// `lsn` any more: a durable record tells that it was durable.
    pub fn settle_to(&self, lsn: Lsn) -> Result<()> {
        self.sync_to(lsn)?;
        let known_by = {
            let state = self.writing()?;
            let State::Writing(writer) = &*state else { return Err(closed()) };
            writer.record_of(lsn)
        };
        match known_by {
            Some(record) => self.sync_to(record),
            None => self.sync_to(self.append_record(Claim::Reserved, NO_ZONE, RecordKind::Mark, &[])?),
        }
    }

    /// Gives `visit` every command of `zone` after `after`, in order. [`Error::Corrupt`] if
    /// some of them can't be there any more, or if the log ends before `after`.
    pub fn replay(&self, zone: ZoneIndex, after: Lsn, visit: &mut dyn FnMut(Lsn, Command) -> Result<()>) -> Result<()> {
        let (segments, end) = self.segments()?;
        let dir = self.dir.display();
        if end <= after {
            return Err(Error::Corrupt(format!(
                "the log in {dir} ends with record {}, though the metastore has everything up to record {after}: segments of the log are missing; {ADVICE}",
                end.0 - 1
            )));
        }
        let first = segments.first().map_or(end, |segment| segment.header.first);
        if first.0 > after.0 + 1 {
            return Err(Error::Corrupt(format!(
                "the log in {dir} starts with record {first}, though the metastore only has everything up to record {after}: segments of the log are missing; {ADVICE}"
            )));
        }
        self.visit(zone, RecordKind::Command, after, &mut |lsn, payload| visit(lsn, Command::decode(payload)?))
    }

    fn segments(&self) -> Result<(Vec<Scanned>, Lsn)> {
        match &*self.state.lock() {
            State::Found(scan) => Ok((scan.segments.clone(), scan.end)),
            State::Writing(writer) => Ok((writer.segments(), Lsn(writer.last().0 + 1))),
            State::Closed => Err(closed()),
        }
    }

    /// Visits a zone's records of one kind after `after`.
    fn visit(
        &self,
        zone: ZoneIndex,
        kind: RecordKind,
        after: Lsn,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for Scanned { header, end } in self.segments()?.0.iter().filter(|segment| segment.end.0 > after.0 + 1) {
            let path = segment_path(&self.dir, header.number);
            let bytes = read_file(&*self.disk, &path, header.segment_bytes)?;
            let mut records = Records::new(&bytes, header, *end);
            for (record, payload) in records.by_ref() {
                if record.lsn > after && record.zone == zone && record.kind == kind {
                    visit(record.lsn, payload)?;
                }
            }
            if records.next_lsn() != *end {
                let lsn = records.next_lsn();
                return Err(Error::Corrupt(format!(
                    "log segment {}: record {lsn} has become unreadable; {ADVICE}",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Gives `visit` every record of a replicated zone's log that is still there, in order.
    pub fn replay_group(&self, zone: ZoneIndex, visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
        self.visit(zone, RecordKind::Group, Lsn(0), visit)
    }

    /// Tells that the metastore of `zone` has everything up to `checkpoint`, durably. Segments
    /// that nobody needs any more are used again, or removed.
    pub fn checkpointed(&self, zone: ZoneIndex, checkpoint: Lsn) -> Result<()> {
        let waits = {
            let mut state = self.writing()?;
            let State::Writing(writer) = &mut *state else { return Err(closed()) };
            writer.checkpointed(zone, checkpoint);
            writer.waits_for_images(self.durable())
        };
        if waits {
            self.settle_all()?;
        }
        let (covered, epoch) = {
            let mut state = self.writing()?;
            let State::Writing(writer) = &mut *state else { return Err(closed()) };
            (writer.take_covered(self.durable()), writer.epoch())
        };
        self.recycle(&covered, epoch)
    }

    /// Forgets a zone that is no more: its records hold nothing back.
    pub fn forget(&self, zone: ZoneIndex) -> Result<()> {
        let mut state = self.writing()?;
        if let State::Writing(writer) = &mut *state {
            writer.forget(zone);
        }
        Ok(())
    }

    /// Makes spares of the segments of this opening, `epoch`. Those of earlier ones go: they
    /// were read whole, and so are in memory in pieces too large to be written in place.
    fn recycle(&self, covered: &[Scanned], epoch: u32) -> Result<()> {
        let mut renamed = Vec::new();
        let mut room = self.config.max_spares.saturating_sub(self.pool.len());
        for Scanned { header, .. } in covered {
            let path = segment_path(&self.dir, header.number);
            if room > 0 && header.segment_bytes == self.config.segment_bytes && header.epoch == epoch {
                room -= 1;
                let serial = self.pool.new_serial();
                self.disk.rename(&path, &spare_path(&self.dir, serial))?;
                renamed.push(serial);
            } else {
                self.disk.remove(&path)?;
            }
        }
        if covered.is_empty() {
            return Ok(());
        }
        // Before one of them takes records again, or its old name could come back with them.
        self.disk.sync_dir(&self.dir)?;
        for serial in renamed {
            self.pool.add(Spare { serial, file: self.disk.open_in_place(&spare_path(&self.dir, serial))? });
        }
        Ok(())
    }

    /// Makes everything durable and says so in the log, which takes nothing more.
    pub fn close(&self) -> Result<()> {
        if matches!(&*self.state.lock(), State::Writing(_)) {
            self.sync()?;
            self.settle_all()?;
            self.append_record(Claim::Reserved, NO_ZONE, RecordKind::Clean, &[])?;
            self.sync()?;
        }
        *self.state.lock() = State::Closed;
        self.stop();
        Ok(())
    }

    fn stop(&self) {
        self.pool.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            log::error!("the thread that makes log segments has panicked");
        }
    }

    fn poison(&self, error: &Error) {
        self.rounds.fail(error);
        self.complain(error);
    }

    fn complain(&self, error: &Error) {
        log::error!("the log in {} can't go on: {error}; no more changes are taken", self.dir.display());
    }

    /// The state, ready for records.
    fn writing(&self) -> Result<MutexGuard<'_, State>> {
        self.check()?;
        let mut state = self.state.lock();
        match &*state {
            State::Writing(_) => {}
            State::Closed => return Err(closed()),
            State::Found(found) => {
                let writer = self.recover(found)?;
                self.rounds.advance(Lsn(found.end.0 - 1));
                *state = State::Writing(Box::new(writer));
            }
        }
        Ok(state)
    }

    /// What a crash left is made durable, and what it left over is put away.
    fn recover(&self, found: &Scan) -> Result<Writer> {
        self.disk.create_dir_all(&self.dir)?;
        let tail = found.segments.iter().filter(|segment| segment.end.0 > found.durable.0 + 1);
        for segment in tail {
            self.disk.open(&segment_path(&self.dir, segment.header.number))?.sync_data()?;
        }
        if found.end.0 > found.durable.0 + 1 || found.has_images {
            self.content.sync()?;
        }
        for serial in &found.unfinished {
            self.disk.remove(&unfinished_path(&self.dir, *serial))?;
        }
        for (serial, _) in found.spares.iter().filter(|(_, len)| *len != self.config.segment_bytes) {
            self.disk.remove(&spare_path(&self.dir, *serial))?;
        }
        for number in &found.unused {
            self.disk.remove(&segment_path(&self.dir, *number))?;
        }
        self.disk.sync_dir(&self.dir)?;
        let mut thread = self.thread.lock();
        if thread.is_none() {
            *thread = self.pool.start()?;
        }
        Writer::start(self.disk.clone(), &self.dir, &self.config, found, &self.pool)
    }
}

impl Drop for NodeLog {
    fn drop(&mut self) {
        self.stop();
    }
}

fn refused(error: &Error) -> Error {
    Error::Unavailable(format!(
        "no changes are taken, because the log failed: {error}; check the disk, then mount again"
    ))
}

fn closed() -> Error {
    Error::Unavailable("the log is closed".into())
}
