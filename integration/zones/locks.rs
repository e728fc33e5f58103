//! Locks across nodes: they hold on all of them, go with who held them, and outlive a leader.

use std::fs;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Node, Nodes, PATIENCE};
use crate::failure::{Check, Stop, ensure, fail};
use crate::lab::Lab;
use crate::mount::signal;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// For so long a lock stays whose holder's node does not answer, and somewhat longer.
const SILENCE: Duration = Duration::from_secs(15);
/// Longest until such a lock is another's, on a busy machine.
const FREED: Duration = Duration::from_secs(40);

fn program(what: &str) -> Tool {
    Tool::python(include_str!("locks.py")).arg(what)
}

/// Locks taken on one node hold on all, and what is done under them is seen by all.
pub fn everywhere(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let zones: Vec<&Path> = nodes.0.iter().map(|node| node.zone.as_path()).collect();
    // Of one node's programs, they are those that any file system has.
    fs::create_dir(nodes.at(1)?.path("one node"))?;
    Tool::python(include_str!("../programs/locks.py")).arg(nodes.at(1)?.path("one node")).ok()?;
    program("everywhere").args(&zones).ok()?;
    program("count").arg(lab.scale("20", "200")).args(&zones).ok()?;
    nodes.agree()?;
    nodes.finish()
}

/// Two nodes write one SQLite database.
pub fn sqlite(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let zones: Vec<&Path> = nodes.0.iter().map(|node| node.zone.as_path()).collect();
    program("sqlite").arg(lab.scale("15", "200")).args(&zones).ok()?;
    nodes.agree()?;
    nodes.finish()
}

/// A program with a lock, that can be told to go on.
struct Holder {
    signals: Scratch,
    ended: JoinHandle<Check<String>>,
}

impl Holder {
    fn start(lab: &Lab, what: &'static str, node: &Node) -> Check<Holder> {
        let signals = Scratch::new(&lab.scratch, what)?;
        let (path, folder) = (node.path("file"), signals.path().to_owned());
        let ended = thread::spawn(move || program(what).arg(path).arg(folder).ok());
        let held = signals.path().join("held");
        wait_until("the lock is held", PATIENCE, || Ok(held.exists() || ended.is_finished()))?;
        Ok(Holder { signals, ended })
    }

    fn go_on(self) -> Check {
        fs::write(self.signals.path().join("go"), "")?;
        match self.ended.join() {
            Ok(ended) => ended.map(drop),
            Err(_) => fail!("the thread panicked"),
        }
    }
}

/// A lock stays while its holder's node is there, whoever leads, and goes soon after that is not.
pub fn lost(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let leader = nodes.leader()?;
    let (holder, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let path = nodes.at(other)?.path("file");
    fs::write(nodes.at(other)?.path("file source"), "0123456789")?;
    let refused = || program("refused").arg(&path).ok().map(drop);

    // Another leads. The lock is as it was, and stays for longer than a silent one would.
    let held = Holder::start(lab, "hold", nodes.at(holder)?)?;
    nodes.at_mut(leader)?.mount.kill()?;
    let began = Instant::now();
    refused()?;
    while began.elapsed() < SILENCE + Duration::from_secs(4) {
        thread::sleep(Duration::from_millis(500));
        refused()?;
    }
    held.go_on()?;
    let began = Instant::now();
    program("take").arg(&path).ok()?;
    ensure!(began.elapsed() < SILENCE, "what was given back was free only after {:?}", began.elapsed());
    let node = nodes.at_mut(leader)?;
    node.mount.start()?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))?;

    // The holder's node is silent: another gets the lock, and the holder is told.
    let held = Holder::start(lab, "victim", nodes.at(holder)?)?;
    let daemon = nodes.at(holder)?.mount.pid()?;
    signal(daemon, Signal::STOP)?;
    let taken = timed_take(&path);
    signal(daemon, Signal::CONT)?;
    println!("    the lock of a frozen node was free after {:?}", taken?);
    held.go_on()?;

    // It is killed.
    let held = Holder::start(lab, "hold", nodes.at(holder)?)?;
    refused()?;
    nodes.at_mut(holder)?.mount.kill()?;
    println!("    the lock of a killed node was free after {:?}", timed_take(&path)?);
    held.go_on()?;
    let node = nodes.at_mut(holder)?;
    node.mount.start()?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))?;
    nodes.agree()?;
    nodes.finish()
}

fn timed_take(path: &Path) -> Check<Duration> {
    let began = Instant::now();
    program("take").arg(path).limit_s(FREED.as_secs()).ok()?;
    let took = began.elapsed();
    // Never while the holder may still take it for its own.
    if took < Duration::from_secs(7) {
        return Err(Stop::Failed(format!("a silent node's lock was another's after {took:?}")));
    }
    Ok(took)
}
