//! Requests made up at random: valid ones of every opcode, then broken in the places where a
//! parser may trust too much. No bytes may bring anything to panic, and both ways a request
//! can come must be read alike.
//!
//! `NEXUS_FUZZ_SECONDS` and `NEXUS_FUZZ_SEED` have it run longer and elsewhere; a failure tells
//! the seed and the case, which `NEXUS_FUZZ_CASE` runs alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::abi::{self, IN_HEADER, opcode};
use crate::answer::Answer;
use crate::dispatch::{finish, take};
use crate::handler::{Errno, Handler};
use crate::init::{Agreed, Offer, Settings};
use crate::operation::{Bulk, Operation};
use crate::request::{Forget, Header, Request};

/// Seconds without the environment's word.
const SECONDS: u64 = 3;
/// Largest data of a request.
const MOST_DATA: u64 = 9000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Lengths and counts that parsers trip over.
    fn number(&mut self, len: usize) -> u32 {
        let len = len as u32;
        let edges = [0, 1, 7, 8, 39, 40, len, len.wrapping_sub(1), len + 1, len / 2, 1 << 20, 0x7fff_ffff, u32::MAX];
        match self.below(16) {
            15 => self.next() as u32,
            at => edges[at as usize % edges.len()],
        }
    }
}

/// A request in its parts.
struct Parts {
    opcode: u32,
    /// The operation's structure.
    operation: Vec<u8>,
    payload: Vec<u8>,
    extensions: Vec<u8>,
}

impl Parts {
    /// A valid request.
    fn valid(random: &mut Random) -> Parts {
        let code = random.below(60) as u32;
        let size = structure(code);
        let mut operation: Vec<u8> = Vec::new();
        while operation.len() < size {
            // Small numbers are handles, sizes and flags that make sense.
            let word = if random.one_in(3) { random.next() as u32 } else { random.below(64) as u32 };
            operation.extend(word.to_ne_bytes());
        }
        let payload = match code {
            opcode::LOOKUP
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::MKDIR
            | opcode::MKNOD
            | opcode::CREATE
            | opcode::LINK
            | opcode::GETXATTR
            | opcode::REMOVEXATTR
            | opcode::TMPFILE => name(random),
            opcode::SYMLINK | opcode::RENAME | opcode::RENAME2 => [name(random), name(random)].concat(),
            opcode::SETXATTR => {
                let value = random.below(MOST_DATA);
                operation[..4].copy_from_slice(&(value as u32).to_ne_bytes());
                [name(random), random.bytes(value)].concat()
            }
            opcode::WRITE => {
                let size = random.below(MOST_DATA);
                operation[16..20].copy_from_slice(&(size as u32).to_ne_bytes());
                random.bytes(size)
            }
            opcode::BATCH_FORGET => {
                let count = random.below(40);
                operation[..4].copy_from_slice(&(count as u32).to_ne_bytes());
                random.bytes(count * 16)
            }
            _ => Vec::new(),
        };
        let extensions = if random.one_in(4) { extensions(random) } else { Vec::new() };
        Parts { opcode: code, operation, payload, extensions }
    }

    /// Breaks something, a few times over.
    fn mutate(&mut self, random: &mut Random) {
        for _ in 0..random.below(4) {
            let part = match random.below(3) {
                0 => &mut self.operation,
                1 => &mut self.payload,
                _ => &mut self.extensions,
            };
            let len = part.len();
            let at = random.below(len as u64) as usize;
            match random.below(8) {
                0 => part.truncate(at),
                1 => part.extend(random.bytes(1 + at as u64 % 20)),
                2 => part.retain(|byte| *byte != 0),
                3 if len > 0 => part[at] = 0,
                4 if len > 0 => part[at] ^= 1 << random.below(8),
                5 => self.opcode = random.below(70) as u32,
                _ if len >= 4 => {
                    let at = at / 4 * 4;
                    if let Some(word) = part.get_mut(at..at + 4) {
                        word.copy_from_slice(&random.number(len).to_ne_bytes());
                    }
                }
                _ => {}
            }
        }
    }

    /// Its header, telling the truth but for what `random` has it lie about.
    fn header(&self, random: &mut Random) -> Vec<u8> {
        let real = IN_HEADER + self.operation.len() + self.payload.len() + self.extensions.len();
        let len = if random.one_in(12) { random.number(real) } else { real as u32 };
        let words = if random.one_in(12) { random.next() as u16 } else { (self.extensions.len() / 8) as u16 };
        let mut bytes = Vec::new();
        bytes.extend(len.to_ne_bytes());
        bytes.extend(self.opcode.to_ne_bytes());
        bytes.extend(random.next().to_ne_bytes());
        bytes.extend(random.below(100).to_ne_bytes());
        for id in [1000_u32, 1001, 4242] {
            bytes.extend(id.to_ne_bytes());
        }
        bytes.extend(words.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

fn name(random: &mut Random) -> Vec<u8> {
    let len = if random.one_in(20) { 255 } else { 1 + random.below(12) };
    let mut bytes: Vec<u8> = random.bytes(len).into_iter().map(|byte| byte.max(1)).collect();
    bytes.push(0);
    bytes
}

/// `fuse_ext_header`s, some of them with groups.
fn extensions(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(3) {
        let count = random.below(5) as u32;
        let body = 8 + 4 + count * 4;
        let padded = body.next_multiple_of(8);
        let kind = if random.one_in(2) { abi::EXT_GROUPS } else { random.below(40) as u32 };
        for word in [padded, kind, count] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(random.bytes(u64::from(padded - 12)));
    }
    bytes
}

/// Bytes of each operation's structure, as `include/uapi/linux/fuse.h` has it: written down
/// a second time, so that a slip in the parser's table shows.
fn structure(code: u32) -> usize {
    match code {
        opcode::FORGET | opcode::LINK | opcode::MKDIR | opcode::RENAME | opcode::OPEN | opcode::OPENDIR => 8,
        opcode::GETXATTR | opcode::LISTXATTR | opcode::ACCESS | opcode::INTERRUPT | opcode::BATCH_FORGET => 8,
        opcode::SYNCFS => 8,
        opcode::GETATTR | opcode::MKNOD | opcode::CREATE | opcode::TMPFILE | opcode::RENAME2 | opcode::FSYNC => 16,
        opcode::FSYNCDIR | opcode::SETXATTR | opcode::BMAP => 16,
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

/// Looks at all that it is given, as a file system does.
struct Looks;

impl Handler for Looks {
    fn call(&self, header: &Header, operation: Operation<'_>) -> Answer {
        assert!(!header.name().is_empty());
        let names: [&[u8]; 2] = match operation {
            Operation::Lookup { name } | Operation::Unlink { name } | Operation::Rmdir { name } => [name, b""],
            Operation::Symlink { name, target, .. } => [name, target],
            Operation::Rename { name, new_name, .. } => [name, new_name],
            Operation::Mknod { name, .. } | Operation::Mkdir { name, .. } | Operation::Create { name, .. } => {
                [name, b""]
            }
            Operation::Link { name, .. } | Operation::Getxattr { name, .. } | Operation::Removexattr { name } => {
                [name, b""]
            }
            Operation::Setxattr(set) => [set.name, b""],
            _ => [b"", b""],
        };
        assert!(names.iter().all(|name| !name.contains(&0)), "a name with a NUL in it: {names:?}");
        if let Operation::Mkdir { groups: Some(groups), .. } | Operation::Tmpfile { groups: Some(groups), .. } =
            operation
        {
            let _ = groups.contains(100);
        }
        let said = format!("{operation:?}");
        Answer::Data(said.into_bytes().into())
    }

    fn fill(&self, _header: &Header, bulk: Bulk, out: &mut [u8]) -> Result<usize, Errno> {
        assert!(out.len() <= bulk.size() as usize);
        out.fill(7);
        Ok(bulk.size() as usize)
    }

    fn forget(&self, forgotten: &[Forget]) {
        assert!(forgotten.len() < 1 << 20);
    }
}

/// What came of a request: whether it was taken apart, the error, and the reply's bytes.
type Outcome = (bool, Option<(i32, Vec<u8>)>);

fn outcome(request: Result<Request<'_>, crate::ParseError>, header: Header) -> Outcome {
    let whole = request.is_ok();
    let turn = take(&Looks, request, header);
    let mut out = vec![0xee; 16 << 10];
    let room = out.len();
    let reply = finish(&Looks, turn, &mut out);
    (
        whole,
        reply.map(|encoded| {
            assert!(encoded.len <= room && encoded.error <= 0);
            (encoded.error, out[..encoded.len].to_vec())
        }),
    )
}

fn run_case(seed: u64, case: u64) {
    let mut random = Random(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
    let mut parts = Parts::valid(&mut random);
    let is_mutated = random.below(5) > 0;
    if is_mutated {
        parts.mutate(&mut random);
    }
    let head = if is_mutated { parts.header(&mut random) } else { parts.header(&mut Random(1 << 40 | case)) };
    let rest = [&parts.operation[..], &parts.payload, &parts.extensions].concat();

    // As the device gives it, and cut at any place.
    let mut message = [&head[..], &rest].concat();
    if is_mutated && random.one_in(6) {
        message.truncate(random.below(message.len() as u64 + 1) as usize);
        if random.one_in(2) && message.len() >= 4 {
            let len = (message.len() as u32).to_ne_bytes();
            message[..4].copy_from_slice(&len);
        }
    }
    let Ok(header) = Header::parse(&message) else {
        assert!(message.len() < IN_HEADER);
        return;
    };
    let request = Request::from_message(&message);
    if let Ok(request) = &request {
        let sum = IN_HEADER + request.operation.len() + request.payload.len() + request.extensions.len();
        assert!(sum == message.len() && request.operation.len() == structure(header.opcode));
        if header.opcode == opcode::INIT {
            let offer = Offer::parse(request).expect("a whole structure");
            let _ = Agreed::on(&Settings::default(), &offer, true).encode(&mut [0; 64]);
        }
    }
    let by_device = outcome(request, header);

    // The same as a ring gives it, where the structure is whole, as the kernel sends no other.
    let Some(arguments) = message.get(IN_HEADER..) else {
        assert!(!by_device.0, "a header cut short");
        return;
    };
    if let Some((operation, payload)) = arguments.split_at_checked(structure(header.opcode)) {
        let mut ring = vec![0; abi::RING_HEADER];
        ring[..IN_HEADER].copy_from_slice(&message[..IN_HEADER]);
        ring[abi::RING_OP_AT..abi::RING_OP_AT + operation.len()].copy_from_slice(operation);
        let by_ring = outcome(Request::from_ring(&ring, payload), header);
        assert!(by_ring == by_device, "over a ring: {by_ring:?}, over the device: {by_device:?}");
        // And in headers and payloads that are not what they should be.
        ring.truncate(random.below(abi::RING_HEADER as u64 + 1) as usize);
        if let Ok(header) = Header::parse(&ring) {
            let cut = random.below(payload.len() as u64 + 1) as usize;
            let _ = outcome(Request::from_ring(&ring, &payload[..cut]), header);
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn made_up_requests_are_answered_or_refused() {
    let seed = from_environment("NEXUS_FUZZ_SEED").unwrap_or(1);
    if let Some(case) = from_environment("NEXUS_FUZZ_CASE") {
        return run_case(seed, case);
    }
    let end = Instant::now() + Duration::from_secs(from_environment("NEXUS_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut case = 0;
    while case % 1000 > 0 || Instant::now() < end {
        let result = catch_unwind(AssertUnwindSafe(|| run_case(seed, case)));
        assert!(result.is_ok(), "NEXUS_FUZZ_SEED={seed} NEXUS_FUZZ_CASE={case} fails");
        case += 1;
    }
    println!("{case} requests of seed {seed}");
}

/// The maker of requests makes good ones, too: all that is not broken is taken.
#[test]
fn valid_requests_of_every_opcode_are_taken() {
    let mut seen = [0; 60];
    let mut random = Random(3);
    for _ in 0..20_000 {
        let parts = Parts::valid(&mut random);
        let head = parts.header(&mut Random(1));
        let message = [head, parts.operation.clone(), parts.payload.clone(), parts.extensions.clone()].concat();
        let header = Header::parse(&message).unwrap();
        if header.len as usize != message.len() || header.extensions as usize != parts.extensions.len() {
            continue;
        }
        let (whole, reply) = outcome(Request::from_message(&message), header);
        let refused = reply.is_some_and(|(error, _)| error == -Errno::EPROTO.number());
        assert!(whole && !refused, "opcode {}", parts.opcode);
        seen[parts.opcode as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}
