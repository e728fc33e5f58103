//! Prints how long the zone's operations take: `cargo run --release -p nexus-zone --example
//! zone_speed [FOLDER [stalls]]`. Works in a temporary folder below FOLDER, or of the machine.
//! With `stalls`, only creates for 20 seconds, to be watched while something else loads the
//! disk or the processors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool for measuring, which may stop at any error")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::{RedbMetastore, RedbOptions};
use nexus_kernel::command::{AttrChange, NewKind, SmallBytes};
use nexus_kernel::content::ContentSync;
use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Clock, Command, Ino, Name, Result, StoreId, SystemClock, Zone, ZoneIndex};
use nexus_zone::{Background, LocalZone, LogConfig, NewZone, NodeLog, ZoneConfig, ZoneParts};

/// Content that is always there.
struct Given;

impl ContentSync for Given {
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn verify(&self, _piece: &Piece) -> Result<bool> {
        Ok(true)
    }
}

fn open(folder: &Path, config: ZoneConfig) -> LocalZone {
    let disk = Arc::new(RealDisk::new());
    let log = NodeLog::open(disk.clone(), &folder.join("log"), Arc::new(Given), LogConfig::default()).unwrap();
    let options = RedbOptions::default();
    let metastore = Arc::new(RedbMetastore::open_or_create(disk, &folder.join("meta.redb"), options).unwrap());
    let parts = ZoneParts { zone: ZoneIndex(0), log, metastore, clock: Arc::new(SystemClock) };
    match LocalZone::open(parts.clone(), config.clone()) {
        Ok(zone) => zone,
        Err(_) => {
            let new = NewZone { id: [1; 16], hash_seed: 12345, mode: 0o755, uid: 0, gid: 0 };
            LocalZone::create(parts, config, &new).unwrap()
        }
    }
}

fn create(zone: &LocalZone, parent: Ino, name: &str, kind: NewKind) -> Ino {
    let ino = zone.allocate_ino().unwrap();
    let name = SmallBytes::from_slice(name.as_bytes());
    let command =
        Command::Create { parent, name, ino, kind, mode: 0o644, umask: 0o22, uid: 0, gid: 0, now: zone.now() };
    zone.propose(&command).unwrap();
    ino
}

/// Time that all threads of this process have spent on a CPU, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

/// Memory of this process that is not in files.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<u64> = statm.split_whitespace().map(|field| field.parse().unwrap()).collect();
    4096 * (pages[1] - pages[2])
}

/// Runs `work` on 0 to `count` and prints the time for one, with the slowest ones.
fn time(what: &str, count: u64, mut work: impl FnMut(u64)) {
    let mut each = Vec::with_capacity(count as usize);
    let (cpu, start) = (cpu_time(), Instant::now());
    let mut last = start;
    for i in 0..count {
        work(i);
        let now = Instant::now();
        each.push(now - last);
        last = now;
    }
    let (cpu, whole) = (cpu_time() - cpu, start.elapsed());
    each.sort_unstable();
    let at = |share: f64| each[((count - 1) as f64 * share) as usize];
    println!(
        "{what:<46} cpu {:>9.2?}  mean {:>9.2?}  p50 {:>9.2?}  p99 {:>9.2?}  p99.9 {:>9.2?}  p99.99 {:>9.2?}  max {:>9.2?}",
        cpu / count as u32,
        whole / count as u32,
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
}

fn main() {
    let folder = match std::env::args().nth(1) {
        Some(below) => tempfile::tempdir_in(below).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    if std::env::args().nth(2).is_some_and(|mode| mode == "stalls") {
        return stalls(&open(folder.path(), ZoneConfig::default()));
    }
    const N: u64 = 50_000;
    let quiet = ZoneConfig { background: Background::Inline, memtable_bytes: 1 << 30, ..ZoneConfig::default() };
    let zone = open(folder.path(), quiet);
    println!("No drain in the way:");
    let new_dir = create(&zone, Ino::ROOT, "new", NewKind::Directory);
    let mut inos = Vec::with_capacity(2 * N as usize);
    let (resident, pending) = (resident_bytes(), zone.stats().unwrap().pending_bytes);
    time("create, new directory", N, |i| inos.push(create(&zone, new_dir, &format!("file {i}"), NewKind::Regular)));
    let pending = zone.stats().unwrap().pending_bytes - pending;
    println!("pending: {pending} bytes by its own count, the process grew by {}", resident_bytes() - resident);
    zone.checkpoint().unwrap();
    time("create, directory in the metastore", N, |i| {
        inos.push(create(&zone, new_dir, &format!("more {i}"), NewKind::Regular));
    });
    let named = |i: u64| Command::Create {
        parent: new_dir,
        name: SmallBytes::from_slice(format!("other {i}").as_bytes()),
        ino: Ino(1 << 30 | i),
        kind: NewKind::Regular,
        mode: 0o644,
        umask: 0o22,
        uid: 0,
        gid: 0,
        now: SystemClock.now(),
    };
    time("of it: encoding", N, |i| drop(black_box(named(i).encode().unwrap())));
    time("of it: the state machine, first time", N, |i| {
        zone.read(&mut |state| nexus_kernel::machine::apply(state, &named(i)).map(|applied| drop(black_box(applied))))
            .unwrap();
    });
    time("of it: the state machine, again", N, |i| {
        zone.read(&mut |state| nexus_kernel::machine::apply(state, &named(i)).map(|applied| drop(black_box(applied))))
            .unwrap();
    });
    let log_folder = folder.path().join("other log");
    let log = NodeLog::open(Arc::new(RealDisk::new()), &log_folder, Arc::new(Given), LogConfig::default()).unwrap();
    let payload = named(0).encode().unwrap();
    log.append(ZoneIndex(1), nexus_zone::Claim::Normal, &payload).unwrap();
    time("of it: appending to the log", N, |_| {
        log.append(ZoneIndex(1), nexus_zone::Claim::Normal, &payload).unwrap();
    });
    time("set_attr", N, |i| {
        let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
        zone.propose(&Command::SetAttr { ino: inos[i as usize], change, now: zone.now() }).unwrap();
    });
    time("write, one piece a file", N, |i| {
        let piece = Piece { len: 4096, blob: BlobId(5), blob_offset: i * 4096, crc: 1 };
        write(&zone, inos[i as usize], 0, piece);
    });
    zone.checkpoint().unwrap();
    let big = inos[0];
    time("write, random places of one file, drained", N, |i| {
        let at = (i * 7919) % N;
        write(&zone, big, at * 4096, Piece { len: 4096, blob: BlobId(6), blob_offset: i * 8192, crc: 1 });
        if i == N / 2 {
            zone.checkpoint().unwrap();
        }
    });
    time("inode, cached", N, |i| {
        black_box(zone.inode(inos[i as usize % 1000]).unwrap());
    });
    let names: Vec<String> = (0..N).map(|i| format!("file {i}")).collect();
    let lookup =
        |i: u64| drop(black_box(zone.lookup(new_dir, Name::new(names[i as usize].as_bytes()).unwrap()).unwrap()));
    zone.checkpoint().unwrap();
    time("lookup, from the metastore", N, lookup);
    time("lookup, cached", N, |i| lookup(i % 5000));
    time("time itself", N, |i| {
        black_box(i);
    });
    let start = Instant::now();
    for i in 0..N * 50 {
        black_box(zone.inode(inos[i as usize % 1000]).unwrap());
    }
    println!("inode, cached, without looking at the time: {:.1?}", start.elapsed() / (N as u32 * 50));
    let start = Instant::now();
    for i in 0..N * 20 {
        lookup(i % 5000);
    }
    println!("lookup, cached, without looking at the time: {:.1?}", start.elapsed() / (N as u32 * 20));
    time("unlink", N, |i| {
        let name = SmallBytes::from_slice(names[i as usize].as_bytes());
        zone.propose(&Command::Unlink { parent: new_dir, name, keep: false, now: zone.now() }).unwrap();
    });
    names_in_use(&zone, N);
    time("create and sync", 500, |i| {
        create(&zone, new_dir, &format!("synced {i}"), NewKind::Regular);
        zone.sync().unwrap();
    });
    drop(zone);
    println!("As the daemon runs it:");
    let zone = open(folder.path(), ZoneConfig::default());
    let dirs: Vec<Ino> = (0..1000).map(|i| create(&zone, Ino::ROOT, &format!("dir {i}"), NewKind::Directory)).collect();
    time("create in random directories, drains behind", 600_000, |i| {
        create(&zone, dirs[(i * 7919 % 1000) as usize], &format!("file {i}"), NewKind::Regular);
    });
    let start = Instant::now();
    zone.checkpoint().unwrap();
    println!("checkpoint of the rest: {:.1?}", start.elapsed());
    for threads in [1, 4, 16] {
        let end = Instant::now() + Duration::from_secs(2);
        let done: u64 = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..threads)
                .map(|thread| {
                    let (zone, dirs) = (&zone, &dirs);
                    scope.spawn(move || {
                        let mut i = 0;
                        while Instant::now() < end {
                            create(zone, dirs[thread], &format!("{threads} {i}"), NewKind::Regular);
                            zone.sync().unwrap();
                            i += 1;
                        }
                        i
                    })
                })
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).sum()
        });
        println!("create and sync, {threads} callers: {} a second", done / 2);
    }
    let clock = SystemClock;
    let start = clock.now();
    zone.close().unwrap();
    println!("close: from {start:?} to {:?}", clock.now());
}

/// Creates at a steady pace, which the drain keeps up with, for 20 seconds.
fn stalls(zone: &LocalZone) {
    let dirs: Vec<Ino> = (0..1000).map(|i| create(zone, Ino::ROOT, &format!("dir {i}"), NewKind::Directory)).collect();
    let (start, pace, count) = (Instant::now(), Duration::from_micros(50), 400_000u64);
    let mut each = Vec::new();
    for i in 0..count {
        let before = Instant::now();
        create(zone, dirs[(i * 7919 % 1000) as usize], &format!("file {i}"), NewKind::Regular);
        let after = Instant::now();
        each.push((after - before, before - start));
        while start.elapsed() < pace * i as u32 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    each.sort_unstable();
    let at = |share: f64| each[((count - 1) as f64 * share) as usize].0;
    println!("create: p50 {:.1?}  p99 {:.1?}  p99.9 {:.1?}  p99.99 {:.1?}", at(0.5), at(0.99), at(0.999), at(0.9999));
    let worst: Vec<String> =
        each.iter().rev().take(12).map(|(time, when)| format!("{time:.1?} at {:.2}", when.as_secs_f32())).collect();
    println!("the slowest, and when: {}", worst.join(", "));
}

/// What programs do to names, as the daemon proposes it: unlinked inodes stay until the
/// kernel lets go of them, and are reaped in batches.
fn names_in_use(zone: &LocalZone, count: u64) {
    let dirs: Vec<Ino> = (0..100).map(|i| create(zone, Ino::ROOT, &format!("used {i}"), NewKind::Directory)).collect();
    let dir = |i: u64| dirs[(i / 500 % 100) as usize];
    let small = |text: String| SmallBytes::from_slice(text.as_bytes());
    let mut inos = Vec::new();
    time("make: create", count, |i| inos.push(create(zone, dir(i), &format!("file {i}"), NewKind::Regular)));
    time("make: mkdir", count, |i| _ = create(zone, dir(i), &format!("dir {i}"), NewKind::Directory));
    time("make: symlink", count, |i| {
        create(zone, dir(i), &format!("symlink {i}"), NewKind::Symlink(b"to somewhere else".to_vec()));
    });
    time("make: link", count, |i| {
        let (ino, name) = (inos[i as usize], small(format!("link {i}")));
        zone.propose(&Command::Link { ino, parent: dir(i), name, now: zone.now() }).unwrap();
    });
    time("make: write", count, |i| {
        write(
            zone,
            inos[i as usize],
            0,
            Piece { len: 4096, blob: BlobId(9 + i / 5000), blob_offset: i * 4096, crc: 1 },
        );
    });
    time("make: write again", count, |i| {
        write(
            zone,
            inos[i as usize],
            0,
            Piece { len: 4096, blob: BlobId(29 + i / 5000), blob_offset: i * 4096, crc: 1 },
        );
    });
    time("make: append", count, |i| {
        let piece = Piece { len: 4096, blob: BlobId(49 + i / 5000), blob_offset: i * 4096, crc: 1 };
        write(zone, inos[i as usize], 4096, piece);
    });
    for when in ["pending", "drained"] {
        let half = count / 2;
        let first = if when == "pending" { 0 } else { half };
        time(&format!("{when}: set_attr"), count - first, |i| {
            let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
            zone.propose(&Command::SetAttr { ino: inos[(first + i) as usize], change, now: zone.now() }).unwrap();
        });
        let (from, to) = if when == "pending" { ("link", "moved") } else { ("moved", "moved again") };
        time(&format!("{when}: rename"), count - first, |i| {
            let i = first + i;
            let rename = Command::Rename {
                parent: dir(i),
                name: small(format!("{from} {i}")),
                new_parent: dir(i),
                new_name: small(format!("{to} {i}")),
                mode: nexus_kernel::command::RenameMode::Replace,
                whiteout: None,
                keep: true,
                now: zone.now(),
            };
            zone.propose(&rename).unwrap();
        });
        let unlink = |kind: &str, last: bool| {
            let mut gone = Vec::new();
            time(&format!("{when}: look up and unlink a {kind}"), half, |i| {
                let (parent, name) = (dir(first + i), format!("{kind} {}", first + i));
                let (_, found) = zone.lookup(parent, Name::new(name.as_bytes()).unwrap()).unwrap().unwrap();
                zone.inode(found.ino).unwrap();
                zone.propose(&Command::Unlink { parent, name: small(name), keep: true, now: zone.now() }).unwrap();
                if last {
                    gone.push(found.ino);
                }
                if gone.len() == 64 || i + 1 == half {
                    zone.propose(&Command::Reap { inos: std::mem::take(&mut gone), budget: 4096 }).unwrap();
                }
            });
        };
        unlink("symlink", true);
        unlink(to, false);
        unlink("file", true);
        zone.checkpoint().unwrap();
    }
}

fn write(zone: &LocalZone, ino: Ino, offset: u64, piece: Piece) {
    let pieces = [piece].into_iter().collect();
    let command = Command::Write { ino, offset, pieces, store: StoreId(0), kill_privileges: false, now: zone.now() };
    zone.propose(&command).unwrap();
}
