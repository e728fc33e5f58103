//! Members of two versions in one zone, upgraded one after the other while it is worked in.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{Node, Nodes, PATIENCE, expect, make_files};
use crate::failure::{Check, ensure, fail};
use crate::lab::Lab;
use crate::tool::wait_until;

/// What holds a daemon at the version before locks.
const HELD: (&str, &str) = ("NEXUS_COMMAND_VERSION", "5");
/// The newest version.
const NEWEST: u8 = 9;

fn lock(node: &Node) -> Result<(), rustix::io::Errno> {
    let file = File::open(node.path("before")).map_err(|_| rustix::io::Errno::NOENT)?;
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn says(node: &Node, version: u8) -> Check<bool> {
    Ok(node.zone(&["status", "zone"]).ok()?.contains(&format!("up to version {version},")))
}

/// What only some members know is refused, and comes with the last that is upgraded; nothing that was
/// acknowledged meanwhile is lost.
pub(super) fn rolling(lab: &Lab) -> Check {
    let mut nodes = Nodes::made(lab, 3, |mount| mount.with_variable(HELD.0, HELD.1))?;
    for node in &nodes.0 {
        wait_until("all know what all know", PATIENCE, || says(node, 5))?;
    }
    for place in 0..3 {
        for node in &nodes.0 {
            let answer = lock(node);
            let refused = answer == Err(rustix::io::Errno::OPNOTSUPP);
            ensure!(refused, "with a member of an older version a lock was answered by {answer:?}");
        }
        let (stop, mut made) = (AtomicBool::new(false), Vec::new());
        let (upgraded, others): (Vec<_>, Vec<_>) =
            nodes.0.iter_mut().enumerate().partition(|(other, _)| *other == place);
        let Some((_, upgraded)) = upgraded.into_iter().next() else { fail!("no such node") };
        std::thread::scope(|scope| -> Check {
            let makers: Vec<_> = others
                .iter()
                .map(|(other, node)| {
                    let (zone, name, stop) = (node.zone.clone(), format!("round {place} by {other}"), &stop);
                    scope.spawn(move || make_files(&zone, &name, stop))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(500));
            let back = upgraded.stop().and_then(|()| {
                upgraded.mount.forget_variable(HELD.0);
                upgraded.mount.start()?;
                wait_until("the zone is mounted again", PATIENCE, || Ok(upgraded.path("before").exists()))
            });
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
            for maker in makers {
                made.extend(maker.join().map(|(made, _)| made).unwrap_or_default());
            }
            back
        })?;
        println!("    {} files were made while member {place} was upgraded", made.len());
        ensure!(made.len() > 10, "only {} files were made", made.len());
        for node in &nodes.0 {
            for name in &made {
                wait_until("what was made is on every node", PATIENCE, || Ok(node.path(name).exists()))?;
            }
        }
        if let Some(name) = made.last() {
            expect(&nodes.at(place)?.path(name), name.as_bytes())?;
        }
        nodes.agree()?;
    }
    for node in &nodes.0 {
        wait_until("all know the newest", PATIENCE, || says(node, NEWEST))?;
        ensure!(lock(node).is_ok(), "a lock is refused though all members know of them");
    }
    // Who is older than what the zone uses is not let in.
    let old = Node::with_variable(lab, "dave", HELD)?;
    fs::create_dir_all(&old.zone)?;
    let invite = nodes.at(0)?.zone(&["invite", "zone"]).ok()?;
    let joined = old.mount.program().arg("join").arg(invite.trim()).arg(&old.zone).run()?;
    ensure!(joined.code != 0 && joined.err.contains("must be upgraded"), "not refused: {joined:?}");
    drop(old);
    nodes.agree()?;
    nodes.finish()
}
