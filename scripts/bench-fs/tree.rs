//! The tree of small files that the program workloads (tar, cp, grep, find, rm) run on: text, with
//! sizes and depths like those of a source repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Rng;

/// One file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Where, below the tree's root.
    pub path: PathBuf,
    /// How long, in bytes.
    pub size_bytes: usize,
}

/// What the tree consists of; the same for the same seed and count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    seed: u64,
    files: Vec<TreeFile>,
}

impl Tree {
    /// Files in one directory, on average.
    const FILES_PER_DIR: u64 = 20;
    /// The word that grep looks for; one line in each hundredth file has it.
    pub const NEEDLE: &'static str = "needle_in_the_hay";

    /// Plans a tree of `count` files: two levels of directories, sizes from 0.5 KiB to 16 KiB
    /// with small ones most frequent.
    pub fn plan(seed: u64, count: usize) -> Self {
        let mut rng = Rng::new(seed);
        let dirs = (count as u64 / Self::FILES_PER_DIR).max(1);
        let tops = (dirs as f64).sqrt().ceil() as u64;
        let files = (0..count)
            .map(|i| {
                let dir = rng.below(dirs);
                let path = format!("d{:03}/e{:03}/file_{i:06}.txt", dir % tops, dir / tops);
                // A power of two, then a uniform part of it: small sizes dominate.
                let ceiling = 1024_u64 << rng.below(5);
                let size_bytes = (ceiling / 2 + rng.below(ceiling / 2)) as usize;
                TreeFile { path: PathBuf::from(path), size_bytes }
            })
            .collect();
        Tree { seed, files }
    }

    /// The planned files.
    pub fn files(&self) -> &[TreeFile] {
        &self.files
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size_bytes as u64).sum()
    }

    /// Writes the tree below `root`.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let mut rng = Rng::new(self.seed ^ 1);
        for (i, file) in self.files.iter().enumerate() {
            let path = root.join(&file.path);
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(&path, text(&mut rng, file.size_bytes, i % 100 == 0))?;
        }
        Ok(())
    }
}

/// Lines of seeded words, cut at `size` bytes.
pub(crate) fn text(rng: &mut Rng, size: usize, with_needle: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 64);
    if with_needle {
        out.extend_from_slice(Tree::NEEDLE.as_bytes());
        out.push(b'\n');
    }
    while out.len() < size {
        for _ in 0..8 {
            out.extend_from_slice(format!("{:x} ", rng.below(1 << 24)).as_bytes());
        }
        out.push(b'\n');
    }
    out.truncate(size);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn same_seed_same_tree() {
        let tree = Tree::plan(42, 500);
        assert_eq!(tree, Tree::plan(42, 500));
        assert_ne!(tree, Tree::plan(43, 500));
        let paths: HashSet<_> = tree.files().iter().map(|f| &f.path).collect();
        assert_eq!(paths.len(), 500);
    }

    #[test]
    fn writes_what_was_planned() {
        let tree = Tree::plan(1, 120);
        let dir = tempfile::tempdir().unwrap();
        tree.write(dir.path()).unwrap();
        let mut total = 0;
        for (i, file) in tree.files().iter().enumerate() {
            let bytes = fs::read(dir.path().join(&file.path)).unwrap();
            assert_eq!(bytes.len(), file.size_bytes);
            assert_eq!(bytes.starts_with(Tree::NEEDLE.as_bytes()), i % 100 == 0);
            total += bytes.len() as u64;
        }
        assert_eq!(total, tree.total_bytes());
    }
}
