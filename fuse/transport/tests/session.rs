//! Sessions on real kernel mounts, over each transport that the machine has: what a handler is
//! promised holds when the kernel itself asks. Needs root and /dev/fuse; without them nothing
//! is tested, and a line says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside their functions")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread;

use common::{BIG, Mount, each_transport};

#[test]
fn a_request_that_blocks_holds_nobody_up() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let readers: Vec<_> = (0..20)
            .map(|n| {
                let path = mount.path(&format!("slow-{n}"));
                thread::spawn(move || fs::read(path).unwrap())
            })
            .collect();
        mount.state().wait_for(|state| state.blocked == 20);
        for _ in 0..50 {
            assert_eq!(fs::read(mount.path("plain")).unwrap(), b"first");
            assert_eq!(fs::metadata(mount.path("dir")).unwrap().len(), 0);
        }
        mount.state().release();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), b"slow");
        }
    });
}

#[test]
fn what_the_kernel_keeps_goes_when_it_is_told() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let read = || fs::read_to_string(mount.path("plain")).unwrap();
        assert_eq!(read(), "first");
        mount.state().change(|state| state.plain = b"other".to_vec());
        assert_eq!(read(), "first", "kept, or this test shows nothing");
        assert!(mount.notifier().inode_changed(common::PLAIN, 0, 0).unwrap());
        assert_eq!(read(), "other");
        let lookups = || mount.state().get(|state| state.lookups);
        let before = lookups();
        fs::metadata(mount.path("plain")).unwrap();
        assert_eq!(lookups(), before, "kept");
        mount.notifier().entry_expired(1, b"plain").unwrap();
        fs::metadata(mount.path("plain")).unwrap();
        assert_eq!(lookups(), before + 1, "asked again");
        mount.notifier().entry_changed(1, b"plain").unwrap();
        fs::metadata(mount.path("plain")).unwrap();
        assert_eq!(lookups(), before + 2);
        mount.notifier().entry_changed(1, b"never heard of").unwrap();
        assert!(!mount.notifier().inode_changed(12_345, -1, 0).unwrap(), "one that the kernel does not have");
        mount.notifier().deleted(1, common::PLAIN, b"plain").unwrap();
        let ran_over = mount.notifier().entry_changed(1, &[b'x'; 300]).unwrap_err();
        assert_eq!(ran_over.kind(), std::io::ErrorKind::InvalidInput);
    });
}

/// Whoever changes a directory holds its lock until the answer comes. A thread that waited for that lock
/// could not be killed, and the daemon with it.
#[test]
fn the_kernel_lets_go_of_a_node_while_its_directory_is_locked() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        fs::metadata(mount.path("plain")).unwrap();
        let path = mount.path("slow-0");
        let unlinks = thread::spawn(move || fs::remove_file(path));
        mount.state().wait_for(|state| state.blocked == 1);
        if mount.notifier().unneeded(common::PLAIN).unwrap() {
            let state = mount.state().wait_for(|state| state.forgotten.contains_key(&common::PLAIN));
            assert_eq!(state.blocked, 1, "the directory was locked all the time");
        } else {
            println!("this kernel can't be asked to let go of a node");
        }
        assert!(mount.notifier().unneeded(12_345).is_ok(), "one that the kernel does not know");
        mount.state().release();
        unlinks.join().unwrap().unwrap();
    });
}

#[test]
fn a_signal_reaches_the_handler_that_works_for_its_process() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let mut reader = Command::new("cat").arg(mount.path("slow-direct")).stdout(Stdio::piped()).spawn().unwrap();
        mount.state().wait_for(|state| state.blocked == 1);
        rustix::process::kill_process(rustix::process::Pid::from_child(&reader), rustix::process::Signal::INT).unwrap();
        let asked = mount.state().wait_for(|state| state.interrupted.first().copied().is_some());
        assert_eq!(asked.interrupted, asked.blocked_requests, "the number of the very request");
        assert!(!reader.wait().unwrap().success());
    });
}

#[test]
fn the_largest_transfers_arrive_whole() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let bytes: Vec<u8> = (0..BIG).map(|n| (n * 7 % 251) as u8).collect();
        let file = OpenOptions::new().read(true).write(true).open(mount.path("direct")).unwrap();
        for (offset, len) in [(0, BIG), (1, BIG - 1), (4096, 1 << 20), (5, 3)] {
            file.write_all_at(&bytes[..len], offset as u64).unwrap();
            let mut back = vec![0; len];
            file.read_exact_at(&mut back, offset as u64).unwrap();
            assert!(back == bytes[..len], "{len} bytes at {offset}");
        }
        assert!(mount.state().get(|state| state.largest_write) >= 1 << 20, "one request carried 1 MiB");
    });
}

#[test]
fn locks_tell_which_call_they_came_from() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let file = File::open(mount.path("plain")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
        assert_eq!(mount.state().get(|state| state.locks.clone()), [true]);
        // fcntl(2), by a program that is everywhere.
        let script = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'r+b'), fcntl.LOCK_EX)";
        let python = Command::new("python3").args(["-c", script]).arg(mount.path("plain")).status().unwrap();
        assert!(python.success());
        assert_eq!(mount.state().get(|state| state.locks.get(1).copied()), Some(false));
    });
}

#[test]
fn an_abort_ends_everything_and_blames_nobody() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let path = mount.path("slow-direct");
        let reader = thread::spawn(move || File::open(path).and_then(|mut file| file.read_to_end(&mut Vec::new())));
        mount.state().wait_for(|state| state.blocked == 1);
        mount.abort();
        assert!(reader.join().unwrap().is_err());
        assert!(fs::metadata(mount.path("plain")).is_err());
        mount.state().release();
        assert_eq!(mount.session().wait(), Ok(()));
        assert!(!mount.session().is_served());
    });
}

#[test]
fn a_lazy_unmount_under_load_ends_with_the_last_user() {
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let mut file = OpenOptions::new().write(true).open(mount.path("direct")).unwrap();
        mount.detach();
        file.write_all(&[1; 5000]).unwrap();
        assert!(mount.session().is_served());
        drop(file);
        assert_eq!(mount.session().wait(), Ok(()));
    });
}

#[test]
fn birth_times_and_holds_are_told_exactly() {
    use std::os::linux::fs::MetadataExt;
    each_transport(|transport| {
        let mount = Mount::new(transport);
        let stat = fs::metadata(mount.path("plain")).unwrap();
        let born = stat.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!((born.as_secs(), born.subsec_nanos()), (1_000_000_007, 5));
        assert_eq!(stat.st_atime(), -77);
        for _ in 0..3 {
            fs::metadata(mount.path("plain")).unwrap();
        }
        assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 2);
        mount.unmount();
        assert_eq!(mount.session().wait(), Ok(()));
        // Unmounting lets go of all: the kernel need not tell, but what it tells must not exceed.
        mount.state().get(|state| {
            for (node, forgotten) in &state.forgotten {
                assert!(*forgotten <= state.told.get(node).copied().unwrap_or(0), "node {node}");
            }
        });
    });
}
