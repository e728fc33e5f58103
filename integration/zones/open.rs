//! Zones that members of the zone around them join by their path.

use std::fs;
use std::path::Path;

use super::{Node, Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, ensure, fail};
use crate::lab::Lab;
use crate::tool::{Tool, wait_until};

fn join(node: &Node, path: &Path) -> Tool {
    node.mount.program().arg("join").arg(path)
}

fn refused(tool: Tool, words: &str) -> Check {
    let done = tool.run()?;
    ensure!(done.code != 0 && done.err.contains(words), "not refused with {words:?}: {done:?}");
    Ok(())
}

/// It needs to be open, and a member of both zones; zones are found one within the other.
pub(super) fn by_path(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let [a, b, c] = nodes.0.as_slice() else { fail!("three nodes") };
    for place in ["inner", "plain"] {
        fs::create_dir(a.path(place))?;
    }
    fs::write(a.path("inner").join("file"), "of a")?;
    a.mount.program().arg("share").arg(a.path("inner")).ok()?;
    // Who does not take part is told what to do.
    let inner = b.path("inner");
    let remote = Some(rustix::io::Errno::REMOTE.raw_os_error());
    let listed = || errno(fs::read_dir(&inner).and_then(|mut entries| entries.next().transpose()).map(drop));
    wait_until("it stands there for others, too", PATIENCE, || Ok(listed() == remote))?;
    let said = b.mount.program().arg("status").arg(b.mount.point()).run()?.out;
    let advice = format!("`nexus-fuse join {}`", inner.display());
    ensure!(said.contains(&advice), "status does not say {advice}: {said}");
    refused(join(b, &inner), "not open")?;
    refused(join(b, &b.path("plain")), "no zone stands there")?;
    refused(join(b, &b.path("nothing")), "give an invitation")?;
    ensure!(!b.path("nothing").exists(), "a directory was made where nothing was joined");
    a.zone(&["open", "inner"]).ok()?;
    ensure!(a.zone(&["status", "inner"]).ok()?.contains("by members of the zones"), "status does not say so");
    join(b, &inner).ok()?;
    expect(&inner.join("file"), b"of a")?;
    // One more within that one, which is open from the beginning.
    let deep = inner.join("deep");
    fs::create_dir(&deep)?;
    fs::write(deep.join("file"), "of b")?;
    b.mount.program().arg("share").arg(&deep).arg("--open").ok()?;
    // Not to be had from outside of the one around it.
    ensure!(join(c, &c.path("inner/deep")).run()?.code != 0, "a zone was joined past the one around it");
    join(c, &c.path("inner")).ok()?;
    join(c, &c.path("inner/deep")).ok()?;
    expect(&c.path("inner/deep/file"), b"of b")?;
    fs::write(c.path("inner/deep/back"), "of c")?;
    expect(&b.path("inner/deep/back"), b"of c")?;
    // Closed again, it is joined by invitation alone.
    b.zone(&["open", "deep", "--no"]).ok()?;
    refused(join(a, &a.path("inner/deep")), "not open")?;
    nodes.agree()?;
    nodes.finish()
}

/// A path from a node leads over open zones to another, for members of the first.
pub(super) fn by_address(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, c] = nodes.0.as_slice() else { fail!("two nodes") };
    let stranger = Node::new(lab, "dave")?;
    fs::create_dir_all(a.path("some/inner/deep"))?;
    fs::write(a.path("some/inner/deep/file"), "of a")?;
    a.mount.program().arg("share").arg(a.path("some/inner")).ok()?;
    a.mount.program().arg("share").arg(a.path("some/inner/deep")).arg("--open").ok()?;
    let said = a.zone(&["status", "zone"]).ok()?;
    let own = said.lines().find(|line| line.contains("this node"));
    let Some(address) = own.and_then(|line| line.split_whitespace().last()) else { fail!("{said}") };
    let elsewhere = |node: &Node| node.mount.point().join("elsewhere");
    let by = |node: &Node, address: &str, path: &str| {
        node.mount.program().arg("join").arg(format!("nexus://{address}/{path}")).arg(elsewhere(node))
    };
    refused(by(c, address, "some/inner/deep"), "not open")?;
    a.zone(&["open", "inner"]).ok()?;
    refused(by(c, address, "some/other"), "no zone stands at some/other")?;
    refused(by(c, "127.0.0.1:1", "some/inner/deep"), "with a member at")?;
    refused(by(&stranger, address, "some/inner/deep"), "ask for an invitation")?;
    by(c, address, "some/inner/deep").ok()?;
    expect(&elsewhere(c).join("file"), b"of a")?;
    fs::write(elsewhere(c).join("back"), "of c")?;
    expect(&a.path("some/inner/deep/back"), b"of c")?;
    // What was on the way is joined, too, and shows where it stands.
    expect(&c.path("some/inner/deep/file"), b"of a")?;
    let mut stranger = stranger;
    stranger.stop()?;
    nodes.agree()?;
    nodes.finish()
}
