//! Directory entries and their places.
//!
//! An entry's place in its directory is a number that never changes while the entry lives:
//! 55 bits of a hash of its name, then 8 bits that tell entries of equal hash apart. It is
//! at once the key, the order of readdir and the cookie of seekdir, so a listing goes on
//! exactly where it was, however the directory changes meanwhile. Keys by name would need
//! a second index for the cookies.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::Ino;
use crate::model::{FileKind, codec};

/// Low bits of a position, which tell names of equal hash apart.
pub const SLOT_BITS: u32 = 8;

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dentry {
    /// The inode that the name means.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// The name, 1 to 255 bytes.
    pub name: Bytes,
}

/// As [`Dentry`], within the bytes that it was decoded from.
#[derive(Deserialize)]
struct Borrowed<'a> {
    ino: Ino,
    kind: FileKind,
    name: &'a [u8],
}

impl Dentry {
    /// Decodes an entry; its name is a part of `bytes`, which are not copied.
    pub fn decode(bytes: &Bytes) -> Result<Dentry> {
        let Borrowed { ino, kind, name } = codec::decode_borrowed("dentry", bytes)?;
        Ok(Dentry { ino, kind, name: bytes.slice_ref(name) })
    }
}

/// Bits of the hash. Few in this crate's own tests, so that every one of them also runs
/// through names of equal hash.
const HASH_BITS: u32 = if cfg!(test) { 5 } else { 55 };

/// First position that `name` can have; it has this one or one of the 255 after it. Never
/// below 256, so that cookies 0 to 255 are free, and below 2^63, so that they are `off_t`s.
/// `seed` is the zone's own, so that nobody outside can make names collide on purpose.
pub fn name_hash(seed: u64, name: &[u8]) -> u64 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, seed);
    (hash >> (64 - HASH_BITS)).max(1) << SLOT_BITS
}
