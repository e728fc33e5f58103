//! Directory listings: entries one after the other, each at a multiple of eight bytes.

use crate::abi;
use crate::attr::{Attr, Entry};
use crate::write::Writer;

/// An entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct ListingEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its number, `d_ino`.
    pub ino: u64,
    /// Where the listing goes on after it, `d_off`.
    pub next: u64,
    /// The kind of file, as in `st_mode`.
    pub mode: u32,
}

/// Fills the answer to READDIR or READDIRPLUS.
#[derive(Debug)]
pub struct Listing<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

const HEAD: usize = 24;

impl<'a> Listing<'a> {
    /// Into `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Listing<'a> {
        Listing { buffer, len: 0 }
    }

    /// Adds an entry; `false`, and nothing changed, if there is no room for it.
    #[must_use]
    pub fn add(&mut self, entry: &ListingEntry<'_>) -> bool {
        self.put(None, entry)
    }

    /// Adds an entry with its node and attributes. A node 0 says that they are not known; then,
    /// and for the dot entries, no look-up counts.
    #[must_use]
    pub fn add_plus(&mut self, entry: &ListingEntry<'_>, node: &Entry) -> bool {
        self.put(Some(node), entry)
    }

    fn put(&mut self, node: Option<&Entry>, entry: &ListingEntry<'_>) -> bool {
        let plain = HEAD + if node.is_some() { Entry::BYTES } else { 0 } + entry.name.len();
        let padded = plain.next_multiple_of(8);
        let Some(room) = self.buffer.get_mut(self.len..self.len + padded) else { return false };
        let mut out = Writer::new(room);
        if let Some(node) = node {
            node.put(&mut out);
        }
        out.u64(entry.ino).u64(entry.next).u32(entry.name.len() as u32).u32((entry.mode & 0o170_000) >> 12);
        out.bytes(entry.name).zeros(padded - plain);
        self.len += padded;
        true
    }

    /// Bytes that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Entry {
    /// What READDIRPLUS says of an entry whose attributes are not known: the kernel asks later.
    pub fn unknown(ino: u64, mode: u32) -> Entry {
        Entry { attr: Attr { ino, mode, ..Attr::default() }, ..Entry::default() }
    }
}

const _: () = assert!(Entry::BYTES == 128 && abi::OUT_HEADER == 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> ListingEntry<'_> {
        ListingEntry { name, ino: 7, next: 8, mode: 0o040_755 }
    }

    #[test]
    fn entries_are_padded_and_complete_or_absent() {
        let mut buffer = [0xff; 24 + 8 + 24 + 8];
        let mut listing = Listing::new(&mut buffer);
        assert!(listing.add(&entry(b"abc")) && listing.add(&entry(b"12345678")));
        assert!(!listing.add(&entry(b"x")));
        assert_eq!(listing.len(), 64);
        assert_eq!(&buffer[16..32], b"\x03\0\0\0\x04\0\0\0abc\0\0\0\0\0");
        assert_eq!(&buffer[48..64], b"\x08\0\0\0\x04\0\0\x0012345678");
    }

    #[test]
    fn nodes_come_before_the_entry() {
        let mut buffer = [0xff; 160];
        let mut listing = Listing::new(&mut buffer);
        assert!(listing.add_plus(&entry(b"a"), &Entry { node: 5, ..Entry::default() }));
        assert_eq!(listing.len(), 160);
        assert_eq!((buffer[0], buffer[128], buffer[136], buffer[152]), (5, 7, 8, b'a'));
    }
}
