//! Metadata by path.

use super::*;
use crate::command::{AttrChange, XattrMode};
use crate::error::Error;
use crate::fs::XattrFlags;
use crate::protocol::{FileMetadataProtocol, LastLink, MAX_LINKS_FOLLOWED};

fn link(rig: &Rig, parent: NodeId, name: &str, target: &str) -> NodeId {
    rig.make(parent, name, NewKind::Symlink(target.into())).unwrap().node
}

#[test]
fn paths_lead_through_directories_and_links() {
    let rig = Rig::plain();
    let a = rig.dir(ROOT, "a");
    let b = rig.dir(a, "b");
    let f = rig.file(b, "f");
    let up = link(&rig, b, "up", "../..");
    link(&rig, ROOT, "abs", "/a/b");
    link(&rig, ROOT, "dangling", "nowhere");
    let resolve = |path: &str| rig.fs.resolve(path.as_bytes(), LastLink::Follow);
    for path in ["", "/", "//", ".", "..", "/../..", "a/..", "/a/b/up", "a/b/up/"] {
        assert_eq!(resolve(path), Ok(ROOT), "{path:?}");
    }
    for path in ["a/b/f", "/a//b/./f", "abs/f", "a/b/up/abs/f", "/abs/up/a/b/../b/f"] {
        assert_eq!(resolve(path), Ok(f), "{path:?}");
    }
    assert_eq!(rig.fs.resolve(b"a/b/up", LastLink::Stay), Ok(up));
    assert_eq!(rig.fs.resolve(b"a/b/up/", LastLink::Stay), Ok(ROOT), "a trailing slash follows");
    assert_eq!(resolve("a/b/f/"), Err(Error::NotDirectory));
    assert_eq!(resolve("a/b/f/x"), Err(Error::NotDirectory));
    assert_eq!(resolve("a/x/f"), Err(Error::NotFound));
    assert_eq!(resolve("dangling"), Err(Error::NotFound));
    assert_eq!(resolve(&"x/".repeat(2049)), Err(Error::NameTooLong));
    let exists = |path: &str| rig.fs.exists(path.as_bytes());
    assert_eq!((exists("dangling"), exists("a/b/f"), exists("a/b/f/x")), (Ok(true), Ok(true), Ok(false)));
}

#[test]
fn loops_of_links_end() {
    let rig = Rig::plain();
    link(&rig, ROOT, "me", "me");
    assert_eq!(rig.fs.stat(b"me", LastLink::Follow), Err(Error::LinkLoop));
    assert_eq!(Error::LinkLoop.errno() as i32, 40);
    let file = rig.file(ROOT, "l0");
    for n in 1..=MAX_LINKS_FOLLOWED + 1 {
        link(&rig, ROOT, &format!("l{n}"), &format!("l{}", n - 1));
    }
    let resolve = |n: usize| rig.fs.resolve(format!("l{n}").as_bytes(), LastLink::Follow);
    assert_eq!(resolve(MAX_LINKS_FOLLOWED), Ok(file));
    assert_eq!(resolve(MAX_LINKS_FOLLOWED + 1), Err(Error::LinkLoop));
}

#[test]
fn metadata_is_read_and_changed_by_path() {
    let rig = Rig::plain();
    let dir = rig.dir(ROOT, "d");
    let names: std::collections::BTreeSet<String> = (0..150).map(|n| format!("f{n}")).collect();
    for name in &names {
        rig.file(dir, name);
    }
    let mut listed = std::collections::BTreeSet::new();
    let mut cookie = 0;
    loop {
        let page = rig.fs.list(b"/d", cookie, 40).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 40);
        cookie = last.cookie;
        for entry in page {
            assert!(entry.attr.is_some());
            assert!(listed.insert(String::from_utf8(entry.name.to_vec()).unwrap()));
        }
    }
    assert_eq!(listed, names);
    let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    assert_eq!(rig.fs.set_attr(b"d/f1", &change).unwrap().inode.mode, 0o600);
    assert_eq!(rig.fs.stat(b"d/f1", LastLink::Follow).unwrap().inode.mode, 0o600);
    link(&rig, ROOT, "l", "d/f1");
    assert_eq!(rig.fs.read_link(b"l").unwrap(), "d/f1");
    let flags = XattrFlags { mode: XattrMode::Create, kill_setgid: false };
    rig.fs.set_xattr(b"l", b"user.a", b"1", flags).unwrap();
    rig.fs.set_xattr(b"l", b"trusted.b", b"", flags).unwrap();
    assert_eq!(rig.fs.get_xattr(b"d/f1", b"user.a").unwrap(), "1");
    assert_eq!(rig.fs.list_xattrs(b"d/f1").unwrap(), [&b"trusted.b"[..], b"user.a"]);
    rig.fs.remove_xattr(b"l", b"user.a").unwrap();
    assert_eq!(rig.fs.get_xattr(b"l", b"user.a"), Err(Error::NoAttribute));
}
