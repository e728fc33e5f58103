//! A network that changes bytes, or cuts answers short.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, drop_pages, expect, write};
use super::proxy::Weather;
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::tool::wait_until;

/// Within this a read works again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Wrong bytes give EIO and a word in the log, and are not kept.
pub fn wrong_bytes(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let file = write(&bench.path("file"), lab.seed, 6 << 20)?;
    bench.flush()?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    bench.proxy.set(Weather::Wrong);
    match fs::read(bench.path("file")) {
        Ok(bytes) => ensure!(false, "wrong bytes were read as if nothing were ({})", bytes == file),
        Err(error) => ensure!(error.raw_os_error() == Some(5), "a read ended with {error}, not EIO"),
    }
    let said = fs::read_to_string(bench.scratch.path().join("daemon.log"))?;
    ensure!(said.contains("blob"), "the log names no blob: {said}");
    bench.proxy.set(Weather::Fair);
    wait_until("it can be read again", PATIENCE, || {
        Ok(drop_pages(&bench.path("file")).is_ok() && fs::read(bench.path("file")).is_ok())
    })?;
    expect(&bench.path("file"), &file)?;
    bench.finish(&["checksum", "blob"])
}

/// Answers that end too early are asked for again, or give EIO.
pub fn cut_short(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let file = write(&bench.path("file"), lab.seed, 6 << 20)?;
    bench.flush()?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    bench.proxy.set(Weather::Short(200_000));
    match fs::read(bench.path("file")) {
        Ok(bytes) => ensure!(bytes == file, "wrong bytes were read"),
        Err(error) => ensure!(error.raw_os_error() == Some(5), "a read ended with {error}, not EIO"),
    }
    bench.proxy.set(Weather::Fair);
    wait_until("it can be read again", PATIENCE, || {
        Ok(drop_pages(&bench.path("file")).is_ok() && fs::read(bench.path("file")).is_ok())
    })?;
    expect(&bench.path("file"), &file)?;
    bench.finish(&[])
}
