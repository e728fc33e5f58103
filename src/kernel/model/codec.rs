//! The one encoding of stored values: a format byte, then postcard.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Format byte of values written by this build. A value of another format is refused.
pub const VALUE_FORMAT: u8 = 1;

/// Length up to which a value is encoded without an allocation but for the bytes themselves.
const SHORT: usize = 128;

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    let mut short = [0; SHORT];
    let (format, rest) = short.split_at_mut(1);
    format.fill(VALUE_FORMAT);
    if let Ok(used) = postcard::to_slice(value, rest) {
        let len = 1 + used.len();
        return Ok(Bytes::copy_from_slice(short.get(..len).unwrap_or_default()));
    }
    let mut out = Vec::with_capacity(2 * SHORT);
    out.push(VALUE_FORMAT);
    postcard::to_extend(value, out)
        .map(Bytes::from)
        .map_err(|error| Error::Io(format!("cannot encode a value: {error}")))
}

/// Decodes a value; anything but exactly one value of a known format is refused.
pub fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    decode_borrowed(what, bytes)
}

/// As [`decode`], for values that refer to `bytes`.
pub(super) fn decode_borrowed<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
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
