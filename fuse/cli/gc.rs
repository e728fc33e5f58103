//! `nexus-fuse gc`.

use std::path::Path;
use std::time::Duration;

use nexus::config::ByteSize;

use super::find;
use crate::control::{ControlError, Reply, Request};

/// Collecting reads and copies; large volumes take their time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Has the daemon give dead space back; answers what to print.
pub fn run(target: Option<&Path>) -> Result<String, String> {
    let volume = find::by_name(target, None)?;
    match volume.ask(&Request::Gc, PATIENCE) {
        Ok(Reply::Reclaimed { bytes }) => Ok(format!("{} given back", ByteSize(bytes))),
        Ok(other) => Err(format!("the daemon answered something else: {other:?}")),
        Err(ControlError::NobodyThere(_)) => {
            Err(format!("{} is not mounted: mount it, its daemon collects by itself", volume.name()))
        }
        Err(error) => Err(error.to_string()),
    }
}
