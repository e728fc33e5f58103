//! Volumes with several stores: added while they are mounted, directories placed in them,
//! content moved between them, and what fsync waits for.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::server::Server;
use super::{PATIENCE, drop_caches};
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("stores come and go while the volume is mounted", come_and_go),
        Case::new("fsync waits for the store where it should", fsync),
        Case::new("the daemon is killed while content moves", killed),
        Case::new("content is fetched and thrown out on request", resident),
        Case::new("a scrub reads past the cache, and gc tells what it would free", looked_after),
    ]
}

/// A server, and a volume on this disk that has a store `far` there.
struct Near {
    // In the order in which they have to go.
    mount: Mount,
    server: Server,
    _scratch: Scratch,
    seed: u64,
}

impl Near {
    fn new(lab: &Lab) -> Check<Near> {
        let scratch = Scratch::new(&lab.scratch, "store")?;
        let server = Server::start(lab, &scratch)?;
        let mut mount = server.credentials(lab.mount_on(&scratch.path().join("data"), &scratch)?);
        mount.start()?;
        let near = Near { mount, server, _scratch: scratch, seed: lab.seed };
        near.add(lab, "far")?.ok()?;
        Ok(near)
    }

    fn add(&self, lab: &Lab, name: &str) -> Check<Tool> {
        Ok(Tool::new(&lab.binary)
            .args(["store", "add", name, &self.server.url(name), "--endpoint", &self.server.endpoint()])
            .arg("--mount")
            .arg(self.mount.point()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.point().join(name)
    }

    fn file(&self, name: &str, bytes: usize) -> Check<Vec<u8>> {
        let content = Random::new(self.seed ^ bytes as u64).bytes(bytes);
        fs::write(self.path(name), &content)?;
        Ok(content)
    }

    fn expect(&self, name: &str, content: &[u8]) -> Check {
        let read = fs::read(self.path(name)).during(format!("reading {name}"))?;
        ensure!(read == content, "{name} is not what was written, with seed {}", self.seed);
        Ok(())
    }

    fn place(&self, lab: &Lab, name: &str, store: &str) -> Check<String> {
        Tool::new(&lab.binary).arg("place").arg(self.path(name)).arg(store).ok()
    }

    fn migrate(&self, lab: &Lab, name: &str, store: &str) -> Check<String> {
        Tool::new(&lab.binary).arg("migrate").arg(self.path(name)).arg(store).ok()
    }

    fn flush(&self, lab: &Lab) -> Check {
        Tool::new(&lab.binary).arg("flush").arg(self.mount.point()).ok().map(drop)
    }

    /// Bytes in the bucket.
    fn stored(&self) -> Check<u64> {
        let blobs = self.server.blobs("far")?;
        Ok(blobs.iter().filter_map(|blob| blob.metadata().ok()).map(|meta| meta.len()).sum())
    }

    /// Bytes of a file that are only here.
    fn pending(&self, name: &str) -> Check<u64> {
        let said = Tool::new("getfattr").args(["--only-values", "-n", "nexus.pending"]).arg(self.path(name)).ok()?;
        match said.trim().parse() {
            Ok(bytes) => Ok(bytes),
            Err(_) => fail!("nexus.pending of {name} is {said:?}"),
        }
    }

    /// Requests to the store, from `status`.
    fn requests(&self, lab: &Lab, name: &str) -> Check<u64> {
        let said = Tool::new(&lab.binary).args(["status", "--json"]).arg(self.mount.point()).ok()?;
        let found = said.split_once(&format!("\"{name}\": ")).and_then(|(_, rest)| rest.split([',', '\n']).next());
        match found.and_then(|number| number.trim().parse().ok()) {
            Some(number) => Ok(number),
            None => fail!("status does not tell {name}: {said}"),
        }
    }

    /// Unmounts, forgets what is cached, mounts again.
    fn remount_empty(&mut self) -> Check {
        self.mount.stop()?;
        self.mount.fsck()?;
        let cache = self.mount.data().join("cache.1");
        if cache.exists() {
            fs::remove_dir_all(cache).during("forgetting the cache")?;
        }
        self.mount.start()
    }

    fn finish(mut self) -> Check {
        self.mount.stop()?;
        self.mount.check_log()?;
        self.mount.fsck()
    }
}

fn come_and_go(lab: &Lab) -> Check {
    let mut near = Near::new(lab)?;
    let again = near.add(lab, "far")?.run()?;
    ensure!(again.code != 0 && again.err.contains("there is a store far already"), "{:?}", again.err);
    fs::create_dir_all(near.path("dir/old"))?;
    fs::create_dir(near.path("here"))?;
    let before = near.file("dir/old/before", 3 << 20)?;
    let said = near.place(lab, "dir", "far")?;
    ensure!(said.contains("3 of 3"), "place said {said:?}");
    let said = Tool::new(&lab.binary).arg("place").arg(near.path("dir/old/before")).ok()?;
    ensure!(said.trim() == "store far, fsync waits for: store", "place said {said:?}");
    let unknown = Tool::new(&lab.binary).arg("place").arg(near.path("dir")).arg("nowhere").run()?;
    ensure!(unknown.code != 0 && unknown.err.contains("there are: default, far"), "{:?}", unknown.err);
    // New files below go there, and so do new directories; what is elsewhere does not.
    fs::create_dir(near.path("dir/old/new"))?;
    let placed = near.file("dir/old/new/placed", 5 << 20)?;
    let beside = near.file("here/beside", 7 << 20)?;
    near.flush(lab)?;
    let stored = near.stored()?;
    ensure!((5 << 20..6 << 20).contains(&stored), "{stored} bytes are in the bucket");
    // What was there moves, shared content once.
    Tool::new("cp").arg("--reflink=auto").args([near.path("dir/old/before"), near.path("dir/old/copy")]).ok()?;
    near.migrate(lab, "dir", "far")?;
    near.flush(lab)?;
    let stored = near.stored()?;
    ensure!((8 << 20..9 << 20).contains(&stored), "{stored} bytes are in the bucket after 3 MiB moved there");
    near.remount_empty()?;
    for (name, content) in [
        ("dir/old/before", &before),
        ("dir/old/copy", &before),
        ("dir/old/new/placed", &placed),
        ("here/beside", &beside),
    ] {
        near.expect(name, content)?;
    }
    let listed = Tool::new(&lab.binary).args(["store", "ls", "--mount"]).arg(near.mount.point()).ok()?;
    ensure!(listed.contains("default") && listed.contains("far") && listed.contains("s3://"), "{listed:?}");
    // It goes once nothing is there or is to go there.
    let remove = || Tool::new(&lab.binary).args(["store", "rm", "far", "--mount"]).arg(near.mount.point()).run();
    let refused = remove()?;
    ensure!(refused.code != 0 && refused.err.contains("nexus-fuse migrate"), "{:?}", refused.err);
    near.migrate(lab, "dir", "default")?;
    let refused = remove()?;
    ensure!(refused.code != 0 && refused.err.contains("nexus-fuse place"), "{:?}", refused.err);
    near.place(lab, "dir", "default")?;
    let removed = remove()?;
    ensure!(removed.code == 0, "{:?}", removed.err);
    ensure!(near.stored()? == 0, "{} bytes are left in the bucket", near.stored()?);
    near.remount_empty()?;
    near.expect("dir/old/copy", &before)?;
    near.expect("dir/old/new/placed", &placed)?;
    // Its number is not used again.
    near.add(lab, "other")?.ok()?;
    near.place(lab, "here", "other")?;
    near.file("here/late", 1 << 20)?;
    near.flush(lab)?;
    ensure!(!near.server.blobs("other")?.is_empty(), "nothing is in the second store");
    near.finish()
}

fn write_synced(path: &Path, content: &[u8]) -> Check {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all().during(format!("fsync of {}", path.display()))
}

fn fsync(lab: &Lab) -> Check {
    let mut near = Near::new(lab)?;
    for dir in ["remote", "local", "here"] {
        fs::create_dir(near.path(dir))?;
    }
    near.place(lab, "remote", "far")?;
    Tool::new(&lab.binary).arg("place").arg(near.path("local")).args(["far", "--fsync", "local"]).ok()?;
    near.file("remote/a", 100_000)?;
    ensure!(near.pending("remote/a")? == 100_000, "{} bytes wait", near.pending("remote/a")?);
    write_synced(&near.path("here/a"), b"here")?;
    ensure!(near.stored()? == 0, "something was sent");
    File::open(near.path("remote/a"))?.sync_all().during("fsync")?;
    ensure!(near.stored()? >= 100_000, "fsync returned before it was in the store");
    ensure!(near.pending("remote/a")? == 0, "{} bytes wait after fsync", near.pending("remote/a")?);
    // Many at once share requests.
    let before = near.server.blobs("far")?.len();
    std::thread::scope(|scope| -> Check {
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let near = &near;
                scope.spawn(move || -> Check {
                    for i in 0..20 {
                        write_synced(&near.path(&format!("remote/{writer}-{i}")), &[writer as u8; 4096])?;
                    }
                    Ok(())
                })
            })
            .collect();
        for writer in writers {
            match writer.join() {
                Ok(done) => done?,
                Err(_) => fail!("a writer panicked"),
            }
        }
        Ok(())
    })?;
    let made = near.server.blobs("far")?.len() - before;
    println!("  320 files of 4 KiB, synced one by one by 16 writers: {made} objects");
    ensure!(made < 200, "{made} objects for 320 files");
    for writer in 0..16 {
        for i in 0..20 {
            ensure!(near.pending(&format!("remote/{writer}-{i}"))? == 0, "file {writer}-{i} waits after fsync");
        }
    }
    // Without the store, who need not wait for it does not; who has to, waits until it is back.
    near.server.stop()?;
    write_synced(&near.path("local/b"), &[7; 50_000])?;
    write_synced(&near.path("here/b"), b"here")?;
    let path = near.path("remote/b");
    let waiting = std::thread::spawn(move || write_synced(&path, &[8; 50_000]));
    wait_until("the file is written", PATIENCE, || {
        Ok(near.path("remote/b").metadata().is_ok_and(|meta| meta.len() == 50_000))
    })?;
    ensure!(!waiting.is_finished(), "fsync returned without the store");
    near.server.resume()?;
    match waiting.join() {
        Ok(done) => done?,
        Err(_) => fail!("the writer panicked"),
    }
    ensure!(near.pending("remote/b")? == 0, "it waits after fsync");
    near.remount_empty()?;
    near.expect("remote/b", &[8; 50_000])?;
    near.expect("local/b", &[7; 50_000])?;
    near.mount.stop()?;
    near.mount.fsck()
}

fn killed(lab: &Lab) -> Check {
    let mut near = Near::new(lab)?;
    fs::create_dir(near.path("dir"))?;
    let contents: Vec<Vec<u8>> =
        (0..8).map(|i| near.file(&format!("dir/f{i}"), (20 << 20) + i)).collect::<Check<_>>()?;
    let mut seen = 0;
    for round in 0..3 {
        let mut migrate = std::process::Command::new(&lab.binary);
        migrate.arg("migrate").arg(near.path("dir")).arg("far");
        let mut migrate = migrate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let come =
            wait_until("something has moved", PATIENCE, || Ok(near.stored()? > seen || migrate.try_wait()?.is_some()));
        near.mount.kill()?;
        migrate.wait()?;
        come?;
        seen = near.stored()?;
        near.mount.fsck().during(format!("after kill {round}"))?;
        near.mount.start()?;
        for (i, content) in contents.iter().enumerate() {
            near.expect(&format!("dir/f{i}"), content).during(format!("after kill {round}"))?;
        }
    }
    near.migrate(lab, "dir", "far")?;
    near.flush(lab)?;
    drop_caches()?;
    near.remount_empty()?;
    for (i, content) in contents.iter().enumerate() {
        near.expect(&format!("dir/f{i}"), content)?;
    }
    near.finish()
}

fn looked_after(lab: &Lab) -> Check {
    let near = Near::new(lab)?;
    fs::create_dir(near.path("dir"))?;
    near.place(lab, "dir", "far")?;
    let content = near.file("dir/kept", 6 << 20)?;
    near.file("dir/gone", 5 << 20)?;
    near.flush(lab)?;
    let scrub = || Tool::new(&lab.binary).arg("scrub").arg(near.mount.point()).run();
    let clean = scrub()?;
    ensure!(clean.code == 0 && clean.out.contains("all is as it was written"), "{:?} {:?}", clean.out, clean.err);
    let blob = match near.server.blobs("far")?.pop() {
        Some(blob) => blob,
        None => fail!("nothing is in the bucket"),
    };
    let object = fs::OpenOptions::new().read(true).write(true).open(&blob)?;
    let mut byte = [0];
    object.read_exact_at(&mut byte, 300_000)?;
    object.write_all_at(&[byte[0] ^ 1], 300_000)?;
    // A copy is in the cache, and is whole.
    near.expect("dir/kept", &content)?;
    let found = scrub()?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(found.code == 1 && found.out.contains(&name), "{} {:?} {:?}", found.code, found.out, found.err);
    object.write_all_at(&byte, 300_000)?;
    ensure!(scrub()?.code == 0, "it is put right again");
    fs::remove_file(near.path("dir/gone"))?;
    let stored = near.stored()?;
    Tool::new(&lab.binary).args(["gc", "--dry-run"]).arg(near.mount.point()).ok()?;
    ensure!(near.stored()? == stored, "a dry run changed the bucket");
    near.expect("dir/kept", &content)?;
    near.finish()
}

fn resident(lab: &Lab) -> Check {
    let mut near = Near::new(lab)?;
    fs::create_dir(near.path("dir"))?;
    near.place(lab, "dir", "far")?;
    let small: Vec<Vec<u8>> = (0..50).map(|i| near.file(&format!("dir/{i}"), 5_000 + i)).collect::<Check<_>>()?;
    let large = near.file("dir/large", 40 << 20)?;
    let run = |command: &[&str]| Tool::new(&lab.binary).args(command).arg(near.path("dir")).ok();
    // Most of it is not in its store yet, and that stays.
    let said = run(&["evict"])?;
    ensure!(said.contains("MiB that are only here stay"), "{said:?}");
    near.expect("dir/large", &large)?;
    near.flush(lab)?;
    near.remount_empty()?;
    let run = |command: &[&str]| Tool::new(&lab.binary).args(command).arg(near.path("dir")).ok();
    let here = || -> Check<Vec<String>> {
        let said = run(&["du", "--cached"])?;
        let line = said.lines().nth(1).unwrap_or_default();
        Ok(line.split_whitespace().map(str::to_owned).collect())
    };
    let gets = || near.requests(lab, "gets");
    let all = here()?;
    ensure!(all.starts_with(&["40.2", "MiB", "0", "B", "0", "B"].map(str::to_owned)), "{all:?}");
    run(&["warmup"])?;
    let all = here()?;
    ensure!(all.starts_with(&["40.2", "MiB", "40.2", "MiB", "0", "B"].map(str::to_owned)), "{all:?}");
    let before = gets()?;
    for (i, content) in small.iter().enumerate() {
        near.expect(&format!("dir/{i}"), content)?;
    }
    near.expect("dir/large", &large)?;
    ensure!(gets()? == before, "{} requests for what is on this disk", gets()? - before);
    run(&["warmup"])?;
    ensure!(gets()? == before, "it was fetched twice");
    let said = run(&["evict"])?;
    ensure!(said.contains("MiB thrown out"), "{said:?}");
    let all = here()?;
    ensure!(all.starts_with(&["40.2", "MiB", "0", "B", "0", "B"].map(str::to_owned)), "{all:?}");
    drop_caches()?;
    near.expect("dir/large", &large)?;
    ensure!(gets()? > before, "it came from nowhere");
    // More than the cache holds is refused.
    near.mount.stop()?;
    near.mount = near.mount.with_arguments(&["--store-cache", "10M"]);
    near.mount.start()?;
    let refused = Tool::new(&lab.binary).arg("warmup").arg(near.path("dir")).run()?;
    ensure!(refused.code != 0 && refused.err.contains("--store-cache"), "{:?}", refused.err);
    near.finish()
}
