//! How a blob lies in an object: its frames one after the other, each compressed and then
//! encrypted on its own; a table of their lengths; and a footer.
//!
//! ```text
//! frame 0, frame 1, ...      65,536 bytes of the blob each, the last one what is left
//! table                      u32 a frame: bytes stored; the highest bit if compressed
//! footer                     96 bytes, integers big-endian:
//!   magic "NXSCODED"  version u8 (1)  compression u8  encrypted u8  0 u8  frames u32
//!   blob's bytes u64  key's mark 8 bytes  salt 32 bytes  0 [16]  tag 16 bytes
//! ```
//!
//! The tag is AES-256-GCM's of table and footer, or their CRC-32C and zeros if nothing is
//! encrypted. Frame `n` is message `n` under the object's key; the blob's id, its length and
//! the frame's number and entry of the table are authenticated with it, so that no frame can
//! stand in for another, and no object for another or a shorter one.

use nexus_kernel::ids::BlobId;

use super::keys::{Cipher, KeyId};

/// Bytes of a frame, as checksums and the cache have it.
pub const FRAME: u64 = 64 << 10;
/// Bytes of the footer.
pub const FOOTER: usize = 96;
/// Bytes of the salt.
pub const SALT: usize = 32;
/// Bytes that encryption adds to a frame, and the length of a tag.
pub const TAG: usize = 16;
/// Bytes of the longest blob that is read: its table is 4 MiB.
pub const MOST_BYTES: u64 = FRAME << 20;
/// Marks a compressed frame in the table.
const COMPRESSED: u32 = 1 << 31;
/// Number of the message that authenticates table and footer.
const FOOTER_MESSAGE: u64 = 1 << 63;

const MAGIC: &[u8; 8] = b"NXSCODED";
const VERSION: u8 = 1;

/// How frames are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4's block format: fast.
    Lz4,
    /// Zstandard of this level, 1 to 19: smaller.
    Zstd(u8),
}

impl Compression {
    fn number(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd(_) => 2,
        }
    }

    /// A frame made smaller; `None` if it can't be.
    pub fn compress(self, plain: &[u8]) -> Option<Vec<u8>> {
        let small = match self {
            Compression::None => return None,
            Compression::Lz4 => lz4_flex::block::compress(plain),
            Compression::Zstd(level) => zstd::bulk::compress(plain, i32::from(level)).ok()?,
        };
        (small.len() < plain.len()).then_some(small)
    }

    /// A frame of `len` bytes brought back; `None` if it is none.
    fn expand(self, small: &[u8], len: usize) -> Option<Vec<u8>> {
        let plain = match self {
            Compression::None => return None,
            Compression::Lz4 => lz4_flex::block::decompress(small, len).ok()?,
            Compression::Zstd(_) => zstd::bulk::decompress(small, len).ok()?,
        };
        (plain.len() == len).then_some(plain)
    }
}

/// What a footer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    pub compression: Compression,
    /// The key's mark, if it is encrypted.
    pub key: Option<KeyId>,
    pub frames: u32,
    pub len: u64,
    pub salt: [u8; SALT],
}

impl Footer {
    /// Everything but the tag.
    fn head(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, self.compression.number(), u8::from(self.key.is_some()), 0]);
        out.extend_from_slice(&self.frames.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.key.unwrap_or_default());
        out.extend_from_slice(&self.salt);
        out.resize(FOOTER - TAG, 0);
        out
    }

    /// Bytes of table and footer.
    pub fn tail_len(&self) -> u64 {
        4 * u64::from(self.frames) + FOOTER as u64
    }

    /// Table and footer, as they are stored.
    pub fn encode(&self, table: &[u32], id: BlobId, cipher: Option<&Cipher>) -> Option<Vec<u8>> {
        let mut out: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        out.extend(self.head());
        let mut tag = Vec::new();
        match cipher {
            Some(cipher) => cipher.seal(FOOTER_MESSAGE, &context(id, &out), &mut tag)?,
            None => {
                tag.extend(crc32c(&out).to_be_bytes());
                tag.resize(TAG, 0);
            }
        }
        out.extend(tag);
        Some(out)
    }

    /// What the last bytes of an object say, before it is known whether they are genuine.
    pub fn parse(bytes: &[u8; FOOTER]) -> Result<Footer, &'static str> {
        let mut rest = bytes.as_slice();
        let mut take = |n: usize| -> &[u8] {
            let (head, tail) = rest.split_at_checked(n).unwrap_or_default();
            rest = tail;
            head
        };
        if take(8) != MAGIC {
            return Err("it was not stored by this file system, or not with compression and encryption");
        }
        let (version, compression, encrypted) = match take(4) {
            [version, compression, encrypted, _] => (*version, *compression, *encrypted),
            _ => return Err("it is cut short"),
        };
        if version != VERSION {
            return Err("its format is not known");
        }
        let compression = match compression {
            0 => Compression::None,
            1 => Compression::Lz4,
            2 => Compression::Zstd(0),
            _ => return Err("its compression is not known"),
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let (frames, len) = (number(take(4)) as u32, number(take(8)));
        let key: KeyId = take(8).try_into().unwrap_or_default();
        let salt: [u8; SALT] = take(SALT).try_into().unwrap_or_default();
        if len > MOST_BYTES || u64::from(frames) != len.div_ceil(FRAME) {
            return Err("its length is none");
        }
        Ok(Footer { compression, key: (encrypted == 1).then_some(key), frames, len, salt })
    }

    /// The table in the last bytes of an object, if all of it is genuine.
    pub fn open_table(&self, tail: &[u8], id: BlobId, cipher: Option<&Cipher>) -> Result<Vec<u32>, &'static str> {
        let (body, tag) = tail.split_at_checked(tail.len().saturating_sub(TAG)).ok_or("it is cut short")?;
        let genuine = match cipher {
            Some(cipher) => cipher.open(FOOTER_MESSAGE, &context(id, body), &mut tag.to_vec()).is_some(),
            None => tag.strip_prefix(&crc32c(body).to_be_bytes()).is_some_and(|rest| rest.iter().all(|b| *b == 0)),
        };
        if !genuine {
            return Err("its end is damaged");
        }
        let table = body.get(..4 * self.frames as usize).ok_or("it is cut short")?;
        Ok(table.chunks(4).map(|entry| entry.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))).collect())
    }

    /// Bytes of frame `n` of the blob.
    fn frame_len(&self, n: u64) -> usize {
        self.len.saturating_sub(n * FRAME).min(FRAME) as usize
    }

    /// What is stored of frame `n`, and its entry of the table.
    pub fn encode_frame(&self, n: u64, plain: &[u8], id: BlobId, cipher: Option<&Cipher>) -> Option<(u32, Vec<u8>)> {
        let small = self.compression.compress(plain);
        let flag = if small.is_some() { COMPRESSED } else { 0 };
        let mut stored = small.unwrap_or_else(|| plain.to_vec());
        let added = if cipher.is_some() { TAG } else { 0 };
        let entry = flag | u32::try_from(stored.len() + added).ok()?;
        if let Some(cipher) = cipher {
            cipher.seal(n, &self.frame_context(n, entry, id), &mut stored)?;
        }
        Some((entry, stored))
    }

    /// Frame `n` from what is stored of it; `None` if it is not genuine.
    pub fn decode_frame(
        &self,
        n: u64,
        entry: u32,
        stored: &[u8],
        id: BlobId,
        cipher: Option<&Cipher>,
    ) -> Option<Vec<u8>> {
        let mut bytes = stored.to_vec();
        if let Some(cipher) = cipher {
            let len = cipher.open(n, &self.frame_context(n, entry, id), &mut bytes)?.len();
            bytes.truncate(len);
        }
        let len = self.frame_len(n);
        match entry & COMPRESSED {
            0 => (bytes.len() == len).then_some(bytes),
            _ => self.compression.expand(&bytes, len),
        }
    }

    fn frame_context(&self, n: u64, entry: u32, id: BlobId) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        for number in [id.0, self.len, n, u64::from(entry)] {
            out.extend(number.to_be_bytes());
        }
        out
    }
}

/// Bytes that an entry of the table stands for.
pub fn stored_len(entry: u32) -> u64 {
    u64::from(entry & !COMPRESSED)
}

fn context(id: BlobId, body: &[u8]) -> Vec<u8> {
    [&id.0.to_be_bytes(), body].concat()
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
