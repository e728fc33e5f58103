//! A machine of the simulation: a disk and a metastore that outlive its member, and the member
//! while it runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::metastore::MetaSnapshot;
use nexus_kernel::{Error, Metastore, Result, ZoneIndex};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::net::{Net, SimLinks};
use crate::raft::vantage::Vantage;
use crate::raft::{
    Consensus, Deaf, Flusher, Group, GroupConfig, GroupLog, Incoming, LogStore, MemberId, Metastores, Outgoing,
    Replica, ReplicaConfig,
};
use crate::testing::Random;
use crate::{LogConfig, NodeLog, Preallocate};

/// A metastore as a file: what was put in its place is what the next start finds.
struct Place(Mutex<Arc<dyn Metastore>>);

impl Metastores for Place {
    fn stage(&self) -> Result<Arc<dyn Metastore>> {
        Ok(Arc::new(MemoryMetastore::new()))
    }

    fn promote(&self, staged: &Arc<dyn Metastore>) -> Result<()> {
        *self.0.lock() = staged.clone();
        Ok(())
    }
}

/// A copy that later commits do not change.
fn copy(state: Arc<dyn MetaSnapshot>) -> Arc<dyn Metastore> {
    let mut into = Incoming::new(Arc::new(MemoryMetastore::new()));
    let mut from = Outgoing::new(state);
    while let Some(piece) = from.piece().unwrap() {
        into.take(&piece).unwrap();
    }
    into.finish().unwrap()
}

/// A member that runs.
pub struct Running {
    pub group: Arc<dyn Consensus>,
    pub replica: Arc<Replica>,
    pub links: Arc<SimLinks>,
    pub alive: Arc<AtomicBool>,
    pub vantage: Vantage,
    flusher: Arc<Flusher>,
    flushing: JoinHandle<()>,
    place: Arc<Place>,
}

/// A machine.
pub struct Host {
    pub id: MemberId,
    pub is_witness: bool,
    pub running: Option<Arc<Running>>,
    disk: SimDisk,
    store: Arc<dyn Metastore>,
    session: u64,
}

impl Host {
    /// An empty one.
    pub fn new(id: MemberId, is_witness: bool) -> Host {
        let (disk, store) = (SimDisk::new(), Arc::new(MemoryMetastore::new()));
        Host { id, is_witness, running: None, disk, store, session: 0 }
    }

    /// Starts its member.
    pub async fn start(&mut self, net: &Arc<Net>, seed: u64, config: &GroupConfig) {
        self.session += 1;
        let settings = LogConfig {
            segment_bytes: 16 << 10,
            max_spares: 3,
            preallocate: Preallocate::Inline,
            ..LogConfig::default()
        };
        let log = NodeLog::open(Arc::new(self.disk.clone()), Path::new("/log"), Arc::new(NoContent), settings).unwrap();
        log.activate().unwrap();
        let flusher = Flusher::by_hand(log);
        let group_log = Arc::new(GroupLog::open(flusher.clone(), ZoneIndex(1)).unwrap());
        let place = Arc::new(Place(Mutex::new(self.store.clone())));
        let settings = ReplicaConfig { memtable_bytes: 1 << 20, cache_bytes: 1 << 16 };
        let replica =
            Replica::open(self.id, self.session, self.store.clone(), place.clone(), Arc::new(Deaf), settings).unwrap();
        let replica = Arc::new(if self.is_witness { replica.of_witness() } else { replica });
        let alive = Arc::new(AtomicBool::new(true));
        let links = Arc::new(SimLinks { net: net.clone(), from: self.id, alive: alive.clone() });
        let group = Group::start(replica.clone(), LogStore(group_log), links.clone(), config).await.unwrap();
        let group: Arc<dyn Consensus> = Arc::new(group);
        net.joined(self.id, group.clone(), replica.clone());
        let flushing = {
            let (flusher, mut random) = (flusher.clone(), Random(seed));
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(1 + random.below(4))).await;
                    flusher.step(None);
                }
            })
        };
        let vantage = Vantage::new(replica.clone(), group.tail().clone());
        self.running = Some(Arc::new(Running { group, replica, links, alive, vantage, flusher, flushing, place }));
    }

    /// Ends its member at once: by SIGKILL, or with the power, which takes what was not synced.
    pub fn stop(&mut self, net: &Net, power: Option<u64>) {
        let Some(running) = self.running.take() else { return };
        running.alive.store(false, Ordering::SeqCst);
        net.left(self.id);
        self.disk = match power {
            Some(seed) => self.disk.power_cut(seed),
            None => self.disk.fork(),
        };
        self.store = copy(running.place.0.lock().snapshot().unwrap());
        running.flushing.abort();
        // What is left of it in this process must find an end, and can't do any harm.
        let gone = Error::Unavailable("killed".into());
        running.flusher.step(Some(&gone));
        running.replica.pending.fail_all(&gone);
        tokio::spawn(async move {
            let ended = tokio::time::timeout(Duration::from_secs(5), running.group.shut_down());
            let flushing = async {
                loop {
                    running.flusher.step(Some(&gone));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! { biased; _ = ended => (), () = flushing => () }
        });
    }
}
