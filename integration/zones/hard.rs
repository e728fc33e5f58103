//! What zones are put through beside cuts and kills: programs that share a tree from two nodes at once,
//! and a node whose disk is full.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::report::Case;
use crate::tool::Tool;

/// How long all may take to have the same state again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that a change may take for a node that has no space.
const PROMPT: Duration = Duration::from_secs(10);

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("two nodes push to one git repository", git),
        Case::new("two nodes build one tree", build),
        Case::new("a full disk takes down its node alone", full_disk).alone(),
    ]
}

const GIT: &str = "git -c user.name=x -c user.email=x@y -c init.defaultBranch=main -c safe.directory='*'";
const PUSHES: usize = 5;

/// Pushes come at once; who is second takes the other's in, and tries again.
fn git(lab: &Lab) -> Check {
    let zone = Cluster::on_this_host(lab, 2)?;
    Tool::shell(&format!("{GIT} init -q --bare origin.git")).within(zone.zone(0)).ok()?;
    let work = |number: usize| {
        let line = format!(
            "mkdir work{number} && cd work{number} && {GIT} init -q && {GIT} remote add origin ../origin.git
             for i in $(seq {PUSHES}); do
                 echo $i > file-{number}-$i && {GIT} add . && {GIT} commit -qm '{number} $i'
                 for try in $(seq 20); do
                     if {GIT} pull -q --rebase origin main 2>/dev/null || ! {GIT} ls-remote --exit-code -q origin main; then
                         {GIT} push -q origin HEAD:main 2>/dev/null && continue 2
                     fi
                 done
                 echo push $i came to nothing; exit 1
             done"
        );
        Tool::shell(&line).within(zone.zone(number)).ok().during(format!("node {number}"))
    };
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        (work(0), other.join())
    });
    one?;
    two.unwrap_or_else(|_| Ok(String::new()))?;
    for number in 0..2 {
        let line = format!("{GIT} fsck --strict --no-dangling && {GIT} rev-list --count main");
        let said = Tool::shell(&line).within(zone.zone(number).join("origin.git")).ok()?;
        ensure!(said.trim() == (2 * PUSHES).to_string(), "node {number} has {said} commits, not {}", 2 * PUSHES);
    }
    zone.agree(PATIENCE)?;
    zone.finish()
}

const SOURCES: usize = 30;

/// Each of two nodes makes half of the objects, at the same time; then either finds that all is made.
fn build(lab: &Lab) -> Check {
    let zone = Cluster::on_this_host(lab, 2)?;
    let tree = zone.zone(0).join("tree");
    fs::create_dir(&tree)?;
    let mut main = String::from("int printf(const char *, ...);\n");
    let mut sum = String::from("0");
    for number in 0..SOURCES {
        fs::write(
            tree.join(format!("s{number}.c")),
            format!("#include \"all.h\"\nint f{number}(void) {{ return {number}; }}\n"),
        )?;
        main += &format!("int f{number}(void);\n");
        sum += &format!(" + f{number}()");
    }
    fs::write(tree.join("all.h"), "/* for all */\n")?;
    fs::write(tree.join("main.c"), format!("{main}int main(void) {{ return printf(\"%d\\n\", {sum}) < 0; }}\n"))?;
    fs::write(
        tree.join("Makefile"),
        format!(
            "OBJECTS := $(foreach n,$(shell seq 0 {}),s$(n).o)\nprogram: main.o $(OBJECTS)\n\t$(CC) -o $@ $^\n\
             %.o: %.c all.h\n\t$(CC) -c -o $@ $<\nfirst: $(wordlist 1,{half},$(OBJECTS))\n\
             second: $(wordlist {next},{SOURCES},$(OBJECTS))\n.PHONY: first second\n",
            SOURCES - 1,
            half = SOURCES / 2,
            next = SOURCES / 2 + 1,
        ),
    )?;
    let make =
        |node: usize, what: &str| Tool::new("make").args(["-s", "-j2", what]).within(zone.zone(node).join("tree")).ok();
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| make(1, "second"));
        (make(0, "first"), other.join())
    });
    first?;
    second.unwrap_or_else(|_| Ok(String::new()))?;
    for node in [1, 0] {
        make(node, "program")?;
        let said = Tool::new("./program").within(zone.zone(node).join("tree")).ok()?;
        ensure!(said.trim() == (SOURCES * (SOURCES - 1) / 2).to_string(), "the program of node {node} says {said}");
    }
    let again = Tool::new("make").args(["-q", "program"]).within(zone.zone(0).join("tree")).run()?;
    ensure!(again.code == 0, "what the other node has made seems to be out of date");
    zone.agree(PATIENCE)?;
    zone.finish()
}

/// The others go on; and so does it, once there is space.
fn full_disk(lab: &Lab) -> Check {
    let (zone, disk) = Cluster::with_small_disk(lab, 3, 400)?;
    let small = 2;
    fs::write(zone.zone(small).join("before"), "from before")?;
    zone.agree(PATIENCE)?;
    let ballast = disk.join("ballast");
    let mut file = File::create(&ballast)?;
    for piece in [1 << 20, 4096] {
        while file.write_all(&vec![0x5a; piece]).is_ok() {}
    }
    drop(file);
    let content = vec![7u8; 64 << 10];
    let mut slowest = Duration::ZERO;
    for number in 0..400 {
        let began = Instant::now();
        let path = zone.zone(number % 2).join(format!("file {number}"));
        fs::write(&path, &content).during(format!("{} beside a full disk", path.display()))?;
        slowest = slowest.max(began.elapsed());
    }
    println!("    400 files of 64 KiB beside a full disk, the slowest took {slowest:?}");
    ensure!(slowest < PROMPT, "a file took {slowest:?} because another node's disk is full");
    let began = Instant::now();
    let seen = fs::read(zone.zone(small).join("before"));
    ensure!(began.elapsed() < PROMPT, "the full node did not answer for {:?}", began.elapsed());
    println!("    the node with the full disk, asked for a file: {:?}", seen.map(|bytes| bytes.len()));
    fs::remove_file(&ballast)?;
    zone.restart(small, true)?;
    fs::write(zone.zone(small).join("after"), "there is space")?;
    zone.agree(PATIENCE)?;
    for number in [0, 199, 399] {
        let read = fs::read(zone.zone(small).join(format!("file {number}")))?;
        ensure!(read == content, "file {number} is not what was written");
    }
    zone.finish()
}
