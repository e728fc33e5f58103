//! `nexus-fuse flush`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use nexus::config::ByteSize;

use super::find;
use crate::control::{ControlError, Reply, Request};

/// One step may have to send a whole segment over a slow line.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Has the daemon send what is only on its disk, a step at a time; answers what to print.
pub fn run(target: Option<&Path>) -> Result<String, String> {
    let volume = find::by_name(target, None)?;
    let shows = std::io::stderr().is_terminal();
    let (mut first, mut meant) = (None, None);
    loop {
        let left = match volume.ask(&Request::Flush { mark: meant }, PATIENCE) {
            Ok(Reply::Flushed { left_bytes, mark }) => {
                meant = Some(mark);
                left_bytes
            }
            Ok(other) => return Err(format!("the daemon answered something else: {other:?}")),
            Err(ControlError::NobodyThere(_)) => {
                return Err(format!("{} is not mounted: mount it, then flush", volume.name()));
            }
            Err(error) => return Err(error.to_string()),
        };
        let total = *first.get_or_insert(left);
        if shows && total > 0 {
            let done = total.saturating_sub(left);
            eprint!("\r{} of {} sent   ", ByteSize(done), ByteSize(total));
            let _ = std::io::stderr().flush();
        }
        if left == 0 {
            if shows && total > 0 {
                eprintln!();
            }
            return Ok("nothing is left to be sent".to_owned());
        }
    }
}
