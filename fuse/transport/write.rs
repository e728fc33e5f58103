//! Writing structures of the protocol into a buffer of a fixed size.

/// Puts values one after the other; notes when there was no room, so that callers check once.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    /// Into `buffer`, from its start.
    pub fn new(buffer: &'a mut [u8]) -> Writer<'a> {
        Writer { buffer, len: 0, full: false }
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        match self.buffer.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.full = true,
        }
        self
    }

    /// 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// `len` zeros.
    pub fn zeros(&mut self, len: usize) -> &mut Self {
        match self.buffer.get_mut(self.len..).and_then(|rest| rest.get_mut(..len)) {
            Some(room) => {
                room.fill(0);
                self.len += len;
            }
            None => self.full = true,
        }
        self
    }

    /// How many bytes were put; `None` if not all of them found room.
    pub fn finish(&self) -> Option<usize> {
        if self.full { None } else { Some(self.len) }
    }
}
