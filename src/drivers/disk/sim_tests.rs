//! What the simulated disk may lose and what it must keep.

use super::*;

fn disk_with(path: &str) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.create(Path::new(path)).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file)
}

fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn conforms() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/work")).unwrap();
    nexus_kernel::conformance::disk::run(&disk, Path::new("/work"));
}

#[test]
fn synced_bytes_stay_and_each_unsynced_page_may_go() {
    let (disk, file) = disk_with("/d/f");
    file.write_at(&[1; 8192], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[2; 8192], 0).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let bytes = read(&disk.power_cut(seed), "/d/f").unwrap();
        assert_eq!(bytes.len(), 8192, "seed {seed}");
        for page in bytes.chunks(4096) {
            assert!(page.iter().all(|b| *b == page[0]), "a page is torn with seed {seed}");
        }
        seen.insert((bytes[0], bytes[4096]));
    }
    assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2)].into());
}

#[test]
fn a_cut_is_the_same_for_the_same_seed() {
    let (disk, file) = disk_with("/d/f");
    for at in 0..64 {
        file.write_at(&[at as u8 + 1; 4096], at * 4096).unwrap();
    }
    for seed in 0..10 {
        assert_eq!(read(&disk.power_cut(seed), "/d/f"), read(&disk.power_cut(seed), "/d/f"));
    }
    assert_ne!(read(&disk.power_cut(2), "/d/f"), None);
}

#[test]
fn unsynced_names_go_from_the_end() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    for name in ["a", "b", "c"] {
        disk.create(&Path::new("/d").join(name)).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let left = disk.power_cut(seed).list(Path::new("/d")).unwrap();
        seen.insert(left.into_iter().map(|(name, _)| name).collect::<String>());
    }
    assert_eq!(seen, ["", "a", "ab", "abc"].map(String::from).into());
    disk.sync_dir(Path::new("/d")).unwrap();
    for seed in 0..20 {
        assert_eq!(disk.power_cut(seed).list(Path::new("/d")).unwrap().len(), 3);
    }
}

#[test]
fn an_unsynced_removal_may_bring_the_file_back_with_its_synced_bytes() {
    let (disk, file) = disk_with("/d/f");
    file.write_at(b"kept", 0).unwrap();
    file.sync_data().unwrap();
    disk.remove(Path::new("/d/f")).unwrap();
    let left: Vec<_> = (0..40).map(|seed| read(&disk.power_cut(seed), "/d/f")).collect();
    assert!(left.contains(&None) && left.contains(&Some(b"kept".to_vec())));
    assert!(left.iter().flatten().all(|bytes| bytes == b"kept"));
}

#[test]
fn a_rename_between_folders_is_whole_or_not_at_all() {
    let (disk, file) = disk_with("/d/f");
    disk.create_dir_all(Path::new("/e")).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.rename(Path::new("/d/f"), Path::new("/e/f")).unwrap();
    disk.create(Path::new("/d/after")).unwrap();
    let mut moved = 0;
    for seed in 0..200 {
        let left = disk.power_cut(seed);
        let (old, new) = (read(&left, "/d/f"), read(&left, "/e/f"));
        assert!(old.is_some() != new.is_some(), "seed {seed}");
        moved += u32::from(new.is_some());
        assert!(read(&left, "/d/after").is_none() || new.is_some(), "order lost with seed {seed}");
    }
    assert!((20..180).contains(&moved));
    disk.sync_dir(Path::new("/e")).unwrap();
    for seed in 0..20 {
        let left = disk.power_cut(seed);
        assert!(read(&left, "/d/f").is_none() && read(&left, "/e/f").is_some());
    }
}

#[test]
fn a_fork_has_everything_and_goes_its_own_way() {
    let (disk, file) = disk_with("/d/f");
    file.write_at(b"one", 0).unwrap();
    disk.create(Path::new("/d/unsynced")).unwrap();
    let fork = disk.fork();
    file.write_at(b"two", 0).unwrap();
    assert_eq!(read(&fork, "/d/f").unwrap(), b"one");
    assert_eq!(fork.list(Path::new("/d")).unwrap().len(), 2);
    fork.open(Path::new("/d/f")).unwrap().write_at(b"three", 0).unwrap();
    assert_eq!(read(&disk, "/d/f").unwrap(), b"two");
    let lost = (0..40).filter(|seed| read(&fork.power_cut(*seed), "/d/unsynced").is_none()).count();
    assert!((1..40).contains(&lost), "a fork must still know what was not synced");
}

#[test]
fn hooks_see_the_disk_just_before_each_sync() {
    let (disk, file) = disk_with("/d/f");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    disk.on_sync(move |disk, point| {
        let lost = (0..20).any(|seed| read(&disk.power_cut(seed), "/d/f").is_none_or(|bytes| bytes.is_empty()));
        log.lock().push((point.clone(), lost));
    });
    let first = disk.sync_points() + 1;
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    file.sync_data().unwrap();
    disk.clear_hook();
    file.sync_data().unwrap();
    let point = |number| SyncPoint { number, path: "/d/f".into(), folder: false };
    assert_eq!(*seen.lock(), [(point(first), true), (point(first + 1), false)]);
}

#[test]
fn injected_failures_and_a_full_disk_change_nothing() {
    let (disk, file) = disk_with("/d/f");
    disk.fail_after(1, Error::Io("injected".into()));
    file.write_at(b"ok", 0).unwrap();
    assert_eq!(file.write_at(b"no", 0), Err(Error::Io("injected".into())));
    assert_eq!(file.sync_data(), Err(Error::Io("injected".into())));
    disk.heal();
    assert_eq!(read(&disk, "/d/f").unwrap(), b"ok");

    disk.set_capacity(Some(2 * 4096));
    assert_eq!(file.write_at(&[1; 3 * 4096], 0), Err(Error::NoSpace));
    file.write_at(&[1; 2 * 4096], 0).unwrap();
    assert_eq!(disk.space(Path::new("/d")).unwrap().available, 0);
    file.write_at(&[2; 4096], 0).unwrap();
    file.punch_hole(0, 4096).unwrap();
    file.write_at(&[3; 10], 8192).unwrap();
    assert_eq!(disk.used_bytes(), 2 * 4096);
}

#[test]
fn damage_reaches_the_medium() {
    let (disk, file) = disk_with("/d/f");
    file.write_at(&[0xff; 10], 0).unwrap();
    file.sync_data().unwrap();
    disk.damage(Path::new("/d/f"), 3, 0x10).unwrap();
    assert_eq!(read(&disk.power_cut(1), "/d/f").unwrap()[3], 0xef);
}
