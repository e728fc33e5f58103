//! Checksums of a sealed blob: one CRC-32C for each frame of 64 KiB, the last one shorter.
//! They lie beside the blob, whose own bytes stay exactly those that were written.
//!
//! File `sums/<blob>.sum`, integers big-endian:
//!
//! ```text
//!  0  8  magic "NXSSUMS\0"
//!  8  2  version, 1
//! 10  1  log2 of the frame's bytes, 16
//! 11  1  zero
//! 12  4  number of frames
//! 16  8  blob id
//! 24  8  bytes of the blob
//! 32     CRC-32C of each frame, 4 bytes each
//!     4  CRC-32C of all before it
//! ```

use nexus_kernel::disk::DiskFile;
use nexus_kernel::{BlobId, Error, Result};

/// Bytes of a frame.
pub const FRAME_BYTES: u64 = 1 << FRAME_LOG2;
const FRAME_LOG2: u8 = 16;
const MAGIC: &[u8; 8] = b"NXSSUMS\0";
const VERSION: u16 = 1;
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
    frames: Vec<u32>,
}

impl FrameSums {
    /// Checksums of the first `len` bytes of a file.
    pub fn of_file(id: BlobId, file: &dyn DiskFile, len: u64) -> Result<FrameSums> {
        let mut frames = Vec::with_capacity(usize::try_from(len.div_ceil(FRAME_BYTES)).unwrap_or(0));
        let mut buf = vec![0; READ_BYTES.min(len) as usize];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(READ_BYTES) as usize;
            let part = buf.get_mut(..step).unwrap_or_default();
            file.read_at(part, at)?;
            frames.extend(part.chunks(FRAME_BYTES as usize).map(crc32c::crc32c));
            at += step as u64;
        }
        Ok(FrameSums { id, len, frames })
    }

    /// Holds `data`, which is the blob from frame `first` on, against the checksums. `data`
    /// ends at the end of a frame or of the blob.
    pub fn check(&self, first: u64, data: &[u8]) -> Result<()> {
        for (index, frame) in (first..).zip(data.chunks(FRAME_BYTES as usize)) {
            let expected = usize::try_from(index).ok().and_then(|index| self.frames.get(index));
            if expected != Some(&crc32c::crc32c(frame)) {
                let start = index * FRAME_BYTES;
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
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[FRAME_LOG2, 0]);
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
        if version != VERSION {
            return Err(Error::UnknownVersion(format!("the checksums of blob {:016x} have version {version}", id.0)));
        }
        if crc32c::crc32c(rest) != u32::from_be_bytes(*stored) {
            return Err(bad("damaged"));
        }
        let len = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let (frames, tail) = sums.as_chunks::<4>();
        let shape = tail.is_empty()
            && log2 == FRAME_LOG2
            && frames.len() as u64 == len.div_ceil(FRAME_BYTES)
            && u64::from(u32::from_be_bytes([n0, n1, n2, n3])) == frames.len() as u64;
        if !shape {
            return Err(bad("its length and its head disagree"));
        }
        if u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]) != id.0 {
            return Err(bad("they are another blob's"));
        }
        Ok(FrameSums { id, len, frames: frames.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FrameSums {
        FrameSums { id: BlobId::new(3, 9), len: FRAME_BYTES + 1, frames: vec![0x01020304, 0xa0b0c0d0] }
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
        let data = vec![5u8; FRAME_BYTES as usize + 10];
        let frames = data.chunks(FRAME_BYTES as usize).map(crc32c::crc32c).collect();
        let sums = FrameSums { id: BlobId(1), len: data.len() as u64, frames };
        sums.check(0, &data).unwrap();
        sums.check(1, &data[FRAME_BYTES as usize..]).unwrap();
        let mut bad = data;
        bad[FRAME_BYTES as usize + 3] = 6;
        let Err(Error::Corrupt(text)) = sums.check(0, &bad) else { panic!("not noticed") };
        assert!(text.contains("65536") && text.contains("65546"), "{text}");
    }
}
