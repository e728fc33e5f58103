//! Inodes without a name: what lost its last one, and what never had one.

use super::*;

#[test]
fn unlinked_files_wait_for_their_last_user() {
    let mut state = State::new();
    state.make(1, "f", 2, NewKind::Regular).unwrap();
    write(&mut state, 2, 0, 10, BlobId(1), 0).unwrap();
    let removed = state.unlink(1, "f", true).unwrap().removed.unwrap();
    assert!(removed.orphaned);
    assert_eq!(state.node(2).nlink, 0);
    state.check();
    assert_eq!(
        state.run(Command::Link { ino: Ino(2), parent: Ino(1), name: small("g"), now: at(1) }),
        Err(Error::NotFound)
    );
    assert_eq!(state.run(Command::Reap { inos: vec![Ino(2)], budget: 0 }).unwrap().count, 1);
    assert_eq!(state.run(Command::Reap { inos: vec![Ino(2), Ino(2)], budget: 8 }).unwrap().count, 0);
    assert!(state.inode(Ino(2)).unwrap().is_none());
    state.run(Command::SealBlob { blob: BlobId(1), len: 10 }).unwrap();
    state.run(Command::DropBlob { blob: BlobId(1) }).unwrap();
    assert!(state.0.keys().all(|(table, _)| !matches!(table, Table::Blob | Table::BlobRef | Table::Extent)));
    state.check();
}

#[test]
fn a_file_made_without_a_name_may_get_its_first_one_once() {
    let mut state = State::new();
    let unnamed = |ino| Command::CreateUnnamed {
        parent: Ino(1),
        ino: Ino(ino),
        mode: 0o666,
        umask: 0o22,
        uid: 1,
        gid: 2,
        now: at(1),
    };
    let link = |name| Command::Link { ino: Ino(2), parent: Ino(1), name: small(name), now: at(1) };
    let outcome = state.run(unnamed(2)).unwrap();
    assert!(outcome.removed.unwrap().orphaned);
    assert_eq!((state.node(2).nlink, state.node(2).mode), (0, 0o644));
    state.check();
    assert_eq!(state.run(unnamed(2)), Err(Error::Conflict));
    state.run(link("f")).unwrap();
    assert_eq!(state.node(2).nlink, 1);
    assert_eq!(state.run(Command::Reap { inos: vec![Ino(2)], budget: 8 }).unwrap().count, 0);
    assert_eq!(state.find(1, "f"), Some(2), "it is no orphan any more");
    state.check();
    state.unlink(1, "f", true).unwrap();
    assert_eq!(state.run(link("g")), Err(Error::NotFound), "it had a name");
    state.run(unnamed(3)).unwrap();
    assert_eq!(state.run(Command::Reap { inos: vec![Ino(2), Ino(3)], budget: 8 }).unwrap().count, 0);
    assert!(state.inode(Ino(3)).unwrap().is_none());
    state.check();
}
