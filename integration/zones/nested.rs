//! Zones within zones.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Node, Nodes, PATIENCE, errno, expect};
use crate::failure::{Check, During, Stop, ensure, fail};
use crate::lab::Lab;
use crate::tool::{Tool, wait_until};

/// Longest that a change waits while a directory is shared, on a busy machine.
const PAUSE: Duration = Duration::from_secs(20);

fn remote() -> Option<i32> {
    Some(rustix::io::Errno::REMOTE.raw_os_error())
}

/// What listing a directory fails with.
fn list(path: &Path) -> Option<i32> {
    errno(fs::read_dir(path).and_then(|mut entries| entries.next().transpose()).map(drop))
}

fn bytes(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn share(node: &Node, path: &Path) -> Check<String> {
    Ok(node.mount.program().arg("share").arg(path).ok()?.trim().to_owned())
}

fn join(node: &Node, invite: &str, path: &Path) -> Check {
    node.mount.program().arg("join").arg(invite).arg(path).ok().map(drop)
}

/// Looks at a file without a pause until told to stop, and never opens it; what went wrong, if
/// anything did.
fn look(path: &Path, text: &[u8], stop: &AtomicBool) -> (u64, Option<String>) {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        match fs::metadata(path) {
            Ok(found) if found.len() == text.len() as u64 => times += 1,
            Ok(found) => return (times, Some(format!("it has {} bytes", found.len()))),
            Err(error) => return (times, Some(error.to_string())),
        }
    }
    (times, None)
}

/// Makes files and reads them; what was made, and the longest that one took.
fn make(folder: &Path, stop: &AtomicBool) -> Check<(u32, Duration)> {
    let (mut made, mut longest) = (0u32, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        fs::write(folder.join(format!("made {made}")), made.to_string()).during(format!("file {made}"))?;
        longest = longest.max(began.elapsed());
        made += 1;
    }
    Ok((made, longest))
}

/// A directory of a zone is shared while it is looked at and others work beside it: it is never
/// missing, no change is lost, and who does not take part is told how to.
pub(super) fn within(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let [a, b, c] = nodes.0.as_slice() else { fail!("three nodes") };
    let (large_a, large_b) = (bytes(1, 3_000_000), bytes(2, 4_000_000));
    let inner = a.path("inner");
    fs::create_dir_all(inner.join("sub/deep"))?;
    fs::create_dir(a.path("beside"))?;
    fs::write(inner.join("of a"), &large_a)?;
    fs::write(b.path("inner").join("sub").join("of b"), &large_b)?;
    for number in 0..200 {
        fs::write(c.path("inner").join("sub").join(format!("small {number}")), format!("of c {number}"))?;
    }
    std::os::unix::fs::symlink("sub/of b", inner.join("link"))?;
    fs::hard_link(inner.join("of a"), inner.join("sub/again"))?;
    Tool::shell("setfattr -n user.x -v y sub && chmod 1770 sub").within(&inner).ok()?;
    // A mount point is in it, too.
    fs::write(inner.join("sub/deep/file"), "deep down")?;
    share(a, &inner.join("sub/deep"))?;
    expect(&inner.join("sub/deep/file"), b"deep down")?;
    let stop = AtomicBool::new(false);
    let invite = std::thread::scope(|scope| -> Check<String> {
        let (top, low, beside) = (inner.join("of a"), inner.join("sub/small 7"), b.path("beside"));
        let (stop, large) = (&stop, large_a.as_slice());
        let looking = [scope.spawn(move || look(&top, large, stop)), scope.spawn(move || look(&low, b"of c 7", stop))];
        let making = scope.spawn(move || make(&beside, stop));
        std::thread::sleep(Duration::from_millis(500));
        let mut shared = share(a, &inner);
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        for looking in looking {
            let (times, wrong) = looking.join().map_err(|_| Stop::Failed("a reader panicked".into()))?;
            println!("    looked {times} times");
            if let Some(wrong) = wrong {
                shared = shared.and(Err(Stop::Failed(format!("while it was shared: {wrong}"))));
            }
        }
        let (made, longest) = making.join().map_err(|_| Stop::Failed("a writer panicked".into()))??;
        println!("    {made} files were made beside it, the slowest took {longest:?}");
        ensure!(longest < PAUSE, "a change waited {longest:?}");
        for number in 0..made {
            expect(&a.path("beside").join(format!("made {number}")), number.to_string().as_bytes())?;
        }
        shared
    })?;
    let whole = |node: &Node| -> Check {
        let inner = node.path("inner");
        expect(&inner.join("of a"), &large_a)?;
        expect(&inner.join("link"), &large_b)?;
        expect(&inner.join("sub/again"), &large_a)?;
        for number in 0..200 {
            expect(&inner.join("sub").join(format!("small {number}")), format!("of c {number}").as_bytes())?;
        }
        let said = Tool::shell("getfattr -n user.x sub && stat -c %a sub").within(&inner).ok()?;
        ensure!(said.contains("user.x=\"y\"") && said.contains("1770"), "{said}");
        Ok(())
    };
    whole(a)?;
    expect(&inner.join("sub/deep/file"), b"deep down")?;
    fs::write(inner.join("after"), "x")?;
    // Who takes no part sees where it is, and how to join.
    let place = b.path("inner");
    wait_until("the others have it out of sight", PATIENCE, || Ok(list(&place) == remote()))?;
    ensure!(fs::metadata(&place)?.is_dir(), "the mount point is gone");
    ensure!(errno(fs::metadata(place.join("of a")).map(drop)) == remote(), "a file of it is seen");
    ensure!(errno(fs::write(place.join("new"), "x")) == remote(), "a file is made in its place");
    let status = b.mount.program().arg("status").arg(b.mount.point()).ok()?;
    for words in ["zone inner stands at", "zone invite inner", "healthy"] {
        ensure!(status.contains(words), "status does not say {words:?}: {status}");
    }
    ensure!(b.zone(&["ls"]).ok()?.contains("inner  not joined"), "zone ls does not tell of it");
    ensure!(b.mount.log()?.contains("zone inner stands at"), "the log does not tell of it");
    // It is joined where it stands, and then is there for all.
    join(b, &invite, &place)?;
    whole(b)?;
    ensure!(list(&place.join("sub/deep")) == remote(), "deep was joined by nobody");
    let deep = a.zone(&["invite", "deep"]).ok()?;
    join(b, deep.trim(), &place.join("sub/deep"))?;
    expect(&place.join("sub/deep/file"), b"deep down")?;
    fs::write(place.join("sub/deep/of b"), "x")?;
    expect(&inner.join("sub/deep/of b"), b"x")?;
    // No zone is within itself.
    let outer = a.zone(&["invite", "zone"]).ok()?;
    fs::create_dir(place.join("sub/deep/loop"))?;
    let looped = b.mount.program().arg("join").arg(outer.trim()).arg(place.join("sub/deep/loop")).run()?;
    ensure!(looped.code != 0 && looped.err.contains("within itself"), "{looped:?}");
    // Who takes no part in the inner one has lost nothing of the outer one.
    c.zone(&["digest", "zone"]).ok()?;
    fs::write(c.path("beside").join("of c"), "x")?;
    nodes.agree()?;
    // The writer of what was there goes for good; the inner zone does not need it.
    let mut nodes = nodes;
    drop(nodes.0.remove(2));
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    whole(a)?;
    whole(b)?;
    // It is all there after a night.
    for node in &mut nodes.0 {
        node.stop()?;
    }
    for node in &mut nodes.0 {
        node.mount.start()?;
    }
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    for node in [a, b] {
        let deep = node.path("inner/sub/deep/file");
        wait_until("the zones are mounted again", PATIENCE, || Ok(deep.exists()))?;
        expect(&deep, b"deep down")?;
        whole(node)?;
    }
    nodes.finish()
}

/// A share within a zone that is cut short leaves a directory, or a zone, and the others go on.
pub(super) fn cut_short(lab: &Lab) -> Check {
    for (step, is_zone) in [("share.filled:2", false), ("share.mounted:2", true)] {
        let outer = |name: &str, key: &str| Node::with_variable(lab, name, (key, step));
        let (mut a, b, c) = (outer("a", "NEXUS_FAILPOINT")?, outer("b", "NEXUS_NONE")?, outer("c", "NEXUS_NONE")?);
        fs::create_dir_all(a.path("sub/deeper"))?;
        fs::write(a.path("sub/deeper/file"), "text")?;
        let mut invite = share(&a, &a.zone)?;
        for node in [&b, &c] {
            join(node, &invite, &node.zone)?;
            invite = b.zone(&["invite", "zone"]).ok()?.trim().to_owned();
        }
        let shared = a.mount.program().arg("share").arg(a.path("sub")).run()?;
        ensure!(shared.code != 0, "{step} was not reached");
        wait_until("the daemon is gone", PATIENCE, || Ok(!a.mount.is_running()?))?;
        // A pause whose maker is gone ends by itself.
        let began = Instant::now();
        fs::write(b.path("meanwhile"), "x").during("a change while the sharer is gone")?;
        println!("    {step}: a change waited {:?}", began.elapsed());
        ensure!(began.elapsed() < Duration::from_secs(40), "it waited {:?}", began.elapsed());
        a.mount = a.mount.without_variable("NEXUS_FAILPOINT");
        a.mount.kill()?;
        a.mount.start()?;
        let file = a.path("sub/deeper/file");
        wait_until("the files are there", PATIENCE, || Ok(file.exists()))?;
        expect(&file, b"text")?;
        wait_until("what was begun is ended", PATIENCE, || {
            Ok(a.zone(&["ls"]).ok()?.contains("sub  1 members") == is_zone)
        })?;
        let at_b = b.path("sub/deeper/file");
        if is_zone {
            ensure!(errno(fs::read(&at_b).map(drop)) == remote(), "a zone that was not joined is seen");
            invite = a.zone(&["invite", "sub"]).ok()?.trim().to_owned();
        } else {
            expect(&at_b, b"text")?;
            wait_until("it can be shared again", PATIENCE, || {
                let again = a.mount.program().arg("share").arg(a.path("sub")).run()?;
                invite = again.out.trim().to_owned();
                Ok(again.code == 0)
            })?;
        }
        let place = b.path("sub");
        wait_until("it is out of sight elsewhere", PATIENCE, || Ok(list(&place) == remote()))?;
        join(&b, &invite, &place)?;
        expect(&at_b, b"text")?;
        fs::write(a.path("sub/deeper/more"), "more")?;
        expect(&b.path("sub/deeper/more"), b"more")?;
        let nodes = Nodes(vec![a, b, c]);
        nodes.agree()?;
        nodes.finish()?;
    }
    Ok(())
}
