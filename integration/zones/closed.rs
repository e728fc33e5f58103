//! Zones that can't be opened, and shares that were cut short.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Node, Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::tool::wait_until;

/// More than a segment, so that some of it is sealed.
const LARGE: usize = 40 << 20;

fn io() -> Option<i32> {
    Some(rustix::io::Errno::IO.raw_os_error())
}

/// The files that a zone can't be opened without.
fn needed(data: &Path) -> Check<Vec<PathBuf>> {
    let folder = data.join("zones").join("1");
    let mut found: Vec<PathBuf> = ["zone", "node.der", "node.key"].iter().map(|name| folder.join(name)).collect();
    for entry in fs::read_dir(data.join("meta"))? {
        let path = entry?.path();
        let is_store = path.extension().is_some_and(|ending| ending == "redb");
        if is_store && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("zone-1-")) {
            found.push(path);
        }
    }
    Ok(found)
}

fn all_is_well(node: &Node, large: &[u8]) -> Check {
    wait_until("the zone is mounted", PATIENCE, || Ok(node.path("before").exists()))?;
    expect(&node.path("before"), b"from before")?;
    expect(&node.path("large"), large)
}

/// Whatever of a zone is damaged, the volume mounts, says so, and deletes nothing.
pub(super) fn closed(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 1)?;
    let large: Vec<u8> = (0..LARGE).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
    let node = nodes.at_mut(0)?;
    fs::write(node.path("large"), &large)?;
    fs::write(node.mount.point().join("outside"), "outside")?;
    node.stop()?;
    let files = needed(node.mount.data())?;
    ensure!(files.len() == 4, "{files:?}");
    for (round, file) in files.iter().enumerate() {
        let whole = fs::read(file)?;
        // Damaged, and missing.
        for missing in [false, true] {
            let context = format!("{} (missing: {missing})", file.display());
            if missing {
                fs::remove_file(file)?;
            } else {
                let mut bad = whole.clone();
                bad.iter_mut().for_each(|byte| *byte ^= 0x5a);
                fs::write(file, bad)?;
            }
            node.mount.start().during(&context)?;
            expect(&node.mount.point().join("outside"), b"outside")?;
            if missing && file.starts_with(node.mount.data().join("meta")) {
                // The log, of which nothing is given up yet, has the whole state.
                all_is_well(node, &large).during(&context)?;
                node.stop()?;
                continue;
            }
            fs::write(node.mount.point().join(format!("round {round} {missing}")), "x")?;
            let listed = fs::read_dir(&node.zone).and_then(|mut entries| entries.next().transpose()).map(drop);
            ensure!(errno(listed.map(drop)) == io(), "{context}: the zone's directory can be listed");
            ensure!(errno(fs::metadata(node.path("before")).map(drop)) == io(), "{context}: its files are looked for");
            ensure!(errno(fs::write(node.path("new"), "x")) == io(), "{context}: a file is made in its place");
            let said = node.mount.program().arg("status").arg(node.mount.point()).run()?;
            ensure!(said.code == 1, "{context}: status is content: {said:?}");
            let said = said.out;
            for words in ["can't be opened", "no content is deleted"] {
                ensure!(said.contains(words), "{context}: status does not say {words:?}: {said}");
            }
            let listed = node.zone(&["ls"]).ok()?;
            ensure!(listed.contains("CAN'T BE OPENED"), "{context}: {listed}");
            // What it may refer to is not collected, however much that is wanted.
            node.mount.program().arg("gc").arg(node.mount.point()).ok()?;
            node.stop()?;
            fs::write(file, &whole)?;
        }
    }
    node.mount.start()?;
    all_is_well(node, &large)?;
    let said = node.mount.program().arg("status").arg(node.mount.point()).ok()?;
    ensure!(said.contains("healthy"), "{said}");
    nodes.finish()
}

/// A share that is cut short leaves a directory, or a zone, and nothing between.
pub(super) fn cut_short(lab: &Lab) -> Check {
    for (step, is_zone) in [("share.filled", false), ("share.mounted", true)] {
        let mut node = Node::with_variable(lab, step, ("NEXUS_FAILPOINT", step))?;
        fs::create_dir_all(node.path("sub"))?;
        fs::write(node.path("sub").join("file"), "text")?;
        let shared = node.mount.program().arg("share").arg(&node.zone).run()?;
        ensure!(shared.code != 0, "{step} was not reached");
        wait_until("the daemon is gone", PATIENCE, || Ok(!node.mount.is_running()?))?;
        node.mount = node.mount.without_variable("NEXUS_FAILPOINT");
        node.mount.kill()?;
        node.mount.start().during(step)?;
        let file = node.path("sub").join("file");
        wait_until("the files are there", PATIENCE, || Ok(file.exists()))?;
        expect(&file, b"text")?;
        let listed = node.zone(&["ls"]).ok()?;
        if is_zone {
            ensure!(listed.contains("zone  1 members"), "{step}: {listed}");
        } else {
            ensure!(listed.contains("no zones"), "{step}: {listed}");
            // It can be shared as if nothing had been.
            node.mount.program().arg("share").arg(&node.zone).ok()?;
        }
        let invite = node.zone(&["invite", "zone"]).ok()?;
        let Some(other) = Node::new(lab, "other").ok() else { fail!("no other node") };
        other.mount.program().arg("join").arg(invite.trim()).arg(&other.zone).ok()?;
        expect(&other.path("sub").join("file"), b"text")?;
        Nodes(vec![node, other]).finish()?;
    }
    Ok(())
}
