//! The handshake: what the kernel offers, what is taken of it.

use crate::abi::{self, init};
use crate::read::Reader;
use crate::request::{ParseError, Request};
use crate::write::Writer;

/// What a file system wants of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Capabilities to take if the kernel offers them, of [`abi::init`].
    pub wanted: u64,
    /// Bytes of the largest READ and WRITE: a multiple of 4096, at most 1 MiB unless the
    /// machine's `fs.fuse.max_pages_limit` is raised.
    pub max_transfer: u32,
    /// Bytes the kernel may read ahead.
    pub max_readahead: u32,
    /// Requests of the background (read-ahead, asynchronous I/O) under way at the most.
    pub max_background: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { wanted: 0, max_transfer: 1 << 20, max_readahead: 1 << 20, max_background: 64 }
    }
}

/// The kernel's side of the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub major: u32,
    pub minor: u32,
    max_readahead: u32,
    pub flags: u64,
}

impl Offer {
    pub fn parse(request: &Request<'_>) -> Result<Offer, ParseError> {
        let mut read = Reader::new(request.operation);
        let (major, minor, max_readahead, low) = (read.u32()?, read.u32()?, read.u32()?, read.u32()?);
        let mut flags = u64::from(low);
        if flags & init::INIT_EXT != 0 {
            flags |= u64::from(read.u32()?) << 32;
        }
        Ok(Offer { major, minor, max_readahead, flags })
    }
}

/// What both sides go by from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    pub minor: u32,
    pub flags: u64,
    pub max_transfer: u32,
    max_readahead: u32,
    max_background: u16,
}

impl Agreed {
    /// On `settings` as far as `offer` goes; with requests over io_uring if `ring`.
    pub fn on(settings: &Settings, offer: &Offer, ring: bool) -> Agreed {
        // Without them, this session could not be what its handler is promised.
        let always = init::BIG_WRITES | init::MAX_PAGES | init::INIT_EXT | init::SETXATTR_EXT | init::ABORT_ERROR;
        let mut flags = (settings.wanted & !init::OVER_IO_URING | always) & offer.flags;
        if ring {
            flags |= init::OVER_IO_URING & offer.flags;
        }
        // 32 pages are what a kernel without MAX_PAGES takes.
        let most = if flags & init::MAX_PAGES != 0 { settings.max_transfer } else { 32 * PAGE };
        Agreed {
            minor: offer.minor.min(abi::MINOR_NEWEST),
            flags,
            max_transfer: settings.max_transfer.min(most).max(PAGE),
            max_readahead: settings.max_readahead.min(offer.max_readahead),
            max_background: settings.max_background,
        }
    }

    /// Most bytes of names and data in one request or answer, as the kernel reckons for rings.
    pub fn payload(&self) -> usize {
        (self.max_transfer as usize).max(abi::MIN_READ_BUFFER)
    }

    /// `fuse_init_out`.
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut out = Writer::new(buffer);
        let congestion = (u32::from(self.max_background) * 3 / 4).max(1) as u16;
        out.u32(abi::VERSION).u32(self.minor).u32(self.max_readahead).u32(self.flags as u32);
        out.u16(self.max_background).u16(congestion).u32(self.max_transfer).u32(1);
        out.u16((self.max_transfer / PAGE) as u16).u16(0).u32((self.flags >> 32) as u32).zeros(28);
        out.finish()
    }
}

const PAGE: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    fn offer(flags: u64) -> Offer {
        let words = [7, 45, 1 << 20, flags as u32, (flags >> 32) as u32];
        let mut body: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        body.resize(64, 0);
        Offer::parse(&Request::from_message(&message(abi::opcode::INIT, 0, &body)).unwrap()).unwrap()
    }

    const ALL: u64 = u64::MAX;

    #[test]
    fn only_what_is_offered_and_wanted_is_taken() {
        let settings = Settings { wanted: init::ASYNC_READ | init::CREATE_SUPP_GROUP, ..Settings::default() };
        let agreed = Agreed::on(&settings, &offer(ALL), false);
        assert_eq!(agreed.flags & init::ASYNC_READ, init::ASYNC_READ);
        assert_eq!(agreed.flags & init::CREATE_SUPP_GROUP, init::CREATE_SUPP_GROUP);
        assert_eq!(agreed.flags & (init::WRITEBACK_CACHE | init::OVER_IO_URING), 0);
        let agreed = Agreed::on(&settings, &offer(ALL & !init::ASYNC_READ), true);
        assert_eq!(agreed.flags & init::ASYNC_READ, 0);
        assert_ne!(agreed.flags & init::OVER_IO_URING, 0);
        assert_eq!(Agreed::on(&settings, &offer(0), true).flags, 0);
    }

    #[test]
    fn flags_above_32_count_only_with_the_extension() {
        assert_eq!(offer(init::OVER_IO_URING).flags, 0);
        assert_eq!(offer(init::OVER_IO_URING | init::INIT_EXT).flags, init::OVER_IO_URING | init::INIT_EXT);
    }

    #[test]
    fn the_answer_has_the_size_and_fields_of_the_header() {
        let agreed = Agreed::on(&Settings::default(), &offer(ALL), true);
        let mut buffer = [0; 128];
        assert_eq!(agreed.encode(&mut buffer), Some(64));
        assert_eq!(&buffer[20..24], &(1_u32 << 20).to_ne_bytes(), "max_write");
        assert_eq!(&buffer[28..30], &256_u16.to_ne_bytes(), "max_pages");
        assert_eq!(&buffer[32..36], &(1_u32 << 9).to_ne_bytes(), "flags2");
        assert_eq!(Agreed::on(&Settings::default(), &offer(0), false).max_transfer, 131_072);
    }
}
