//! Prints what idle zones cost: `cargo run --release -p nexus-zone --example idle_zones [ZONES
//! [SECONDS]]`. Three nodes in this process, each a member of all zones, talk over the loopback;
//! nobody reads or writes. Then a node is stopped without a word, and it is timed how long a
//! change in zones that it led takes. Works in a temporary folder.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool for measuring, which may stop at any error")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::{Command, Ino, Metastore, Result, SystemClock, Zone, ZoneIndex};
use nexus_zone::node::{JoinedZone, Listeners, NewRoot, NodeParts, ZoneMetastores, ZoneNode};
use nexus_zone::raft::{Deaf, GroupConfig, Listener, Metastores, RaftZoneConfig, ReplicaConfig};
use nexus_zone::{LogConfig, NodeLog};
use parking_lot::Mutex;

#[derive(Default)]
struct InMemory(Mutex<HashMap<ZoneIndex, Arc<dyn Metastore>>>);

struct Staging;

impl Metastores for Staging {
    fn stage(&self) -> Result<Arc<dyn Metastore>> {
        Ok(Arc::new(MemoryMetastore::new()))
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> Result<()> {
        Ok(())
    }
}

impl ZoneMetastores for InMemory {
    fn open(&self, index: ZoneIndex) -> Result<(Arc<dyn Metastore>, Arc<dyn Metastores>)> {
        let mut all = self.0.lock();
        Ok((all.entry(index).or_insert_with(|| Arc::new(MemoryMetastore::new())).clone(), Arc::new(Staging)))
    }

    fn remove(&self, index: ZoneIndex) -> Result<()> {
        self.0.lock().remove(&index);
        Ok(())
    }
}

struct Nobody;

impl Listeners for Nobody {
    fn listener(&self, _index: ZoneIndex) -> Arc<dyn Listener> {
        Arc::new(Deaf)
    }

    fn adopt(&self, _index: ZoneIndex, _writer: u32) -> Result<()> {
        Ok(())
    }

    fn held(&self, _index: ZoneIndex, _inodes: &[Ino]) -> Vec<Ino> {
        Vec::new()
    }

    fn in_use(&self, _index: ZoneIndex, _inodes: &[Ino], _at_most: Duration) -> Option<Vec<Ino>> {
        Some(Vec::new())
    }
}

fn node(folder: &std::path::Path, writer: u32) -> Arc<ZoneNode> {
    let folder = folder.join(writer.to_string());
    let (disk, content) = (Arc::new(RealDisk::new()), Arc::new(NoContent));
    let log = NodeLog::open(disk.clone(), &folder.join("log"), content.clone(), LogConfig::default()).unwrap();
    let node = ZoneNode::new(NodeParts {
        folder: folder.join("zones"),
        mirror: folder.join("mirror"),
        disk,
        log,
        content,
        writer,
        name: format!("node {writer}"),
        metastores: Arc::new(InMemory::default()),
        listeners: Arc::new(Nobody),
        clock: Arc::new(SystemClock),
        replica: ReplicaConfig { memtable_bytes: 1 << 20, cache_bytes: 1 << 16 },
        zone: RaftZoneConfig::default(),
        group: GroupConfig::default(),
    });
    let node = node.unwrap();
    node.listen("127.0.0.1:0".parse().unwrap(), Vec::new()).unwrap();
    node
}

/// Time that all threads of this process have spent on a CPU, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

/// Times that any thread of this process has waited for something.
fn waits() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let count = |text: String| {
        let line = text.lines().find(|line| line.starts_with("voluntary"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    status.filter_map(count).sum()
}

fn set(zone: &JoinedZone, value: u64) {
    let command = Command::SetSys { key: "test/idle".into(), value: Some(value.to_be_bytes().to_vec()) };
    zone.zone().propose(&command).unwrap();
}

fn measure(what: &str, for_s: u64) {
    let (cpu, waited, began) = (cpu_time(), waits(), Instant::now());
    std::thread::sleep(Duration::from_secs(for_s));
    let (cpu, took) = (cpu_time() - cpu, began.elapsed().as_secs_f64());
    let share = cpu.as_secs_f64() / took * 100.0;
    // Those of threads that have ended are not counted.
    let waited = waits().saturating_sub(waited) as f64 / took;
    println!("{what}: {share:.2} % of a core in all, {:.2} % a node; {waited:.0} wake-ups a second", share / 3.0);
}

fn main() {
    let number = |place| std::env::args().nth(place).and_then(|text| text.parse().ok());
    let (zones, seconds): (u64, u64) = (number(1).unwrap_or(100), number(2).unwrap_or(20));
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<Arc<ZoneNode>> = (1..=3).map(|writer| node(folder.path(), writer)).collect();
    let root = |seed| NewRoot { hash_seed: seed, mode: 0o755, uid: 0, gid: 0, within: None };
    let began = Instant::now();
    let founded: Vec<Arc<JoinedZone>> =
        (0..zones).map(|n| nodes[n as usize % 3].found(&format!("zone {n}"), root(n)).unwrap()).collect();
    for (place, zone) in founded.iter().enumerate() {
        for step in 1..3 {
            let invite = nodes[place % 3].invite(zone, Duration::from_secs(600)).unwrap();
            nodes[(place + step) % 3].join(&invite).unwrap();
        }
    }
    println!("{zones} zones of 3 nodes made in {:.1?}", began.elapsed());
    measure("at first", 5);
    std::thread::sleep(Duration::from_secs(15));
    measure("idle", seconds);
    let began = Instant::now();
    founded.iter().for_each(|zone| set(zone, 1));
    println!("a change in each: {:.1?} each", began.elapsed() / zones as u32);
    std::thread::sleep(Duration::from_secs(10));
    measure("idle again", seconds);
    nodes[0].close().unwrap();
    let others: Vec<Arc<JoinedZone>> = nodes[1].zones();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let timed = |zone: &JoinedZone| {
            let began = Instant::now();
            set(zone, 2);
            began.elapsed()
        };
        let all: Vec<_> = others.iter().map(|zone| scope.spawn(move || timed(zone))).collect();
        for one in all {
            slowest = slowest.max(one.join().unwrap());
        }
    });
    println!("a node is gone: a change in each zone after {:.1?}, the slowest {slowest:.1?}", began.elapsed());
    nodes.iter().skip(1).for_each(|node| node.close().unwrap());
}
