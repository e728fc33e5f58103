//! Random commands of every kind, from a seed, on few enough files that they meet.

use crate::clock::Timestamp;
use crate::command::{AttrChange, Command, NewKind, Outcome, RangeOp, Relocation, RenameMode, SmallBytes, XattrMode};
use crate::ids::{BlobId, Ino, StoreId};
use crate::model::{FileKind, FsyncLevel, Piece, Placement};
use crate::zone::Zone;

const NAMES: u64 = 12;
const PAGE: u64 = 4096;

/// Makes commands, and remembers what was made by them.
pub struct Commands {
    state: u64,
    dirs: Vec<Ino>,
    files: Vec<Ino>,
    blobs: u64,
    now: i64,
}

impl Commands {
    pub fn new(seed: u64) -> Commands {
        Commands { state: seed, dirs: vec![Ino::ROOT], files: vec![Ino(2)], blobs: 1, now: 1_000 }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    /// Takes note of what a command made.
    pub fn applied(&mut self, command: &Command, outcome: &Outcome) {
        if let (Command::Create { .. } | Command::CreateUnnamed { .. }, Some((ino, inode))) = (command, outcome.inode) {
            match inode.kind {
                FileKind::Directory => self.dirs.push(ino),
                FileKind::Regular => self.files.push(ino),
                _ => {}
            }
        }
    }

    /// The next command.
    pub fn next(&mut self, zone: &dyn Zone) -> Command {
        self.now += 1;
        let now = Timestamp { sec: self.now, nsec: 5 };
        let (parent, name, ino) = (self.dir(), self.name(), self.file());
        let kill_privileges = self.below(4) == 0;
        match self.below(32) {
            0..6 => Command::Create {
                parent,
                name,
                ino: zone.allocate_ino().unwrap(),
                kind: self.kind(),
                mode: 0o7777,
                umask: 0o022,
                uid: 1,
                gid: 2,
                now,
            },
            6 => Command::Link { ino, parent, name, now },
            7..10 => Command::Unlink { parent, name, keep: self.below(2) == 0, now },
            10 => Command::RemoveDir { parent, name, keep: self.below(2) == 0, now },
            11..13 => Command::Rename {
                parent,
                name,
                new_parent: self.dir(),
                new_name: self.name(),
                mode: [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][self.below(3) as usize],
                whiteout: if self.below(8) == 0 { Some(zone.allocate_ino().unwrap()) } else { None },
                keep: self.below(2) == 0,
                now,
            },
            13 => Command::SetAttr { ino, change: self.change(kill_privileges), now },
            14 => Command::SetAtime { ino, atime: now },
            15..20 => Command::Write {
                ino,
                offset: self.below(40 * PAGE),
                pieces: (0..1 + self.below(3)).map(|_| self.piece()).collect(),
                store: StoreId(0),
                kill_privileges,
                now,
            },
            20 => Command::Range {
                ino,
                op: self.range_op(),
                offset: self.below(20) * PAGE,
                len: (1 + self.below(8)) * PAGE,
                kill_privileges,
                now,
            },
            21 => Command::Clone {
                from: ino,
                from_offset: self.below(20 * PAGE),
                to: self.file(),
                to_offset: self.below(20 * PAGE),
                len: 1 + self.below(10 * PAGE),
                kill_privileges,
                now,
            },
            22 => Command::SetXattr {
                ino,
                name: self.attribute(),
                value: vec![7; self.below(100) as usize],
                mode: [XattrMode::Set, XattrMode::Create, XattrMode::Replace][self.below(3) as usize],
                kill_setgid: false,
                now,
            },
            23 => Command::RemoveXattr { ino, name: self.attribute(), now },
            24..26 => Command::Reap { inos: (0..4).map(|_| self.file()).collect(), budget: self.below(20) as u32 },
            26 => Command::SealBlob { blob: self.blob(), len: 1 << 20 },
            27 => Command::DropBlob { blob: self.blob() },
            30 => {
                let fsync = [FsyncLevel::Store, FsyncLevel::Local, FsyncLevel::Remote][self.below(3) as usize];
                let placement = Placement { store: StoreId(self.below(3) as u16), fsync };
                Command::Place { ino: if self.below(2) == 0 { ino } else { parent }, placement, now }
            }
            29 => {
                let ino = zone.allocate_ino().unwrap();
                Command::CreateUnnamed { parent, ino, mode: 0o644, umask: 0o22, uid: 1, gid: 2, now }
            }
            28 => {
                let (to, offset, from_offset) = (self.piece(), self.below(10 * PAGE), self.below(PAGE));
                let from = self.blob();
                Command::Relocate { from, store: StoreId(0), moves: vec![Relocation { ino, offset, from_offset, to }] }
            }
            _ => {
                let value = if self.below(3) == 0 { None } else { Some(vec![self.below(256) as u8]) };
                Command::SetSys { key: format!("setting-{}", self.below(4)), value }
            }
        }
    }

    fn dir(&mut self) -> Ino {
        let n = self.below(self.dirs.len() as u64);
        self.dirs[n as usize]
    }

    /// Mostly one of the newest, as the older ones are gone.
    fn file(&mut self) -> Ino {
        let newest = self.files.len().saturating_sub(8);
        let n = self.below((self.files.len() - newest) as u64) as usize;
        let start = if self.below(8) == 0 { 0 } else { newest };
        self.files[start + n]
    }

    fn name(&mut self) -> SmallBytes {
        SmallBytes::from_slice(format!("name-{}", self.below(NAMES)).as_bytes())
    }

    fn attribute(&mut self) -> SmallBytes {
        let names = ["user.a", "user.b", "security.capability", "trusted.x"];
        SmallBytes::from_slice(names[self.below(4) as usize].as_bytes())
    }

    fn kind(&mut self) -> NewKind {
        match self.below(6) {
            0 => NewKind::Directory,
            1 => NewKind::Symlink(b"target".to_vec()),
            2 => NewKind::BlockDevice(0x801),
            _ => NewKind::Regular,
        }
    }

    fn change(&mut self, kill_privileges: bool) -> AttrChange {
        let mut change = AttrChange { kill_privileges, ..AttrChange::default() };
        match self.below(3) {
            0 => change.mode = Some(self.below(0o10000) as u32),
            1 => change.uid = Some(self.below(10) as u32),
            _ => change.size = Some(self.below(40 * PAGE)),
        }
        change
    }

    fn range_op(&mut self) -> RangeOp {
        let ops = [
            RangeOp::Allocate,
            RangeOp::AllocateKeepSize,
            RangeOp::PunchHole,
            RangeOp::ZeroRange,
            RangeOp::ZeroRangeKeepSize,
            RangeOp::Collapse,
            RangeOp::Insert,
        ];
        ops[self.below(7) as usize]
    }

    fn blob(&mut self) -> BlobId {
        BlobId(1 + self.below(self.blobs))
    }

    /// Bytes that nobody wrote: no content is read in this suite.
    fn piece(&mut self) -> Piece {
        if self.below(20) == 0 {
            self.blobs += 1;
        }
        let blob = BlobId(self.blobs);
        Piece { len: 1 + self.below(3 * PAGE), blob, blob_offset: self.below(1 << 18), crc: 0 }
    }
}
