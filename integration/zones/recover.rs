//! A majority is lost for good, and the zone goes on without it.

use std::fs;

use super::{Node, Nodes, PATIENCE, expect};
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::tool::wait_until;

/// Two of three are destroyed: the third goes on alone, then with others; those that come back
/// from old data folders are refused.
pub(super) fn majority_lost(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(nodes.at(0)?.path("of a"), "a")?;
    fs::write(nodes.at(1)?.path("of b"), &large)?;
    nodes.at(0)?.zone(&["replicas", "zone", "3"]).ok()?;
    let a = nodes.at(0)?.mount.data().join("mirror/1");
    wait_until("all content is on all nodes", PATIENCE, || {
        let Ok(copies) = fs::read_dir(&a) else { return Ok(false) };
        let sizes = copies.map(|file| Ok(file?.metadata()?.len())).collect::<Check<Vec<u64>>>()?;
        Ok(sizes.iter().sum::<u64>() > large.len() as u64)
    })?;
    nodes.agree()?;
    let early = nodes.at(0)?.zone(&["recover", "zone", "--yes"]).run()?;
    ensure!(early.code != 0 && early.err.contains("majority"), "{early:?}");
    for place in [1, 2] {
        nodes.at_mut(place)?.mount.kill()?;
    }
    let a = nodes.at(0)?;
    wait_until("it knows that it is alone", PATIENCE, || Ok(a.zone(&["ls"]).ok()?.contains("NO QUORUM")))?;
    let told = a.zone(&["recover", "zone"]).run()?;
    ensure!(told.code != 0 && told.err.contains("Lost for good") && told.err.contains("--yes"), "{told:?}");
    let said = a.zone(&["recover", "zone", "--yes"]).ok()?;
    ensure!(said.contains("goes on with 1 of them; all content is there"), "{said}");
    let whole = |node: &Node| -> Check {
        expect(&node.path("before"), b"from before")?;
        expect(&node.path("of a"), b"a")?;
        expect(&node.path("of b"), &large)
    };
    whole(a)?;
    fs::write(a.path("alone"), "alone")?;
    let status = a.zone(&["status", "zone"]).ok()?;
    ensure!(status.matches("  member ").count() == 1 && status.contains("a majority is there"), "{status}");
    let audit = a.zone(&["audit"]).ok()?;
    ensure!(audit.contains("is recovered at entry") && audit.contains("user 0"), "{audit}");
    // Another one joins; it has all.
    let invite = a.zone(&["invite", "zone"]).ok()?;
    let d = Node::new(lab, "dave")?;
    d.mount.program().arg("join").arg(invite.trim()).arg(&d.zone).ok()?;
    whole(&d)?;
    fs::write(d.path("of d"), "d")?;
    expect(&a.path("of d"), b"d")?;
    // One of the lost comes back as it was: nobody takes it for a member.
    nodes.at_mut(1)?.mount.start()?;
    let (a, b) = (nodes.at(0)?, nodes.at(1)?);
    wait_until("the one that was lost is back", PATIENCE, || Ok(b.path("of b").exists()))?;
    ensure!(fs::write(b.path("of the lost"), "x").is_err(), "who was lost makes changes");
    ensure!(!b.path("alone").exists(), "who was lost is told of changes");
    let status = a.zone(&["status", "zone"]).ok()?;
    ensure!(status.matches("  member ").count() == 2, "{status}");
    fs::write(a.path("meanwhile"), "x")?;
    expect(&d.path("meanwhile"), b"x")?;
    ensure!(!a.path("of the lost").exists(), "a change of who was lost was made");
    // It gives up what it has, and joins anew.
    b.zone(&["destroy", "zone", "--here", "--yes"]).ok()?;
    let invite = d.zone(&["invite", "zone"]).ok()?;
    b.mount.program().arg("join").arg(invite.trim()).arg(&b.zone).ok()?;
    whole(b)?;
    expect(&b.path("alone"), b"alone")?;
    let mut left = std::mem::take(&mut nodes.0);
    drop(left.pop());
    left.push(d);
    let mut nodes = Nodes(left);
    nodes.agree()?;
    // And all of it after a night.
    for node in &mut nodes.0 {
        node.stop()?;
    }
    for node in &mut nodes.0 {
        node.mount.start()?;
    }
    for node in &nodes.0 {
        wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))?;
        whole(node)?;
    }
    fs::write(nodes.at(0)?.path("in the morning"), "x")?;
    nodes.agree()?;
    nodes.finish()
}
