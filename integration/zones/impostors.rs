//! Nodes that are not what they were: one whose disk is new, and one whose disk is a copy of another's.

use std::fs;

use super::{Nodes, PATIENCE, expect};
use crate::failure::{Check, ensure, fail};
use crate::lab::Lab;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// A member that lost its data folder is none any more: started anew at its old address it votes for
/// nobody, so that one of three alone leads nothing. A copy of a member's folder takes part in nothing either, nor
/// harms the member that it was copied from.
pub fn wiped_and_copied(lab: &Lab) -> Check {
    // Longer than an election takes.
    let mut nodes = Nodes::made(lab, 3, |mount| mount.with_options("zone_timeout=8"))?;
    fs::write(nodes.at(0)?.path("kept"), "kept")?;
    nodes.agree()?;

    // Two of three are gone; one of them is back at its address, with nothing.
    let lost = nodes.at(2)?.member()?;
    nodes.at_mut(1)?.mount.kill()?;
    nodes.at_mut(2)?.mount.kill()?;
    fs::remove_dir_all(nodes.at(2)?.mount.data())?;
    nodes.at_mut(2)?.mount.start()?;
    let made = fs::create_dir(nodes.at(0)?.path("by one of three"));
    ensure!(made.is_err(), "one of three has made a change, with another at the address of a third");
    ensure!(nodes.at(2)?.zone(&["ls"]).ok()?.contains("no zones"), "a new folder knows a zone");
    nodes.at_mut(1)?.mount.start()?;
    wait_until("two of three go on", PATIENCE, || Ok(fs::write(nodes.at(0)?.path("with two"), "x").is_ok()))?;
    // Its old self is taken out, and it comes in anew.
    nodes.at(0)?.zone(&["remove-member", "zone", &lost]).ok()?;
    let invite = nodes.at(0)?.zone(&["invite", "zone"]).ok()?;
    let wiped = nodes.at(2)?;
    wiped.mount.program().arg("join").arg(invite.trim()).arg(&wiped.zone).ok()?;
    expect(&wiped.path("kept"), b"kept")?;
    nodes.agree()?;

    // A copy of a member's folder, started while that member is there.
    nodes.at_mut(1)?.stop()?;
    let scratch = Scratch::new(&lab.scratch, "copy")?;
    Tool::new("cp").arg("-a").arg(nodes.at(1)?.mount.data()).arg(scratch.path().join("data")).ok()?;
    nodes.at_mut(1)?.mount.start()?;
    wait_until("the original takes part", PATIENCE, || Ok(nodes.at(1)?.path("kept").exists()))?;
    fs::write(nodes.at(1)?.path("by the original"), "x")?;
    let address = crate::ports::address()?;
    let mut copy = lab.mount_on(&scratch.path().join("data"), &scratch)?.with_arguments(&["--listen", &address]);
    copy.start()?;
    let inside = copy.point().join("zone").join("by the copy");
    let made = fs::write(&inside, "x");
    println!("    a file made through a copy of a member's folder: {made:?}");
    ensure!(made.is_err(), "a copy of a member's folder takes part in the zone");
    let said = copy.program().arg("status").arg(copy.point()).run()?;
    ensure!(said.out.contains("copied"), "status does not say what is wrong: {}", said.out);
    for (place, node) in nodes.0.iter().enumerate() {
        fs::write(node.path(&format!("beside the copy {place}")), "x")?;
    }
    ensure!(!nodes.at(0)?.path("by the copy").exists(), "the copy's file is in the zone");
    copy.program().arg("umount").arg(copy.point()).ok()?;
    copy.ended()?;
    nodes.agree()?;
    if nodes.at(1)?.zone(&["status", "zone"]).ok()?.matches("  member ").count() != 3 {
        fail!("the original is not what it was");
    }
    nodes.finish()
}
