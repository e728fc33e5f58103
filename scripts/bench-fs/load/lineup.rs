//! Who is measured, and how each is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nexus_bench::{Context, Failure, Role};

use crate::Run;
use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::subject::Subject;

/// The folders of one subject.
struct Places {
    target: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl Places {
    fn below(folder: &Path, name: &str) -> Places {
        let path = |what: &str| folder.join(format!("{name}{what}"));
        Places { target: path("-mount"), data: path("-data"), log: path(".log") }
    }

    fn make_data(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.data).during(|| format!("making {}", self.data.display()))
    }
}

impl Run {
    /// Starts all subjects, with their data in `folder`; Nexus and the floor once for each of
    /// `transports`.
    pub fn subjects(&self, folder: &Path, transports: &[&str], interrupt: &Interrupt) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        let peers = if self.peers { &["bindfs", "juicefs"][..] } else { &[] };
        let further = peers.iter().filter(|peer| !self.only.iter().any(|name| name == *peer));
        for name in self.only.iter().map(String::as_str).chain(further.copied()) {
            match name {
                "nexus" | "floor" => {
                    for transport in transports {
                        subjects.push(self.own(name, transport, transports.len() > 1, folder, interrupt)?);
                    }
                }
                "ext4" | "local" => {
                    subjects.push(Subject::folder(&self.local_name(), Places::below(folder, name).data)?);
                }
                "bindfs" => {
                    let places = Places::below(folder, name);
                    places.make_data()?;
                    let mut command = Command::new("bindfs");
                    command.arg("-f").arg(&places.data).arg(&places.target);
                    subjects.push(peer(name, places, &mut command, interrupt)?);
                }
                "juicefs" => subjects.push(juicefs(folder, interrupt)?),
                other => return Err(Failure::new(format!("--only {other}: not known"))),
            }
        }
        for spec in &self.peer {
            let (name, line) =
                spec.split_once('=').ok_or_else(|| Failure::new(format!("--peer {spec}: want NAME=COMMAND")))?;
            let places = Places::below(folder, name);
            places.make_data()?;
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec {line}")]);
            command.env("TARGET", &places.target).env("DATA", &places.data);
            subjects.push(peer(name, places, &mut command, interrupt)?);
        }
        Ok(subjects)
    }

    /// Nexus or the floor, over one transport.
    fn own(
        &self,
        name: &str,
        transport: &str,
        one_of_many: bool,
        folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Subject, Failure> {
        let full = if one_of_many { format!("{name}-{transport}") } else { name.to_owned() };
        let places = Places::below(folder, &full);
        let (role, mut command) = if name == "nexus" {
            let mut command = Command::new(self.nexus_program()?);
            command.arg("mount").arg(&places.target).arg("--data").arg(&places.data).arg("-f");
            command.args(["--transport", transport]).args(&self.nexus_arg);
            (Role::Nexus, command)
        } else {
            let mut command = Command::new(beside("floor-fs")?);
            command.arg(&places.target).args(["--transport", transport]).args(&self.floor_arg);
            (Role::Floor, command)
        };
        let column = nexus_bench::Subject { name: full, role, transport: transport.to_owned() };
        Subject::mounted(column, places.target, &places.log, &mut command, interrupt)
    }

    /// What the file system under the data is called.
    pub fn local_name(&self) -> String {
        machine::file_system_type(&self.dir).unwrap_or_else(|| "local".to_owned())
    }

    /// The daemon's program.
    pub fn nexus_program(&self) -> Result<PathBuf, Failure> {
        self.bin.clone().map_or_else(|| beside("nexus-fuse"), Ok)
    }
}

fn peer(name: &str, places: Places, command: &mut Command, interrupt: &Interrupt) -> Result<Subject, Failure> {
    let column = nexus_bench::Subject { name: name.to_owned(), role: Role::Peer, transport: String::new() };
    Subject::mounted(column, places.target, &places.log, command, interrupt)
}

/// JuiceFS with badger and local disk; its cache lies with its data, not where it is shared.
fn juicefs(folder: &Path, interrupt: &Interrupt) -> Result<Subject, Failure> {
    let places = Places::below(folder, "juicefs");
    places.make_data()?;
    let program = juicefs_program()?;
    let metadata = format!("badger://{}", places.data.join("meta").display());
    let blocks = places.data.join("blocks");
    let mut format = Command::new(&program);
    // The slash at the end makes it a folder rather than a prefix.
    format.args(["format", "--storage", "file", "--bucket"]).arg(format!("{}/", blocks.display()));
    format.args([&metadata, "bench"]);
    time_program(interrupt, &mut format)?;
    let mut mount = Command::new(&program);
    mount.args(["mount", "--no-usage-report", "--cache-dir"]).arg(places.data.join("cache"));
    mount.arg(&metadata).arg(&places.target);
    peer("juicefs", places, &mut mount, interrupt)
}

/// Where `scripts/bench --peers` puts it, or wherever the shell would find it.
pub fn juicefs_program() -> Result<PathBuf, Failure> {
    let own = beside("../juicefs/bin/juicefs")?;
    Ok(if own.exists() { own } else { PathBuf::from("juicefs") })
}

/// A program in the folder that this one is in.
pub fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().during(|| "finding bench-load".to_owned())?;
    Ok(own.with_file_name(name))
}
