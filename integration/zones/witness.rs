//! A witness beside two members: it votes, and holds no content.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::{FAILOVER, Node, Nodes, PATIENCE, expect};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::random::Random;
use crate::tool::{Tool, wait_until};

/// KiB of content in a data folder, copies of others' among it.
fn content_kib(data: &Path) -> Check<u64> {
    let said = Tool::new("du").args(["-sk", "--exclude=log", "--exclude=meta"]).arg(data).ok()?;
    match said.split_whitespace().next().and_then(|number| number.parse().ok()) {
        Some(number) => Ok(number),
        None => fail!("du said {said}"),
    }
}

fn refused(tool: Tool, words: &str) -> Check {
    let done = tool.run()?;
    ensure!(done.code != 0 && done.err.contains(words), "not refused with {words:?}: {done:?}");
    Ok(())
}

/// Either of the two goes on with the witness when the other is lost, with all files.
pub(super) fn of_two(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 2)?;
    let mut witness = Node::new(lab, "carol")?;
    let invite = nodes.at(0)?.zone(&["invite", "zone"]).ok()?;
    witness.mount.program().args(["join", "--witness"]).arg(invite.trim()).arg(witness.mount.point()).ok()?;
    let said = nodes.at(0)?.zone(&["status", "zone"]).ok()?;
    ensure!(said.contains("witness") && said.matches("  member ").count() == 3, "{said}");
    let content = Random::new(3).bytes(20 << 20);
    for place in 0..2 {
        fs::write(nodes.at(place)?.path(&format!("of {place}")), &content)?;
    }
    let digest = || Ok::<_, crate::failure::Stop>(witness.zone(&["digest", "zone"]).ok()?.trim().to_owned());
    wait_until("the witness has the same state", PATIENCE, || Ok(digest()? == nodes.at(0)?.digest()?))?;
    let kept = content_kib(witness.mount.data())?;
    ensure!(kept < 4 << 10, "a witness holds {kept} KiB of content");
    ensure!(!witness.mount.point().join("zone").exists(), "a witness shows the zone");
    fs::create_dir(witness.mount.point().join("place"))?;
    let place = witness.mount.point().join("place");
    refused(witness.mount.program().args(["zone", "mount", "zone"]).arg(&place), "only a witness")?;
    for (lost, left) in [(0, 1), (1, 0)] {
        nodes.at_mut(lost)?.mount.kill()?;
        let began = Instant::now();
        let name = format!("without {lost}");
        fs::write(nodes.at(left)?.path(&name), "x").during(&name)?;
        println!("    the first change without {lost} took {:?}", began.elapsed());
        ensure!(began.elapsed() < FAILOVER, "it took {:?}", began.elapsed());
        expect(&nodes.at(left)?.path(&format!("of {lost}")), &content)?;
        let node = nodes.at_mut(lost)?;
        node.mount.start()?;
        wait_until("the zone is mounted again", PATIENCE, || Ok(node.path(&name).exists()))?;
        nodes.agree()?;
        wait_until("a witness does not lead for long", PATIENCE, || Ok(!witness.leads()?))?;
    }
    // Content is not left to a witness.
    nodes.at(1)?.zone(&["leave", "zone"]).ok()?;
    expect(&nodes.at(0)?.path("of 1"), &content)?;
    refused(nodes.at(0)?.zone(&["leave", "zone"]), "only witnesses")?;
    witness.zone(&["leave", "zone"]).ok()?;
    witness.stop()?;
    nodes.finish()
}
