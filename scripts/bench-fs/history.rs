//! The repository that `git clone` is measured with: a tree of small files and a few hundred
//! commits, as a stream for `git fast-import`.

use std::io::{self, Write};

use crate::Rng;
use crate::tree::{Tree, text};

/// A history; the same for the same seed and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Seed of names and texts.
    pub seed: u64,
    /// Files, all of them there from the first commit on.
    pub files: usize,
    /// Commits.
    pub commits: u64,
}

impl History {
    /// Files that a commit changes.
    const CHANGED: u64 = 10;

    /// Writes the stream: the branch `main`, on fixed dates.
    pub fn write(self, out: &mut impl Write) -> io::Result<()> {
        let tree = Tree::plan(self.seed, self.files);
        let mut rng = Rng::new(self.seed ^ 2);
        for commit in 0..self.commits {
            let message = format!("Change {commit}\n");
            let seconds = 1_700_000_000 + commit * 3600;
            writeln!(out, "commit refs/heads/main")?;
            writeln!(out, "committer Bench <bench@example.org> {seconds} +0000")?;
            writeln!(out, "data {}\n{message}", message.len())?;
            let changed: Vec<u64> = match commit {
                0 => (0..self.files as u64).collect(),
                _ => (0..Self::CHANGED).map(|_| rng.below(self.files as u64)).collect(),
            };
            for file in changed.iter().filter_map(|i| tree.files().get(*i as usize)) {
                let bytes = text(&mut rng, file.size_bytes, false);
                writeln!(out, "M 100644 inline {}\ndata {}", file.path.display(), bytes.len())?;
                out.write_all(&bytes)?;
                writeln!(out)?;
            }
        }
        writeln!(out, "done")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_every_file_and_commit() {
        let history = History { seed: 3, files: 40, commits: 5 };
        let mut stream = Vec::new();
        history.write(&mut stream).unwrap();
        let mut again = Vec::new();
        history.write(&mut again).unwrap();
        assert_eq!(stream, again);
        let text = String::from_utf8(stream).unwrap();
        assert_eq!(text.matches("commit refs/heads/main\n").count(), 5);
        assert_eq!(text.matches("\nM 100644 inline ").count(), 40 + 4 * 10);
        assert!(text.ends_with("\ndone\n"));
    }
}
