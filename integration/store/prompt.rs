//! What is written goes to the bucket by itself, soon after its file was closed, and small files together.

use std::fs;
use std::time::{Duration, Instant};

use super::{Far, PATIENCE};
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::report::Case;
use crate::tool::wait_until;

/// Longest until a file is in the bucket that nothing was written to since, on a machine that is busy: it
/// takes a second.
const SOON: Duration = Duration::from_secs(6);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("what was closed goes up by itself, soon and together", closed)]
}

fn closed(lab: &Lab) -> Check {
    const FILES: usize = 10_000;
    let mut far = Far::new(lab, "store")?;
    let all_sent = |far: &Far| Ok(far.counter(lab, "waiting_bytes")? == 0);
    let one = far.file("one", 100_000)?;
    let closed = Instant::now();
    wait_until("a file is in the bucket", PATIENCE, || all_sent(&far))?;
    let took = closed.elapsed();
    ensure!(took < SOON, "it took {took:?}");
    ensure!(far.server.blobs("volume")?.len() == 1, "it is not there");
    let point = far.mount.point().to_owned();
    let content = |i: usize| (i as u64).to_le_bytes().repeat(512);
    for i in 0..FILES {
        fs::write(point.join(i.to_string()), content(i))?;
    }
    wait_until("small files are in the bucket", PATIENCE, || all_sent(&far))?;
    let puts = far.counter(lab, "puts")?;
    println!("  {FILES} files of 4 KiB that were closed: {puts} puts");
    ensure!(puts <= 20, "{puts} puts for {FILES} files");
    far.remount_empty()?;
    far.expect("one", &one)?;
    for i in (0..FILES).step_by(97) {
        far.expect(&i.to_string(), &content(i))?;
    }
    far.finish()
}
