//! `nexus-fuse flush`: content of a volume, or of a part of it, is sent to its store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nexus::config::ByteSize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::find;
use super::place::{Kind, walk};
use super::progress::Progress;
use crate::control::{ControlError, Reply, Request};

/// One step may have to send a whole segment over a slow line.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a daemon may take to say what waits for its stores.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// Exit status of a program that a signal ended, less the signal's number.
const SIGNALED: i32 = 128;

/// Has the daemon send what is only on its disk, a step at a time; answers what to print.
pub fn run(target: Option<&Path>) -> Result<String, String> {
    if let Some((volume, path)) = target.and_then(inside) {
        flush_below(&volume, &path)?;
        return Ok(format!("nothing of {} is left to be sent", path.display()));
    }
    let volume = find::by_name(target, None)?;
    flush_all(&volume)?;
    Ok("nothing is left to be sent".to_owned())
}

/// The file or directory that `target` is, below the top of a mounted volume.
fn inside(target: &Path) -> Option<(find::Volume, PathBuf)> {
    let (volume, path) = find::containing(target).ok()?;
    let is_top = volume.mount.as_ref().is_some_and(|mount| mount.target == path);
    (!is_top && !find::is_data_folder(&path)).then_some((volume, path))
}

/// Waits until all that a volume has is in its stores.
pub(super) fn flush_all(volume: &find::Volume) -> Result<(), String> {
    let waiting = Waiting::begin()?;
    let (mut meant, mut progress) = (None, None);
    // The first step may take long, and what there is in all is known before.
    if let Some(left) = waiting_bytes(volume) {
        waiting.left(left);
        progress.insert(Progress::new(left)).left(left);
    }
    loop {
        let (left, mark) = ask(volume, &Request::Flush { mark: meant })?;
        meant = Some(mark);
        waiting.left(left);
        progress.get_or_insert_with(|| Progress::new(left)).left(left);
        if left == 0 {
            break;
        }
    }
    progress.into_iter().for_each(Progress::end);
    Ok(())
}

/// Bytes that are meant for stores and are not there; `None` if nobody can tell.
pub(super) fn waiting_bytes(volume: &find::Volume) -> Option<u64> {
    match volume.ask(&Request::Status, STATUS_PATIENCE) {
        Ok(Reply::Status(status)) => {
            Some(status.store.iter().chain(&status.stores).map(|store| store.waiting_bytes).sum())
        }
        _ => None,
    }
}

/// The same for what there is now of the files below `path`.
fn flush_below(volume: &find::Volume, path: &Path) -> Result<(), String> {
    let (mut mark, mut total) = (None, 0u64);
    let mut files: Vec<(Vec<u64>, u64)> = Vec::new();
    walk(path, &mut |inodes, kind| {
        if kind == Kind::Files {
            let request = Request::FlushFiles { inodes: inodes.to_vec(), mark, send: false };
            let (left, newest) = ask(volume, &request)?;
            mark = mark.or(Some(newest));
            total = total.saturating_add(left);
            if left > 0 {
                files.push((inodes.to_vec(), left));
            }
        }
        Ok(())
    })?;
    let waiting = Waiting::begin()?;
    let mut progress = Progress::new(total);
    progress.left(total);
    for (inodes, counted) in files {
        let others = total.saturating_sub(counted);
        loop {
            let (left, _) = ask(volume, &Request::FlushFiles { inodes: inodes.clone(), mark, send: true })?;
            waiting.left(others.saturating_add(left));
            progress.left(others.saturating_add(left));
            if left == 0 {
                break;
            }
        }
        total = others;
    }
    progress.end();
    Ok(())
}

fn ask(volume: &find::Volume, request: &Request) -> Result<(u64, u64), String> {
    match volume.ask(request, PATIENCE) {
        Ok(Reply::Flushed { left_bytes, mark }) => Ok((left_bytes, mark)),
        Ok(other) => Err(format!("the daemon answered something else: {other:?}")),
        Err(ControlError::NobodyThere(_)) => Err(format!("{} is not mounted: mount it, then flush", volume.name())),
        Err(error) => Err(error.to_string()),
    }
}

/// While this lives, SIGINT and SIGTERM end the program with a sentence that says what goes on
/// without it.
struct Waiting {
    left: Arc<AtomicU64>,
    handle: signal_hook::iterator::Handle,
}

impl Waiting {
    fn begin() -> Result<Waiting, String> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| format!("cannot take signals: {error}"))?;
        let (handle, left) = (signals.handle(), Arc::new(AtomicU64::new(u64::MAX)));
        let known = left.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let left = match known.load(Ordering::Relaxed) {
                    u64::MAX => "some of it may still be only on this disk".to_owned(),
                    left => format!("{} are still only on this disk", ByteSize(left)),
                };
                eprintln!("\nnexus-fuse: not waiting any more; {left}, and the daemon goes on sending");
                std::process::exit(SIGNALED + signal);
            }
        });
        Ok(Waiting { left, handle })
    }

    fn left(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.handle.close();
    }
}
