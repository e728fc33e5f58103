//! Groups of several members in one process, with links in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::behind::FileWrite;
use nexus_kernel::command::{AttrChange, NewKind, SmallBytes};
use nexus_kernel::content::NoContent;
use nexus_kernel::metastore::MetaSnapshot;
use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Command, Error, Ino, Interest, Metastore, Result, StoreId, SystemClock, Timestamp, Zone};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

use super::engine::memory_log::MemoryLog;
use super::*;

mod paused;

/// Metastores in memory.
struct InMemory;

impl Metastores for InMemory {
    fn stage(&self) -> Result<Arc<dyn Metastore>> {
        Ok(Arc::new(MemoryMetastore::new()))
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> Result<()> {
        Ok(())
    }
}

type Peer = (Arc<dyn Consensus>, Arc<Replica>);

/// All members, and which of them are cut off.
#[derive(Default)]
struct Net {
    members: Mutex<HashMap<MemberId, Peer>>,
    cut: Mutex<HashMap<MemberId, Arc<AtomicBool>>>,
}

impl Net {
    fn cut_of(&self, id: MemberId) -> Arc<AtomicBool> {
        self.cut.lock().entry(id).or_default().clone()
    }
}

struct NetLinks {
    net: Arc<Net>,
    from: MemberId,
}

#[derive(Clone)]
struct NetLink {
    net: Arc<Net>,
    from: MemberId,
    to: MemberId,
}

impl Links for NetLinks {
    fn link(&self, id: MemberId, _member: &Member) -> Arc<dyn Link> {
        Arc::new(NetLink { net: self.net.clone(), from: self.from, to: id })
    }
}

impl NetLink {
    fn is_cut(&self) -> bool {
        [self.from, self.to].iter().any(|id| self.net.cut_of(*id).load(Ordering::SeqCst))
    }

    fn peer(&self) -> Result<Peer> {
        let gone = || Error::Unavailable("not there".into());
        if self.is_cut() { Err(gone()) } else { self.net.members.lock().get(&self.to).cloned().ok_or_else(gone) }
    }
}

impl Link for NetLink {
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteReply>> {
        let peer = self.peer();
        async move { peer?.0.on_vote(request).await }.boxed()
    }

    fn transfer_leader(&self, request: TransferLeader) -> BoxFuture<'static, Result<bool>> {
        let peer = self.peer();
        async move { peer?.0.on_transfer_leader(request).await }.boxed()
    }

    fn replicate(
        &self,
        appends: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply>>>> {
        let this = self.clone();
        async move {
            let replies = this.peer()?.0.on_replicate(appends);
            let checked = replies.map(move |reply| if this.is_cut() { Err(Error::Io("cut".into())) } else { reply });
            Ok(checked.boxed())
        }
        .boxed()
    }

    fn snapshot(&self, vote: Vote, mark: Mark, state: Arc<dyn MetaSnapshot>) -> BoxFuture<'static, Result<Vote>> {
        let peer = self.peer();
        async move {
            let (group, replica) = peer?;
            let (mut out, mut into) = (Outgoing::new(state), replica.stage()?);
            while let Some(piece) = out.piece()? {
                into.take(&piece)?;
            }
            group.on_snapshot(vote, mark, into.finish()?).await
        }
        .boxed()
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, std::result::Result<Position, Refusal>> {
        let peer = self.peer();
        async move {
            match peer {
                Ok((group, _)) => group.propose(batch).await,
                Err(error) => Err(Refusal::Unclear(error.to_string())),
            }
        }
        .boxed()
    }

    fn pledge(&self) -> BoxFuture<'static, std::result::Result<(u64, bool), Refusal>> {
        let (peer, from) = (self.peer(), self.from);
        async move {
            match peer {
                Ok((group, _)) => group.pledge(from).await,
                Err(error) => Err(Refusal::Unclear(error.to_string())),
            }
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'static, std::result::Result<u64, Refusal>> {
        let peer = self.peer();
        async move {
            match peer {
                Ok((group, _)) => group.read_index().await,
                Err(error) => Err(Refusal::Unclear(error.to_string())),
            }
        }
        .boxed()
    }
}

struct Cluster {
    runtime: Runtime,
    net: Arc<Net>,
    config: GroupConfig,
}

impl Cluster {
    fn new() -> Cluster {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let config = GroupConfig {
            heartbeat: Duration::from_millis(50),
            election: Duration::from_millis(200),
            snapshot_entries: 100,
            keep_entries: 20,
            ..GroupConfig::default()
        };
        Cluster { runtime, net: Arc::default(), config }
    }

    fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// A member that is not in the group yet.
    fn start(&self, id: u64) -> RaftZone {
        self.start_heard(id, Arc::new(Deaf))
    }

    fn start_heard(&self, id: u64, listener: Arc<dyn Listener>) -> RaftZone {
        let me = MemberId(id);
        let metastore: Arc<dyn Metastore> = Arc::new(MemoryMetastore::new());
        let config = ReplicaConfig { memtable_bytes: 200_000, cache_bytes: 1 << 20 };
        let replica = Replica::open(me, 1, metastore, Arc::new(InMemory), listener, config).unwrap();
        let replica = Arc::new(replica);
        let links = Arc::new(NetLinks { net: self.net.clone(), from: me });
        let group =
            self.runtime.block_on(Group::start(replica.clone(), MemoryLog::default(), links.clone(), &self.config));
        let group: Arc<dyn Consensus> = Arc::new(group.unwrap());
        self.net.members.lock().insert(me, (group.clone(), replica.clone()));
        let parts = RaftParts {
            replica,
            group,
            links,
            content: Arc::new(NoContent),
            copies: Arc::new(NoCopies),
            clock: Arc::new(SystemClock),
            runtime: self.handle(),
        };
        let config =
            RaftZoneConfig { patience: Arc::new(Patience::new(Duration::from_secs(10))), ..RaftZoneConfig::default() };
        RaftZone::new(parts, config).unwrap()
    }

    /// A group of one member, formatted.
    fn found(&self, id: u64) -> RaftZone {
        self.found_heard(id, Arc::new(Deaf))
    }

    fn found_heard(&self, id: u64, listener: Arc<dyn Listener>) -> RaftZone {
        let zone = self.start_heard(id, listener);
        self.runtime.block_on(zone.group().found(member(id))).unwrap();
        let now = zone.now();
        let format = Command::Format { id: [5; 16], hash_seed: 9, mode: 0o755, uid: 0, gid: 0, now };
        zone.propose(&format).unwrap();
        zone
    }

    fn join(&self, by: &RaftZone, id: u64) -> RaftZone {
        let zone = self.start(id);
        self.runtime.block_on(by.group().add(MemberId(id), member(id))).unwrap();
        zone
    }
}

fn member(id: u64) -> Member {
    Member { name: format!("m{id}"), ..Member::default() }
}

fn create(zone: &RaftZone, name: &str) -> Result<Ino> {
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
    Ok(zone.propose(&command)?.inode.unwrap().0)
}

fn has(zone: &RaftZone, name: &str) -> bool {
    zone.lookup(Ino::ROOT, nexus_kernel::Name::new(name.as_bytes()).unwrap()).unwrap().is_some()
}

/// All have the same state once nothing more comes.
fn agree(zones: &[&RaftZone]) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let digests: Vec<_> = zones.iter().map(|zone| zone.digest().unwrap()).collect();
        if digests.iter().all(|digest| *digest == digests[0]) {
            return;
        }
        assert!(Instant::now() < until, "{digests:x?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn members_see_each_others_changes_and_agree() {
    let cluster = Cluster::new();
    let a = cluster.found(1);
    create(&a, "before").unwrap();
    let b = cluster.join(&a, 2);
    let c = cluster.join(&a, 3);
    create(&a, "from a").unwrap();
    create(&b, "from b").unwrap();
    create(&c, "from c").unwrap();
    assert_eq!(create(&b, "from c"), Err(Error::Exists), "what was acknowledged is seen by all");
    for zone in [&a, &b, &c] {
        zone.catch_up(Interest::Anything).unwrap();
        for name in ["before", "from a", "from b", "from c"] {
            assert!(has(zone, name), "{name}");
        }
        assert_eq!(zone.info().hash_seed, 9);
    }
    agree(&[&a, &b, &c]);
    [a, b, c].iter().for_each(|zone| zone.close().unwrap());
}

#[test]
fn a_late_member_gets_a_snapshot_and_a_leader_that_is_cut_off_is_replaced() {
    let cluster = Cluster::new();
    let a = cluster.found(1);
    for n in 0..400 {
        create(&a, &format!("early {n}")).unwrap();
    }
    let b = cluster.join(&a, 2);
    let c = cluster.join(&a, 3);
    assert!(a.group().status().purged.is_some(), "the log is cut off");
    b.catch_up(Interest::Anything).unwrap();
    assert!(has(&b, "early 0") && has(&b, "early 399"));
    agree(&[&a, &b, &c]);
    cluster.net.cut_of(MemberId(1)).store(true, Ordering::SeqCst);
    let since = Instant::now();
    for n in 0..100 {
        create(&b, &format!("without a {n}")).unwrap();
        create(&c, &format!("without a, too {n}")).unwrap();
    }
    println!("200 creates after the leader was cut off took {:?}", since.elapsed());
    assert_ne!(b.group().status().leader, Some(MemberId(1)));
    assert!(!has(&a, "without a 0"));
    cluster.net.cut_of(MemberId(1)).store(false, Ordering::SeqCst);
    create(&a, "back").unwrap();
    a.catch_up(Interest::Anything).unwrap();
    assert!(has(&a, "without a 99"));
    agree(&[&a, &b, &c]);
    [a, b, c].iter().for_each(|zone| zone.close().unwrap());
}

#[test]
fn many_threads_share_entries() {
    let cluster = Cluster::new();
    let a = cluster.found(1);
    let b = cluster.join(&a, 2);
    let before = a.group().status().last.unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let zone = if thread % 2 == 0 { &a } else { &b };
            scope.spawn(move || {
                for n in 0..100 {
                    create(zone, &format!("{thread} {n}")).unwrap();
                }
            });
        }
    });
    let entries = a.group().status().last.unwrap() - before;
    println!("1,600 creates in {entries} entries");
    assert!(entries < 1600);
    agree(&[&a, &b]);
    assert_eq!(a.usage().unwrap().inodes, 1601);
    [a, b].iter().for_each(|zone| zone.close().unwrap());
}

#[test]
fn a_change_of_attributes_shares_an_entry_with_the_writes_before_it() {
    let cluster = Cluster::new();
    let a = cluster.found(1);
    let b = cluster.join(&a, 2);
    for zone in [&a, &b] {
        let ino = create(zone, &format!("at {:?}", zone.replica().me())).unwrap();
        let piece = Piece { len: 10, blob: BlobId(9), blob_offset: 100, crc: 1 };
        let now = zone.now();
        let write = FileWrite {
            ino,
            handle: 1,
            offset: 0,
            pieces: [piece].into_iter().collect(),
            store: StoreId(0),
            kill_privileges: false,
            now,
            pin: Box::new(()),
        };
        let before = a.group().status().last.unwrap();
        zone.behind().unwrap().write(write).unwrap();
        let mtime = Timestamp { sec: 77, nsec: 7 };
        let change = AttrChange { mtime: Some(mtime), ..AttrChange::default() };
        let outcome = zone.propose(&Command::SetAttr { ino, change, now }).unwrap();
        let told = outcome.inode.unwrap().1;
        assert_eq!((told.size, told.mtime), (10, mtime), "the writes come first");
        assert_eq!(zone.inode(ino).unwrap().unwrap().mtime, mtime);
        assert_eq!(a.group().status().last.unwrap(), before + 1);
    }
    agree(&[&a, &b]);
    [a, b].iter().for_each(|zone| zone.close().unwrap());
}

fn create_in(zone: &RaftZone, parent: Ino, name: &str, kind: NewKind) -> Result<Ino> {
    let (name, ino) = (SmallBytes::from_slice(name.as_bytes()), zone.allocate_ino()?);
    let (mode, umask, uid, gid, now) = (0o755, 0, 0, 0, zone.now());
    Ok(zone.propose(&Command::Create { parent, name, ino, kind, mode, umask, uid, gid, now })?.inode.unwrap().0)
}

#[test]
fn changes_wait_while_a_zone_is_paused_and_none_is_lost() {
    let cluster = Cluster::new();
    let (a, b) = {
        let a = Arc::new(cluster.found(1));
        let b = Arc::new(cluster.join(&a, 2));
        (a, b)
    };
    let dir = create_in(&a, Ino::ROOT, "dir", NewKind::Directory).unwrap();
    let sub = create_in(&b, dir, "sub", NewKind::Directory).unwrap();
    let pause = Pause::begin(&a, [1; 16]).unwrap();
    assert_eq!(Pause::begin(&b, [2; 16]).map(drop), Err(Error::Busy));
    let before = a.usage().unwrap().inodes;
    let other = b.clone();
    let waiting: Vec<_> = [(Ino::ROOT, "one"), (dir, "two"), (sub, "three")]
        .into_iter()
        .map(|(parent, name)| {
            let zone = other.clone();
            std::thread::spawn(move || create_in(&zone, parent, name, NewKind::Regular))
        })
        .collect();
    // Settings can be changed meanwhile, and upkeep is told to come back.
    b.propose(&Command::SetSys { key: "k".into(), value: Some(vec![1]) }).unwrap();
    let upkeep = b.propose(&Command::SealBlob { blob: nexus_kernel::BlobId(1), len: 1 });
    assert!(matches!(upkeep, Err(Error::Unavailable(_))));
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    assert_eq!(a.usage().unwrap().inodes, before);
    let target = nexus_kernel::model::MountTarget { zone: [9; 16], name: "inner".into(), addresses: Vec::new() };
    let target = nexus_kernel::model::encode(&target).unwrap().to_vec();
    let (parent, name, now) = (Ino::ROOT, SmallBytes::from_slice(b"dir"), a.now());
    pause.end_with(|mark| Command::MountFilled { parent, name, mark, target, now }).unwrap();
    let answers: Vec<_> = waiting.into_iter().map(|waiting| waiting.join().unwrap().map(drop)).collect();
    assert_eq!(answers, [Ok(()), Err(Error::Stale), Err(Error::Stale)], "what is shared is looked for anew");
    a.catch_up(Interest::Anything).unwrap();
    assert!(has(&a, "one"));
    // One that is given up ends, too, and its mark is of no use any more.
    let pause = Pause::begin(&b, [3; 16]).unwrap();
    drop(pause);
    create(&a, "after").unwrap();
    let late = Command::Pause { expect: Some([[3; 16].as_slice(), &[0; 8]].concat()), mark: None };
    assert_eq!(b.propose(&late), Err(Error::Conflict));
    agree(&[&a, &b]);
    [a, b].iter().for_each(|zone| zone.close().unwrap());
}

#[test]
fn what_is_imported_counts_from_then_on_whatever_was_cached() {
    let cluster = Cluster::new();
    let a = cluster.found(1);
    let mut root = a.inode(Ino::ROOT).unwrap().unwrap();
    root.nlink += 5;
    root.size += 5;
    let key = nexus_kernel::machine::FILLING_KEY.to_owned();
    a.propose(&Command::SetSys { key, value: Some(vec![1]) }).unwrap();
    let value = nexus_kernel::model::encode(&root).unwrap().to_vec();
    let pair = |key: Vec<u8>| (nexus_kernel::Table::Inode as u8, key, value.clone());
    let wrong = Command::Import { pairs: vec![pair(vec![1])], done: false };
    assert_eq!(a.propose(&wrong), Err(Error::Invalid));
    let pairs = vec![pair(Ino::ROOT.0.to_be_bytes().to_vec())];
    a.propose(&Command::Import { pairs, done: true }).unwrap();
    assert_eq!(a.inode(Ino::ROOT), Ok(Some(root)));
    create_in(&a, Ino::ROOT, "dir", NewKind::Directory).unwrap();
    let after = a.inode(Ino::ROOT).unwrap().unwrap();
    assert_eq!((after.nlink, after.size), (root.nlink + 1, root.size + 1));
    a.close().unwrap();
}
