//! Reading a log folder when it is opened: which records there are, which of them must be
//! there, and where the torn tail begins. Changes no file.

use std::collections::BTreeSet;
use std::path::Path;

use nexus_kernel::content::ContentSync;
use nexus_kernel::disk::Disk;
use nexus_kernel::error::{Error, Result};
use nexus_kernel::{Command, Lsn, ZoneIndex};

use super::format::{
    HEADER_BYTES, HEADER_USED, NO_ZONE, ParsedHeader, RecordKind, SegmentHeader, mask_image, parse_image,
};
use super::segment::{FileRole, Records, evidence, read_file, segment_path};

/// A segment with what was found in it.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Its header.
    pub header: SegmentHeader,
    /// LSN after its last record; that of the header where there is none.
    pub end: Lsn,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Segments with the log's records, in order, without a gap in LSNs.
    pub segments: Vec<Scanned>,
    /// Segments that are no part of the log: what lies behind the cut.
    pub unused: Vec<u64>,
    /// Serials of ready segments, with their lengths.
    pub spares: Vec<(u64, u64)>,
    /// Serials of unfinished ones.
    pub unfinished: Vec<u64>,
    /// LSN after the last record.
    pub end: Lsn,
    /// Highest LSN that is known to be durable.
    pub durable: Lsn,
    /// Highest epoch seen.
    pub epoch: u32,
    /// Zones with commands.
    pub zones: BTreeSet<ZoneIndex>,
    /// Content has images that are not known to be on the medium where they belong.
    pub has_images: bool,
}

/// A segment file before its records are read.
struct Candidate {
    number: u64,
    len: u64,
    header: Option<SegmentHeader>,
}

/// Reads the folder.
pub fn scan(disk: &dyn Disk, dir: &Path, content: &dyn ContentSync) -> Result<Scan> {
    let mut scan = Scan { end: Lsn(1), ..Scan::default() };
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(Error::NotFound) => return Ok(scan),
        Err(error) => return Err(error),
    };
    let mut candidates = Vec::new();
    for (name, len) in names {
        match FileRole::of(&name) {
            FileRole::Segment(number) => candidates.push(candidate(disk, dir, number, len)?),
            FileRole::Spare(serial) => scan.spares.push((serial, len)),
            FileRole::Unfinished(serial) => scan.unfinished.push(serial),
            FileRole::Foreign => {}
        }
    }
    scan.epoch = candidates.iter().filter_map(|c| c.header).map(|header| header.epoch).max().unwrap_or(0);
    let ends = find_ends(disk, dir, &candidates)?;
    scan.durable = ends.durable;
    chain(&mut scan, dir, &candidates, &ends.segments)?;
    restore_images(&mut scan, disk, dir, &ends.segments, content)?;
    cut_unverified(&mut scan, disk, dir, content)?;
    let kept: BTreeSet<u64> = scan.segments.iter().map(|segment| segment.header.number).collect();
    scan.unused = candidates.iter().map(|c| c.number).filter(|number| !kept.contains(number)).collect();
    Ok(scan)
}

fn candidate(disk: &dyn Disk, dir: &Path, number: u64, len: u64) -> Result<Candidate> {
    let path = segment_path(dir, number);
    let header = match read_file(disk, &path, len.min(HEADER_USED as u64)).map(|bytes| SegmentHeader::parse(&bytes))? {
        ParsedHeader::Good(header) if header.number != number => None,
        ParsedHeader::Good(header) if header.segment_bytes != len => {
            return Err(Error::Corrupt(format!(
                "log segment {} is {len} bytes long and should be {}; {ADVICE}",
                path.display(),
                header.segment_bytes
            )));
        }
        ParsedHeader::Good(header) => Some(header),
        ParsedHeader::UnknownVersion(version) => {
            return Err(Error::UnknownVersion(format!(
                "log segment {} has format {version}, which this build does not know; use the build that wrote it",
                path.display()
            )));
        }
        ParsedHeader::Bad => None,
    };
    Ok(Candidate { number, len, header })
}

/// Where the records of one segment end.
struct End {
    lsn: Lsn,
    offset: u64,
    zones: BTreeSet<ZoneIndex>,
    has_images: bool,
    /// Whether the log was closed after what is here.
    is_clean: bool,
}

struct Ends {
    segments: Vec<Option<End>>,
    durable: Lsn,
}

/// Walks each segment and collects what is known to be durable.
fn find_ends(disk: &dyn Disk, dir: &Path, candidates: &[Candidate]) -> Result<Ends> {
    let mut ends = Ends { segments: Vec::new(), durable: Lsn(0) };
    for (i, candidate) in candidates.iter().enumerate() {
        let limit = limit_of(candidates, i);
        let path = segment_path(dir, candidate.number);
        let bytes = read_file(disk, &path, candidate.len)?;
        let end = candidate.header.map(|header| {
            let mut durable = header.durable;
            let mut zones = BTreeSet::new();
            let (mut has_images, mut is_clean) = (false, false);
            let mut records = Records::new(&bytes, &header, limit);
            for (record, _) in records.by_ref() {
                durable = durable.max(record.durable);
                if record.zone != NO_ZONE {
                    zones.insert(record.zone);
                }
                has_images |= record.kind == RecordKind::Image;
                is_clean |= record.kind == RecordKind::Clean;
            }
            let end = End { lsn: records.next_lsn(), offset: records.offset(), zones, has_images, is_clean };
            if end.lsn < limit {
                durable = durable.max(evidence(&bytes, end.offset, end.lsn..limit, header.epoch).durable);
            }
            ends.durable = ends.durable.max(durable);
            end
        });
        if end.is_none() {
            let before = candidates.iter().take(i).rev().find_map(|c| c.header).map_or(0, |header| header.epoch);
            let found = evidence(&bytes, HEADER_BYTES, Lsn(0)..limit, before);
            if found.epoch > before {
                // An opening makes its first header durable before it writes a record.
                return Err(damaged_header(&path, "it was safely on disk"));
            }
            ends.durable = ends.durable.max(found.durable);
        }
        ends.segments.push(end);
    }
    Ok(ends)
}

/// First LSN of the next segment that is whole: what a segment holds from there on was cut off.
fn limit_of(candidates: &[Candidate], i: usize) -> Lsn {
    candidates.iter().skip(i + 1).find_map(|c| c.header).map_or(Lsn(u64::MAX), |header| header.first)
}

/// Puts the segments together, up to the first record that is missing; refuses where that
/// record must be there.
fn chain(scan: &mut Scan, dir: &Path, candidates: &[Candidate], ends: &[Option<End>]) -> Result<()> {
    for (i, (candidate, end)) in candidates.iter().zip(ends).enumerate() {
        let last = scan.segments.last().map(|last| last.header);
        let missing = last.map(|last| last.number + 1).filter(|number| *number != candidate.number);
        let follows = |header: &SegmentHeader| {
            missing.is_none() && last.is_none_or(|last| header.first == scan.end && header.epoch >= last.epoch)
        };
        let (Some(header), Some(end)) = (candidate.header.filter(follows), end) else {
            if scan.durable >= scan.end {
                let path = segment_path(dir, missing.unwrap_or(candidate.number));
                return Err(damaged_header(
                    &path,
                    &format!("everything up to record {} was safely on disk", scan.durable),
                ));
            }
            return Ok(());
        };
        scan.end = end.lsn;
        scan.zones.extend(&end.zones);
        scan.segments.push(Scanned { header, end: end.lsn });
        // Where the next file is no segment, that is what is to be told.
        let next = candidates.get(i + 1);
        let next_follows = next.is_none_or(|next| next.header.is_some() && next.number == header.number + 1);
        if end.lsn < limit_of(candidates, i) && next_follows {
            if scan.durable >= end.lsn {
                return Err(damaged(&segment_path(dir, header.number), end.lsn, end.offset, scan.durable));
            }
            return Ok(());
        }
    }
    Ok(())
}

fn damaged(path: &Path, lsn: Lsn, offset: u64, durable: Lsn) -> Error {
    Error::Corrupt(format!(
        "log segment {}: record {lsn} at byte {offset} is damaged or missing, though everything up to record {durable} was safely on disk; {ADVICE}",
        path.display()
    ))
}

fn damaged_header(path: &Path, why: &str) -> Error {
    Error::Corrupt(format!(
        "log segment {} is missing, or its header is damaged, though {why}; {ADVICE}",
        path.display()
    ))
}

/// What to do about a damaged log.
pub const ADVICE: &str = "nothing was changed; check the disk, then restore the data folder from a backup";

/// Gives content back its images. Only those of the last opening count, if that was not
/// closed: all others were settled, and what they cover may have been given away anew. Even
/// one that is going to be cut off holds bytes that were written.
fn restore_images(
    scan: &mut Scan,
    disk: &dyn Disk,
    dir: &Path,
    ends: &[Option<End>],
    content: &dyn ContentSync,
) -> Result<()> {
    let Some(epoch) = scan.segments.last().map(|last| last.header.epoch) else { return Ok(()) };
    // Segments with records are the first of the candidates.
    let found = scan.segments.iter().zip(ends.iter().flatten()).filter(|(segment, _)| segment.header.epoch == epoch);
    let found: Vec<_> = found.collect();
    if found.iter().any(|(_, end)| end.is_clean) {
        return Ok(());
    }
    let mut plain = Vec::new();
    for (segment, _) in found.into_iter().filter(|(_, end)| end.has_images) {
        let path = segment_path(dir, segment.header.number);
        let bytes = read_file(disk, &path, segment.header.segment_bytes)?;
        for (record, payload) in Records::new(&bytes, &segment.header, segment.end) {
            if record.kind != RecordKind::Image {
                continue;
            }
            plain.clear();
            plain.extend_from_slice(payload);
            mask_image(record.epoch, record.lsn, &mut plain);
            let Some(image) = parse_image(&plain) else {
                return Err(Error::Corrupt(format!(
                    "log segment {}: record {} is no image of content; {ADVICE}",
                    path.display(),
                    record.lsn
                )));
            };
            content.restore(image)?;
            scan.has_images = true;
        }
    }
    Ok(())
}

/// Holds the content of the records that are not known to be durable against their
/// checksums, and ends the log before the first whose content is not there.
fn cut_unverified(scan: &mut Scan, disk: &dyn Disk, dir: &Path, content: &dyn ContentSync) -> Result<()> {
    let mut cut = None;
    for (i, segment) in scan.segments.iter().enumerate() {
        if segment.end.0 <= scan.durable.0 + 1 {
            continue;
        }
        let path = segment_path(dir, segment.header.number);
        let bytes = read_file(disk, &path, segment.header.segment_bytes)?;
        for (record, payload) in Records::new(&bytes, &segment.header, segment.end) {
            if record.lsn > scan.durable && record.kind == RecordKind::Command && !is_content_there(payload, content)? {
                log::warn!(
                    "{}: the content that record {} points at did not reach the disk before the crash; the last {} changes, which nobody had synced, are gone",
                    path.display(),
                    record.lsn,
                    scan.end.0 - record.lsn.0
                );
                cut = Some((i, record.lsn));
                break;
            }
        }
        if cut.is_some() {
            break;
        }
    }
    if let Some((i, lsn)) = cut {
        scan.segments.truncate(i + 1);
        if let Some(last) = scan.segments.last_mut() {
            last.end = lsn;
        }
        scan.end = lsn;
    }
    Ok(())
}

fn is_content_there(payload: &[u8], content: &dyn ContentSync) -> Result<bool> {
    let command = Command::decode(payload)?;
    for piece in command.pieces() {
        if !content.verify(piece)? {
            return Ok(false);
        }
    }
    Ok(true)
}
