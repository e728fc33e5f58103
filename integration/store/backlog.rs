//! How much may wait on this disk for a store, and what writers meet beyond that.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Far, PATIENCE};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::signal;
use crate::report::Case;
use crate::tool::{Tool, wait_until};

/// What may wait.
const BACKLOG: u64 = 24 << 20;
/// Longest that a signal takes to end a write that waits, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("more than may wait for its store is refused, or waits, as set", bounded)]
}

fn dd(far: &Far, name: &str) -> Check<Child> {
    let mut command = Command::new("head");
    let command = command.args(["-c", "64M", "/dev/zero"]).current_dir(far.mount.point());
    Ok(command.stdout(fs::File::create(far.mount.point().join(name))?).stderr(Stdio::null()).spawn()?)
}

fn bounded(lab: &Lab) -> Check {
    let far = Far::with(lab, "store", &["--store-fsync", "local", "-o", "backlog=24M"])?;
    let point = far.mount.point().to_owned();
    // A store that answers makes room for any amount.
    let large = far.file("large", 150 << 20).during("writing more than may wait")?;
    let waiting = far.counter(lab, "waiting_bytes")?;
    ensure!(waiting <= BACKLOG, "{waiting} bytes wait");
    far.flush(lab)?;
    far.server.signal(Signal::STOP)?;
    let mut file = fs::File::create(point.join("refused"))?;
    let block = vec![7; 1 << 20];
    let mut written = Vec::new();
    let began = Instant::now();
    let error = loop {
        match file.write_all(&block) {
            Ok(()) => written.extend_from_slice(&block),
            Err(error) => break error,
        }
        ensure!(written.len() as u64 <= BACKLOG, "{} bytes were taken", written.len());
    };
    println!("        a silent store: refused after {} bytes and {:?}", written.len(), began.elapsed());
    ensure!(error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()), "writing gave {error}");
    drop(file);
    ensure!(written.len() as u64 > BACKLOG / 2, "only {} bytes were taken", written.len());
    // All else goes on.
    let began = Instant::now();
    far.expect("refused", &written)?;
    far.expect("large", &large)?;
    fs::rename(point.join("large"), point.join("renamed"))?;
    fs::write(point.join("empty"), "")?;
    ensure!(began.elapsed() < SOON, "reading and renaming took {:?}", began.elapsed());
    let remount = |options: &str| {
        Tool::new(&lab.binary).args(["mount", "-o", &format!("remount,{options}")]).arg(&point).ok().map(drop)
    };
    remount("full=wait")?;
    let mut waits = dd(&far, "killed")?;
    let seen = |name: &str| -> Check<u64> { Ok(fs::metadata(point.join(name))?.len()) };
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        if let Some(ended) = waits.try_wait()? {
            fail!("the write that should wait ended with {ended}");
        }
    }
    ensure!(seen("killed")? < BACKLOG, "{} bytes were taken", seen("killed")?);
    signal(waits.id(), Signal::INT)?;
    let began = Instant::now();
    wait_until("the write that waits ends at Ctrl-C", SOON, || Ok(waits.try_wait()?.is_some()))?;
    println!("        a write that waited ended {:?} after Ctrl-C", began.elapsed());
    let mut waits = dd(&far, "waited")?;
    far.server.signal(Signal::CONT)?;
    wait_until("the write that waited goes on", PATIENCE, || Ok(waits.try_wait()?.is_some()))?;
    ensure!(seen("waited")? == 64 << 20, "{} bytes were taken", seen("waited")?);
    far.flush(lab)?;
    far.expect("refused", &written)?;
    far.expect("renamed", &large)?;
    far.finish()
}
