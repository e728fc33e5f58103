//! Nodes of one process that talk over the loopback, as they would over any network.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::command::{NewKind, SmallBytes};
use nexus_kernel::content::NoContent;
use nexus_kernel::{
    Clock, Command, Error, Ino, Interest, Metastore, Name, Result, SystemClock, Timestamp, Zone, ZoneIndex,
};
use parking_lot::Mutex;

use super::*;
use crate::raft::{Deaf, Listener, Metastores, Patience, RestConfig};
use crate::{LogConfig, NodeLog};

mod rest;

#[derive(Default)]
struct InMemory(Mutex<std::collections::HashMap<ZoneIndex, Arc<dyn Metastore>>>);

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
        let metastore = all.entry(index).or_insert_with(|| Arc::new(MemoryMetastore::new()));
        Ok((metastore.clone(), Arc::new(Staging)))
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

/// A machine whose node can be started and stopped.
struct Machine {
    dir: tempfile::TempDir,
    disk: SimDisk,
    metastores: Arc<InMemory>,
    writer: u32,
    rest: RestConfig,
}

impl Machine {
    fn new(writer: u32) -> Machine {
        Machine {
            dir: tempfile::tempdir().unwrap(),
            disk: SimDisk::new(),
            metastores: Arc::default(),
            writer,
            rest: RestConfig::default(),
        }
    }

    fn node(&self) -> Arc<ZoneNode> {
        self.node_at(Arc::new(SystemClock))
    }

    fn node_at(&self, clock: Arc<dyn Clock>) -> Arc<ZoneNode> {
        let content = Arc::new(NoContent);
        let disk = Arc::new(self.disk.clone());
        let log = NodeLog::open(disk.clone(), Path::new("/log"), content.clone(), LogConfig::default()).unwrap();
        ZoneNode::new(NodeParts {
            folder: self.dir.path().join("zones"),
            mirror: "/mirror".into(),
            disk,
            log,
            content,
            writer: self.writer,
            name: format!("node {}", self.writer),
            metastores: self.metastores.clone(),
            listeners: Arc::new(Nobody),
            clock,
            replica: ReplicaConfig { memtable_bytes: 1 << 20, cache_bytes: 1 << 20 },
            zone: RaftZoneConfig {
                patience: Arc::new(Patience::new(Duration::from_secs(20))),
                ..RaftZoneConfig::default()
            },
            group: GroupConfig {
                heartbeat: Duration::from_millis(100),
                election: Duration::from_millis(400),
                rest: self.rest.clone(),
                ..GroupConfig::default()
            },
        })
        .unwrap()
    }

    fn started(&self) -> Arc<ZoneNode> {
        let node = self.node();
        node.listen("127.0.0.1:0".parse().unwrap(), Vec::new()).unwrap();
        node
    }
}

const ROOT: NewRoot = NewRoot { hash_seed: 3, mode: 0o755, uid: 0, gid: 0, within: None };

fn create(zone: &dyn Zone, name: &str) -> Result<()> {
    let command = Command::Create {
        parent: Ino::ROOT,
        name: SmallBytes::from_slice(name.as_bytes()),
        ino: zone.allocate_ino()?,
        kind: NewKind::Regular,
        mode: 0o644,
        umask: 0,
        uid: 0,
        gid: 0,
        now: zone.now(),
    };
    zone.propose(&command).map(drop)
}

fn has(zone: &dyn Zone, name: &str) -> bool {
    zone.catch_up(Interest::Anything).unwrap();
    zone.lookup(Ino::ROOT, Name::new(name.as_bytes()).unwrap()).unwrap().is_some()
}

fn agree(zones: &[&Arc<JoinedZone>]) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let digests: Vec<_> = zones.iter().map(|joined| joined.zone().digest().unwrap()).collect();
        if digests.iter().all(|digest| *digest == digests[0]) {
            return;
        }
        assert!(Instant::now() < until, "{digests:x?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nodes_join_by_invitation_and_have_the_same_files() {
    let machines = [Machine::new(1), Machine::new(2), Machine::new(3)];
    let nodes: Vec<_> = machines.iter().map(Machine::started).collect();
    let a = nodes[0].found("project", ROOT).unwrap();
    create(&**a.zone(), "from a").unwrap();
    let invite = nodes[0].invite(&a, Duration::from_secs(600)).unwrap();
    let b = nodes[1].join(&invite).unwrap();
    assert!(has(&**b.zone(), "from a"));
    create(&**b.zone(), "from b").unwrap();
    assert!(has(&**a.zone(), "from b"));
    let again = nodes[2].join(&invite);
    assert!(matches!(&again, Err(Error::Unavailable(why)) if why.contains("used")), "{:?}", again.err());
    let invite = nodes[1].invite(&b, Duration::from_secs(600)).unwrap();
    let c = nodes[2].join(&invite).unwrap();
    create(&**c.zone(), "from c").unwrap();
    assert!(has(&**a.zone(), "from c") && has(&**b.zone(), "from c"));
    agree(&[&a, &b, &c]);
    let report = c.report().unwrap();
    assert_eq!((report.members.len(), report.has_quorum, report.name.as_str()), (3, true, "project"));
    // One goes for good, and may not come back.
    nodes[0].remove_member(&a, c.member()).unwrap();
    assert_eq!(a.report().unwrap().members.len(), 2);
    create(&**b.zone(), "after c").unwrap();
    nodes.iter().for_each(|node| node.close().unwrap());
}

#[test]
fn a_member_that_was_away_catches_up_and_a_leader_that_stops_is_replaced() {
    let machines = [Machine::new(1), Machine::new(2), Machine::new(3)];
    let mut nodes: Vec<_> = machines.iter().map(Machine::started).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.listening().unwrap()).collect();
    let a = nodes[0].found("project", ROOT).unwrap();
    let joined: Vec<_> =
        [1, 2].map(|n| nodes[n].join(&nodes[0].invite(&a, Duration::from_secs(60)).unwrap()).unwrap()).into();
    create(&**a.zone(), "before").unwrap();
    // The founder leads. It stops without a word, as far as the others can tell.
    nodes[0].close().unwrap();
    drop(a);
    let since = Instant::now();
    create(&**joined[0].zone(), "without a leader at first").unwrap();
    println!("the first change after the leader stopped took {:?}", since.elapsed());
    for n in 0..50 {
        create(&**joined[1].zone(), &format!("file {n}")).unwrap();
    }
    nodes[0] = machines[0].node();
    nodes[0].listen(addresses[0], Vec::new()).unwrap();
    let a = nodes[0].open().remove(0);
    assert!(has(&**a.zone(), "before") && has(&**a.zone(), "file 49"));
    create(&**a.zone(), "back").unwrap();
    agree(&[&a, &joined[0], &joined[1]]);
    nodes.iter().for_each(|node| node.close().unwrap());
}

#[test]
fn a_member_answers_queries_as_of_all_that_was_acknowledged() {
    let machines = [Machine::new(1), Machine::new(2)];
    let nodes: Vec<_> = machines.iter().map(Machine::started).collect();
    let a = nodes[0].found("project", ROOT).unwrap();
    let b = nodes[1].join(&nodes[0].invite(&a, Duration::from_secs(60)).unwrap()).unwrap();
    let members = b.zone().group().status().membership.members;
    let client = b.links().client(a.member(), &members[&a.member()]).unwrap();
    let ask = |query: crate::net::Query| b.block_on(client.query(0, query, Duration::from_secs(20))).unwrap();
    let mut seen = 0;
    for n in 0..30 {
        let name = format!("file {n}");
        create(&**b.zone(), &name).unwrap();
        let found = ask(crate::net::Query::Lookup(Ino::ROOT, name.clone().into_bytes()));
        assert_eq!(found.records.len(), 2, "{name} is not seen");
        let ino = u64::from_be_bytes(found.records[0][..].try_into().unwrap());
        assert_eq!(ask(crate::net::Query::Inode(Ino(ino))).records, found.records[1..]);
        assert!(found.index > seen);
        seen = found.index;
    }
    assert!(ask(crate::net::Query::Lookup(Ino::ROOT, b"none".to_vec())).records.is_empty());
    // In pages, each name once.
    let (mut after, mut names) = (0, std::collections::BTreeSet::new());
    loop {
        let page = ask(crate::net::Query::ReadDir(Ino::ROOT, after, 7)).records;
        let Some(last) = page.last() else { break };
        after = u64::from_be_bytes(last[..8].try_into().unwrap());
        for record in &page {
            let bytes = record.slice(8..);
            let dentry = nexus_kernel::model::Dentry::decode(&bytes).unwrap();
            assert!(names.insert(dentry.name.to_vec()), "twice");
        }
    }
    assert_eq!(names.len(), 30);
    assert!(ask(crate::net::Query::Extents(Ino::ROOT, 0, 9)).records.is_empty());
    // What changes is told, whoever is asked, from where the answer was on.
    create(&**a.zone(), "told").unwrap();
    for by in [None, Some(a.member())] {
        let events = b.changes(Some(seen), by, Duration::from_secs(20)).unwrap();
        let named = events.iter().flat_map(|event| &event.names).any(|named| &named.name[..] == b"told");
        assert!(named && !events.iter().any(|event| event.fell_behind), "{events:?}");
    }
    nodes.iter().for_each(|node| node.close().unwrap());
}

#[test]
fn a_copied_data_folder_is_refused() {
    let machines = [Machine::new(1), Machine::new(1)];
    let nodes: Vec<_> = machines.iter().map(Machine::started).collect();
    let a = nodes[0].found("project", ROOT).unwrap();
    let invite = nodes[0].invite(&a, Duration::from_secs(60)).unwrap();
    let refused = nodes[1].join(&invite);
    assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("copied")), "{:?}", refused.err());
    assert!(nodes[1].zones().is_empty());
    nodes.iter().for_each(|node| node.close().unwrap());
}

/// The machine's clock, two years on.
struct Later;

impl Clock for Later {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now();
        Timestamp { sec: now.sec + 2 * 365 * 24 * 3600, ..now }
    }
}

#[test]
fn a_zone_that_cannot_be_opened_is_told_of_and_is_there_again_once_it_can() {
    let machine = Machine::new(1);
    let node = machine.started();
    for name in ["first", "second"] {
        let joined = node.found(name, ROOT).unwrap();
        create(&**joined.zone(), name).unwrap();
    }
    let ids: Vec<_> = node.zones().iter().map(|joined| joined.id()).collect();
    node.close().unwrap();
    drop(node);
    // Both certificates have expired, and are made anew.
    let node = machine.node_at(Arc::new(Later));
    let zones = node.open();
    assert_eq!(zones.iter().map(|joined| joined.id()).collect::<Vec<_>>(), ids);
    assert!(has(&**zones[0].zone(), "first") && has(&**zones[1].zone(), "second"));
    node.close().unwrap();
    drop((zones, node));
    // Each has the other's key, until they are put back. The clock is right again.
    let key = |zone: &str| machine.dir.path().join("zones").join(zone).join("node.key");
    let swap = || {
        let keys = ["1", "2"].map(|zone| std::fs::read(key(zone)).unwrap());
        std::fs::write(key("1"), &keys[1]).unwrap();
        std::fs::write(key("2"), &keys[0]).unwrap();
    };
    swap();
    let node = machine.node();
    assert!(node.open().is_empty());
    let closed = node.closed();
    assert_eq!(closed.iter().filter_map(|zone| zone.id).collect::<Vec<_>>(), ids);
    for zone in &closed {
        assert!(zone.why.contains("certificate") && zone.why.contains("clock"), "{zone:?}");
    }
    node.close().unwrap();
    drop(node);
    swap();
    // One of the two has no record any more; the certificate still tells which zone it is.
    let record = machine.dir.path().join("zones").join(closed[0].index.unwrap().to_string()).join("zone");
    let bytes = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    let node = machine.node();
    let opened: Vec<_> = node.open().iter().map(|joined| joined.name().to_owned()).collect();
    assert_eq!(opened, ["second"]);
    let closed = node.closed();
    assert_eq!((closed.len(), closed[0].id, closed[0].name.clone()), (1, Some(ids[0]), None));
    assert!(closed[0].why.contains("is missing"), "{closed:?}");
    node.close().unwrap();
    drop(node);
    std::fs::write(&record, bytes).unwrap();
    let node = machine.started();
    let zones = node.open();
    assert!(node.closed().is_empty());
    assert!(has(&**zones[0].zone(), "first") && has(&**zones[1].zone(), "second"));
    node.close().unwrap();
}

#[test]
fn a_zone_whose_log_is_ahead_of_an_empty_metastore_is_not_opened() {
    let machine = Machine::new(1);
    let node = machine.started();
    let joined = node.found("project", ROOT).unwrap();
    create(&**joined.zone(), "file").unwrap();
    joined.zone().checkpoint().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while joined.zone().group().status().purged.is_none() {
        assert!(Instant::now() < until, "nothing is purged");
        // It purges up to the snapshot before, which it does not wait for.
        node.handle.block_on(joined.zone().group().compact());
        std::thread::sleep(Duration::from_millis(20));
    }
    let index = joined.index();
    node.close().unwrap();
    drop((node, joined));
    machine.metastores.remove(index).unwrap();
    let node = machine.node();
    assert!(node.open().is_empty());
    assert!(node.closed()[0].why.contains("missing, or older than the log"), "{:?}", node.closed());
    node.close().unwrap();
}
