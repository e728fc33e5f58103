//! fsck looks at zones, too: as they are on disk, and through the daemon.

use std::fs;

use super::{Nodes, expect};
use crate::failure::{Check, ensure};
use crate::lab::Lab;

pub(super) fn proven(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 2)?;
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::create_dir(nodes.at(0)?.path("dir"))?;
    fs::write(nodes.at(0)?.path("dir/of a"), &large)?;
    fs::write(nodes.at(1)?.path("dir/of b"), &large)?;
    for node in &nodes.0 {
        let said = node.mount.program().args(["fsck", "--deep"]).arg(node.mount.point()).ok()?;
        ensure!(said.contains("no damage") && said.contains("zone zone: 5 inodes"), "{said}");
    }
    // What the log is ahead of the metastore counts, too.
    nodes.at_mut(1)?.mount.kill()?;
    let b = nodes.at(1)?;
    let fsck = || b.mount.program().args(["fsck", "--deep"]).arg(b.mount.data());
    let said = fsck().ok()?;
    ensure!(said.contains("no damage") && said.contains("zone zone: 5 inodes"), "{said}");
    // Its own content is gone: others have copies, but it is damage here.
    let mut segments: Vec<_> = fs::read_dir(b.mount.data().join("segments"))?.collect::<Result<_, _>>()?;
    segments.retain(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 1_000_000));
    ensure!(!segments.is_empty(), "nothing was written there");
    let aside = lab.scratch.join("segments aside");
    fs::create_dir(&aside)?;
    for entry in &segments {
        fs::copy(entry.path(), aside.join(entry.file_name()))?;
        fs::remove_file(entry.path())?;
    }
    let said = fsck().run()?;
    ensure!(said.code == 1 && said.out.contains("damage: zone zone: blob"), "{said:?}");
    for entry in &segments {
        fs::copy(aside.join(entry.file_name()), entry.path())?;
    }
    fs::remove_dir_all(&aside)?;
    // The volume itself can be repaired, with zones in it.
    let said = b.mount.program().args(["fsck", "--repair"]).arg(b.mount.data()).ok()?;
    ensure!(said.contains("nothing needed a repair"), "{said}");
    // A zone that can't be opened is damage.
    let key = b.mount.data().join("zones/1/node.key");
    let whole = fs::read(&key)?;
    fs::remove_file(&key)?;
    let said = fsck().run()?;
    ensure!(said.code == 1 && said.out.contains("damage: zone zone can't be opened"), "{said:?}");
    fs::write(&key, whole)?;
    nodes.at_mut(1)?.mount.start()?;
    expect(&nodes.at(1)?.path("dir/of b"), &large)?;
    nodes.finish()
}
