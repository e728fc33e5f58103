//! Tells the kernel what other nodes have changed of what it keeps: that attributes are not true any more, and
//! that a node has lost a name, so that names are kept only of files that programs use.
//!
//! Attributes are dropped without a lock that whoever waits for an answer may hold, so that is done before any
//! answer is given that may come after the change: nobody who was told of something later finds attributes from
//! before. In between, and for names, a thread does it, begun with the first change.
//!
//! The kernel takes new attributes in by parts: that they are true comes before some of them, the size among
//! them. Whoever asks it at that very moment is told what was dropped. So what is not as the kernel has it is told
//! as something to keep for no time at all first, and as something to keep only when that has arrived.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nexus_fuse_transport::Notifier;
use parking_lot::{Condvar, Mutex};

use super::references::References;

/// Most nodes that wait to be told of; beyond that, all that the kernel has are.
const MOST: usize = 1 << 16;
/// When the kernel is told again: of a name that it was being given an answer about, and of a node that it was
/// about to hear of.
const AGAIN: Duration = Duration::from_millis(20);
/// What was told has arrived in the kernel's memory by then: the caller's thread takes it there.
const ARRIVES: Duration = Duration::from_millis(10);

/// Notices of one mount.
pub struct Notices {
    shared: Arc<Shared>,
    notifier: OnceLock<Notifier>,
    thread: OnceLock<bool>,
}

struct Shared {
    references: Arc<References>,
    /// Changes that were heard of.
    heard: AtomicU64,
    /// Nodes that the kernel was told to drop the attributes of.
    dropped: AtomicU64,
    /// Nodes whose attributes it was told since, for a short time.
    arriving: Mutex<Arriving>,
    /// Something in `state` waits to be told before the next answer.
    waits: AtomicBool,
    state: Mutex<State>,
    /// Whoever tells.
    turn: Mutex<()>,
    wakes: Condvar,
}

/// What there was to tell at some time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Since {
    heard: u64,
    dropped: u64,
}

/// Nodes on their way into the kernel's memory, and when they have arrived.
#[derive(Default)]
struct Arriving {
    nodes: HashMap<u64, Instant>,
    order: VecDeque<(Instant, u64)>,
}

#[derive(Default)]
struct State {
    /// Nodes with other attributes, as the kernel numbers them.
    changed: HashSet<u64>,
    /// Nodes that have lost a name.
    renamed: VecDeque<u64>,
    /// The same, to be told again, in the order of their times.
    again: VecDeque<(Instant, u64)>,
    everything: bool,
    stopped: bool,
}

impl Notices {
    /// Of a mount whose kernel was told of these nodes.
    pub fn new(references: Arc<References>) -> Notices {
        let shared = Shared {
            references,
            heard: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            arriving: Mutex::default(),
            waits: AtomicBool::new(false),
            state: Mutex::default(),
            turn: Mutex::default(),
            wakes: Condvar::new(),
        };
        Notices { shared: Arc::new(shared), notifier: OnceLock::new(), thread: OnceLock::new() }
    }

    /// Tells by this from now on.
    pub fn by(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// What there was to tell until now; `None` where the kernel can't be told.
    pub fn now(&self) -> Option<Since> {
        self.notifier.get()?;
        let Shared { heard, dropped, .. } = &*self.shared;
        Some(Since { heard: heard.load(Ordering::SeqCst), dropped: dropped.load(Ordering::SeqCst) })
    }

    /// Whether the kernel may keep attributes of a node, looked up since then, that it is about to be told; that is
    /// certain, or they are only listed, if there is room.
    pub fn may_keep(&self, node: u64, since: Option<Since>, is_certain: bool) -> bool {
        since.is_some() && since == self.now() && self.shared.arrived(node, Instant::now(), is_certain)
    }

    /// Whether the kernel can be told that a node has lost a name.
    pub fn tells_names(&self) -> bool {
        self.notifier.get().is_some_and(Notifier::prunes)
    }

    /// Others have changed these nodes' attributes; with `names`, names of theirs as well. The state has the change.
    pub fn changed(&self, nodes: impl Iterator<Item = u64>, names: bool) {
        // First: an answer that is being made either finds this, or has its node among the references by now.
        self.shared.heard.fetch_add(1, Ordering::SeqCst);
        let Some(notifier) = self.notifier.get() else { return };
        let known: Vec<u64> = nodes.filter(|node| self.shared.references.has(*node)).collect();
        if known.is_empty() {
            return;
        }
        let mut state = self.shared.state.lock();
        if names {
            state.renamed.extend(&known);
        }
        state.changed.extend(known);
        if state.changed.len() > MOST || state.renamed.len() > MOST {
            state.all();
        }
        self.ring(notifier);
    }

    /// Anything may have changed.
    pub fn replaced(&self) {
        self.shared.heard.fetch_add(1, Ordering::SeqCst);
        let Some(notifier) = self.notifier.get() else { return };
        let mut state = self.shared.state.lock();
        state.all();
        self.ring(notifier);
    }

    /// With the state locked, so that the thread does not miss it.
    fn ring(&self, notifier: &Notifier) {
        self.shared.waits.store(true, Ordering::SeqCst);
        self.thread.get_or_init(|| {
            let (shared, notifier) = (self.shared.clone(), notifier.clone());
            let spawned = std::thread::Builder::new().name("zone-notices".into()).spawn(move || shared.run(&notifier));
            spawned.map_err(|error| log::warn!("what others change is told to the kernel late: {error}")).is_ok()
        });
        self.shared.wakes.notify_one();
    }

    /// Before an answer: has the kernel drop the attributes that others have changed until now.
    pub fn deliver(&self) {
        if self.shared.waits.load(Ordering::SeqCst)
            && let Some(notifier) = self.notifier.get()
        {
            self.shared.deliver(notifier);
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.wakes.notify_one();
    }
}

impl State {
    fn all(&mut self) {
        self.changed.clear();
        self.renamed.clear();
        self.again.clear();
        self.everything = true;
    }
}

impl Shared {
    /// Whether what the kernel has of a node is as it will be told now, or dropped long ago and told since.
    fn arrived(&self, node: u64, now: Instant, is_told: bool) -> bool {
        let references = &self.references;
        let is_dropped = if is_told { references.take_dropped(node) } else { references.is_dropped(node) };
        let mut arriving = self.arriving.lock();
        while let Some((at, first)) = arriving.order.front().copied().filter(|(at, _)| *at <= now) {
            arriving.order.pop_front();
            if arriving.nodes.get(&first) == Some(&at) {
                arriving.nodes.remove(&first);
            }
        }
        if is_dropped && is_told {
            arriving.nodes.insert(node, now + ARRIVES);
            arriving.order.push_back((now + ARRIVES, node));
        }
        !is_dropped && !arriving.nodes.contains_key(&node)
    }

    /// Has the kernel drop the attributes of a node; `false` if it does not have any.
    fn drop_attributes(&self, node: u64, notifier: &Notifier) -> std::io::Result<bool> {
        // Before: what is looked up afterwards is the first that the kernel is told.
        self.references.drop_attributes(node);
        let dropped = notifier.inode_changed(node, -1, 0);
        // And again: whoever took the first sign may have asked before, and the kernel then forgets the answer.
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.references.drop_attributes(node);
        dropped
    }

    fn deliver(&self, notifier: &Notifier) {
        // Whoever finds it taken waits until what was taken is told.
        let _turn = self.turn.lock();
        let changed = {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.everything) {
                let all = self.references.all();
                state.renamed = all.iter().copied().collect();
                state.changed = all.into_iter().collect();
            }
            std::mem::take(&mut state.changed)
        };
        for node in changed {
            match self.drop_attributes(node, notifier) {
                Ok(true) => {}
                // It is about to hear of it, or has just let go of it.
                Ok(false) if self.references.has(node) => {
                    self.state.lock().again.push_back((Instant::now() + AGAIN, node));
                    self.wakes.notify_one();
                }
                Ok(false) => {}
                Err(error) => log::debug!("the kernel was not told of a change: {error}"),
            }
        }
        let state = self.state.lock();
        self.waits.store(!state.changed.is_empty() || state.everything, Ordering::SeqCst);
    }

    fn run(&self, notifier: &Notifier) {
        let mut state = self.state.lock();
        while !state.stopped {
            let now = Instant::now();
            if self.waits.load(Ordering::SeqCst) {
                parking_lot::MutexGuard::unlocked(&mut state, || self.deliver(notifier));
            }
            let mut names: Vec<u64> = Vec::new();
            while let Some((_, node)) = state.again.front().copied().filter(|(at, _)| *at <= now) {
                state.again.pop_front();
                names.push(node);
            }
            let renamed = std::mem::take(&mut state.renamed);
            state.again.extend(renamed.iter().map(|node| (now + AGAIN, *node)));
            names.extend(renamed);
            if !names.is_empty() {
                parking_lot::MutexGuard::unlocked(&mut state, || self.tell_names(notifier, &names));
                continue;
            }
            if self.waits.load(Ordering::SeqCst) {
                continue;
            }
            match state.again.front().map(|(at, _)| *at) {
                Some(at) => drop(self.wakes.wait_until(&mut state, at)),
                None => self.wakes.wait(&mut state),
            }
        }
    }

    fn tell_names(&self, notifier: &Notifier, nodes: &[u64]) {
        for node in nodes {
            let told = self.drop_attributes(*node, notifier).and_then(|_| notifier.unneeded(*node));
            if let Err(error) = told {
                log::debug!("the kernel was not told of a name that is gone: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_kept_only_when_it_has_arrived() {
        let references = Arc::new(References::new());
        let notices = Notices::new(references.clone());
        let start = Instant::now();
        let arrived = |node, after: u64| notices.shared.arrived(node, start + Duration::from_millis(after), true);
        let listed = |node, after: u64| notices.shared.arrived(node, start + Duration::from_millis(after), false);
        for node in [5, 6] {
            references.add(node);
        }
        assert!(arrived(5, 0), "the kernel has what it had");
        references.drop_attributes(5);
        assert!(!listed(5, 0) && !listed(5, 0), "a listing may have no room for it");
        assert!(!arrived(5, 1), "it is told to keep it for no time first");
        assert!(!listed(5, 10) && listed(6, 10));
        assert!(!arrived(5, 10) && arrived(6, 10));
        assert!(arrived(5, 11));
        references.drop_attributes(5);
        references.drop_attributes(6);
        assert!(!arrived(5, 20));
        references.drop_attributes(5);
        assert!(!arrived(5, 25), "from the last time on");
        assert!(!arrived(5, 30) && !arrived(5, 34) && !arrived(6, 34));
        assert!(arrived(5, 35) && arrived(6, 44));
        assert!(notices.shared.arriving.lock().order.is_empty(), "what has arrived takes no memory");
    }
}
