//! The state machine against plain models: random commands, every counter recounted, and
//! the cases that POSIX is particular about. Hashes have few bits here, so names collide.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{apply, extents, find_dentry, find_dentry_in};
use crate::clock::Timestamp;
use crate::command::{AttrChange, Command, NewKind, Outcome, RangeOp, Relocation, RenameMode, SmallBytes, XattrMode};
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, StoreId};
use crate::metastore::{Key, MetaRead, Table, Visitor};
use crate::model::{self, Acl, Blob, Dentry, Extent, FileKind, Inode, Piece, keys};

#[path = "orphan_tests.rs"]
mod orphans;

/// A state in ordinary maps.
#[derive(Default, Clone)]
pub(super) struct State(BTreeMap<(Table, Key), Bytes>);

impl MetaRead for State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(table, Key::from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let range = (table, Key::from_slice(start))..(table, Key::from_slice(end));
        let _ = self.0.range(range).try_for_each(|((_, k), v)| visit(k, v));
        Ok(())
    }

    fn scan_back(&self, table: Table, start: &[u8], end: &[u8], visit: &mut Visitor<'_>) -> Result<()> {
        let range = (table, Key::from_slice(start))..(table, Key::from_slice(end));
        let _ = self.0.range(range).rev().try_for_each(|((_, k), v)| visit(k, v));
        Ok(())
    }
}

fn at(sec: i64) -> Timestamp {
    Timestamp { sec, nsec: 7 }
}

impl State {
    pub(super) fn new() -> State {
        let mut state = State::default();
        state.run(Command::Format { id: [7; 16], hash_seed: 99, mode: 0o755, uid: 0, gid: 0, now: at(0) }).unwrap();
        state
    }

    pub(super) fn run(&mut self, command: Command) -> Result<Outcome> {
        let command = Command::decode(&command.encode().unwrap()).unwrap();
        let applied = apply(self, &command)?;
        assert!(applied.writes.is_sorted_by_key(|(table, key, _)| (*table, key.clone())));
        for (table, key, value) in applied.writes {
            match value {
                Some(value) => self.0.insert((table, key), value),
                None => self.0.remove(&(table, key)),
            };
        }
        for (ino, inode) in applied.inodes {
            assert_eq!(self.inode(ino).unwrap(), inode);
        }
        Ok(applied.outcome)
    }

    fn make(&mut self, parent: u64, name: &str, ino: u64, kind: NewKind) -> Result<Outcome> {
        self.run(Command::Create {
            parent: Ino(parent),
            name: small(name),
            ino: Ino(ino),
            kind,
            mode: 0o666,
            umask: 0o022,
            uid: 5,
            gid: 6,
            now: at(10),
        })
    }

    fn rename(&mut self, from: (u64, &str), to: (u64, &str), mode: RenameMode) -> Result<Outcome> {
        self.run(Command::Rename {
            parent: Ino(from.0),
            name: small(from.1),
            new_parent: Ino(to.0),
            new_name: small(to.1),
            mode,
            whiteout: None,
            keep: false,
            now: at(20),
        })
    }

    fn unlink(&mut self, parent: u64, name: &str, keep: bool) -> Result<Outcome> {
        self.run(Command::Unlink { parent: Ino(parent), name: small(name), keep, now: at(30) })
    }

    fn node(&self, ino: u64) -> Inode {
        self.inode(Ino(ino)).unwrap().unwrap()
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        let slow = find_dentry(self, 99, Ino(parent), name.as_bytes()).unwrap();
        let fast = find_dentry_in(self, 99, (Ino(parent), &self.node(parent)), name.as_bytes()).unwrap();
        assert_eq!(slow, fast);
        slow.map(|(_, dentry)| dentry.ino.0)
    }

    fn table<T: serde::de::DeserializeOwned>(&self, table: Table) -> Vec<(Key, T)> {
        let all = self.0.iter().filter(|((t, _), _)| *t == table);
        all.map(|((_, key), value)| (key.clone(), model::decode("test", value).unwrap())).collect()
    }

    /// Recounts everything that is kept as a count.
    fn check(&self) {
        let inodes: Vec<(Key, Inode)> = self.table(Table::Inode);
        let dentries: Vec<(Key, Dentry)> = self.table(Table::Dentry);
        let all_extents: Vec<(Key, Extent)> = self.table(Table::Extent);
        let blobs: HashMap<u64, Blob> =
            self.table(Table::Blob).into_iter().map(|(k, b)| (keys::parse_one(&k).unwrap(), b)).collect();
        let usage = self.usage().unwrap();
        assert_eq!(usage.inodes, inodes.len() as u64);
        assert_eq!(usage.allocated, inodes.iter().map(|(_, i)| i.allocated).sum::<u64>());
        let mut live: HashMap<u64, u64> = blobs.keys().map(|b| (*b, 0)).collect();
        let mut allocated: HashMap<u64, u64> = HashMap::new();
        let mut last = (0, 0);
        for (key, extent) in &all_extents {
            let (ino, start) = keys::parse_pair(key).unwrap();
            assert!(extent.len > 0);
            assert!(ino != last.0 || start >= last.1, "extents of inode {ino} overlap at {start}");
            last = (ino, start + extent.len);
            *allocated.entry(ino).or_default() += extent.len;
            if extent.blob.is_some() {
                *live.get_mut(&extent.blob.0).expect("blob is known") += extent.len;
                assert!(extent.blob_offset + extent.len <= blobs[&extent.blob.0].len);
                assert!(self.0.contains_key(&(Table::BlobRef, keys::blob_ref(extent.blob, Ino(ino)))));
            }
        }
        for (blob, record) in &blobs {
            assert_eq!(record.live, live[blob], "live bytes of blob {blob}");
        }
        for (key, inode) in &inodes {
            let ino = keys::parse_one(key).unwrap();
            assert!(ino < usage.next_ino.0);
            assert_eq!(inode.allocated, allocated.get(&ino).copied().unwrap_or(0), "allocated of {ino}");
            let names = dentries.iter().filter(|(_, d)| d.ino.0 == ino).count() as u32;
            let orphan = self.0.contains_key(&(Table::Orphan, keys::ino(Ino(ino))));
            if inode.is_dir() {
                let own: Vec<_> = dentries.iter().filter(|(k, _)| keys::parse_pair(k).unwrap().0 == ino).collect();
                let subdirs = own.iter().filter(|(_, d)| d.kind == FileKind::Directory).count() as u32;
                assert_eq!(inode.size, own.len() as u64);
                assert_eq!(inode.nlink, if orphan { 0 } else { 2 + subdirs });
                assert!(orphan || ino == 1 || names == 1);
            } else {
                assert_eq!(inode.nlink, names);
                assert_eq!(orphan, names == 0, "inode {ino}");
            }
        }
        for (_, dentry) in &dentries {
            assert_eq!(self.node(dentry.ino.0).kind, dentry.kind);
        }
    }
}

fn small(text: &str) -> SmallBytes {
    SmallBytes::from_slice(text.as_bytes())
}

/// xorshift64*, enough for tests.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[test]
fn names_that_collide_are_told_apart_and_keep_their_place() {
    let mut state = State::new();
    for i in 0..200u64 {
        state.make(1, &format!("n{i}"), 2 + i, NewKind::Regular).unwrap();
    }
    assert_eq!(state.make(1, "n7", 999, NewKind::Regular), Err(Error::Exists));
    let before = find_dentry(&state, 99, Ino(1), b"n8").unwrap().unwrap().0;
    for i in (1..200).step_by(2) {
        state.unlink(1, &format!("n{i}"), false).unwrap();
    }
    assert_eq!(find_dentry(&state, 99, Ino(1), b"n8").unwrap().unwrap().0, before);
    for i in 0..200u64 {
        assert_eq!(state.find(1, &format!("n{i}")), (i % 2 == 0).then_some(2 + i));
    }
    state.check();
}

#[test]
fn create_inherits_group_and_mode() {
    let mut state = State::new();
    state.make(1, "d", 2, NewKind::Directory).unwrap();
    let change = AttrChange { mode: Some(0o2755), gid: Some(42), ..AttrChange::default() };
    state.run(Command::SetAttr { ino: Ino(2), change, now: at(1) }).unwrap();
    state.make(2, "f", 3, NewKind::Regular).unwrap();
    state.make(2, "e", 4, NewKind::Directory).unwrap();
    assert_eq!((state.node(3).gid, state.node(3).mode), (42, 0o644));
    assert_eq!((state.node(4).gid, state.node(4).mode), (42, 0o2644));
    assert_eq!(state.node(2).nlink, 3);
    state.check();
}

#[test]
fn default_acls_reach_new_files_and_chmod_moves_the_mask() {
    let mut state = State::new();
    state.make(1, "d", 2, NewKind::Directory).unwrap();
    let mut value = vec![2, 0, 0, 0];
    for (tag, perm, id) in [(1u16, 7u16, u32::MAX), (2, 7, 77), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    let set = |ino, name: &str| Command::SetXattr {
        ino: Ino(ino),
        name: small(name),
        value: value.clone(),
        mode: XattrMode::Set,
        kill_setgid: false,
        now: at(2),
    };
    state.run(set(2, "system.posix_acl_default")).unwrap();
    state.make(2, "f", 3, NewKind::Regular).unwrap();
    // umask does not count, the requested mode does; the group bits are the mask's.
    assert_eq!(state.node(3).mode, 0o660);
    let change = AttrChange { mode: Some(0o640), ..AttrChange::default() };
    state.run(Command::SetAttr { ino: Ino(3), change, now: at(3) }).unwrap();
    let stored = state.get(Table::Xattr, &keys::xattr(Ino(3), b"system.posix_acl_access")).unwrap().unwrap();
    assert_eq!(Acl::parse(&stored).unwrap().unwrap().mode_bits(), 0o640);
    assert_eq!(state.run(set(3, "system.posix_acl_default")), Err(Error::AccessDenied));
    state.unlink(2, "f", false).unwrap();
    assert!(state.get(Table::Xattr, &keys::xattr(Ino(3), b"system.posix_acl_access")).unwrap().is_none());
    state.check();
}

#[test]
fn rename_follows_posix() {
    let mut state = State::new();
    state.make(1, "a", 2, NewKind::Directory).unwrap();
    state.make(2, "b", 3, NewKind::Directory).unwrap();
    state.make(1, "f", 4, NewKind::Regular).unwrap();
    state.make(1, "g", 5, NewKind::Regular).unwrap();
    use RenameMode::{Exchange, NoReplace, Replace};
    assert_eq!(state.rename((1, "a"), (3, "x"), Replace), Err(Error::Invalid));
    assert_eq!(state.rename((1, "a"), (2, "b"), Replace), Err(Error::Invalid));
    assert_eq!(state.rename((1, "f"), (1, "g"), NoReplace), Err(Error::Exists));
    assert_eq!(state.rename((1, "f"), (1, "a"), Replace), Err(Error::IsDirectory));
    assert_eq!(state.rename((1, "a"), (1, "f"), Replace), Err(Error::NotDirectory));
    assert_eq!(state.rename((1, "f"), (1, "zz"), Exchange), Err(Error::NotFound));
    assert_eq!(state.rename((2, "b"), (1, "a"), Replace), Err(Error::NotEmpty));
    assert_eq!(state.rename((1, "nope"), (1, "q"), Replace), Err(Error::NotFound));
    state.rename((1, "f"), (1, "g"), Replace).unwrap();
    assert_eq!((state.find(1, "f"), state.find(1, "g")), (None, Some(4)));
    assert!(state.inode(Ino(5)).unwrap().is_none());
    // A file and a directory change places, across parents.
    state.rename((1, "g"), (2, "b"), Exchange).unwrap();
    assert_eq!((state.find(1, "g"), state.find(2, "b")), (Some(3), Some(4)));
    assert_eq!((state.node(2).nlink, state.node(3).parent), (2, Ino(1)));
    // Two names of one file: nothing happens.
    state.run(Command::Link { ino: Ino(4), parent: Ino(1), name: small("h"), now: at(5) }).unwrap();
    state.rename((1, "h"), (2, "b"), Replace).unwrap();
    assert_eq!((state.find(1, "h"), state.find(2, "b")), (Some(4), Some(4)));
    state.check();
}

#[test]
fn whiteout_leaves_a_device_behind() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    state
        .run(Command::Rename {
            parent: Ino(1),
            name: small("f"),
            new_parent: Ino(1),
            new_name: small("g"),
            mode: RenameMode::Replace,
            whiteout: Some(Ino(3)),
            keep: true,
            now: at(1),
        })
        .unwrap();
    let left = state.node(state.find(1, "f").unwrap());
    assert_eq!((left.kind, left.rdev), (FileKind::CharDevice, 0));
    assert_eq!(state.find(1, "g"), Some(2));
    state.check();
}

#[test]
fn a_removed_directory_takes_no_names() {
    let mut state = State::new();
    state.make(1, "d", 2, NewKind::Directory).unwrap();
    state.run(Command::RemoveDir { parent: Ino(1), name: small("d"), keep: true, now: at(1) }).unwrap();
    assert_eq!(state.make(2, "x", 3, NewKind::Regular), Err(Error::NotFound));
    assert_eq!(state.make(1, "x", 2, NewKind::Regular), Err(Error::Conflict));
    state.check();
}

#[test]
fn a_live_blob_is_neither_dropped_nor_cut() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    write(&mut state, 2, 0, 100, BlobId(9), 0).unwrap();
    assert_eq!(state.run(Command::DropBlob { blob: BlobId(9) }), Err(Error::Conflict));
    assert_eq!(state.run(Command::SealBlob { blob: BlobId(9), len: 99 }), Err(Error::Invalid));
    state.run(Command::SealBlob { blob: BlobId(9), len: 100 }).unwrap();
    assert_eq!(state.run(Command::DropBlob { blob: BlobId(9) }), Err(Error::Conflict));
}

fn write(state: &mut State, ino: u64, offset: u64, len: u64, blob: BlobId, blob_offset: u64) -> Result<Outcome> {
    state.run(Command::Write {
        ino: Ino(ino),
        offset,
        pieces: [Piece { len, blob, blob_offset, crc: 0 }].into_iter().collect(),
        store: StoreId(0),
        kill_privileges: false,
        now: at(40),
    })
}

#[test]
fn appends_go_to_the_end_wherever_it_is() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    let mut ends = Vec::new();
    for i in 0..5 {
        let append = Command::Append {
            ino: Ino(2),
            pieces: [Piece { len: 10, blob: BlobId(1), blob_offset: 100 * i, crc: 0 }].into_iter().collect(),
            store: StoreId(0),
            kill_privileges: false,
            now: at(40),
        };
        ends.push(state.run(append).unwrap().inode.unwrap().1.size);
        if i == 2 {
            write(&mut state, 2, 95, 5, BlobId(1), 1000).unwrap();
        }
    }
    assert_eq!(ends, [10, 20, 30, 110, 120]);
    let starts: Vec<u64> = extents(&state, Ino(2), 0, u64::MAX, 9).unwrap().iter().map(|(at, _)| *at).collect();
    assert_eq!(starts, [0, 10, 20, 95, 100, 110]);
    state.check();
}

#[test]
fn sequential_writes_are_one_extent() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    for i in 0..50 {
        write(&mut state, 2, i * 4096, 4096, BlobId(1), 1000 + i * 4096).unwrap();
    }
    let whole = Extent { len: 50 * 4096, blob: BlobId(1), blob_offset: 1000 };
    assert_eq!(extents(&state, Ino(2), 0, u64::MAX, 9).unwrap(), vec![(0, whole)]);
    state.check();
}

/// What a byte of the model file is: a hole, a reserved zero, or a byte of a blob.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Byte {
    Hole,
    Reserved,
    Blob(u64, u64),
}

fn bytes_of(state: &State, ino: u64) -> Vec<Byte> {
    let mut bytes = vec![Byte::Hole; state.node(ino).size as usize];
    for (start, extent) in extents(state, Ino(ino), 0, u64::MAX, usize::MAX).unwrap() {
        for i in 0..extent.len {
            if let Some(byte) = bytes.get_mut((start + i) as usize) {
                *byte = if extent.blob.is_some() {
                    Byte::Blob(extent.blob.0, extent.blob_offset + i)
                } else {
                    Byte::Reserved
                };
            }
        }
    }
    bytes
}

#[test]
fn random_ranges_match_a_byte_model() {
    for seed in 1..=60u64 {
        let mut rng = Rng(seed * 77_777);
        let mut state = State::new();
        let mut files = [Vec::new(), Vec::new()];
        state.make(1, "a", 2, NewKind::Regular).unwrap();
        state.make(1, "b", 3, NewKind::Regular).unwrap();
        let mut next = 0u64;
        for step in 0..150 {
            let which = rng.below(2) as usize;
            let ino = 2 + which as u64;
            let unit = if rng.below(2) == 0 { 4096 } else { 1 };
            let (offset, len) = (rng.below(40_000 / unit) * unit, (1 + rng.below(12_000 / unit)) * unit);
            let end = (offset + len) as usize;
            let file = &mut files[which];
            let grow = |file: &mut Vec<Byte>, end: usize| {
                if file.len() < end {
                    file.resize(end, Byte::Hole);
                }
            };
            let range = |op| Command::Range { ino: Ino(ino), op, offset, len, kill_privileges: false, now: at(50) };
            let kind = rng.below(8);
            match kind {
                0 | 1 => {
                    let blob = 1 + next / 60_000;
                    let start = next % 60_000;
                    next += len;
                    write(&mut state, ino, offset, len, BlobId(blob), start).unwrap();
                    grow(file, end);
                    (0..len).for_each(|i| file[(offset + i) as usize] = Byte::Blob(blob, start + i));
                }
                2 => {
                    state.run(range(RangeOp::PunchHole)).unwrap();
                    let end = end.min(file.len());
                    (offset as usize..end).for_each(|i| file[i] = Byte::Hole);
                }
                3 => {
                    state.run(range(RangeOp::ZeroRange)).unwrap();
                    grow(file, end);
                    file[offset as usize..end].fill(Byte::Reserved);
                }
                4 => {
                    state.run(range(RangeOp::Allocate)).unwrap();
                    grow(file, end);
                    file[offset as usize..end]
                        .iter_mut()
                        .filter(|b| **b == Byte::Hole)
                        .for_each(|b| *b = Byte::Reserved);
                }
                5 => {
                    let change = AttrChange { size: Some(offset), ..AttrChange::default() };
                    state.run(Command::SetAttr { ino: Ino(ino), change, now: at(60) }).unwrap();
                    file.resize(offset as usize, Byte::Hole);
                }
                6 => {
                    let op = if rng.below(2) == 0 { RangeOp::Collapse } else { RangeOp::Insert };
                    let fits = unit == 4096
                        && match op {
                            RangeOp::Collapse => end < file.len(),
                            _ => (offset as usize) < file.len(),
                        };
                    assert_eq!(state.run(range(op)).is_ok(), fits, "seed {seed} step {step}");
                    if fits && op == RangeOp::Collapse {
                        file.drain(offset as usize..end);
                    } else if fits {
                        let hole = std::iter::repeat_n(Byte::Hole, len as usize);
                        file.splice(offset as usize..offset as usize, hole);
                    }
                }
                _ => {
                    let from = rng.below(2) as usize;
                    let from_offset = rng.below(40_000);
                    let command = Command::Clone {
                        from: Ino(2 + from as u64),
                        from_offset,
                        to: Ino(ino),
                        to_offset: offset,
                        len,
                        kill_privileges: false,
                        now: at(70),
                    };
                    let copied = match state.run(command) {
                        Ok(outcome) => outcome.count as usize,
                        Err(error) => {
                            assert!(error == Error::Invalid && from == which, "seed {seed} step {step}");
                            0
                        }
                    };
                    let source: Vec<Byte> =
                        files[from].iter().skip(from_offset as usize).take(copied).copied().collect();
                    assert_eq!(source.len(), copied);
                    let file = &mut files[which];
                    if copied > 0 {
                        grow(file, offset as usize + copied);
                        file[offset as usize..offset as usize + copied].copy_from_slice(&source);
                    }
                }
            }
            for (i, file) in files.iter().enumerate() {
                assert!(bytes_of(&state, 2 + i as u64) == *file, "seed {seed} step {step} kind {kind} file {i}");
            }
            state.check();
        }
    }
}

#[test]
fn relocation_moves_only_what_is_still_there() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    write(&mut state, 2, 0, 300, BlobId(1), 0).unwrap();
    write(&mut state, 2, 100, 100, BlobId(2), 0).unwrap();
    let to = Piece { len: 300, blob: BlobId(3), blob_offset: 50, crc: 0 };
    let moves = vec![Relocation { ino: Ino(2), offset: 0, from_offset: 0, to }];
    let moved = state.run(Command::Relocate { from: BlobId(1), store: StoreId(0), moves }).unwrap().count;
    assert_eq!(moved, 200);
    let expected: Vec<Byte> = (0..300)
        .map(|i| if (100..200).contains(&i) { Byte::Blob(2, i - 100) } else { Byte::Blob(3, 50 + i) })
        .collect();
    assert_eq!(bytes_of(&state, 2), expected);
    state.check();
}

#[test]
fn random_names_keep_every_counter() {
    for seed in 1..=40u64 {
        let mut rng = Rng(seed * 1_000_003);
        let mut state = State::new();
        for next in 2..302 {
            let dirs: Vec<u64> = state
                .table::<Inode>(Table::Inode)
                .iter()
                .filter(|(_, i)| i.is_dir())
                .map(|(k, _)| keys::parse_one(k).unwrap())
                .collect();
            let mut dir = || dirs[rng.below(dirs.len() as u64) as usize];
            let (a, b) = (dir(), dir());
            let (n, m) = (format!("n{}", rng.below(12)), format!("n{}", rng.below(12)));
            let keep = rng.below(2) == 0;
            let any = Ino(1 + rng.below(next));
            let _ = match rng.below(9) {
                0 | 1 => state.make(a, &n, next, NewKind::Regular),
                2 => state.make(a, &n, next, NewKind::Directory),
                3 => state.make(a, &n, next, NewKind::Symlink(b"t".to_vec())),
                4 => state.unlink(a, &n, keep),
                5 => state.run(Command::RemoveDir { parent: Ino(a), name: small(&n), keep, now: at(1) }),
                6 => state.run(Command::Link { ino: any, parent: Ino(a), name: small(&n), now: at(2) }),
                7 => state.run(Command::Reap { inos: vec![any], budget: 4 }),
                _ => {
                    let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                    state.rename((a, &n), (b, &m), mode[rng.below(3) as usize])
                }
            };
            state.check();
        }
    }
}

#[test]
fn a_scan_of_a_transaction_sees_its_own_changes() {
    let mut state = State::new();
    let key = |n: u64| keys::pair(0, n);
    for n in [1, 3, 5] {
        state.0.insert((Table::Sys, key(n)), Bytes::from_static(b"old"));
    }
    let mut txn = super::Txn::new(&state);
    txn.delete(Table::Sys, key(3));
    for n in [0, 5, 7] {
        txn.put(Table::Sys, key(n), Bytes::from_static(b"new"));
    }
    for limit in 1..5 {
        let collect = |back: bool| {
            let mut seen = Vec::new();
            let mut visit = |k: &[u8], v: &[u8]| {
                seen.push((keys::parse_pair(k).unwrap().1, v == b"new"));
                if seen.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            if back {
                txn.scan_back(Table::Sys, &key(0), &key(9), &mut visit).unwrap();
            } else {
                txn.scan(Table::Sys, &key(0), &key(9), &mut visit).unwrap();
            }
            seen
        };
        let all = [(0, true), (1, false), (5, true), (7, true)];
        assert_eq!(collect(false), all.iter().copied().take(limit).collect::<Vec<_>>());
        assert_eq!(collect(true), all.iter().rev().copied().take(limit).collect::<Vec<_>>());
    }
}
