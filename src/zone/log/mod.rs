//! The node log: one segmented write-ahead log for all zones of a node.
//!
//! # Files
//!
//! A folder with segment files of one size (16 MiB by default), named by 16 hexadecimal
//! digits and a suffix:
//!
//! - `<number>.log` holds records. Numbers rise by one from segment to segment.
//! - `<serial>.spare` is ready to become a segment: written whole once, so that taking it
//!   into use changes no file metadata. It holds zeros, or records of an earlier use.
//! - `<serial>.new` is being made.
//!
//! # Segment, format version 3
//!
//! Integers are big-endian, checksums CRC-32C. Bytes 0 to 4095 are the header, of which the
//! first 64 mean something; the others are zeros or left over.
//!
//! | Offset | Bytes | Field |
//! |---|---|---|
//! | 0 | 8 | `nexuslog` |
//! | 8 | 4 | format version: 3; 2 had no records of groups, 1 no images |
//! | 12 | 4 | epoch: rises by one each time the log is opened for writing |
//! | 16 | 8 | number of the segment, as in its name |
//! | 24 | 8 | LSN of its first record |
//! | 32 | 8 | highest LSN known durable when the header was written |
//! | 40 | 8 | length of the file |
//! | 48 | 12 | zeros |
//! | 60 | 4 | checksum of bytes 0 to 59 |
//!
//! Records follow from offset 4096, each at a multiple of 8, without gaps.
//!
//! | Offset | Bytes | Field |
//! |---|---|---|
//! | 0 | 4 | checksum of the record from offset 4 to the payload's end |
//! | 4 | 4 | length of the payload |
//! | 8 | 4 | epoch, as in the segment's header |
//! | 12 | 2 | zone; 65535 for none |
//! | 14 | 1 | kind: 1 command, 2 mark, 3 clean, 4 image, 5 of a group |
//! | 15 | 1 | zero |
//! | 16 | 8 | LSN: one more than the record before |
//! | 24 | 8 | highest LSN known durable when the record was written |
//! | 32 | | payload: a command as `Command::encode` gives it; an image's blob, 8 bytes, offset in it, 8 bytes, and content; what a replicated zone's group keeps there; else empty |
//!
//! A *mark* only carries the field before it; *clean* is a mark that closing wrote.
//!
//! An *image*'s payload is masked: each 8 bytes of it, and what is left at the end, are xored
//! with one number for the record, made of epoch and LSN as `format.rs` says. An image is a
//! copy of content, made so that a sync of little content is one sync of the
//! log, and none of the files where the content is. Those are synced later: before a segment
//! with images is used again, before a *clean*, when many bytes wait so, and every second.
//! Recovery puts images back before it looks at content, and makes them durable there before
//! the next opening's first header. So only the images of the last opening count, and none
//! before a *clean*: what older ones cover may have been given away anew since.
//!
//! # What counts
//!
//! The log is the longest run of records with consecutive LSNs, each of its segment's epoch,
//! that begins with the first segment. A segment's records end where the next segment's
//! header says that it starts; what lies behind was cut off, or is left from an earlier use.
//!
//! Let *W* be the highest LSN that any whole header or record calls durable. A record at or
//! below W that is damaged or missing is corruption, and the log is refused, unchanged. Above
//! W it is the torn end of what nobody had synced: the log is cut there. Whole records above
//! W count only if the content that they point at is there, by its checksum; the first whose
//! content is not there cuts the log, so what remains is a prefix.
//!
//! Each opening writes into a segment of its own. Its header, with a new epoch, is durable
//! before its first record is written, and everything before is made durable first.

mod config;
mod format;
#[cfg(test)]
mod image_tests;
mod node_log;
mod pool;
mod rounds;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{LogConfig, Preallocate};
pub use node_log::{LogStats, NodeLog};
pub use pool::Claim;
