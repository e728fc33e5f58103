//! Limits of stores, measured against the server: rates are kept, can be changed while they
//! hold, and are remembered.

use std::time::{Duration, Instant};

use super::Far;
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::report::Case;
use crate::tool::Tool;

/// Bytes a second.
const RATE: u64 = 4 << 20;
/// Bytes that are moved at that rate.
const BYTES: u64 = 32 << 20;
/// How far from the rate it may be.
const WITHIN: f64 = 0.1;

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("limits are kept, changed while mounted, and remembered", rates)]
}

fn set(lab: &Lab, far: &Far, arguments: &[&str]) -> Check<String> {
    let tool = Tool::new(&lab.binary).args(["store", "set", "default", "--mount"]).arg(far.mount.point());
    tool.args(arguments).ok()
}

/// Holds what took `took` against the rate.
fn hold(what: &str, bytes: u64, took: Duration) -> Check {
    let rate = bytes as f64 / took.as_secs_f64();
    println!("        {what}: {:.2} MiB/s of {:.2}", rate / f64::from(1 << 20), RATE as f64 / f64::from(1 << 20));
    let off = rate / RATE as f64 - 1.0;
    let is_near = off.abs() <= WITHIN;
    ensure!(is_near, "{what} went at {rate:.0} bytes a second, {:.1} % from the limit", off * 100.0);
    Ok(())
}

fn rates(lab: &Lab) -> Check {
    let flags = ["--store-upload-limit", "4M", "--store-max-requests", "3"];
    let mut far = Far::with(lab, "store", &flags)?;
    let said = Tool::new(&lab.binary).args(["store", "ls", "--mount"]).arg(far.mount.point()).ok()?;
    ensure!(said.contains("at most 3 requests at once, 4 MiB a second up"), "store ls said {said:?}");
    let began = Instant::now();
    let content = far.file("file", BYTES as usize)?;
    far.flush(lab)?;
    hold("sending", BYTES, began.elapsed())?;
    // Remembered without being said again; changed while it is mounted.
    far.mount.forget_arguments(&flags);
    far.remount_empty()?;
    ensure!(far.counter(lab, "upload_limit")? == RATE, "the limit is forgotten");
    let said = set(lab, &far, &["--download-limit", "4M/s", "--upload-limit", "none"])?;
    ensure!(said.contains("at most 3 requests at once, 4 MiB a second down"), "store set said {said:?}");
    let before = far.counter(lab, "bytes_down")?;
    let began = Instant::now();
    far.expect("file", &content)?;
    let took = began.elapsed();
    let fetched = far.counter(lab, "bytes_down")? - before;
    ensure!(fetched >= BYTES, "only {fetched} bytes were fetched");
    hold("fetching", fetched, took)?;
    let began = Instant::now();
    far.file("other", BYTES as usize + 1)?;
    far.flush(lab)?;
    ensure!(began.elapsed() < Duration::from_secs(4), "sending is still limited: {:?}", began.elapsed());
    let nothing = Tool::new(&lab.binary).args(["store", "set", "default", "--mount"]).arg(far.mount.point()).run()?;
    ensure!(nothing.code == 1 && nothing.err.contains("say what is to change"), "{:?}", nothing.err);
    far.finish()
}
