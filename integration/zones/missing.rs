//! A node that has lost content files of a zone, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::random::Random;
use crate::tool::wait_until;

/// All content files in a data folder: segments and sealed blobs.
fn content_files(folder: &Path) -> Check<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["log", "meta", "mirror", "zones", "sums"].contains(&name.as_str()) {
            found.extend(content_files(&path)?);
        } else if name.ends_with(".seg") || name.len() == 16 && name.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The volume is mounted all the same; what others have copies of is read from them, and is whole here
/// again soon. What nobody has gives EIO, and nothing else does.
pub(super) fn made_up(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 2)?;
    let content = Random::new(5).bytes(48 << 20);
    fs::write(nodes.at(1)?.path("large"), &content)?;
    fs::write(nodes.at(1)?.path("small"), "small")?;
    nodes.agree()?;
    nodes.at_mut(1)?.stop()?;
    let files = content_files(nodes.at(1)?.mount.data())?;
    ensure!(!files.is_empty(), "there are no content files");
    for file in &files {
        fs::remove_file(file)?;
    }
    nodes.at_mut(1)?.mount.start()?;
    let lost = nodes.at(1)?;
    fs::write(lost.mount.point().join("outside"), "outside")?;
    wait_until("the zone is mounted", PATIENCE, || Ok(lost.path("small").exists()))?;
    expect(&lost.path("small"), b"small")?;
    expect(&lost.path("large"), &content)?;
    wait_until("what is missing is written anew", PATIENCE, || {
        Ok(lost.mount.program().arg("status").arg(lost.mount.point()).run()?.out.contains("healthy"))
    })?;
    expect(&lost.path("large"), &content)?;
    ensure!(!content_files(lost.mount.data())?.is_empty(), "nothing was written anew");
    nodes.agree()?;

    // Without copies.
    nodes.at(0)?.zone(&["replicas", "zone", "1"]).ok()?;
    fs::write(nodes.at(1)?.path("alone"), &content)?;
    fs::write(nodes.at(0)?.path("of the other"), "other")?;
    // Of the volume itself, content must be there.
    fs::remove_file(nodes.at(1)?.mount.point().join("outside"))?;
    nodes.at_mut(1)?.stop()?;
    for file in content_files(nodes.at(1)?.mount.data())? {
        fs::remove_file(file)?;
    }
    nodes.at_mut(1)?.mount.start()?;
    let lost = nodes.at(1)?;
    wait_until("the zone is mounted", PATIENCE, || Ok(lost.path("alone").exists()))?;
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    ensure!(errno(fs::read(lost.path("alone")).map(drop)) == eio, "a file of which nothing is left was read");
    expect(&lost.path("of the other"), b"other")?;
    let said = lost.mount.program().arg("status").arg(lost.mount.point()).run()?.out;
    ensure!(said.contains("content files of zones are missing"), "status does not say so: {said}");
    // It goes with the file.
    fs::remove_file(lost.path("alone"))?;
    wait_until("nothing is missing any more", PATIENCE, || {
        Ok(lost.mount.program().arg("status").arg(lost.mount.point()).run()?.out.contains("healthy"))
    })?;
    nodes.agree()?;
    nodes.finish()
}
