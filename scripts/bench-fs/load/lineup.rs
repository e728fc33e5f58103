//! Who is measured, and how each is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nexus_bench::{Context, Failure, Role};

use crate::Run;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::peers;
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
    /// `transports`. What a peer lacks is told and put into `failed`.
    pub fn subjects(
        &self,
        folder: &Path,
        transports: &[&str],
        interrupt: &Interrupt,
        failed: &mut Vec<String>,
    ) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        let mut join = |joined: Result<Subject, Failure>| match joined {
            Ok(subject) => Ok(Some(subject)),
            Err(failure) => {
                interrupt.check()?;
                eprintln!("{failure}");
                failed.push(failure.to_string());
                Ok::<_, Failure>(None)
            }
        };
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
                "bindfs" => subjects.extend(join(bindfs(folder, interrupt))?),
                "juicefs" => subjects.extend(join(juicefs(folder, interrupt))?),
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
            subjects.extend(join(peer(name, places, &mut command, interrupt))?);
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

fn bindfs(folder: &Path, interrupt: &Interrupt) -> Result<Subject, Failure> {
    peers::BINDFS.check()?;
    let places = Places::below(folder, "bindfs");
    places.make_data()?;
    let mut command = peers::command("bindfs");
    command.arg("-f").arg(&places.data).arg(&places.target);
    peer("bindfs", places, &mut command, interrupt)
}

/// JuiceFS with its content on local disk.
fn juicefs(folder: &Path, interrupt: &Interrupt) -> Result<Subject, Failure> {
    peers::JUICEFS.check()?;
    let places = Places::below(folder, "juicefs");
    places.make_data()?;
    // The slash at the end makes it a folder rather than a prefix.
    let bucket = format!("{}/", places.data.join("blocks").display());
    let storage = ["--storage", "file", "--bucket", &bucket];
    let mut mount = peers::juicefs(&places.data, &storage, &places.target, interrupt)?;
    peer("juicefs", places, &mut mount, interrupt)
}

/// A program in the folder that this one is in.
pub fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().during(|| "finding bench-load".to_owned())?;
    Ok(own.with_file_name(name))
}
