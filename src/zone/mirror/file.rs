//! One blob's copy: records of a head and the bytes that it tells of, one after the other.
//!
//! A head says how much of the file was durable when it was written. What is behind the
//! largest such length may have come to the disk in any order before a crash, and is held
//! against its checksum when the file is opened; all before it is as it was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::disk::DiskFile;
use nexus_kernel::{BlobId, Error, Result};
use parking_lot::Mutex;

use super::ranges::Ranges;

const MAGIC: [u8; 4] = *b"NXM1";
const HEAD: usize = 32;
/// Bytes that are read at a time where they are held against a checksum.
const STEP: usize = 256 << 10;

/// What stands before some bytes.
struct Head {
    /// Where in the blob they belong.
    offset: u64,
    len: u32,
    crc: u32,
    /// Bytes of the file that were durable.
    durable: u64,
}

impl Head {
    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let fields = [
            &MAGIC[..],
            &self.offset.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.crc.to_le_bytes(),
            &self.durable.to_le_bytes(),
        ];
        let joined = fields.concat();
        let crc = crc32c::crc32c(&joined).to_le_bytes();
        for (to, from) in bytes.iter_mut().zip(joined.iter().chain(&crc)) {
            *to = *from;
        }
        bytes
    }

    fn decode(bytes: &[u8; HEAD]) -> Option<Head> {
        let (fields, crc) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(fields) {
            return None;
        }
        let rest = fields.strip_prefix(&MAGIC)?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let (durable, _) = rest.split_first_chunk::<8>()?;
        Some(Head {
            offset: u64::from_le_bytes(*offset),
            len: u32::from_le_bytes(*len),
            crc: u32::from_le_bytes(*crc),
            durable: u64::from_le_bytes(*durable),
        })
    }
}

/// A blob's copy.
pub struct MirrorFile {
    file: Arc<dyn DiskFile>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By offset in the blob: how many bytes lie where in the file. No two overlap.
    index: BTreeMap<u64, (u64, u64)>,
    end: u64,
    durable: u64,
}

impl State {
    fn covered(&self) -> Ranges {
        let mut ranges = Ranges::default();
        self.index.iter().for_each(|(offset, (len, _))| ranges.add(*offset, offset + len));
        ranges
    }

    /// The gaps in `[start, end)`.
    fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut near = Ranges::default();
        let first = self.index.range(..=start).next_back();
        for (offset, (len, _)) in first.into_iter().chain(self.index.range(start..end)) {
            near.add(*offset, offset + len);
        }
        near.missing(start, end)
    }

    /// Notes bytes of the blob that lie at `at` in the file; what was there before stays, as
    /// a blob's bytes never change.
    fn note(&mut self, offset: u64, len: u64, at: u64) {
        for (start, end) in self.missing(offset, offset + len) {
            self.index.insert(start, (end - start, at + (start - offset)));
        }
    }
}

impl MirrorFile {
    /// A copy with what an earlier run left in `file`.
    pub fn open(blob: BlobId, file: Arc<dyn DiskFile>) -> Result<MirrorFile> {
        let len = file.len()?;
        let mut records = Vec::new();
        let (mut at, mut durable) = (0, 0);
        let mut bytes = [0; HEAD];
        while at + HEAD as u64 <= len {
            file.read_at(&mut bytes, at)?;
            let Some(head) = Head::decode(&bytes) else { break };
            let end = at + HEAD as u64 + u64::from(head.len);
            if end > len || head.offset.checked_add(u64::from(head.len)).is_none() {
                break;
            }
            durable = durable.max(head.durable);
            records.push((at, head));
            at = end;
        }
        let mut state = State { durable, ..State::default() };
        for (at, head) in &records {
            let start = at + HEAD as u64;
            let end = start + u64::from(head.len);
            if end > durable && !is_whole(&*file, start, head)? {
                break;
            }
            state.note(head.offset, u64::from(head.len), start);
            state.end = end;
        }
        if state.end < durable {
            log::error!("the copy of blob {:016x} is damaged from byte {} on; it is fetched again", blob.0, state.end);
        }
        if state.end < len {
            file.set_len(state.end)?;
        }
        state.durable = durable.min(state.end);
        Ok(MirrorFile { file, state: Mutex::new(state) })
    }

    /// Adds bytes of the blob; they are durable after [`MirrorFile::sync`].
    pub fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| Error::Invalid)?;
        let to = offset.checked_add(u64::from(len)).ok_or(Error::Invalid)?;
        let mut state = self.state.lock();
        if state.missing(offset, to).is_empty() {
            return Ok(());
        }
        let head = Head { offset, len, crc: crc32c::crc32c(bytes), durable: state.durable };
        let record = [&head.encode()[..], bytes].concat();
        self.file.write_at(&record, state.end)?;
        let at = state.end + HEAD as u64;
        state.note(offset, u64::from(len), at);
        state.end = at + u64::from(len);
        Ok(())
    }

    /// Makes durable what was put before.
    pub fn sync(&self) -> Result<()> {
        let end = {
            let state = self.state.lock();
            if state.durable >= state.end {
                return Ok(());
            }
            state.end
        };
        self.file.sync_data()?;
        let mut state = self.state.lock();
        state.durable = state.durable.max(end);
        Ok(())
    }

    /// Fills `buf`, if all of it is here.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let end = offset.checked_add(buf.len() as u64).ok_or(Error::Invalid)?;
        let parts: Vec<(u64, u64, u64)> = {
            let state = self.state.lock();
            if !state.missing(offset, end).is_empty() {
                return Ok(false);
            }
            let first = state.index.range(..=offset).next_back();
            let parts = first.into_iter().chain(state.index.range(offset.saturating_add(1)..end));
            parts.map(|(start, (len, at))| (*start, *len, *at)).collect()
        };
        for (start, len, at) in parts {
            let (from, to) = (start.max(offset), (start + len).min(end));
            let target = usize::try_from(from - offset).ok().zip(usize::try_from(to - offset).ok());
            let target = target.and_then(|(from, to)| buf.get_mut(from..to)).ok_or(Error::Invalid)?;
            self.file.read_at(target, at + (from - start))?;
        }
        Ok(true)
    }

    /// What is here and durable.
    pub fn durable(&self) -> Result<Ranges> {
        self.sync()?;
        Ok(self.state.lock().covered())
    }

    /// Bytes of the file, and how many ranges it keeps in memory.
    pub fn size(&self) -> (u64, usize) {
        let state = self.state.lock();
        (state.end, state.index.len())
    }
}

fn is_whole(file: &dyn DiskFile, start: u64, head: &Head) -> Result<bool> {
    let mut buf = vec![0; STEP.min(head.len as usize)];
    let (mut at, mut left, mut crc) = (start, head.len as usize, 0);
    while left > 0 {
        let step = left.min(buf.len());
        let part = buf.get_mut(..step).unwrap_or_default();
        file.read_at(part, at)?;
        crc = crc32c::crc32c_append(crc, part);
        at += step as u64;
        left -= step;
    }
    Ok(crc == head.crc)
}
