//! Volumes whose content is in a real S3 server over HTTP: what a user does with one, what it
//! costs in requests, and what happens while the server is away, silent, or wrong.

mod away;
mod backlog;
mod care;
mod coded;
mod failpoints;
mod folders;
mod limits;
mod prompt;
pub mod server;
mod several;
mod waiting;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::{Mount, is_mount_point};
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};
use crate::tree;

use server::Server;

/// How long a request may be tried again before it fails, and then some.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest that a local change may take while the server does not answer.
const PROMPT: Duration = Duration::from_secs(5);

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = several::cases();
    cases.extend(away::cases());
    cases.extend(backlog::cases());
    cases.extend(care::cases());
    cases.extend(coded::cases());
    cases.extend(failpoints::cases());
    cases.extend(folders::cases());
    cases.extend(limits::cases());
    cases.extend(prompt::cases());
    cases.extend(waiting::cases());
    cases.extend([
        Case::new("a volume comes back from its bucket", comes_back),
        Case::new("small files share requests", requests),
        Case::new("the server is away for a while", away),
        Case::new("the server does not answer", silent),
        Case::new("the daemon is killed while it sends", killed),
        Case::new("an object is damaged", damaged),
        Case::new("deleted content leaves the bucket", deleted),
        Case::new("what can't be used is refused before anything is made", refusals),
        Case::new("a copy of the data folder shuts the original out", copied),
    ]);
    cases
}

/// A server and a volume in it.
struct Far {
    // In the order in which they have to go.
    mount: Mount,
    server: Server,
    _scratch: Scratch,
    seed: u64,
}

impl Far {
    fn new(lab: &Lab, name: &str) -> Check<Far> {
        Far::with(lab, name, &[])
    }

    /// With more arguments of `mount`.
    fn with(lab: &Lab, name: &str, arguments: &[&str]) -> Check<Far> {
        let scratch = Scratch::new(&lab.scratch, name)?;
        let server = Server::start(lab, &scratch)?;
        let mut mount = server.mount(lab, &scratch, "volume")?.with_arguments(arguments);
        mount.start()?;
        Ok(Far { mount, server, _scratch: scratch, seed: lab.seed })
    }

    /// Sends all that is only here.
    fn flush(&self, lab: &Lab) -> Check {
        Tool::new(&lab.binary).arg("flush").arg(self.mount.point()).ok().map(drop)
    }

    /// Unmounts, forgets what is cached, mounts again.
    fn remount_empty(&mut self) -> Check {
        self.mount.stop()?;
        self.mount.fsck()?;
        fs::remove_dir_all(self.mount.data().join("cache")).during("forgetting the cache")?;
        self.mount.start()
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

    /// A counter from `status`.
    fn counter(&self, lab: &Lab, name: &str) -> Check<u64> {
        let said = Tool::new(&lab.binary).args(["status", "--json"]).arg(self.mount.point()).ok()?;
        let found = said.split_once(&format!("\"{name}\": ")).and_then(|(_, rest)| rest.split([',', '\n']).next());
        match found.and_then(|number| number.trim().parse().ok()) {
            Some(number) => Ok(number),
            None => fail!("status does not tell {name}: {said}"),
        }
    }

    fn finish(mut self) -> Check {
        self.mount.stop()?;
        self.mount.check_log()?;
        self.mount.fsck()
    }
}

/// Has the kernel forget all pages and names.
fn drop_caches() -> Check {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").during("dropping caches")
}

fn comes_back(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let point = far.mount.point().to_owned();
    Tool::shell("mkdir -p a/b; for i in $(seq 300); do head -c $((i * 97)) /dev/zero | tr '\\0' \"$((i % 10))\" > a/b/$i; done; ln -s b a/l; ln a/b/7 a/hard; mkfifo a/fifo; truncate -s 5M a/sparse; setfattr -n user.x -v y a/b/1")
        .within(&point)
        .ok()?;
    let large = far.file("large", 150 << 20)?;
    far.flush(lab)?;
    ensure!(!far.server.blobs("volume")?.is_empty(), "nothing is in the bucket");
    ensure!(far.counter(lab, "waiting_bytes")? == 0, "something is still only here");
    let before = tree::read(&point)?;
    far.remount_empty()?;
    far.expect("large", &large)?;
    let after = tree::read(&point)?;
    for (name, entry) in &before {
        ensure!(after.get(name) == Some(entry), "{} has changed", String::from_utf8_lossy(name));
    }
    ensure!(after.len() == before.len(), "there are {} names, not {}", after.len(), before.len());
    far.finish()
}

fn requests(lab: &Lab) -> Check {
    const FILES: usize = 10_000;
    let mut far = Far::new(lab, "store")?;
    let point = far.mount.point().to_owned();
    let common = Random::new(far.seed).bytes(4088);
    let content = |i: usize| [&i.to_le_bytes(), common.as_slice()].concat();
    for i in 0..FILES {
        fs::write(point.join(i.to_string()), content(i))?;
    }
    rustix::fs::sync();
    far.flush(lab)?;
    let puts = far.counter(lab, "puts")?;
    ensure!(puts <= 20, "{puts} puts for {FILES} files");
    far.remount_empty()?;
    let before = far.counter(lab, "gets")?;
    for i in 0..FILES {
        ensure!(fs::read(point.join(i.to_string()))? == content(i), "file {i} is not what was written");
    }
    let gets = far.counter(lab, "gets")? - before;
    println!("  {FILES} files of 4 KiB: {puts} puts, {gets} gets");
    ensure!(gets <= 40, "{gets} gets for {FILES} files in order");
    far.finish()
}

fn away(lab: &Lab) -> Check {
    let mut far = Far::with(lab, "store", &["--store-fsync", "local"])?;
    let sent = far.file("sent", 20 << 20)?;
    far.flush(lab)?;
    let waiting = far.file("waiting", 5 << 20)?;
    far.server.stop()?;
    drop_caches()?;
    far.expect("sent", &sent)?;
    far.expect("waiting", &waiting)?;
    let more = far.file("more", 3 << 20)?;
    fs::File::open(far.mount.point().join("more"))?.sync_all().during("fsync while the server is away")?;
    let refused = Tool::new(&lab.binary).arg("flush").arg(far.mount.point()).run()?;
    ensure!(refused.code != 0 && refused.err.contains("s3://"), "flush said {:?} {:?}", refused.out, refused.err);
    // A mount without the server, too.
    far.mount.stop()?;
    far.mount.start()?;
    drop_caches()?;
    far.expect("sent", &sent)?;
    far.server.resume()?;
    far.flush(lab).during("once the server is back")?;
    ensure!(far.counter(lab, "waiting_bytes")? == 0, "something is still only here");
    far.remount_empty()?;
    for (name, content) in [("sent", &sent), ("waiting", &waiting), ("more", &more)] {
        far.expect(name, content)?;
    }
    // What it said of the server being away is no error of its own.
    far.mount.stop()?;
    far.mount.fsck()
}

fn silent(lab: &Lab) -> Check {
    let mut far = Far::with(lab, "store", &["--store-fsync", "local"])?;
    let sent = far.file("sent", 4 << 20)?;
    far.flush(lab)?;
    far.remount_empty()?;
    far.server.signal(Signal::STOP)?;
    let path = far.mount.point().join("sent");
    let reader = std::thread::spawn(move || fs::read(path));
    let started = Instant::now();
    for i in 0..50 {
        let path = far.mount.point().join(format!("local{i}"));
        let mut file = fs::File::create(&path)?;
        file.write_all(b"here")?;
        file.sync_all()?;
        fs::metadata(&path)?;
    }
    let took = started.elapsed();
    far.server.signal(Signal::CONT)?;
    ensure!(took < PROMPT, "50 local files took {took:?} while a reader waited for the server");
    match reader.join() {
        Ok(Ok(read)) => ensure!(read == sent, "the reader got something else"),
        Ok(Err(error)) => fail!("the reader that waited got {error}"),
        Err(_) => fail!("the reader panicked"),
    }
    far.finish()
}

fn killed(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let contents: Vec<Vec<u8>> = (0..6).map(|i| far.file(&format!("f{i}"), (30 << 20) + i)).collect::<Check<_>>()?;
    let mut seen = 0;
    for round in 0..3 {
        let mut flush = std::process::Command::new(&lab.binary);
        flush.arg("flush").arg(far.mount.point()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut flush = flush.spawn()?;
        let blobs = || far.server.blobs("volume").map(|blobs| blobs.len());
        let come = wait_until("something is sent", PATIENCE, || Ok(blobs()? > seen || flush.try_wait()?.is_some()));
        far.mount.kill()?;
        flush.wait()?;
        come?;
        seen = far.server.blobs("volume")?.len();
        far.mount.fsck().during(format!("after kill {round}"))?;
        far.mount.start()?;
        for (i, content) in contents.iter().enumerate() {
            far.expect(&format!("f{i}"), content).during(format!("after kill {round}"))?;
        }
    }
    far.flush(lab)?;
    far.remount_empty()?;
    for (i, content) in contents.iter().enumerate() {
        far.expect(&format!("f{i}"), content)?;
    }
    far.finish()
}

fn damaged(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let content = far.file("file", 1 << 20)?;
    far.flush(lab)?;
    let blob = match far.server.blobs("volume")?.pop() {
        Some(blob) => blob,
        None => fail!("nothing is in the bucket"),
    };
    far.remount_empty()?;
    let object = fs::OpenOptions::new().read(true).write(true).open(&blob)?;
    let mut byte = [0];
    object.read_exact_at(&mut byte, 700_000)?;
    object.write_all_at(&[byte[0] ^ 0x40], 700_000)?;
    let mut read = Vec::new();
    let outcome = fs::File::open(far.mount.point().join("file"))?.read_to_end(&mut read);
    let errno = outcome.err().and_then(|error| error.raw_os_error());
    ensure!(errno == Some(rustix::io::Errno::IO.raw_os_error()), "reading damaged content gave {errno:?}");
    ensure!(content.starts_with(&read), "wrong bytes were given before the error");
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let said = far.mount.last_words();
    ensure!(said.contains(&name), "the log does not name blob {name}: {said}");
    // Put right again, it is read without a remount.
    object.write_all_at(&byte, 700_000)?;
    drop_caches()?;
    far.expect("file", &content)?;
    far.mount.stop()?;
    far.mount.fsck()
}

fn deleted(lab: &Lab) -> Check {
    let far = Far::new(lab, "store")?;
    far.file("gone", 40 << 20)?;
    // What is deleted before it was sent never goes up, nor holds a flush.
    far.file("never", 8 << 20)?;
    fs::remove_file(far.mount.point().join("never"))?;
    let kept = far.file("kept", 1 << 20)?;
    far.flush(lab)?;
    let stored = || -> Check<u64> {
        let blobs = far.server.blobs("volume")?;
        // One may go meanwhile.
        Ok(blobs.iter().filter_map(|blob| blob.metadata().ok()).map(|meta| meta.len()).sum())
    };
    // Nothing of it was brought back at once, though a part of what was sent with it is dead.
    ensure!(stored()? > 40 << 20, "it is not in the bucket: {} bytes are", stored()?);
    fs::remove_file(far.mount.point().join("gone"))?;
    wait_until("the bucket holds little more than what is kept", PATIENCE, || {
        Tool::new(&lab.binary).arg("gc").arg(far.mount.point()).ok()?;
        Ok(stored()? < 4 << 20)
    })?;
    far.expect("kept", &kept)?;
    far.finish()
}

fn refusals(lab: &Lab) -> Check {
    let far = Far::new(lab, "store")?;
    let second = Scratch::new(&lab.scratch, "store")?;
    let refused = |url: &str, key: &str, says: &str| -> Check {
        let data = second.path().join("data");
        let ended = Tool::new(&lab.binary)
            .arg("mount")
            .arg(second.path().join("point"))
            .arg("--data")
            .arg(&data)
            .args(["--store", url, "--endpoint", &far.server.endpoint()])
            .env("AWS_ACCESS_KEY_ID", "nexus-test")
            .env("AWS_SECRET_ACCESS_KEY", key)
            .env("AWS_REGION", "us-east-1")
            .run()?;
        ensure!(ended.code != 0 && ended.err.contains(says), "{url}: {} {:?}", ended.code, ended.err);
        ensure!(!ended.err.contains("nexus-test"), "a key is told: {}", ended.err);
        ensure!(!data.exists(), "{url}: a data folder was made");
        Ok(())
    };
    refused(&far.server.url("volume"), "nexus-test", "choose a prefix of its own")?;
    refused(&far.server.url("other"), "wrong", "secret key does not fit")?;
    refused("s3://bucket", "wrong", "secret key does not fit")?;
    refused("ftp://bucket/x", "nexus-test", "its scheme is not known")?;
    ensure!(!far.server.folder().join("bucket/other").exists(), "something was written");
    refused_by_service(lab, &far.server)?;
    far.finish()
}

/// The library that tells a program another time.
fn faketime() -> Check<String> {
    let path = |entry: fs::DirEntry| entry.path().join("faketime/libfaketime.so.1");
    match fs::read_dir("/usr/lib")?.flatten().map(path).find(|path| path.exists()) {
        Some(path) => Ok(path.to_string_lossy().into_owned()),
        None => fail!("libfaketime is not installed"),
    }
}

/// What the service refuses is told in one sentence that says what to do, by `mount`, `store test` and `attach` alike.
fn refused_by_service(lab: &Lab, server: &Server) -> Check {
    fs::create_dir_all(server.folder().join("abroad"))?;
    let scratch = Scratch::new(&lab.scratch, "store")?;
    let ours = "nexus-test";
    let other = server.url("other");
    let library = faketime()?;
    let wrong_clock = [("LD_PRELOAD", &*library), ("FAKETIME", "+1h")];
    let right = &[][..];
    let meets = [
        ("nexus-expired", &*other, right, "the credentials have expired: renew them"),
        ("nexus-unknown", &other, right, "the access key is not known there"),
        ("nexus-reader", &other, right, "the key must be allowed to list, read, write and delete"),
        (ours, "s3://abroad/other", right, "the bucket is in another region: name it with --region"),
        (ours, "s3://nowhere/other", right, "there is no such bucket: check its name, or make it"),
        (ours, &other, &wrong_clock, "this machine's clock is wrong: set it"),
    ];
    for (key, url, variables, says) in meets {
        let data = scratch.path().join("data");
        let point = scratch.path().join("point");
        let commands = [Tool::new(&lab.binary).args(["store", "test", url]), {
            let mount = Tool::new(&lab.binary).arg("mount").arg(&point).arg("--data").arg(&data);
            mount.args(["--store", url])
        }];
        for tool in commands {
            let tool = tool.args(["--endpoint", &server.endpoint()]).env("AWS_REGION", "us-east-1");
            let tool = tool.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", key);
            let tool = variables.iter().fold(tool, |tool, (name, value)| tool.env(name, value));
            let ended = tool.run()?;
            // `store test` tells what it tries line by line, and ends with what follows from it.
            let told = format!("{}{}", ended.out, ended.err);
            if ended.code == 0 && is_mount_point(&point)? {
                Tool::new(&lab.binary).arg("umount").arg(&point).run()?;
            }
            ensure!(ended.code != 0 && told.contains(says), "{key}, {url}: {ended:?}");
            ensure!(ended.err.trim().lines().count() == 1 && !told.contains(key), "{key}, {url}: {told}");
            ensure!(!data.exists(), "{key}, {url}: a data folder was made");
        }
    }
    ensure!(!server.folder().join("bucket/other").exists(), "something was written");
    Ok(())
}

fn copied(lab: &Lab) -> Check {
    let mut far = Far::new(lab, "store")?;
    let content = far.file("file", 1 << 20)?;
    far.flush(lab)?;
    far.mount.stop()?;
    let second = Scratch::new(&lab.scratch, "store")?;
    let copy = second.path().join("data");
    Tool::new("cp").arg("-a").arg(far.mount.data()).arg(&copy).ok()?;
    far.mount.start()?;
    let later = far.file("later", 1 << 20)?;
    far.flush(lab)?;
    // The copy was not opened since, and must not be any more.
    let mut other = far.server.credentials(lab.mount_on(&copy, &second)?);
    match other.start() {
        Ok(()) => fail!("an old copy was mounted"),
        Err(stop) => ensure!(stop.reason().contains("copy of this data folder"), "{stop:?}"),
    }
    far.expect("file", &content)?;
    far.expect("later", &later)?;
    far.finish()
}
