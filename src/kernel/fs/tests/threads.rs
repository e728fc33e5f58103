//! Many threads at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::command::RenameMode;
use crate::error::Error;
use crate::fs::testing::Rng;

/// Every thread opens, reads, replaces and removes the same few names. A file that was
/// opened can be read until it is released, whatever became of its name, and nothing is
/// left over at the end.
#[test]
fn open_files_stay_whole_while_names_come_and_go() {
    const THREADS: u64 = 4;
    let rig = Rig::plain();
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (rig, start) = (&rig, &start);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                start.wait();
                for _ in 0..2000 {
                    let name = format!("n{}", rng.below(3));
                    match rng.below(4) {
                        0 | 1 => use_file(rig, &name),
                        2 => match rig.fs.unlink(ROOT, name.as_bytes()) {
                            Ok(()) | Err(Error::NotFound) => {}
                            Err(error) => panic!("{error}"),
                        },
                        _ => {
                            let other = format!("n{}", rng.below(3));
                            match rig.fs.rename(
                                ROOT,
                                name.as_bytes(),
                                ROOT,
                                other.as_bytes(),
                                RenameMode::Replace,
                                false,
                            ) {
                                Ok(()) | Err(Error::NotFound) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                }
            });
        }
    });
    for n in 0..3 {
        let _ = rig.fs.unlink(ROOT, format!("n{n}").as_bytes());
    }
    rig.fs.reap_now().unwrap();
    assert_eq!((rig.count(Table::Inode), rig.count(Table::Orphan), rig.count(Table::Extent)), (1, 0, 0));
    assert_eq!(rig.fs.reaper.in_use(), 0);
}

fn use_file(rig: &Rig, name: &str) {
    let (attr, handle) = rig.fs.create(&USER, ROOT, name.as_bytes(), 0o644, OpenOptions::default()).unwrap();
    rig.write(attr.node, 0, b"same for all");
    assert_eq!(rig.read(attr.node, 0, 100), b"same for all");
    assert!(rig.fs.getattr(attr.node).is_ok());
    rig.fs.release(attr.node, handle).unwrap();
}

/// Appending readers see whole writes or none: a file of one byte repeated never shows two.
#[test]
fn a_read_sees_one_write_or_another() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    const LEN: usize = 5_000;
    rig.write(file, 0, &[b'a'; LEN]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) || reads == 0 {
                let bytes = rig.read(file, 0, LEN);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half a write");
                reads += 1;
            }
        });
        for round in 0..500 {
            rig.write(file, 0, &[b'a' + (round % 26) as u8; LEN]);
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}

#[test]
fn threads_make_every_name_exactly_once() {
    let rig = Rig::caching();
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| (0..200).filter(|n| rig.make(ROOT, &format!("n{n}"), NewKind::Regular).is_ok()).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 200);
    assert_eq!(rig.fs.getattr(ROOT).unwrap().inode.size, 200);
}
