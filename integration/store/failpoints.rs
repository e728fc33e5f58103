//! The daemon dies at each named step of sending, moving and deleting content.

use std::fs;
use std::io::Write;

use super::server::Server;
use super::{PATIENCE, drop_caches};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("the daemon dies at every step of content's life", every_step),
        Case::new("what was sent stays there while blobs are emptied and merged", stays_there),
    ]
}

/// The steps that `src/kernel/failpoint.rs` names.
const STEPS: [&str; 12] = [
    "seal.sent",
    "seal.summed",
    "seal.stored",
    "seal.moved",
    "seal.told",
    "relocate.loaded",
    "relocate.copied",
    "relocate.told",
    "drop.told",
    "delete.began",
    "delete.stored",
    "cache.evicted",
];

/// Content of file `i`: little enough that all of them share a blob.
fn content(seed: u64, i: u64) -> Vec<u8> {
    Random::new(seed ^ (i + 1)).bytes((300 << 10) + i as usize * 1000)
}

const FILES: u64 = 12;
/// Files that are deleted again, so that what they share with the others is sparse.
const GONE: std::ops::Range<u64> = 3..FILES;

fn every_step(lab: &Lab) -> Check {
    for (number, step) in STEPS.iter().enumerate() {
        // The second time as well as the first, where one run comes there as often.
        let times = if step.starts_with("relocate") { 1 } else { 1 + (lab.seed + number as u64) % 2 };
        one_step(lab, step, times).during(format!("at {step}:{times}"))?;
    }
    Ok(())
}

fn one_step(lab: &Lab, step: &str, times: u64) -> Check {
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let server = Server::start(lab, &scratch)?;
    let mut doomed = server.mount(lab, &scratch, "volume")?.with_arguments(&["--store-cache", "2M"]);
    doomed = doomed.with_variable("NEXUS_FAILPOINT", &format!("{step}:{times}"));
    doomed.start()?;
    // What the daemon answers once it is dead is nothing to go by.
    let written = |i: &u64| fs::write(doomed.point().join(i.to_string()), content(lab.seed, *i)).is_ok();
    let kept: Vec<u64> = (0..FILES).filter(written).filter(|i| !GONE.contains(i)).collect();
    let command = |name: &str| Tool::new(&lab.binary).arg(name).arg(doomed.point()).run().map(drop);
    for round in 0..6 {
        command("flush")?;
        if round == 0 {
            for i in GONE {
                let _ = fs::remove_file(doomed.point().join(i.to_string()));
            }
        } else {
            let _ = fs::write(doomed.point().join(format!("round{round}")), vec![round; 3 << 20]);
            let _ = fs::remove_file(doomed.point().join(format!("round{}", round - 1)));
        }
        command("gc")?;
    }
    wait_until("the daemon has died", PATIENCE, || Ok(!doomed.is_running()?))?;
    doomed.kill()?;
    doomed.fsck()?;
    let mut mount = doomed.without_variable("NEXUS_FAILPOINT");
    mount.start()?;
    let check = |mount: &Mount| -> Check {
        for i in 0..FILES {
            match fs::read(mount.point().join(i.to_string())) {
                Ok(bytes) if kept.contains(&i) => {
                    ensure!(bytes == content(lab.seed, i), "file {i} is not what was written");
                }
                // One that was being written when the daemon died may have any part of its bytes.
                Ok(bytes) => ensure!(content(lab.seed, i).starts_with(&bytes), "file {i} is not what was written"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !kept.contains(&i) => {}
                Err(error) => fail!("file {i}: {error}"),
            }
        }
        Ok(())
    };
    check(&mount)?;
    Tool::new(&lab.binary).arg("gc").arg(mount.point()).ok()?;
    Tool::new(&lab.binary).arg("flush").arg(mount.point()).ok()?;
    drop_caches()?;
    check(&mount)?;
    // Nothing is left behind: once all is deleted, the bucket is empty.
    for entry in fs::read_dir(mount.point())? {
        fs::remove_file(entry?.path())?;
    }
    wait_until("the bucket is empty", PATIENCE, || {
        Tool::new(&lab.binary).arg("gc").arg(mount.point()).ok()?;
        Ok(server.blobs("volume")?.is_empty())
    })?;
    mount.stop()?;
    mount.fsck()
}

/// Files that are synced one by one: each makes an object, and so many are merged.
const SYNCED: u64 = 16;

/// fsync has promised that content is in the bucket. Whatever step of copying it into another object the
/// daemon dies at, it is there, though this disk's segments are lost as well.
fn stays_there(lab: &Lab) -> Check {
    for step in [
        "relocate.loaded",
        "seal.sent",
        "seal.stored",
        "seal.moved",
        "relocate.copied",
        "relocate.told",
        "delete.stored",
    ] {
        // Each file's own object is sealed first.
        let times = if step.starts_with("seal") { SYNCED + 1 } else { 1 };
        one_promise(lab, &format!("{step}:{times}")).during(format!("at {step}"))?;
    }
    Ok(())
}

fn one_promise(lab: &Lab, failpoint: &str) -> Check {
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let server = Server::start(lab, &scratch)?;
    let mut doomed = server.mount(lab, &scratch, "volume")?.with_variable("NEXUS_FAILPOINT", failpoint);
    doomed.start()?;
    let sync = |i: &u64| -> std::io::Result<()> {
        let mut file = fs::File::create(doomed.point().join(i.to_string()))?;
        file.write_all(&content(lab.seed, *i))?;
        file.sync_all()
    };
    // They are merged as soon as the last one is there, so that one may not be told of any more.
    let promised: Vec<u64> = (0..SYNCED).filter(|i| sync(i).is_ok()).collect();
    ensure!(promised.len() as u64 + 1 >= SYNCED, "only {promised:?} could be synced");
    wait_until("the daemon has died", PATIENCE, || {
        Tool::new(&lab.binary).arg("gc").arg(doomed.point()).run()?;
        Ok(!doomed.is_running()?)
    })?;
    doomed.kill()?;
    for entry in fs::read_dir(doomed.data().join("segments"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            fs::remove_file(path)?;
        }
    }
    fs::remove_dir_all(doomed.data().join("cache"))?;
    let mut mount = doomed.without_variable("NEXUS_FAILPOINT");
    mount.start()?;
    for i in &promised {
        let read = fs::read(mount.point().join(i.to_string())).during(format!("reading file {i}"))?;
        ensure!(read == content(lab.seed, *i), "file {i} is not what was written");
    }
    wait_until("they are merged, and nothing else is left", PATIENCE, || {
        Tool::new(&lab.binary).arg("gc").arg(mount.point()).ok()?;
        Ok(server.blobs("volume")?.len() == 1 || (promised.len() as u64) < SYNCED)
    })?;
    mount.stop()?;
    mount.fsck()
}
