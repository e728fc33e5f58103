//! GlusterFS with three bricks of which each has everything, and three mounts.

use std::fs;
use std::path::{Path, PathBuf};

use nexus_bench::{Context, Failure, Role};

use super::Cluster;
use super::room::{ADDRESS, Room, wait};
use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::peers::{GLUSTERFS, program};
use crate::subject::{Subject, kill};

const VOLUME: &str = "bench";
const NODES: usize = 3;

/// The daemons and mounts. Mounts go first when dropped.
pub struct Gluster {
    mounts: Vec<Subject>,
    folder: PathBuf,
    room: Room,
}

impl Gluster {
    /// Starts all, with everything in `folder`.
    pub fn start(folder: &Path, interrupt: &Interrupt) -> Result<Self, Failure> {
        let seen_at = [(folder.join("state"), "/var/lib/glusterd"), (folder.join("logs"), "/var/log/glusterfs")];
        let room = Room::open(&seen_at)?;
        let mut gluster = Gluster { mounts: Vec::new(), folder: folder.to_owned(), room };
        let settings = folder.join("glusterd.vol");
        let text = "volume management\n type mgmt/glusterd\n option working-directory /var/lib/glusterd\n \
                    option transport-type socket\n option transport.socket.listen-port 24007\n \
                    option ping-timeout 0\n option event-threads 1\nend-volume\n";
        fs::write(&settings, text).during(|| format!("writing {}", settings.display()))?;
        let mut daemon = gluster.room.inside(&found("glusterd")?);
        gluster.room.keep(daemon.args(["-N", "-f"]).arg(&settings), &folder.join("glusterd.log"))?;
        wait("glusterd", interrupt, || gluster.ask(interrupt, &["pool", "list"]).is_ok())?;

        let bricks: Vec<String> = (0..NODES).map(|i| format!("{ADDRESS}:{}", gluster.brick(i).display())).collect();
        let count = NODES.to_string();
        let mut create = vec!["volume", "create", VOLUME, "replica", &count];
        create.extend(bricks.iter().map(String::as_str));
        create.push("force");
        gluster.ask(interrupt, &create)?;
        gluster.ask(interrupt, &["volume", "start", VOLUME])?;
        // The three bricks, and what heals them.
        wait("the bricks", interrupt, || {
            let said = gluster.ask(interrupt, &["volume", "status", VOLUME, "--xml"]);
            said.is_ok_and(|said| said.matches("<status>1</status>").count() > NODES)
        })?;
        for i in 0..NODES {
            let (target, log) = (folder.join(format!("m{i}")), folder.join(format!("m{i}.log")));
            let mut client = gluster.room.with_network(&found("glusterfs")?);
            client.args(["-N", &format!("--volfile-server={ADDRESS}"), &format!("--volfile-id={VOLUME}"), "-l"]);
            client.arg(folder.join(format!("client{i}.log"))).arg(&target);
            let name = GLUSTERFS.name.to_owned();
            let column = nexus_bench::Subject { name, role: Role::Peer, transport: String::new() };
            gluster.mounts.push(Subject::mounted(column, target, &log, &mut client, interrupt)?);
        }
        Ok(gluster)
    }

    fn ask(&self, interrupt: &Interrupt, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = self.room.inside(&found("gluster")?);
        let (_, output) = time_program(interrupt, command.arg("--mode=script").args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn brick(&self, place: usize) -> PathBuf {
        self.folder.join(format!("b{place}"))
    }
}

fn found(name: &str) -> Result<PathBuf, Failure> {
    program(name).ok_or_else(|| Failure::new(format!("no program {name}")))
}

impl Cluster for Gluster {
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
        let brick = self.brick(victim);
        let process = self.room.process_with(&brick.to_string_lossy());
        kill(process.ok_or_else(|| Failure::new(format!("no process for {}", brick.display())))?)
    }
}
