//! `nexus-fuse umount`, and what umount(8) calls as `umount.fuse.nexus`.

use std::path::Path;
use std::time::{Duration, Instant};

use nexus::config::ByteSize;
use nexus::folder::{DataFolder, Layout};

use super::{find, flush};
use crate::control::{ControlError, Request};
use crate::mount::{self, Unmount};

/// How long a daemon may take to close its volume before the command stops waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a daemon may take to say what waits for its store.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// How often all is sent, while somebody writes, before unmounting is tried.
const MOST_ROUNDS: u32 = 8;
/// Pause between two looks at a daemon that is closing.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until what is only on this disk is in its store, what comes meanwhile included, as far as that
/// ends. `target` stays mounted if that can't be.
pub fn send_all(target: &Path) -> Result<(), String> {
    let Some(volume) = find::by_mount_point(target)? else {
        return Err(mount::MountError::NotMounted(target.to_owned()).to_string());
    };
    for _ in 0..MOST_ROUNDS {
        // What programs wrote through mmap is handed over first.
        let synced = std::fs::File::open(target).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(|error| format!("{} can't be synced, and stays mounted: {error}", target.display()))?;
        flush::flush_all(&volume).map_err(|problem| format!("{problem}; {} stays mounted", target.display()))?;
        if flush::waiting_bytes(&volume).unwrap_or(0) == 0 {
            break;
        }
    }
    Ok(())
}

/// Unmounts `target`, and waits until its daemon has closed the volume.
pub fn run(target: &Path, how: Unmount) -> Result<(), String> {
    let volume = find::by_mount_point(target)?;
    let waiting = volume.as_ref().and_then(flush::waiting_bytes).unwrap_or(0);
    let attached = volume.clone();
    let data = volume.and_then(|volume| volume.data);
    // Who has it now; somebody who can't be asked for belongs to another user.
    let holder = data.as_deref().and_then(|data| DataFolder::holder(data).ok().flatten()).and_then(|holder| holder.pid);
    let suspended = suspend(attached.as_ref(), how);
    mount::unmount(target, how).map_err(|error| {
        if let (Ok(true), Some(volume)) = (&suspended, &attached)
            && let Err(problem) = volume.ask(&Request::Resume, STATUS_PATIENCE)
        {
            eprintln!("nexus-fuse: what was attached is not any more: {problem}");
        }
        // What keeps an attached bucket is what keeps the mount below it.
        suspended.err().unwrap_or_else(|| error.to_string())
    })?;
    if waiting > 0 {
        eprintln!(
            "nexus-fuse: {} are only on this disk so far; they go to the store when the volume is mounted again \
             (nexus-fuse umount --wait sends them first)",
            ByteSize(waiting)
        );
    }
    match (data, holder, how) {
        (Some(data), Some(pid), Unmount::WhenIdle) => wait_until_closed(&data, pid),
        _ => Ok(()),
    }
}

/// Has buckets that are attached to the mount taken away; whether that was asked for.
fn suspend(volume: Option<&find::Volume>, how: Unmount) -> Result<bool, String> {
    let Some(volume) = volume else { return Ok(false) };
    match volume.ask(&Request::Suspend { lazy: how == Unmount::Lazy }, STATUS_PATIENCE) {
        Ok(_) => Ok(true),
        Err(ControlError::Refused(problem)) if volume.data.is_some() => Err(problem),
        // A daemon that can't be asked has nothing attached that would matter to it.
        Err(_) => Ok(false),
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
