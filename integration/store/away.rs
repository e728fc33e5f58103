//! What a person is told at the shell: a store that is away, keys that don't come, credentials, what is
//! not sent at unmounting, and the figures.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::server::Server;
use super::{Far, PATIENCE, drop_caches};
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::mount::{is_mount_point, signal};
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// Longest that a mount may wait for a store that is away, and some for a machine that is busy.
const PROMPT: Duration = Duration::from_secs(25);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a store that is away at mounting is told of at once", mounting),
        Case::new("a command for keys that does not end is ended", key_command),
        Case::new("an added store has credentials of its own, or is told where they are missing", credentials),
        Case::new("unmounting waits until all is sent, if asked to", unmounting),
        Case::new("figures of stores are told, also as Prometheus takes them", figures),
    ]
}

fn mounting(lab: &Lab) -> Check {
    let mut far = Far::with(lab, "store", &["--store-fsync", "local"])?;
    let content = far.file("file", 1 << 20)?;
    far.flush(lab)?;
    far.mount.stop()?;
    for (how, silent) in [("refuses", false), ("is silent", true)] {
        if silent {
            far.server.signal(Signal::STOP)?;
        } else {
            far.server.stop()?;
        }
        let began = Instant::now();
        far.mount.start().during(how)?;
        println!("        the server {how}: mounted after {:.1} s", began.elapsed().as_secs_f64());
        ensure!(began.elapsed() < PROMPT, "mounting took {:?} while the server {how}", began.elapsed());
        // The note comes when the mount is there already.
        let notes =
            |words: &str| words.split(" | ").filter(|line| line.starts_with("note:") && line.contains("s3://")).count();
        wait_until("the mount tells of it", PROMPT, || Ok(notes(&far.mount.last_words()) > 0))?;
        let words = far.mount.last_words();
        let told = notes(&words);
        ensure!(told == 1 && words.contains("going on with what is here"), "the server {how}; told: {words}");
        far.expect("file", &content)?;
        far.mount.stop()?;
        // A new volume can't do without.
        let second = Scratch::new(&lab.scratch, "store")?;
        let (point, data) = (second.folder("point")?, second.path().join("data"));
        let tool = far.mount.program().arg("mount").arg(&point).arg("--data").arg(&data);
        let began = Instant::now();
        let url = far.server.url("new");
        let refused = tool.args(["--store", &url, "--endpoint", &far.server.endpoint()]).run()?;
        ensure!(began.elapsed() < PROMPT, "refusing took {:?} while the server {how}", began.elapsed());
        let lines = refused.err.trim().lines().count();
        ensure!(refused.code != 0 && refused.err.contains(&url) && lines == 1, "{refused:?}");
        ensure!(!data.exists() && !is_mount_point(&point)?, "something was made");
        if silent {
            far.server.signal(Signal::CONT)?;
        } else {
            far.server.resume()?;
        }
    }
    // It claims what it could not claim before.
    far.server.stop()?;
    far.mount.start()?;
    far.server.resume()?;
    let more = far.file("more", 2 << 20)?;
    far.flush(lab)?;
    far.remount_empty()?;
    far.expect("file", &content)?;
    far.expect("more", &more)?;
    far.mount.stop()?;
    far.mount.fsck()
}

fn key_command(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let server = Server::start(lab, &scratch)?;
    let data = scratch.path().join("data");
    let began = Instant::now();
    let refused = server
        .credentials(lab.mount_on(&data, &scratch)?)
        .program()
        .arg("mount")
        .arg(scratch.path().join("mnt"))
        .arg("--data")
        .arg(&data)
        .args(["--store", &server.url("volume"), "--endpoint", &server.endpoint()])
        .args(["--store-key", "command+2s:sleep 600; echo"])
        .run()?;
    ensure!(began.elapsed() < PROMPT, "it took {:?}", began.elapsed());
    ensure!(refused.code != 0 && refused.err.contains("took longer than 2 seconds"), "{refused:?}");
    ensure!(!data.exists() && !server.claim("volume").exists(), "something was made");
    Ok(())
}

fn credentials(lab: &Lab) -> Check {
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let server = Server::start(lab, &scratch)?;
    let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
    let mut mount = mount.with_variable("AWS_SHARED_CREDENTIALS_FILE", "/nowhere").with_variable("HOME", "/nowhere");
    mount.start()?;
    let add = |more: &[&str]| {
        let tool = Tool::new(&lab.binary).args(["store", "add", "far", &server.url("far")]);
        // What this command's environment has does not count.
        let tool = tool.env("AWS_ACCESS_KEY_ID", "nexus-test").env("AWS_SECRET_ACCESS_KEY", "nexus-test");
        tool.args(["--endpoint", &server.endpoint(), "--mount"]).arg(mount.point()).args(more).run()
    };
    let refused = add(&[])?;
    ensure!(
        refused.code != 0
            && refused.err.contains("its daemon, as it was started")
            && refused.err.contains("AWS_PROFILE"),
        "{refused:?}"
    );
    let keys = scratch.path().join("keys");
    let file = keys.to_string_lossy().into_owned();
    let refused = add(&["--credentials-file", &file])?;
    ensure!(refused.code != 0 && refused.err.contains("can't be read"), "{refused:?}");
    fs::write(&keys, "[work]\naws_access_key_id = nexus-test\naws_secret_access_key = nexus-test\n")?;
    let refused = add(&["--credentials-file", &file])?;
    ensure!(refused.code != 0 && refused.err.contains("under [default]"), "{refused:?}");
    let said = add(&["--credentials-file", &file, "--profile", "work", "--region", "us-east-1"])?;
    ensure!(said.code == 0 && said.out.contains("read by the daemon"), "{said:?}");
    fs::create_dir(mount.point().join("dir"))?;
    Tool::new(&lab.binary).arg("place").arg(mount.point().join("dir")).arg("far").ok()?;
    fs::write(mount.point().join("dir/file"), vec![7; 200_000])?;
    mount.stop()?;
    // They are found again at the next start, and written nowhere.
    mount.start()?;
    Tool::new(&lab.binary).arg("flush").arg(mount.point()).ok()?;
    ensure!(!server.blobs("far")?.is_empty(), "nothing is in the bucket");
    let told = Tool::new(&lab.binary).args(["status", "--json"]).arg(mount.point()).ok()?;
    ensure!(!told.contains("nexus-test"), "status tells a key");
    mount.stop()?;
    let stores = fs::read_to_string(mount.data().join("stores"))?;
    ensure!(stores.contains(&file) && !stores.contains("nexus-test"), "the data folder has a key: {stores}");
    let log = fs::read_to_string(scratch.path().join("daemon.log"))?;
    ensure!(!log.contains("nexus-test"), "the log has a key");
    mount.fsck()
}

fn unmounting(lab: &Lab) -> Check {
    let mut far = Far::with(lab, "store", &["--store-fsync", "local", "--store-upload-limit", "4M"])?;
    let content = far.file("file", 24 << 20)?;
    let mut waiting = Command::new(&lab.binary);
    waiting.args(["umount", "--wait"]).arg(far.mount.point());
    let mut waiting = waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let puts = || far.counter(lab, "puts");
    let before = puts()?;
    let begun = wait_until("something is sent", PATIENCE, || Ok(puts()? > before || waiting.try_wait()?.is_some()));
    signal(waiting.id(), Signal::INT)?;
    let ended = waiting.wait()?;
    begun?;
    let mut said = String::new();
    waiting.stderr.take().map(|mut err| err.read_to_string(&mut said)).transpose()?;
    ensure!(ended.code() == Some(130), "Ctrl-C ended it with {ended:?}: {said}");
    ensure!(said.contains(" sent") && said.contains("only on this disk"), "it said {said:?}");
    ensure!(is_mount_point(far.mount.point())?, "it is not mounted any more");
    // Without the store it stays mounted, too.
    far.server.stop()?;
    let refused = Tool::new(&lab.binary).args(["unmount", "--wait"]).arg(far.mount.point()).run()?;
    ensure!(refused.code == 1 && refused.err.contains("stays mounted"), "{refused:?}");
    ensure!(is_mount_point(far.mount.point())?, "it is not mounted any more");
    far.server.resume()?;
    Tool::new(&lab.binary).args(["umount", "--wait"]).arg(far.mount.point()).ok()?;
    far.mount.ended()?;
    fs::remove_dir_all(far.mount.data().join("cache"))?;
    far.mount.start()?;
    ensure!(far.counter(lab, "waiting_bytes")? == 0, "something was only here");
    far.expect("file", &content)?;
    // Without being asked to, it tells what stays.
    far.file("late", 3 << 20)?;
    let told = Tool::new(&lab.binary).arg("umount").arg(far.mount.point()).run()?;
    ensure!(told.code == 0 && told.err.contains("umount --wait"), "{told:?}");
    far.mount.ended()?;
    far.mount.fsck()
}

fn figures(lab: &Lab) -> Check {
    let mut far = Far::with(lab, "store", &["--store-fsync", "local", "--store-upload-limit", "16M"])?;
    let content = far.file("file", 20 << 20)?;
    far.flush(lab)?;
    ensure!(
        far.counter(lab, "throttled")? > 0 && far.counter(lab, "throttled_ms")? > 100,
        "nothing waited for the limit"
    );
    far.remount_empty()?;
    far.expect("file", &content)?;
    let (hits, misses) = (far.counter(lab, "cache_hits")?, far.counter(lab, "cache_misses")?);
    ensure!(misses > 0, "what was not here is no miss: {hits} hits");
    drop_caches()?;
    far.expect("file", &content)?;
    ensure!(far.counter(lab, "cache_hits")? > hits, "what was here is no hit");
    ensure!(far.counter(lab, "cache_misses")? == misses, "what was here is a miss");
    // The server goes while something is to be sent.
    far.file("late", 1 << 20)?;
    far.server.stop()?;
    ensure!(Tool::new(&lab.binary).arg("flush").arg(far.mount.point()).run()?.code != 0, "flush without a server");
    far.server.resume()?;
    ensure!(far.counter(lab, "failed_tries")? > 1 && far.counter(lab, "failures")? > 0, "no try has failed");
    far.flush(lab)?;
    let (puts, down) = (far.counter(lab, "puts")?, far.counter(lab, "bytes_down")?);
    let text = Tool::new(&lab.binary).arg("metrics").arg(far.mount.point()).ok()?;
    let value = |name: &str, label: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    for (name, label, wanted) in [
        ("nexus_healthy", "mount=", 1.0),
        ("nexus_store_requests_total", "operation=\"put\"", puts as f64),
        ("nexus_store_bytes_total", "direction=\"down\"", down as f64),
        ("nexus_store_limit_bytes_per_second", "direction=\"up\"", f64::from(16 << 20)),
        ("nexus_store_waiting_bytes", "store=\"default\"", 0.0),
    ] {
        ensure!(value(name, label) == Some(wanted), "{name} is {:?}, not {wanted}: {text}", value(name, label));
    }
    let file = far.mount.data().with_file_name("nexus.prom");
    Tool::new(&lab.binary).args(["metrics", "--out"]).arg(&file).arg(far.mount.point()).ok()?;
    let written = fs::read_to_string(&file)?;
    for line in written.lines().filter(|line| !line.starts_with("# ")) {
        let is_good = line.starts_with("nexus_") && line.rsplit(' ').next().is_some_and(|n| n.parse::<f64>().is_ok());
        ensure!(is_good, "{line:?} is no figure");
    }
    ensure!(written.lines().count() == text.lines().count(), "the file has other figures");
    far.mount.stop()?;
    far.mount.fsck()
}
