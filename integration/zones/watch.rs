//! Changes of a zone, as `zone watch` tells them of this node and of another.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::{Node, Nodes, PATIENCE};
use crate::failure::{Check, ensure, fail};
use crate::lab::Lab;

/// `zone watch` as it runs, and its lines.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn begin(lab: &Lab, arguments: &[&str]) -> Check<Watching> {
        let mut child = Command::new(&lab.binary)
            .args(["zone", "watch"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(out), Some(said)) = (child.stdout.take(), child.stderr.take()) else { fail!("no pipes") };
        let (sender, lines) = channel();
        // It says where it begins, before which it must not be left behind.
        let mut first = String::new();
        if !arguments.contains(&"--json") {
            BufReader::new(said).read_line(&mut first)?;
            ensure!(first.starts_with("from "), "{first}");
        }
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Watching { child, lines })
    }

    fn next(&self) -> Check<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(_) => fail!("no change is told"),
        }
    }

    /// Awaits a line that ends so; where to go on after it.
    fn await_line(&self, end: &str) -> Check<u64> {
        loop {
            let line = self.next()?;
            ensure!(!line.contains("missed"), "{line}");
            if line.ends_with(end) {
                return match line.split_whitespace().next().and_then(|next| next.parse().ok()) {
                    Some(next) => Ok(next),
                    None => fail!("{line}"),
                };
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What any node does is told in order, by this node and by another, and again from where one left off.
pub(super) fn told(lab: &Lab) -> Check {
    let nodes = Nodes::new(lab, 2)?;
    let [a, b] = nodes.0.as_slice() else { fail!("two nodes") };
    let place = b.zone.display().to_string();
    let here = Watching::begin(lab, &[&place])?;
    let there = Watching::begin(lab, &[&place, "--member", &a.member()?])?;
    let work = |node: &Node, name: &str| -> Check {
        fs::create_dir(node.path(name))?;
        fs::write(node.path(name).join("file"), "x")?;
        fs::rename(node.path(name).join("file"), node.path(name).join("renamed"))?;
        fs::remove_file(node.path(name).join("renamed"))?;
        Ok(())
    };
    work(a, "of a")?;
    work(b, "of b")?;
    let mut begin = 0;
    for watching in [&here, &there] {
        for name in ["of a", "of b"] {
            let made = watching.await_line(&format!("  made  {name}"))?;
            begin = if name == "of a" { made } else { begin };
            watching.await_line(&format!("  made  {name}/file"))?;
            watching.await_line(&format!("  removed  {name}/file"))?;
            watching.await_line(&format!("  made  {name}/renamed"))?;
            watching.await_line(&format!("  removed  {name}/renamed"))?;
        }
    }
    // From where it left off, as objects.
    let from = begin.to_string();
    let again = Watching::begin(lab, &[&place, "--from", &from, "--json", "--count", "1", "--member", &a.member()?])?;
    let line = again.next()?;
    ensure!(line.starts_with('{') && line.contains("\"path\":\"of a/file\""), "{line}");
    ensure!(line.contains("\"change\":\"made\""), "{line}");
    // What is too long ago is not made up.
    for number in 0..4500 {
        fs::create_dir(a.path(&format!("many {number}")))?;
    }
    let late = Watching::begin(lab, &[&place, "--from", &from, "--json", "--count", "1"])?;
    let line = late.next()?;
    ensure!(line.contains("missed"), "{line}");
    drop((here, there, again, late));
    let none = b.mount.program().args(["zone", "watch"]).arg(b.mount.point()).run()?;
    ensure!(none.code != 0 && none.err.contains("in no zone"), "{none:?}");
    nodes.agree()?;
    nodes.finish()
}
