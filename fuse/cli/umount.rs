//! `nexus-fuse umount`, and what umount(8) calls as `umount.fuse.nexus`.

use std::path::Path;
use std::time::{Duration, Instant};

use nexus::folder::{DataFolder, Layout};

use super::find;
use crate::mount::{self, Unmount};

/// How long a daemon may take to close its volume before the command stops waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks at a daemon that is closing.
const PAUSE: Duration = Duration::from_millis(10);

/// Unmounts `target`, and waits until its daemon has closed the volume.
pub fn run(target: &Path, how: Unmount) -> Result<(), String> {
    let volume = find::by_mount_point(target)?;
    let data = volume.and_then(|volume| volume.data);
    // Who has it now; somebody who can't be asked for belongs to another user.
    let holder = data.as_deref().and_then(|data| DataFolder::holder(data).ok().flatten()).and_then(|holder| holder.pid);
    mount::unmount(target, how).map_err(|error| error.to_string())?;
    match (data, holder, how) {
        (Some(data), Some(pid), Unmount::WhenIdle) => wait_until_closed(&data, pid),
        _ => Ok(()),
    }
}

fn wait_until_closed(data: &Path, pid: u32) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(Some(holder)) = DataFolder::holder(data) {
        if holder.pid.is_some_and(|now| now != pid) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "it is unmounted, but its daemon (process {pid}) has not closed the volume after {} seconds; see {}",
                PATIENCE.as_secs(),
                Layout::of(data).daemon_log.display()
            ));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
