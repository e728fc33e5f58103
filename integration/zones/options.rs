//! Mount options that say what becomes of a zone without a majority.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Node, Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::tool::wait_until;

fn remount(node: &Node, options: &str) -> Check {
    let options = format!("remount,{options}");
    node.mount.program().args(["mount", "-o", &options]).arg(node.mount.point()).ok().map(drop)
}

/// A directory can't be made, by this errno after these seconds.
fn refused(path: &Path, by: rustix::io::Errno, seconds: u64) -> Check {
    let began = Instant::now();
    let failed = errno(fs::create_dir(path));
    let took = began.elapsed();
    ensure!(failed == Some(by.raw_os_error()), "a change failed with {failed:?}, not with {by:?}");
    let least = Duration::from_secs(seconds);
    ensure!(took >= least && took < least + Duration::from_secs(4), "it took {took:?}, not {seconds} s");
    Ok(())
}

/// Changes wait as long as the options say, and fail as they say, also after a remount; reads go on but where
/// the mount is strict.
pub fn majority_lost(lab: &Lab) -> Check {
    use rustix::io::Errno;
    let mut nodes = Nodes::made(lab, 2, |mount| mount.with_options("zone_timeout=2,zone_errno=EROFS"))?;
    fs::write(nodes.at(0)?.path("kept"), "kept")?;
    nodes.agree()?;
    nodes.at_mut(1)?.mount.kill()?;
    let alone = nodes.at(0)?;
    refused(&alone.path("a"), Errno::ROFS, 2)?;
    expect(&alone.path("kept"), b"kept")?;
    fs::write(alone.mount.point().join("outside"), "x")?;
    remount(alone, "zone_timeout=5,zone_errno=EIO")?;
    refused(&alone.path("b"), Errno::IO, 5)?;
    remount(alone, "zone_timeout=1")?;
    refused(&alone.path("c"), Errno::IO, 1)?;
    remount(alone, "consistency=strict")?;
    ensure!(errno(fs::read(alone.path("kept")).map(drop)) == Some(Errno::IO.raw_os_error()), "a strict mount reads");
    remount(alone, "consistency=close-to-open")?;
    expect(&alone.path("kept"), b"kept")?;
    nodes.at_mut(1)?.mount.start()?;
    let (alone, back) = (nodes.at(0)?, nodes.at(1)?);
    wait_until("changes are made again", PATIENCE, || Ok(fs::write(alone.path("with both"), "x").is_ok()))?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(back.path("with both").exists()))?;
    nodes.agree()?;
    nodes.finish()
}
