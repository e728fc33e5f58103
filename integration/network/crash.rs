//! SIGKILL while content goes up, and while it is collected.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, expect, write};
use super::proxy::Weather;
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::random::Random;

/// Bytes a second that a connection passes, so that a kill meets an upload.
const SLOW: u64 = 8 << 20;
/// Times that the daemon is killed.
const KILLS: u64 = 6;

/// Killed at any moment of an upload, a volume has all that was synced, and no damage.
pub fn killed_during_uploads(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let mut random = Random::new(lab.seed);
    let mut files = Vec::new();
    for round in 0..KILLS {
        let name = format!("file{round}");
        let bytes = write(&bench.path(&name), lab.seed + round, 20 << 20)?;
        files.push((name, bytes));
        bench.proxy.set(Weather::Slow(SLOW));
        let mut flush = std::process::Command::new("timeout");
        flush.arg("60").arg(&lab.binary).arg("flush").arg(bench.mount.point());
        flush.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut flush = flush.spawn()?;
        let pause = Duration::from_millis(50 + random.below(2_500));
        std::thread::sleep(pause);
        bench.mount.kill()?;
        flush.wait()?;
        bench.proxy.set(Weather::Fair);
        bench.mount.fsck().during(format!("killed {pause:?} after the upload began"))?;
        bench.mount.start()?;
        for (name, bytes) in &files {
            expect(&bench.path(name), bytes)?;
        }
    }
    bench.flush()?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    for (name, bytes) in &files {
        expect(&bench.path(name), bytes)?;
    }
    let up = bench.stored_bytes()?;
    let live: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    ensure!(up < live * 3 / 2 + (8 << 20), "{up} bytes lie in the bucket for {live} that live");
    bench.finish(&[])
}

/// Killed while it collects, a volume loses nothing that lives, and leaves nothing behind for ever.
pub fn killed_during_gc(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let mut random = Random::new(lab.seed ^ 1);
    let mut kept = Vec::new();
    for number in 0..60u64 {
        let name = format!("file{number}");
        let bytes = write(&bench.path(&name), lab.seed + number, 1 << 20)?;
        if number % 4 == 0 {
            kept.push((name, bytes));
        }
    }
    bench.flush()?;
    for number in (0..60).filter(|number| number % 4 != 0) {
        fs::remove_file(bench.path(&format!("file{number}")))?;
    }
    bench.proxy.set(Weather::Slow(SLOW));
    for _ in 0..KILLS / 2 {
        let mut gc = std::process::Command::new("timeout");
        gc.arg("60").arg(&lab.binary).arg("gc").arg(bench.mount.point());
        let mut gc = gc.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(20 + random.below(700)));
        bench.mount.kill()?;
        gc.wait()?;
        bench.mount.fsck()?;
        bench.mount.start()?;
    }
    bench.proxy.set(Weather::Fair);
    let gc = |bench: &Bench| {
        let done = bench.mount.program().arg("gc").arg(bench.mount.point()).ok();
        done.map(drop).during(format!("gc at the end; the daemon said {}", bench.mount.last_words()))
    };
    gc(&bench)?;
    bench.flush()?;
    gc(&bench)?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    for (name, bytes) in &kept {
        expect(&bench.path(name), bytes)?;
    }
    let up = bench.stored_bytes()?;
    ensure!(up < 30 << 20, "{up} bytes lie in the bucket for 15 MiB that live");
    bench.finish(&[])
}
