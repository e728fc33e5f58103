//! Suite of [`crate::disk::Disk`], without power cuts.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::Error;

/// Runs the suite in `folder`, which exists and is empty.
pub fn run(disk: &dyn Disk, folder: &Path) {
    names(disk, &folder.join("names"));
    renames(disk, &folder.join("renames"));
    content(disk, &folder.join("content"));
    lengths(disk, &folder.join("lengths"));
    holes(disk, &folder.join("holes"));
    in_place(disk, &folder.join("in place"));
    threads(disk, &folder.join("threads"));
    let space = disk.space(folder).unwrap();
    assert!(space.total > 0 && space.available <= space.total && space.free <= space.total);
}

fn names(disk: &dyn Disk, dir: &Path) {
    let (file, deep) = (dir.join("f"), dir.join("deep"));
    assert_eq!(disk.open(&file).err(), Some(Error::NotFound), "open without a folder");
    assert_eq!(disk.create(&file).err(), Some(Error::NotFound), "create without a folder");
    assert_eq!(disk.list(dir).err(), Some(Error::NotFound), "list without a folder");
    assert_eq!(disk.sync_dir(dir).err(), Some(Error::NotFound), "sync without a folder");
    disk.create_dir_all(&deep).unwrap();
    disk.create_dir_all(&deep).unwrap();
    assert_eq!(disk.open(&file).err(), Some(Error::NotFound));
    disk.create(&file).unwrap();
    assert_eq!(disk.create(&file).err(), Some(Error::Exists));
    assert_eq!(disk.create_dir_all(&file.join("x")).err(), Some(Error::NotDirectory));
    disk.create(&dir.join("b")).unwrap().write_at(b"12345", 0).unwrap();
    disk.create(&deep.join("below")).unwrap();
    assert_eq!(disk.list(dir).unwrap(), [("b".to_owned(), 5), ("f".to_owned(), 0)], "sorted, folders left out");
    disk.sync_dir(dir).unwrap();
    disk.remove(&file).unwrap();
    assert_eq!(disk.remove(&file), Err(Error::NotFound));
    assert_eq!(disk.list(dir).unwrap().len(), 1);
}

fn renames(disk: &dyn Disk, dir: &Path) {
    let (a, b, other) = (dir.join("a"), dir.join("b"), dir.join("sub"));
    disk.create_dir_all(&other).unwrap();
    let kept = disk.create(&a).unwrap();
    kept.write_at(b"aaa", 0).unwrap();
    let replaced = disk.create(&b).unwrap();
    replaced.write_at(b"bb", 0).unwrap();
    disk.rename(&a, &b).unwrap();
    assert_eq!(disk.open(&a).err(), Some(Error::NotFound));
    assert_eq!(read_all(&*disk.open(&b).unwrap()), b"aaa");
    assert_eq!(read_all(&*replaced), b"bb", "an open file outlives its name");
    kept.write_at(b"c", 3).unwrap();
    disk.rename(&b, &other.join("c")).unwrap();
    assert_eq!(read_all(&*disk.open(&other.join("c")).unwrap()), b"aaac", "a handle follows its file");
    assert_eq!(disk.rename(&a, &b), Err(Error::NotFound));
    disk.remove(&other.join("c")).unwrap();
    kept.write_at(b"d", 4).unwrap();
    assert_eq!(read_all(&*kept), b"aaacd", "an open file outlives its removal");
    kept.sync_data().unwrap();
}

fn content(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let file = disk.create(&dir.join("f")).unwrap();
    assert!(file.is_empty().unwrap());
    let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    file.write_at(&data, 100).unwrap();
    assert_eq!(file.len().unwrap(), 20_100);
    let mut buf = vec![1; 20_100];
    file.read_at(&mut buf, 0).unwrap();
    assert!(buf[..100].iter().all(|b| *b == 0) && buf[100..] == data[..]);
    file.write_at(b"over", 4094).unwrap();
    let mut buf = [0; 8];
    file.read_at(&mut buf, 4092).unwrap();
    assert_eq!(buf, [data[3992], data[3993], b'o', b'v', b'e', b'r', data[3998], data[3999]]);
    assert!(matches!(file.read_at(&mut buf, 20_093), Err(Error::Corrupt(_))), "a read across the end");
    assert!(matches!(file.read_at(&mut buf, u64::MAX - 3), Err(Error::Corrupt(_) | Error::Io(_))));
    file.read_at(&mut [], 5).unwrap();
    file.start_writeback(0, 8192).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read_all(&*disk.open(&dir.join("f")).unwrap()).len(), 20_100, "another handle sees the same file");
}

fn lengths(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let file = disk.create(&dir.join("f")).unwrap();
    file.write_at(&[7; 6000], 0).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(9000).unwrap();
    let bytes = read_all(&*file);
    assert_eq!(bytes.len(), 9000);
    assert!(bytes[..5000].iter().all(|b| *b == 7));
    assert!(bytes[5000..].iter().all(|b| *b == 0), "bytes that were cut do not come back");
    file.allocate(8000, 12_000).unwrap();
    assert_eq!(file.len().unwrap(), 20_000);
    file.allocate(0, 100).unwrap();
    assert_eq!(file.len().unwrap(), 20_000, "allocating within the file leaves its length");
    assert!(read_all(&*file)[..5000].iter().all(|b| *b == 7), "allocating leaves the content");
    file.set_len(0).unwrap();
    assert!(file.is_empty().unwrap());
}

fn holes(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let file = disk.create(&dir.join("f")).unwrap();
    file.write_at(&[9; 5 * 4096], 0).unwrap();
    file.punch_hole(1000, 10_000).unwrap();
    let bytes = read_all(&*file);
    assert_eq!(bytes.len(), 5 * 4096, "a hole leaves the length");
    for (at, byte) in bytes.iter().enumerate() {
        assert_eq!(*byte, if (1000..11_000).contains(&at) { 0 } else { 9 }, "byte {at}");
    }
    file.punch_hole(5 * 4096, 4096).unwrap();
    assert_eq!(file.len().unwrap(), 5 * 4096, "a hole beyond the end adds nothing");
}

fn in_place(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let path = dir.join("f");
    assert_eq!(disk.open_in_place(&path).err(), Some(Error::NotFound));
    let made = disk.create(&path).unwrap();
    // An odd length: the last page is not whole.
    let mut expected = vec![0; 3 * 4096 + 10];
    made.write_at(&expected, 0).unwrap();
    made.sync_data().unwrap();
    drop(made);
    let file = disk.open_in_place(&path).unwrap();
    let other = disk.open(&path).unwrap();
    for (at, len) in [(0, 64), (4090, 20), (5000, 0), (3 * 4096, 10), (100, 9000), (3 * 4096 + 10, 0)] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + at) as u8 | 1).collect();
        file.write_at(&data, at as u64).unwrap();
        expected[at..at + len].copy_from_slice(&data);
        assert_eq!(read_all(&*other), expected, "another handle sees a write of {len} bytes at {at} at once");
        assert_eq!(read_all(&*file), expected);
    }
    for (at, len) in [(3 * 4096, 11), (3 * 4096 + 10, 1), (u64::MAX, 1), (u64::MAX - 5, 20)] {
        assert_eq!(file.write_at(&vec![9; len], at), Err(Error::Invalid), "{len} bytes at {at} would grow the file");
    }
    assert_eq!(read_all(&*file), expected, "a refused write changes nothing");
    // Again and again: a page that is on its way to the medium takes writes too.
    for round in 0..20u64 {
        for write in 0..round {
            file.write_at(&[write as u8; 16], 4096 + 16 * write).unwrap();
            expected[4096 + 16 * write as usize..][..16].fill(write as u8);
        }
        file.start_writeback(0, 8192).unwrap();
        assert_eq!(read_all(&*other), expected, "round {round}");
        file.sync_data().unwrap();
    }
    disk.rename(&path, &dir.join("g")).unwrap();
    file.write_at(b"renamed", 0).unwrap();
    drop(file);
    expected[..7].copy_from_slice(b"renamed");
    assert_eq!(read_all(&*other), expected, "what was written outlives the handle");
    // An empty file has no room at all.
    disk.create(&dir.join("empty")).unwrap();
    let empty = disk.open_in_place(&dir.join("empty")).unwrap();
    assert_eq!(empty.write_at(&[1], 0), Err(Error::Invalid));
    empty.sync_data().unwrap();
}

/// Threads write and read their own stripes of one file.
fn threads(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    let file: Arc<dyn DiskFile> = disk.create(&dir.join("f")).unwrap();
    file.set_len(4 * 64 * 512).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                for block in 0..64 {
                    let at = (block * 4 + thread) * 512;
                    file.write_at(&[thread as u8 + 1; 512], at).unwrap();
                    let mut back = [0; 512];
                    file.read_at(&mut back, at).unwrap();
                    assert_eq!(back, [thread as u8 + 1; 512]);
                }
            });
        }
    });
    for (block, bytes) in read_all(&*file).chunks(512).enumerate() {
        assert!(bytes.iter().all(|b| usize::from(*b) == block % 4 + 1), "block {block}");
    }
}

fn read_all(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}
