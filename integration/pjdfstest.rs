//! pjdfstest (crates.io): what POSIX says about names, modes, owners and times, whole, with
//! every feature that Linux and a FUSE file system can have. The tests of a read-only file
//! system get a run of their own, as others leave descriptors open that make it busy.

use std::fs;
use std::path::Path;

use crate::failure::{Check, During, Stop, ensure, fail};
use crate::lab::Lab;
use crate::report::{self, Case, Tally};
use crate::scratch::Scratch;
use crate::tool::Tool;

/// The users that the tests take the roles of, made where they are missing.
const USERS: [&str; 2] = ["nobody", "tests"];

/// Runs it; every test of its counts.
pub fn run(lab: &Lab, filter: &[String]) -> Tally {
    let mut tally = Tally::default();
    for (name, remount) in [("writable", false), ("read-only", true)] {
        if !filter.is_empty() && !filter.iter().any(|part| part == name) {
            continue;
        }
        // What is read-only is a mount of the machine's own; a zone's is the daemon's.
        if remount && lab.zone {
            continue;
        }
        match one_run(lab, remount) {
            Ok(part) => {
                println!("{}", part.line(&format!("        {name}")));
                tally.passed += part.passed;
                tally.failed += part.failed;
                tally.skipped += part.skipped;
            }
            Err(stop) => {
                let case = Case::new(name, move |_: &Lab| Err(stop.clone()));
                let part = report::run(lab, &[case], &[]);
                tally.failed += part.failed;
                tally.skipped += part.skipped;
            }
        }
    }
    tally
}

/// Lays the helper that mount(8) looks for over /sbin, in a mount namespace of its own, and
/// runs what is left of its arguments. It takes a folder to work in, and the daemon's binary.
const WITH_HELPER: &str = r#"
over=$1 binary=$(readlink -f "$2")
shift 2
mount -t tmpfs none "$over"
mkdir "$over/up" "$over/work"
sbin=$(readlink -f /sbin)
mount -t overlay none -o "lowerdir=$sbin,upperdir=$over/up,workdir=$over/work" "$sbin"
ln -sf "$binary" /sbin/mount.fuse.nexus
exec "$@"
"#;

fn one_run(lab: &Lab, remount: bool) -> Check<Tally> {
    if remount {
        lab.needs_mount()?;
    }
    // Short names: the suite binds sockets, whose paths are at most 107 bytes long.
    let place = lab.place("p")?;
    let outside = Scratch::new(&lab.scratch, "pjdfstest-second")?;
    let second = Tmpfs::new(&outside)?;
    let settings = outside.path().join("pjdfstest.toml");
    fs::write(&settings, configuration(remount)?)?;
    let root = place.root().join("p");
    fs::create_dir(&root)?;

    let program = lab.tools.join("pjdfstest");
    let mut tool = match remount {
        true => Tool::new("unshare").args(["--mount", "--propagation", "private", "sh", "-euc", WITH_HELPER, "sh"]),
        false => Tool::new("env"),
    };
    if remount {
        tool = tool.arg(outside.folder("over")?).arg(&lab.binary);
    }
    tool = tool.arg(program).limit_s(900);
    tool = tool.arg("-c").arg(&settings).arg("-p").arg(&root).arg("-s").arg(second.0);
    if remount {
        tool = tool.arg("erofs");
    }
    let ended = tool.run()?;
    let mut said = ended.out.lines().peekable();
    while let Some(line) = said.next() {
        if line.trim_end().ends_with("FAILED") {
            let reason = said.peek().map_or("", |next| next.trim());
            println!("FAILED  {}: {reason}", line.trim_end().trim_end_matches("FAILED").trim());
        } else if line.trim_end().ends_with(" skipped") && (remount || lab.soak) {
            println!("skipped {}", line.trim_end().trim_end_matches("skipped").trim());
        }
    }
    let mut tally = summary(&ended.out).during(format!("ended with {}: {}", ended.code, ended.tail()))?;
    if remount {
        ensure!(tally.skipped == 0, "{} tests of a read-only file system could not run", tally.skipped);
    } else {
        // Those that need a read-only mount were skipped here and count in the other run.
        tally.skipped = tally.skipped.saturating_sub(erofs_tests(&ended.out));
    }
    ensure!((ended.code == 0) == (tally.failed == 0), "ended with {}, yet {}", ended.code, tally.line("it said"));
    drop(second);
    place.finish()?;
    Ok(tally)
}

/// Names with "erofs" in them that were skipped.
fn erofs_tests(out: &str) -> usize {
    out.lines().filter(|line| line.contains("erofs") && line.trim_end().ends_with(" skipped")).count()
}

/// Reads its closing line.
fn summary(out: &str) -> Check<Tally> {
    let Some(line) = out.lines().rev().find_map(|line| line.strip_prefix("Summary:")) else {
        fail!("it did not come to its end");
    };
    let number = |word: &str| -> Check<usize> {
        let words: Vec<&str> = line.split([' ', ',']).filter(|part| !part.is_empty()).collect();
        let found = words.windows(2).find_map(|pair| match pair {
            [number, what] if *what == word => number.parse().ok(),
            _ => None,
        });
        found.ok_or_else(|| Stop::Failed(format!("cannot read its summary: {line}")))
    };
    Ok(Tally { passed: number("passed")?, failed: number("failed")?, skipped: number("skipped")? })
}

fn configuration(remount: bool) -> Check<String> {
    let mut entries = Vec::new();
    for user in USERS {
        if Tool::new("id").arg(user).run()?.code != 0 {
            Tool::new("useradd").args(["-M", "-s", "/usr/sbin/nologin", user]).ok()?;
        }
        let group = Tool::new("id").args(["-gn", user]).ok()?;
        entries.push(format!("[\"{user}\", \"{}\"]", group.trim()));
    }
    Ok(format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.02\nallow_remount = {remount}\n[dummy_auth]\nentries = [{}]\n",
        entries.join(", ")
    ))
}

/// A file system beside the one under test, for what must not cross.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn new(scratch: &'a Scratch) -> Check<Tmpfs<'a>> {
        Tool::new("mount").args(["-t", "tmpfs", "pjdfstest"]).arg(scratch.path()).ok()?;
        Ok(Tmpfs(scratch.path()))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_read() {
        let out = "x ok\n\nSummary: 2 failed, 14 skipped, 384 passed, 0 expected failures, 400 total\n";
        assert_eq!(summary(out), Ok(Tally { passed: 384, failed: 2, skipped: 14 }));
        assert!(summary("x ok\n").is_err());
    }
}
