//! `nexus-fuse gc`.

use std::time::Duration;

use nexus::config::ByteSize;

use super::args::GcArgs;
use super::find;
use crate::control::{ControlError, Reply, Request};

/// Collecting reads and copies; large volumes take their time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Has the daemon give dead space back, or only count it; answers what to print.
pub fn run(args: &GcArgs) -> Result<String, String> {
    let volume = find::by_name(args.target.as_deref(), None)?;
    let request = if args.dry_run { Request::Garbage } else { Request::Gc };
    match volume.ask(&request, PATIENCE) {
        Ok(Reply::Reclaimed { bytes }) => Ok(format!("{} given back", ByteSize(bytes))),
        Ok(Reply::Garbage { dead, dead_bytes, sparse, sparse_bytes, unknown }) => Ok(format!(
            "{} in {dead} dead blobs, {} dead in {sparse} blobs that would be emptied, {unknown} unknown files",
            ByteSize(dead_bytes),
            ByteSize(sparse_bytes)
        )),
        Ok(other) => Err(format!("the daemon answered something else: {other:?}")),
        Err(ControlError::NobodyThere(_)) => {
            Err(format!("{} is not mounted: mount it, its daemon collects by itself", volume.name()))
        }
        Err(error) => Err(error.to_string()),
    }
}
