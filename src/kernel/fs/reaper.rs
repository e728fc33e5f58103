//! Frees orphans: inodes without a name, once nobody uses them any more. They are queued by
//! whoever lets go last, and freed in batches by a thread of the file system's own. Zones that other
//! nodes have, too, free theirs themselves, as those may use them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::handles::OpenCounts;
use crate::command::Command;
use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId, ZoneIndex};
use crate::router::VfsRouter;
use crate::scan::orphans;
use crate::zone::Zone;

/// Inodes that one command frees at most.
const BATCH: usize = 64;
/// Extents that one command frees at most.
const EXTENT_BUDGET: u32 = 4096;
/// How long the first inode of a batch waits for others.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait for space before orphans are tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(1);
/// Queue length from which on those who add to it have to free inodes themselves.
const QUEUE_LIMIT: usize = 8192;
/// Orphans read from a zone at once.
const ADOPT_PAGE: usize = 4096;

/// Whether the last user of an orphan is known to be gone, but for open handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// The client still has it in its cache and will tell when it lets go.
    Client,
    /// Only open handles hold it.
    Handles,
}

struct Queue {
    nodes: VecDeque<NodeId>,
    stopping: bool,
}

struct Shared {
    router: Arc<VfsRouter>,
    handles: Arc<OpenCounts>,
    read_only: Arc<AtomicBool>,
    /// Inodes without a name that are still in use. `count` is its size, readable without the lock.
    orphans: Mutex<HashMap<NodeId, Holder>>,
    count: AtomicUsize,
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Held while a batch is being freed.
    reaping: Mutex<()>,
}

/// The orphans in use, and the thread that frees those that are not.
pub(super) struct Reaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub(super) fn start(
        router: Arc<VfsRouter>,
        handles: Arc<OpenCounts>,
        read_only: Arc<AtomicBool>,
    ) -> Result<Reaper> {
        let shared = Arc::new(Shared {
            router,
            handles,
            read_only,
            orphans: Mutex::default(),
            count: AtomicUsize::new(0),
            queue: Mutex::new(Queue { nodes: VecDeque::new(), stopping: false }),
            filled: Condvar::new(),
            reaping: Mutex::new(()),
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("nexus-reaper".into())
            .spawn(move || worker.run())
            .map_err(|error| Error::from_io("cannot start the reaper's thread", &error))?;
        Ok(Reaper { shared, thread: Some(thread) })
    }

    /// An inode lost its last name.
    pub(super) fn orphaned(&self, node: NodeId, holder: Holder) {
        let shared = &self.shared;
        let mut orphans = shared.orphans.lock();
        orphans.insert(node, holder);
        shared.count.store(orphans.len(), Ordering::Release);
        let free = holder == Holder::Handles && shared.take_if_unused(&mut orphans, node);
        drop(orphans);
        if free {
            shared.enqueue(node);
        }
    }

    /// An inode that had no name has got one.
    pub(super) fn named(&self, node: NodeId) {
        let shared = &self.shared;
        if shared.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut orphans = shared.orphans.lock();
        orphans.remove(&node);
        shared.count.store(orphans.len(), Ordering::Release);
    }

    /// The client has let go of these.
    pub(super) fn forgotten(&self, nodes: &[NodeId]) {
        let shared = &self.shared;
        for &node in nodes {
            if shared.count.load(Ordering::Acquire) == 0 {
                return;
            }
            let mut orphans = shared.orphans.lock();
            let Some(holder) = orphans.get_mut(&node) else { continue };
            *holder = Holder::Handles;
            let free = shared.take_if_unused(&mut orphans, node);
            drop(orphans);
            if free {
                shared.enqueue(node);
            }
        }
    }

    /// The last handle of an inode was released; the count says so already.
    pub(super) fn closed(&self, node: NodeId) {
        let shared = &self.shared;
        if shared.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut orphans = shared.orphans.lock();
        let free = orphans.get(&node) == Some(&Holder::Handles) && shared.take_if_unused(&mut orphans, node);
        drop(orphans);
        if free {
            shared.enqueue(node);
        }
    }

    /// Queues the orphans that a zone holds from an earlier run, at most `limit`. To be called before the
    /// zone takes changes from this run.
    pub(super) fn left_over(&self, index: ZoneIndex, zone: &dyn Zone, after: Ino, limit: usize) -> Result<Vec<NodeId>> {
        let mut found = Vec::new();
        let mut from = Ino(after.0.saturating_add(1));
        while found.len() < limit {
            let page = orphans(zone, from, ADOPT_PAGE.min(limit - found.len()))?;
            let Some(last) = page.last() else { break };
            from = Ino(last.0.saturating_add(1));
            found.extend(page.iter().map(|&ino| NodeId::new(index, ino)));
        }
        Ok(found)
    }

    /// Queues nodes to be freed.
    pub(super) fn enqueue_all(&self, nodes: Vec<NodeId>) {
        for node in nodes {
            self.shared.enqueue(node);
        }
    }

    /// Frees everything that is queued, before it returns.
    pub(super) fn reap_now(&self) -> Result<()> {
        while self.shared.reap_batch()? {}
        Ok(())
    }

    /// Whether changes are refused may have been switched.
    pub(super) fn switched(&self) {
        let _queue = self.shared.queue.lock();
        self.shared.filled.notify_all();
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.shared.orphans.lock().len()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.queue.lock().stopping = true;
        self.shared.filled.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the reaper's thread has panicked");
        }
    }
}

impl Shared {
    /// Takes an orphan out of the set unless a handle is open.
    fn take_if_unused(&self, orphans: &mut HashMap<NodeId, Holder>, node: NodeId) -> bool {
        let free = !self.handles.is_open(node) && orphans.remove(&node).is_some();
        self.count.store(orphans.len(), Ordering::Release);
        free
    }

    fn enqueue(&self, node: NodeId) {
        let mut queue = self.queue.lock();
        queue.nodes.push_back(node);
        let len = queue.nodes.len();
        drop(queue);
        if len == 1 || len == BATCH {
            self.filled.notify_one();
        }
        if len > QUEUE_LIMIT
            && let Err(error) = self.reap_batch()
        {
            log::warn!("orphans were not freed: {error}");
        }
    }

    fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            let idle = |queue: &mut Queue| {
                !queue.stopping && (queue.nodes.is_empty() || self.read_only.load(Ordering::Acquire))
            };
            self.filled.wait_while(&mut queue, idle);
            if !queue.stopping {
                let few = |queue: &mut Queue| !queue.stopping && queue.nodes.len() < BATCH;
                let _ = self.filled.wait_while_for(&mut queue, few, GATHER);
            }
            let stopping = queue.stopping;
            drop(queue);
            match self.reap_batch() {
                Ok(false) if stopping => return,
                Ok(_) => {}
                Err(Error::NoSpace | Error::QuotaExceeded) if stopping => return,
                Err(Error::NoSpace | Error::QuotaExceeded) => {
                    let mut queue = self.queue.lock();
                    let _ = self.filled.wait_while_for(&mut queue, |queue| !queue.stopping, NO_SPACE_PAUSE);
                }
                Err(error) => log::warn!("orphans stay until the next start: {error}"),
            }
        }
    }

    /// Frees one batch; answers whether there was any. What finds no space for its command stays
    /// queued; what fails otherwise stays an orphan in its zone until the next start.
    fn reap_batch(&self) -> Result<bool> {
        let _one_at_a_time = self.reaping.lock();
        if self.read_only.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut batch: Vec<NodeId> = {
            let mut queue = self.queue.lock();
            let len = queue.nodes.len().min(BATCH);
            queue.nodes.drain(..len).collect()
        };
        batch.sort_unstable();
        let mut result = Ok(!batch.is_empty());
        for nodes in batch.chunk_by(|a, b| a.zone() == b.zone()) {
            if let Err(error) = self.reap(nodes) {
                if matches!(error, Error::NoSpace | Error::QuotaExceeded) {
                    self.queue.lock().nodes.extend(nodes);
                }
                result = Err(error);
            }
        }
        result
    }

    /// Frees nodes of one zone.
    fn reap(&self, nodes: &[NodeId]) -> Result<()> {
        let Some(first) = nodes.first() else { return Ok(()) };
        let zone = self.router.zone(first.zone())?;
        let command = Command::Reap { inos: nodes.iter().map(|node| node.ino()).collect(), budget: EXTENT_BUDGET };
        while zone.propose(&command)?.count > 0 {}
        Ok(())
    }
}
