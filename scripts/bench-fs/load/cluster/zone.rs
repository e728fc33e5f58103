//! Daemons of Nexus, each with a data folder, a mount and a port of its own: three with one zone, or
//! one with none.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure, Role};

use super::{Bench, Cluster};
use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::subject::Subject;

/// How long the members may take until all follow one leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often they are looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(50);
/// What the zone is called.
const NAME: &str = "zone";

struct Node {
    program: PathBuf,
    /// The zone's directory, or just a directory where there is no zone.
    zone: PathBuf,
    point: PathBuf,
    subject: Option<Subject>,
}

/// The daemons.
pub struct Zone {
    nodes: Vec<Node>,
    interrupt: Interrupt,
}

impl Node {
    fn start(bench: &Bench, folder: &Path) -> Result<Self, Failure> {
        let point = folder.join("mnt");
        fs::create_dir(folder).during(|| format!("making {}", folder.display()))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).during(|| "finding a port".to_owned())?;
        let address = listener.local_addr().during(|| "finding a port".to_owned())?;
        drop(listener);
        let mut command = Command::new(bench.program);
        command.arg("mount").arg(&point).arg("--data").arg(folder.join("data")).arg("-f");
        command.args(["--listen", &address.to_string()]).args(bench.arguments);
        let column = nexus_bench::Subject { name: "nexus".to_owned(), role: Role::Nexus, transport: String::new() };
        let subject = Subject::mounted(column, point.clone(), &folder.join("log"), &mut command, bench.interrupt)?;
        let (program, zone) = (bench.program.to_owned(), point.join(NAME));
        Ok(Node { program, zone, point, subject: Some(subject) })
    }

    fn ask(&self, interrupt: &Interrupt, arguments: &[&str], place: &Path) -> Result<String, Failure> {
        let (_, output) = time_program(interrupt, Command::new(&self.program).args(arguments).arg(place))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Its line of `zone ls`.
    fn role(&self, interrupt: &Interrupt) -> Result<String, Failure> {
        self.ask(interrupt, &["zone", "ls", "--mount"], &self.point)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let is_up = self.subject.as_ref().is_some_and(|subject| !subject.processes().is_empty());
        if is_up {
            // A zone is a mount in the mount; what fails here is done by force with the subject.
            let _ = Command::new(&self.program).arg("umount").arg(&self.point).output();
        }
        self.subject = None;
    }
}

impl Zone {
    /// So many daemons with a zone, or one without.
    pub fn start(bench: &Bench, folder: &Path, count: usize) -> Result<Self, Failure> {
        let nodes = (0..count).map(|i| Node::start(bench, &folder.join(format!("n{i}"))));
        let mut zone = Zone { nodes: nodes.collect::<Result<_, _>>()?, interrupt: bench.interrupt.clone() };
        zone.form().during(|| "making a zone".to_owned())?;
        Ok(zone)
    }

    fn form(&mut self) -> Result<(), Failure> {
        let interrupt = &self.interrupt;
        let Some((first, others)) = self.nodes.split_first() else { return Ok(()) };
        fs::create_dir(&first.zone).during(|| format!("making {}", first.zone.display()))?;
        if others.is_empty() {
            return Ok(());
        }
        let mut invitation = first.ask(interrupt, &["share"], &first.zone)?;
        for (i, node) in others.iter().enumerate() {
            if i > 0 {
                invitation = first.ask(interrupt, &["zone", "invite", NAME, "--mount"], &first.point)?;
            }
            node.ask(interrupt, &["join", &invitation], &node.zone)?;
        }
        let started = Instant::now();
        loop {
            let roles: Vec<String> = self.nodes.iter().map(|node| node.role(interrupt)).collect::<Result<_, _>>()?;
            let has = |role: &str| roles.iter().filter(|line| line.contains(role)).count();
            if has("leader") == 1 && has("follower") + 1 == roles.len() {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(Failure::new(format!("no leader that all others follow: {roles:?}")));
            }
            sleep(GLANCE);
        }
        // Who leads comes last.
        if let Some(leader) = self.leader()? {
            let last = self.nodes.len() - 1;
            self.nodes.swap(leader, last);
        }
        Ok(())
    }

    fn leader(&self) -> Result<Option<usize>, Failure> {
        for (place, node) in self.nodes.iter().enumerate() {
            if node.role(&self.interrupt)?.contains("leader") {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

impl Cluster for Zone {
    fn points(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.zone.clone()).collect()
    }

    fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.subject.as_ref()).flat_map(Subject::processes).collect()
    }

    fn victim(&self) -> Result<Option<usize>, Failure> {
        match self.nodes.len() {
            1 => Ok(None),
            _ => self.leader()?.map(Some).ok_or_else(|| Failure::new("nobody leads the zone")),
        }
    }

    fn kill(&mut self, victim: usize) -> Result<(), Failure> {
        let subject = self.nodes.get(victim).and_then(|node| node.subject.as_ref());
        subject.map_or_else(|| Err(Failure::new("no such node")), Subject::kill)
    }
}
