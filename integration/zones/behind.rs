//! Writes that the other nodes are told of a little later: on their own node they count at once, in their
//! order with all else that is done to the file, and what is lost of them is told.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{SeekFrom as Seeks, seek};
use rustix::io::Errno;

use super::{Node, Nodes, PATIENCE, PROMPT, errno, expect};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::tool::{Tool, wait_until};

/// Longest that a write may wait that nobody has taken.
const GIVEN_UP: Duration = Duration::from_secs(60);
const WRITES: u64 = 2000;
const BLOCK: u64 = 512;

/// Up to which entry the node's state goes.
fn entries(node: &Node) -> Check<u64> {
    let said = node.digest()?;
    match said.split_whitespace().filter_map(|word| word.parse().ok()).next() {
        Some(index) => Ok(index),
        None => fail!("no index in {said:?}"),
    }
}

fn block(number: u64) -> Vec<u8> {
    (0..BLOCK).map(|n| (n.wrapping_mul(31).wrapping_add(number * 7) % 251) as u8).collect()
}

fn content(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(block).collect()
}

/// What is written is read on its node before anybody else knows of it, and elsewhere once it is closed.
pub fn seen(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    for (writer, reader, name) in [(a, b, "of a"), (b, a, "of b")] {
        let path = writer.path(name);
        let (mut file, before) = (File::create(&path)?, entries(writer)?);
        let mut other = File::open(&path)?;
        for number in 0..WRITES {
            file.write_all(&block(number))?;
            if number % 100 == 0 {
                let size = fs::metadata(&path)?.size();
                ensure!(size == (number + 1) * BLOCK, "{size} bytes after {} writes", number + 1);
                other.seek(SeekFrom::Start(number * BLOCK))?;
                let mut read = Vec::new();
                other.read_to_end(&mut read)?;
                ensure!(read == block(number), "write {number} is not what is read");
            }
        }
        // A file with a hole, whose data is found where it was written.
        file.write_all_at(b"far", 1 << 30)?;
        let (end, hole) = (seek(&file, Seeks::Data(WRITES * BLOCK)), seek(&file, Seeks::Hole(0)));
        let within = |found: u64, at: u64| found.abs_diff(at) <= 4096;
        ensure!(end.is_ok_and(|end| within(end, 1 << 30)), "data is found at {end:?}");
        ensure!(hole.is_ok_and(|hole| within(hole, WRITES * BLOCK)), "a hole is found at {hole:?}");
        drop(file);
        let used = entries(writer)?.saturating_sub(before);
        println!("    {WRITES} writes in {used} entries");
        ensure!(used < WRITES / 10, "{WRITES} writes took {used} entries of the log");
        let seen = File::open(reader.path(name))?;
        let mut read = vec![0; (WRITES * BLOCK) as usize];
        seen.read_exact_at(&mut read, 0)?;
        ensure!(read == content(0..WRITES), "the other node reads something else");
        ensure!(seen.metadata()?.size() == (1 << 30) + 3, "{} bytes elsewhere", seen.metadata()?.size());
    }
    // Nobody has to close it.
    let mut file = File::create(a.path("open"))?;
    file.write_all(b"not closed")?;
    let elsewhere = b.path("open");
    wait_until("an open file's writes are seen", PROMPT, || Ok(fs::read(&elsewhere)? == b"not closed"))?;
    drop(file);
    nodes.agree()?;
    nodes.finish()
}

/// Writes come before what is done to the file after them, and behind what was done before.
pub fn in_order(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    let path = a.path("file");
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
    for round in 0..20u64 {
        file.write_all_at(&content(0..8), 0)?;
        file.set_len(3 * BLOCK)?;
        file.write_all_at(&block(9), 5 * BLOCK)?;
        rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            0,
            BLOCK,
        )?;
        file.write_all_at(&block(round), 6 * BLOCK)?;
        let hole = vec![0; BLOCK as usize];
        let gap = vec![0; 2 * BLOCK as usize];
        let parts = [hole, content(1..3), gap, block(9), block(round)].concat();
        expect(&path, &parts)?;
        file.sync_all()?;
        expect(&b.path("file"), &parts)?;
        // What O_APPEND adds goes behind what is there by then.
        let mut end = OpenOptions::new().append(true).open(&path)?;
        file.write_all_at(&block(1), 7 * BLOCK)?;
        end.write_all(b"end")?;
        expect(&path, &[parts, block(1), b"end".to_vec()].concat())?;
        file.set_len(0)?;
    }
    // A time that was set stays set.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.write_all(b"old")?;
    file.set_modified(long_ago)?;
    drop(file);
    let set = a.path("file").metadata()?.modified()?;
    ensure!(set == long_ago, "the time that was set is {set:?} now");
    wait_until("the time is set elsewhere", PROMPT, || Ok(b.path("file").metadata()?.modified()? == long_ago))?;
    for node in [a, b] {
        let set = node.path("file").metadata()?.modified()?;
        ensure!(set == long_ago, "the time that was set did not stay set: {set:?}");
    }
    // What is copied from a file, or named anew, has what was written to it.
    Tool::shell(
        "exec 3>new; printf one >&3; cp --reflink=auto new copy; printf two >&3; mv new moved; grep -qx one copy",
    )
    .within(&a.zone)
    .ok()?;
    expect(&b.path("moved"), b"onetwo")?;
    expect(&b.path("copy"), b"one")?;
    nodes.agree()?;
    nodes.finish()
}

/// Without a majority a write returns, and fsync and close say that it is lost; then it is lost
/// here, too, with all that was written after it.
pub fn lost(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    fs::write(nodes.at(0)?.path("file"), "as it was")?;
    fs::write(nodes.at(0)?.path("other"), "as it was")?;
    nodes.agree()?;
    nodes.at_mut(1)?.mount.kill()?;
    nodes.at_mut(2)?.mount.kill()?;
    let alone = nodes.at(0)?;
    let began = Instant::now();
    let closing = {
        let path = alone.path("other");
        std::thread::spawn(move || close_after_write(&path))
    };
    let path = alone.path("file");
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(b"AS", 0)?;
    file.write_all_at(b"will be", 2)?;
    ensure!(began.elapsed() < PROMPT, "a write waited for others");
    expect(&path, b"ASwill be")?;
    // A copy of the descriptor is closed by nobody who looks at the answer, as whoever is started does with it.
    drop(file.try_clone()?);
    let synced = file.sync_all();
    ensure!(errno(synced) == Some(Errno::IO.raw_os_error()), "fsync has told of no loss");
    ensure!(began.elapsed() < GIVEN_UP, "it took {:?}", began.elapsed());
    let Ok(closed) = closing.join() else { fail!("the thread panicked") };
    ensure!(closed?.contains("EIO"), "close has told of no loss");
    expect(&path, b"as it was").during("what is lost is gone")?;
    nodes.at_mut(1)?.mount.start()?;
    nodes.at_mut(2)?.mount.start()?;
    // The same open file can be used from then on.
    wait_until("writes are taken again", PATIENCE, || {
        Ok(file.write_all_at(b"AS", 0).and_then(|()| file.sync_all()).is_ok())
    })?;
    for node in &nodes.0 {
        wait_until("the zone is mounted", PATIENCE, || Ok(node.path("file").exists()))?;
        let read = fs::read(node.path("file"))?;
        // What nobody answered for may have been taken after all.
        ensure!(read == b"AS it was" || read == b"ASwill be", "it is {:?}", String::from_utf8_lossy(&read));
    }
    drop(file);
    nodes.agree()?;
    nodes.finish()
}

/// What close(2) says after a write.
fn close_after_write(path: &Path) -> Check<String> {
    let lines = "import errno, os, sys\n\
                 file = os.open(sys.argv[1], os.O_WRONLY)\n\
                 os.write(file, b'lost')\n\
                 try:\n    os.close(file)\n\
                 except OSError as error:\n    print(errno.errorcode[error.errno])\n";
    Tool::python(lines).arg(path).ok()
}
