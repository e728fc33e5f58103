//! Mount points: what may become one, and clearing what a dead daemon left behind.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::change::detach_stale;
use super::error::MountError;
use super::table::{Entry, mount_at};

/// How long a mount that is there may take to answer before it counts as hanging.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a mount whose daemon seems to be dying is asked again.
const DYING_PAUSE: Duration = Duration::from_millis(5);

/// Dead mounts that are cleared from one mount point at the most.
const MOST_STALE: usize = 16;

/// A directory that is ready to be mounted on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPoint {
    /// Absolute, without links.
    pub target: PathBuf,
    /// It was not there and has been made.
    pub created: bool,
    /// Dead mounts that were detached from it.
    pub cleared: usize,
}

/// Whether a mount is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pulse {
    Alive,
    Dead,
    Silent,
}

/// Gets `target` ready: makes it if it is missing, clears dead mounts of ours, refuses
/// files, full directories (unless `nonempty`) and mounts that are alive.
pub fn prepare(target: &Path, nonempty: bool) -> Result<MountPoint, MountError> {
    let (target, created) = locate(target)?;
    let mut cleared = 0;
    while let Some(entry) = mount_at(&target).map_err(|error| unusable(&target, error))? {
        if !clear(&target, &entry)? {
            break;
        }
        cleared += 1;
        if cleared >= MOST_STALE {
            return Err(MountError::NotAnswering(target));
        }
    }
    let metadata = target.symlink_metadata().map_err(|error| unusable(&target, error))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory(target));
    }
    if !nonempty && target.read_dir().map_err(|error| unusable(&target, error))?.next().is_some() {
        return Err(MountError::NotEmpty(target));
    }
    Ok(MountPoint { target, created, cleared })
}

/// Detaches `entry` from `target` if it is ours and dead. `false`: it may be mounted over.
fn clear(target: &Path, entry: &Entry) -> Result<bool, MountError> {
    if !entry.fs_type.starts_with("fuse") {
        return Ok(false);
    }
    match (pulse(target), entry.is_ours()) {
        (Pulse::Alive, true) => {
            Err(MountError::AlreadyMounted { volume: entry.source.clone(), target: target.to_owned() })
        }
        (Pulse::Alive, false) => Ok(false),
        (Pulse::Silent, _) => Err(MountError::NotAnswering(target.to_owned())),
        (Pulse::Dead, false) => {
            Err(MountError::ForeignStale { target: target.to_owned(), fs_type: entry.fs_type.clone() })
        }
        (Pulse::Dead, true) => {
            log::info!("detaching the mount that a dead daemon left on {}", target.display());
            detach_stale(target)?;
            Ok(true)
        }
    }
}

/// Asks the mount something that the kernel can't answer from what it has cached.
fn pulse(target: &Path) -> Pulse {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = target.to_owned();
    let asking = thread::Builder::new().name("mount-pulse".into()).spawn(move || {
        let _ = sender.send(ask(|| rustix::fs::statfs(&path).map(drop)));
    });
    match asking.map(|_| receiver.recv_timeout(ANSWER_TIMEOUT)) {
        Ok(Ok(Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED))) => Pulse::Dead,
        Ok(Ok(Ok(()) | Err(_))) => Pulse::Alive,
        Ok(Err(_)) | Err(_) => Pulse::Silent,
    }
}

/// Calls until the answer is the mount's. A daemon that dies has the kernel cancel what its rings
/// hold, which tells nothing yet; the next call learns more.
fn ask(call: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let end = Instant::now() + ANSWER_TIMEOUT;
    loop {
        match call() {
            Err(rustix::io::Errno::CANCELED) if Instant::now() < end => thread::sleep(DYING_PAUSE),
            answer => return answer,
        }
    }
}

/// The absolute path without links, and whether the directory had to be made.
fn locate(target: &Path) -> Result<(PathBuf, bool), MountError> {
    match target.canonicalize() {
        Ok(target) => Ok((target, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let failed = |error| MountError::CannotCreate { target: target.to_owned(), error };
            std::fs::create_dir_all(target).map_err(failed)?;
            Ok((target.canonicalize().map_err(failed)?, true))
        }
        // The root of a dead mount can't be looked at; its parent can.
        Err(error) if is_of_the_dead(&error) => {
            Ok((through_parent(target).ok_or_else(|| unusable(target, error))?, false))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(MountError::CannotCreate { target: target.to_owned(), error })
        }
        Err(error) => Err(unusable(target, error)),
    }
}

/// Whether an error tells that a mount is served no more.
fn is_of_the_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
        || error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error())
}

/// The path of a mount point whose own root can't be looked at.
pub fn through_parent(target: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(target).ok()?;
    Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
}

fn unusable(target: &Path, error: io::Error) -> MountError {
    MountError::Unusable { target: target.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/b");
        let made = prepare(&target, false).unwrap();
        assert_eq!(made, MountPoint { target: target.canonicalize().unwrap(), created: true, cleared: 0 });
        assert!(!prepare(&target, false).unwrap().created);
    }

    #[test]
    fn files_and_what_lies_below_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert!(matches!(prepare(&file, true), Err(MountError::NotADirectory(path)) if path.ends_with("file")));
        assert!(matches!(prepare(&file.join("below"), true), Err(MountError::CannotCreate { .. })));
    }

    #[test]
    fn full_directories_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), b"").unwrap();
        assert!(matches!(prepare(folder.path(), false), Err(MountError::NotEmpty(_))));
        assert!(prepare(folder.path(), true).is_ok());
    }

    #[test]
    fn links_are_followed_and_dangling_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(prepare(&link, false).unwrap().target, real.canonicalize().unwrap());
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(matches!(prepare(&dangling, false), Err(MountError::CannotCreate { .. })));
    }

    #[test]
    fn a_cancelled_question_is_asked_again() {
        let answers = std::cell::RefCell::new(vec![
            Err(rustix::io::Errno::NOTCONN),
            Err(rustix::io::Errno::CANCELED),
            Err(rustix::io::Errno::CANCELED),
        ]);
        assert_eq!(ask(|| answers.borrow_mut().pop().unwrap()), Err(rustix::io::Errno::NOTCONN));
        assert_eq!(ask(|| Ok(())), Ok(()));
        let error = |errno: rustix::io::Errno| io::Error::from(errno);
        for errno in [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED, rustix::io::Errno::CANCELED] {
            assert!(is_of_the_dead(&error(errno)), "{errno}");
        }
        assert!(!is_of_the_dead(&error(rustix::io::Errno::NOENT)));
    }

    #[test]
    fn other_file_systems_are_not_ours_to_clear() {
        // /proc is a mount point, alive, full, and no FUSE.
        assert!(matches!(prepare(Path::new("/proc"), false), Err(MountError::NotEmpty(_))));
    }
}
