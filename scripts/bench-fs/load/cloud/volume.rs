//! A mounted volume of Nexus, with its content in the bucket or on this disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nexus_bench::{Context, Failure, Role};

use super::server::{BUCKET, KEY, REGION, Server};
use crate::interrupt::Interrupt;
use crate::subject::Subject;

/// Requests that a daemon made since it started.
#[derive(Clone, Copy, Default)]
pub struct Requests {
    /// Requests that store.
    pub puts: u64,
    /// Requests that read.
    pub gets: u64,
}

/// A volume; unmounted, and its daemon ended, when dropped.
pub struct Volume<'a> {
    program: PathBuf,
    folder: PathBuf,
    store: Option<(&'a Server, String)>,
    arguments: &'a [String],
    interrupt: &'a Interrupt,
    mounted: Option<Subject>,
}

impl<'a> Volume<'a> {
    /// A new volume in `folder`, mounted; its content goes to `prefix` of a server if one is given.
    pub fn make(
        program: &Path,
        folder: &Path,
        store: Option<(&'a Server, &str)>,
        arguments: &'a [String],
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
        let store = store.map(|(server, prefix)| (server, prefix.to_owned()));
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let mut volume = Volume { program, folder, store, arguments, interrupt, mounted: None };
        volume.mount()?;
        Ok(volume)
    }

    fn mount(&mut self) -> Result<(), Failure> {
        let point = self.point();
        let mut command = Command::new(&self.program);
        command.arg("mount").arg(&point).arg("--data").arg(self.data()).arg("-f").args(self.arguments);
        if let Some((server, prefix)) = &self.store {
            command.args(["--store", &format!("s3://{BUCKET}/{prefix}"), "--endpoint", &server.endpoint()]);
            command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", KEY).env("AWS_REGION", REGION);
        }
        let column = nexus_bench::Subject { name: "nexus".to_owned(), role: Role::Nexus, transport: String::new() };
        let log = self.folder.join("log");
        self.mounted = Some(Subject::mounted(column, point, &log, &mut command, self.interrupt)?);
        Ok(())
    }

    /// Where it is mounted.
    pub fn point(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    /// Processor time that its daemon took since it was mounted last.
    pub fn cpu(&self) -> Duration {
        self.mounted.as_ref().and_then(Subject::usage).map_or(Duration::ZERO, |usage| usage.cpu)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Sends all that is only on this disk.
    pub fn flush(&self) -> Result<(), Failure> {
        self.ask(&["flush"]).map(drop)
    }

    /// Unmounts, forgets what is cached of the bucket, mounts again.
    pub fn remount_empty(&mut self) -> Result<(), Failure> {
        self.mounted = None;
        let cache = self.data().join("cache");
        fs::remove_dir_all(&cache).during(|| format!("forgetting {}", cache.display()))?;
        self.mount()
    }

    /// What it asked of the server since it was mounted last.
    pub fn requests(&self) -> Result<Requests, Failure> {
        let said = self.ask(&["status", "--json"])?;
        let counter = |name: &str| {
            let found = said.split_once(&format!("\"{name}\": ")).map(|(_, rest)| rest);
            let number = found.and_then(|rest| rest.split([',', '\n', '}']).next());
            number
                .and_then(|number| number.trim().parse().ok())
                .ok_or_else(|| Failure::new(format!("status does not tell {name}")))
        };
        Ok(Requests { puts: counter("puts")?, gets: counter("gets")? })
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).arg(self.point()).output().during(|| format!("{arguments:?}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("nexus-fuse {}: {words}", arguments.join(" "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
