//! What a case works on: a server, the network before it, and a mount whose content goes there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use super::proxy::Proxy;
use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::scratch::Scratch;
use crate::store::server::Server;

/// Where the volume lies in the bucket.
const PREFIX: &str = "volume";
/// Enough for everything that a case writes.
const LARGE_CACHE: &str = "1G";

/// See the module.
pub struct Bench {
    // In the order in which they go.
    pub mount: Mount,
    pub proxy: Proxy,
    pub server: Server,
    pub scratch: Scratch,
}

impl Bench {
    /// A bench with a new volume, which is mounted.
    pub fn new(lab: &Lab) -> Check<Bench> {
        let scratch = Scratch::new(&lab.scratch, "store")?;
        let server = Server::start(lab, &scratch)?;
        let proxy = Proxy::start(server.endpoint().trim_start_matches("http://").parse()?)?;
        let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
        let (url, endpoint) = (server.url(PREFIX), proxy.endpoint());
        let flags = ["--store", &url, "--endpoint", &endpoint, "--store-cache", LARGE_CACHE, "--store-fsync", "local"];
        let mut mount = server.credentials(mount.with_arguments(&flags));
        mount.start()?;
        Ok(Bench { mount, proxy, server, scratch })
    }

    /// A path on the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mount.point().join(name)
    }

    /// Bytes of all blobs in the bucket.
    pub fn stored_bytes(&self) -> Check<u64> {
        let lens = self.server.blobs(PREFIX)?.into_iter().map(|path| fs::metadata(path).map(|meta| meta.len()));
        Ok(lens.sum::<std::io::Result<u64>>()?)
    }

    /// Waits until all content is in the bucket.
    pub fn flush(&self) -> Check {
        let ended = self.mount.program().arg("flush").arg(self.mount.point()).run()?;
        ended.check().during("flush")
    }

    /// A number that `status` tells of the store.
    pub fn told(&self, name: &str) -> Check<u64> {
        let said = self.mount.program().args(["status", "--json"]).arg(self.mount.point()).run()?.out;
        let found = said.split(&format!("\"{name}\": ")).nth(1).and_then(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        match found {
            Some(number) => Ok(number),
            None => fail!("status tells no {name}: {said}"),
        }
    }

    /// Unmounts, and forgets what is cached on this disk.
    pub fn stop_and_forget(&mut self) -> Check {
        self.mount.stop()?;
        self.forget_cache()
    }

    /// Forgets what is cached on this disk. The daemon must not run.
    pub fn forget_cache(&self) -> Check {
        let cache = self.mount.data().join("cache");
        ensure!(cache.is_dir(), "{} is no cache", cache.display());
        fs::remove_dir_all(&cache)?;
        Ok(())
    }

    /// Unmounts, reads everything back, and looks for errors in the log but those in `excused`.
    pub fn finish(mut self, excused: &[&str]) -> Check {
        self.mount.stop()?;
        self.mount.fsck()?;
        let said = fs::read_to_string(self.scratch.path().join("daemon.log"))?;
        let bad = |line: &&str| {
            (line.contains(" ERROR ") || line.contains("panicked")) && !excused.iter().any(|word| line.contains(word))
        };
        let errors: Vec<&str> = said.lines().filter(bad).collect();
        ensure!(errors.is_empty(), "the daemon logged errors: {}", errors.join(" | "));
        ensure!(!said.contains("nexus-test"), "the log tells of credentials");
        Ok(())
    }
}

/// Writes a file of random bytes, a piece at a time, and syncs it; answers its bytes.
pub fn write(path: &Path, seed: u64, len: usize) -> Check<Vec<u8>> {
    let bytes = Random::new(seed).bytes(len);
    let mut file = File::create(path)?;
    for piece in bytes.chunks(1 << 20) {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(bytes)
}

/// Has the kernel forget the pages of a file, so that the daemon is asked again.
pub fn drop_pages(path: &Path) -> Check {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// Reads a file past the kernel's pages; fails unless it holds `bytes`.
pub fn expect(path: &Path, bytes: &[u8]) -> Check {
    drop_pages(path)?;
    let read = fs::read(path).during(format!("reading {}", path.display()))?;
    ensure!(read == bytes, "{} holds something else ({} bytes, {} expected)", path.display(), read.len(), bytes.len());
    Ok(())
}
