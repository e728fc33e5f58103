//! Golden bytes of every format version that ever landed: a command or record written by
//! an older build must decode for ever, to the same meaning.

use crate::clock::Timestamp;
use crate::command::{AttrChange, Command, FileRange, NewKind, RangeOp, Relocation, RenameMode, SmallBytes, XattrMode};
use crate::ids::{BlobId, Ino, StoreId};
use crate::model::{
    self, Blob, BlobState, Dentry, Extent, FileKind, FileLock, FsyncLevel, Inode, InodeFlags, LAST_BYTE, LockChange,
    LockOwner, LockSession, Piece, Placement, Usage, ZoneInfo,
};

const NOW: Timestamp = Timestamp { sec: -5, nsec: 999_999_999 };

fn name(text: &str) -> SmallBytes {
    SmallBytes::from_slice(text.as_bytes())
}

fn commands() -> Vec<Command> {
    let piece = Piece { len: 4096, blob: BlobId(0x0102_0304_0506_0708), blob_offset: 65_536, crc: 0xdead_beef };
    vec![
        Command::Format { id: [1; 16], hash_seed: u64::MAX, mode: 0o755, uid: 0, gid: 0, now: NOW },
        Command::Create {
            parent: Ino(1),
            name: name("file"),
            ino: Ino(2),
            kind: NewKind::Regular,
            mode: 0o644,
            umask: 0o22,
            uid: 1000,
            gid: 100,
            now: NOW,
        },
        Command::Create {
            parent: Ino(1),
            name: name("link"),
            ino: Ino(3),
            kind: NewKind::Symlink(b"target".to_vec()),
            mode: 0o777,
            umask: 0,
            uid: 0,
            gid: 0,
            now: NOW,
        },
        Command::Create {
            parent: Ino(1),
            name: name("dev"),
            ino: Ino(4),
            kind: NewKind::BlockDevice(0x0800),
            mode: 0o600,
            umask: 0,
            uid: 0,
            gid: 6,
            now: NOW,
        },
        Command::Link { ino: Ino(2), parent: Ino(1), name: name("hard"), now: NOW },
        Command::Unlink { parent: Ino(1), name: name("hard"), keep: true, now: NOW },
        Command::RemoveDir { parent: Ino(1), name: name("dir"), keep: false, now: NOW },
        Command::Rename {
            parent: Ino(1),
            name: name("a"),
            new_parent: Ino(9),
            new_name: name("b"),
            mode: RenameMode::Exchange,
            whiteout: Some(Ino(12)),
            keep: true,
            now: NOW,
        },
        Command::SetAttr {
            ino: Ino(2),
            change: AttrChange {
                mode: Some(0o4755),
                uid: Some(1),
                gid: None,
                size: Some(1 << 40),
                atime: None,
                mtime: Some(NOW),
                kill_privileges: true,
            },
            now: NOW,
        },
        Command::SetAtime { ino: Ino(2), atime: NOW },
        Command::Write {
            ino: Ino(2),
            offset: 1 << 62,
            pieces: [piece].into_iter().collect(),
            store: StoreId(0),
            kill_privileges: false,
            now: NOW,
        },
        Command::Range { ino: Ino(2), op: RangeOp::Insert, offset: 4096, len: 8192, kill_privileges: false, now: NOW },
        Command::Clone {
            from: Ino(2),
            from_offset: 0,
            to: Ino(5),
            to_offset: 77,
            len: 1000,
            kill_privileges: true,
            now: NOW,
        },
        Command::SetXattr {
            ino: Ino(2),
            name: name("user.x"),
            value: vec![0, 255],
            mode: XattrMode::Replace,
            kill_setgid: true,
            now: NOW,
        },
        Command::RemoveXattr { ino: Ino(2), name: name("user.x"), now: NOW },
        Command::Reap { inos: vec![Ino(2), Ino(3)], budget: 512 },
        Command::SealBlob { blob: piece.blob, len: 1 << 26 },
        Command::DropBlob { blob: piece.blob },
        Command::Relocate {
            from: piece.blob,
            store: StoreId(1),
            moves: vec![Relocation { ino: Ino(2), offset: 3, from_offset: 4, to: piece }],
        },
        Command::SetSys { key: "k".into(), value: Some(vec![1]) },
        Command::CreateUnnamed { parent: Ino(1), ino: Ino(13), mode: 0o600, umask: 0o22, uid: 1, gid: 2, now: NOW },
    ]
}

/// What came with version 2.
fn newer_commands() -> Vec<Command> {
    let placement = Placement { store: StoreId(3), fsync: FsyncLevel::Remote };
    vec![Command::Place { ino: Ino(2), placement, now: NOW }]
}

/// What came with version 3.
fn newest_commands() -> Vec<Command> {
    vec![
        Command::ReserveInos { count: 4096 },
        Command::CompareSys { key: "k".into(), expect: None, value: Some(vec![1, 2]) },
        Command::Import { pairs: vec![(1, vec![0; 8], vec![7])], done: true },
        Command::MountZone { parent: Ino(1), name: name("zone"), replace: true, target: vec![1, 2, 3], now: NOW },
        Command::UnmountZone { parent: Ino(1), name: name("zone"), now: NOW },
    ]
}

/// What came with version 4.
fn appending_commands() -> Vec<Command> {
    let piece = Piece { len: 4096, blob: BlobId(0x0102_0304_0506_0708), blob_offset: 65_536, crc: 0xdead_beef };
    let pieces = [piece].into_iter().collect();
    vec![Command::Append { ino: Ino(2), pieces, store: StoreId(0), kill_privileges: true, now: NOW }]
}

/// What came with version 5.
fn pausing_commands() -> Vec<Command> {
    vec![
        Command::Pause { expect: None, mark: Some(vec![1; 24]) },
        Command::Pause { expect: Some(vec![1; 24]), mark: None },
        Command::MountFilled { parent: Ino(1), name: name("zone"), mark: vec![4], target: vec![1, 2, 3], now: NOW },
    ]
}

/// What came with version 6.
fn lock_commands() -> Vec<Command> {
    let session = LockSession { member: 0xfedc_ba98_7654_3210, number: 1 << 33 };
    let owner = LockOwner { session, owner: u64::MAX, flock: true };
    let lock = FileLock { owner, pid: 77, exclusive: true, start: 1 << 30, end: LAST_BYTE };
    let setlock = |change| Command::SetLock { ino: Ino(2), lock, change };
    vec![
        setlock(LockChange::Try),
        setlock(LockChange::Wait(300)),
        setlock(LockChange::Release),
        setlock(LockChange::Cancel(1)),
        Command::EndLocks { session },
        Command::Fenced { session, command: Box::new(Command::SetAtime { ino: Ino(2), atime: NOW }) },
    ]
}

/// What came with version 7.
fn writing_commands() -> Vec<Command> {
    let piece = |at: u64| Piece { len: 4096, blob: BlobId(9), blob_offset: at, crc: 0x8000_0001 };
    let writes = vec![
        FileRange { offset: 0, pieces: smallvec::smallvec![piece(0)] },
        FileRange { offset: 1 << 40, pieces: smallvec::smallvec![piece(1 << 20), piece(1 << 33)] },
    ];
    let many = Command::WriteMany { ino: Ino(2), writes, store: StoreId(1), kill_privileges: true, now: NOW };
    let session = LockSession { member: 5, number: 6 };
    vec![many.clone(), Command::Fenced { session, command: Box::new(many) }]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let inode = Inode {
        kind: FileKind::CharDevice,
        mode: 0o1777,
        uid: 1,
        gid: 2,
        nlink: 3,
        rdev: 4,
        size: 5,
        allocated: 6,
        atime: NOW,
        mtime: NOW,
        ctime: NOW,
        btime: NOW,
        parent: Ino(7),
        flags: InodeFlags(31),
    };
    let dentry = Dentry { ino: Ino(8), kind: FileKind::Mount, name: bytes::Bytes::from_static(b"\xff name") };
    vec![
        ("inode", model::encode(&inode).unwrap().to_vec()),
        ("dentry", model::encode(&dentry).unwrap().to_vec()),
        ("extent", model::encode(&Extent { len: 1, blob: BlobId(2), blob_offset: 300 }).unwrap().to_vec()),
        (
            "blob",
            model::encode(&Blob { store: StoreId(1), state: BlobState::Sealed, len: 9, live: 8 }).unwrap().to_vec(),
        ),
        ("usage", model::encode(&Usage { inodes: 1, allocated: 2, next_ino: Ino(3) }).unwrap().to_vec()),
        ("zone", model::encode(&ZoneInfo { id: [3; 16], hash_seed: 4, created: NOW }).unwrap().to_vec()),
    ]
}

#[test]
fn commands_of_version_1_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v1.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
    }
}

#[test]
fn commands_of_version_2_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v2.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = newer_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(newer_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 1;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn commands_of_version_3_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v3.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = newest_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(newest_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 2;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn commands_of_version_4_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v4.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = appending_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(appending_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 3;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn commands_of_version_5_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v5.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = pausing_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(pausing_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 4;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn commands_of_version_7_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v7.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = writing_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(writing_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 6;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn commands_of_version_6_decode_to_the_same() {
    let golden = include_str!("fixtures/commands-v6.hex");
    let lines: Vec<&str> = golden.lines().collect();
    let written: Vec<String> = lock_commands().iter().map(|command| hex(&command.encode().unwrap())).collect();
    assert_eq!(lines, written, "as written now:\n{}\n", written.join("\n"));
    for (line, command) in lines.iter().zip(lock_commands()) {
        assert_eq!(Command::decode(&unhex(line)).unwrap(), command);
        let mut older = unhex(line);
        older[0] = 5;
        assert!(matches!(Command::decode(&older), Err(crate::Error::Corrupt(_))));
    }
}

#[test]
fn records_of_version_1_are_written_the_same() {
    let written: String = records().iter().map(|(what, bytes)| format!("{what} {}\n", hex(bytes))).collect();
    assert_eq!(include_str!("fixtures/records-v1.hex"), written, "as written now:\n{written}\n");
}

#[test]
fn damaged_commands_are_refused_and_never_panic() {
    let all = commands().into_iter().chain(newer_commands()).chain(newest_commands()).chain(appending_commands());
    for command in all.chain(pausing_commands()).chain(lock_commands()) {
        let bytes = command.encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes[..cut]).is_err(), "{command:?} cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = Command::decode(&flipped);
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(Command::decode(&long).is_err());
        let mut version = bytes;
        version[0] = crate::command::COMMAND_VERSION + 1;
        assert!(matches!(Command::decode(&version), Err(crate::Error::UnknownVersion(_))));
    }
}
