//! Small files that are written one by one or unpacked: numbered, 4 KiB each, not to be compressed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nexus_bench::{Context, Failure, Rng};

use crate::crew::time_program;
use crate::interrupt::Interrupt;

/// Bytes of a small file.
pub const SMALL: usize = 4096;

/// The content of a small file.
fn small(i: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; SMALL];
    Rng::new(seed.wrapping_mul(1 << 32).wrapping_add(i as u64)).fill(&mut content);
    content
}

/// Writes the first `count` of them to `folder`, which is made.
pub fn write_files(folder: &Path, count: usize, seed: u64) -> Result<(), Failure> {
    fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
    for i in 0..count {
        fs::write(folder.join(i.to_string()), small(i, seed)).during(|| format!("writing small file {i}"))?;
    }
    Ok(())
}

/// Reads the first `count` of them in order, and holds them against what was written.
pub fn read_files(folder: &Path, count: usize, seed: u64) -> Result<(), Failure> {
    for i in 0..count {
        let read = fs::read(folder.join(i.to_string())).during(|| format!("reading small file {i}"))?;
        if read != small(i, seed) {
            return Err(Failure::new(format!("small file {i} is not what was written")));
        }
    }
    Ok(())
}

/// A tar file of the first `count` of them, made in `folder`. They are in no folder: s3fs can't make
/// one on the server of the tests.
pub fn archive(folder: &Path, count: usize, seed: u64, interrupt: &Interrupt) -> Result<PathBuf, Failure> {
    let tree = folder.join("tree");
    write_files(&tree, count, seed)?;
    let archive = folder.join("tree.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(&tree).args((0..count).map(|i| i.to_string()));
    time_program(interrupt, &mut tar)?;
    fs::remove_dir_all(&tree).during(|| "removing the tree".to_owned())?;
    Ok(archive)
}

/// The command that unpacks such a file.
pub fn unpack(archive: &Path, folder: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(folder);
    tar
}
