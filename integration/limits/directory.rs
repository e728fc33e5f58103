//! Directories: many entries, listings that go on while entries come and go, odd names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, openat, seek, unlinkat};

use crate::failure::{Check, During, ensure, fail};
use crate::lab::Lab;
use crate::limits::{check_memory, memory_option};
use crate::random::Random;

/// One directory with very many files: listed, looked up, emptied.
pub fn many_files(lab: &Lab) -> Check {
    let count = lab.scale(100_000, 1_000_000);
    let mut place = lab.place_with("many-files", Some(&memory_option()))?;
    let path = place.root().join("folder");
    fs::create_dir(&path)?;
    let folder = open_folder(&path)?;
    for number in 0..count {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        openat(&folder, name(number), flags, Mode::from_raw_mode(0o644)).during(format!("file {number}"))?;
    }
    check_memory(&mut place)?;
    expect_names(&path, 0..count)?;
    drop(folder);
    place.remount()?;
    expect_names(&path, 0..count).during("after a remount")?;
    let mut random = Random::new(lab.seed);
    for _ in 0..10_000 {
        let number = random.below(count);
        fs::symlink_metadata(path.join(name(number))).during(format!("file {number}"))?;
        let missing = path.join(name(count + number));
        ensure!(fs::symlink_metadata(&missing).is_err(), "{} is there", missing.display());
    }
    let folder = open_folder(&path)?;
    for number in 0..count {
        unlinkat(&folder, name(number), AtFlags::empty()).during(format!("unlink {number}"))?;
    }
    expect_names(&path, 0..0)?;
    drop(folder);
    fs::remove_dir(&path)?;
    check_memory(&mut place)?;
    place.finish()
}

/// What stays in a directory is listed exactly once, whatever comes and goes meanwhile; and
/// a place in a listing stays what it was.
pub fn listing_while_changing(lab: &Lab) -> Check {
    let count = lab.scale(20_000, 200_000);
    let place = lab.place("listing")?;
    let path = place.root().join("folder");
    fs::create_dir(&path)?;
    for number in 0..count {
        File::create(path.join(name(number)))?;
    }
    let listing = open_folder(&path)?;
    let changing = open_folder(&path)?;
    let mut random = Random::new(lab.seed);
    let mut seen = BTreeSet::new();
    let mut listed = Vec::new();
    let (mut fresh, mut gone) = (count, 0);
    list(&listing, |entry, cookie| {
        ensure!(seen.insert(entry.to_vec()), "{:?} is listed twice", String::from_utf8_lossy(entry));
        listed.push((entry.to_vec(), cookie));
        // Even numbers stay; odd ones go, and others come.
        if listed.len() % 3 == 0 && gone < count / 2 {
            match unlinkat(&changing, name(2 * gone + 1), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => gone += 1,
                Err(error) => return Err(error.into()),
            }
            openat(&changing, name(fresh), OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600))?;
            fresh += 1;
        }
        Ok(true)
    })?;
    for number in (0..count).step_by(2) {
        ensure!(seen.contains(name(number).as_bytes()), "{} was not listed", name(number));
    }

    // From a remembered place on, what is still there follows in the same order.
    let order: Vec<Vec<u8>> = in_order(&path)?;
    for _ in 0..20 {
        let at = random.below(listed.len() as u64 / 2) as usize;
        let Some((_, cookie)) = listed.get(at) else { continue };
        let before: BTreeSet<&[u8]> = listed.iter().take(at + 1).map(|(name, _)| name.as_slice()).collect();
        seek(&listing, SeekFrom::Start(*cookie))?;
        let mut rest = Vec::new();
        list(&listing, |entry, _| {
            rest.push(entry.to_vec());
            Ok(rest.len() < 500)
        })?;
        if let Some(old) = rest.iter().find(|name| before.contains(name.as_slice())) {
            fail!("going on from a remembered place lists {:?} again", String::from_utf8_lossy(old));
        }
        let start = rest.first().and_then(|first| order.iter().position(|name| name == first));
        let same = start.and_then(|start| order.get(start..start + rest.len()));
        ensure!(same == Some(rest.as_slice()), "going on from a remembered place gives another order");
    }
    // From the start, everything is there again.
    seek(&listing, SeekFrom::Start(0))?;
    let mut again = 0;
    list(&listing, |_, _| {
        again += 1;
        Ok(true)
    })?;
    ensure!(again == order.len(), "rewound, it lists {again} of {}", order.len());
    drop((listing, changing));
    place.finish()
}

/// Names of every length up to the longest, and of every byte that a name can hold.
pub fn names(lab: &Lab) -> Check {
    let mut place = lab.place("names")?;
    let path = place.root().join("folder");
    fs::create_dir(&path)?;
    let mut names: BTreeSet<Vec<u8>> = (1..=255).map(|len| vec![b'n'; len]).collect();
    let mut random = Random::new(lab.seed);
    while names.len() < 1000 {
        let len = if random.one_in(2) { 255 } else { 1 + random.below(40) as usize };
        let bytes = random.bytes(len).into_iter().map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
        names.insert(bytes.collect());
    }
    for odd in
        [&b"..."[..], b"..a", b" ", b"\n", b"\\", b"*", b"-", b"~", "\u{feff}".as_bytes(), b"\xc3\x28", b"A", b"a"]
    {
        names.insert(odd.to_vec());
    }
    // As one is composed and the other not, they are two names.
    names.insert("\u{e9}".as_bytes().to_vec());
    names.insert("e\u{301}".as_bytes().to_vec());
    for name in &names {
        fs::write(path.join(OsStr::from_bytes(name)), name).during(format!("{name:02x?}"))?;
    }
    place.remount()?;
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&path)? {
        found.insert(entry?.file_name().into_vec());
    }
    ensure!(found == names, "the names listed are not those made");
    for name in &names {
        ensure!(fs::read(path.join(OsStr::from_bytes(name)))? == *name, "{name:02x?} holds another's content");
    }
    match fs::write(path.join("n".repeat(256)), "") {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()) => {}
        other => fail!("a name of 256 bytes answers {other:?}"),
    }
    place.finish()
}

fn name(number: u64) -> String {
    format!("a-file-of-number-{number:08}")
}

fn open_folder(path: &Path) -> Check<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Calls `each` for every entry but "." and "..", with the place after it, until it says no.
fn list(folder: impl AsFd, mut each: impl FnMut(&[u8], u64) -> Check<bool>) -> Check {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !each(name, entry.next_entry_cookie())? {
            break;
        }
    }
    Ok(())
}

fn in_order(path: &Path) -> Check<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    list(open_folder(path)?, |entry, _| {
        names.push(entry.to_vec());
        Ok(true)
    })?;
    Ok(names)
}

fn expect_names(path: &Path, numbers: std::ops::Range<u64>) -> Check {
    let mut names = in_order(path)?;
    names.sort();
    ensure!(names.len() as u64 == numbers.end, "{} names are listed, not {}", names.len(), numbers.end);
    for (listed, number) in names.iter().zip(numbers) {
        ensure!(
            listed == name(number).as_bytes(),
            "{:?} is listed, not number {number}",
            String::from_utf8_lossy(listed)
        );
    }
    Ok(())
}
