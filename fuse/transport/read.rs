//! Reading structures of the protocol, never past their end.

use crate::request::ParseError;

/// Takes values from the front of some bytes, in the machine's byte order, as the kernel
/// writes them.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What has not been taken.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], ParseError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ParseError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ParseError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Result<u16, ParseError> {
        Ok(u16::from_ne_bytes(self.array()?))
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32, ParseError> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64, ParseError> {
        Ok(u64::from_ne_bytes(self.array()?))
    }

    /// Passes over `len` bytes.
    pub fn skip(&mut self, len: usize) -> Result<(), ParseError> {
        self.bytes(len).map(drop)
    }

    /// Bytes up to a NUL, which is taken too.
    pub fn string(&mut self) -> Result<&'a [u8], ParseError> {
        let len = self.rest.iter().position(|byte| *byte == 0).ok_or(ParseError::NoEnd)?;
        let taken = self.bytes(len)?;
        self.skip(1)?;
        Ok(taken)
    }
}
