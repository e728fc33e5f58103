//! Operations parsed from the bytes of the header's structures.

use super::*;
use crate::testing::message;

/// Bytes of some fields, each with its size.
macro_rules! fields {
    ($($value:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend($value.to_ne_bytes());)*
        bytes
    }};
}

fn with_parsed(opcode: u32, arguments: &[u8], check: impl FnOnce(Result<Operation<'_>, ParseError>)) {
    let bytes = message(opcode, 5, arguments);
    check(Request::from_message(&bytes).and_then(|request| Operation::parse(&request)));
}

fn expect(opcode: u32, arguments: &[u8], wanted: Operation<'_>) {
    with_parsed(opcode, arguments, |parsed| assert_eq!(parsed, Ok(wanted)));
}

#[test]
fn names() {
    expect(opcode::LOOKUP, b"a b\0", Operation::Lookup { name: b"a b" });
    expect(opcode::UNLINK, b"\xff\x01\0", Operation::Unlink { name: b"\xff\x01" });
    expect(opcode::SYMLINK, b"n\0to/where\0", Operation::Symlink { name: b"n", target: b"to/where", groups: None });
    with_parsed(opcode::LOOKUP, b"no end", |parsed| assert_eq!(parsed, Err(ParseError::NoEnd)));
    with_parsed(opcode::SYMLINK, b"n\0no end", |parsed| assert_eq!(parsed, Err(ParseError::NoEnd)));
}

#[test]
fn creation() {
    let mut create = fields![0o102_u32, 0o100_644_u32, 0o22_u32, 1_u32];
    create.extend(b"f\0");
    let wanted = Operation::Create {
        name: b"f",
        mode: 0o100_644,
        umask: 0o22,
        flags: 0o102,
        kill_privileges: true,
        groups: None,
    };
    expect(opcode::CREATE, &create, wanted);
    let mut mknod = fields![0o20_600_u32, 0x501_u32, 0o77_u32, 0_u32];
    mknod.extend(b"dev\0");
    let wanted = Operation::Mknod { name: b"dev", mode: 0o20_600, rdev: 0x501, umask: 0o77, groups: None };
    expect(opcode::MKNOD, &mknod, wanted);
}

#[test]
fn setattr_takes_only_what_is_valid() {
    let set = |valid: u32| {
        fields![
            valid, 0_u32, 11_u64, 12_u64, 13_u64, -14_i64, 15_u64, 16_u64, 17_u32, 18_u32, 19_u32, 0o600_u32, 0_u32,
            1_u32, 2_u32, 0_u32
        ]
    };
    expect(opcode::SETATTR, &set(0), Operation::Setattr(SetAttr::default()));
    let all = fattr::MODE | fattr::UID | fattr::GID | fattr::SIZE | fattr::ATIME | fattr::FH | fattr::KILL_SUIDGID;
    let wanted = SetAttr {
        mode: Some(0o600),
        uid: Some(1),
        gid: Some(2),
        size: Some(12),
        atime: Some(SetTime::At(Time { sec: -14, nsec: 17 })),
        mtime: None,
        handle: Some(11),
        kill_privileges: true,
    };
    expect(opcode::SETATTR, &set(all), Operation::Setattr(wanted));
    let now = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
    expect(opcode::SETATTR, &set(fattr::MTIME | fattr::MTIME_NOW), Operation::Setattr(now));
}

#[test]
fn lengths_inside_must_agree_with_what_is_there() {
    let opened_with = |size: u32, flags: u32, open: u32| {
        let mut bytes = fields![7_u64, 4096_u64, size, flags, 0_u64, open, 0_u32];
        bytes.extend(b"data");
        bytes
    };
    let write = |size, flags| opened_with(size, flags, 0);
    let wanted =
        |append, kill_privileges| Operation::Write { handle: 7, offset: 4096, data: b"data", append, kill_privileges };
    expect(opcode::WRITE, &write(4, abi::WRITE_KILL_SUIDGID), wanted(false, true));
    expect(opcode::WRITE, &opened_with(4, 0, abi::O_APPEND | 1), wanted(true, false));
    expect(opcode::WRITE, &opened_with(4, abi::WRITE_CACHE, abi::O_APPEND), wanted(false, false));
    for size in [0, 3, 5, u32::MAX] {
        with_parsed(opcode::WRITE, &write(size, 0), |parsed| assert_eq!(parsed, Err(ParseError::Length)));
    }
    let setxattr = |size: u32| {
        let mut bytes = fields![size, 1_u32, 1_u32, 0_u32];
        bytes.extend(b"user.a\0value");
        bytes
    };
    let wanted = XattrSet { name: b"user.a", value: b"value", flags: 1, kill_setgid: true };
    expect(opcode::SETXATTR, &setxattr(5), Operation::Setxattr(wanted));
    with_parsed(opcode::SETXATTR, &setxattr(6), |parsed| assert_eq!(parsed, Err(ParseError::Length)));
}

#[test]
fn locks_tell_flock_from_fcntl() {
    let lock = |flags: u32| fields![1_u64, 2_u64, 3_u64, 4_u64, 1_u32, 77_u32, flags, 0_u32];
    let wanted =
        |flock| LockRequest { handle: 1, owner: 2, lock: FileLock { start: 3, end: 4, kind: 1, pid: 77 }, flock };
    expect(opcode::SETLK, &lock(0), Operation::Setlk { request: wanted(false), wait: false });
    expect(opcode::SETLKW, &lock(1), Operation::Setlk { request: wanted(true), wait: true });
}

#[test]
fn the_rest() {
    let rename = [&fields![9_u64, 2_u32, 0_u32][..], b"a\0b\0"].concat();
    expect(opcode::RENAME2, &rename, Operation::Rename { name: b"a", new_parent: 9, new_name: b"b", flags: 2 });
    expect(opcode::GETATTR, &fields![1_u32, 0_u32, 8_u64], Operation::Getattr { handle: Some(8) });
    expect(
        opcode::STATX,
        &fields![0_u32, 0_u32, 8_u64, 0_u32, 0x800_u32],
        Operation::Statx { handle: None, mask: 0x800 },
    );
    expect(opcode::FSYNC, &fields![8_u64, 1_u32, 0_u32], Operation::Fsync { handle: 8, data_only: true });
    let copy = fields![1_u64, 2_u64, 3_u64, 4_u64, 5_u64, 6_u64, 0_u64];
    let wanted = CopyRange {
        handle_in: 1,
        offset_in: 2,
        node_out: 3,
        handle_out: 4,
        offset_out: 5,
        len: 6,
        flags: 0,
        wide: true,
    };
    expect(opcode::COPY_FILE_RANGE_64, &copy, Operation::CopyFileRange(wanted));
    expect(
        opcode::IOCTL,
        &fields![1_u64, 0_u32, 0x5401_u32, 0_u64, 0_u32, 0_u32],
        Operation::Ioctl { command: 0x5401 },
    );
    expect(48, b"whatever", Operation::Unknown);
    let bulk = message(opcode::READ, 5, &fields![1_u64, 2_u64, 3_u32, 0_u32, 0_u64, 0_u32, 0_u32]);
    let bulk = Bulk::parse(&Request::from_message(&bulk).unwrap()).unwrap();
    assert_eq!(bulk, Some(Bulk::Read { handle: 1, offset: 2, size: 3 }));
}

/// No cut of any request may do more than be refused.
#[test]
fn every_cut_of_every_operation_is_survived() {
    for opcode in 0..60 {
        let whole = message(opcode, 5, &[1; 120]);
        for len in 0..=whole.len() {
            let mut cut = whole[..len].to_vec();
            if let Some(field) = cut.get_mut(..4) {
                field.copy_from_slice(&(len as u32).to_ne_bytes());
            }
            let _ = Request::from_message(&cut).and_then(|request| {
                Bulk::parse(&request)?;
                Operation::parse(&request).map(drop)
            });
        }
    }
}
