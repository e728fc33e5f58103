//! A witness beside two members: it votes and holds the log, and has none of the files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;

use super::{FAILOVER, Node, Nodes, PATIENCE, errno, expect, files_beside};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::signal;
use crate::random::Random;
use crate::tool::{Tool, wait_until};

/// KiB by which what a witness has may grow beside the log of its node, whatever is done in the zone.
const SMALL: u64 = 1 << 10;

/// KiB on disk below a data folder but for the node's log, which is laid out ahead for local files, too.
fn kib(folder: &Path) -> Check<u64> {
    let mut blocks = 0;
    let mut ahead: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match metadata.is_dir() {
                true if entry.file_name() == "log" => {}
                true => ahead.push(entry.path()),
                false => blocks += metadata.blocks(),
            }
        }
    }
    Ok(blocks / 2)
}

fn refused(tool: Tool, words: &str) -> Check {
    let done = tool.run()?;
    ensure!(done.code != 0 && done.err.contains(words), "not refused with {words:?}: {done:?}");
    Ok(())
}

/// Two nodes of a zone, and a witness.
fn with_witness(lab: &Lab) -> Check<(Nodes, Node)> {
    let nodes = Nodes::new(lab, 2)?;
    let witness = Node::new(lab, "carol")?;
    let invite = nodes.at(0)?.zone(&["invite", "zone", "--witness"]).ok()?;
    let join = || witness.mount.program().arg("join").arg(invite.trim());
    let point = witness.mount.point();
    refused(join().arg(point.join("zone")), "for a witness")?;
    refused(join().arg("--witness").arg(point.join("zone")), "mounted nowhere")?;
    fs::remove_dir(point.join("zone"))?;
    join().arg("--witness").arg("--mount").arg(point).ok()?;
    let said = nodes.at(0)?.zone(&["status", "zone"]).ok()?;
    ensure!(said.contains("(votes, witness, ") && said.matches("  member ").count() == 3, "{said}");
    let said = witness.zone(&["status", "zone"]).ok()?;
    ensure!(
        said.contains("follower, term") && said.contains("witness, ") && said.contains("(votes, witness, this node)"),
        "{said}"
    );
    Ok((nodes, witness))
}

fn back(node: &mut Node, name: &str) -> Check {
    node.mount.start()?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(node.path(name).exists()))
}

/// Any one of the three may be lost, under load.
pub(super) fn of_two(lab: &Lab) -> Check {
    let (mut nodes, mut witness) = with_witness(lab)?;
    let before = kib(witness.mount.data())?;
    let content = Random::new(3).bytes(20 << 20);
    for place in 0..2 {
        fs::write(nodes.at(place)?.path(&format!("of {place}")), &content)?;
    }
    let point = witness.mount.point().to_owned();
    ensure!(!point.join("zone").exists(), "a witness shows the zone");
    fs::create_dir(point.join("place"))?;
    refused(witness.mount.program().args(["zone", "mount", "zone"]).arg(point.join("place")), "only a witness")?;
    refused(witness.zone(&["digest", "zone"]), "none of its files")?;
    refused(nodes.at(0)?.zone(&["transfer-leader", "zone", &witness.member()?]), "none of the zone's files")?;
    for lost in 0..3 {
        let folders: Vec<PathBuf> =
            nodes.0.iter().enumerate().filter(|(place, _)| *place != lost).map(|(_, node)| node.zone.clone()).collect();
        let killed = if lost == 2 { &mut witness } else { nodes.at_mut(lost)? };
        let (acknowledged, slowest) = files_beside(&folders, &format!("without {lost}"), || killed.mount.kill())?;
        println!("    {} files without {lost}, the slowest took {slowest:?}", acknowledged.len());
        ensure!(slowest < FAILOVER, "a file took {slowest:?} without {lost}");
        ensure!(acknowledged.len() > 20, "only {} files were made", acknowledged.len());
        if lost == 2 {
            witness.mount.start()?;
        } else {
            // What the other wrote is there, from its copy.
            expect(&nodes.at(1 - lost)?.path(&format!("of {lost}")), &content)?;
            back(nodes.at_mut(lost)?, "before")?;
        }
        nodes.agree()?;
        for node in &nodes.0 {
            for name in &acknowledged {
                ensure!(node.path(name).exists(), "{name} was acknowledged, and is not on every node");
            }
        }
        if let Some(name) = acknowledged.last() {
            expect(&nodes.at(lost % 2)?.path(name), name.as_bytes())?;
        }
        wait_until("a witness does not lead for long", PATIENCE, || Ok(!witness.leads()?))?;
    }
    wait_until("what was written alone has its copies", PATIENCE, || {
        let said = |place: usize| nodes.at(place)?.zone(&["status", "zone"]).ok();
        Ok(!said(0)?.contains("too few") && !said(1)?.contains("too few"))
    })?;
    let kept = kib(witness.mount.data())?;
    println!("    the witness has {kept} KiB beside its log, after {before} KiB");
    ensure!(kept <= before + SMALL, "a witness has {kept} KiB, after {before}");
    // The files are not left to a witness.
    nodes.at(1)?.zone(&["leave", "zone"]).ok()?;
    expect(&nodes.at(0)?.path("of 1"), &content)?;
    refused(nodes.at(0)?.zone(&["leave", "zone"]), "only witnesses")?;
    witness.zone(&["leave", "zone"]).ok()?;
    ensure!(witness.zone(&["ls"]).ok()?.contains("no zones"), "a witness that has left is one still");
    witness.stop()?;
    nodes.finish()
}

/// What only the witness has beside a member that is lost comes to the other from its log.
pub(super) fn hands_on(lab: &Lab) -> Check {
    let (mut nodes, mut witness) = with_witness(lab)?;
    for (writer, sleeper) in [(0, 1), (1, 0)] {
        let sleeping = nodes.at(sleeper)?.mount.pid()?;
        signal(sleeping, Signal::STOP)?;
        let began = Instant::now();
        let name = |number: usize| format!("by {writer} number {number}");
        for number in 0..300 {
            let path = nodes.at(writer)?.path(&name(number));
            fs::create_dir(&path).during(path.display())?;
            if number == 0 {
                println!("    the first change beside a node that sleeps took {:?}", began.elapsed());
                ensure!(began.elapsed() < FAILOVER, "it took {:?}", began.elapsed());
            }
        }
        fs::write(nodes.at(writer)?.path(&format!("text of {writer}")), "on one disk")
            .during("a write that nobody else can keep a copy of")?;
        nodes.at_mut(writer)?.mount.kill()?;
        signal(sleeping, Signal::CONT)?;
        let began = Instant::now();
        fs::create_dir(nodes.at(sleeper)?.path(&format!("after {writer}"))).during("the first change after that")?;
        println!("    it went on after {:?}", began.elapsed());
        ensure!(began.elapsed() < FAILOVER, "it took {:?}", began.elapsed());
        for number in 0..300 {
            ensure!(nodes.at(sleeper)?.path(&name(number)).exists(), "{} is lost", name(number));
        }
        wait_until("the witness leads no more", PATIENCE, || nodes.at(sleeper)?.leads())?;
        back(nodes.at_mut(writer)?, "before")?;
        let text = nodes.at(sleeper)?.path(&format!("text of {writer}"));
        wait_until("what only the writer has is there with it", PATIENCE, || Ok(fs::read(&text).is_ok()))?;
        expect(&text, b"on one disk")?;
        nodes.agree()?;
    }
    witness.stop()?;
    nodes.finish()
}

/// Bytes of its log that a node keeps for others.
fn kept_bytes(node: &Node) -> Check<f64> {
    let said = node.zone(&["status", "zone"]).ok()?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.windows(4).find(|words| matches!(words, [_, _, "kept", "for"]));
    match at {
        Some([number, unit, ..]) => {
            let unit = match *unit {
                "B" => 1.0,
                "KiB" => 1024.0,
                _ => f64::INFINITY,
            };
            Ok(number.parse::<f64>().map_or(f64::INFINITY, |number| number * unit))
        }
        _ => fail!("{said}"),
    }
}

/// A witness keeps so much of what a member lacks, and no more: then who has the files must come back.
pub(super) fn within_bounds(lab: &Lab) -> Check {
    let mut nodes = Nodes::made(lab, 2, |mount| mount.with_options("zone_timeout=8"))?;
    let mut witness = Node::with_variable(lab, "carol", ("NEXUS_WITNESS_LOG_BYTES", "20000"))?;
    let invite = nodes.at(0)?.zone(&["invite", "zone", "--witness"]).ok()?;
    let join = witness.mount.program().arg("join").arg(invite.trim());
    join.arg("--witness").arg("--mount").arg(witness.mount.point()).ok()?;
    nodes.at_mut(1)?.mount.kill()?;
    for number in 0..1500 {
        fs::create_dir(nodes.at(0)?.path(&format!("number {number}")))?;
    }
    wait_until("the witness has cut off its log", PATIENCE, || {
        let kept = kept_bytes(&witness)?;
        Ok(kept > 0.0 && kept < 22_000.0)
    })?;
    nodes.at_mut(0)?.mount.kill()?;
    back(nodes.at_mut(1)?, "before")?;
    let made = errno(fs::create_dir(nodes.at(1)?.path("too early")));
    ensure!(made.is_some(), "a change was made without what was agreed on before");
    // Nothing is lost: it goes on when who has it is there.
    back(nodes.at_mut(0)?, "before")?;
    wait_until("changes are made again", PATIENCE, || Ok(fs::write(nodes.at(1)?.path("after"), "x").is_ok()))?;
    for node in &nodes.0 {
        for number in 0..1500 {
            let path = node.path(&format!("number {number}"));
            ensure!(path.exists(), "{} is lost", path.display());
        }
    }
    nodes.agree()?;
    witness.stop()?;
    nodes.finish()
}
