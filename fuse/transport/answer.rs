//! Replies, and how they look on the wire.

use std::time::Duration;

use bytes::Bytes;

use crate::attr::{Attr, Entry, FsStat};
use crate::handler::Errno;
use crate::operation::FileLock;
use crate::write::Writer;

/// Answer to OPEN, OPENDIR, CREATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// Comes back with each request on the open file.
    pub handle: u64,
    /// [`crate::abi::fopen`].
    pub flags: u32,
}

impl Opened {
    fn put(&self, out: &mut Writer<'_>) {
        out.u64(self.handle).u32(self.flags).u32(0);
    }
}

/// A reply. Each operation says which kinds it takes; the kernel refuses others with EIO.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// It failed.
    Error(Errno),
    /// It is done.
    Done,
    /// No reply belongs to this request.
    Silence,
    /// A name's node.
    Entry(Entry),
    /// Attributes, and how long the kernel may keep them.
    Attr(Attr, Duration),
    /// The same, for STATX.
    Statx(Attr, Duration),
    /// An open file or directory.
    Opened(Opened),
    /// A file that was made and opened.
    Created(Entry, Opened),
    /// How many bytes were written, or copied by COPY_FILE_RANGE.
    Written(u32),
    /// How many bytes COPY_FILE_RANGE_64 copied.
    Copied(u64),
    /// A link's target, an attribute's value, a list of attributes.
    Data(Bytes),
    /// How long an attribute's value, or the list, is.
    XattrSize(u32),
    /// Space and inodes.
    Statfs(FsStat),
    /// Where LSEEK ends up.
    Offset(u64),
    /// The lock that is in the way.
    Lock(FileLock),
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Answer {
        Answer::Error(errno)
    }
}

/// A reply ready to send: the error, 0 for none, and how many bytes of the buffer belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// Of `fuse_out_header`: 0, or negative.
    pub error: i32,
    /// Bytes that follow the header.
    pub len: usize,
}

impl Encoded {
    /// A reply that says why not.
    pub fn failed(errno: Errno) -> Encoded {
        Encoded { error: -errno.number(), len: 0 }
    }
}

impl Answer {
    /// Puts the reply's body into `buffer`; `None` if there is nothing to send.
    pub fn encode(&self, buffer: &mut [u8]) -> Option<Encoded> {
        let mut out = Writer::new(buffer);
        match self {
            Answer::Error(errno) => return Some(Encoded::failed(*errno)),
            Answer::Silence => return None,
            Answer::Done => {}
            Answer::Entry(entry) => entry.put(&mut out),
            Answer::Attr(attr, ttl) => {
                out.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0);
                attr.put(&mut out);
            }
            Answer::Statx(attr, ttl) => {
                out.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0).zeros(16);
                attr.put_statx(&mut out);
            }
            Answer::Opened(opened) => opened.put(&mut out),
            Answer::Created(entry, opened) => {
                entry.put(&mut out);
                opened.put(&mut out);
            }
            Answer::Written(bytes) => {
                out.u32(*bytes).u32(0);
            }
            Answer::Copied(bytes) => {
                out.u64(*bytes);
            }
            Answer::Data(data) => {
                out.bytes(data);
            }
            Answer::XattrSize(len) => {
                out.u32(*len).u32(0);
            }
            Answer::Statfs(stat) => stat.put(&mut out),
            Answer::Offset(offset) => {
                out.u64(*offset);
            }
            Answer::Lock(lock) => lock.put(&mut out),
        }
        let fits = out.finish().map(|len| Encoded { error: 0, len });
        Some(fits.unwrap_or(Encoded::failed(Errno::EOVERFLOW)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Time;

    fn len(answer: Answer) -> usize {
        let encoded = answer.encode(&mut [0xff; 512]).unwrap();
        assert_eq!(encoded.error, 0);
        encoded.len
    }

    /// sizeof() of the header's structures.
    #[test]
    fn bodies_have_the_sizes_of_the_header() {
        assert_eq!(len(Answer::Entry(Entry::default())), 128);
        assert_eq!(len(Answer::Attr(Attr::default(), Duration::ZERO)), 104);
        assert_eq!(len(Answer::Statx(Attr::default(), Duration::ZERO)), 32 + 256);
        assert_eq!(len(Answer::Opened(Opened::default())), 16);
        assert_eq!(len(Answer::Created(Entry::default(), Opened::default())), 144);
        assert_eq!(len(Answer::Written(1)), 8);
        assert_eq!(len(Answer::Copied(1)), 8);
        assert_eq!(len(Answer::XattrSize(1)), 8);
        assert_eq!(len(Answer::Statfs(FsStat::default())), 80);
        assert_eq!(len(Answer::Offset(1)), 8);
        assert_eq!(len(Answer::Lock(FileLock::default())), 24);
        assert_eq!(len(Answer::Done), 0);
        assert_eq!(len(Answer::Data(Bytes::from_static(b"abc"))), 3);
        assert_eq!(Answer::Silence.encode(&mut []), None);
    }

    #[test]
    fn what_finds_no_room_is_an_error_not_a_cut_reply() {
        let refused = Some(Encoded::failed(Errno::EOVERFLOW));
        assert_eq!(Answer::Data(Bytes::from_static(b"abc")).encode(&mut [0; 2]), refused);
        assert_eq!(Answer::Entry(Entry::default()).encode(&mut [0; 127]), refused);
    }

    #[test]
    fn errors_are_negative_and_never_what_the_kernel_keeps_for_itself() {
        assert_eq!(Answer::Error(Errno::new(2)).encode(&mut []), Some(Encoded { error: -2, len: 0 }));
        for odd in [0, -5, 512, 4096] {
            assert_eq!(Errno::new(odd), Errno::EIO, "{odd}");
        }
    }

    #[test]
    fn fields_lie_where_the_header_has_them() {
        let attr = Attr {
            ino: 9,
            size: 10,
            blocks: 11,
            atime: Time { sec: -1, nsec: 1 },
            mtime: Time { sec: 2, nsec: 3 },
            ctime: Time { sec: 4, nsec: 5 },
            btime: Time { sec: 6, nsec: 7 },
            mode: 0o100_644,
            nlink: 2,
            uid: 1000,
            gid: 1001,
            rdev: 0x0801,
            blksize: 4096,
        };
        let mut buffer = [0; 512];
        Answer::Entry(Entry { node: 77, attr, ttl: Duration::new(3, 4) }).encode(&mut buffer).unwrap();
        let u64_at = |buffer: &[u8], at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().unwrap());
        let u32_at = |buffer: &[u8], at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap());
        assert_eq!((u64_at(&buffer, 0), u64_at(&buffer, 16), u32_at(&buffer, 32)), (77, 3, 4));
        assert_eq!((u64_at(&buffer, 40), u64_at(&buffer, 64) as i64, u32_at(&buffer, 88)), (9, -1, 1));
        assert_eq!((u32_at(&buffer, 100), u32_at(&buffer, 104), u32_at(&buffer, 120)), (0o100_644, 2, 4096));
        Answer::Statx(attr, Duration::ZERO).encode(&mut buffer).unwrap();
        let statx = &buffer[32..];
        assert_eq!((u32_at(statx, 16), u32_at(statx, 20), u32_at(statx, 24)), (2, 1000, 1001));
        assert_eq!((u64_at(statx, 32), u64_at(statx, 40)), (9, 10));
        assert_eq!((u64_at(statx, 80), u32_at(statx, 88)), (6, 7), "time of birth");
        assert_eq!((u32_at(statx, 128), u32_at(statx, 132)), (8, 1), "device of the node");
    }
}
