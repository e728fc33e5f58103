//! rsync, tar and cp: a tree with every kind of file and attribute goes to the mount and
//! back, and nothing about it changes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, setxattr, utimensat,
};

use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::random::Random;
use crate::tool::Tool;
use crate::tree;

/// Shell lines that copy `$FROM/.` to `$TO/`.
pub const RSYNC: &str = "rsync -aHAX --sparse --devices --specials \"$FROM/\" \"$TO/\"";
/// With tar, through a pipe.
pub const TAR: &str = "tar -C \"$FROM\" --format=posix --sparse --acls --xattrs --xattrs-include='user.*' \
    --xattrs-include='trusted.*' -cf - . | tar -C \"$TO\" --acls --xattrs --xattrs-include='*' --numeric-owner -xpf -";
/// With cp.
pub const CP: &str = "cp -a --sparse=always \"$FROM/.\" \"$TO/\"";

/// Copies a sample there and back with `line`, comparing each time.
pub fn run(lab: &Lab, line: &str) -> Check {
    let mut place = lab.place("copies")?;
    let source = place.outside().join("source");
    make_sample(&source, lab.seed)?;
    let there = place.root().join("there");
    copy(line, &source, &there).during("there")?;
    let blocks = fs::metadata(there.join("sparse"))?.blocks() * 512;
    ensure!(blocks < 16 << 20, "the sparse file takes {blocks} bytes");
    place.remount()?;
    same(&source, &there).during("after a remount")?;
    let back = place.outside().join("back");
    copy(line, &there, &back).during("back")?;
    // rsync itself must find nothing left to do, by times and sizes or by content.
    for compare in ["--size-only", "--checksum"] {
        let left = Tool::new("rsync")
            .args(["-aHAXn", "--itemize-changes", "--delete", compare])
            .arg(source.join(""))
            .arg(there.join(""))
            .ok()?;
        ensure!(left.is_empty(), "rsync {compare} finds differences: {left}");
    }
    place.finish()
}

fn copy(line: &str, from: &Path, to: &Path) -> Check {
    fs::create_dir(to)?;
    Tool::shell(line).env("FROM", from).env("TO", to).ok()?;
    same(from, to)
}

fn same(left: &Path, right: &Path) -> Check {
    let differences = tree::differences(&tree::read(left)?, &tree::read(right)?, |a, b| a.mtime == b.mtime);
    ensure!(differences.is_empty(), "the copy differs: {}", differences.join("; "));
    Ok(())
}

/// Makes a tree of everything.
fn make_sample(root: &Path, seed: u64) -> Check {
    let mut random = Random::new(seed);
    fs::create_dir(root)?;
    for folder in 0..12 {
        let folder = root.join(format!("folder{folder}/nested/deep"));
        fs::create_dir_all(&folder)?;
        for file in 0..20 {
            let len = random.below(9000) as usize;
            fs::write(folder.join(format!("file{file}")), random.bytes(len))?;
        }
    }
    fs::write(root.join("large"), random.bytes(6 << 20))?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(300 << 20)?;
    for _ in 0..20 {
        sparse.write_all_at(&random.bytes(5000), random.below(299 << 20))?;
    }
    for name in
        [&b"plain"[..], b" blank ", b"new\nline", b"\xff\xfe raw", b"-rf", "\u{e9}\u{301}".as_bytes(), &[b'n'; 255]]
    {
        fs::write(root.join(OsStr::from_bytes(name)), name)?;
    }
    for (index, mode) in [0o000, 0o444, 0o4755, 0o2755, 0o6711, 0o777].into_iter().enumerate() {
        let path = root.join(format!("mode{mode:o}"));
        fs::write(&path, "mode")?;
        chown(&path, Some(1000 + index as u32), Some(2000 + index as u32))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2775)] {
        fs::create_dir(root.join(name))?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    for number in 0..5 {
        fs::hard_link(root.join("plain"), root.join(format!("folder{number}/link-to-plain")))?;
    }
    symlink("plain", root.join("symlink"))?;
    symlink("x".repeat(4000), root.join("symlink-long"))?;
    lchown(root.join("symlink"), Some(1234), Some(4321))?;
    fs::hard_link(root.join("symlink"), root.join("symlink-again"))?;
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0)?;
    mknodat(CWD, root.join("char"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
    mknodat(CWD, root.join("block"), FileType::BlockDevice, mode, rustix::fs::makedev(259, 300))?;
    attributes(root, &mut random)?;
    times(root, &mut random)
}

fn attributes(root: &Path, random: &mut Random) -> Check {
    let none = XattrFlags::empty();
    setxattr(root.join("plain"), "user.short", b"value", none)?;
    setxattr(root.join("plain"), "user.empty", b"", none)?;
    setxattr(root.join("large"), "user.long", &random.bytes(1500), none)?;
    setxattr(root.join("folder1"), "user.of-a-folder", b"value", none)?;
    setxattr(root.join("large"), "trusted.secret", b"value", none)?;
    lsetxattr(root.join("symlink"), "trusted.of-a-symlink", b"value", none)?;
    let acl = |spec: &str, path: &str| Tool::new("setfacl").args(["-m", spec]).arg(root.join(path)).ok();
    acl("u:1001:rw,g:1002:r,m::rw", "large")?;
    acl("u:1001:rwx", "folder2")?;
    acl("d:u:1003:rwx,d:g::r-x,d:o::---", "folder2")?;
    Ok(())
}

/// Gives everything a time of its own, nanoseconds and all, folders last.
fn times(root: &Path, random: &mut Random) -> Check {
    let names: Vec<Vec<u8>> = tree::read(root)?.into_keys().rev().collect();
    for name in names {
        let time = Timespec { tv_sec: random.below(1 << 30) as i64, tv_nsec: random.below(1_000_000_000) as i64 };
        let both = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, root.join(OsStr::from_bytes(&name)), &both, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
