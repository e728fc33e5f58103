//! A store that is away when a volume is mounted, or unmounted.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, drop_pages, expect, write};
use super::proxy::Weather;
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::tool::wait_until;

/// What the daemon logs of reads that found the store away.
const AWAY: &str = "does not answer";
/// Within this a read of what is only in the store fails, or works again.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store that is away when the volume is mounted does not hinder that, and comes back by itself.
pub fn away_at_mount(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let far = write(&bench.path("far"), lab.seed, 3 << 20)?;
    bench.flush()?;
    bench.stop_and_forget()?;
    bench.proxy.set(Weather::Away);
    bench.mount.start()?;
    ensure!(fs::metadata(bench.path("far"))?.len() == far.len() as u64, "a size is wrong");
    let new = write(&bench.path("new"), lab.seed + 1, 1 << 20)?;
    match fs::read(bench.path("far")) {
        Ok(_) => ensure!(false, "what is not here was read"),
        Err(error) => ensure!(error.raw_os_error() == Some(5), "a read ended with {error}, not EIO"),
    }
    bench.proxy.set(Weather::Fair);
    wait_until("the store is there", PATIENCE, || {
        Ok(drop_pages(&bench.path("far")).is_ok() && fs::read(bench.path("far")).is_ok())
    })?;
    expect(&bench.path("far"), &far)?;
    expect(&bench.path("new"), &new)?;
    bench.flush()?;
    bench.finish(&[AWAY])
}

/// Unmounting says what stays here; it goes up after the next mount.
pub fn unmounted_away(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    bench.proxy.set(Weather::Away);
    let bytes = write(&bench.path("file"), lab.seed, 5 << 20)?;
    let ended = bench.mount.program().arg("umount").arg(bench.mount.point()).run()?;
    ended.check()?;
    ensure!(ended.err.contains("only on this disk"), "umount does not say what stays: {:?}", ended.err);
    let mut daemon = bench.mount.let_go()?;
    ensure!(daemon.wait()?.success(), "the daemon ended badly");
    bench.proxy.set(Weather::Fair);
    bench.mount.start()?;
    bench.flush()?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    expect(&bench.path("file"), &bytes)?;
    bench.finish(&[])
}
