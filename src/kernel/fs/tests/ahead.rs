//! What is fetched ahead of readers of a file whose content lies in many blobs.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::*;
use crate::ids::ZoneIndex;
use crate::model::Extent;

const FRAME: u64 = 64 << 10;
const FRAMES: u64 = 64;

/// A file that is in a store that has to be asked.
fn far() -> (Rig, NodeId) {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    rig.write(file, 0, &pattern(1, (FRAMES * FRAME) as usize));
    rig.content.fetched.store(true, Ordering::SeqCst);
    (rig, file)
}

fn read(rig: &Rig, file: NodeId, frame: u64) {
    assert_eq!(
        rig.read(file, frame * FRAME, FRAME as usize),
        pattern(1, ((frame + 1) * FRAME) as usize)[(frame * FRAME) as usize..]
    );
}

/// The frames of the file of which all bytes were wanted, and how many bytes were in all.
fn wanted(rig: &Rig, file: NodeId) -> (BTreeSet<u64>, u64) {
    let mut extents: Vec<(u64, Extent)> = Vec::new();
    rig.fs
        .router()
        .zone(ZoneIndex(0))
        .unwrap()
        .read(&mut |state| {
            extents = crate::machine::extents(state, file.ino(), 0, u64::MAX, usize::MAX)?;
            Ok(())
        })
        .unwrap();
    let wanted = rig.content.wanted.lock();
    let mut bytes = vec![0_u64; FRAMES as usize];
    for (blob, range) in wanted.iter() {
        for (offset, extent) in extents.iter().filter(|(_, extent)| extent.blob == *blob) {
            let (start, end) = (range.start.max(extent.blob_offset), range.end.min(extent.blob_offset + extent.len));
            for at in start..end.max(start) {
                bytes[((offset + at - extent.blob_offset) / FRAME) as usize] += 1;
            }
        }
    }
    let whole = (0..FRAMES).filter(|frame| bytes[*frame as usize] >= FRAME).collect();
    (whole, bytes.iter().sum())
}

#[test]
fn one_who_reads_in_order_is_served_across_blobs() {
    let (rig, file) = far();
    for frame in 0..FRAMES {
        read(&rig, file, frame);
    }
    let (frames, bytes) = wanted(&rig, file);
    assert_eq!(frames, (2..FRAMES).collect());
    assert_eq!(bytes, (FRAMES - 2) * FRAME, "nothing twice");
}

#[test]
fn one_who_reads_backward_is_too() {
    let (rig, file) = far();
    for frame in (0..FRAMES).rev() {
        read(&rig, file, frame);
    }
    assert_eq!(wanted(&rig, file).0, (0..FRAMES - 3).collect());
}

#[test]
fn one_in_steps_gets_its_steps_and_nothing_between() {
    let (rig, file) = far();
    for frame in (0..FRAMES).step_by(4) {
        read(&rig, file, frame);
    }
    let (frames, bytes) = wanted(&rig, file);
    assert!(frames.iter().all(|frame| frame % 4 == 0), "{frames:?}");
    assert_eq!((frames.len() as u64, bytes), (FRAMES / 4 - 4, (FRAMES / 4 - 4) * FRAME));
}

#[test]
fn random_reads_and_local_content_fetch_nothing_ahead() {
    let (rig, file) = far();
    for frame in [5, 60, 17, 30, 2, 44, 9, 51] {
        read(&rig, file, frame);
    }
    assert_eq!(wanted(&rig, file).1, 0);
    rig.content.fetched.store(false, Ordering::SeqCst);
    for frame in 0..FRAMES {
        read(&rig, file, frame);
    }
    assert_eq!(wanted(&rig, file).1, 0);
}

#[test]
fn what_was_too_much_is_asked_for_again() {
    let (rig, file) = far();
    rig.content.most_wanted.store(4 * FRAME, Ordering::SeqCst);
    for frame in 0..FRAMES / 2 {
        read(&rig, file, frame);
        assert!(wanted(&rig, file).1 <= 4 * FRAME);
    }
    rig.content.most_wanted.store(u64::MAX, Ordering::SeqCst);
    for frame in FRAMES / 2..FRAMES {
        read(&rig, file, frame);
    }
    let frames = wanted(&rig, file).0;
    assert!((FRAMES / 2 + 2..FRAMES).all(|frame| frames.contains(&frame)), "{frames:?}");
}
