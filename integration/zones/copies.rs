//! Copies of content: what was synced is there when the disk that it was written to is gone.

use std::fs;
use std::path::Path;

use super::{Nodes, PATIENCE, expect};
use crate::failure::{Check, ensure, fail};
use crate::lab::Lab;
use crate::tool::{Tool, wait_until};

fn bytes(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What is in a node's folder of copies, in bytes.
fn mirrored(data: &Path) -> u64 {
    let folders = fs::read_dir(data.join("mirror")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// A writer is killed right after its last fsync, and its disk is gone for good.
pub fn disk_lost(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let folder = nodes.at(2)?.path("work");
    fs::create_dir(&folder)?;
    let large = bytes(7, 12_000_000);
    fs::write(folder.join("large"), &large)?;
    for number in 0..200u32 {
        fs::write(folder.join(format!("small {number}")), bytes(number, 100 + number * 37))?;
    }
    // Written over in part, so that it has pieces in several places.
    Tool::shell("printf changed | dd of=large bs=1 seek=5000000 conv=notrunc status=none && sync large")
        .within(&folder)
        .ok()?;
    let mut changed = large;
    changed.splice(5_000_000..5_000_007, *b"changed");
    let lost = nodes.at(2)?.member()?;
    nodes.at_mut(2)?.mount.kill()?;
    fs::remove_dir_all(nodes.at(2)?.mount.data())?;
    let look = |nodes: &Nodes| -> Check {
        for place in [0, 1] {
            let folder = nodes.at(place)?.path("work");
            wait_until("the others go on", PATIENCE, || Ok(fs::read_dir(&folder).is_ok()))?;
            expect(&folder.join("large"), &changed)?;
            for number in 0..200u32 {
                expect(&folder.join(format!("small {number}")), &bytes(number, 100 + number * 37))?;
            }
        }
        Ok(())
    };
    look(&nodes)?;
    // Taken out, what it wrote becomes another's, and is copied anew.
    nodes.at(0)?.zone(&["remove-member", "zone", &lost]).ok()?;
    look(&nodes)?;
    wait_until("there are copies again", PATIENCE, || {
        let said = nodes.at(0)?.zone(&["status", "zone"]).ok()? + &nodes.at(1)?.zone(&["status", "zone"]).ok()?;
        let kept: Vec<u64> = (0..2).map(|place| Ok(mirrored(nodes.at(place)?.mount.data()))).collect::<Check<_>>()?;
        Ok(!said.contains("too few") && kept.iter().sum::<u64>() > 12_000_000)
    })?;
    drop(nodes.0.remove(2));
    nodes.finish()
}

/// Content from before the zone was shared, and from when nobody was there to copy it, is
/// copied later; more copies are made when they are asked for.
pub fn made_up(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let [a, b, c] = nodes.0.as_slice() else { fail!("three nodes") };
    let large = bytes(1, 3_000_000);
    fs::write(a.path("large"), &large)?;
    let sums = || [mirrored(b.mount.data()), mirrored(c.mount.data())];
    let sum = sums().iter().sum::<u64>();
    ensure!((3_000_000..6_000_000).contains(&sum), "{sum} bytes are kept of 3 million, which was to be once");
    let said = a.zone(&["status", "zone"]).ok()?;
    ensure!(said.contains("copies     2 wanted"), "{said}");
    a.zone(&["replicas", "zone", "3"]).ok()?;
    wait_until("both others have copies", PATIENCE, || Ok(sums().iter().all(|kept| *kept >= 3_000_000)))?;
    // A file that is gone takes its copies with it, though not at once; one that stays is whole.
    expect(&b.path("large"), &large)?;
    expect(&c.path("large"), &large)?;
    nodes.agree()?;
    nodes.finish()
}
