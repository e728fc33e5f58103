//! Changes that were on their way when a zone was paused, in a directory that has become a zone by the time that they
//! are told so: they must not be made in what nobody sees any more.

use parking_lot::Condvar;

use super::super::behind::Sink;
use super::super::desk::Desk;
use super::super::proposer::Proposer;
use super::*;

const MARK: &[u8] = b"mark";

/// Holds up whatever comes behind a setting.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and whether the setting has come to it.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn shut(&self) {
        self.state.lock().0 = true;
    }

    fn open(&self) {
        self.state.lock().0 = false;
        self.changed.notify_all();
    }

    fn await_it(&self) {
        let mut state = self.state.lock();
        while !state.1 {
            self.changed.wait(&mut state);
        }
    }
}

impl Listener for Gate {
    fn applied(&self, change: &Change<'_>) {
        if !matches!(change.command, Command::SetSys { key, .. } if key == "gate") {
            return;
        }
        let mut state = self.state.lock();
        state.1 = true;
        self.changed.notify_all();
        while state.0 {
            self.changed.wait(&mut state);
        }
    }

    fn replaced(&self) {}
}

fn pause() -> Command {
    Command::Pause { expect: None, mark: Some(MARK.to_vec()) }
}

fn create_command(zone: &RaftZone, parent: Ino, name: &str) -> Command {
    Command::Create {
        parent,
        name: SmallBytes::from_slice(name.as_bytes()),
        ino: zone.allocate_ino().unwrap(),
        kind: NewKind::Regular,
        mode: 0o644,
        umask: 0,
        uid: 0,
        gid: 0,
        now: zone.now(),
    }
}

/// Has a zone stand where a directory of this name was, which ends the pause.
fn fill(zone: &RaftZone, name: &str) -> Command {
    let target = nexus_kernel::model::MountTarget { zone: [9; 16], name: name.into(), addresses: Vec::new() };
    let target = nexus_kernel::model::encode(&target).unwrap().to_vec();
    let name = SmallBytes::from_slice(name.as_bytes());
    Command::MountFilled { parent: Ino::ROOT, name, mark: MARK.to_vec(), target, now: zone.now() }
}

fn wait_for(zone: &RaftZone, pending: usize) {
    let until = Instant::now() + Duration::from_secs(20);
    while zone.replica().pending.numbers().len() < pending {
        assert!(Instant::now() < until, "it was not handed in");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_on_its_way_into_a_directory_that_became_a_zone_is_stale() {
    let (cluster, gate) = (Cluster::new(), Arc::new(Gate::default()));
    let zone = Arc::new(cluster.found_heard(1, gate.clone()));
    let dir = create_in(&zone, Ino::ROOT, "dir", NewKind::Directory).unwrap();
    create_in(&zone, dir, "before", NewKind::Regular).unwrap();
    let inodes = zone.usage().unwrap().inodes;
    gate.shut();
    // Nothing of this is applied before all of it is in the log, in this order.
    let (create, fill) = (create_command(&zone, dir, "late"), fill(&zone, "dir"));
    let gated = Command::SetSys { key: "gate".into(), value: Some(vec![1]) };
    let handed: Vec<_> = [gated, pause(), create, fill]
        .into_iter()
        .enumerate()
        .map(|(before, command)| {
            let proposer = zone.clone();
            let thread = std::thread::spawn(move || proposer.propose(&command).map(drop));
            wait_for(&zone, before + 1);
            if before == 0 {
                gate.await_it();
            }
            thread
        })
        .collect();
    gate.open();
    let answers: Vec<_> = handed.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(answers, [Ok(()), Ok(()), Err(Error::Stale), Ok(())]);
    assert_eq!(zone.usage().unwrap().inodes, inodes, "a file was made where nobody sees it");
    zone.close().unwrap();
}

#[test]
fn of_what_is_handed_in_together_the_same_holds() {
    let cluster = Cluster::new();
    let zone = cluster.found(1);
    let dir = create_in(&zone, Ino::ROOT, "dir", NewKind::Directory).unwrap();
    create_in(&zone, dir, "before", NewKind::Regular).unwrap();
    let inodes = zone.usage().unwrap().inodes;
    let links = Arc::new(NetLinks { net: cluster.net.clone(), from: MemberId(1) });
    let (replica, group) = (zone.replica().clone(), zone.group().clone());
    let proposer = Proposer::start(replica.clone(), group, links, cluster.handle());
    let patience = Arc::new(Patience::new(Duration::from_secs(10)));
    let desk = Desk::new(replica, proposer, Arc::new(NoContent), Arc::new(NoCopies), patience);
    let commands = [
        pause(),
        create_command(&zone, dir, "late"),
        fill(&zone, "dir"),
        create_command(&zone, Ino::ROOT, "elsewhere"),
    ];
    let answers: Vec<_> = desk.propose_all(&commands).into_iter().map(|answer| answer.map(drop)).collect();
    assert_eq!(answers, [Ok(()), Err(Error::Stale), Ok(()), Ok(())]);
    assert_eq!(zone.usage().unwrap().inodes, inodes + 1);
    desk.proposer().stop();
    zone.close().unwrap();
}
