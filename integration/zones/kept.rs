//! What the kernel keeps of a zone: names and attributes that it was told, which another node then changes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Nodes, PROMPT};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::tool::wait_until;

/// At the median, changes are seen sooner than this, and would be seen later if the kernel were told of none:
/// it keeps what it was told for a second.
const TOLD: Duration = Duration::from_millis(200);
const ROUNDS: usize = 15;
const TURNS: usize = 200;
/// Threads that ask all the time, so that answers meet in the kernel.
const STATS: usize = 3;
const HURRY: Duration = Duration::from_secs(5);

/// Does something on one node, when the other has what is there in its kernel, and waits until that one sees it.
fn seen_after(work: impl FnOnce() -> Check, is_seen: impl Fn() -> Check<bool>) -> Check<Duration> {
    for _ in 0..3 {
        ensure!(!is_seen()?, "it is seen before it is done");
    }
    work()?;
    let done = Instant::now();
    wait_until("the change is seen", PROMPT, is_seen)?;
    Ok(done.elapsed())
}

/// Each kind of change is seen soon, though nothing is asked again that the kernel has.
pub fn told(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    type Change = (&'static str, fn(&Path, usize) -> Check, fn(&Path, usize) -> Check<bool>);
    let changes: [Change; 6] = [
        (
            "a mode",
            |zone, round| Ok(fs::set_permissions(zone.join("mode"), mode(round))?),
            |zone, round| Ok(fs::metadata(zone.join("mode"))?.permissions().mode() & 0o777 == mode(round).mode()),
        ),
        (
            "a size",
            |zone, round| Ok(fs::write(zone.join("size"), vec![1; round + 1])?),
            |zone, round| Ok(fs::metadata(zone.join("size"))?.len() == round as u64 + 1),
        ),
        ("a file that replaces another", replace, |zone, round| {
            Ok(fs::metadata(zone.join("replaced"))?.len() == round as u64 + 1)
        }),
        (
            "a name that a file had",
            |zone, round| Ok(fs::rename(name(zone, round), name(zone, round + 1))?),
            |zone, round| Ok(!name(zone, round).exists()),
        ),
        (
            "a name that a directory had",
            |zone, round| Ok(fs::rename(folder(zone, round), folder(zone, round + 1))?),
            |zone, round| Ok(!folder(zone, round).join("inside").exists()),
        ),
        (
            "a file that is gone",
            |zone, round| Ok(fs::remove_file(gone(zone, round))?),
            |zone, round| Ok(!gone(zone, round).exists()),
        ),
    ];
    for start in ["mode", "size", "replaced"] {
        fs::write(a.path(start), "")?;
    }
    fs::write(name(&a.zone, 0), "")?;
    fs::create_dir(folder(&a.zone, 0))?;
    fs::write(folder(&a.zone, 0).join("inside"), "")?;
    for round in 0..=ROUNDS {
        fs::write(gone(&a.zone, round), "")?;
    }
    nodes.agree()?;
    for (what, change, is_seen) in changes {
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            let seen = seen_after(|| change(&a.zone, round), || is_seen(&b.zone, round));
            took.push(seen.during(format!("{what}, round {round}"))?);
        }
        took.sort_unstable();
        let (Some(median), Some(most)) = (took.get(ROUNDS / 2), took.last()) else { fail!("no rounds") };
        println!("    {what}: {median:?}, at the most {most:?}");
        ensure!(*median < TOLD, "{what} is seen after {median:?}");
    }
    nodes.agree()?;
    nodes.finish()
}

fn mode(round: usize) -> Permissions {
    Permissions::from_mode(if round.is_multiple_of(2) { 0o600 } else { 0o640 })
}

fn name(zone: &Path, round: usize) -> std::path::PathBuf {
    zone.join(format!("name {round}"))
}

fn folder(zone: &Path, round: usize) -> std::path::PathBuf {
    zone.join(format!("folder {round}"))
}

fn gone(zone: &Path, round: usize) -> std::path::PathBuf {
    zone.join(format!("gone {round}"))
}

fn replace(zone: &Path, round: usize) -> Check {
    fs::write(zone.join("new"), vec![1; round + 1])?;
    Ok(fs::rename(zone.join("new"), zone.join("replaced"))?)
}

/// Who opens a file has it as it was closed elsewhere, and who was told of something has all that came before it,
/// also by what was open already: whatever the kernel had of it.
pub fn in_order(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    let (written, read) = (a.path("file"), b.path("file"));
    fs::write(&written, "")?;
    nodes.agree()?;
    let kept = File::open(&read)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Have the kernel of the reader keep the newest that it was told, all the time.
        let stats = [(); STATS].map(|()| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::metadata(&read);
                }
            })
        });
        let work = || -> Check {
            let mut file = OpenOptions::new().append(true).open(&written)?;
            for turn in 1..=TURNS {
                let size = turn as u64 * 100;
                if turn.is_multiple_of(2) {
                    fs::write(&written, vec![turn as u8; size as usize])?;
                } else {
                    file.write_all(&[turn as u8; 100])?;
                    file.sync_all()?;
                }
                let opened = File::open(&read)?;
                let told = opened.metadata()?.len();
                if told != size {
                    let after = opened.metadata()?.len();
                    fail!("turn {turn}: {told} bytes behind an open, where {size} were closed, then {after}");
                }
                let mut last = [0];
                opened.read_exact_at(&mut last, size - 1).during(format!("turn {turn}: the last byte"))?;
                ensure!(last == [turn as u8], "turn {turn}: the last byte is {last:?}");
                // A sign that it has changed, and a descriptor of before.
                let size = size + 1;
                OpenOptions::new().write(true).open(&written)?.set_len(size)?;
                fs::write(a.path(&format!("sign {turn}")), "")?;
                wait_until("the sign is seen", PROMPT, || Ok(b.path(&format!("sign {turn}")).exists()))?;
                let seen = kept.metadata()?.len();
                ensure!(seen == size, "turn {turn}: {seen} bytes behind a sign that there are {size}");
                OpenOptions::new().write(true).open(&written)?.set_len(size - 1)?;
            }
            Ok(())
        };
        let worked = work().and_then(|()| in_a_hurry(&written, &read));
        stop.store(true, Ordering::Relaxed);
        for stat in stats {
            ensure!(stat.join().is_ok(), "the thread panicked");
        }
        worked
    })?;
    drop(kept);
    nodes.agree()?;
    nodes.finish()
}

/// One writes and syncs, and others open and ask all the time: each time as it comes.
fn in_a_hurry(written: &Path, read: &Path) -> Check {
    let mut file = File::create(written)?;
    let acknowledged = AtomicU64::new(0);
    let work = || -> Check {
        let until = Instant::now() + HURRY;
        let mut opens = 0;
        while Instant::now() < until {
            let least = acknowledged.load(Ordering::SeqCst);
            let opened = File::open(read)?;
            let told = opened.metadata()?.len();
            ensure!(told >= least, "open {opens}: {told} bytes, of which {least} were synced before");
            opens += 1;
        }
        println!("    {opens} opens beside {} writes", acknowledged.load(Ordering::SeqCst));
        Ok(())
    };
    std::thread::scope(|scope| {
        let opens = scope.spawn(work);
        while !opens.is_finished() {
            file.write_all(b"1")?;
            file.sync_all()?;
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        opens.join().unwrap_or_else(|_| fail!("the thread panicked"))
    })
}
