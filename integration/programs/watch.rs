//! inotify: a watcher on the same mount sees what others do there.

use std::fs;
use std::mem::MaybeUninit;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::failure::{Check, ensure};
use crate::lab::Lab;

/// Makes, changes, moves and removes files, and reads what the watcher was told.
pub fn run(lab: &Lab) -> Check {
    let place = lab.place("inotify")?;
    let folder = place.root().join("watched");
    fs::create_dir(&folder)?;
    let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let all = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MOVE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF;
    inotify::add_watch(&watcher, &folder, all)?;

    fs::write(folder.join("a"), "text")?;
    fs::rename(folder.join("a"), folder.join("b"))?;
    fs::hard_link(folder.join("b"), folder.join("c"))?;
    let mut permissions = fs::metadata(folder.join("b"))?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(folder.join("b"), permissions)?;
    fs::remove_file(folder.join("c"))?;
    fs::create_dir(folder.join("d"))?;
    fs::rename(folder.join("b"), place.root().join("outside"))?;
    fs::remove_dir(folder.join("d"))?;
    fs::remove_dir(&folder)?;

    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(&watcher, &mut buffer);
    let mut told = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                told.push((event.events().difference(ReadFlags::ISDIR), name));
            }
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let expected = [
        (ReadFlags::CREATE, "a"),
        (ReadFlags::CLOSE_WRITE, "a"),
        (ReadFlags::MOVED_FROM, "a"),
        (ReadFlags::MOVED_TO, "b"),
        (ReadFlags::CREATE, "c"),
        (ReadFlags::ATTRIB, "b"),
        (ReadFlags::DELETE, "c"),
        (ReadFlags::CREATE, "d"),
        (ReadFlags::MOVED_FROM, "b"),
        (ReadFlags::DELETE, "d"),
        (ReadFlags::DELETE_SELF, ""),
    ];
    let mut at = told.iter();
    for (flag, name) in expected {
        ensure!(
            at.any(|(told, told_name)| told.contains(flag) && told_name == name),
            "the watcher was not told, or not in this order, of {flag:?} {name:?}; it was told {told:?}"
        );
    }
    place.finish()
}
