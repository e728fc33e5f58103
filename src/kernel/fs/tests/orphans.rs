//! Inodes that outlive their name, and the reaper that frees them.

use super::*;
use crate::command::RenameMode;
use crate::error::Error;

#[test]
fn an_open_file_outlives_its_name_until_the_last_release() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let (first, second) = (rig.open(file), rig.open(file));
    assert_ne!(first, second);
    rig.write(file, 0, b"still here");
    rig.fs.unlink(ROOT, b"f").unwrap();
    assert_eq!(rig.lookup(ROOT, "f"), Err(Error::NotFound));
    assert_eq!(rig.read(file, 0, 100), b"still here");
    assert_eq!(rig.fs.getattr(file).unwrap().inode.nlink, 0);
    assert_eq!(rig.fs.link(file, ROOT, b"g"), Err(Error::NotFound));
    rig.fs.release(file, first).unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.read(file, 0, 100), b"still here");
    assert_eq!(*rig.content.closed.lock(), []);
    rig.fs.release(file, second).unwrap();
    assert_eq!(*rig.content.closed.lock(), [file.ino()]);
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(file), Err(Error::Stale));
    assert_eq!((rig.count(Table::Inode), rig.count(Table::Orphan), rig.count(Table::Extent)), (1, 0, 0));
    assert_eq!(rig.fs.reaper.in_use(), 0);
    rig.fs.release(file, second).unwrap();
}

#[test]
fn without_handles_a_file_goes_with_its_name() {
    let rig = Rig::plain();
    for replaced in [false, true] {
        let file = rig.file(ROOT, "f");
        if replaced {
            rig.file(ROOT, "g");
            rig.fs.rename(ROOT, b"g", ROOT, b"f", RenameMode::Replace, false).unwrap();
        } else {
            rig.fs.unlink(ROOT, b"f").unwrap();
        }
        assert_eq!(rig.fs.getattr(file), Err(Error::Stale));
        assert_eq!(rig.count(Table::Orphan), 0);
    }
}

#[test]
fn a_replaced_open_file_is_kept_too() {
    let rig = Rig::plain();
    let (old, new) = (rig.file(ROOT, "f"), rig.file(ROOT, "g"));
    let handle = rig.open(old);
    rig.write(old, 0, b"old");
    rig.fs.rename(ROOT, b"g", ROOT, b"f", RenameMode::Replace, false).unwrap();
    assert_eq!(rig.lookup(ROOT, "f"), Ok(new));
    assert_eq!(rig.read(old, 0, 10), b"old");
    rig.fs.release(old, handle).unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(old), Err(Error::Stale));
}

#[test]
fn a_caching_client_keeps_inodes_until_it_forgets_them() {
    let rig = Rig::caching();
    let (file, dir) = (rig.file(ROOT, "f"), rig.dir(ROOT, "d"));
    rig.fs.unlink(ROOT, b"f").unwrap();
    rig.fs.rmdir(ROOT, b"d").unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(file).unwrap().inode.nlink, 0);
    assert_eq!(rig.fs.getattr(dir).unwrap().inode.nlink, 0, "somebody's current directory");
    assert_eq!(rig.make(dir, "x", NewKind::Regular), Err(Error::NotFound));
    rig.fs.forget(&[NodeId(4711), file, dir]);
    rig.fs.forget(&[file, dir]);
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(file), Err(Error::Stale));
    assert_eq!(rig.fs.getattr(dir), Err(Error::Stale));
    assert_eq!((rig.count(Table::Inode), rig.count(Table::Orphan)), (1, 0));
}

#[test]
fn a_forgotten_file_with_a_name_stays() {
    let rig = Rig::caching();
    let file = rig.file(ROOT, "f");
    rig.fs.link(file, ROOT, b"g").unwrap();
    rig.fs.unlink(ROOT, b"f").unwrap();
    rig.fs.forget(&[file]);
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.lookup(ROOT, "g"), Ok(file));
}

#[test]
fn a_forgotten_orphan_with_a_handle_waits_for_its_release() {
    let rig = Rig::caching();
    let file = rig.file(ROOT, "f");
    let handle = rig.open(file);
    rig.fs.unlink(ROOT, b"f").unwrap();
    rig.fs.forget(&[file]);
    rig.fs.reap_now().unwrap();
    rig.write(file, 0, b"alive");
    rig.fs.release(file, handle).unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(file), Err(Error::Stale));
}

#[test]
fn the_thread_reaps_without_being_asked() {
    let rig = Rig::caching();
    for n in 0..200 {
        let node = rig.file(ROOT, &n.to_string());
        rig.fs.unlink(ROOT, n.to_string().as_bytes()).unwrap();
        rig.fs.forget(&[node]);
    }
    // Waits for the thread; a reaper that never runs hangs here, and the test runner tells.
    while rig.count(Table::Orphan) > 0 {
        std::thread::yield_now();
    }
    assert_eq!(rig.count(Table::Inode), 1);
}

#[test]
fn orphans_of_an_earlier_run_are_freed_at_the_start() {
    let rig = Rig::caching();
    let files: Vec<NodeId> = (0..300).map(|n| rig.file(ROOT, &n.to_string())).collect();
    for (n, file) in files.iter().enumerate() {
        rig.write(*file, 0, b"content");
        rig.fs.unlink(ROOT, n.to_string().as_bytes()).unwrap();
    }
    let Rig { fs, store, content, .. } = rig;
    drop(fs);
    let readonly = FsOptions { read_only: true, caching_client: true, ..FsOptions::default() };
    let rig = Rig::over(store, content, readonly);
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.count(Table::Orphan), 300, "a read-only start changes nothing");
    rig.fs.set_read_only(false).unwrap();
    let busy = rig.file(ROOT, "busy");
    rig.fs.unlink(ROOT, b"busy").unwrap();
    rig.fs.set_read_only(true).unwrap();
    rig.fs.set_read_only(false).unwrap();
    rig.fs.reap_now().unwrap();
    assert!(rig.fs.getattr(busy).is_ok(), "an orphan of this run is in use");
    assert_eq!((rig.count(Table::Orphan), rig.count(Table::Inode), rig.count(Table::Extent)), (1, 2, 0));
    let Rig { fs, store, content, .. } = rig;
    drop(fs);
    let rig = Rig::over(store, content, FsOptions::default());
    rig.fs.reap_now().unwrap();
    assert_eq!((rig.count(Table::Orphan), rig.count(Table::Inode)), (0, 1));
}

#[test]
fn a_file_of_many_extents_is_reaped_in_bounded_steps() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    for n in 0..9000 {
        rig.write(file, n * 2, b"x");
    }
    rig.fs.unlink(ROOT, b"f").unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!((rig.count(Table::Orphan), rig.count(Table::Extent), rig.count(Table::Inode)), (0, 0, 1));
}

#[test]
fn a_file_without_a_name_lives_while_it_is_open_or_once_it_is_linked() {
    let rig = Rig::plain();
    let (gone, handle) = rig.fs.tmpfile(&USER, ROOT, 0o600).unwrap();
    rig.write(gone.node, 0, b"scratch");
    assert_eq!(rig.read(gone.node, 0, 10), b"scratch");
    rig.fs.release(gone.node, handle).unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.fs.getattr(gone.node).err(), Some(Error::Stale));
    let (kept, handle) = rig.fs.tmpfile(&USER, ROOT, 0o600).unwrap();
    rig.write(kept.node, 0, b"kept");
    assert_eq!(rig.fs.link(kept.node, ROOT, b"name").unwrap().inode.nlink, 1);
    rig.fs.release(kept.node, handle).unwrap();
    rig.fs.reap_now().unwrap();
    assert_eq!(rig.read(rig.fs.lookup(ROOT, b"name").unwrap().node, 0, 10), b"kept");
}
