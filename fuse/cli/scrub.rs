//! `nexus-fuse scrub`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nexus::config::ByteSize;

use super::find;
use crate::control::{ControlError, Reply, Request};

/// One step may have to read a segment over a slow line.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Has the daemon read everything back, a step at a time; prints what is wrong, and answers the
/// exit status: 0 nothing, 1 something.
pub fn run(target: Option<&Path>) -> Result<ExitCode, String> {
    let volume = find::by_name(target, None)?;
    let shows = std::io::stderr().is_terminal();
    let (mut from, mut blobs, mut bytes, mut wrong) = (0, 0, 0, 0);
    loop {
        let (next, left) = match volume.ask(&Request::Scrub { after: from }, PATIENCE) {
            Ok(Reply::Scrubbed { after, blobs: more, bytes: read, left_bytes, damage }) => {
                blobs += more;
                bytes += read;
                wrong += damage.len();
                damage.iter().for_each(|text| println!("damage: {text}"));
                (after, left_bytes)
            }
            Ok(other) => return Err(format!("the daemon answered something else: {other:?}")),
            Err(ControlError::NobodyThere(_)) => {
                return Err(format!("{} is not mounted: mount it, or run `nexus-fuse fsck --deep`", volume.name()));
            }
            Err(error) => return Err(error.to_string()),
        };
        if shows {
            eprint!("\r{} of {} read   ", ByteSize(bytes), ByteSize(bytes + left));
            let _ = std::io::stderr().flush();
        }
        match next {
            Some(after) => from = after,
            None => break,
        }
    }
    if shows {
        eprintln!();
    }
    let read = format!("{blobs} blobs read, {}", ByteSize(bytes));
    if wrong == 0 {
        println!("{}: all is as it was written ({read})", volume.name());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: DAMAGED, {wrong} blobs ({read}); `nexus-fuse fsck` tells more", volume.name());
    Ok(ExitCode::from(1))
}
