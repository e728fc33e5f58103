//! Names: making, finding, moving, linking and removing them.

use super::*;
use crate::command::{AttrChange, RenameMode};
use crate::error::Error;
use crate::fs::AtimePolicy;
use crate::model::FileKind;

#[test]
fn every_kind_is_made_found_and_removed() {
    let rig = Rig::plain();
    let kinds = [
        (NewKind::Regular, FileKind::Regular, 0o755),
        (NewKind::Directory, FileKind::Directory, 0o755),
        (NewKind::Symlink(b"to/where".to_vec()), FileKind::Symlink, 0o777),
        (NewKind::Fifo, FileKind::Fifo, 0o755),
        (NewKind::Socket, FileKind::Socket, 0o755),
        (NewKind::CharDevice(0x103), FileKind::CharDevice, 0o755),
        (NewKind::BlockDevice(0x800), FileKind::BlockDevice, 0o755),
    ];
    for (number, (new, kind, mode)) in kinds.into_iter().enumerate() {
        let name = format!("n{number}");
        let made = rig.make(ROOT, &name, new.clone()).unwrap();
        assert_eq!((made.inode.kind, made.inode.mode), (kind, mode), "umask, but for links");
        assert_eq!((made.inode.uid, made.inode.gid), (1000, 100));
        assert_eq!(rig.fs.lookup(ROOT, name.as_bytes()), Ok(made));
        assert_eq!(rig.fs.getattr(made.node), Ok(made));
        assert_eq!(rig.make(ROOT, &name, new), Err(Error::Exists));
        if kind == FileKind::Directory {
            assert_eq!(rig.fs.unlink(ROOT, name.as_bytes()), Err(Error::IsDirectory));
            assert_eq!(rig.fs.rmdir(ROOT, name.as_bytes()), Ok(()));
        } else {
            assert_eq!(rig.fs.rmdir(ROOT, name.as_bytes()), Err(Error::NotDirectory));
            assert_eq!(rig.fs.unlink(ROOT, name.as_bytes()), Ok(()));
        }
        assert_eq!(rig.lookup(ROOT, &name), Err(Error::NotFound));
        assert_eq!(rig.fs.getattr(made.node), Err(Error::Stale));
    }
    assert_eq!(rig.fs.getattr(ROOT).unwrap().inode.nlink, 2);
    assert_eq!(rig.count(Table::Inode), 1);
}

#[test]
fn dots_and_bad_names() {
    let rig = Rig::plain();
    let (a, f) = (rig.dir(ROOT, "a"), rig.file(ROOT, "f"));
    let b = rig.dir(a, "b");
    assert_eq!(rig.lookup(b, "."), Ok(b));
    assert_eq!(rig.lookup(b, ".."), Ok(a));
    assert_eq!(rig.lookup(ROOT, ".."), Ok(ROOT));
    assert_eq!(rig.fs.parent_of(f), Err(Error::NotDirectory));
    assert_eq!(rig.lookup(f, "x"), Err(Error::NotDirectory));
    assert_eq!(rig.lookup(f, "."), Err(Error::NotDirectory));
    assert_eq!(rig.lookup(NodeId(77), "x"), Err(Error::Stale));
    assert_eq!(rig.fs.lookup(ROOT, &[b'x'; 256]), Err(Error::NameTooLong));
    assert_eq!(rig.make(ROOT, "a/b", NewKind::Regular), Err(Error::Invalid));
    assert_eq!(rig.make(ROOT, "", NewKind::Regular), Err(Error::Invalid));
    let longest = rig.fs.make(&USER, ROOT, &[0xff; 255], NewKind::Regular, 0o600).unwrap();
    assert_eq!(rig.fs.lookup(ROOT, &[0xff; 255]), Ok(longest));
}

#[test]
fn symlinks_keep_their_target_and_its_limits() {
    let rig = Rig::plain();
    let longest = vec![b'x'; 4095];
    let link = rig.make(ROOT, "l", NewKind::Symlink(longest.clone())).unwrap();
    assert_eq!(link.inode.size, 4095);
    assert_eq!(rig.fs.readlink(link.node).unwrap(), longest);
    assert_eq!(rig.make(ROOT, "m", NewKind::Symlink(vec![b'x'; 4096])), Err(Error::TooLong));
    assert_eq!(rig.make(ROOT, "m", NewKind::Symlink(Vec::new())), Err(Error::NotFound));
    assert_eq!(rig.make(ROOT, "m", NewKind::Symlink(b"a\0b".to_vec())), Err(Error::Invalid));
    let file = rig.file(ROOT, "f");
    assert_eq!(rig.fs.readlink(file), Err(Error::Invalid));
    assert_eq!(rig.fs.open(link.node, OpenOptions::default()), Err(Error::LinkLoop));
}

#[test]
fn hard_links_are_one_file() {
    let rig = Rig::plain();
    let (dir, file) = (rig.dir(ROOT, "d"), rig.file(ROOT, "f"));
    assert_eq!(rig.fs.link(file, dir, b"g").unwrap().inode.nlink, 2);
    assert_eq!(rig.fs.link(file, dir, b"g"), Err(Error::Exists));
    assert_eq!(rig.fs.link(dir, ROOT, b"e"), Err(Error::NotPermitted));
    rig.write(file, 0, b"one");
    rig.fs.unlink(ROOT, b"f").unwrap();
    let other = rig.lookup(dir, "g").unwrap();
    assert_eq!(other, file);
    assert_eq!(rig.read(other, 0, 10), b"one");
    assert_eq!(rig.fs.getattr(other).unwrap().inode.nlink, 1);
}

#[test]
fn renames_replace_refuse_swap_and_leave_whiteouts() {
    let rig = Rig::plain();
    let rename = |from: (NodeId, &str), to: (NodeId, &str), mode| {
        rig.fs.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode, false)
    };
    let (a, b) = (rig.dir(ROOT, "a"), rig.dir(ROOT, "b"));
    let (x, y) = (rig.file(a, "x"), rig.file(b, "y"));
    assert_eq!(rename((a, "x"), (b, "y"), RenameMode::NoReplace), Err(Error::Exists));
    rename((a, "x"), (b, "y"), RenameMode::Exchange).unwrap();
    assert_eq!((rig.lookup(a, "x"), rig.lookup(b, "y")), (Ok(y), Ok(x)));
    rename((a, "x"), (b, "y"), RenameMode::Replace).unwrap();
    assert_eq!((rig.lookup(a, "x"), rig.lookup(b, "y")), (Err(Error::NotFound), Ok(y)));
    assert_eq!(rig.fs.getattr(x), Err(Error::Stale), "the replaced one is gone");
    assert_eq!(rename((ROOT, "a"), (a, "below"), RenameMode::Replace), Err(Error::Invalid));
    assert_eq!(rename((ROOT, "a"), (ROOT, "b"), RenameMode::Replace), Err(Error::NotEmpty));
    rename((ROOT, "b"), (a, "b"), RenameMode::NoReplace).unwrap();
    assert_eq!(rig.fs.parent_of(b), Ok(a), "a moved directory knows where it is");
    assert_eq!(rename((ROOT, "none"), (ROOT, "n"), RenameMode::Replace), Err(Error::NotFound));

    rig.fs.rename(b, b"y", ROOT, b"z", RenameMode::Replace, true).unwrap();
    let whiteout = rig.fs.lookup(b, b"y").unwrap().inode;
    assert_eq!((whiteout.kind, whiteout.rdev), (FileKind::CharDevice, 0));
    assert_eq!(rig.lookup(ROOT, "z"), Ok(y));
    let exchange = rig.fs.rename(b, b"y", ROOT, b"z", RenameMode::Exchange, true);
    assert_eq!(exchange, Err(Error::Invalid), "nothing is left to white out");
}

#[test]
fn create_opens_what_is_there_unless_exclusive() {
    let rig = Rig::plain();
    let create = |name: &str, options| rig.fs.create(&USER, ROOT, name.as_bytes(), 0o666, options);
    let (made, _) = create("f", OpenOptions { exclusive: true, ..OpenOptions::default() }).unwrap();
    assert_eq!(made.inode.mode, 0o644);
    rig.write(made.node, 0, b"text");
    let exclusive = create("f", OpenOptions { exclusive: true, ..OpenOptions::default() });
    assert_eq!(exclusive, Err(Error::Exists));
    let (opened, _) = create("f", OpenOptions::default()).unwrap();
    assert_eq!((opened.node, opened.inode.size), (made.node, 4));
    let (cut, _) = create("f", OpenOptions { truncate: true, ..OpenOptions::default() }).unwrap();
    assert_eq!((cut.node, cut.inode.size), (made.node, 0));
    rig.dir(ROOT, "d");
    assert_eq!(create("d", OpenOptions::default()), Err(Error::IsDirectory));
    rig.make(ROOT, "p", NewKind::Fifo).unwrap();
    assert_eq!(create("p", OpenOptions::default()), Err(Error::NoDevice));
}

#[test]
fn a_read_only_file_system_refuses_every_change_until_it_is_switched() {
    use crate::command::{RangeOp, XattrMode};
    use crate::fs::XattrFlags;
    let rig = Rig::plain();
    let (file, dir) = (rig.file(ROOT, "f"), rig.dir(ROOT, "d"));
    rig.write(file, 0, b"text");
    rig.fs.set_read_only(true).unwrap();
    let before = rig.fs.getattr(file).unwrap();
    let flags = XattrFlags { mode: XattrMode::Set, kill_setgid: false };
    let truncate = OpenOptions { truncate: true, ..OpenOptions::default() };
    let refused = [
        rig.make(ROOT, "g", NewKind::Regular).err(),
        rig.fs.unlink(ROOT, b"f").err(),
        rig.fs.rmdir(ROOT, b"d").err(),
        rig.fs.rename(ROOT, b"f", ROOT, b"g", RenameMode::Replace, false).err(),
        rig.fs.link(file, dir, b"g").err(),
        rig.fs.setattr(&USER, file, &AttrChange { mode: Some(0o600), ..AttrChange::default() }).err(),
        rig.fs.write(file, 0, 0, b"x", false).err(),
        rig.fs.fallocate(file, RangeOp::Allocate, 0, 10).err(),
        rig.fs.copy_file_range(file, 0, file, 100, 4).err(),
        rig.fs.setxattr(file, b"user.a", b"1", flags).err(),
        rig.fs.removexattr(file, b"user.a").err(),
        rig.fs.open(file, truncate).err(),
        rig.fs.create(&USER, ROOT, b"g", 0o600, OpenOptions::default()).err(),
    ];
    assert!(refused.iter().all(|error| *error == Some(Error::ReadOnly)), "{refused:?}");
    assert_eq!(rig.read(file, 0, 10), b"text");
    rig.fs.create(&USER, ROOT, b"f", 0o600, OpenOptions::default()).unwrap();
    rig.fs.fsync(file, false).unwrap();
    assert_eq!(rig.fs.getattr(file), Ok(before), "not even a read is noted");
    rig.fs.set_read_only(false).unwrap();
    rig.fs.unlink(ROOT, b"f").unwrap();
}

#[test]
fn access_times_follow_the_policy() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let atime = || rig.fs.getattr(file).unwrap().inode.atime;
    rig.write(file, 0, b"text");
    let before = atime();
    rig.read(file, 0, 1);
    let first = atime();
    assert!(first > before, "relatime: the write was younger");
    rig.read(file, 0, 1);
    assert_eq!(atime(), first, "relatime: nothing changed since");
    rig.clock.advance(24 * 60 * 60);
    rig.read(file, 0, 1);
    let day = atime();
    assert!(day > first, "relatime: a day went by");
    rig.fs.set_atime_policy(AtimePolicy::Strict);
    rig.read(file, 0, 1);
    let strict = atime();
    assert!(strict > day);
    rig.fs.set_atime_policy(AtimePolicy::Never);
    rig.write(file, 0, b"TEXT");
    rig.read(file, 0, 1);
    assert_eq!(atime(), strict);
    let inode = rig.fs.getattr(file).unwrap().inode;
    assert!(inode.ctime < inode.mtime.max(inode.ctime) || inode.ctime == inode.mtime, "a read leaves ctime alone");
}

#[test]
fn attributes_change_and_statfs_counts() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let change = AttrChange { mode: Some(0o6755), uid: Some(7), gid: Some(8), ..AttrChange::default() };
    let changed = rig.fs.setattr(&Caller::ROOT, file, &change).unwrap().inode;
    assert_eq!((changed.mode, changed.uid, changed.gid), (0o6755, 7, 8));
    let typed = AttrChange { mode: Some(0o100_644), ..AttrChange::default() };
    assert_eq!(rig.fs.setattr(&Caller::ROOT, file, &typed), Err(Error::Invalid));
    let size = AttrChange { size: Some(1), ..AttrChange::default() };
    assert_eq!(rig.fs.setattr(&USER, ROOT, &size), Err(Error::IsDirectory));
    let huge = AttrChange { size: Some(1 << 63), ..AttrChange::default() };
    assert_eq!(rig.fs.setattr(&USER, file, &huge), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.setattr(&USER, NodeId(99), &change), Err(Error::Stale));
    let stats = rig.fs.statfs(ROOT).unwrap();
    assert_eq!((stats.used_inodes, stats.total_bytes, stats.available_bytes), (2, 1 << 30, 1 << 28));
    assert!(stats.free_inodes > 100_000);
}

#[test]
fn a_metastore_is_all_it_needs_and_it_finds_its_files_again() {
    let store = Arc::new(TestMetastore::default());
    let fs = NexusFs::builder(store.clone()).build().unwrap();
    let (made, _) = fs.create(&USER, ROOT, b"f", 0o644, OpenOptions::default()).unwrap();
    assert_eq!(fs.write(made.node, 0, 0, b"x", false), Err(Error::NoStore), "no store for content");
    fs.fsync(made.node, true).unwrap();
    drop(fs);
    let fs = NexusFs::builder(store).build().unwrap();
    assert_eq!(fs.lookup(ROOT, b"f").unwrap().node, made.node);
    let (next, _) = fs.create(&USER, ROOT, b"g", 0o644, OpenOptions::default()).unwrap();
    assert!(next.node.ino() > made.node.ino(), "numbers are not used twice");
}
