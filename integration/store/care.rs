//! What is looked after in a bucket: sparse objects are emptied, what is lost is repaired, and a prefix is
//! free once its store is taken away.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::server::Server;
use super::{Far, PATIENCE};
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// How long the collector may take by itself: graces, waiting until a copy is idle, sending it.
const COLLECTED: Duration = Duration::from_secs(180);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("objects of which little is live are emptied", emptied),
        Case::new("what is lost in a bucket is repaired", repaired),
        Case::new("a prefix is free again once its store is taken away", freed),
    ]
}

fn bytes(blobs: &[PathBuf]) -> u64 {
    // One may go meanwhile.
    blobs.iter().filter_map(|blob| blob.metadata().ok()).map(|meta| meta.len()).sum()
}

fn emptied(lab: &Lab) -> Check {
    const FILES: usize = 2000;
    let mut far = Far::new(lab, "store")?;
    let mut random = Random::new(far.seed);
    let point = far.mount.point().to_owned();
    let of = |i: usize| Random::new(lab.seed ^ ((i as u64 + 1) << 20));
    let len = |i: usize| 4096 + of(i).below(60_000);
    let content = |i: usize| of(i).bytes(len(i) as usize);
    fs::create_dir(point.join("d"))?;
    for i in 0..FILES {
        fs::write(point.join(format!("d/{i}")), content(i))?;
    }
    far.flush(lab)?;
    let before = far.server.blobs("volume")?;
    let all: u64 = (0..FILES).map(len).sum();
    ensure!(bytes(&before) >= all, "{} bytes of {all} are in the bucket", bytes(&before));
    let mut kept: Vec<usize> = (0..FILES).collect();
    while kept.len() > FILES * 4 / 10 {
        let gone = kept.swap_remove(random.below(kept.len() as u64) as usize);
        fs::remove_file(point.join(format!("d/{gone}")))?;
    }
    let live: u64 = kept.iter().map(|i| len(*i)).sum();
    // Nobody asks for it.
    wait_until("the bucket has shrunk", COLLECTED, || Ok(bytes(&far.server.blobs("volume")?) < 2 * live))?;
    let after = far.server.blobs("volume")?;
    println!(
        "        {FILES} files, {} left: {} MiB in {} objects, then {} MiB in {} for {} MiB that are live",
        kept.len(),
        bytes(&before) >> 20,
        before.len(),
        bytes(&after) >> 20,
        after.len(),
        live >> 20
    );
    far.flush(lab)?;
    far.remount_empty()?;
    for i in kept {
        far.expect(&format!("d/{i}"), &content(i))?;
    }
    far.finish()
}

fn repaired(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let kept = far.file("kept", 3 << 20)?;
    far.flush(lab)?;
    let before = far.server.blobs("volume")?;
    far.file("lost", 2 << 20)?;
    far.flush(lab)?;
    let lost: Vec<PathBuf> = far.server.blobs("volume")?.into_iter().filter(|blob| !before.contains(blob)).collect();
    ensure!(!lost.is_empty(), "the second file made no object");
    far.mount.stop()?;
    far.mount.fsck()?;
    let fsck = |far: &Far, more: &[&str]| far.mount.program().arg("fsck").args(more).arg(far.mount.data()).run();
    let clean = fsck(&far, &["--repair"])?;
    ensure!(clean.code == 0 && clean.out.contains("nothing needed a repair"), "{clean:?}");
    // The bucket is away, or another one: nothing counts as lost.
    far.server.stop()?;
    let away = fsck(&far, &["--repair"])?;
    ensure!(away.code > 1 && away.err.contains("s3://"), "without the server: {away:?}");
    far.server.resume()?;
    let claim = far.server.claim("volume");
    let elsewhere = far.server.folder().join("elsewhere");
    let volume = claim.with_file_name("");
    fs::rename(&volume, &elsewhere)?;
    let other = fsck(&far, &["--repair"])?;
    ensure!(other.code > 1 && other.err.contains("lost what says whose it is"), "in another bucket: {other:?}");
    // It may have left folders there.
    let _ = fs::remove_dir_all(&volume);
    fs::rename(&elsewhere, &volume)?;
    // An object is gone, and its copy on this disk, too.
    for blob in &lost {
        fs::remove_file(blob)?;
    }
    fs::remove_dir_all(far.mount.data().join("cache"))?;
    ensure!(far.mount.start().is_err(), "a volume that has lost content was mounted without a word");
    far.mount.clear().or_else(|_| far.mount.kill())?;
    let words = far.mount.last_words();
    ensure!(words.contains("is missing, though files refer to"), "the mount said {words}");
    ensure!(fsck(&far, &[])?.code == 1, "fsck finds nothing");
    let dry = fsck(&far, &["--repair", "--dry-run"])?;
    ensure!(dry.code == 1 && dry.out.contains("/lost would be gone"), "{dry:?}");
    let repaired = fsck(&far, &["--repair"])?;
    ensure!(repaired.code == 1 && repaired.out.contains("bytes of /lost are gone"), "{repaired:?}");
    ensure!(!repaired.out.contains("/kept"), "{repaired:?}");
    far.mount.fsck().during("after the repair")?;
    far.mount.start().during("after the repair")?;
    far.expect("kept", &kept)?;
    let errno = fs::read(far.mount.point().join("lost")).err().and_then(|error| error.raw_os_error());
    ensure!(errno == Some(rustix::io::Errno::IO.raw_os_error()), "lost content gave {errno:?}");
    let anew = far.file("lost", 1 << 20)?;
    far.flush(lab)?;
    far.remount_empty()?;
    far.expect("kept", &kept)?;
    far.expect("lost", &anew)?;
    far.mount.stop()?;
    far.mount.fsck()
}

fn freed(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let server = Server::start(lab, &scratch)?;
    let mut mount = server.credentials(lab.mount_on(&scratch.path().join("data"), &scratch)?);
    mount.start()?;
    let volume = |arguments: &[&str]| Tool::new(&lab.binary).args(arguments).arg("--mount").arg(mount.point());
    let (url, endpoint) = (server.url("shared"), server.endpoint());
    volume(&["store", "add", "far", &url, "--endpoint", &endpoint]).ok()?;
    let dir = mount.point().join("dir");
    fs::create_dir(&dir)?;
    Tool::new(&lab.binary).arg("place").arg(&dir).arg("far").ok()?;
    fs::write(dir.join("file"), vec![1; 1 << 20])?;
    Tool::new(&lab.binary).arg("flush").arg(mount.point()).ok()?;
    fs::remove_dir_all(&dir)?;
    ensure!(server.claim("shared").exists(), "nothing says whose the prefix is");
    // Somebody's object among the volume's: the claim stays, and that is said.
    let foreign = server.claim("shared").with_file_name("blobs").join("00000000000000aa");
    fs::create_dir_all(server.claim("shared").with_file_name("blobs"))?;
    fs::write(&foreign, "foreign")?;
    let mut told = String::new();
    wait_until("nothing is placed there", PATIENCE, || {
        let ended = volume(&["store", "rm", "far"]).run()?;
        told = ended.out;
        Ok(ended.code == 0)
    })?;
    ensure!(told.contains("still has objects that no file refers to"), "store rm said {told:?}");
    ensure!(server.claim("shared").exists(), "the claim went though objects are left");
    fs::remove_file(&foreign)?;
    // Deleted by hand, as it was told.
    fs::remove_file(server.claim("shared"))?;
    let said = volume(&["store", "add", "new", &url, "--endpoint", &endpoint]).ok()?;
    ensure!(said.contains("is store new"), "{said:?}");
    let said = volume(&["store", "rm", "new"]).ok()?;
    ensure!(said.contains("free for another volume"), "store rm said {said:?}");
    ensure!(!server.claim("shared").exists(), "the claim is left");
    // Another volume has it now.
    let second = Scratch::new(&lab.scratch, "store")?;
    let mut other = server.mount(lab, &second, "shared")?;
    other.start()?;
    fs::write(other.point().join("file"), "theirs")?;
    Tool::new(&lab.binary).arg("flush").arg(other.point()).ok()?;
    other.stop()?;
    other.fsck()?;
    let refused = volume(&["store", "add", "taken", &url, "--endpoint", &endpoint]).run()?;
    ensure!(refused.code != 0 && refused.err.contains("choose a prefix of its own"), "{refused:?}");
    mount.stop()?;
    mount.check_log()?;
    mount.fsck()
}
