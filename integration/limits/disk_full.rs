//! A full disk under the data folder: the writer is told, nothing is lost, deleting works,
//! and then writing works again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::random::Random;
use crate::scratch::{Image, ImageKind, Scratch};
use crate::tool::wait_until;

const FILE_BYTES: usize = 300_000;
const IMAGE_MIB: u64 = 512;

/// Fills the disk, twice, with a restart and a SIGKILL while it is full.
pub fn run(lab: &Lab) -> Check {
    lab.needs_mount()?;
    let scratch = Scratch::new(&lab.scratch, "disk-full")?;
    let image = Image::new(&scratch, ImageKind::Ext4, IMAGE_MIB)?;
    let mut mount = lab.mount_on(&image.path().join("data"), &scratch)?;
    mount.start()?;
    let mut random = Random::new(lab.seed);
    let mut files = BTreeMap::new();
    let point = mount.point().to_owned();
    for round in 0..2 {
        fill(&point, &mut random, &mut files).during(format!("filling, round {round}"))?;
        ensure!(mount.is_running()?, "the daemon ended: {}", mount.last_words());
        check(&point, &files).during("while the disk is full")?;
        if round == 0 {
            mount.stop()?
        } else {
            mount.kill()?
        }
        mount.fsck()?;
        mount.start().during("on a full disk")?;
        check(&point, &files).during("restarted while the disk is full")?;

        // Half of the files go, and their space comes back.
        let names: Vec<String> = files.keys().step_by(2).cloned().collect();
        for name in names {
            fs::remove_file(point.join(&name)).during("deleting on a full disk")?;
            files.remove(&name);
        }
        wait_until("the space comes back", Duration::from_secs(60), || {
            let name = format!("after-{round}");
            let content = random.bytes(20 * FILE_BYTES);
            match write(&point.join(&name), &content) {
                Ok(()) => {
                    files.insert(name, content);
                    Ok(true)
                }
                Err(error) if is_full(&error) => {
                    fs::remove_file(point.join(&name)).during("deleting on a full disk")?;
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        })?;
        check(&point, &files).during("after space came back")?;
    }
    mount.stop()?;
    mount.fsck()?;
    mount.start()?;
    check(&point, &files).during("in the end")?;
    mount.stop()
}

/// Writes files until one fails; notes those that were written and synced.
fn fill(point: &Path, random: &mut Random, files: &mut BTreeMap<String, Vec<u8>>) -> Check {
    for _ in 0..((2 * IMAGE_MIB) << 20) / FILE_BYTES as u64 {
        let name = format!("file{:016x}", random.next());
        let content = random.bytes(FILE_BYTES);
        match write(&point.join(&name), &content) {
            Ok(()) => files.insert(name, content),
            Err(error) if is_full(&error) => {
                // What came of this one is undefined; that it can be removed is not.
                return match fs::remove_file(point.join(&name)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).during("removing"),
                    _ => Ok(()),
                };
            }
            Err(error) => fail!("a full disk answers {error}"),
        };
    }
    fail!("the disk is never full")
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOSPC.raw_os_error())
}

fn check(point: &Path, files: &BTreeMap<String, Vec<u8>>) -> Check {
    for (name, content) in files {
        let found = fs::read(point.join(name)).during(name)?;
        ensure!(found == *content, "{name} holds other content, {} bytes", found.len());
    }
    let count = fs::read_dir(point)?.count();
    ensure!(count == files.len(), "{count} names, not {}", files.len());
    Ok(())
}
