//! Names of segment files and walking through the records of one.

use std::path::{Path, PathBuf};

use nexus_kernel::Lsn;
use nexus_kernel::disk::Disk;
use nexus_kernel::error::Result;

use super::format::{ALIGN, HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader, SegmentHeader};

/// What a file of the log's folder is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileRole {
    /// `<number>.log`: a segment with records.
    Segment(u64),
    /// `<serial>.spare`: whole and ready for use.
    Spare(u64),
    /// `<serial>.new`: was being made.
    Unfinished(u64),
    /// Not the log's.
    Foreign,
}

impl FileRole {
    /// The role of the file of that name.
    pub fn of(name: &str) -> FileRole {
        let Some((digits, extension)) = name.split_once('.') else { return FileRole::Foreign };
        let shape = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (u64::from_str_radix(digits, 16), extension) {
            (Ok(number), "log") if shape => FileRole::Segment(number),
            (Ok(serial), "spare") if shape => FileRole::Spare(serial),
            (Ok(serial), "new") if shape => FileRole::Unfinished(serial),
            _ => FileRole::Foreign,
        }
    }
}

/// Path of a segment with records.
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// Path of a segment that is ready for use.
pub fn spare_path(dir: &Path, serial: u64) -> PathBuf {
    dir.join(format!("{serial:016x}.spare"))
}

/// Path of a segment that is being made.
pub fn unfinished_path(dir: &Path, serial: u64) -> PathBuf {
    dir.join(format!("{serial:016x}.new"))
}

/// A file's bytes, whole.
pub fn read_file(disk: &dyn Disk, path: &Path, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    disk.open(path)?.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The records of one segment, in order, from its header's first LSN up to `limit`
/// (exclusive). Ends at the first place that does not hold the record that comes next.
pub struct Records<'a> {
    bytes: &'a [u8],
    epoch: u32,
    next: Lsn,
    limit: Lsn,
    offset: usize,
}

impl<'a> Records<'a> {
    /// Over `bytes`, a segment with that header.
    pub fn new(bytes: &'a [u8], header: &SegmentHeader, limit: Lsn) -> Records<'a> {
        Records { bytes, epoch: header.epoch, next: header.first, limit, offset: HEADER_BYTES as usize }
    }

    /// LSN of the record that comes next, or would.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Where it is, or would be.
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (RecordHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.limit {
            return None;
        }
        let (header, payload) = RecordHeader::parse(self.bytes.get(self.offset..)?)?;
        if header.epoch != self.epoch || header.lsn != self.next {
            return None;
        }
        self.next = Lsn(self.next.0 + 1);
        self.offset += header.stored_bytes() as usize;
        Some((header, payload))
    }
}

/// What whole records behind a damaged place tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// Highest LSN that one of them says is durable.
    pub durable: Lsn,
    /// Highest epoch of them.
    pub epoch: u32,
}

/// Searches for whole records anywhere at or after `offset`, of these LSNs and of `epoch` at
/// the least: what earlier uses of the file left has older epochs or smaller LSNs.
pub fn evidence(bytes: &[u8], offset: u64, lsns: std::ops::Range<Lsn>, epoch: u32) -> Evidence {
    let mut found = Evidence::default();
    let mut at = offset as usize;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= RECORD_HEADER_BYTES) {
        let plausible = RecordHeader::peek(rest).is_some_and(|(e, lsn)| e >= epoch && lsns.contains(&lsn));
        match plausible.then(|| RecordHeader::parse(rest)).flatten() {
            Some((header, _)) => {
                found.durable = found.durable.max(header.durable);
                found.epoch = found.epoch.max(header.epoch);
                at += header.stored_bytes() as usize;
            }
            None => at += ALIGN,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        let dir = Path::new("log");
        let role = |path: PathBuf| FileRole::of(path.file_name().unwrap().to_str().unwrap());
        assert_eq!(role(segment_path(dir, 0x1f)), FileRole::Segment(0x1f));
        assert_eq!(role(spare_path(dir, 2)), FileRole::Spare(2));
        assert_eq!(role(unfinished_path(dir, u64::MAX)), FileRole::Unfinished(u64::MAX));
        for foreign in ["", "log", "1.log", "000000000000001F.log", "+00000000000001f.log", "000000000000001f.log.bak"]
        {
            assert_eq!(FileRole::of(foreign), FileRole::Foreign, "{foreign}");
        }
    }
}
