//! Zones: a directory that several daemons have, each with a data folder, a mount and a port of
//! its own. They are shared and joined as a user does it, worked in from all sides, and their
//! daemons are killed.

mod behind;
mod certificates;
mod closed;
mod copies;
mod hard;
mod held;
mod impostors;
mod kept;
mod life;
mod locks;
mod missing;
mod nested;
mod open;
mod options;
mod proof;
mod recover;
mod rest;
mod upgrade;
mod watch;
mod witness;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::ports;
use crate::report::Case;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// Within this a node that was away is up to date, and a zone has a leader again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that a change may take while a zone finds a new leader, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(10);
/// Longest that anything may take that needs no other node.
const PROMPT: Duration = Duration::from_secs(5);

/// Cases that run at a time: they wait for leases, timeouts and elections most of the time.
pub const LANES: usize = 4;

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        // The two that wait longest, so that they end before the others.
        Case::new("certificates renew themselves", certificates::renewed),
        Case::new("a zone is left, and destroyed for all", life::destroyed),
        Case::new("a directory is shared, and joined elsewhere", shared),
        Case::new("of many that make a name one wins", exclusive),
        Case::new("programs work across nodes", programs),
        Case::new("the leader is killed under load", leader_killed).alone(),
        Case::new("a zone at rest costs nothing, and wakes", rest::at_rest).alone(),
        Case::new("without a majority nothing is changed, and nothing hangs", no_majority),
        Case::new("how long changes wait, and how they fail, is a mount option", options::majority_lost),
        Case::new("members leave, and are removed", leaving),
        Case::new("a lost disk loses nothing that was synced", copies::disk_lost),
        Case::new("copies are made up for and follow the zone's setting", copies::made_up),
        Case::new("what is written counts at once on its node, and soon on all", behind::seen),
        Case::new("writes and other changes of a file keep their order", behind::in_order),
        Case::new("writes that are lost are told of", behind::lost),
        Case::new("what the kernel keeps is told of", kept::told),
        Case::new("what the kernel keeps is never behind what it is told", kept::in_order),
        Case::new("locks hold on all nodes", locks::everywhere),
        Case::new("locks go with who held them", locks::lost),
        Case::new("what is removed elsewhere stays for who uses it", held::removed),
        Case::new("what a lost node used is freed after its lease", held::lost),
        Case::new("two nodes write one SQLite database", locks::sqlite),
        Case::new("a witness lets two go on without any one of three", witness::of_two).alone(),
        Case::new("a witness hands on what it alone has", witness::hands_on),
        Case::new("a witness keeps so much and no more", witness::within_bounds),
        Case::new("what changes in a zone is told to who watches it", watch::told),
        Case::new("what can't be shared or joined is refused", refusals),
        Case::new("a zone that can't be opened keeps nothing else from it", closed::closed),
        Case::new("content files of a zone that are missing are made up for", missing::made_up),
        Case::new("who lost its disk is another, and who copied one is nobody", impostors::wiped_and_copied),
        Case::new("members are upgraded one after the other under load", upgrade::rolling),
        Case::new("a share that is cut short", closed::cut_short),
        Case::new("a directory of a zone becomes a zone within it", nested::within),
        Case::new("a share within a zone that is cut short", nested::cut_short),
        Case::new("a zone within another is joined by its path", open::by_path),
        Case::new("a zone is found by a path from a node", open::by_address),
        Case::new("a zone is made, mounted, put in the trash and destroyed", life::alone),
        Case::new("a zone that can't be opened is given up", life::given_up),
        Case::new("a zone goes on after its majority was lost for good", recover::majority_lost),
        Case::new("fsck looks at zones", proof::proven),
    ];
    cases.extend(hard::cases());
    cases
}

/// A daemon with its mount.
struct Node {
    mount: Mount,
    /// The zone's directory.
    zone: PathBuf,
    _scratch: Scratch,
}

/// Daemons of one zone.
struct Nodes(Vec<Node>);

impl Node {
    fn new(lab: &Lab, name: &str) -> Check<Node> {
        Node::made(lab, name, |mount| mount)
    }

    /// With a variable in its daemon's environment.
    fn with_variable(lab: &Lab, name: &str, (key, value): (&str, &str)) -> Check<Node> {
        Node::made(lab, name, |mount| mount.with_variable(key, value))
    }

    fn made(lab: &Lab, name: &str, with: impl FnOnce(Mount) -> Mount) -> Check<Node> {
        let scratch = Scratch::new(&lab.scratch, name)?;
        let address = ports::address()?;
        let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?.with_arguments(&["--listen", &address]);
        let zone = mount.point().join("zone");
        let mut node = Node { mount: with(mount), zone, _scratch: scratch };
        node.mount.start()?;
        Ok(node)
    }

    /// A program's word about zones, on this node's mount.
    fn zone(&self, arguments: &[&str]) -> Tool {
        self.mount.program().arg("zone").args(arguments).arg("--mount").arg(self.mount.point())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.zone.join(name)
    }

    /// The state's sum, and up to which entry it goes.
    fn digest(&self) -> Check<String> {
        Ok(self.zone(&["digest", "zone"]).ok()?.trim().to_owned())
    }

    /// This node's id as a member.
    fn member(&self) -> Check<String> {
        let said = self.zone(&["status", "zone"]).ok()?;
        let own = said.lines().find(|line| line.contains("this node"));
        match own.and_then(|line| line.split_whitespace().nth(1)) {
            Some(id) => Ok(id.to_owned()),
            None => fail!("this node is no member: {said}"),
        }
    }

    fn leads(&self) -> Check<bool> {
        Ok(self.zone(&["ls"]).ok()?.contains("leader"))
    }

    /// Unmounts as a user does who has zones in the mount.
    fn stop(&mut self) -> Check {
        self.mount.program().arg("umount").arg(self.mount.point()).ok()?;
        self.mount.ended()
    }
}

impl Nodes {
    /// A zone of so many nodes, with a file in it from before it was one.
    fn new(lab: &Lab, count: usize) -> Check<Nodes> {
        Nodes::made(lab, count, |mount| mount)
    }

    /// The same, of daemons that are made in some way.
    fn made(lab: &Lab, count: usize, with: impl Fn(Mount) -> Mount) -> Check<Nodes> {
        let names = ["alice", "bob", "carol"];
        let nodes: Vec<Node> =
            names.iter().take(count).map(|name| Node::made(lab, name, &with)).collect::<Check<_>>()?;
        let (first, others) = nodes.split_first().ok_or_else(|| crate::failure::Stop::Failed("no nodes".into()))?;
        fs::create_dir(&first.zone)?;
        fs::write(first.path("before"), "from before")?;
        let mut invite = first.mount.program().arg("share").arg(&first.zone).ok()?;
        for (place, node) in others.iter().enumerate() {
            node.mount.program().arg("join").arg(invite.trim()).arg(&node.zone).ok()?;
            if place + 1 < others.len() {
                invite = node.zone(&["invite", "zone"]).ok()?;
            }
        }
        Ok(Nodes(nodes))
    }

    /// All have the same state, once nothing more comes.
    fn agree(&self) -> Check {
        let mut last = Vec::new();
        wait_until("all nodes have the same state", PATIENCE, || {
            last = self.0.iter().map(Node::digest).collect::<Check<Vec<_>>>()?;
            Ok(last.iter().all(|digest| Some(digest) == last.first()))
        })
        .during(format!("{last:?}"))
    }

    /// Unmounts all, the last first, and holds what is left against its rules.
    fn finish(mut self) -> Check {
        while let Some(mut node) = self.0.pop() {
            node.stop()?;
            node.mount.fsck()?;
        }
        Ok(())
    }

    fn at(&self, place: usize) -> Check<&Node> {
        self.0.get(place).ok_or_else(|| crate::failure::Stop::Failed("no such node".into()))
    }

    fn at_mut(&mut self, place: usize) -> Check<&mut Node> {
        self.0.get_mut(place).ok_or_else(|| crate::failure::Stop::Failed("no such node".into()))
    }

    fn leader(&self) -> Check<usize> {
        let mut found = None;
        wait_until("somebody leads", PATIENCE, || {
            for (place, node) in self.0.iter().enumerate() {
                if node.leads()? {
                    found = Some(place);
                }
            }
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| crate::failure::Stop::Failed("nobody leads".into()))
    }
}

fn expect(path: &Path, content: &[u8]) -> Check {
    let read = fs::read(path).during(path.display())?;
    ensure!(read == content, "{} has {} bytes, not the {} expected", path.display(), read.len(), content.len());
    Ok(())
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn shared(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    let [a, b, c] = nodes.0.as_slice() else { fail!("three nodes") };
    expect(&b.path("before"), b"from before")?;
    expect(&c.path("before"), b"from before")?;
    // Content goes every way, large and small, and what is written again is seen again.
    let large: Vec<u8> = (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (node, name) in [(a, "of a"), (b, "of b"), (c, "of c")] {
        fs::create_dir(node.path(name))?;
        fs::write(node.path(name).join("large"), &large)?;
        fs::write(node.path(name).join("small"), name)?;
    }
    for node in [a, b, c] {
        for name in ["of a", "of b", "of c"] {
            expect(&node.path(name).join("large"), &large)?;
            expect(&node.path(name).join("small"), name.as_bytes())?;
        }
    }
    for round in 0..20 {
        let (writer, reader) = (nodes.at(round % 3)?, nodes.at((round + 1) % 3)?);
        let text = format!("round {round}");
        fs::write(writer.path("again"), &text)?;
        expect(&reader.path("again"), text.as_bytes())?;
        fs::rename(reader.path("again"), reader.path("moved"))?;
        let old = writer.path("again");
        wait_until("a name that is gone elsewhere is gone", PROMPT, || Ok(!old.exists()))?;
        fs::rename(writer.path("moved"), writer.path("again"))?;
    }
    // A zone is a file system of its own.
    let outside = a.mount.point().join("outside");
    fs::write(&outside, "x")?;
    ensure!(errno(fs::rename(&outside, a.path("x"))) == Some(libc_exdev()), "renamed into the zone");
    ensure!(errno(fs::hard_link(a.path("before"), a.mount.point().join("y"))) == Some(libc_exdev()), "linked out");
    ensure!(fs::metadata(&outside)?.dev() != fs::metadata(a.path("before"))?.dev(), "one device");
    Tool::shell("mv outside zone/ && test ! -e outside && cat zone/outside").within(a.mount.point()).ok()?;
    expect(&c.path("outside"), b"x")?;
    ensure!(fs::remove_dir(&a.zone).is_err(), "a zone's directory was removed");
    nodes.agree()?;
    // It is all there after a night.
    let mut nodes = nodes;
    for node in &mut nodes.0 {
        node.stop()?;
    }
    for node in &mut nodes.0 {
        node.mount.start()?;
    }
    for node in &nodes.0 {
        wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))?;
        expect(&node.path("of b").join("large"), &large)?;
    }
    fs::write(nodes.at(2)?.path("in the morning"), "well")?;
    expect(&nodes.at(0)?.path("in the morning"), b"well")?;
    nodes.agree()?;
    nodes.finish()
}

/// Not linked against libc for one number.
fn libc_exdev() -> i32 {
    rustix::io::Errno::XDEV.raw_os_error()
}

fn exclusive(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 3)?;
    const NAMES: usize = 60;
    let won: Vec<AtomicU64> = (0..NAMES).map(|_| AtomicU64::new(0)).collect();
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in &nodes.0 {
            let (won, failed) = (&won, &failed);
            scope.spawn(move || {
                for (name, won) in won.iter().enumerate() {
                    let made = OpenOptions::new().write(true).create_new(true).open(node.path(&format!("name {name}")));
                    match made {
                        Ok(_) => drop(won.fetch_add(1, Ordering::Relaxed)),
                        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                        Err(_) => failed.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    ensure!(!failed.load(Ordering::Relaxed), "a name could neither be made nor was it there");
    for (name, won) in won.iter().enumerate() {
        let won = won.load(Ordering::Relaxed);
        ensure!(won == 1, "name {name} was made by {won} nodes");
    }
    nodes.agree()?;
    nodes.finish()
}

fn programs(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    let git = "git -c user.name=x -c user.email=x@y -c init.defaultBranch=main -c safe.directory='*'";
    Tool::shell(&format!(
        "mkdir repo && cd repo && {git} init -q && echo 1 > f && {git} add f && {git} commit -qm one"
    ))
    .within(&a.zone)
    .ok()?;
    for round in 2..6 {
        let node = if round % 2 == 0 { b } else { a };
        let line = format!("cd repo && {git} status --porcelain && echo {round} >> f && {git} commit -qam {round}");
        let said = Tool::shell(&line).within(&node.zone).ok()?;
        ensure!(said.trim().is_empty(), "round {round}: the tree is not clean: {said}");
    }
    Tool::shell(&format!("cd repo && {git} fsck --strict && test $({git} rev-list --count HEAD) = 5"))
        .within(&b.zone)
        .ok()?;
    Tool::shell("mkdir tree && for i in $(seq 200); do echo $i > tree/$i; done && tar cf t.tar tree")
        .within(&a.zone)
        .ok()?;
    Tool::shell("mkdir copy && tar xf t.tar -C copy && diff -r tree copy/tree && rm -r tree").within(&b.zone).ok()?;
    Tool::shell("test ! -e tree && find copy -type f | wc -l | grep -qx 200 && cp -a copy again && diff -r copy again")
        .within(&a.zone)
        .ok()?;
    nodes.agree()?;
    nodes.finish()
}

/// Makes files one after the other until told to stop; answers those that were acknowledged,
/// and the longest that one took.
fn make_files(folder: &Path, who: &str, stop: &AtomicBool) -> (Vec<String>, Duration) {
    let (mut made, mut longest, mut number) = (Vec::new(), Duration::ZERO, 0u64);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("{who} {number}");
        number += 1;
        let began = Instant::now();
        let done = File::create_new(folder.join(&name)).and_then(|mut file| {
            file.write_all(name.as_bytes())?;
            file.sync_all()
        });
        longest = longest.max(began.elapsed());
        if done.is_ok() {
            made.push(name);
        }
    }
    (made, longest)
}

/// Makes files in all folders at once; half a second later something happens, and six more later it ends.
/// Answers which were made, and how long the slowest took.
fn files_beside(folders: &[PathBuf], who: &str, happens: impl FnOnce() -> Check) -> Check<(Vec<String>, Duration)> {
    let stop = AtomicBool::new(false);
    let (mut acknowledged, mut slowest) = (Vec::new(), Duration::ZERO);
    std::thread::scope(|scope| {
        let made = |(place, folder): (usize, &PathBuf)| {
            let (folder, stop, who) = (folder.clone(), &stop, format!("{who} maker {place}"));
            scope.spawn(move || make_files(&folder, &who, stop))
        };
        let makers: Vec<_> = folders.iter().enumerate().map(made).collect();
        std::thread::sleep(Duration::from_millis(500));
        let happened = happens();
        std::thread::sleep(Duration::from_secs(6));
        stop.store(true, Ordering::Relaxed);
        for maker in makers {
            if let Ok((made, longest)) = maker.join() {
                acknowledged.extend(made);
                slowest = slowest.max(longest);
            }
        }
        happened
    })?;
    Ok((acknowledged, slowest))
}

fn leader_killed(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    for round in 0..2 {
        let leader = nodes.leader()?;
        let (others, killed): (Vec<_>, Vec<_>) =
            nodes.0.iter_mut().enumerate().partition(|(place, _)| *place != leader);
        let killed = killed.into_iter().next().map(|(_, node)| node);
        let folders: Vec<PathBuf> = others.iter().map(|(_, node)| node.zone.clone()).collect();
        let (acknowledged, slowest) =
            files_beside(&folders, &format!("round {round}"), || killed.map_or(Ok(()), |node| node.mount.kill()))?;
        println!("    {} files, the slowest took {slowest:?}", acknowledged.len());
        ensure!(slowest < FAILOVER, "a file took {slowest:?} when the leader was gone");
        ensure!(acknowledged.len() > 20, "only {} files were made", acknowledged.len());
        {
            let node = nodes.at_mut(leader)?;
            node.mount.start()?;
            wait_until("the zone is mounted again", PATIENCE, || Ok(node.path("before").exists()))?;
        }
        nodes.agree()?;
        for node in &nodes.0 {
            for name in &acknowledged {
                ensure!(node.path(name).exists(), "{name} was acknowledged, and is not on every node");
            }
        }
        if let Some(name) = acknowledged.last() {
            expect(&nodes.at(leader)?.path(name), name.as_bytes())?;
        }
    }
    nodes.finish()
}

fn no_majority(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let names = ["kept 1", "kept 2"];
    for name in names {
        fs::write(nodes.at(0)?.path(name), name)?;
    }
    nodes.agree()?;
    nodes.at_mut(1)?.mount.kill()?;
    nodes.at_mut(2)?.mount.kill()?;
    let alone = &nodes.at(0)?;
    let point = alone.mount.point().to_owned();
    let zone = alone.zone.clone();
    let writing = std::thread::spawn(move || {
        let began = Instant::now();
        (fs::create_dir(zone.join("not agreed on")), began.elapsed())
    });
    // What needs nobody else goes on meanwhile.
    let began = Instant::now();
    Tool::new("stat").arg("-f").arg(&alone.zone).ok()?;
    fs::metadata(alone.path("kept 1")).during("stat of what is here")?;
    fs::write(point.join("elsewhere"), "x")?;
    ensure!(began.elapsed() < PROMPT, "it took {:?}", began.elapsed());
    let Ok((refused, took)) = writing.join() else { fail!("the writer panicked") };
    ensure!(refused.is_err(), "a change was made by one of three");
    ensure!(took < PATIENCE, "it took {took:?} until a change was refused");
    println!("    refused after {took:?}: {refused:?}");
    nodes.at_mut(1)?.mount.start()?;
    wait_until("changes are made again", PATIENCE, || Ok(fs::write(nodes.at(0)?.path("with two"), "x").is_ok()))?;
    nodes.at_mut(2)?.mount.start()?;
    for node in &nodes.0 {
        wait_until("the zone is mounted", PATIENCE, || Ok(node.path("with two").exists()))?;
        for name in names {
            expect(&node.path(name), name.as_bytes())?;
        }
    }
    nodes.agree()?;
    nodes.finish()
}

fn leaving(lab: &Lab) -> Check {
    let mut nodes = Nodes::new(lab, 3)?;
    let gone = nodes.0.pop();
    let Some(mut gone) = gone else { fail!("no third node") };
    gone.zone(&["leave", "zone"]).ok()?;
    ensure!(fs::read_dir(&gone.zone)?.next().is_none(), "files of a zone are there after it was left");
    ensure!(gone.zone(&["ls"]).ok()?.contains("no zones"), "it is still listed");
    fs::remove_dir(&gone.zone).during("the directory is a directory like any other")?;
    fs::write(nodes.at(0)?.path("without the third"), "x")?;
    expect(&nodes.at(1)?.path("without the third"), b"x")?;
    ensure!(!nodes.at(0)?.zone(&["status", "zone"]).ok()?.contains("carol"), "it is still a member");
    // It may come back, by a new invitation, as somebody new.
    let invite = nodes.at(1)?.zone(&["invite", "zone"]).ok()?;
    gone.mount.program().arg("join").arg(invite.trim()).arg(&gone.zone).ok()?;
    expect(&gone.path("without the third"), b"x")?;
    let member = gone.member()?;
    gone.mount.kill()?;
    nodes.at(0)?.zone(&["remove-member", "zone", &member]).ok()?;
    fs::write(nodes.at(1)?.path("after the removal"), "x")?;
    // A dead member that was removed comes back, and is not let in.
    gone.mount.start()?;
    let said = nodes.at(0)?.zone(&["status", "zone"]).ok()?;
    ensure!(said.matches("  member ").count() == 2, "{said}");
    ensure!(!gone.path("after the removal").exists(), "who was removed is told of changes");
    gone.stop()?;
    // The last one can't leave: its files would be gone.
    nodes.at(1)?.zone(&["leave", "zone"]).ok()?;
    let last = nodes.at(0)?.zone(&["leave", "zone"]).run()?;
    ensure!(last.code != 0 && last.err.contains("last member"), "{last:?}");
    expect(&nodes.at(0)?.path("after the removal"), b"x")?;
    nodes.finish()
}

fn refusals(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    let refused = |tool: Tool, words: &str| -> Check {
        let done = tool.run()?;
        ensure!(done.code != 0 && done.err.contains(words), "not refused with {words:?}: {done:?}");
        Ok(())
    };
    let invite = a.zone(&["invite", "zone", "--ttl", "1s"]).ok()?.trim().to_owned();
    std::thread::sleep(Duration::from_millis(1100));
    let elsewhere = b.mount.point().join("elsewhere");
    let join = |invite: &str| b.mount.program().arg("join").arg(invite).arg(&elsewhere);
    refused(join(&invite), "expired")?;
    refused(join("nexus://127.0.0.1:1/join/AAAA"), "invitation")?;
    refused(join(invite.split_at(invite.len() - 3).0), "invitation")?;
    let outside = lab.scratch.join("no mount of ours");
    refused(b.mount.program().arg("join").arg(&invite).arg(&outside), "not on a mount")?;
    ensure!(!outside.exists(), "a directory was made where nothing can be joined");
    refused(a.mount.program().arg("share").arg(a.mount.point()), "root")?;
    // A file with a name outside.
    let dir = a.mount.point().join("dir");
    fs::create_dir(&dir)?;
    fs::write(dir.join("in"), "x")?;
    fs::hard_link(dir.join("in"), a.mount.point().join("out"))?;
    refused(a.mount.program().arg("share").arg(&dir), "hard link")?;
    expect(&dir.join("in"), b"x")?;
    fs::remove_file(a.mount.point().join("out"))?;
    // A file that somebody has open.
    let held = File::open(dir.join("in"))?;
    refused(a.mount.program().arg("share").arg(&dir), "in use")?;
    drop(held);
    a.mount.program().arg("share").arg(&dir).ok()?;
    expect(&dir.join("in"), b"x")?;
    refused(a.zone(&["status", "nosuch"]), "zone ls")?;
    nodes.finish()
}
