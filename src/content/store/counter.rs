//! Numbers for new blobs, never handed out twice, even where all trace of a blob is gone.
//!
//! File `segments/counter`, 32 bytes, integers big-endian: magic `NXSCOUNT`, version `u32` (1),
//! writer `u32`, limit `u64`, zero `u32`, CRC-32C of what is before it. All numbers below the
//! limit count as used when a store opens. It is replaced by rename.

use std::sync::Arc;

use nexus_kernel::disk::Disk;
use nexus_kernel::{BlobId, Error, Result, StoreId};

use super::layout::Layout;

const MAGIC: &[u8; 8] = b"NXSCOUNT";
const VERSION: u32 = 1;
const BYTES: usize = 32;
/// Numbers reserved with one write of the file.
const STEP: u64 = 1 << 16;

/// Hands out blob ids.
pub struct BlobCounter {
    disk: Arc<dyn Disk>,
    layout: Layout,
    writer: u32,
    next: u64,
    limit: u64,
}

impl BlobCounter {
    /// Reads the file; without one, counting starts at 1.
    pub fn open(disk: Arc<dyn Disk>, layout: Layout, writer: u32) -> Result<BlobCounter> {
        let path = layout.counter();
        let stored = match disk.open(&path) {
            Ok(file) => {
                let mut bytes = [0; BYTES];
                let parsed = match file.len()? {
                    32 => {
                        file.read_at(&mut bytes, 0)?;
                        decode(&bytes)
                    }
                    len => Err(format!("{len} bytes long")),
                };
                parsed.map_err(|what| {
                    let path = path.display();
                    Error::Corrupt(format!(
                        "{path} is damaged ({what}); if it is removed, it is made anew from the blobs that are there"
                    ))
                })?
            }
            Err(Error::NotFound) => (writer, 1),
            Err(error) => return Err(error),
        };
        let next = if stored.0 == writer { stored.1.max(1) } else { 1 };
        Ok(BlobCounter { disk, layout, writer, next, limit: 0 })
    }

    /// Notes that a blob exists.
    pub fn seen(&mut self, id: BlobId) {
        let (writer, counter) = id.origin();
        if writer == self.writer {
            self.next = self.next.max(counter + 1);
        }
    }

    /// A number that was never handed out before.
    pub fn allocate(&mut self, store: StoreId) -> Result<BlobId> {
        if self.next >= self.limit {
            let limit = self.next + STEP;
            if limit >= 1 << BlobId::COUNTER_BITS {
                return Err(Error::Unavailable("this writer has used up its blob numbers".into()));
            }
            self.store(limit)?;
            self.limit = limit;
        }
        let id = BlobId::in_store(self.writer, store, self.next);
        self.next += 1;
        Ok(id)
    }

    fn store(&self, limit: u64) -> Result<()> {
        let (path, new) = (self.layout.counter(), self.layout.counter_new());
        match self.disk.remove(&new) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        let file = self.disk.create(&new)?;
        file.write_at(&encode(self.writer, limit), 0)?;
        file.sync_data()?;
        self.disk.rename(&new, &path)?;
        self.disk.sync_dir(&self.layout.segments)
    }
}

fn encode(writer: u32, limit: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&writer.to_be_bytes());
    out.extend_from_slice(&limit.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

fn decode(bytes: &[u8; BYTES]) -> std::result::Result<(u32, u64), String> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, v2, v3, w0, w1, w2, w3, l @ .., _, _, _, _, c0, c1, c2, c3] = *bytes;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != *MAGIC {
        return Err("it is not a counter".into());
    }
    let version = u32::from_be_bytes([v0, v1, v2, v3]);
    if version != VERSION {
        return Err(format!("version {version} is not known"));
    }
    let (body, _) = bytes.split_at(BYTES - 4);
    if crc32c::crc32c(body) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err("checksum".into());
    }
    Ok((u32::from_be_bytes([w0, w1, w2, w3]), u64::from_be_bytes(l)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(0x123456, 0x0123_4567_89ab);
        assert_eq!(decode(good.as_slice().try_into().unwrap()), Ok((0x123456, 0x0123_4567_89ab)));
        for bit in 0..good.len() * 8 {
            let mut bad: [u8; BYTES] = good.as_slice().try_into().unwrap();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn format_version_1_is_fixed() {
        let mut expected = b"NXSCOUNT".to_vec();
        expected.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
        let crc = crc32c::crc32c(&expected);
        expected.extend_from_slice(&crc.to_be_bytes());
        assert_eq!(encode(7, 0x10001), expected);
    }
}
