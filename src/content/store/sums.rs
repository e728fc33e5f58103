//! Checksums of a sealed blob: one CRC-32C for each frame, the last one shorter. A frame has 64 KiB,
//! or where less can be fetched from the blob's store 4 KiB, down to which reads are checked.
//! They lie beside the blob, whose own bytes stay exactly those that were written.
//!
//! File `sums/<blob>.sum`, integers big-endian:
//!
//! ```text
//!  0  8  magic "NXSSUMS\0"
//!  8  2  version: 1 for frames of 64 KiB, 2 for others
//! 10  1  log2 of the frame's bytes, 12 to 16
//! 11  1  zero
//! 12  4  number of frames
//! 16  8  blob id
//! 24  8  bytes of the blob
//! 32     CRC-32C of each frame, 4 bytes each
//!     4  CRC-32C of all before it
//! ```

use nexus_kernel::disk::DiskFile;
use nexus_kernel::{BlobId, Error, Result};

/// Most bytes of a frame.
pub const MOST_FRAME_BYTES: u64 = 1 << MOST_FRAME_LOG2;
const MOST_FRAME_LOG2: u8 = 16;
const LEAST_FRAME_LOG2: u8 = 12;
const MAGIC: &[u8; 8] = b"NXSSUMS\0";
/// Frames of the most bytes: what there was first, and is read by every version of the program.
const COARSE: u16 = 1;
const FINE: u16 = 2;
const HEAD_BYTES: usize = 32;
/// Bytes read at a time; a multiple of the frame's.
const READ_BYTES: u64 = 1 << 20;

/// A blob's checksums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameSums {
    /// Which blob.
    pub id: BlobId,
    /// Its bytes.
    pub len: u64,
    frame_log2: u8,
    frames: Vec<u32>,
}

impl FrameSums {
    /// Checksums of the first `len` bytes of a file, for a store that is read by `grain` bytes.
    pub fn of_file(id: BlobId, file: &dyn DiskFile, len: u64, grain: u64) -> Result<FrameSums> {
        let frame_log2 = frame_log2(grain);
        let frame_bytes = 1 << frame_log2;
        let mut frames = Vec::with_capacity(usize::try_from(len.div_ceil(frame_bytes)).unwrap_or(0));
        let mut buf = vec![0; READ_BYTES.min(len) as usize];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(READ_BYTES) as usize;
            let part = buf.get_mut(..step).unwrap_or_default();
            file.read_at(part, at)?;
            frames.extend(part.chunks(frame_bytes as usize).map(crc32c::crc32c));
            at += step as u64;
        }
        Ok(FrameSums { id, len, frame_log2, frames })
    }

    /// Checksums of all bytes of a blob, for a store that is read by `grain` bytes.
    pub fn of_bytes(id: BlobId, bytes: &[u8], grain: u64) -> FrameSums {
        let frame_log2 = frame_log2(grain);
        let frames = bytes.chunks(1 << frame_log2).map(crc32c::crc32c).collect();
        FrameSums { id, len: bytes.len() as u64, frame_log2, frames }
    }

    /// Of frames of 4 KiB with these checksums.
    #[cfg(test)]
    pub fn of_frames(id: BlobId, len: u64, frames: Vec<u32>) -> FrameSums {
        FrameSums { id, len, frame_log2: LEAST_FRAME_LOG2, frames }
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> u64 {
        1 << self.frame_log2
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<FrameSums>() + self.frames.capacity() * size_of::<u32>()
    }

    /// Holds `data`, which is the blob from byte `start` on, against the checksums. `data`
    /// begins with a frame, and ends with one or with the blob.
    pub fn check(&self, start: u64, data: &[u8]) -> Result<()> {
        let first = start >> self.frame_log2;
        for (index, frame) in (first..).zip(data.chunks(1 << self.frame_log2)) {
            let expected = usize::try_from(index).ok().and_then(|index| self.frames.get(index));
            if expected != Some(&crc32c::crc32c(frame)) {
                let start = index << self.frame_log2;
                return Err(Error::Corrupt(format!(
                    "blob {:016x} is damaged between bytes {start} and {}",
                    self.id.0,
                    start + frame.len() as u64
                )));
            }
        }
        Ok(())
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 4 * self.frames.len() + 4);
        out.extend_from_slice(MAGIC);
        let version = if self.frame_log2 == MOST_FRAME_LOG2 { COARSE } else { FINE };
        out.extend_from_slice(&version.to_be_bytes());
        out.extend_from_slice(&[self.frame_log2, 0]);
        out.extend_from_slice(&(self.frames.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        for crc in &self.frames {
            out.extend_from_slice(&crc.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads a file's bytes.
    pub fn decode(id: BlobId, bytes: &[u8]) -> Result<FrameSums> {
        let bad = |what: &str| Error::Corrupt(format!("the checksums of blob {:016x}: {what}", id.0));
        let (rest, stored) = bytes.split_last_chunk::<4>().ok_or_else(|| bad("too short"))?;
        let (head, sums) = rest.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| bad("too short"))?;
        let [
            magic @ ..,
            v0,
            v1,
            log2,
            _,
            n0,
            n1,
            n2,
            n3,
            i0,
            i1,
            i2,
            i3,
            i4,
            i5,
            i6,
            i7,
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            l6,
            l7,
        ] = *head;
        if magic != *MAGIC {
            return Err(bad("not a file of checksums"));
        }
        let version = u16::from_be_bytes([v0, v1]);
        if version != COARSE && version != FINE {
            return Err(Error::UnknownVersion(format!("the checksums of blob {:016x} have version {version}", id.0)));
        }
        if crc32c::crc32c(rest) != u32::from_be_bytes(*stored) {
            return Err(bad("damaged"));
        }
        let len = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let (frames, tail) = sums.as_chunks::<4>();
        let shape = tail.is_empty()
            && (LEAST_FRAME_LOG2..=MOST_FRAME_LOG2).contains(&log2)
            && (version == COARSE) == (log2 == MOST_FRAME_LOG2)
            && frames.len() as u64 == len.div_ceil(1 << log2)
            && u64::from(u32::from_be_bytes([n0, n1, n2, n3])) == frames.len() as u64;
        if !shape {
            return Err(bad("its length and its head disagree"));
        }
        if u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]) != id.0 {
            return Err(bad("they are another blob's"));
        }
        let frames = frames.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
        Ok(FrameSums { id, len, frame_log2: log2, frames })
    }
}

fn frame_log2(grain: u64) -> u8 {
    (grain.max(1).ilog2() as u8).clamp(LEAST_FRAME_LOG2, MOST_FRAME_LOG2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FrameSums {
        let frames = vec![0x01020304, 0xa0b0c0d0];
        FrameSums { id: BlobId::new(3, 9), len: MOST_FRAME_BYTES + 1, frame_log2: MOST_FRAME_LOG2, frames }
    }

    fn fine() -> FrameSums {
        let frames = vec![0x01020304, 0xa0b0c0d0];
        FrameSums { id: BlobId::new(3, 9), len: 4097, frame_log2: 12, frames }
    }

    #[test]
    fn format_version_1_is_fixed() {
        let mut expected = b"NXSSUMS\0".to_vec();
        expected.extend_from_slice(&[0, 1, 16, 0, 0, 0, 0, 2]);
        expected.extend_from_slice(&[0, 0, 3, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 1]);
        expected.extend_from_slice(&[1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0]);
        let crc = crc32c::crc32c(&expected);
        expected.extend_from_slice(&crc.to_be_bytes());
        assert_eq!(sample().encode(), expected);
        assert_eq!(FrameSums::decode(BlobId::new(3, 9), &expected).unwrap(), sample());
    }

    #[test]
    fn format_version_2_is_fixed() {
        let mut expected = b"NXSSUMS\0".to_vec();
        expected.extend_from_slice(&[0, 2, 12, 0, 0, 0, 0, 2]);
        expected.extend_from_slice(&[0, 0, 3, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x10, 1]);
        expected.extend_from_slice(&[1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0]);
        let crc = crc32c::crc32c(&expected);
        expected.extend_from_slice(&crc.to_be_bytes());
        assert_eq!(fine().encode(), expected);
        assert_eq!(FrameSums::decode(BlobId::new(3, 9), &expected).unwrap(), fine());
        // A version goes with its size of frames, and there is no third one.
        for (at, byte) in [(9, 1), (9, 3), (10, 16), (10, 11)] {
            let mut other = expected.clone();
            other[at] = byte;
            let body = other.len() - 4;
            let crc = crc32c::crc32c(&other[..body]);
            other[body..].copy_from_slice(&crc.to_be_bytes());
            assert!(FrameSums::decode(BlobId::new(3, 9), &other).is_err(), "{byte} at {at}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = sample().encode();
        let id = BlobId::new(3, 9);
        assert_eq!(FrameSums::decode(id, &good).unwrap(), sample());
        assert!(FrameSums::decode(BlobId::new(3, 8), &good).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameSums::decode(id, &bad).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(FrameSums::decode(id, &good[..cut]).is_err(), "cut to {cut}");
        }
    }

    #[test]
    fn a_frame_that_changed_is_named() {
        let data = vec![5u8; MOST_FRAME_BYTES as usize + 10];
        let frames = data.chunks(MOST_FRAME_BYTES as usize).map(crc32c::crc32c).collect();
        let sums = FrameSums { id: BlobId(1), len: data.len() as u64, frame_log2: MOST_FRAME_LOG2, frames };
        sums.check(0, &data).unwrap();
        sums.check(MOST_FRAME_BYTES, &data[MOST_FRAME_BYTES as usize..]).unwrap();
        let mut bad = data;
        bad[MOST_FRAME_BYTES as usize + 3] = 6;
        let Err(Error::Corrupt(text)) = sums.check(0, &bad) else { panic!("not noticed") };
        assert!(text.contains("65536") && text.contains("65546"), "{text}");
    }
}
