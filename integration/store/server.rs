//! The S3 server that cases keep content in: a process of its own, started, stopped and
//! suspended by its process id.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::mount::{Mount, signal};
use crate::scratch::Scratch;

/// The server's keys.
const KEY: &str = "nexus-test";
/// Access key and secret key, as the server takes them.
pub const KEYS: (&str, &str) = (KEY, KEY);
/// The one bucket.
const BUCKET: &str = "bucket";

/// A server over a folder.
pub struct Server {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// Starts one with an empty bucket, in `scratch`.
    pub fn start(lab: &Lab, scratch: &Scratch) -> Check<Server> {
        let folder = scratch.folder("s3")?;
        fs::create_dir(folder.join(BUCKET))?;
        let port = crate::ports::own()?;
        let program = lab.binary.with_file_name("nexus-s3-server");
        let mut server = Server { program, folder, port, process: None };
        server.resume()?;
        Ok(server)
    }

    /// Starts it again, at the same address.
    pub fn resume(&mut self) -> Check {
        let mut command = Command::new(&self.program);
        command.arg(self.port.to_string()).arg(&self.folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().during(format!("cannot start {}", self.program.display()))?;
        let mut line = String::new();
        let said = process.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        self.process = Some(process);
        ensure!(matches!(said, Some(Ok(1..))), "the S3 server ended at once");
        Ok(())
    }

    /// Ends it: connections are refused from now on.
    pub fn stop(&mut self) -> Check {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Has it answer nothing, with all connections as they are, or go on.
    pub fn signal(&self, what: Signal) -> Check {
        match &self.process {
            Some(process) => signal(process.id(), what),
            None => Ok(()),
        }
    }

    /// As `--store` takes it.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// As `--endpoint` takes it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A mount with the credentials, and with its content below `prefix` if it is a new volume.
    pub fn mount(&self, lab: &Lab, scratch: &Scratch, prefix: &str) -> Check<Mount> {
        let mount = lab.mount_on(&scratch.path().join("data"), scratch)?;
        Ok(self.credentials(mount.with_arguments(&["--store", &self.url(prefix), "--endpoint", &self.endpoint()])))
    }

    /// The same mount with the server's keys.
    pub fn credentials(&self, mount: Mount) -> Mount {
        mount
            .with_variable("AWS_ACCESS_KEY_ID", KEY)
            .with_variable("AWS_SECRET_ACCESS_KEY", KEY)
            .with_variable("AWS_REGION", "us-east-1")
    }

    /// Files of the blobs below `prefix`, in order.
    pub fn blobs(&self, prefix: &str) -> Check<Vec<PathBuf>> {
        let folder = self.folder.join(BUCKET).join(prefix).join("blobs");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut found: Vec<PathBuf> =
            fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
        found.sort();
        Ok(found)
    }

    /// The file of the object that tells whose `prefix` is.
    pub fn claim(&self, prefix: &str) -> PathBuf {
        self.folder.join(BUCKET).join(prefix).join("NEXUS")
    }

    /// Where the server keeps everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot end the S3 server: {error:?}");
        }
    }
}
