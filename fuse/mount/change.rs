//! Changing mounts that are there: unmounting, remounting. Works from any process.

use std::io;
use std::path::{Path, PathBuf};

use super::error::MountError;
use super::options::MountOptions;
use super::point::through_parent;
use super::table::{Entry, mount_at};
use super::{direct, fusermount, is_root};

/// How to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Only if nobody uses the mount.
    WhenIdle,
    /// Out of the tree at once; served until the last user closes.
    Lazy,
}

/// Unmounts the Nexus mount on `target`.
pub fn unmount(target: &Path, how: Unmount) -> Result<(), MountError> {
    let entry = nexus_mount(target)?;
    take_away(&entry.target, how == Unmount::Lazy)
}

/// Detaches a dead mount.
pub(super) fn detach_stale(target: &Path) -> Result<(), MountError> {
    take_away(target, true).map_err(|error| match error {
        MountError::CannotUnmount { target, error } => MountError::CannotDetach { target, error },
        error => error,
    })
}

fn take_away(target: &Path, lazy: bool) -> Result<(), MountError> {
    if !is_root() {
        return fusermount::unmount(target, lazy);
    }
    direct::unmount(target, lazy).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => MountError::Busy(target.to_owned()),
        _ => MountError::CannotUnmount { target: target.to_owned(), error },
    })
}

/// Changes the options of the Nexus mount on `target`: those that `options` names and that
/// mount(2) knows (ro, rw, noexec, nosuid, nodev, the atime ones, sync, dirsync). Answers
/// the mount as it was before. Telling the daemon is the caller's part.
pub fn remount(target: &Path, options: &MountOptions) -> Result<Entry, MountError> {
    let entry = nexus_mount(target)?;
    if !is_root() {
        return Err(MountError::RemountNeedsRoot(entry.target));
    }
    rustix::mount::mount_remount(&entry.target, options.flags(entry.flags()), "")
        .map_err(|errno| MountError::CannotRemount { target: entry.target.clone(), error: errno.into() })?;
    Ok(entry)
}

/// The Nexus mount on `target`, dead or alive.
fn nexus_mount(target: &Path) -> Result<Entry, MountError> {
    let resolved: PathBuf = match target.canonicalize() {
        Ok(path) => path,
        Err(_) => through_parent(target).ok_or_else(|| MountError::NotMounted(target.to_owned()))?,
    };
    match mount_at(&resolved) {
        Ok(Some(entry)) if entry.is_ours() => Ok(entry),
        _ => Err(MountError::NotMounted(target.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nexus_mounts_are_touched() {
        for target in ["/proc", "/", "/no/such/place"] {
            assert!(
                matches!(unmount(Path::new(target), Unmount::WhenIdle), Err(MountError::NotMounted(_))),
                "{target}"
            );
            let options = MountOptions::parse("remount,ro").unwrap();
            assert!(matches!(remount(Path::new(target), &options), Err(MountError::NotMounted(_))), "{target}");
        }
    }
}
