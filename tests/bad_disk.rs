//! A whole node on a disk that is full, or fails: what was refused changed nothing, what was
//! acknowledged stays, and once there is space the node works again.
//!
//! `NEXUS_TEST_SEED` chooses the run.
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
use common::model::{Id, Model, difference, tree_of};
use common::node::{Node, StepClock};
use common::operation::Operation;
use nexus_drivers::disk::SimDisk;
use nexus_kernel::{Error, NexusFs, NodeId};

/// A node, and what it should hold.
struct Subject {
    seed: u64,
    random: Random,
    disk: SimDisk,
    clock: Arc<StepClock>,
    node: Node,
    model: Model,
    nodes: BTreeMap<Id, NodeId>,
}

impl Subject {
    fn new(seed: u64) -> Subject {
        let (disk, clock) = (SimDisk::new(), Arc::<StepClock>::default());
        let node = Node::open(&disk, clock.clone()).unwrap();
        let nodes = [(0, NodeId::ROOT)].into();
        Subject { seed, random: Random::new(seed), disk, clock, node, model: Model::new(), nodes }
    }

    /// One operation; an error leaves the model as it was.
    fn operate(&mut self) -> Result<(), Error> {
        let operation = Operation::random(&mut self.random, &self.model);
        operation.run(&self.node.fs, &mut self.nodes, self.model.next)?;
        operation.apply(&mut self.model);
        self.forget();
        Ok(())
    }

    /// Lets go of what has no name any more, as the kernel's client does.
    fn forget(&mut self) {
        let gone: Vec<Id> = self.nodes.keys().filter(|id| !self.model.inodes.contains_key(id)).copied().collect();
        let gone: Vec<NodeId> = gone.iter().filter_map(|id| self.nodes.remove(id)).collect();
        self.node.fs.forget(&gone);
    }

    fn assert_holds(&self, fs: &NexusFs, when: &str) {
        let tree = tree_of(fs).unwrap_or_else(|e| panic!("seed {}, {when}: {e}", self.seed)).0;
        let expected = self.model.tree();
        assert!(tree == expected, "seed {}, {when}:\n{}", self.seed, difference(&expected, &tree));
    }

    /// Starts another node on `disk` and compares.
    fn assert_recovers(&self, disk: &SimDisk, when: &str) {
        let node = Node::open(disk, Arc::default()).unwrap_or_else(|e| panic!("seed {}, {when}: {e}", self.seed));
        node.fs.reap_now().unwrap_or_else(|e| panic!("seed {}, {when}: {e}", self.seed));
        self.assert_holds(&node.fs, when);
        assert_eq!(node.damage().unwrap(), Vec::<String>::new(), "seed {}, {when}", self.seed);
    }
}

/// Bytes of files that hold content.
fn content_bytes(disk: &SimDisk) -> u64 {
    let files = disk.files();
    let content =
        files.iter().filter(|(path, _)| path.starts_with("/data/segments") || path.starts_with("/data/blobs"));
    content.map(|(_, len)| len).sum()
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NEXUS_TEST_SEED") {
        Ok(text) => vec![text.parse().expect("NEXUS_TEST_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_works_again_with_space() {
    for seed in seeds(4) {
        let mut subject = Subject::new(seed);
        for _ in 0..100 {
            subject.operate().unwrap();
        }
        let mut refused = 0;
        for round in 0..4 {
            let spare = subject.random.below(3) * 300_000;
            subject.disk.set_capacity(Some(subject.disk.used_bytes() + spare));
            let mut refused_now = 0;
            for step in 0..600 {
                match subject.operate() {
                    Ok(()) => {}
                    Err(Error::NoSpace) => refused_now += 1,
                    Err(error) => panic!("seed {seed}, round {round}, step {step}: {error:?}"),
                }
                if refused_now == 40 {
                    break;
                }
            }
            refused += refused_now;
            subject.assert_holds(&subject.node.fs, "while the disk is full");
            let killed = subject.disk.fork();
            killed.set_capacity(None);
            subject.assert_recovers(&killed, "killed while the disk was full");
            subject.disk.set_capacity(None);
            for _ in 0..30 {
                subject.operate().unwrap_or_else(|e| panic!("seed {seed}: with space again: {e}"));
            }
            subject.node.zone.checkpoint().unwrap();
            subject.assert_holds(&subject.node.fs, "with space again");
        }
        subject.node.zone.sync().unwrap();
        subject.assert_recovers(&subject.disk.power_cut(seed), "after a power cut");
        println!("seed {seed}: {refused} operations refused");
        assert!(refused > 20, "seed {seed}: the disk was hardly ever full");
    }
}

/// On a full disk, files can be deleted, and that makes room.
#[test]
fn deleting_makes_room_on_a_full_disk() {
    for seed in seeds(4) {
        let mut subject = Subject::new(seed);
        for _ in 0..250 {
            subject.operate().unwrap();
        }
        subject.disk.set_capacity(Some(subject.disk.used_bytes()));
        let paths = subject.model.paths();
        let before = content_bytes(&subject.disk);
        for (path, id) in paths.iter().rev().filter(|(_, id)| *id != 0) {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let parent = paths.iter().find(|(other, _)| other == parent).unwrap().1;
            let name = name.to_owned();
            let removal = match subject.model.is_dir(*id) {
                true => Operation::Rmdir { parent, name },
                false => Operation::Unlink { parent, name },
            };
            removal
                .run(&subject.node.fs, &mut subject.nodes, 0)
                .unwrap_or_else(|e| panic!("seed {seed}: {removal:?}: {e}"));
            removal.apply(&mut subject.model);
            subject.forget();
        }
        subject.assert_holds(&subject.node.fs, "with everything deleted");
        for round in 0..20 {
            // What finds no room for its command stays queued until there is some.
            match subject.node.fs.reap_now() {
                Err(Error::NoSpace) if round < 10 => {}
                reaped => reaped.unwrap(),
            }
            subject.clock.advance_ms(10_000);
            subject.node.reclaimer.make_room().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        let after = content_bytes(&subject.disk);
        assert!(after < before / 4, "seed {seed}: {before} bytes of content before, {after} after");
        for _ in 0..10 {
            subject.operate().unwrap_or_else(|e| panic!("seed {seed}: with room again: {e}"));
        }
        subject.assert_recovers(&subject.disk.fork(), "killed after that");
    }
}

/// The disk fails for good at some operation: from then on errors, and after a restart on a
/// disk that works all that was acknowledged.
#[test]
fn a_failing_disk_never_loses_what_was_acknowledged() {
    for seed in seeds(12) {
        let mut subject = Subject::new(seed);
        for _ in 0..60 {
            subject.operate().unwrap();
        }
        let good = subject.random.below(400);
        subject.disk.fail_after(good, Error::Io("the medium is gone".into()));
        let mut failed = 0;
        for _ in 0..400 {
            let before = subject.model.clone();
            match subject.operate() {
                Ok(()) => {}
                Err(Error::Io(_) | Error::Unavailable(_)) => failed += 1,
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
            if failed == 1 {
                subject.model = before;
            }
            if failed == 20 {
                break;
            }
        }
        assert_eq!(failed, 20, "seed {seed}: the failure was not met");
        subject.assert_holds(&subject.node.fs, "while the disk fails");
        let left = subject.disk.fork();
        subject.assert_recovers(&left, "started again");
    }
}
