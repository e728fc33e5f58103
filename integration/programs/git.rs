//! git: a repository of a few thousand commits is cloned, worked in, packed and checked.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::failure::{Check, ensure};
use crate::lab::{Lab, Place};
use crate::random::Random;
use crate::tool::Tool;

/// Clones, commits, branches, collects garbage, checks; then again after a restart.
pub fn run(lab: &Lab) -> Check {
    let place = lab.place("git")?;
    let origin = place.outside().join("origin.git");
    let at = |folder: &Path| Git { home: place.outside().to_owned(), folder: folder.to_owned() };
    at(place.outside()).run(&["init", "-q", "--bare", "-b", "main", "origin.git"])?;
    let commits = lab.scale(3000, 20_000);
    at(&origin).tool(&["fast-import", "--quiet"]).input(history(lab.seed, commits)).ok()?;

    let clone = place.root().join("clone");
    at(place.root()).run(&["clone", "-q", "--no-local", &origin.to_string_lossy(), "clone"])?;
    let git = at(&clone);
    ensure!(git.run(&["status", "--porcelain"])?.is_empty(), "a fresh clone is not clean");
    ensure!(git.run(&["rev-list", "--count", "HEAD"])?.trim() == commits.to_string(), "commits are missing");
    git.run(&["config", "gc.auto", "0"])?;
    for branch in ["one", "two", "three"] {
        git.run(&["checkout", "-q", "-b", branch])?;
        fs::write(clone.join(branch), branch)?;
        git.run(&["add", "-A"])?;
        git.run(&["commit", "-q", "-m", branch])?;
    }
    git.run(&["checkout", "-q", "HEAD~500"])?;
    ensure!(git.run(&["status", "--porcelain"])?.is_empty(), "not clean after a checkout");
    git.run(&["checkout", "-q", "three"])?;
    git.run(&["worktree", "add", "-q", "../beside", "HEAD~1"])?;
    git.run(&["gc", "-q", "--prune=now"])?;
    git.run(&["fsck", "--full", "--strict"])?;
    check_tree(&git)?;
    place_after_restart(place, |root| {
        let git = Git { home: root.to_owned(), folder: root.join("clone") };
        git.run(&["fsck", "--full", "--strict"])?;
        ensure!(git.run(&["status", "--porcelain"])?.is_empty(), "not clean after a restart");
        check_tree(&git)
    })
}

/// The files of the work tree are those of the commit, byte for byte.
fn check_tree(git: &Git) -> Check {
    git.run(&["update-index", "-q", "--really-refresh"])?;
    git.run(&["diff-index", "--quiet", "HEAD", "--"])?;
    let committed = git.run(&["rev-parse", "HEAD^{tree}"])?;
    ensure!(committed == git.run(&["write-tree"])?, "the index is not the commit's");
    Ok(())
}

fn place_after_restart(mut place: Place, check: impl FnOnce(&Path) -> Check) -> Check {
    place.remount()?;
    check(place.root())?;
    place.finish()
}

struct Git {
    home: std::path::PathBuf,
    folder: std::path::PathBuf,
}

impl Git {
    fn tool(&self, args: &[&str]) -> Tool {
        Tool::new("git")
            .args(args)
            .within(&self.folder)
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Tester")
            .env("GIT_AUTHOR_EMAIL", "tester@example.org")
            .env("GIT_COMMITTER_NAME", "Tester")
            .env("GIT_COMMITTER_EMAIL", "tester@example.org")
    }

    fn run(&self, args: &[&str]) -> Check<String> {
        self.tool(args).ok()
    }
}

/// A made-up history, as `git fast-import` reads it.
fn history(seed: u64, commits: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut stream = String::new();
    for commit in 0..commits {
        let text = format!("Commit {commit}\n");
        let when = 1_500_000_000 + commit * 60;
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter Tester <tester@example.org> {when} +0000\ndata {}\n{text}",
            text.len()
        );
        for _ in 0..1 + random.below(3) {
            let (folder, file) = (random.below(30), random.below(20));
            let lines = 1 + random.below(60);
            let content: String = (0..lines).map(|_| format!("{:x}\n", random.next())).collect();
            let _ = write!(stream, "M 100644 inline d{folder}/f{file}\ndata {}\n{content}", content.len());
        }
    }
    stream.into_bytes()
}
