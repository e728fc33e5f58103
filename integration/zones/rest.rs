//! Zones in which nothing happens: they cost nothing, and are there at once when something does.

use std::fs;
use std::time::{Duration, Instant};

use super::{Node, Nodes, PATIENCE, expect};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::tool::wait_until;

/// How long it is watched what daemons cost, and how much of it each may spend on a CPU: 3 %.
const WATCHED: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_millis(150);
/// Longest that a change may take when the leader of a zone at rest has died.
const REPLACED: Duration = Duration::from_secs(3);

fn rests(node: &Node) -> Check<bool> {
    Ok(node.zone(&["status", "zone"]).ok()?.contains("at rest"))
}

fn await_rest<'a>(nodes: impl Iterator<Item = &'a Node>) -> Check {
    let nodes: Vec<&Node> = nodes.collect();
    wait_until("the zone rests", PATIENCE, || {
        Ok(nodes.iter().map(|node| rests(node)).collect::<Check<Vec<_>>>()?.iter().all(|rests| *rests))
    })
}

/// Time that a daemon has spent on a CPU.
fn cpu_time(node: &Node) -> Check<Duration> {
    let pid = node.mount.pid()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).during("the daemon's times")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

/// It rests, wakes for a change, and its leader is replaced when it dies meanwhile.
pub fn at_rest(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    await_rest(nodes.0.iter())?;
    let before: Vec<Duration> = nodes.0.iter().map(cpu_time).collect::<Check<_>>()?;
    std::thread::sleep(WATCHED);
    for (node, before) in nodes.0.iter().zip(before) {
        let spent = cpu_time(node)?.saturating_sub(before);
        println!("    at rest a daemon needs {spent:?} in {WATCHED:?}");
        ensure!(spent <= MOST, "a daemon whose zone rests needs {spent:?} in {WATCHED:?}");
    }
    await_rest(nodes.0.iter())?;
    let leader = nodes.leader()?;
    for (place, node) in nodes.0.iter().enumerate() {
        let began = Instant::now();
        fs::write(node.path(&format!("of {place}")), "awake")?;
        println!("    a change took {:?} to wake it", began.elapsed());
        expect(&nodes.at((place + 1) % 3)?.path(&format!("of {place}")), b"awake")?;
        await_rest(nodes.0.iter())?;
    }
    nodes.at_mut(leader)?.mount.kill()?;
    let began = Instant::now();
    fs::create_dir(nodes.at((leader + 1) % 3)?.path("replaced"))?;
    let took = began.elapsed();
    println!("    the first change without the leader took {took:?}");
    ensure!(took < REPLACED, "it took {took:?}");
    nodes.at_mut(leader)?.mount.start()?;
    let back = nodes.at(leader)?;
    wait_until("it sees what was made", PATIENCE, || Ok(back.path("replaced").exists()))?;
    if !back.path("of 0").exists() {
        fail!("a file is missing");
    }
    await_rest(nodes.0.iter())?;
    nodes.agree()?;
    nodes.finish()
}
