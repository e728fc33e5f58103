//! Keys of every table: big-endian, so that byte order is number order.

use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino};
use crate::metastore::Key;

/// Key of an inode, symlink or orphan.
pub fn ino(ino: Ino) -> Key {
    Key::from_slice(&ino.0.to_be_bytes())
}

/// Key of a blob.
pub fn blob(blob: BlobId) -> Key {
    Key::from_slice(&blob.0.to_be_bytes())
}

/// Key of the dentry at `position` of `parent`.
pub fn dentry(parent: Ino, position: u64) -> Key {
    pair(parent.0, position)
}

/// Key of the extent of `ino` that starts at `offset`.
pub fn extent(ino: Ino, offset: u64) -> Key {
    pair(ino.0, offset)
}

/// Key of the note that `ino` has extents in `blob`.
pub fn blob_ref(blob: BlobId, ino: Ino) -> Key {
    pair(blob.0, ino.0)
}

/// Key of an extended attribute.
pub fn xattr(ino: Ino, name: &[u8]) -> Key {
    let mut key = Key::from_slice(&ino.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Key of a setting.
pub fn sys(name: &str) -> Key {
    Key::from_slice(name.as_bytes())
}

/// Two numbers, as one key.
pub fn pair(high: u64, low: u64) -> Key {
    let mut key = Key::from_slice(&high.to_be_bytes());
    key.extend_from_slice(&low.to_be_bytes());
    key
}

/// First key and the key after the last of all that start with `high`.
pub fn prefix(high: u64) -> (Key, Key) {
    (Key::from_slice(&high.to_be_bytes()), Key::from_slice(&high.saturating_add(1).to_be_bytes()))
}

/// Reads an eight-byte key.
pub fn parse_one(key: &[u8]) -> Result<u64> {
    <[u8; 8]>::try_from(key).map(u64::from_be_bytes).map_err(|_| bad(key))
}

/// Reads a sixteen-byte key.
pub fn parse_pair(key: &[u8]) -> Result<(u64, u64)> {
    let (high, low) = key.split_at_checked(8).ok_or_else(|| bad(key))?;
    Ok((parse_one(high)?, parse_one(low)?))
}

/// Name part of an attribute's key.
pub fn parse_xattr_name(key: &[u8]) -> Result<&[u8]> {
    key.get(8..).filter(|name| !name.is_empty()).ok_or_else(|| bad(key))
}

fn bad(key: &[u8]) -> Error {
    Error::Corrupt(format!("a key of {} bytes has the wrong shape", key.len()))
}
