//! Bytes of log segments: encoding and checking, without a disk. The layout is described in
//! [`crate::log`].

use nexus_kernel::content::Image;
use nexus_kernel::{BlobId, Lsn, ZoneIndex};

/// Version of the segment format that this build writes.
pub const FORMAT_VERSION: u32 = 3;
/// The oldest that it reads: the same without images and records of groups.
const OLDEST_VERSION: u32 = 1;
/// First bytes of every segment.
pub const MAGIC: [u8; 8] = *b"nexuslog";
/// Where records start.
pub const HEADER_BYTES: u64 = 4096;
/// Bytes of the header that mean anything.
pub const HEADER_USED: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Bytes of an image's payload before the content.
pub const IMAGE_HEADER_BYTES: usize = 16;
/// Records start at multiples of this.
pub const ALIGN: usize = 8;
/// Zone of records that belong to none.
pub const NO_ZONE: ZoneIndex = ZoneIndex(u16::MAX);

/// First bytes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The opening of the log that wrote it.
    pub epoch: u32,
    /// Segments are numbered without gaps.
    pub number: u64,
    /// Of the first record.
    pub first: Lsn,
    /// Highest LSN known durable when the header was written.
    pub durable: Lsn,
    /// Length of the file in bytes.
    pub segment_bytes: u64,
}

/// What a header turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParsedHeader {
    /// Whole.
    Good(SegmentHeader),
    /// Whole, but of a format that this build does not know.
    UnknownVersion(u32),
    /// Not a header, or a damaged one.
    Bad,
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// An encoded [`nexus_kernel::Command`] that was applied.
    Command,
    /// Only tells what is durable.
    Mark,
    /// As `Mark`; the log was closed in good order after it.
    Clean,
    /// Bytes of content, as [`parse_image`] reads them.
    Image,
    /// Of a replicated zone's log; what it says is that zone's business.
    Group,
}

/// A record without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the payload.
    pub len: u32,
    /// That of the segment.
    pub epoch: u32,
    /// The zone that the record is for, or [`NO_ZONE`].
    pub zone: ZoneIndex,
    /// What it is.
    pub kind: RecordKind,
    /// Its number.
    pub lsn: Lsn,
    /// Highest LSN known durable when it was written; below `lsn`.
    pub durable: Lsn,
}

impl RecordKind {
    fn number(self) -> u8 {
        match self {
            RecordKind::Command => 1,
            RecordKind::Mark => 2,
            RecordKind::Clean => 3,
            RecordKind::Image => 4,
            RecordKind::Group => 5,
        }
    }

    fn from_number(number: u8) -> Option<RecordKind> {
        match number {
            1 => Some(RecordKind::Command),
            2 => Some(RecordKind::Mark),
            3 => Some(RecordKind::Clean),
            4 => Some(RecordKind::Image),
            5 => Some(RecordKind::Group),
            _ => None,
        }
    }
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_USED] {
        let mut out = [0; HEADER_USED];
        let mut fill = Fill(&mut out);
        fill.put(&MAGIC);
        fill.put(&FORMAT_VERSION.to_be_bytes());
        fill.put(&self.epoch.to_be_bytes());
        fill.put(&self.number.to_be_bytes());
        fill.put(&self.first.0.to_be_bytes());
        fill.put(&self.durable.0.to_be_bytes());
        fill.put(&self.segment_bytes.to_be_bytes());
        fill.put(&[0; 12]);
        let (front, crc) = out.split_at_mut(HEADER_USED - 4);
        crc.copy_from_slice(&crc32c::crc32c(front).to_be_bytes());
        out
    }

    /// Reads a header.
    pub fn parse(bytes: &[u8]) -> ParsedHeader {
        let Some((front, crc)) = bytes.get(..HEADER_USED).and_then(|bytes| bytes.split_last_chunk::<4>()) else {
            return ParsedHeader::Bad;
        };
        let mut take = Take(front);
        if take.bytes::<8>() != Some(MAGIC) || crc32c::crc32c(front) != u32::from_be_bytes(*crc) {
            return ParsedHeader::Bad;
        }
        match take.u32() {
            Some(OLDEST_VERSION..=FORMAT_VERSION) => {}
            Some(other) => return ParsedHeader::UnknownVersion(other),
            None => return ParsedHeader::Bad,
        }
        let mut header = || {
            Some(SegmentHeader {
                epoch: take.u32()?,
                number: take.u64()?,
                first: Lsn(take.u64()?),
                durable: Lsn(take.u64()?),
                segment_bytes: take.u64()?,
            })
        };
        match header() {
            Some(header) if header.durable < header.first => ParsedHeader::Good(header),
            _ => ParsedHeader::Bad,
        }
    }
}

impl RecordHeader {
    /// Bytes that the record takes in a segment.
    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(self.len as usize) as u64
    }

    /// Appends the whole record to `out`. `self.len` must be the payload's length.
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.zone.0.to_be_bytes());
        out.extend_from_slice(&[self.kind.number(), 0]);
        out.extend_from_slice(&self.lsn.0.to_be_bytes());
        out.extend_from_slice(&self.durable.0.to_be_bytes());
        out.extend_from_slice(payload);
        let crc = out.get(start + 4..).map_or(0, crc32c::crc32c);
        if let Some(field) = out.get_mut(start..start + 4) {
            field.copy_from_slice(&crc.to_be_bytes());
        }
        out.resize(start + stored_bytes(payload.len()), 0);
    }

    /// The record at the start of `bytes`, with its payload, if it is whole.
    pub fn parse(bytes: &[u8]) -> Option<(RecordHeader, &[u8])> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        let mut take = Take(rest);
        let len = take.u32()?;
        let checked = rest.get(..(RECORD_HEADER_BYTES - 4).checked_add(len as usize)?)?;
        let epoch = take.u32()?;
        let zone = ZoneIndex(u16::from_be_bytes(take.bytes()?));
        let [kind, reserved] = take.bytes()?;
        let kind = RecordKind::from_number(kind)?;
        let (lsn, durable) = (Lsn(take.u64()?), Lsn(take.u64()?));
        if reserved != 0 || durable >= lsn || crc32c::crc32c(checked) != u32::from_be_bytes(*crc) {
            return None;
        }
        let payload = checked.get(RECORD_HEADER_BYTES - 4..)?;
        Some((RecordHeader { len, epoch, zone, kind, lsn, durable }, payload))
    }

    /// The epoch and LSN of what may be a record at the start of `bytes`, unchecked: spares
    /// a search most checksums.
    pub fn peek(bytes: &[u8]) -> Option<(u32, Lsn)> {
        let mut take = Take(bytes.get(8..)?);
        let epoch = take.u32()?;
        take.u32()?;
        Some((epoch, Lsn(take.u64()?)))
    }
}

/// The head of an image's payload; the content follows.
pub fn image_header(blob: BlobId, offset: u64) -> [u8; IMAGE_HEADER_BYTES] {
    let mut out = [0; IMAGE_HEADER_BYTES];
    let mut fill = Fill(&mut out);
    fill.put(&blob.0.to_be_bytes());
    fill.put(&offset.to_be_bytes());
    out
}

/// Masks the payload of the image that is this record, or takes the mask off again. What
/// programs write may look like records, those of another log even be some; masked, it is
/// nothing that a search for records could find.
pub fn mask_image(epoch: u32, lsn: Lsn, payload: &mut [u8]) {
    let mixed = (lsn.0 ^ u64::from(epoch) << 32).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mask = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes();
    for part in payload.chunks_mut(mask.len()) {
        part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// Reads the payload of an image, with its mask off.
pub fn parse_image(payload: &[u8]) -> Option<Image<'_>> {
    let mut take = Take(payload);
    let (blob, offset) = (BlobId(take.u64()?), take.u64()?);
    offset.checked_add(take.0.len() as u64)?;
    Some(Image { blob, offset, bytes: take.0 })
}

/// Bytes that a record with a payload of `len` takes.
pub fn stored_bytes(len: usize) -> usize {
    (RECORD_HEADER_BYTES + len).next_multiple_of(ALIGN)
}

/// Fills an array from the front.
struct Fill<'a>(&'a mut [u8]);

impl Fill<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.0);
        if let Some((front, rest)) = rest.split_at_mut_checked(bytes.len()) {
            front.copy_from_slice(bytes);
            self.0 = rest;
        }
    }
}

/// Takes numbers off the front.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn header() -> SegmentHeader {
        SegmentHeader { epoch: 0x0102_0304, number: 7, first: Lsn(1 << 40), durable: Lsn(99), segment_bytes: 16 << 20 }
    }

    fn record() -> RecordHeader {
        RecordHeader {
            len: 5,
            epoch: 3,
            zone: ZoneIndex(258),
            kind: RecordKind::Command,
            lsn: Lsn(11),
            durable: Lsn(10),
        }
    }

    /// Bytes of a version never change: logs in the field hold them.
    #[test]
    fn bytes_of_version_3() {
        let golden = include_str!("fixtures/log-v3.hex");
        let mut records = Vec::new();
        record().encode(b"hello", &mut records);
        let mark =
            RecordHeader { len: 0, zone: NO_ZONE, kind: RecordKind::Mark, lsn: Lsn(12), durable: Lsn(11), ..record() };
        mark.encode(b"", &mut records);
        RecordHeader { kind: RecordKind::Clean, lsn: Lsn(13), ..mark }.encode(b"", &mut records);
        let mut image = [&image_header(BlobId(0x0102_0304_0506_0708), 0x1_0000)[..], b"content"].concat();
        mask_image(mark.epoch, Lsn(14), &mut image);
        let len = image.len() as u32;
        RecordHeader { len, kind: RecordKind::Image, lsn: Lsn(14), ..mark }.encode(&image, &mut records);
        let group = RecordHeader { kind: RecordKind::Group, lsn: Lsn(15), ..record() };
        group.encode(b"group", &mut records);
        let written = format!("header {}\nrecords {}\n", hex(&header().encode()), hex(&records));
        assert_eq!(golden, written, "as written now:\n{written}");
    }

    #[test]
    fn older_versions_are_still_read() {
        read_older(include_str!("fixtures/log-v1.hex"));
        read_older(include_str!("fixtures/log-v2.hex"));
    }

    fn read_older(golden: &str) {
        let lines: Vec<&str> = golden.lines().collect();
        let bytes = |line: &str, name: &str| -> Vec<u8> {
            let digits = line.strip_prefix(name).unwrap().as_bytes();
            digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
        };
        assert_eq!(SegmentHeader::parse(&bytes(lines[0], "header ")), ParsedHeader::Good(header()));
        let records = bytes(lines[1], "records ");
        let (first, payload) = RecordHeader::parse(&records).unwrap();
        assert_eq!((first, payload), (record(), &b"hello"[..]));
        let (second, _) = RecordHeader::parse(&records[first.stored_bytes() as usize..]).unwrap();
        assert_eq!((second.kind, second.lsn), (RecordKind::Mark, Lsn(12)));
    }

    #[test]
    fn images_are_read_as_written_and_short_ones_refused() {
        let payload = [&image_header(BlobId(7), 9)[..], b"abc"].concat();
        assert_eq!(parse_image(&payload), Some(Image { blob: BlobId(7), offset: 9, bytes: b"abc" }));
        for len in 0..IMAGE_HEADER_BYTES {
            assert_eq!(parse_image(&payload[..len]), None, "{len}");
        }
        assert_eq!(parse_image(&[&image_header(BlobId(7), u64::MAX)[..], b"abc"].concat()), None);
    }

    #[test]
    fn parses_what_it_writes() {
        assert_eq!(SegmentHeader::parse(&header().encode()), ParsedHeader::Good(header()));
        let mut bytes = Vec::new();
        record().encode(b"hello", &mut bytes);
        assert_eq!(bytes.len() as u64, record().stored_bytes());
        assert_eq!(RecordHeader::parse(&bytes), Some((record(), &b"hello"[..])));
        assert_eq!(RecordHeader::peek(&bytes), Some((3, Lsn(11))));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        let whole = header().encode();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::parse(&bytes), ParsedHeader::Bad, "bit {bit}");
        }
        let mut whole = Vec::new();
        record().encode(b"hello", &mut whole);
        let meaning = RECORD_HEADER_BYTES + 5;
        for bit in 0..meaning * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::parse(&bytes), None, "bit {bit}");
        }
        for len in 0..meaning {
            assert_eq!(RecordHeader::parse(&whole[..len]), None);
            assert_eq!(SegmentHeader::parse(&header().encode()[..len]), ParsedHeader::Bad);
        }
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut bytes = header().encode();
        bytes[11] = 4;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(SegmentHeader::parse(&bytes), ParsedHeader::UnknownVersion(4));
    }
}
