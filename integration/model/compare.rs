//! Runs a sequence on both sides and finds the first difference.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::failure::{Check, During};
use crate::model::actor::Actors;
use crate::model::op::{Op, User};
use crate::model::side::{Reply, Side, Times, coarse_now, set_umask};
use crate::tree;

/// Folders between the top and the root of the calls: so far can symlinks with ".." go.
const DEPTH: usize = 7;
/// Calls between two comparisons of everything.
const WHOLE_EVERY: usize = 60;
/// Times before this were set by a call, and must be the same on both sides.
const SET_BY_HAND_BEFORE_S: i64 = 1_500_000_000;

/// A difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Calls made until it showed.
    pub after: usize,
    /// What differs.
    pub what: String,
}

/// Two folders that go through the same calls.
pub struct Pair {
    ours: Arc<Side>,
    oracle: Arc<Side>,
    /// Calls that did not fail.
    succeeded: Cell<usize>,
}

impl Pair {
    /// Fresh folders below `ours` and `oracle`, which must be empty or missing.
    pub fn new(ours: &Path, oracle: &Path) -> Check<Pair> {
        Ok(Pair { ours: Arc::new(side(ours)?), oracle: Arc::new(side(oracle)?), succeeded: Cell::new(0) })
    }

    /// How many calls did not fail.
    pub fn succeeded(&self) -> usize {
        self.succeeded.get()
    }

    /// Makes the calls of `ops` on both sides, until there is a difference.
    pub fn run(&self, actors: &Actors, ops: &[Op]) -> Check<Option<Difference>> {
        for (index, op) in ops.iter().enumerate() {
            let mut what = self.step(actors, op)?;
            if what.is_none() && index % WHOLE_EVERY == WHOLE_EVERY - 1 {
                what = self.compare_trees()?;
            }
            if let Some(what) = what {
                return Ok(Some(Difference { after: index + 1, what }));
            }
        }
        Ok(self.compare_trees()?.map(|what| Difference { after: ops.len(), what }))
    }

    /// Compares everything that both sides show.
    pub fn compare_trees(&self) -> Check<Option<String>> {
        compare_trees(self.ours.path(), self.oracle.path())
    }

    fn step(&self, actors: &Actors, op: &Op) -> Check<Option<String>> {
        let before = op.watch_times.then(|| self.times_before(op));
        set_umask(op.umask);
        let answer = |side: &Arc<Side>| {
            let (side, call) = (Arc::clone(side), op.call.clone());
            actors.run(op.user, move || side.call(&call))
        };
        let (ours, oracle) = (answer(&self.ours)?, answer(&self.oracle)?);
        set_umask(0);
        if !matches!(ours, Reply::Error(_) | Reply::NotMade) {
            self.succeeded.set(self.succeeded.get() + 1);
        }
        if ours != oracle || matches!(ours, Reply::Absurd(_)) {
            return Ok(Some(format!("{ours:?}, but the machine's own answers {oracle:?}")));
        }
        for path in op.call.paths() {
            let look = |side: &Arc<Side>| {
                let (side, path) = (Arc::clone(side), path.to_owned());
                actors.run(User::Root, move || side.view(&path))
            };
            let (ours, oracle) = (look(&self.ours)?, look(&self.oracle)?);
            if ours != oracle {
                return Ok(Some(format!("then lstat {path:?}: {ours:?}, but the machine's own {oracle:?}")));
            }
        }
        Ok(before.and_then(|before| self.compare_times(op, &before)))
    }

    /// Times of all that the call touches, on both sides. Returns once the clock has moved on
    /// from the youngest, so that a change made now shows.
    fn times_before(&self, op: &Op) -> Vec<(Option<Times>, Option<Times>)> {
        let before = self.times(op);
        let real = coarse_now();
        let youngest = before
            .iter()
            .flat_map(|(ours, oracle)| [*ours, *oracle])
            .flatten()
            .flat_map(|times| [times.mtime, times.ctime])
            // A time in the future was set by a call.
            .filter(|time| time.0 <= real.0 + 1)
            .max();
        while youngest.is_some_and(|youngest| coarse_now() <= youngest) {
            std::thread::yield_now();
        }
        before
    }

    fn times(&self, op: &Op) -> Vec<(Option<Times>, Option<Times>)> {
        let mut all = Vec::new();
        for path in watched_paths(op) {
            all.push((self.ours.times(path), self.oracle.times(path)));
        }
        if let Some(slot) = op.call.changed_slot() {
            all.push((self.ours.times_open(slot), self.oracle.times_open(slot)));
        }
        all
    }

    fn compare_times(&self, op: &Op, before: &[(Option<Times>, Option<Times>)]) -> Option<String> {
        let names = watched_paths(op).into_iter().map(|path| format!("{path:?}")).chain(["the open file".to_owned()]);
        for ((before, after), name) in before.iter().zip(self.times(op)).zip(names) {
            let ((Some(ours), Some(oracle)), (Some(ours_after), Some(oracle_after))) = (*before, after) else {
                continue;
            };
            if ours.ino != ours_after.ino || oracle.ino != oracle_after.ino {
                continue;
            }
            let ours = (ours.mtime != ours_after.mtime, ours.ctime != ours_after.ctime);
            let oracle = (oracle.mtime != oracle_after.mtime, oracle.ctime != oracle_after.ctime);
            if ours != oracle {
                return Some(format!(
                    "of {name}, (mtime, ctime) changed: {ours:?}, but on the machine's own: {oracle:?}"
                ));
            }
        }
        None
    }
}

/// The paths of a call, and the folders that they stand in.
fn watched_paths(op: &Op) -> Vec<&str> {
    let mut all = Vec::new();
    for path in op.call.paths() {
        all.push(path);
        match path.rsplit_once('/') {
            Some((parent, name)) if !parent.is_empty() && !name.is_empty() && !name.starts_with('.') => {
                all.push(parent)
            }
            None if !path.is_empty() && !path.starts_with('.') => all.push("."),
            _ => {}
        }
    }
    all
}

/// Compares two trees; `None` if they show the same.
pub fn compare_trees(ours: &Path, oracle: &Path) -> Check<Option<String>> {
    let ours = tree::read(ours)?;
    let oracle = tree::read(oracle).during("the machine's own")?;
    let differences = tree::differences(&ours, &oracle, |a, b| {
        const S_IFMT: u32 = 0o170_000;
        const S_IFIFO: u32 = 0o010_000;
        a.mode & S_IFMT == S_IFIFO
            || a.mtime == b.mtime
            || (a.mtime.0 >= SET_BY_HAND_BEFORE_S && b.mtime.0 >= SET_BY_HAND_BEFORE_S)
    });
    Ok((!differences.is_empty())
        .then(|| format!("trees differ (ours against the machine's own): {}", differences.join("; "))))
}

fn side(top: &Path) -> Check<Side> {
    set_umask(0);
    let root = (0..DEPTH).fold(top.to_owned(), |path, level| path.join(format!("{level}")));
    fs::create_dir_all(&root).during(format!("cannot make {}", root.display()))?;
    for folder in root.ancestors().take(DEPTH + 1) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777))?;
    Side::new(&root)
}
