//! Volumes whose content is compressed and encrypted on its way to the bucket.

use std::fs;
use std::path::Path;

use super::{Far, drop_caches};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::Tool;

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("content is compressed and encrypted, and its key is needed", coded),
        Case::new("keys are rotated", rotated),
        Case::new("a key that would encrypt nothing is refused", useless),
    ]
}

const SENTENCE: &str = "nobody but us may read this. ";

fn write_key(path: &Path, lines: &[(&str, u8)]) -> Check {
    let text: String =
        lines.iter().map(|(name, byte)| format!("{name}:{}\n", format!("{byte:02x}").repeat(32))).collect();
    fs::write(path, text).during("writing the key")
}

/// Bytes of all objects, and whether any of them holds `text`.
fn in_bucket(far: &Far, text: &str) -> Check<(u64, bool)> {
    let (mut bytes, mut seen) = (0, false);
    for blob in far.server.blobs("volume")? {
        let content = fs::read(&blob)?;
        bytes += content.len() as u64;
        seen |= content.windows(text.len()).any(|window| window == text.as_bytes());
    }
    Ok((bytes, seen))
}

fn coded(lab: &Lab) -> Check {
    let keys = Scratch::new(&lab.scratch, "key")?;
    let key = keys.path().join("key");
    write_key(&key, &[("first", 0x5a)])?;
    let source = format!("file:{}", key.display());
    let mut far = Far::with(lab, "store", &["--store-compression", "zstd", "--store-key", &source])?;
    let text = SENTENCE.repeat(200_000);
    fs::write(far.mount.point().join("text"), &text)?;
    let noise = far.file("noise", 3 << 20)?;
    far.flush(lab)?;
    let (bytes, seen) = in_bucket(&far, "nobody")?;
    ensure!(!seen, "the bucket holds what was to be encrypted");
    ensure!((3 << 20..4 << 20).contains(&bytes), "{bytes} bytes are in the bucket, of 3 MiB noise and much text");
    far.remount_empty()?;
    far.expect("text", text.as_bytes())?;
    far.expect("noise", &noise)?;
    let mut random = Random::new(far.seed);
    let file = fs::File::open(far.mount.point().join("noise"))?;
    drop_caches()?;
    for _ in 0..50 {
        let at = random.below(3 << 20) as usize;
        let len = (random.below(200_000) as usize).min(noise.len() - at);
        let mut read = vec![0; len];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, at as u64)?;
        ensure!(
            noise.get(at..at + len) == Some(&read),
            "{at}..{} is not what was written, with seed {}",
            at + len,
            far.seed
        );
    }
    drop(file);
    // Damage in the bucket is never content.
    let scrubbed = Tool::new(&lab.binary).arg("scrub").arg(far.mount.point()).run()?;
    ensure!(scrubbed.code == 0, "{:?} {:?}", scrubbed.out, scrubbed.err);
    far.mount.stop()?;
    // With another key, or none, it is not mounted, and nothing is changed: not whose the bucket is either.
    let whose = far.server.claim("volume");
    let before = fs::read(&whose).during("reading whose the bucket is")?;
    for (change, says) in [(Some(0x11), "is not the one that this store was first used with"), (None, "can't be read")]
    {
        match change {
            Some(byte) => write_key(&key, &[("other", byte)])?,
            None => fs::remove_file(&key)?,
        }
        match far.mount.start() {
            Ok(()) => fail!("it was mounted without its key"),
            Err(stop) => ensure!(stop.reason().contains(says), "{stop:?}"),
        }
        ensure!(fs::read(&whose)? == before, "who was refused for the key took the bucket over");
    }
    write_key(&key, &[("first", 0x5a)])?;
    far.mount.start()?;
    far.expect("text", text.as_bytes())?;
    let log = fs::read_to_string(far.mount.data().join("daemon.log")).unwrap_or_default();
    let format = fs::read_to_string(far.mount.data().join("FORMAT"))?;
    ensure!(!log.contains("5a5a5a") && !format.contains("5a5a5a"), "the key was written down");
    far.mount.stop()?;
    far.mount.fsck()
}

fn rotated(lab: &Lab) -> Check {
    let keys = Scratch::new(&lab.scratch, "key")?;
    let key = keys.path().join("key");
    write_key(&key, &[("first", 1)])?;
    let source = format!("command:cat {}", key.display());
    let mut far = Far::with(lab, "store", &["--store-compression", "lz4", "--store-key", &source])?;
    let before = far.file("before", 2 << 20)?;
    far.flush(lab)?;
    far.mount.stop()?;
    write_key(&key, &[("second", 2), ("first", 1)])?;
    far.mount.start()?;
    let after = far.file("after", 1 << 20)?;
    far.flush(lab)?;
    far.remount_empty()?;
    far.expect("before", &before)?;
    far.expect("after", &after)?;
    // All is found again by a deep check without a mount, too.
    far.mount.stop()?;
    Tool::new(&lab.binary)
        .args(["fsck", "--deep"])
        .arg(far.mount.data())
        .env("AWS_ACCESS_KEY_ID", "nexus-test")
        .env("AWS_SECRET_ACCESS_KEY", "nexus-test")
        .env("AWS_REGION", "us-east-1")
        .ok()?;
    // Nobody's command runs but one's own.
    let data = far.mount.data().to_owned();
    let check = || Tool::new(&lab.binary).args(["fsck"]).arg(&data).run();
    std::os::unix::fs::chown(&data, Some(12_345), None).during("giving the data folder away")?;
    let refused = check();
    std::os::unix::fs::chown(&data, Some(0), None).during("taking the data folder back")?;
    let refused = refused?;
    ensure!(refused.code != 0 && refused.err.contains("belongs to another user"), "{:?}", refused.err);
    far.mount.start()?;
    far.finish()
}

fn useless(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "useless")?;
    let key = scratch.path().join("key");
    write_key(&key, &[("first", 1)])?;
    let (data, point) = (scratch.path().join("data"), scratch.path().join("point"));
    fs::create_dir(&point)?;
    let mount = || Mount::new(&lab.binary, &data, &point, &scratch.path().join("log"));
    let source = format!("file:{}", key.display());
    let refused = || match mount().with_arguments(&["--store-key", &source]).start() {
        Ok(()) => fail!("a volume on this disk was mounted with a key"),
        Err(stop) => {
            ensure!(stop.reason().contains("stays on this disk"), "{stop:?}");
            Ok(())
        }
    };
    refused()?;
    ensure!(!data.join("FORMAT").exists(), "a volume was made");
    let mut plain = mount();
    plain.start()?;
    plain.stop()?;
    refused()?;
    plain.fsck()
}
