//! Listings, and how they hold while the directory changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::*;
use crate::error::Error;
use crate::fs::DirEntry;
use crate::fs::testing::Rng;
use crate::model::FileKind;

/// At most `limit` entries after `cookie`.
fn page(rig: &Rig, dir: NodeId, cookie: u64, limit: usize) -> Vec<DirEntry> {
    let mut entries = Vec::new();
    let listed = rig.fs.readdir(dir, cookie, false, &mut |entry| {
        if entries.len() == limit {
            return ControlFlow::Break(());
        }
        entries.push(entry);
        ControlFlow::Continue(())
    });
    listed.unwrap();
    entries
}

fn all(rig: &Rig, dir: NodeId, limit: usize) -> Vec<DirEntry> {
    let (mut entries, mut cookie) = (Vec::new(), 0);
    loop {
        let page = page(rig, dir, cookie, limit);
        let Some(last) = page.last() else { return entries };
        cookie = last.cookie;
        entries.extend(page);
    }
}

#[test]
fn a_listing_has_the_dots_and_every_entry_once() {
    let rig = Rig::plain();
    let dir = rig.dir(ROOT, "d");
    let made: BTreeMap<Vec<u8>, NodeId> =
        (0..3_000u32).map(|n| (format!("name-{n}").into_bytes(), rig.file(dir, &format!("name-{n}")))).collect();
    for limit in [1, 7, 100, usize::MAX] {
        if limit == 1 {
            // One at a time only for the first few.
            assert_eq!(page(&rig, dir, 0, 1)[0].name, ".");
            continue;
        }
        let entries = all(&rig, dir, limit);
        assert_eq!((&entries[0].name[..], entries[0].node, entries[0].cookie), (&b"."[..], dir, 1));
        assert_eq!((&entries[1].name[..], entries[1].node, entries[1].cookie), (&b".."[..], ROOT, 2));
        assert_eq!(entries.len(), made.len() + 2);
        assert!(entries.is_sorted_by(|a, b| a.cookie < b.cookie), "no cookie twice");
        assert!(entries[2..].iter().all(|entry| (256..1 << 63).contains(&entry.cookie)));
        let listed: BTreeMap<Vec<u8>, NodeId> =
            entries[2..].iter().map(|entry| (entry.name.to_vec(), entry.node)).collect();
        assert!(listed == made);
    }
    let mut calls = 0;
    rig.fs
        .readdir(dir, 0, false, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(calls < 2600, "one call hands out {calls}");
    assert_eq!(page(&rig, dir, u64::MAX, 1), []);
}

#[test]
fn attributes_come_along_when_asked_for() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    rig.write(file, 0, b"12345");
    let mut seen = Vec::new();
    rig.fs
        .readdir(ROOT, 0, true, &mut |entry| {
            seen.push((entry.kind, entry.attr.map(|attr| (attr.node, attr.inode.size))));
            ControlFlow::Continue(())
        })
        .unwrap();
    let (dir, reg) = (FileKind::Directory, FileKind::Regular);
    assert_eq!(seen, [(dir, None), (dir, None), (reg, Some((file, 5)))]);
}

#[test]
fn only_directories_are_listed() {
    let rig = Rig::plain();
    let file = rig.file(ROOT, "f");
    let mut none = |_| ControlFlow::Continue(());
    assert_eq!(rig.fs.readdir(file, 0, false, &mut none), Err(Error::NotDirectory));
    assert_eq!(rig.fs.opendir(file), Err(Error::NotDirectory));
    assert_eq!(rig.fs.readdir(NodeId(99), 0, false, &mut none), Err(Error::Stale));
    let handle = rig.fs.opendir(ROOT).unwrap();
    rig.fs.fsyncdir(ROOT, false).unwrap();
    rig.fs.releasedir(ROOT, handle).unwrap();
}

/// While a listing goes on a few entries at a time, names are made, removed and moved. What
/// was there from start to end is listed exactly once; nothing is listed twice.
#[test]
fn listings_hold_while_the_directory_changes() {
    for seed in 0..8 {
        println!("seed {seed}");
        let (rig, mut rng) = (Rig::plain(), Rng::new(seed));
        let dir = rig.dir(ROOT, "d");
        let mut names: BTreeSet<String> = (0..300).map(|n| format!("old-{n}")).collect();
        for name in &names {
            rig.file(dir, name);
        }
        let mut stayed = names.clone();
        let (mut listed, mut cookie) = (Vec::new(), 0);
        loop {
            let page = page(&rig, dir, cookie, 1 + rng.below(20) as usize);
            let Some(last) = page.last() else { break };
            cookie = last.cookie;
            listed.extend(page.into_iter().map(|entry| String::from_utf8(entry.name.to_vec()).unwrap()));
            for _ in 0..rng.below(8) {
                let name = names.iter().nth(rng.below(names.len() as u64) as usize).unwrap().clone();
                let fresh = format!("new-{}", rng.next());
                match rng.below(3) {
                    0 => {
                        rig.file(dir, &fresh);
                        names.insert(fresh);
                    }
                    1 if names.len() > 50 => {
                        rig.fs.unlink(dir, name.as_bytes()).unwrap();
                        stayed.remove(&name);
                        names.remove(&name);
                    }
                    _ => {
                        let mode = crate::command::RenameMode::NoReplace;
                        rig.fs.rename(dir, name.as_bytes(), dir, fresh.as_bytes(), mode, false).unwrap();
                        stayed.remove(&name);
                        names.remove(&name);
                        names.insert(fresh);
                    }
                }
            }
        }
        let distinct: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(distinct.len(), listed.len(), "listed twice, seed {seed}");
        let missed: Vec<_> = stayed.difference(&distinct).collect();
        assert!(missed.is_empty(), "missed {missed:?}, seed {seed}");
        let now: BTreeSet<String> =
            all(&rig, dir, 64).iter().skip(2).map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
        assert_eq!(now, names, "seed {seed}");
    }
}
