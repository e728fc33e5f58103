//! Random calls. Names come from a pool so small that calls meet each other's files.

use crate::model::op::{Allocate, Bits, Call, Node, Op, OpenFlags, RenameFlag, SHARED_GROUP, SLOTS, Slot, User, When};
use crate::random::Random;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "ф\u{301}"];
const XATTRS: [&str; 6] =
    ["user.one", "user.two", "trusted.three", "security.four", "system.posix_acl_access", "system.posix_acl_default"];
const MODES: [u32; 16] = [
    0o755, 0o644, 0o700, 0o777, 0o600, 0o000, 0o2775, 0o1777, 0o4755, 0o6711, 0o2755, 0o555, 0o2644, 0o2666, 0o6604,
    0o1666,
];

/// Calls between two that make files anew.
const REFILL_EVERY: usize = 80;

/// The sequence that belongs to `seed`.
pub fn sequence(seed: u64, len: usize) -> Vec<Op> {
    let mut generate = Generate(Random::new(seed));
    let mut ops = Vec::with_capacity(len + 16);
    while ops.len() < len {
        if ops.len() % REFILL_EVERY == 0 {
            generate.refill(&mut ops);
        }
        ops.push(generate.op());
    }
    ops
}

struct Generate(Random);

impl Generate {
    /// Folders, and an open file for every descriptor: else most calls would find nothing.
    fn refill(&mut self, ops: &mut Vec<Op>) {
        let mut push = |user: User, call| ops.push(Op { user, umask: 0, watch_times: false, call });
        let folders = [self.name(), self.name()];
        for folder in &folders {
            let user = self.0.pick(&User::ALL);
            push(user, Call::MakeDir { path: folder.clone(), mode: Bits(0o777) });
        }
        let flags = OpenFlags { read: true, write: true, create: true, ..OpenFlags::default() };
        for slot in 0..SLOTS {
            let name = self.name();
            let path = match self.0.below(3) {
                0 => name,
                _ => format!("{}/{name}", self.0.pick(&[&folders[0], &folders[1]])),
            };
            let user = self.0.pick(&User::ALL);
            push(user, Call::Open { slot, path, flags, mode: Bits(0o666) });
        }
    }

    fn op(&mut self) -> Op {
        let user = match self.0.below(10) {
            0..=5 => User::Root,
            6..=7 => User::Alice,
            _ => User::Bob,
        };
        let umask = self.0.pick(&[0o022, 0o022, 0o000, 0o077, 0o002]);
        let (watch_times, call) = (self.0.one_in(4), self.call());
        let user = match call {
            // Making the call includes a chown.
            Call::Rename { flag: RenameFlag::Whiteout, .. } => User::Root,
            _ => user,
        };
        Op { user, umask, watch_times, call }
    }

    fn call(&mut self) -> Call {
        const WEIGHTS: [u32; 31] =
            [14, 4, 6, 14, 6, 5, 8, 6, 4, 2, 3, 8, 3, 4, 6, 6, 4, 10, 5, 2, 5, 5, 2, 3, 2, 2, 1, 7, 2, 3, 2];
        match self.0.weighted(WEIGHTS) {
            0 => Call::Open { slot: self.slot(), path: self.path(), flags: self.open_flags(), mode: self.mode() },
            1 => Call::Close { slot: self.slot() },
            2 => Call::Read { slot: self.slot(), offset: self.offset(), len: self.len() as usize },
            3 => Call::Write { slot: self.slot(), offset: self.offset(), len: self.len() as usize, fill: self.fill() },
            4 => Call::WriteOn { slot: self.slot(), len: self.len() as usize, fill: self.fill() },
            5 => Call::Truncate { slot: self.slot(), size: self.offset() },
            6 => {
                let how = self.0.pick(&[
                    Allocate::Plain,
                    Allocate::KeepSize,
                    Allocate::Punch,
                    Allocate::Punch,
                    Allocate::Zero,
                    Allocate::ZeroKeepSize,
                ]);
                Call::Allocate { slot: self.slot(), how, offset: self.offset(), len: self.len() }
            }
            7 => Call::CopyRange {
                from: self.slot(),
                from_offset: self.offset(),
                to: self.slot(),
                to_offset: self.offset(),
                len: self.len() as usize,
            },
            8 => Call::SeekHoles { slot: self.slot() },
            9 => Call::Sync { slot: self.slot(), data_only: self.0.one_in(2) },
            10 => Call::ReadDir { path: self.path() },
            11 => Call::MakeDir { path: self.path(), mode: self.mode() },
            12 => {
                let number = self.0.below(1 << 16) as u32;
                let node =
                    self.0.pick(&[Node::Regular, Node::Fifo, Node::Socket, Node::Char(number), Node::Block(number)]);
                Call::MakeNode { path: self.path(), node, mode: self.mode() }
            }
            13 => Call::Symlink { target: self.target(), path: self.path() },
            14 => Call::Link { from: self.path(), to: self.path(), follow: self.0.one_in(3) },
            15 => Call::Unlink { path: self.path() },
            16 => Call::RemoveDir { path: self.path() },
            17 => {
                let flag = self.0.pick(&[
                    RenameFlag::None,
                    RenameFlag::None,
                    RenameFlag::None,
                    RenameFlag::NoReplace,
                    RenameFlag::Exchange,
                    RenameFlag::Whiteout,
                ]);
                Call::Rename { from: self.path(), to: self.path(), flag }
            }
            18 => Call::Chmod { path: self.path(), mode: self.mode() },
            19 => Call::ChmodOpen { slot: self.slot(), mode: self.mode() },
            20 => {
                let (uid, mut gid) = (self.owner(), self.owner());
                if uid.is_none() {
                    // With neither, FUSE is asked for nothing, and can't take setuid away.
                    gid = gid.or(Some(SHARED_GROUP));
                }
                Call::Chown { path: self.path(), uid, gid, follow: self.0.one_in(2) }
            }
            21 => {
                Call::SetTimes { path: self.path(), atime: self.when(), mtime: self.when(), follow: self.0.one_in(2) }
            }
            22 => Call::Access { path: self.path(), mask: self.0.below(8) as u8 },
            23 => Call::Stat { path: self.path(), follow: self.0.one_in(2) },
            24 => Call::StatOpen { slot: self.slot() },
            25 => Call::ReadLink { path: self.path() },
            26 => Call::StatFs,
            27 => self.set_xattr(),
            28 => Call::GetXattr { path: self.path(), name: self.xattr(), follow: self.0.one_in(2) },
            29 => Call::RemoveXattr { path: self.path(), name: self.xattr(), follow: self.0.one_in(2) },
            _ => Call::ListXattr { path: self.path(), follow: self.0.one_in(2) },
        }
    }

    fn slot(&mut self) -> Slot {
        self.0.below(u64::from(SLOTS)) as Slot
    }

    fn name(&mut self) -> String {
        match self.0.below(120) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            _ => self.0.pick(&NAMES).to_owned(),
        }
    }

    /// One to three names, seldom with something odd about it. Never more than one "..".
    fn path(&mut self) -> String {
        let depth = self.0.pick(&[1, 1, 1, 2, 2, 2, 3]);
        let mut path = (0..depth).map(|_| self.name()).collect::<Vec<_>>().join("/");
        match self.0.below(60) {
            0 => path.push('/'),
            1 => path.push_str("/."),
            2 => path.push_str("/.."),
            3 => path = format!("./{path}"),
            4 => path = format!("{}/../{path}", self.name()),
            5 if self.0.one_in(4) => path = ".".to_owned(),
            6 if self.0.one_in(4) => path.clear(),
            _ => {}
        }
        path
    }

    fn target(&mut self) -> String {
        match self.0.below(20) {
            0 => format!("../{}", self.name()),
            1 => "t".repeat(4095),
            2 => "t".repeat(1 + self.0.below(4000) as usize),
            3 => String::new(),
            _ => self.path(),
        }
    }

    fn mode(&mut self) -> Bits {
        Bits(self.0.pick(&MODES))
    }

    fn fill(&mut self) -> u8 {
        1 + self.0.below(250) as u8
    }

    fn open_flags(&mut self) -> OpenFlags {
        if self.0.one_in(2) {
            return OpenFlags { read: true, write: true, create: true, ..OpenFlags::default() };
        }
        let read = self.0.below(4) > 0;
        OpenFlags {
            read,
            write: !read || self.0.below(4) > 0,
            create: self.0.below(3) > 0,
            exclusive: self.0.one_in(6),
            truncate: self.0.one_in(6),
            append: self.0.one_in(6),
            directory: self.0.one_in(30),
            no_follow: self.0.one_in(10),
            sync: self.0.one_in(20),
        }
    }

    /// Mostly near the start, at and around the edges of pages and of larger units.
    fn offset(&mut self) -> u64 {
        match self.0.below(36) {
            0..=9 => self.0.below(300),
            10..=15 => self.0.below(40) * 4096,
            16..=27 => (self.0.below(40) * 4096 + self.0.below(5)).saturating_sub(2),
            28..=34 => self.0.below(300_000),
            _ => self.0.below(40) << 30,
        }
    }

    fn len(&mut self) -> u64 {
        match self.0.below(12) {
            0 => 0,
            1..=4 => self.0.below(300),
            5..=7 => (1 + self.0.below(16)) * 4096,
            8..=10 => self.0.below(70_000),
            _ => self.0.below(400_000),
        }
    }

    fn owner(&mut self) -> Option<u32> {
        self.0.pick(&[None, Some(0), Some(User::Alice.id()), Some(User::Bob.id()), Some(SHARED_GROUP)])
    }

    fn when(&mut self) -> When {
        match self.0.below(6) {
            0 => When::Now,
            1 => When::Omit,
            2 => When::At(0, 0),
            3 => When::At(-(self.0.below(1 << 30) as i64), self.0.below(1_000_000_000) as u32),
            _ => When::At(self.0.below(1 << 30) as i64, self.0.below(1_000_000_000) as u32),
        }
    }

    fn xattr(&mut self) -> String {
        self.0.pick(&XATTRS).to_owned()
    }

    fn set_xattr(&mut self) -> Call {
        let name = self.xattr();
        let value = match name.as_str() {
            "system.posix_acl_access" | "system.posix_acl_default" => self.acl(),
            _ => {
                // Long enough never to be the old value: ext4 does nothing then, not even to ctime.
                let len = self.0.pick(&[6, 20, 200]);
                self.0.bytes(len)
            }
        };
        let (create, replace) = self.0.pick(&[(false, false), (false, false), (true, false), (false, true)]);
        Call::SetXattr { path: self.path(), name, value, create, replace, follow: self.0.one_in(2) }
    }

    /// An ACL as setxattr(2) takes it: version 2, then tag, permissions and id of each entry,
    /// in little endian. Sometimes broken.
    fn acl(&mut self) -> Vec<u8> {
        const NONE: u32 = u32::MAX;
        let mut entries: Vec<(u16, u32)> = vec![(0x01, NONE)];
        let named = self.0.one_in(2);
        if named {
            entries.push((0x02, User::Alice.id()));
            if self.0.one_in(2) {
                entries.push((0x02, User::Bob.id()));
            }
        }
        entries.push((0x04, NONE));
        let named_group = self.0.one_in(3);
        if named_group {
            entries.push((0x08, SHARED_GROUP));
        }
        if named || named_group || self.0.one_in(3) {
            entries.push((0x10, NONE));
        }
        entries.push((0x20, NONE));
        if self.0.one_in(25) {
            entries.remove(self.0.below(entries.len() as u64) as usize);
        }
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((self.0.below(8) as u16).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        if self.0.one_in(40) {
            bytes.pop();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence() {
        assert_eq!(sequence(3, 200), sequence(3, 200));
        assert_ne!(sequence(3, 200), sequence(4, 200));
    }
}
