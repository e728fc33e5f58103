//! Stores that are no buckets: a folder of this machine, and memory.

use std::fs;
use std::path::{Path, PathBuf};

use super::PATIENCE;
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Ended, Tool, wait_until};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a folder is a store: added, away, back, taken away", added),
        Case::new("a volume has its content in a folder, compressed and encrypted", first),
        Case::new("folders that can be no store are refused", refusals),
        Case::new("memory is a store only for whom that is said", memory),
    ]
}

/// A volume beside a disk, which is a folder.
struct Beside {
    // In the order in which they have to go.
    mount: Mount,
    scratch: Scratch,
    seed: u64,
}

impl Beside {
    fn new(lab: &Lab, arguments: &[&str]) -> Check<Beside> {
        let scratch = Scratch::new(&lab.scratch, "folders")?;
        scratch.folder("disk")?;
        let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?.with_arguments(arguments);
        let mut beside = Beside { mount, scratch, seed: lab.seed };
        beside.mount.start()?;
        Ok(beside)
    }

    fn disk(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    fn add(&self, lab: &Lab, name: &str, url: &str) -> Check<Ended> {
        Tool::new(&lab.binary).args(["store", "add", name, url, "--mount"]).arg(self.mount.point()).run()
    }

    fn ask(&self, lab: &Lab, arguments: &[&str]) -> Check<String> {
        Tool::new(&lab.binary).args(arguments).arg(self.mount.point()).ok()
    }

    fn file(&self, name: &str, bytes: usize) -> Check<Vec<u8>> {
        let content = Random::new(self.seed ^ bytes as u64).bytes(bytes);
        fs::write(self.mount.point().join(name), &content)?;
        Ok(content)
    }

    fn expect(&self, name: &str, content: &[u8]) -> Check {
        let read = fs::read(self.mount.point().join(name)).during(format!("reading {name}"))?;
        ensure!(read == content, "{name} is not what was written, with seed {}", self.seed);
        Ok(())
    }

    /// Mounts anew, with nothing cached of store `number`.
    fn remount_empty(&mut self, number: &str) -> Check {
        self.mount.stop()?;
        self.mount.fsck()?;
        let cache = self.mount.data().join(format!("cache{number}"));
        fs::remove_dir_all(&cache).during("forgetting the cache")?;
        self.mount.start()
    }

    fn finish(mut self) -> Check {
        self.mount.stop()?;
        self.mount.check_log()?;
        self.mount.fsck()
    }
}

/// Bytes of the blobs in a folder.
fn stored(folder: &Path) -> Check<u64> {
    let blobs = folder.join("blobs");
    if !blobs.exists() {
        return Ok(0);
    }
    // One may go meanwhile.
    Ok(fs::read_dir(blobs)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
}

fn added(lab: &Lab) -> Check {
    let mut beside = Beside::new(lab, &[])?;
    let store = beside.disk().join("store");
    let url = format!("file://{}", store.display());
    let said = beside.add(lab, "disk", &url)?;
    ensure!(said.code == 0 && !said.out.contains("credentials"), "{said:?}");
    fs::create_dir(beside.mount.point().join("dir"))?;
    Tool::new(&lab.binary).arg("place").arg(beside.mount.point().join("dir")).arg("disk").ok()?;
    // One goes up whole, one in parts.
    let small = beside.file("dir/small", 100_000)?;
    let large = beside.file("dir/large", 40 << 20)?;
    let here = beside.file("here", 1 << 20)?;
    beside.ask(lab, &["flush"])?;
    let bytes = stored(&store)?;
    ensure!((40 << 20..42 << 20).contains(&bytes), "{bytes} bytes are in the folder");
    beside.remount_empty(".1")?;
    for (name, content) in [("dir/small", &small), ("dir/large", &large), ("here", &here)] {
        beside.expect(name, content)?;
    }
    // The disk is gone: what is cached is read, a mount says so, and nothing counts as deleted.
    let elsewhere = beside.disk().join("elsewhere");
    fs::rename(&store, &elsewhere)?;
    beside.file("dir/late", 300_000)?;
    let refused = Tool::new(&lab.binary).arg("flush").arg(beside.mount.point()).run()?;
    ensure!(refused.code != 0 && refused.err.contains("there is no such folder"), "{refused:?}");
    beside.mount.stop()?;
    beside.mount.start()?;
    let words = beside.mount.last_words();
    ensure!(words.contains("note:") && words.contains("going on with what is here"), "the mount said {words}");
    beside.expect("dir/small", &small)?;
    ensure!(!store.exists(), "the folder was made anew");
    fs::rename(&elsewhere, &store)?;
    beside.ask(lab, &["flush"])?;
    // Killed while it stores: nothing stays behind once it has been mounted again.
    fs::write(store.join("blobs/00000000000000ff#1"), "half")?;
    beside.mount.kill()?;
    beside.mount.fsck()?;
    beside.mount.start()?;
    ensure!(!store.join("blobs/00000000000000ff#1").exists(), "what was cut short stays");
    beside.expect("dir/large", &large)?;
    // Deleted content leaves the folder, and the store goes with all that it made.
    fs::remove_dir_all(beside.mount.point().join("dir"))?;
    wait_until("the folder is empty", PATIENCE, || {
        beside.ask(lab, &["gc"])?;
        Ok(stored(&store)? == 0)
    })?;
    let said = Tool::new(&lab.binary).args(["store", "rm", "disk", "--mount"]).arg(beside.mount.point()).ok()?;
    ensure!(said.contains("free for another volume"), "store rm said {said:?}");
    ensure!(fs::read_dir(&store)?.count() == 0, "something is left in the folder");
    beside.expect("here", &here)?;
    beside.mount.stop()?;
    beside.mount.fsck()
}

fn first(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "folders")?;
    let key = scratch.path().join("key");
    fs::write(&key, format!("k:{}", "3c".repeat(32)))?;
    let store = scratch.folder("disk")?.join("store");
    let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?.with_arguments(&[
        "--store",
        &format!("file://{}", store.display()),
        "--store-compression",
        "zstd",
        "--store-key",
        &format!("file:{}", key.display()),
    ]);
    let mut beside = Beside { mount, scratch, seed: lab.seed };
    beside.mount.start()?;
    let random = beside.file("random", 5 << 20)?;
    let zeros = vec![b'z'; 30 << 20];
    fs::write(beside.mount.point().join("zeros"), &zeros)?;
    fs::File::open(beside.mount.point().join("random"))?.sync_all().during("fsync")?;
    ensure!(stored(&store)? >= 5 << 20, "fsync returned before it was in the folder");
    beside.ask(lab, &["flush"])?;
    let bytes = stored(&store)?;
    ensure!(bytes < 8 << 20, "{bytes} bytes of 35 MiB are in the folder: nothing was compressed");
    beside.remount_empty("")?;
    beside.expect("random", &random)?;
    beside.expect("zeros", &zeros)?;
    let scrubbed = beside.ask(lab, &["scrub"])?;
    ensure!(scrubbed.contains("all is as it was written"), "{scrubbed:?}");
    // A copy of the data folder takes it over.
    beside.mount.stop()?;
    let second = Scratch::new(&lab.scratch, "folders")?;
    let copy = second.path().join("data");
    Tool::new("cp").arg("-a").arg(beside.mount.data()).arg(&copy).ok()?;
    let mut other = lab.mount_on(&copy, &second)?;
    other.start()?;
    other.stop()?;
    ensure!(beside.mount.start().is_err(), "the older copy was mounted");
    let words = beside.mount.last_words();
    ensure!(words.contains("another copy of this data folder"), "{words}");
    Ok(())
}

fn refusals(lab: &Lab) -> Check {
    let beside = Beside::new(lab, &[])?;
    let (mount, data, disk) = (beside.mount.point(), beside.mount.data(), beside.disk());
    fs::create_dir(mount.join("inside"))?;
    std::os::unix::fs::symlink(mount, disk.join("link"))?;
    let taken = disk.join("taken");
    fs::create_dir(&taken)?;
    let mark = "nexus volume in an object store, format 1\nvolume somebody\nepoch 1\nword x\n";
    fs::write(taken.join("NEXUS"), mark)?;
    for (path, says) in [
        (mount.join("inside"), "a mount of Nexus"),
        (disk.join("link/inside"), "a mount of Nexus"),
        (data.to_owned(), "must not lie in each other"),
        (data.join("blobs"), "must not lie in each other"),
        (taken.clone(), "volume somebody has its content in"),
        (taken.join("below"), "is another store"),
        (disk.join("not/there"), "make it"),
    ] {
        let refused = beside.add(lab, "x", &format!("file://{}", path.display()))?;
        ensure!(refused.code != 0 && refused.err.contains(says), "{}: {refused:?}", path.display());
    }
    ensure!(!disk.join("not").exists() && !taken.join("below").exists(), "a folder was made for nothing");
    let refused = beside.add(lab, "x", "file://relative")?;
    ensure!(refused.code != 0 && refused.err.contains("absolute path"), "{refused:?}");
    // Mounted over its own store, it would wait for itself.
    let second = Scratch::new(&lab.scratch, "folders")?;
    let over = second.folder("over")?;
    let ended = Tool::new(&lab.binary)
        .arg("mount")
        .arg(&over)
        .arg("--data")
        .arg(second.path().join("data"))
        .args(["--store", &format!("file://{}/store", over.display())])
        .run()?;
    ensure!(ended.code != 0 && ended.err.contains("outside of all of them"), "{ended:?}");
    ensure!(!second.path().join("data").exists(), "a data folder was made");
    beside.finish()
}

fn memory(lab: &Lab) -> Check {
    let second = Scratch::new(&lab.scratch, "folders")?;
    let refused = Tool::new(&lab.binary)
        .arg("mount")
        .arg(second.folder("point")?)
        .arg("--data")
        .arg(second.path().join("data"))
        .args(["--store", "memory://"])
        .run()?;
    ensure!(refused.code != 0 && refused.err.contains("--volatile"), "{refused:?}");
    ensure!(!second.path().join("data").exists(), "a data folder was made");
    // A volume of which all goes.
    let mut gone = Beside::new(lab, &["--store", "memory://", "--volatile"])?;
    let content = gone.file("file", 10 << 20)?;
    gone.ask(lab, &["flush"])?;
    gone.expect("file", &content)?;
    ensure!(gone.ask(lab, &["status"])?.contains("GONE when the daemon ends"), "status does not mark it");
    gone.mount.stop()?;
    let words = gone.mount.last_words();
    ensure!(words.contains("all of it is gone once it is unmounted"), "the mount said {words}");
    gone.mount.start()?;
    ensure!(fs::read_dir(gone.mount.point())?.count() == 0, "a throwaway volume began with something in it");
    gone.file("again", 1 << 20)?;
    gone.ask(lab, &["flush"])?;
    gone.mount.stop()?;
    // A store beside one that lasts: only what was there is lost, and that is said.
    let mut beside = Beside::new(lab, &[])?;
    let said = beside.add(lab, "mem", "memory://")?;
    ensure!(said.code == 0 && said.out.contains("GONE when the daemon ends"), "{said:?}");
    let listed = Tool::new(&lab.binary).args(["store", "ls", "--mount"]).arg(beside.mount.point()).ok()?;
    ensure!(listed.contains("memory:// (in memory: GONE"), "store ls said {listed:?}");
    fs::create_dir(beside.mount.point().join("dir"))?;
    Tool::new(&lab.binary).arg("place").arg(beside.mount.point().join("dir")).arg("mem").ok()?;
    let lost = beside.file("dir/lost", 2 << 20)?;
    let kept = beside.file("kept", 1 << 20)?;
    beside.ask(lab, &["flush"])?;
    beside.expect("dir/lost", &lost)?;
    // A crash loses it as well, and nothing that was synced after it.
    let synced = beside.file("synced", 100_000)?;
    fs::File::open(beside.mount.point().join("synced"))?.sync_all().during("fsync")?;
    beside.mount.kill()?;
    fs::remove_dir_all(beside.mount.data().join("cache.1"))?;
    beside.mount.start().during("after a crash")?;
    beside.expect("synced", &synced)?;
    ensure!(beside.mount.point().join("dir/lost").metadata()?.len() == 2 << 20, "its name is lost, too");
    beside.mount.stop()?;
    fs::create_dir_all(beside.mount.data().join("cache.1"))?;
    fs::remove_dir_all(beside.mount.data().join("cache.1"))?;
    beside.mount.start()?;
    let words = beside.mount.last_words();
    ensure!(words.contains("store mem was in memory"), "the mount said {words}");
    beside.expect("kept", &kept)?;
    let read = fs::read(beside.mount.point().join("dir/lost"));
    let errno = read.err().and_then(|error| error.raw_os_error());
    ensure!(errno == Some(rustix::io::Errno::IO.raw_os_error()), "lost content gave {errno:?}");
    let anew = beside.file("dir/lost", 3 << 20)?;
    beside.ask(lab, &["flush"])?;
    beside.expect("dir/lost", &anew)?;
    fs::remove_dir_all(beside.mount.point().join("dir"))?;
    wait_until("the store can be taken away", PATIENCE, || {
        let tool = Tool::new(&lab.binary).args(["store", "rm", "mem", "--mount"]).arg(beside.mount.point());
        Ok(tool.run()?.code == 0)
    })?;
    beside.mount.stop()?;
    beside.mount.fsck()
}
