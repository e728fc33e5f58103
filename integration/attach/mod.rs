//! An existing bucket, in a real S3 server, as files on a living mount: what is done on either
//! side is seen on the other; the server is away; the daemon is killed.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::{Mount, is_mount_point};
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::store::server::Server;
use crate::tool::{Tool, wait_until};

/// Within this a change made elsewhere is seen, a bucket that is back is used, an error comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that the volume's own files may take while the server is away.
const PROMPT: Duration = Duration::from_secs(5);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("what is done here is done there", here_and_there),
        Case::new("changes made elsewhere are seen", elsewhere),
        Case::new("trees and large files come over whole", copies),
        Case::new("what can't be attached is refused", refusals),
        Case::new("the server is away for a while", away),
        Case::new("the server does not answer", silent),
        Case::new("limits are kept, and remembered", limits),
        Case::new("an attachment may have credentials of its own", credentials),
        Case::new("maps, random writes and appends", maps),
        Case::new("attachments come back after SIGKILL", killed),
        Case::new("a thousand and more objects are listed", many),
    ]
}

/// A volume with a bucket attached at `data`.
struct Bench {
    // In the order in which they have to go.
    mount: Mount,
    server: Server,
    _scratch: Scratch,
    seed: u64,
}

impl Bench {
    fn new(lab: &Lab) -> Check<Bench> {
        Bench::with_variables(lab, &[])
    }

    /// With other variables of the daemon's than those with the server's credentials.
    fn with_variables(lab: &Lab, variables: &[(&str, &str)]) -> Check<Bench> {
        let scratch = Scratch::new(&lab.scratch, "attach")?;
        let server = Server::start(lab, &scratch)?;
        let mut mount = server.credentials(lab.mount_on(&scratch.path().join("data"), &scratch)?);
        for (name, value) in variables {
            mount = mount.with_variable(name, value);
        }
        mount.start()?;
        let bench = Bench { mount, server, _scratch: scratch, seed: lab.seed };
        fs::create_dir(bench.mount.point().join("data"))?;
        fs::create_dir_all(bench.there(""))?;
        bench.listens()?;
        Ok(bench)
    }

    fn attached(lab: &Lab) -> Check<Bench> {
        let bench = Bench::new(lab)?;
        fs::write(bench.there("first"), "first")?;
        bench.attach("bucket/shared", &["--refresh", "1"]).ok()?;
        Ok(bench)
    }

    /// The control socket may come a little after the mount.
    fn listens(&self) -> Check {
        wait_until("the daemon can be asked", PATIENCE, || {
            Ok(self.mount.program().arg("status").arg(self.mount.point()).run()?.code == 0)
        })
    }

    fn attach(&self, bucket: &str, more: &[&str]) -> Tool {
        let tool = self.mount.program().arg("attach").arg(format!("s3://{bucket}")).arg(self.here(""));
        tool.args(["--endpoint", &self.server.endpoint()]).args(more)
    }

    /// A path in the attached directory.
    fn here(&self, name: &str) -> PathBuf {
        let data = self.mount.point().join("data");
        if name.is_empty() { data } else { data.join(name) }
    }

    /// The same in the folder in which the server keeps it.
    fn there(&self, name: &str) -> PathBuf {
        self.server.folder().join("bucket/shared").join(name)
    }

    fn finish(mut self) -> Check {
        self.mount.program().arg("detach").arg(self.here("")).ok()?;
        self.mount.stop()?;
        self.mount.check_log()?;
        self.mount.fsck()
    }
}

fn limits(lab: &Lab) -> Check {
    const RATE: u64 = 4 << 20;
    let mut bench = Bench::new(lab)?;
    bench.attach("bucket/shared", &["--upload-limit", "4M", "--download-limit", "4M/s", "--max-requests", "2"]).ok()?;
    for round in ["attached", "mounted again"] {
        let status = bench.mount.program().arg("status").arg(bench.mount.point()).ok()?;
        let limits = "at most 2 requests at once, 4 MiB a second up, 4 MiB a second down";
        ensure!(status.contains(limits), "{round}: status tells no limits: {status}");
        let content = Random::new(bench.seed).bytes(3 * RATE as usize);
        let name = round.replace(' ', "-");
        let began = Instant::now();
        fs::write(bench.here(&name), &content)?;
        let up = began.elapsed().as_secs_f64();
        expect(&bench.there(&name), &content)?;
        let began = Instant::now();
        // From the bucket: the pages that were written are of a descriptor that is closed.
        expect(&bench.here(&name), &content)?;
        let down = began.elapsed().as_secs_f64();
        println!("        {round}: 12 MiB took {up:.1} s up, {down:.1} s down");
        ensure!(up > 2.4 && down > 2.0, "{round}: 3 s of sending took {up} s, 3 s of fetching {down} s");
        if round == "attached" {
            bench.mount.program().arg("umount").arg(bench.mount.point()).ok()?;
            bench.mount.ended()?;
            bench.mount.start()?;
            wait_until("the bucket is attached again", PATIENCE, || is_mount_point(&bench.here("")))?;
        }
    }
    let set = |limits: &[&str]| bench.mount.program().args(["store", "set"]).arg(bench.here("")).args(limits).run();
    let said = set(&["--download-limit", "none", "--max-requests", "7"])?;
    ensure!(said.code == 0 && said.out.contains("at most 7 requests at once, 4 MiB a second up"), "{said:?}");
    let began = Instant::now();
    fs::write(bench.there("unlimited"), vec![7; 6 * RATE as usize])?;
    expect(&bench.here("unlimited"), &vec![7; 6 * RATE as usize])?;
    ensure!(began.elapsed() < std::time::Duration::from_secs(5), "the limit of 4 MiB a second is still there");
    let refused = bench
        .mount
        .program()
        .args(["store", "set"])
        .arg(bench.mount.point().join("other/x"))
        .args(["--max-requests", "2"])
        .run()?;
    ensure!(refused.code != 0 && !refused.err.is_empty(), "limits of nothing: {refused:?}");
    counted(&bench)?;
    bench.finish()
}

/// What the bucket was asked for is in `status` and `metrics`.
fn counted(bench: &Bench) -> Check {
    let ask = |name: &str| bench.mount.program().arg(name).arg(bench.mount.point()).ok();
    let status = ask("status")?;
    let (_, attached) = status.split_once("attached").unwrap_or_default();
    ensure!(attached.contains("requests ") && !attached.contains(" 0 to get"), "status tells no requests: {status}");
    let metrics = ask("metrics")?;
    let label = format!("store=\"{}\",operation=\"get\"", bench.here("").display());
    let line = metrics.lines().find(|line| line.contains(&label)).unwrap_or_default();
    let gets: Option<f64> = line.rsplit(' ').next().and_then(|number| number.parse().ok());
    ensure!(gets.is_some_and(|gets| gets >= 3.0), "metrics tell no requests: {line:?}");
    Ok(())
}

/// The daemon's own are none that the server takes; the file's are.
fn credentials(lab: &Lab) -> Check {
    let mut bench = Bench::with_variables(lab, &[("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "wrong")])?;
    let (key, secret) = crate::store::server::KEYS;
    let file = bench.mount.data().with_extension("keys");
    fs::write(&file, format!("[work]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"))?;
    let from = file.to_string_lossy().into_owned();
    fs::write(bench.there("first"), "first")?;
    let region = ["--region", "us-east-1"];
    let refused = |more: &[&str], says: &str| -> Check {
        let said = bench.attach("bucket/shared", more).args(region).run()?;
        ensure!(said.code != 0 && said.err.contains(says) && said.err.lines().count() == 1, "{more:?}: {said:?}");
        Ok(())
    };
    refused(&[], "")?;
    refused(&["--credentials-file", "/nowhere"], "can't be read")?;
    refused(&["--credentials-file", &from], "[default]")?;
    bench.attach("bucket/shared", &["--credentials-file", &from, "--profile", "work"]).args(region).ok()?;
    expect(&bench.here("first"), b"first")?;
    let remembered = fs::read_to_string(bench.mount.data().join("attachments.json"))?;
    ensure!(remembered.contains(&from) && !remembered.contains(secret), "{remembered}");
    bench.mount.program().arg("umount").arg(bench.mount.point()).ok()?;
    bench.mount.ended()?;
    bench.mount.start()?;
    wait_until("the bucket is attached again", PATIENCE, || is_mount_point(&bench.here("")))?;
    expect(&bench.here("first"), b"first")?;
    bench.finish()
}

fn names(folder: &Path) -> Check<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

fn expect(path: &Path, content: &[u8]) -> Check {
    let read = fs::read(path).during(path.display())?;
    ensure!(read == content, "{} has {} bytes, not the {} expected", path.display(), read.len(), content.len());
    Ok(())
}

fn here_and_there(lab: &Lab) -> Check {
    let bench = Bench::attached(lab)?;
    expect(&bench.here("first"), b"first")?;
    let shell = |line: &str| Tool::shell(line).within(bench.here("")).ok();
    shell("echo one > a; echo two >> a; mkdir -p d/e; cp a d/e/b; mv a c; truncate -s 3 d/e/b")?;
    ensure!(names(&bench.here(""))? == ["c", "d", "first"], "{:?}", names(&bench.here(""))?);
    ensure!(!bench.there("a").exists(), "the old name is there");
    expect(&bench.there("c"), b"one\ntwo\n")?;
    expect(&bench.there("d/e/b"), b"one")?;
    let mut file = fs::File::options().read(true).write(true).open(bench.here("c"))?;
    file.seek(SeekFrom::Start(4))?;
    file.write_all(b"TWO")?;
    file.sync_all()?;
    expect(&bench.there("c"), b"one\nTWO\n")?;
    drop(file);
    shell("mv d f; test ! -e d; set -C; ! echo x > c; rmdir f && exit 1; rm f/e/b; rmdir f/e f")?;
    ensure!(!bench.there("f/e/b").exists() && names(&bench.here(""))? == ["c", "first"], "something is left");
    shell(
        "mkdir empty; python3 -c 'import os; f=os.open(\"x\", os.O_CREAT|os.O_EXCL|os.O_WRONLY); os.write(f,b\"x\"); os.close(f)'; mv -n c first; rm x; rmdir empty",
    )?;
    expect(&bench.there("first"), b"first")?;
    fs::create_dir(bench.here("marked"))?;
    ensure!(bench.there("marked").is_dir(), "an empty directory has no marker");
    fs::remove_dir(bench.here("marked"))?;
    ensure!(!bench.there("marked").exists(), "the marker is left");
    ensure!(fs::hard_link(bench.here("c"), bench.here("l")).is_err(), "a hard link was made");
    shell(
        "cp -p c p; rm p; git init -q g; cd g; git -c user.name=n -c user.email=e commit -q --allow-empty -m m; git fsck",
    )?;
    bench.finish()
}

fn elsewhere(lab: &Lab) -> Check {
    let bench = Bench::attached(lab)?;
    expect(&bench.here("first"), b"first")?;
    ensure!(!bench.here("new/file").exists(), "it is there too early");
    fs::create_dir(bench.there("new"))?;
    fs::write(bench.there("new/file"), "new")?;
    fs::write(bench.there("first"), "another")?;
    wait_until("the new file is seen", PATIENCE, || Ok(bench.here("new/file").exists()))?;
    expect(&bench.here("new/file"), b"new")?;
    wait_until("the changed file is seen", PATIENCE, || {
        Ok(fs::read(bench.here("first")).is_ok_and(|read| read == b"another"))
    })?;
    fs::remove_file(bench.there("first"))?;
    wait_until("the file is gone", PATIENCE, || Ok(!bench.here("first").exists()))?;
    ensure!(names(&bench.here(""))? == ["new"], "{:?}", names(&bench.here(""))?);
    bench.finish()
}

fn copies(lab: &Lab) -> Check {
    let bench = Bench::attached(lab)?;
    let point = bench.mount.point().to_owned();
    Tool::shell("mkdir -p t/a/b; for i in $(seq 60); do head -c $((i * 997)) /dev/urandom > t/a/b/$i; done; cp -r t data/; cp -r data/t back; diff -r t back; diff -r t data/t; rm -r data/t; test ! -e data/t")
        .within(&point)
        .ok()?;
    let large = Random::new(bench.seed).bytes(100 << 20);
    fs::write(bench.here("large"), &large)?;
    expect(&bench.there("large"), &large)?;
    fs::write(bench.there("other"), &large)?;
    let mut read = Vec::new();
    fs::File::open(bench.here("other"))?.read_to_end(&mut read)?;
    ensure!(read == large, "a large file is not what was stored");
    bench.finish()
}

fn refusals(lab: &Lab) -> Check {
    let bench = Bench::new(lab)?;
    let refused = |tool: Tool, says: &str| -> Check {
        let ended = tool.run()?;
        ensure!(ended.code != 0 && ended.err.contains(says) && ended.err.lines().count() == 1, "{:?}", ended.err);
        ensure!(!is_mount_point(&bench.here(""))?, "something is mounted");
        Ok(())
    };
    refused(bench.attach("nobody", &[]), "there is no such bucket")?;
    refused(bench.mount.program().args(["attach", "ftp://b"]).arg(bench.here("")), "")
        .or_else(|stop| if stop.reason().contains("scheme") { Ok(()) } else { Err(stop) })?;
    refused(bench.mount.program().arg("detach").arg(bench.here("")), "no bucket is attached")?;
    bench.attach("bucket/shared", &["--read-only"]).ok()?;
    match fs::write(bench.here("x"), "x") {
        Ok(()) => fail!("a read-only bucket was written to"),
        Err(error) => ensure!(error.raw_os_error() == Some(30), "{error}"),
    }
    bench.finish()
}

fn away(lab: &Lab) -> Check {
    let mut bench = Bench::attached(lab)?;
    fs::write(bench.there("second"), "second")?;
    bench.server.stop()?;
    let started = Instant::now();
    match fs::read(bench.here("second")) {
        Ok(_) => fail!("what is away was read"),
        Err(error) => ensure!(error.raw_os_error() == Some(5), "not EIO: {error}"),
    }
    ensure!(fs::write(bench.here("third"), "third").is_err(), "what is away was written");
    ensure!(started.elapsed() < PATIENCE, "the errors took {:?}", started.elapsed());
    let path = bench.here("first");
    let reader = std::thread::spawn(move || fs::metadata(path).is_ok());
    let started = Instant::now();
    for i in 0..20 {
        fs::write(bench.mount.point().join(format!("own{i}")), "own")?;
    }
    ensure!(started.elapsed() < PROMPT, "the volume's own files took {:?}", started.elapsed());
    ensure!(reader.join().is_ok(), "the reader panicked");
    bench.server.resume()?;
    wait_until("the bucket is back", PATIENCE, || Ok(fs::read(bench.here("second")).is_ok()))?;
    expect(&bench.here("second"), b"second")?;
    // A mount without the server, too.
    bench.mount.program().arg("umount").arg(bench.mount.point()).ok()?;
    bench.mount.let_go()?.wait()?;
    bench.server.stop()?;
    bench.mount.start()?;
    wait_until("it is attached", PATIENCE, || is_mount_point(&bench.here("")))?;
    ensure!(fs::read(bench.here("second")).is_err(), "what is away was read");
    bench.server.resume()?;
    wait_until("the bucket is back", PATIENCE, || Ok(fs::read(bench.here("second")).is_ok()))?;
    bench.listens()?;
    bench.mount.program().arg("umount").arg(bench.mount.point()).ok()?;
    bench.mount.let_go()?.wait()?;
    ensure!(!is_mount_point(&bench.here(""))?, "the attached bucket is still mounted");
    bench.mount.fsck()
}

fn silent(lab: &Lab) -> Check {
    let bench = Bench::attached(lab)?;
    bench.server.signal(rustix::process::Signal::STOP)?;
    let path = bench.here("first");
    let reader = std::thread::spawn(move || fs::read(path));
    let started = Instant::now();
    for i in 0..20 {
        fs::write(bench.mount.point().join(format!("own{i}")), "own")?;
    }
    let took = started.elapsed();
    let read = reader.join();
    let failed_after = started.elapsed();
    bench.server.signal(rustix::process::Signal::CONT)?;
    ensure!(took < PROMPT, "the volume's own files took {took:?}");
    ensure!(matches!(read, Ok(Err(_))) && failed_after < PATIENCE, "a read ended after {failed_after:?}");
    wait_until("the bucket is back", PATIENCE, || Ok(fs::read(bench.here("first")).is_ok()))?;
    bench.finish()
}

fn maps(lab: &Lab) -> Check {
    let bench = Bench::attached(lab)?;
    let program = "
import mmap, os, random
random.seed(7)
want = bytearray(300000)
f = open('m', 'wb+'); f.truncate(len(want)); f.close()
f = open('m', 'rb+')
m = mmap.mmap(f.fileno(), len(want))
for _ in range(200):
    at = random.randrange(len(want) - 100); data = random.randbytes(100)
    m[at:at+100] = data; want[at:at+100] = data
m.flush(); m.close()
for _ in range(200):
    at = random.randrange(len(want) - 100); data = random.randbytes(100)
    f.seek(at); f.write(data); want[at:at+100] = data
f.close()
f = open('m', 'ab'); f.write(b'end'); f.close(); want += b'end'
assert open('m', 'rb').read() == want
f = open('gone', 'wb'); f.write(b'x'); os.unlink('gone'); f.close()
open('../want', 'wb').write(want)
";
    Tool::python(program).within(bench.here("")).ok()?;
    expect(&bench.there("m"), &fs::read(bench.mount.point().join("want"))?)?;
    ensure!(!bench.there("gone").exists(), "an unlinked file was stored");
    bench.finish()
}

fn killed(lab: &Lab) -> Check {
    let mut bench = Bench::attached(lab)?;
    let mut daemon = bench.mount.let_go()?;
    daemon.kill()?;
    daemon.wait()?;
    bench.mount.start()?;
    // Until then, the kernel may still answer for the dead mount from what it has cached.
    wait_until("it is attached again", PATIENCE, || {
        Ok(is_mount_point(&bench.here(""))? && fs::read(bench.here("first")).is_ok())
    })?;
    expect(&bench.here("first"), b"first")?;
    bench.listens()?;
    let said = bench.mount.program().arg("status").arg(bench.mount.point()).ok()?;
    ensure!(said.contains("attached   s3://bucket/shared"), "{said}");
    let table = fs::read_to_string("/proc/self/mounts")?;
    let point = bench.here("").to_string_lossy().into_owned();
    let count = table.lines().filter(|line| line.split(' ').nth(1) == Some(point.as_str())).count();
    ensure!(count == 1, "{count} mounts are on the attached directory");
    bench.finish()
}

fn many(lab: &Lab) -> Check {
    const FILES: usize = 2500;
    let bench = Bench::attached(lab)?;
    fs::create_dir(bench.there("many"))?;
    for i in 0..FILES {
        fs::write(bench.there(&format!("many/{i:05}")), "")?;
    }
    wait_until("the directory is seen", PATIENCE, || Ok(bench.here("many").exists()))?;
    let listed = names(&bench.here("many"))?;
    ensure!(listed == names(&bench.there("many"))?, "{} names of {FILES} are listed", listed.len());
    bench.finish()
}
