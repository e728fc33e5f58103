//! `nexus-fuse zone watch`: a zone's changes, as lines.

use std::io::Write;

use super::find;
use super::zone::{ask_on, list, unexpected};
use super::zone_args::{MountOnly, WatchArgs};
use crate::control::{Reply, ZoneAsk, ZoneChange};

/// How long one question waits for a change.
const WAIT_MS: u64 = 5000;

/// Prints changes until there were as many as are wanted.
pub fn watch(args: &WatchArgs) -> Result<String, String> {
    let (on, name) = zone_of(args)?;
    let (mut from, mut left) = (args.from, args.count.unwrap_or(u64::MAX));
    let mut out = std::io::stdout().lock();
    while left > 0 {
        // The first question only tells where the zone is.
        let wait_ms = if from.is_none() { 0 } else { WAIT_MS };
        let ask = ZoneAsk::Changes { name: name.clone(), from, member: args.member.clone(), wait_ms };
        let (next, changes) = match ask_on(&on, ask)? {
            Reply::Changes { next, changes } => (next, changes),
            other => return Err(unexpected(&other)),
        };
        if from.is_none() && !args.json {
            eprintln!("from {next} on:");
        }
        from = Some(next);
        for change in changes.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            let line = if args.json { serde_json::to_string(change).map_err(|e| e.to_string())? } else { line(change) };
            // Who does not read any more has seen enough.
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                return Ok(String::new());
            }
        }
    }
    Ok(String::new())
}

fn line(change: &ZoneChange) -> String {
    let what = match (&change.path, change.inode) {
        (Some(path), _) if path.is_empty() => "/".to_owned(),
        (Some(path), _) => path.clone(),
        (None, Some(inode)) => format!("inode {inode}"),
        (None, None) => "changes were left out: look anew".to_owned(),
    };
    format!("{}  {}  {what}", change.next, change.change)
}

/// The mount and zone that are meant.
fn zone_of(args: &WatchArgs) -> Result<(MountOnly, String), String> {
    if args.zone.components().count() < 2 && !args.zone.exists() {
        return Ok((args.on.clone(), args.zone.to_string_lossy().into_owned()));
    }
    let (volume, path) = find::containing_zones(&args.zone)?;
    let on = MountOnly { mount: volume.mount.as_ref().map(|mount| mount.target.clone()) };
    let (zones, ..) = list(&on)?;
    let of = |zone: &crate::control::ZoneView| {
        let inner =
            zone.mounts.iter().filter(|mount| path.starts_with(mount)).max_by_key(|mount| mount.components().count());
        inner.map(|mount| (mount.components().count(), zone.id.clone()))
    };
    match zones.iter().filter_map(of).max() {
        Some((_, id)) => Ok((on, id)),
        None => Err(format!("{} is in no zone: see `nexus-fuse zone ls`", path.display())),
    }
}
