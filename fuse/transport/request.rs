//! The outer form of a request: its header, and where its parts lie.

use thiserror::Error;

use crate::abi::{self, IN_HEADER, opcode};
use crate::read::Reader;

/// Why a request is not what the protocol says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ParseError {
    /// It ends before its last field.
    #[error("it is too short")]
    Short,
    /// A name has no NUL at its end.
    #[error("a name has no end")]
    NoEnd,
    /// A length in it contradicts what is there.
    #[error("its lengths contradict each other")]
    Length,
    /// An extension is malformed.
    #[error("an extension is malformed")]
    Extension,
}

/// `fuse_in_header`: what every request carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// [`abi::opcode`].
    pub opcode: u32,
    /// Tells requests under way from one another.
    pub unique: u64,
    /// The node it is about.
    pub node: u64,
    /// Who asks.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
    /// In which process; 0 if the kernel asks by itself, or from another pid namespace.
    pub pid: u32,
    /// Bytes in all.
    pub(crate) len: u32,
    /// Bytes of extensions at the end.
    pub(crate) extensions: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
        let mut read = Reader::new(bytes);
        let (len, opcode) = (read.u32()?, read.u32()?);
        let (unique, node) = (read.u64()?, read.u64()?);
        let (uid, gid, pid) = (read.u32()?, read.u32()?, read.u32()?);
        let extensions = u32::from(read.u16()?) * 8;
        Ok(Header { opcode, unique, node, uid, gid, pid, len, extensions })
    }
}

impl Header {
    /// Of somebody, and no request in particular.
    pub fn of(uid: u32, gid: u32, pid: u32) -> Header {
        Header { uid, gid, pid, ..Header::default() }
    }

    /// What the request is called, for messages.
    pub fn name(&self) -> &'static str {
        NAMES.get(self.opcode as usize).copied().filter(|name| !name.is_empty()).unwrap_or("an unknown request")
    }
}

/// Names by opcode.
const NAMES: [&str; 54] = [
    "",
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "symlink",
    "",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "rename",
    "link",
    "open",
    "read",
    "write",
    "statfs",
    "release",
    "",
    "fsync",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
    "flush",
    "init",
    "opendir",
    "readdir",
    "releasedir",
    "fsyncdir",
    "getlk",
    "setlk",
    "setlkw",
    "access",
    "create",
    "interrupt",
    "bmap",
    "destroy",
    "ioctl",
    "poll",
    "notify reply",
    "batch forget",
    "fallocate",
    "readdirplus",
    "rename",
    "lseek",
    "copy_file_range",
    "",
    "",
    "syncfs",
    "tmpfile",
    "statx",
    "copy_file_range",
];

/// A node that the kernel let go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forget {
    /// The node.
    pub node: u64,
    /// How many of the look-ups that it was told of it takes back.
    pub lookups: u64,
}

/// A request in parts, none of them looked into: the operation's own structure, and what
/// follows it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its header.
    pub header: Header,
    /// The operation's structure, of exactly the size that it has.
    pub operation: &'a [u8],
    /// Names and data, without extensions.
    pub payload: &'a [u8],
    /// Extensions.
    pub extensions: &'a [u8],
}

impl<'a> Request<'a> {
    /// A message as /dev/fuse gives it.
    pub fn from_message(message: &'a [u8]) -> Result<Request<'a>, ParseError> {
        let header = Header::parse(message)?;
        if header.len as usize != message.len() {
            return Err(ParseError::Length);
        }
        let arguments = message.get(IN_HEADER..).ok_or(ParseError::Short)?;
        let (operation, rest) = arguments.split_at_checked(structure_len(header.opcode)).ok_or(ParseError::Short)?;
        Request::with_extensions(header, operation, rest)
    }

    /// A request as a ring gives it: `ring_header` is `fuse_uring_req_header`, `payload` what
    /// belongs to this request of the payload buffer.
    pub fn from_ring(ring_header: &'a [u8], payload: &'a [u8]) -> Result<Request<'a>, ParseError> {
        let header = Header::parse(ring_header)?;
        let operation = ring_header.get(abi::RING_OP_AT..abi::RING_ENTRY_AT).ok_or(ParseError::Short)?;
        let operation = operation.get(..structure_len(header.opcode)).ok_or(ParseError::Short)?;
        if header.len as usize != IN_HEADER + operation.len() + payload.len() {
            return Err(ParseError::Length);
        }
        Request::with_extensions(header, operation, payload)
    }

    fn with_extensions(header: Header, operation: &'a [u8], rest: &'a [u8]) -> Result<Request<'a>, ParseError> {
        let body = rest.len().checked_sub(header.extensions as usize).ok_or(ParseError::Length)?;
        let (payload, extensions) = rest.split_at_checked(body).ok_or(ParseError::Length)?;
        Ok(Request { header, operation, payload, extensions })
    }

    /// The supplementary groups that came along: at creation that of the parent directory, if
    /// the caller is in it.
    pub fn groups(&self) -> Result<Option<Groups<'a>>, ParseError> {
        let mut read = Reader::new(self.extensions);
        while !read.rest().is_empty() {
            let bad = |_| ParseError::Extension;
            let (len, kind) = (read.u32().map_err(bad)?, read.u32().map_err(bad)?);
            let body = (len as usize).checked_sub(8).ok_or(ParseError::Extension)?;
            let body = read.bytes(body).map_err(bad)?;
            if kind == abi::EXT_GROUPS {
                let mut read = Reader::new(body);
                let count = read.u32().map_err(bad)? as usize;
                let ids = count.checked_mul(4).and_then(|len| read.rest().get(..len));
                return ids.map(|ids| Some(Groups(ids))).ok_or(ParseError::Extension);
            }
        }
        Ok(None)
    }
}

/// Group ids that came with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups<'a>(&'a [u8]);

impl Groups<'_> {
    /// Whether `gid` is among them.
    pub fn contains(&self, gid: u32) -> bool {
        self.0.chunks_exact(4).any(|id| id == gid.to_ne_bytes())
    }
}

/// Bytes of the structure that an operation begins with; 0 where there is none, or where
/// nobody here knows the operation.
fn structure_len(op: u32) -> usize {
    match op {
        opcode::FORGET
        | opcode::LINK
        | opcode::MKDIR
        | opcode::RENAME
        | opcode::OPEN
        | opcode::OPENDIR
        | opcode::GETXATTR
        | opcode::LISTXATTR
        | opcode::ACCESS
        | opcode::INTERRUPT
        | opcode::BATCH_FORGET
        | opcode::SYNCFS => 8,
        opcode::GETATTR
        | opcode::MKNOD
        | opcode::CREATE
        | opcode::TMPFILE
        | opcode::RENAME2
        | opcode::FSYNC
        | opcode::FSYNCDIR
        | opcode::SETXATTR
        | opcode::BMAP => 16,
        opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH | opcode::LSEEK | opcode::STATX | opcode::POLL => 24,
        opcode::FALLOCATE | opcode::IOCTL => 32,
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS | opcode::WRITE => 40,
        opcode::GETLK | opcode::SETLK | opcode::SETLKW => 48,
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => 56,
        opcode::INIT => 64,
        opcode::SETATTR => 88,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn parts_lie_where_the_lengths_say() {
        let bytes = message(opcode::MKDIR, 7, b"12345678name\0");
        let request = Request::from_message(&bytes).unwrap();
        assert_eq!((request.header.node, request.operation, request.payload), (7, &b"12345678"[..], &b"name\0"[..]));
        assert_eq!(Request::from_message(&bytes[..bytes.len() - 1]).err(), Some(ParseError::Length));
        assert_eq!(Request::from_message(&bytes[..37]).err(), Some(ParseError::Short));
        let short = message(opcode::MKDIR, 7, b"1234567");
        assert_eq!(Request::from_message(&short).err(), Some(ParseError::Short));
    }

    fn with_extension(extension: &[u8], words: u16) -> Vec<u8> {
        let mut bytes = message(opcode::MKDIR, 7, &[b"12345678name\0", extension].concat());
        bytes[36..38].copy_from_slice(&words.to_ne_bytes());
        bytes
    }

    #[test]
    fn groups_are_found_among_extensions() {
        let words: Vec<u8> = [16_u32, 3, 0, 0, 24, 32, 2, 100, 200, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let bytes = with_extension(&words, 5);
        let request = Request::from_message(&bytes).unwrap();
        assert_eq!(request.payload, b"name\0");
        let groups = request.groups().unwrap().unwrap();
        assert!(groups.contains(100) && groups.contains(200) && !groups.contains(2) && !groups.contains(0));
        assert_eq!(Request::from_message(&message(opcode::MKDIR, 1, b"12345678n\0")).unwrap().groups(), Ok(None));
    }

    #[test]
    fn malformed_extensions_are_refused() {
        for words in [[24_u32, 32, 200, 1], [4, 32, 1, 1], [400, 32, 1, 1], [16, 32, u32::MAX, 1]] {
            let words: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            let bytes = with_extension(&words, 2);
            assert_eq!(Request::from_message(&bytes).unwrap().groups(), Err(ParseError::Extension));
        }
        assert_eq!(Request::from_message(&with_extension(b"", 200)).err(), Some(ParseError::Length));
    }

    #[test]
    fn rings_carry_the_same_request_in_two_pieces() {
        let bytes = message(opcode::MKDIR, 7, b"12345678name\0");
        let mut ring = vec![0; abi::RING_HEADER];
        ring[..IN_HEADER].copy_from_slice(&bytes[..IN_HEADER]);
        ring[128..136].copy_from_slice(b"12345678");
        let request = Request::from_ring(&ring, b"name\0").unwrap();
        assert_eq!((request.operation, request.payload), (&b"12345678"[..], &b"name\0"[..]));
        assert_eq!(Request::from_ring(&ring, b"nam\0").err(), Some(ParseError::Length));
        assert_eq!(Request::from_ring(&ring[..200], b"name\0").err(), Some(ParseError::Short));
    }
}
