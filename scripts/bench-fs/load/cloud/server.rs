//! The S3 server that all subjects share: a process of its own, ended with what holds it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nexus_bench::{Context, Failure};

use crate::lineup::beside;
use crate::subject::cpu_time;

/// Both of the server's keys.
pub const KEY: &str = "nexus-test";
/// The one bucket.
pub const BUCKET: &str = "bucket";
/// What the server is told its region is; it takes any.
pub const REGION: &str = "us-east-1";

/// A server over a folder.
pub struct Server {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Starts one with an empty bucket in `folder`.
    pub fn start(folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join("s3");
        fs::create_dir_all(folder.join(BUCKET)).during(|| "making the bucket".to_owned())?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).during(|| "finding a port".to_owned())?;
        let port = listener.local_addr().during(|| "finding a port".to_owned())?.port();
        drop(listener);
        let program = beside("nexus-s3-server")?;
        let mut process = Command::new(&program)
            .arg(port.to_string())
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .during(|| format!("starting {}", program.display()))?;
        let output = process.stdout.take();
        let server = Server { process, folder, port };
        let mut line = String::new();
        match output.map(|output| BufReader::new(output).read_line(&mut line)) {
            Some(Ok(1..)) => Ok(server),
            _ => Err(Failure::new("the S3 server ended at once")),
        }
    }

    /// Where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Processor time that it took so far.
    pub fn cpu(&self) -> Duration {
        cpu_time(self.process.id()).unwrap_or_default()
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) -> Result<(), Failure> {
        fs::create_dir_all(self.folder.join(name)).during(|| format!("making bucket {name}"))
    }

    /// Removes a bucket with all that is in it, behind the server's back.
    pub fn remove_bucket(&self, name: &str) -> Result<(), Failure> {
        fs::remove_dir_all(self.folder.join(name)).during(|| format!("removing bucket {name}"))
    }

    /// Whether an object of so many bytes is there.
    pub fn has(&self, bucket: &str, name: &str, bytes: u64) -> bool {
        fs::metadata(self.folder.join(bucket).join(name)).is_ok_and(|object| object.len() == bytes)
    }

    /// Removes an object, or all below a prefix, behind its back.
    pub fn remove(&self, prefix: &str) -> Result<(), Failure> {
        let path = self.folder.join(BUCKET).join(prefix);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("removing {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
