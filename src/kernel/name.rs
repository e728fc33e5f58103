//! A checked file name.

use crate::error::{Error, Result};

/// A name that can stand in a directory: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Name<'a>> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(Error::NameTooLong);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(Error::Invalid);
        }
        Ok(Name(bytes))
    }

    /// The bytes of the name.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}
