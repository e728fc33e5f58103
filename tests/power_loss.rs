//! I2 and I3 on a whole node: power is cut at every sync point of a long random run, and the
//! node is started on what that leaves. I1 by killing it between operations. The metastore,
//! log, segments and blobs all lie on one simulated disk that records writes and syncs.
//!
//! `NEXUS_TEST_SEED` chooses the run, `NEXUS_TEST_OPERATIONS` its length.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests, outside their functions"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::Random;
use common::model::{Id, Model, difference, print, tree_of};
use common::node::{Node, StepClock};
use common::operation::Operation;
use nexus_drivers::disk::SimDisk;
use nexus_kernel::NodeId;
use parking_lot::Mutex;

/// Operations between two starts from a cut.
const ROUND: u64 = 150;

/// Of how many cuts one is recovered from with the power cut again.
const AGAIN: u64 = 16;
/// How many syncs of that recovery it is cut at, at the most.
const AGAIN_AT: usize = 4;

/// What is known of the run so far; shared with the disk's hook.
#[derive(Default)]
struct Progress {
    /// State after each operation; the last one may be under way.
    states: Vec<Model>,
    prints: Vec<u64>,
    /// Operations that returned.
    done: usize,
    /// Operations that an fsync has made durable.
    synced: usize,
    images: u64,
    failure: Option<String>,
}

impl Progress {
    fn push(&mut self, state: Model) {
        self.prints.push(print(&state.tree()));
        self.states.push(state);
    }

    /// Starts a node on `image`; answers after how many operations its state is, which must
    /// lie in `from..`.
    fn recover(&self, image: &SimDisk, from: usize) -> Result<(Node, BTreeMap<String, NodeId>, usize), String> {
        let failed = |what: &str, error: nexus_kernel::Error| format!("{what}: {error}");
        let node = Node::open(image, Arc::default()).map_err(|e| failed("the node does not start", e))?;
        node.fs.reap_now().map_err(|e| failed("orphans can't be freed", e))?;
        let (tree, nodes) = tree_of(&node.fs).map_err(|e| failed("the tree can't be read", e))?;
        let found = print(&tree);
        let Some(at) = (from..self.prints.len()).rev().find(|at| self.prints[*at] == found) else {
            let differences = (from..self.prints.len()).map(|at| (at, difference(&self.states[at].tree(), &tree)));
            let (at, nearest) = differences.min_by_key(|(_, text)| text.len()).unwrap();
            let earlier = (0..from).rev().find(|at| self.prints[*at] == found);
            return Err(format!(
                "what is found is not the state after any of the operations {from} to {}{}; the nearest is the one after {at}:\n{nearest}",
                self.prints.len() - 1,
                earlier.map_or(String::new(), |at| format!(", but the one after {at}, so something synced is lost")),
            ));
        };
        let damage = node.damage().map_err(|e| failed("the check can't be done", e))?;
        if !damage.is_empty() {
            return Err(format!("after operation {at} the check finds:\n{}", damage.join("\n")));
        }
        Ok((node, nodes, at))
    }
}

impl Progress {
    /// As `recover`, with the power cut again while it recovers: the state is the same.
    fn recover_twice(&mut self, image: &SimDisk, from: usize) -> Result<(), String> {
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let sink = cuts.clone();
        image.on_sync(move |disk, point| {
            let mut cuts = sink.lock();
            if cuts.len() < AGAIN_AT {
                cuts.push((point.clone(), disk.power_cut(point.number)));
            }
        });
        let first = self.recover(image, from);
        image.clear_hook();
        let at = first?.2;
        for (point, again) in cuts.lock().drain(..) {
            self.images += 1;
            match self.recover(&again, from) {
                Ok((_, _, found)) if self.prints[found] == self.prints[at] => {}
                Ok((_, _, found)) => {
                    return Err(format!("the state after {at}, cut again at {point:?}, after {found}"));
                }
                Err(text) => return Err(format!("cut again at {point:?}: {text}")),
            }
        }
        Ok(())
    }
}

/// A run on one disk, with an image taken and tried at each sync.
struct Run {
    seed: u64,
    random: Random,
    clock: Arc<StepClock>,
    progress: Arc<Mutex<Progress>>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let progress = Arc::new(Mutex::new(Progress::default()));
        progress.lock().push(Model::new());
        Run { seed, random: Random::new(seed), clock: Arc::default(), progress }
    }

    /// Tries `cuts` images at each `every`th sync of `disk` from now on.
    fn watch(&self, disk: &SimDisk, every: u64, cuts: u64) {
        let (progress, seed) = (self.progress.clone(), self.seed);
        disk.on_sync(move |disk, point| {
            let mut progress = progress.lock();
            if progress.failure.is_some() || !point.number.is_multiple_of(every) {
                return;
            }
            for cut in 0..cuts {
                let cut_seed = seed ^ (point.number * 16 + cut);
                progress.images += 1;
                let (left, synced) = (disk.power_cut(cut_seed), progress.synced);
                let tried = match cut_seed % AGAIN {
                    0 => progress.recover_twice(&left, synced),
                    _ => progress.recover(&left, synced).map(drop),
                };
                if let Err(text) = tried {
                    progress.failure = Some(format!("power cut with seed {cut_seed} at {point:?}: {text}"));
                    return;
                }
            }
        });
    }

    fn check(&self, what: &dyn std::fmt::Debug) {
        if let Some(failure) = self.progress.lock().failure.take() {
            panic!("NEXUS_TEST_SEED={}, at {what:?}: {failure}", self.seed);
        }
    }

    fn operate(&mut self, node: &Node, nodes: &mut BTreeMap<Id, NodeId>) {
        let state = self.progress.lock().states.last().unwrap().clone();
        let operation = Operation::random(&mut self.random, &state);
        let mut after = state.clone();
        operation.apply(&mut after);
        self.progress.lock().push(after);
        let done = operation.run(&node.fs, nodes, state.next);
        self.check(&operation);
        if let Err(error) = done {
            panic!("NEXUS_TEST_SEED={}: {operation:?} failed: {error}", self.seed);
        }
        let mut progress = self.progress.lock();
        progress.done = progress.prints.len() - 1;
        if matches!(operation, Operation::Fsync { .. }) {
            progress.synced = progress.done;
        }
    }

    /// What a daemon does behind its callers' backs.
    fn housekeeping(&mut self, node: &Node, nodes: &BTreeMap<Id, NodeId>) {
        match self.random.below(40) {
            0 => node.zone.checkpoint().unwrap(),
            1 | 2 => {
                self.clock.advance_ms(1000);
                node.reclaimer.run_once().unwrap();
            }
            3..=5 => {
                let live = self.progress.lock().states.last().unwrap().inodes.clone();
                let gone: Vec<NodeId> =
                    nodes.iter().filter(|(id, _)| !live.contains_key(id)).map(|(_, n)| *n).collect();
                node.fs.forget(&gone);
                node.fs.reap_now().unwrap();
            }
            _ => {}
        }
        self.check(&"housekeeping");
    }

    /// A kill between two operations loses nothing that was acknowledged.
    fn kill(&self, disk: &SimDisk) {
        let progress = self.progress.lock();
        if let Err(text) = progress.recover(&disk.fork(), progress.done) {
            panic!("NEXUS_TEST_SEED={}: killed after operation {}: {text}", self.seed, progress.done);
        }
    }

    /// Cuts power for good, and goes on with what that leaves.
    fn restart(&mut self, disk: &SimDisk) -> SimDisk {
        let cut_seed = self.random.next();
        let left = disk.power_cut(cut_seed);
        let mut progress = self.progress.lock();
        let at = match progress.recover(&left.fork(), progress.synced) {
            Ok((_, _, at)) => at,
            Err(text) => panic!("NEXUS_TEST_SEED={}: power cut with seed {cut_seed}: {text}", self.seed),
        };
        let state = progress.states[at].clone();
        let images = progress.images;
        *progress = Progress { images, ..Progress::default() };
        progress.push(state);
        left
    }

    /// The nodes of the model's inodes, by their paths.
    fn nodes(&self, node: &Node) -> BTreeMap<Id, NodeId> {
        let by_path = tree_of(&node.fs).unwrap().1;
        let state = self.progress.lock().states.last().unwrap().clone();
        state.paths().into_iter().map(|(path, id)| (id, by_path[&path])).collect()
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn run(seed: u64, operations: u64, every: u64, cuts: u64) {
    let mut run = Run::new(seed);
    let mut disk = SimDisk::new();
    drop(Node::open(&disk, run.clock.clone()).unwrap());
    let (mut done, mut kills, mut restarts) = (0, 0, 0);
    while done < operations {
        run.watch(&disk, every, cuts);
        let node = Node::open(&disk, run.clock.clone()).unwrap();
        run.check(&"start");
        let mut nodes = run.nodes(&node);
        for _ in 0..ROUND.min(operations - done) {
            run.operate(&node, &mut nodes);
            run.housekeeping(&node, &nodes);
            done += 1;
            if run.random.below(10) == 0 {
                run.kill(&disk);
                kills += 1;
            }
        }
        disk.clear_hook();
        let left = run.restart(&disk);
        drop(node);
        disk = left;
        restarts += 1;
    }
    let images = run.progress.lock().images;
    println!("seed {seed}: {operations} operations, {images} power cuts tried, {kills} kills, {restarts} restarts");
    assert!(images > operations / 10, "only {images} images were tried");
}

#[test]
fn what_was_synced_survives_a_power_cut_at_every_sync_and_the_rest_is_a_prefix() {
    match number("NEXUS_TEST_SEED") {
        Some(seed) => run(seed, number("NEXUS_TEST_OPERATIONS").unwrap_or(1500), 1, 2),
        None => {
            for seed in 1..=2 {
                run(seed, number("NEXUS_TEST_OPERATIONS").unwrap_or(500), 1, 2);
            }
        }
    }
}
