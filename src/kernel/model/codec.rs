//! The one encoding of stored values: a format byte, then postcard.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Format byte of values written by this build. A value of another format is refused.
pub const VALUE_FORMAT: u8 = 1;

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    let mut out = Vec::with_capacity(64);
    out.push(VALUE_FORMAT);
    postcard::to_extend(value, out)
        .map(Bytes::from)
        .map_err(|error| Error::Io(format!("cannot encode a value: {error}")))
}

/// Decodes a value; anything but exactly one value of a known format is refused.
pub fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&VALUE_FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, more)) => Err(Error::Corrupt(format!("{what}: {} bytes too many", more.len()))),
            Err(error) => Err(Error::Corrupt(format!("{what}: {error}"))),
        },
        Some((format, _)) => Err(Error::UnknownVersion(format!("{what}: value format {format} is not known"))),
        None => Err(Error::Corrupt(format!("{what}: empty value"))),
    }
}
