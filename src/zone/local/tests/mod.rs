//! Tests of the local zone; here what they share.

mod concurrency;
mod conformance;
mod crash;
mod model;
mod space;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_kernel::command::{AttrChange, NewKind, RangeOp, RenameMode, SmallBytes, XattrMode};
use nexus_kernel::content::ContentSync;
use nexus_kernel::model::{Extent, Piece, keys};
use nexus_kernel::{Command, Ino, MetaRead, Metastore, Result, StoreId, Table, Timestamp, Zone, ZoneIndex};

use crate::testing::{FileContent, Random, Ticks};
use crate::{Access, Background, LocalZone, LogConfig, NewZone, NodeLog, Preallocate, ZoneConfig, ZoneParts};

const ZONE: ZoneIndex = ZoneIndex(0);
const NEW: NewZone = NewZone { id: [9; 16], hash_seed: 77, mode: 0o755, uid: 0, gid: 0 };

fn zone_config() -> ZoneConfig {
    ZoneConfig { background: Background::Inline, ..ZoneConfig::default() }
}

fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        max_spares: 3,
        image_bytes: 8 << 10,
        unsettled_bytes: 40 << 10,
        preallocate: Preallocate::Inline,
    }
}

fn open_log(disk: &SimDisk, content: Arc<dyn ContentSync>) -> Result<Arc<NodeLog>> {
    NodeLog::open(Arc::new(disk.clone()), Path::new("/log"), content, log_config())
}

/// A redb metastore on the disk, made if there is none.
fn redb(disk: &SimDisk) -> Arc<dyn Metastore> {
    let options = RedbOptions { cache_bytes: 1 << 20, ..RedbOptions::default() };
    Arc::new(RedbMetastore::open_or_create(Arc::new(disk.clone()), Path::new("/meta.redb"), options).unwrap())
}

fn parts(log: Arc<NodeLog>, metastore: Arc<dyn Metastore>) -> ZoneParts {
    ZoneParts { zone: ZONE, log, metastore, clock: Arc::new(Ticks::default()) }
}

/// A zone and its content, all on one disk, made if there is none.
fn on_disk(disk: &SimDisk, config: ZoneConfig) -> Result<(LocalZone, Arc<FileContent>)> {
    let content = FileContent::open(disk);
    let parts = parts(open_log(disk, content.clone())?, redb(disk));
    let zone = match LocalZone::open(parts.clone(), config.clone()) {
        Err(nexus_kernel::Error::NotFound) => LocalZone::create(parts, config, &NEW)?,
        other => other?,
    };
    Ok((zone, content))
}

fn name(text: &str) -> SmallBytes {
    SmallBytes::from_slice(text.as_bytes())
}

fn create(ino: u64, text: &str) -> Command {
    Command::Create {
        parent: Ino::ROOT,
        name: name(text),
        ino: Ino(ino),
        kind: NewKind::Regular,
        mode: 0o644,
        umask: 0,
        uid: 1,
        gid: 1,
        now: Timestamp { sec: ino as i64, nsec: 0 },
    }
}

fn write(ino: u64, offset: u64, piece: Piece) -> Command {
    Command::Write {
        ino: Ino(ino),
        offset,
        pieces: [piece].into_iter().collect(),
        store: StoreId(0),
        kill_privileges: false,
        now: Timestamp { sec: 5, nsec: 0 },
    }
}

/// Random commands on few names and files, so that they often meet.
struct Commands {
    random: Random,
    next_ino: u64,
    time: i64,
    /// Parent, name and inode of some entries that were there when somebody looked.
    entries: Vec<(Ino, SmallBytes, Ino)>,
}

impl Commands {
    fn new(seed: u64) -> Commands {
        Commands { random: Random(seed), next_ino: 2, time: 1000, entries: Vec::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// Looks what is there, so that most commands have something to work on.
    fn look(&mut self, zone: &dyn Zone) {
        self.entries.clear();
        let entries = &mut self.entries;
        zone.read(&mut |state| {
            state.scan(Table::Dentry, &[], &[0xff; 17], &mut |key, value| {
                let (parent, _) = keys::parse_pair(key).unwrap();
                let dentry: nexus_kernel::model::Dentry = nexus_kernel::model::decode("dentry", value).unwrap();
                entries.push((Ino(parent), SmallBytes::from_slice(&dentry.name), dentry.ino));
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    }

    fn new_name(&mut self) -> SmallBytes {
        name(["a", "b", "c", "d", "e", "f", "a much longer name than fits inline in a key"][self.below(7) as usize])
    }

    /// An entry, mostly one that is there.
    fn entry(&mut self) -> (Ino, SmallBytes) {
        let (any, which) = (self.below(5) == 0, self.random.next() as usize);
        match self.entries.get(which % self.entries.len().max(1)) {
            Some((parent, name, _)) if !any => (*parent, name.clone()),
            _ => (self.ino(), self.new_name()),
        }
    }

    fn ino(&mut self) -> Ino {
        let (any, which) = (self.below(10), self.random.next() as usize);
        match self.entries.get(which % self.entries.len().max(1)) {
            _ if any == 0 => Ino(1 + self.random.below(self.next_ino)),
            Some((_, _, ino)) if any > 2 => *ino,
            _ => Ino::ROOT,
        }
    }

    fn offset(&mut self) -> u64 {
        self.below(8) * 4096 + if self.below(3) == 0 { self.below(4096) } else { 0 }
    }

    /// The next command; content that it needs comes from `content`.
    fn next(&mut self, content: &FileContent) -> Command {
        self.time += 1;
        let now = Timestamp { sec: self.time, nsec: 0 };
        let (keep, kill_privileges) = (self.below(2) == 0, self.below(9) == 0);
        match self.below(24) {
            0..=5 => {
                let kind = match self.below(6) {
                    0 | 1 => NewKind::Directory,
                    2 => NewKind::Symlink(b"target".to_vec()),
                    _ => NewKind::Regular,
                };
                self.next_ino += 1 + self.below(2);
                let (parent, name, ino) = (self.ino(), self.new_name(), Ino(self.next_ino));
                Command::Create { parent, name, ino, kind, mode: 0o755, umask: 0o22, uid: 1, gid: 2, now }
            }
            6 => Command::Link { ino: self.ino(), parent: self.ino(), name: self.new_name(), now },
            7 => {
                let (parent, name) = self.entry();
                Command::Unlink { parent, name, keep, now }
            }
            8 => {
                let (parent, name) = self.entry();
                Command::RemoveDir { parent, name, keep, now }
            }
            9..=11 => {
                let (parent, name) = self.entry();
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][self.below(3) as usize];
                let (new_parent, new_name) =
                    if self.below(2) == 0 { self.entry() } else { (self.ino(), self.new_name()) };
                Command::Rename { parent, name, new_parent, new_name, mode, whiteout: None, keep, now }
            }
            12 => {
                let size = (self.below(2) == 0).then(|| self.offset());
                let change = AttrChange { mode: Some(0o600), size, ..AttrChange::default() };
                Command::SetAttr { ino: self.ino(), change, now }
            }
            13 => Command::SetAtime { ino: self.ino(), atime: now },
            14..=18 => {
                let data = vec![self.below(256) as u8; 1 + self.below(300) as usize];
                let (ino, offset) = (self.ino(), self.offset());
                let pieces = [content.write(&data)].into_iter().collect();
                Command::Write { ino, offset, pieces, store: StoreId(0), kill_privileges, now }
            }
            19 => {
                let ops = [
                    RangeOp::Allocate,
                    RangeOp::PunchHole,
                    RangeOp::ZeroRangeKeepSize,
                    RangeOp::Collapse,
                    RangeOp::Insert,
                ];
                let op = ops[self.below(5) as usize];
                let (offset, len) = (self.below(6) * 4096, 4096 * (1 + self.below(3)));
                Command::Range { ino: self.ino(), op, offset, len, kill_privileges, now }
            }
            20 => {
                let (from, from_offset, to, to_offset) = (self.ino(), self.offset(), self.ino(), self.offset());
                Command::Clone { from, from_offset, to, to_offset, len: self.offset(), kill_privileges, now }
            }
            21 => {
                let value = vec![1; self.below(50) as usize];
                Command::SetXattr {
                    ino: self.ino(),
                    name: name("user.x"),
                    value,
                    mode: XattrMode::Set,
                    kill_setgid: false,
                    now,
                }
            }
            22 => Command::RemoveXattr { ino: self.ino(), name: name("user.x"), now },
            _ => Command::Reap { inos: (2..=self.next_ino).map(Ino).collect(), budget: 3 },
        }
    }
}

/// Every extent's bytes must be in the content, as long as their command was acknowledged.
fn assert_content_is_there(zone: &LocalZone, content_len: u64) {
    zone.read(&mut |state| {
        state.scan(Table::Extent, &[], &[0xff; 17], &mut |key, value| {
            let (ino, offset) = keys::parse_pair(key).unwrap();
            let extent: Extent = nexus_kernel::model::decode("extent", value).unwrap();
            if extent.blob.is_some() {
                assert!(
                    extent.blob_offset + extent.len <= content_len,
                    "inode {ino} at {offset}: {extent:?} of {content_len}"
                );
            }
            ControlFlow::Continue(())
        })
    })
    .unwrap();
}

#[test]
fn a_zone_is_made_once_and_found_again() {
    let disk = SimDisk::new();
    let (zone, _) = on_disk(&disk, zone_config()).unwrap();
    assert_eq!(zone.info().id, NEW.id);
    assert!(zone.inode(Ino::ROOT).unwrap().unwrap().is_dir());
    assert_eq!(zone.allocate_ino().unwrap(), Ino(2));
    zone.propose(&create(5, "five")).unwrap();
    assert_eq!(zone.allocate_ino().unwrap(), Ino(6), "beyond every number in use");
    let digest = zone.digest().unwrap();
    zone.close().unwrap();
    assert!(zone.propose(&create(6, "six")).is_err());
    let log = zone.inner.log.clone();
    log.close().unwrap();
    drop((zone, log));
    let (zone, content) = on_disk(&disk, zone_config()).unwrap();
    assert_eq!(zone.digest().unwrap(), digest);
    assert_eq!(zone.allocate_ino().unwrap(), Ino(6));
    let log = zone.inner.log.clone();
    drop(zone);
    let again = LocalZone::create(parts(log, redb(&disk)), zone_config(), &NEW);
    assert!(matches!(again, Err(nexus_kernel::Error::Exists)));
    drop(content);
}

#[test]
fn time_never_goes_back() {
    struct Steps(AtomicU64);
    impl nexus_kernel::Clock for Steps {
        fn now(&self) -> Timestamp {
            let step = self.0.fetch_add(1, Ordering::Relaxed);
            Timestamp { sec: [10, 12, 11, 13][step as usize % 4], nsec: 0 }
        }
    }
    let disk = SimDisk::new();
    let log = open_log(&disk, FileContent::open(&disk)).unwrap();
    let parts = ZoneParts { clock: Arc::new(Steps(AtomicU64::new(0))), ..parts(log, redb(&disk)) };
    let zone = LocalZone::create(parts, zone_config(), &NEW).unwrap();
    let seen: Vec<i64> = (0..6).map(|_| zone.now().sec).collect();
    assert_eq!(seen, [12, 12, 13, 13, 13, 13]);
}

#[test]
fn reading_only_changes_no_file() {
    let disk = SimDisk::new();
    let (zone, _) = on_disk(&disk, zone_config()).unwrap();
    for ino in 2..40 {
        zone.propose(&create(ino, &format!("file {ino}"))).unwrap();
    }
    let digest = zone.digest().unwrap();
    let left = disk.fork();
    // redb puts its own file in order when it is opened, so it is not looked at.
    let logs =
        || crate::testing::bytes_of(&left).into_iter().filter(|(path, _)| path.starts_with("/log")).collect::<Vec<_>>();
    let before = logs();
    let (reader, _) = on_disk(&left, ZoneConfig { access: Access::ReadOnly, ..zone_config() }).unwrap();
    assert_eq!(reader.digest().unwrap(), digest);
    assert_eq!(reader.propose(&create(50, "x")), Err(nexus_kernel::Error::ReadOnly));
    reader.sync().unwrap();
    reader.checkpoint().unwrap();
    reader.close().unwrap();
    assert!(logs() == before);
}
