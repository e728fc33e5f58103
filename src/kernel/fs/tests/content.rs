//! Reading and writing, holes, ranges, clones.

use std::sync::atomic::Ordering;

use super::*;
use crate::command::{AttrChange, RangeOp, Relocation};
use crate::content::{ContentStore, WriteHint};
use crate::error::Error;
use crate::fs::Seek;
use crate::fs::testing::Rng;
use crate::ids::StoreId;
use crate::model::MAX_FILE_BYTES;
use crate::zone::Zone;

const PAGE: u64 = 4096;

#[test]
fn reads_what_was_written_and_stops_at_the_end() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let data = pattern(1, 35_000);
    rig.write(file, 0, &data);
    assert_eq!(rig.read(file, 0, 100_000), data, "several blobs");
    assert_eq!(rig.read(file, 9_990, 20), data[9_990..10_010], "across two");
    assert_eq!(rig.read(file, 34_990, 100), data[34_990..]);
    assert_eq!(rig.read(file, 35_000, 1), b"");
    assert_eq!(rig.read(file, u64::MAX, usize::MAX), b"");
    rig.write(file, 10, b"");
    assert_eq!(rig.size(file), 35_000);
    let mut buf = [0; 2];
    let dir = rig.dir(ROOT, "d");
    assert_eq!(rig.fs.read(dir, 0, 0, &mut buf), Err(Error::IsDirectory));
    assert_eq!(rig.fs.read(NodeId(99), 0, 0, &mut buf), Err(Error::Stale));
}

#[test]
fn sparse_files_are_zeros_in_between() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let far = 8u64 << 40;
    rig.write(file, far, b"end");
    rig.write(file, 100, b"start");
    assert_eq!(rig.size(file), far + 3);
    let mut expected = vec![0; 110];
    expected[100..105].copy_from_slice(b"start");
    assert_eq!(rig.read(file, 0, 110), expected);
    assert_eq!(rig.read(file, far - 2, 10), b"\0\0end");
    assert_eq!(rig.fs.getattr(file).unwrap().inode.allocated, 8);
    let seek = |offset, what| rig.fs.seek(file, offset, what);
    assert_eq!(seek(0, Seek::Data), Ok(100));
    assert_eq!(seek(102, Seek::Data), Ok(102));
    assert_eq!(seek(105, Seek::Data), Ok(far));
    assert_eq!(seek(0, Seek::Hole), Ok(0));
    assert_eq!(seek(100, Seek::Hole), Ok(105));
    assert_eq!(seek(far, Seek::Hole), Ok(far + 3), "the end is a hole");
    assert_eq!(seek(far + 3, Seek::Hole), Err(Error::NoSuchOffset));
    assert_eq!(seek(far + 3, Seek::Data), Err(Error::NoSuchOffset));
    let set = AttrChange { size: Some(far + 100), ..AttrChange::default() };
    rig.fs.setattr(&USER, file, &set).unwrap();
    assert_eq!(seek(far + 3, Seek::Data), Err(Error::NoSuchOffset));
    assert_eq!(seek(far + 50, Seek::Hole), Ok(far + 50));
}

#[test]
fn reserved_zeros_are_holes_to_seek_and_zeros_to_read() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    rig.fs.fallocate(file, RangeOp::Allocate, 0, 3 * PAGE).unwrap();
    assert_eq!((rig.size(file), rig.fs.getattr(file).unwrap().inode.allocated), (3 * PAGE, 3 * PAGE));
    assert_eq!(rig.fs.seek(file, 0, Seek::Data), Err(Error::NoSuchOffset));
    rig.write(file, PAGE, &pattern(1, PAGE as usize));
    assert_eq!(rig.fs.seek(file, 0, Seek::Data), Ok(PAGE));
    assert_eq!(rig.fs.seek(file, PAGE, Seek::Hole), Ok(2 * PAGE));
    assert_eq!(rig.read(file, 0, PAGE as usize), vec![0; PAGE as usize]);
    rig.fs.fallocate(file, RangeOp::AllocateKeepSize, 0, 10 * PAGE).unwrap();
    assert_eq!(rig.size(file), 3 * PAGE);
    rig.content.full.store(true, Ordering::SeqCst);
    assert_eq!(rig.fs.fallocate(file, RangeOp::Allocate, 0, PAGE), Err(Error::NoSpace));
    assert_eq!(rig.fs.write(file, 0, 0, b"x", false), Err(Error::NoSpace));
    rig.fs.fallocate(file, RangeOp::PunchHole, 0, PAGE).unwrap();
}

#[test]
fn ranges_refuse_what_ext4_refuses() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    rig.write(file, 0, &pattern(1, 4 * PAGE as usize));
    let range = |op, offset, len| rig.fs.fallocate(file, op, offset, len);
    assert_eq!(range(RangeOp::Allocate, 0, 0), Err(Error::Invalid));
    assert_eq!(range(RangeOp::Allocate, MAX_FILE_BYTES, 1), Err(Error::FileTooLarge));
    assert_eq!(range(RangeOp::Allocate, u64::MAX, u64::MAX), Err(Error::FileTooLarge));
    assert_eq!(range(RangeOp::Collapse, 1, PAGE), Err(Error::Invalid));
    assert_eq!(range(RangeOp::Collapse, 0, 1), Err(Error::Invalid));
    assert_eq!(range(RangeOp::Collapse, 0, 4 * PAGE), Err(Error::Invalid), "reaches the end");
    assert_eq!(range(RangeOp::Insert, 4 * PAGE, PAGE), Err(Error::Invalid), "at the end");
    assert_eq!(range(RangeOp::Insert, 0, 1 << 62), Ok(()));
    assert_eq!(range(RangeOp::Insert, 0, 1 << 62), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.fallocate(ROOT, RangeOp::Allocate, 0, 1), Err(Error::IsDirectory));
}

#[test]
fn the_largest_file_has_an_end() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    assert_eq!(rig.fs.write(file, 0, MAX_FILE_BYTES, b"x", false), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.write(file, 0, u64::MAX, b"x", false), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.write(file, 0, MAX_FILE_BYTES - 2, b"abc", false), Ok(2), "cut");
    assert_eq!(rig.size(file), MAX_FILE_BYTES);
    assert_eq!(rig.read(file, MAX_FILE_BYTES - 3, 10), b"\0ab");
}

#[test]
fn clones_share_bytes_and_part_when_written() {
    let rig = Rig::plain();
    let (a, b) = (rig.file(ROOT, "a"), rig.file(ROOT, "b"));
    let data = pattern(3, 25_000);
    rig.write(a, 0, &data);
    let blobs = rig.count(Table::Blob);
    assert_eq!(rig.fs.copy_file_range(a, 5_000, b, 100, 1 << 40), Ok(20_000), "cut at the source's end");
    assert_eq!(rig.count(Table::Blob), blobs, "no bytes were copied");
    assert_eq!(rig.read(b, 100, 30_000), data[5_000..]);
    assert_eq!(rig.read(b, 0, 100), [0; 100]);
    rig.write(a, 5_000, b"changed");
    assert_eq!(rig.read(b, 100, 7), data[5_000..5_007]);
    rig.fs.unlink(ROOT, b"a").unwrap();
    assert_eq!(rig.read(b, 100, 30_000), data[5_000..]);
    assert_eq!(rig.fs.copy_file_range(b, 20_100, b, 0, 10), Ok(0));
    assert_eq!(rig.fs.copy_file_range(b, 0, b, 10, 11), Err(Error::Invalid), "overlap");
    assert_eq!(rig.fs.copy_file_range(b, 0, b, 10, 10), Ok(10));
    assert_eq!(rig.fs.copy_file_range(b, 0, ROOT, 0, 10), Err(Error::IsDirectory));
    assert_eq!(rig.fs.copy_file_range(b, 0, b, MAX_FILE_BYTES, 10), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.copy_file_range(b, u64::MAX, b, 0, u64::MAX), Ok(0));
    assert_eq!(rig.fs.copy_file_range(b, 0, b, u64::MAX, u64::MAX), Err(Error::FileTooLarge));
    assert_eq!(rig.fs.copy_file_range(b, 20_090, b, 20_100, u64::MAX), Ok(10), "what is there does not overlap");
}

#[test]
fn writes_by_the_unprivileged_clear_setuid() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let setuid = AttrChange { mode: Some(0o4755), ..AttrChange::default() };
    rig.fs.setattr(&USER, file, &setuid).unwrap();
    rig.write(file, 0, b"x");
    assert_eq!(rig.fs.getattr(file).unwrap().inode.mode, 0o4755);
    rig.fs.write(file, 0, 0, b"x", true).unwrap();
    assert_eq!(rig.fs.getattr(file).unwrap().inode.mode, 0o755);
    rig.fs.setattr(&USER, file, &setuid).unwrap();
    let options = OpenOptions { truncate: true, kill_privileges: true, ..OpenOptions::default() };
    rig.fs.open(file, options).unwrap();
    assert_eq!(rig.fs.getattr(file).unwrap().inode.mode, 0o755);
}

#[test]
fn a_blob_that_never_comes_back_is_named_as_damage() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    rig.write(file, 0, b"text");
    rig.content.remove(crate::BlobId(1));
    let error = rig.fs.read(file, 0, 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(text) if text.contains("blob 1")), "{error}");
}

#[test]
fn a_read_follows_extents_that_compaction_moves_under_it() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let data = pattern(9, 30_000);
    rig.write(file, 0, &data);
    let zone = rig.fs.router().zone(crate::ZoneIndex(0)).unwrap();
    let node = file.ino();
    // Moves the middle of the file at the moment when a read asks for its first byte.
    let moved = std::sync::atomic::AtomicBool::new(false);
    rig.content.on_read(Box::new({
        let (zone, content) = (zone.clone(), Arc::downgrade(&rig.content));
        move |_| {
            if moved.swap(true, Ordering::SeqCst) {
                return;
            }
            let content = content.upgrade().unwrap();
            relocate(&*zone, &content, node);
        }
    }));
    assert_eq!(rig.read(file, 0, 30_000), data);
    assert_eq!(rig.read(file, 12_345, 10_000), data[12_345..22_345]);
}

/// What is cut or punched away while a read is on its way is not read as rubbish.
#[test]
fn a_read_follows_extents_that_go_away_under_it() {
    for cut in [false, true] {
        let rig = Rig::plain();
        let file = rig.file(ROOT, "f");
        let data = pattern(9, 30_000);
        rig.write(file, 0, &data);
        let zone = rig.fs.router().zone(crate::ZoneIndex(0)).unwrap();
        let (ino, now, content) = (file.ino(), zone.now(), Arc::downgrade(&rig.content));
        let mut gone = false;
        rig.content.on_read(Box::new(move |_| {
            if std::mem::replace(&mut gone, true) {
                return;
            }
            let shrink = AttrChange { size: Some(12_000), ..AttrChange::default() };
            let (op, kill_privileges) = (RangeOp::PunchHole, false);
            let command = match cut {
                true => Command::SetAttr { ino, change: shrink, now },
                false => Command::Range { ino, op, offset: 10_000, len: 20_000, kill_privileges, now },
            };
            zone.propose(&command).unwrap();
            if !cut {
                content.upgrade().unwrap().remove(crate::BlobId(2));
            }
            content.upgrade().unwrap().remove(crate::BlobId(3));
        }));
        let mut expected = data.clone();
        if cut {
            expected.truncate(12_000);
        } else {
            expected[10_000..].fill(0);
        }
        assert!(rig.read(file, 0, 30_000) == expected, "cut: {cut}");
    }
}

/// Moves all that lies in blob 2 elsewhere, and takes the blob away.
fn relocate(zone: &dyn Zone, content: &TestContent, ino: crate::Ino) {
    let mut found = Vec::new();
    zone.read(&mut |state| {
        found = crate::machine::extents(state, ino, 0, u64::MAX, 100)?;
        Ok(())
    })
    .unwrap();
    let from = crate::BlobId(2);
    let bytes = content.remove(from);
    let (mut moves, mut pins) = (Vec::new(), Vec::new());
    for (offset, extent) in found.into_iter().filter(|(_, extent)| extent.blob == from) {
        let part = &bytes[extent.blob_offset as usize..][..extent.len as usize];
        let staged = content.write(WriteHint { ino, offset, size: 0, store: StoreId(0) }, part).unwrap();
        let mut done = 0;
        for to in &staged.pieces {
            let from_offset = extent.blob_offset + done;
            moves.push(Relocation { ino, offset: offset + done, from_offset, to: *to });
            done += to.len;
        }
        pins.push(staged.pin);
    }
    let command = Command::Relocate { from, store: crate::StoreId(0), moves };
    assert!(zone.propose(&command).unwrap().count > 0);
}

/// Every content call, at random, against a plain array of bytes.
#[test]
fn random_content_calls_match_a_byte_array() {
    for seed in 0..6 {
        println!("seed {seed}");
        let (rig, mut rng) = (Rig::plain(), Rng::new(seed));
        let file = rig.file(ROOT, "f");
        let mut model: Vec<u8> = Vec::new();
        let limit = 24 * PAGE;
        for step in 0..400 {
            let (offset, len) = (rng.below(limit), 1 + rng.below(3 * PAGE));
            let (page, pages) = (offset / PAGE * PAGE, (1 + len / PAGE) * PAGE);
            let (from, to) = (offset as usize, (offset + len) as usize);
            let fallocate = |op, offset, len| rig.fs.fallocate(file, op, offset, len);
            match rng.below(10) {
                0..3 => {
                    let data = pattern(step as u8, len as usize);
                    rig.write(file, offset, &data);
                    model.resize(model.len().max(to), 0);
                    model[from..to].copy_from_slice(&data);
                }
                3 => {
                    let change = AttrChange { size: Some(offset), ..AttrChange::default() };
                    rig.fs.setattr(&USER, file, &change).unwrap();
                    model.resize(from, 0);
                }
                4 => {
                    fallocate(RangeOp::PunchHole, offset, len).unwrap();
                    let end = to.min(model.len());
                    model.get_mut(from..end).into_iter().for_each(|part| part.fill(0));
                }
                5 => {
                    fallocate(RangeOp::ZeroRange, offset, len).unwrap();
                    model.resize(model.len().max(to), 0);
                    model[from..to].fill(0);
                }
                6 => {
                    fallocate(RangeOp::Allocate, offset, len).unwrap();
                    model.resize(model.len().max(to), 0);
                }
                7 => {
                    let fits = page + pages < model.len() as u64;
                    let answer = fallocate(RangeOp::Collapse, page, pages);
                    assert_eq!(answer, if fits { Ok(()) } else { Err(Error::Invalid) });
                    if fits {
                        model.drain(page as usize..(page + pages) as usize);
                    }
                }
                8 => {
                    let fits = page < model.len() as u64;
                    let answer = fallocate(RangeOp::Insert, page, pages);
                    assert_eq!(answer, if fits { Ok(()) } else { Err(Error::Invalid) });
                    if fits {
                        let zeros = vec![0; pages as usize];
                        model.splice(page as usize..page as usize, zeros);
                    }
                }
                _ => {
                    let target = rng.below(limit);
                    let count = len.min((model.len() as u64).saturating_sub(offset));
                    let apart = target + count <= offset || offset + count <= target;
                    let answer = rig.fs.copy_file_range(file, offset, file, target, len);
                    assert_eq!(answer, if apart || count == 0 { Ok(count) } else { Err(Error::Invalid) });
                    if apart && count > 0 {
                        let part = model[from..from + count as usize].to_vec();
                        model.resize(model.len().max((target + count) as usize), 0);
                        model[target as usize..(target + count) as usize].copy_from_slice(&part);
                    }
                }
            }
            assert_eq!(rig.size(file), model.len() as u64, "seed {seed} step {step}");
            assert!(rig.read(file, 0, model.len() + 1) == model, "seed {seed} step {step}");
            let (at, len) = (rng.below(limit), 1 + rng.below(limit) as usize);
            let expected = model.get(at as usize..).unwrap_or(&[]);
            assert!(rig.read(file, at, len) == expected[..len.min(expected.len())], "seed {seed} step {step}");
            check_seek(&rig, file, &model, at);
        }
        rig.fs.unlink(ROOT, b"f").unwrap();
        rig.fs.reap_now().unwrap();
        assert_eq!((rig.count(Table::Extent), rig.fs.getattr(ROOT).unwrap().inode.size), (0, 0));
    }
}

/// What seek tells agrees with the bytes: patterns are never zero, so zeros may be a hole,
/// and anything else is data.
fn check_seek(rig: &Rig, file: NodeId, model: &[u8], at: u64) {
    let rest = model.get(at as usize..).unwrap_or(&[]);
    match rig.fs.seek(file, at, Seek::Data) {
        Ok(data) => {
            assert!(rest[..(data - at) as usize].iter().all(|byte| *byte == 0), "data was passed over");
            assert!(data < model.len() as u64 && model[data as usize] != 0, "no data where it says");
        }
        Err(error) => {
            assert_eq!(error, Error::NoSuchOffset);
            assert!(rest.iter().all(|byte| *byte == 0), "data was not found");
        }
    }
    match rig.fs.seek(file, at, Seek::Hole) {
        Ok(hole) => {
            assert!(rest[..(hole - at) as usize].iter().all(|byte| *byte != 0), "a hole was passed over");
            assert!(hole == model.len() as u64 || model[hole as usize] == 0, "no hole where it says");
        }
        Err(error) => assert!(error == Error::NoSuchOffset && rest.is_empty()),
    }
}
