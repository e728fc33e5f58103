//! Other file systems that are measured beside Nexus: where their programs are, and what is said
//! where they are not.

use std::path::{Path, PathBuf};
use std::process::Command;

use nexus_bench::{Context, Failure};

use crate::crew::time_program;
use crate::interrupt::Interrupt;

/// The programs that a peer consists of. `scripts/bench --peers` installs them.
pub struct Peer {
    /// What its column is called.
    pub name: &'static str,
    /// What must be there.
    programs: &'static [&'static str],
    /// The program that tells the version, and how it is asked.
    version: (&'static str, &'static str),
}

/// A folder of the disk under another name.
pub const BINDFS: Peer = Peer { name: "bindfs", programs: &["bindfs"], version: ("bindfs", "--version") };
/// JuiceFS.
pub const JUICEFS: Peer = Peer { name: "juicefs", programs: &["juicefs"], version: ("juicefs", "--version") };
/// Objects as files.
pub const S3FS: Peer = Peer { name: "s3fs", programs: &["s3fs"], version: ("s3fs", "--version") };
/// Objects as files, written by way of a cache.
pub const RCLONE: Peer = Peer { name: "rclone", programs: &["rclone"], version: ("rclone", "--version") };
/// GlusterFS.
pub const GLUSTERFS: Peer =
    Peer { name: "glusterfs", programs: &["glusterfs", "glusterd", "gluster"], version: ("glusterd", "--version") };
/// MooseFS.
pub const MOOSEFS: Peer = Peer {
    name: "moosefs",
    programs: &["mfsmount", "mfsmaster", "mfschunkserver", "mfssetgoal", "mfsfileinfo"],
    version: ("mfsmaster", "-v"),
};

/// Environment that would lead a peer elsewhere.
const MISLEADING: [&str; 3] = ["AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_ENDPOINT_URL"];

impl Peer {
    /// Fails with what to do if a program is missing.
    pub fn check(&self) -> Result<(), Failure> {
        match self.programs.iter().find(|name| program(name).is_none()) {
            None => Ok(()),
            Some(missing) => Err(Failure::new(format!(
                "{}: no program {missing} here, so it is left out; `scripts/bench --peers` as root installs it",
                self.name
            ))),
        }
    }

    /// What it says of itself, in one line.
    pub fn version(&self) -> Option<String> {
        let (name, question) = self.version;
        let output = command(name).arg(question).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
    }
}

/// The versions of those peers that columns are called after, or begin with the names of.
pub fn versions<'a>(columns: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    const ALL: [&Peer; 6] = [&BINDFS, &JUICEFS, &S3FS, &RCLONE, &GLUSTERFS, &MOOSEFS];
    let columns: Vec<&str> = columns.collect();
    let measured = ALL.into_iter().filter(|peer| columns.iter().any(|column| column.starts_with(peer.name)));
    measured.filter_map(|peer| Some((peer.name.to_owned(), peer.version()?))).collect()
}

/// A program of a peer: where `scripts/bench --peers` puts it, or else in the path and where
/// daemons lie.
pub fn program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?.with_file_name(format!("../{name}/bin/{name}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    std::iter::once(own).chain(folders.map(|folder| folder.join(name))).find(|path| path.is_file())
}

/// A command of a peer's program.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name).unwrap_or_else(|| PathBuf::from(name)));
    for variable in MISLEADING {
        command.env_remove(variable);
    }
    command
}

/// Makes a JuiceFS volume with badger for its metadata in `data`, and the command that mounts it.
/// Its cache lies with its data, not where it is shared.
pub fn juicefs(data: &Path, storage: &[&str], target: &Path, interrupt: &Interrupt) -> Result<Command, Failure> {
    let metadata = format!("badger://{}", data.join("meta").display());
    let mut format = command("juicefs");
    format.arg("format").args(storage).args([&metadata, "bench"]);
    time_program(interrupt, &mut format).during(|| "making a volume".to_owned())?;
    Ok(mount_juicefs(data, target))
}

/// The command that mounts a volume made by [`juicefs`].
pub fn mount_juicefs(data: &Path, target: &Path) -> Command {
    let mut mount = command("juicefs");
    mount.args(["mount", "--no-usage-report", "--cache-dir"]).arg(data.join("cache"));
    mount.arg(format!("badger://{}", data.join("meta").display())).arg(target);
    mount
}
