//! MooseFS: one master, three chunkservers with a copy of everything each, and three mounts.

use std::fs;
use std::path::{Path, PathBuf};

use nexus_bench::{Context, Failure, Role};

use super::Cluster;
use super::room::{ADDRESS, Room, wait};
use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::peers::{MOOSEFS, program};
use crate::subject::{Subject, kill};

const NODES: usize = 3;
/// Where the master answers mounts.
const MASTER_PORT: u16 = 9421;
/// The first chunkserver's port.
const PORT: usize = 9425;
/// What a master without files has as its metadata.
const EMPTY: &str = "MFSM NEW";

/// The daemons and mounts. Mounts go first when dropped.
pub struct Moose {
    mounts: Vec<Subject>,
    folder: PathBuf,
    room: Room,
}

impl Moose {
    /// Starts all, with everything in `folder`.
    pub fn start(folder: &Path, interrupt: &Interrupt) -> Result<Self, Failure> {
        let mut moose = Moose { mounts: Vec::new(), folder: folder.to_owned(), room: Room::open(&[])? };
        let path = |name: &str| folder.join(name).display().to_string();
        moose.write("exports.cfg", "* / rw,alldirs,admin,maproot=0:0\n")?;
        moose.write("topology.cfg", "")?;
        moose.make("master")?;
        moose.write("master/metadata.mfs", EMPTY)?;
        let owner = "WORKING_USER = root\nWORKING_GROUP = root\n";
        let master = format!(
            "{owner}DATA_PATH = {}\nEXPORTS_FILENAME = {}\nTOPOLOGY_FILENAME = {}\n",
            path("master"),
            path("exports.cfg"),
            path("topology.cfg")
        );
        moose.write("master.cfg", &master)?;
        moose.daemon("mfsmaster", "master")?;
        wait("the master", interrupt, || moose.room.listens(MASTER_PORT))?;
        for i in 0..NODES {
            let (name, chunks, list) = (format!("server{i}"), format!("chunks{i}"), format!("disks{i}.cfg"));
            moose.make(&name)?;
            moose.make(&chunks)?;
            moose.write(&list, &format!("{}\n", path(&chunks)))?;
            let server = format!(
                "{owner}DATA_PATH = {}\nHDD_CONF_FILENAME = {}\nMASTER_HOST = {ADDRESS}\nCSSERV_LISTEN_PORT = {}\n",
                path(&name),
                path(&list),
                PORT + i
            );
            moose.write(&format!("{name}.cfg"), &server)?;
            moose.daemon("mfschunkserver", &name)?;
        }
        for i in 0..NODES {
            let target = folder.join(format!("m{i}"));
            let mut client = moose.room.with_network(&found("mfsmount")?);
            client.args(["-f", "-H", ADDRESS]).arg(&target);
            let name = MOOSEFS.name.to_owned();
            let column = nexus_bench::Subject { name, role: Role::Peer, transport: String::new() };
            let log = folder.join(format!("m{i}.log"));
            moose.mounts.push(Subject::mounted(column, target, &log, &mut client, interrupt)?);
        }
        moose.copies(interrupt)?;
        Ok(moose)
    }

    /// Has each file kept three times, and waits until one is.
    fn copies(&self, interrupt: &Interrupt) -> Result<(), Failure> {
        let Some(root) = self.mounts.first().map(|mount| &mount.root) else { return Ok(()) };
        let mut goal = self.room.with_network(&found("mfssetgoal")?);
        time_program(interrupt, goal.args(["-r", &NODES.to_string()]).arg(root))?;
        let probe = root.join("probe");
        wait("the chunkservers", interrupt, || {
            let mut told = self.room.with_network(Path::new("mfsfileinfo"));
            let told = fs::write(&probe, "probe").is_ok().then(|| time_program(interrupt, told.arg(&probe)));
            let copies = told
                .and_then(Result::ok)
                .map_or(0, |(_, output)| String::from_utf8_lossy(&output.stdout).matches("status:VALID").count());
            if copies < NODES {
                // The next one is made when more of them are there.
                let _ = fs::remove_file(&probe);
            }
            copies == NODES
        })?;
        fs::remove_file(&probe).during(|| "removing the probe".to_owned())
    }

    fn daemon(&self, program: &str, name: &str) -> Result<(), Failure> {
        let mut command = self.room.inside(&found(program)?);
        command.arg("-c").arg(self.folder.join(format!("{name}.cfg"))).args(["-f", "start"]);
        self.room.keep(&mut command, &self.folder.join(format!("{name}.log")))
    }

    fn make(&self, name: &str) -> Result<(), Failure> {
        fs::create_dir(self.folder.join(name)).during(|| format!("making {name}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        fs::write(self.folder.join(name), text).during(|| format!("writing {name}"))
    }
}

fn found(name: &str) -> Result<PathBuf, Failure> {
    program(name).ok_or_else(|| Failure::new(format!("no program {name}")))
}

impl Cluster for Moose {
    fn points(&self) -> Vec<PathBuf> {
        self.mounts.iter().map(|mount| mount.root.clone()).collect()
    }

    fn processes(&self) -> Vec<u32> {
        self.room.processes().into_iter().chain(self.mounts.iter().flat_map(Subject::processes)).collect()
    }

    fn victim(&self) -> Result<Option<usize>, Failure> {
        Ok(Some(NODES - 1))
    }

    fn kill(&mut self, victim: usize) -> Result<(), Failure> {
        let settings = self.folder.join(format!("server{victim}.cfg"));
        let process = self.room.process_with(&settings.to_string_lossy());
        kill(process.ok_or_else(|| Failure::new("no such chunkserver"))?)
    }
}
