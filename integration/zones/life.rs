//! A zone's life beside sharing and joining: made empty, mounted in several places, unmounted, in
//! the trash and back, destroyed, given up.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{Node, Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::tool::{Tool, wait_until};

fn refused(tool: Tool, words: &str) -> Check {
    let done = tool.run()?;
    ensure!(done.code != 0 && done.err.contains(words), "not refused with {words:?}: {done:?}");
    Ok(())
}

fn unmount(node: &Node, name: &str) -> Check<String> {
    node.mount.program().args(["zone", "unmount"]).arg(node.mount.point().join(name)).ok()
}

fn mount(node: &Node, verb: &str, zone: &str, name: &str) -> Tool {
    node.mount.program().args(["zone", verb, zone]).arg(node.mount.point().join(name))
}

/// What is done in one place counts at once in the other, whatever the kernel was told there.
fn same_in_both(here: &Path, there: &Path) -> Check {
    let mut file = fs::File::create(here.join("log"))?;
    for round in 1..=50 {
        let name = format!("name {round}");
        fs::write(here.join(&name), "")?;
        ensure!(there.join(&name).exists(), "{name} is not there");
        file.write_all(b"line\n")?;
        let size = there.join("log").metadata()?.len();
        ensure!(size == 5 * round, "{size} bytes after {round} writes");
        fs::remove_file(here.join(&name))?;
        ensure!(!there.join(&name).exists(), "{name} is still there");
    }
    drop(file);
    Ok(fs::remove_file(here.join("log"))?)
}

/// One node alone: made, mounted twice, unmounted, in the trash over a restart, restored, destroyed.
pub(super) fn alone(lab: &Lab) -> Check {
    let mut node = Node::new(lab, "alone")?;
    let at = |node: &Node, name: &str| node.mount.point().join(name);
    node.zone(&["create", "notes"]).ok()?;
    ensure!(node.zone(&["ls"]).ok()?.contains("notes  1 members, leader  not mounted"), "it is not listed");
    mount(&node, "mount", "notes", "one").ok()?;
    fs::write(at(&node, "one").join("file"), "text")?;
    // It stands in two places, and is the same in both; not within itself.
    mount(&node, "mount", "notes", "two").ok()?;
    expect(&at(&node, "two").join("file"), b"text")?;
    same_in_both(&at(&node, "one"), &at(&node, "two"))?;
    same_in_both(&at(&node, "two"), &at(&node, "one"))?;
    fs::create_dir(at(&node, "one").join("in"))?;
    refused(mount(&node, "mount", "notes", "one/in"), "within itself")?;
    // Nor in one that is within it.
    node.zone(&["create", "inner"]).ok()?;
    mount(&node, "mount", "inner", "one/in").ok()?;
    fs::create_dir(at(&node, "two").join("in/deeper"))?;
    refused(mount(&node, "mount", "notes", "two/in/deeper"), "within itself")?;
    ensure!(unmount(&node, "one/in")?.contains("in the trash"), "inner is not in the trash");
    let said = unmount(&node, "two")?;
    ensure!(said.contains("elsewhere"), "{said}");
    refused(mount(&node, "mount", "nosuch", "three"), "zone ls")?;
    refused(node.mount.program().args(["zone", "unmount"]).arg(at(&node, "two")), "no zone stands")?;
    fs::remove_dir(at(&node, "two")).during("where it stood is a directory like any other")?;
    // Somebody is in it.
    let inside = fs::File::open(at(&node, "one").join("file"))?;
    ensure!(unmount(&node, "one").is_err(), "it was unmounted while a file of it is open");
    drop(inside);
    expect(&at(&node, "one").join("file"), b"text")?;
    wait_until("it can be unmounted", PATIENCE, || Ok(unmount(&node, "one").is_ok()))?;
    ensure!(fs::read_dir(at(&node, "one"))?.next().is_none(), "its files are still seen");
    let listed = node.zone(&["ls"]).ok()?;
    ensure!(!listed.contains("notes"), "{listed}");
    // The trash is there after a night, and gives it back as it was.
    node.stop()?;
    node.mount.start()?;
    let trash = node.zone(&["ls", "--trash"]).ok()?;
    ensure!(trash.contains("notes") && trash.contains("inner") && trash.contains("since 20"), "{trash}");
    mount(&node, "restore", "notes", "back").ok()?;
    expect(&at(&node, "back").join("file"), b"text")?;
    let trash = node.zone(&["ls", "--trash"]).ok()?;
    ensure!(!trash.contains("notes") && trash.contains("inner"), "{trash}");
    // Deleted for good, on the record, only when that is said.
    refused(node.zone(&["destroy", "inner"]), "--yes")?;
    node.zone(&["destroy", "inner", "--yes"]).ok()?;
    node.zone(&["destroy", "notes", "--yes"]).ok()?;
    ensure!(fs::read_dir(at(&node, "back"))?.next().is_none(), "files of a zone are there after it was destroyed");
    ensure!(node.zone(&["ls"]).ok()?.contains("no zones"), "it is still listed");
    ensure!(node.zone(&["ls", "--trash"]).ok()?.contains("nothing"), "it is still in the trash");
    let audit = node.zone(&["audit"]).ok()?;
    ensure!(audit.lines().count() == 2 && audit.contains("zone notes (") && audit.contains("user 0"), "{audit}");
    node.mount.program().arg("gc").arg(node.mount.point()).ok()?;
    Nodes(vec![node]).finish()
}

/// Three nodes: who unmounts leaves, one destroys for all; and one that was away gives up what it has.
pub(super) fn destroyed(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let said = unmount(nodes.at(2)?, "zone")?;
    ensure!(said.contains("has left it"), "{said}");
    let status = nodes.at(0)?.zone(&["status", "zone"]).ok()?;
    ensure!(status.matches("  member ").count() == 2, "{status}");
    let invite = nodes.at(0)?.zone(&["invite", "zone"]).ok()?;
    let c = nodes.at(2)?;
    c.mount.program().arg("join").arg(invite.trim()).arg(&c.zone).ok()?;
    expect(&c.path("before"), b"from before")?;
    refused(c.zone(&["destroy", "zone", "--here", "--yes"]), "zone leave")?;
    nodes.at_mut(2)?.mount.kill()?;
    // Asked for where nobody leads, too.
    let said = nodes.at(1)?.zone(&["destroy", "zone", "--yes"]).ok()?;
    ensure!(said.contains("not reached"), "{said}");
    for place in [0, 1] {
        let node = nodes.at(place)?;
        wait_until("it is gone everywhere", PATIENCE, || Ok(node.zone(&["ls"]).ok()?.contains("no zones")))?;
        ensure!(fs::read_dir(&node.zone)?.next().is_none(), "files of a destroyed zone are there");
        ensure!(node.zone(&["audit"]).ok()?.contains("destroyed"), "it is not on the record");
        fs::write(node.mount.point().join("outside"), "x")?;
    }
    nodes.at_mut(2)?.mount.start()?;
    let c = nodes.at(2)?;
    wait_until("what is left of it is there", PATIENCE, || Ok(c.path("before").exists()))?;
    let refused_for = errno(fs::write(c.path("new"), "x"));
    ensure!(refused_for.is_some(), "one of three makes changes");
    refused(c.zone(&["destroy", "zone", "--yes"]), "majority")?;
    let mut said = String::new();
    wait_until("it knows that it is alone", PATIENCE, || {
        let done = c.zone(&["destroy", "zone", "--here", "--yes"]).run()?;
        said = done.err;
        Ok(done.code == 0)
    })
    .during(said)?;
    ensure!(c.zone(&["ls"]).ok()?.contains("no zones"), "it is still listed");
    nodes.finish()
}

/// A zone that can't be opened is given up, and the rest is as it was.
pub(super) fn given_up(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 1)?;
    let node = nodes.at_mut(0)?;
    fs::write(node.mount.point().join("outside"), "outside")?;
    node.stop()?;
    fs::write(node.mount.data().join("zones/1/node.key"), "no key")?;
    node.mount.start()?;
    refused(node.zone(&["destroy", "zone", "--yes"]), "--here")?;
    node.zone(&["destroy", "zone", "--here", "--yes"]).ok()?;
    ensure!(node.zone(&["ls"]).ok()?.contains("no zones"), "it is still listed");
    let status = node.mount.program().arg("status").arg(node.mount.point()).ok()?;
    ensure!(status.contains("healthy"), "{status}");
    ensure!(fs::read_dir(&node.zone)?.next().is_none(), "its directory is not empty");
    fs::remove_dir(&node.zone)?;
    expect(&node.mount.point().join("outside"), b"outside")?;
    node.stop()?;
    node.mount.start()?;
    expect(&node.mount.point().join("outside"), b"outside")?;
    ensure!(!node.mount.data().join("zones/1").exists(), "its files are still there");
    nodes.finish()
}
