//! Files: many open at once, large ones, sparse ones.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::limits::{check_memory, memory_option};
use crate::tool::wait_until;

const MIB: u64 = 1 << 20;

/// 10,000 files open at once, all of them used, half of them without a name.
pub fn open_files(lab: &Lab) -> Check {
    const COUNT: u64 = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(COUNT + 200);
    if limit.current.is_some() && limit.current < wanted {
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum.max(wanted) })
            .map_err(|error| Stop::Skipped(format!("cannot open so many files: {error}")))?;
    }
    let mut place = lab.place_with("open-files", Some(&memory_option()))?;
    let root = place.root().to_owned();
    let mut open = Vec::new();
    for number in 0..COUNT {
        let path = root.join(format!("file{number}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.during(format!("file {number}"))?;
        file.write_all_at(format!("content {number}").as_bytes(), number)?;
        if number % 2 == 0 {
            fs::remove_file(&path)?;
        }
        open.push(file);
    }
    check_memory(&mut place)?;
    for (number, file) in open.iter().enumerate() {
        let expected = format!("content {number}");
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, number as u64).during(format!("file {number}"))?;
        ensure!(found == expected.as_bytes(), "file {number} holds other content");
        ensure!(file.metadata()?.nlink() == (number as u64) % 2, "file {number} has a wrong number of links");
    }
    drop(open);
    ensure!(fs::read_dir(&root)?.count() as u64 == COUNT / 2, "wrong number of names");
    check_memory(&mut place)?;
    place.finish()
}

/// 4 GiB in one file, within the memory limit; deleted, the space is given back (I5).
pub fn large_write(lab: &Lab) -> Check {
    let mut place = lab.place_with("large-write", Some(&memory_option()))?;
    let path = place.root().join("large");
    let mut file = File::create(&path)?;
    let total = 4096 * MIB;
    for at in (0..total).step_by(MIB as usize) {
        file.write_all(&block(at)).during(format!("at {at}"))?;
        if at % (256 * MIB) == 0 {
            check_memory(&mut place).during(format!("at {at}"))?;
        }
    }
    file.sync_all()?;
    drop(file);
    check_memory(&mut place)?;
    place.remount()?;
    let mut file = File::open(&path)?;
    ensure!(file.metadata()?.len() == total, "the size is {}", file.metadata()?.len());
    let mut buffer = vec![0; MIB as usize];
    for at in (0..total).step_by(MIB as usize) {
        file.read_exact(&mut buffer).during(format!("at {at}"))?;
        ensure!(buffer == block(at), "other content at {at}");
    }
    check_memory(&mut place)?;
    drop(file);
    fs::remove_file(&path)?;
    if let Some(mount) = place.mount() {
        let data = mount.data().to_owned();
        wait_until("the data folder gives the space back", Duration::from_secs(120), || {
            Ok(disk_usage(&data)? < 1024 * MIB)
        })?;
    }
    place.finish()
}

/// A file of 8 TiB with a little data far apart.
pub fn sparse(lab: &Lab) -> Check {
    const SIZE: u64 = 8 << 40;
    let mut place = lab.place("sparse")?;
    let path = place.root().join("sparse");
    let offsets = [0, 5 << 30, 1 << 40, SIZE - 4096];
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    file.set_len(SIZE)?;
    for offset in offsets {
        file.write_all_at(&[b'x'; 4096], offset)?;
    }
    drop(file);
    place.remount()?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let meta = file.metadata()?;
    ensure!(meta.len() == SIZE, "the size is {}", meta.len());
    ensure!(meta.blocks() * 512 < 64 * MIB, "it takes {} blocks", meta.blocks());
    for (index, offset) in offsets.into_iter().enumerate() {
        let after = index.checked_sub(1).and_then(|before| offsets.get(before)).map_or(0, |before| before + 4096);
        if offset > 0 {
            ensure!(seek(&file, SeekFrom::Hole(after.saturating_sub(4096)))? == after, "no hole at {after}");
            ensure!(seek(&file, SeekFrom::Data(after))? == offset, "no data at {offset}");
        }
        let mut found = [0; 4096];
        file.read_exact_at(&mut found, offset)?;
        ensure!(found == [b'x'; 4096], "other content at {offset}");
    }
    let mut found = [1; 4096];
    file.read_exact_at(&mut found, 3 << 40)?;
    ensure!(found == [0; 4096], "a hole is not zeros");
    file.set_len(1 << 40)?;
    file.set_len(SIZE)?;
    file.read_exact_at(&mut found, 1 << 40)?;
    ensure!(found == [0; 4096], "what was cut off is there again");
    drop(file);
    place.finish()
}

/// A MiB of content that belongs at `at`: each page says where it is.
fn block(at: u64) -> Vec<u8> {
    let mut block = vec![0xa5; MIB as usize];
    for (page, bytes) in block.chunks_exact_mut(4096).enumerate() {
        let stamp = (at + page as u64 * 4096).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        for (byte, value) in bytes.iter_mut().step_by(512).zip(stamp) {
            *byte = value;
        }
    }
    block
}

/// Bytes that a folder takes on disk.
pub fn disk_usage(folder: &Path) -> Check<u64> {
    let mut total = 0;
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        // Files may go while we look.
        let Ok(listing) = fs::read_dir(&path) else { continue };
        for entry in listing.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) => total += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    Ok(total)
}
