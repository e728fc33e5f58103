//! Other file systems whose content is on the same server, each in a bucket of its own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure, Role};

use super::server::{KEY, REGION, Server};
use crate::interrupt::Interrupt;
use crate::peers::{self, Peer};
use crate::subject::Subject;

/// How long a peer may take to send what it has.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the bucket is looked into meanwhile.
const GLANCE: Duration = Duration::from_millis(5);

/// A file system and how it is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JuiceFS with badger for its metadata.
    JuiceFs,
    /// s3fs.
    S3Fs,
    /// rclone, with files that are being written in its cache.
    RcloneWrites,
    /// rclone, with files that are read there, too.
    RcloneFull,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::JuiceFs, Kind::S3Fs, Kind::RcloneWrites, Kind::RcloneFull];

    /// Those whose programs are here, and what is said of the others, which is printed too.
    pub fn here() -> (Vec<Kind>, Vec<String>) {
        let (mut here, mut failed) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            match kind.peer().check() {
                Ok(()) => here.push(kind),
                Err(failure) => {
                    eprintln!("{failure}");
                    failed.push(failure.to_string());
                }
            }
        }
        (here, failed)
    }

    /// What its column is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::JuiceFs => "juicefs",
            Kind::S3Fs => "s3fs",
            Kind::RcloneWrites => "rclone writes",
            Kind::RcloneFull => "rclone full",
        }
    }

    fn peer(self) -> Peer {
        match self {
            Kind::JuiceFs => peers::JUICEFS,
            Kind::S3Fs => peers::S3FS,
            Kind::RcloneWrites | Kind::RcloneFull => peers::RCLONE,
        }
    }
}

/// One of them, mounted on a bucket of its own; unmounted when dropped.
pub struct Mounted<'a> {
    kind: Kind,
    folder: PathBuf,
    server: &'a Server,
    bucket: String,
    interrupt: &'a Interrupt,
    subject: Option<Subject>,
}

impl<'a> Mounted<'a> {
    /// A new one, with all that it keeps in `folder`.
    pub fn make(
        kind: Kind,
        folder: &Path,
        server: &'a Server,
        bucket: &str,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        server.make_bucket(bucket)?;
        fs::create_dir_all(folder.join("cache")).during(|| format!("making {}", folder.display()))?;
        let (folder, bucket) = (folder.to_owned(), bucket.to_owned());
        let mut mounted = Mounted { kind, folder, server, bucket, interrupt, subject: None };
        if kind == Kind::JuiceFs {
            let at = format!("{}/{}", server.endpoint(), mounted.bucket);
            let storage = ["--storage", "s3", "--bucket", &at, "--access-key", KEY, "--secret-key", KEY];
            peers::juicefs(&mounted.folder, &storage, &mounted.point(), interrupt)?;
        }
        mounted.mount()?;
        Ok(mounted)
    }

    /// Where its files are.
    pub fn point(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    fn mount(&mut self) -> Result<(), Failure> {
        let (point, cache) = (self.point(), self.folder.join("cache"));
        let mut command = match self.kind {
            Kind::JuiceFs => peers::mount_juicefs(&self.folder, &point),
            Kind::S3Fs => self.s3fs(&point, &cache)?,
            Kind::RcloneWrites => self.rclone("writes", &point, &cache),
            Kind::RcloneFull => self.rclone("full", &point, &cache),
        };
        let name = self.kind.name().to_owned();
        let column = nexus_bench::Subject { name, role: Role::Peer, transport: String::new() };
        let log = self.folder.join("log");
        self.subject = Some(Subject::mounted(column, point, &log, &mut command, self.interrupt)?);
        Ok(())
    }

    fn s3fs(&self, point: &Path, cache: &Path) -> Result<Command, Failure> {
        // It takes keys from files that others can't read only.
        let keys = self.folder.join("keys");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&keys)
            .during(|| format!("making {}", keys.display()))?;
        writeln!(file, "{KEY}:{KEY}").during(|| format!("writing {}", keys.display()))?;
        let mut command = peers::command("s3fs");
        command.arg(&self.bucket).arg(point).args(["-f", "-o", "use_path_request_style", "-o"]);
        command.arg(format!("url={}", self.server.endpoint())).args(["-o", &format!("endpoint={REGION}"), "-o"]);
        command.arg(format!("passwd_file={}", keys.display())).arg("-o").arg(format!("tmpdir={}", cache.display()));
        Ok(command)
    }

    fn rclone(&self, mode: &str, point: &Path, cache: &Path) -> Command {
        let mut command = peers::command("rclone");
        command.arg("mount").arg(format!(":s3:{}", self.bucket)).arg(point);
        command.arg("--config").arg(self.folder.join("rclone.conf")).arg("--cache-dir").arg(cache);
        // Files are sent as they are closed, rather than five seconds later.
        command.args(["--vfs-cache-mode", mode, "--vfs-write-back", "0s"]);
        command.env("RCLONE_S3_PROVIDER", "Other").env("RCLONE_S3_ENDPOINT", self.server.endpoint());
        command.env("RCLONE_S3_ACCESS_KEY_ID", KEY).env("RCLONE_S3_SECRET_ACCESS_KEY", KEY);
        command.env("RCLONE_S3_REGION", REGION);
        command
    }

    /// Waits until so many bytes of each of some objects are in the bucket. JuiceFS, which
    /// keeps other objects, has sent a file once it is closed.
    pub fn stored(&self, files: impl Iterator<Item = (String, u64)>) -> Result<(), Failure> {
        if self.kind == Kind::JuiceFs {
            return Ok(());
        }
        let started = Instant::now();
        for (name, bytes) in files {
            while !self.server.has(&self.bucket, &name, bytes) {
                self.interrupt.check()?;
                if started.elapsed() > PATIENCE {
                    return Err(Failure::new(format!("{name} did not come into the bucket")));
                }
                sleep(GLANCE);
            }
        }
        Ok(())
    }

    /// Unmounts, forgets what is cached of the bucket, mounts again.
    pub fn remount_empty(&mut self) -> Result<(), Failure> {
        self.subject = None;
        let cache = self.folder.join("cache");
        let again = fs::remove_dir_all(&cache).and_then(|()| fs::create_dir(&cache));
        again.during(|| format!("forgetting {}", cache.display()))?;
        self.mount()
    }

    /// Unmounts, and removes all that it kept here and on the server.
    pub fn remove(mut self) -> Result<(), Failure> {
        self.subject = None;
        fs::remove_dir_all(&self.folder).during(|| format!("removing {}", self.folder.display()))?;
        self.server.remove_bucket(&self.bucket)
    }
}
