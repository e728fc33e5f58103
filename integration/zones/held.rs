//! Files that lose their last name on one node while programs on another use them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, Mode, OFlags};
use rustix::process::Signal;

use super::{Node, Nodes, PATIENCE};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::signal;
use crate::random::Random;
use crate::tool::{Tool, wait_until};

/// For so long a removed file is used.
const USED: Duration = Duration::from_secs(20);
/// A member that is silent for so long uses nothing any more.
const LEASE: Duration = Duration::from_secs(15);

/// A program that is ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inodes(node: &Node) -> Check<u64> {
    let stats = rustix::fs::statvfs(&node.zone)?;
    Ok(stats.f_files - stats.f_ffree)
}

/// Each node counts so many inodes.
fn await_inodes<'a>(nodes: impl IntoIterator<Item = &'a Node>, count: u64, limit: Duration) -> Check {
    for node in nodes {
        let mut found = 0;
        wait_until("what nobody uses is freed", limit, || {
            found = inodes(node)?;
            Ok(found == count)
        })
        .during(format!("{found} inodes, {count} expected"))?;
    }
    Ok(())
}

fn opened(path: &Path) -> Check<File> {
    OpenOptions::new().read(true).write(true).open(path).during(path.display())
}

/// Reads past the kernel's pages.
fn expect_open(file: &File, at: u64, bytes: &[u8]) -> Check {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    let mut read = vec![0; bytes.len()];
    file.read_exact_at(&mut read, at).during("reading a file without a name")?;
    ensure!(read == bytes, "a file without a name has other bytes at {at}");
    Ok(())
}

/// KiB of content in a node's data folder, without copies of others', which stay for some minutes.
fn content_kib(node: &Node) -> Check<u64> {
    let said = Tool::new("du")
        .args(["-sk", "--exclude=log", "--exclude=meta", "--exclude=mirror"])
        .arg(node.mount.data())
        .ok()?;
    let number = said.split_whitespace().next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| crate::failure::Stop::Failed(format!("du said {said}")))
}

/// Files, a program that runs, a directory and a pipe: removed on one node, used on another.
pub fn removed(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let [a, b, c] = nodes.0.as_slice() else { fail!("three nodes") };
    await_inodes(&nodes.0, 2, PATIENCE)?;
    let content = Random::new(11).bytes(24 << 20);
    for name in ["file", "replaced", "of its own"] {
        fs::write(c.path(name), &content)?;
    }
    fs::write(a.path("other"), "in its place")?;
    fs::create_dir(a.path("folder"))?;
    fs::copy("/bin/sleep", a.path("program"))?;
    fs::set_permissions(a.path("program"), fs::Permissions::from_mode(0o755))?;
    Tool::new("mkfifo").arg(a.path("pipe")).ok()?;

    let (file, replaced, own) =
        (opened(&b.path("file"))?, opened(&b.path("replaced"))?, opened(&b.path("of its own"))?);
    let pipe = opened(&b.path("pipe"))?;
    let folder = rustix::fs::open(b.path("folder"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let began = Instant::now();
    let mut program = Running(Command::new(b.path("program")).arg("25").stdin(Stdio::null()).spawn()?);
    // Seen, and so in the kernel's cache, but used by nobody.
    fs::write(a.path("seen"), "x")?;
    fs::metadata(b.path("seen"))?;
    fs::metadata(c.path("seen"))?;
    // By another name than the one that goes last.
    fs::hard_link(a.path("seen"), a.path("seen too"))?;
    fs::metadata(b.path("seen too"))?;

    for name in ["file", "program", "pipe", "seen", "seen too"] {
        fs::remove_file(a.path(name)).during(name)?;
    }
    fs::rename(c.path("other"), c.path("replaced"))?;
    fs::remove_dir(c.path("folder"))?;
    fs::remove_file(b.path("of its own"))?;
    // The root, "before" and what replaced; six that are used: three files, the program, the pipe, the folder.
    let used = 3 + 6;
    await_inodes(&nodes.0, used, PATIENCE)?;
    let mut round = 0u64;
    while began.elapsed() < USED {
        for (file, what) in [(&file, "removed"), (&replaced, "replaced"), (&own, "removed here")] {
            ensure!(file.metadata()?.nlink() == 0, "a file that was {what} has names");
            let at = round * 1_000_003 % (content.len() as u64 - 4096);
            let expected = content.get(at as usize..at as usize + 4096).unwrap_or_default();
            expect_open(file, at, expected).during(what)?;
            let text = format!("round {round} of {what}");
            let end = content.len() as u64 + 4096 * round;
            file.write_all_at(text.as_bytes(), end).during(what)?;
            expect_open(file, end, text.as_bytes()).during(what)?;
        }
        ensure!(pipe.metadata()?.nlink() == 0, "the pipe has a name");
        ensure!(rustix::fs::fstat(&folder)?.st_ino != 0, "the folder has no number");
        ensure!(program.0.try_wait()?.is_none(), "the program ended before its time");
        round += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
    await_inodes(&nodes.0, used, PATIENCE)?;
    let ended = program.0.wait()?;
    ensure!(ended.success(), "a program whose file was removed ended with {ended}");
    await_inodes(&nodes.0, used - 1, PATIENCE)?;
    drop((file, replaced, own));
    await_inodes(&nodes.0, used - 4, PATIENCE)?;
    drop((pipe, folder));
    await_inodes(&nodes.0, 3, PATIENCE)?;
    nodes.agree()?;
    for node in [b, c] {
        wait_until("the space is given back", PATIENCE, || {
            node.mount.program().arg("flush").arg(node.mount.point()).ok()?;
            node.mount.program().arg("gc").arg(node.mount.point()).ok()?;
            Ok(content_kib(node)? < 8 << 10)
        })
        .during(format!("{} KiB are left", content_kib(node)?))?;
    }
    nodes.finish()
}

/// Whoever uses removed files is killed, frozen, or taken out of the zone.
pub fn lost(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    await_inodes(&nodes.0, 2, PATIENCE)?;
    let leader = nodes.leader()?;
    let (holder, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for name in ["killed", "back", "frozen", "out"] {
        fs::write(nodes.at(other)?.path(name), vec![7; 100_000])?;
    }

    // Its daemon is killed and does not come back in time.
    let held = opened(&nodes.at(holder)?.path("killed"))?;
    fs::remove_file(nodes.at(other)?.path("killed"))?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(inodes(nodes.at(other)?)? == 6, "a file in use was freed");
    nodes.at_mut(holder)?.mount.kill()?;
    let began = Instant::now();
    await_inodes([nodes.at(leader)?, nodes.at(other)?], 5, PATIENCE)?;
    let took = began.elapsed();
    println!("    what a killed node used was freed after {took:?}");
    ensure!(took > LEASE / 2, "what a silent node used was freed after {took:?}");
    drop(held);
    started(nodes.at_mut(holder)?)?;

    // It comes back at once, and then uses nothing.
    let held = opened(&nodes.at(holder)?.path("back"))?;
    fs::remove_file(nodes.at(other)?.path("back"))?;
    nodes.at_mut(holder)?.mount.kill()?;
    drop(held);
    started(nodes.at_mut(holder)?)?;
    let began = Instant::now();
    await_inodes(&nodes.0, 4, PATIENCE)?;
    println!("    what a node used that was started anew was freed {:?} later", began.elapsed());

    // It is frozen for longer than its lease, and is told.
    let held = opened(&nodes.at(holder)?.path("frozen"))?;
    fs::remove_file(nodes.at(other)?.path("frozen"))?;
    let daemon = nodes.at(holder)?.mount.pid()?;
    signal(daemon, Signal::STOP)?;
    let began = Instant::now();
    let freed = await_inodes([nodes.at(leader)?, nodes.at(other)?], 3, PATIENCE);
    let took = began.elapsed();
    signal(daemon, Signal::CONT)?;
    freed?;
    ensure!(took > LEASE / 2, "what a frozen node used was freed after {took:?}");
    await_inodes(&nodes.0, 3, PATIENCE)?;
    let told = held.metadata().err().and_then(|error| error.raw_os_error());
    ensure!(told == Some(rustix::io::Errno::STALE.raw_os_error()), "a file that was freed: {told:?}");
    drop(held);

    // Who is taken out uses nothing.
    let held = opened(&nodes.at(holder)?.path("out"))?;
    fs::remove_file(nodes.at(other)?.path("out"))?;
    let member = nodes.at(holder)?.member()?;
    nodes.at(other)?.zone(&["remove-member", "zone", &member]).ok()?;
    let began = Instant::now();
    await_inodes([nodes.at(leader)?, nodes.at(other)?], 2, PATIENCE)?;
    ensure!(began.elapsed() < LEASE, "a lease of no member was waited for");
    drop(held);
    let mut out = nodes.0.remove(holder);
    out.stop()?;
    nodes.agree()?;
    nodes.finish()
}

fn started(node: &mut Node) -> Check {
    node.mount.start()?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))
}
