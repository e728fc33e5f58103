//! A daemon's life: started, used, ended in every way there is, started again.

use std::fs;
use std::io::Read;

use rustix::process::{Pid, Signal};

use super::sandbox::{Ended, Sandbox, mounts, wait_for};

#[test]
fn a_volume_is_made_mounted_used_and_found_again() {
    let sandbox = Sandbox::new();
    let said = sandbox.ok(&["mount", "a/new/m", "--data", "d"]);
    let point = sandbox.at("a/new/m");
    for part in ["mounted at ", "data lies in ", "(a new volume)", "nexus-fuse umount "] {
        assert!(said.contains(part), "{said}");
    }
    assert!(said.contains(&*point.to_string_lossy()) && said.contains(&*sandbox.at("d").to_string_lossy()), "{said}");
    fs::create_dir(point.join("sub")).unwrap();
    fs::write(point.join("sub/file"), "content").unwrap();
    assert!(sandbox.ok(&["umount", "a/new/m"]).is_empty());
    assert!(!sandbox.is_mounted("a/new/m"));
    assert_eq!(sandbox.pid("d"), None, "umount waits for the daemon");
    let said = sandbox.ok(&["mount", "a/new/m", "--data", "d"]);
    assert!(!said.contains("new volume"), "{said}");
    assert_eq!(fs::read_to_string(point.join("sub/file")).unwrap(), "content");
    sandbox.ok(&["umount", "a/new/m"]);
}

#[test]
fn unmounting_and_mounting_again_works_at_once() {
    let sandbox = Sandbox::new();
    for round in 0..5 {
        sandbox.ok(&["mount", "m", "--data", "d"]);
        assert_eq!(fs::read_dir(sandbox.at("m")).unwrap().count(), round);
        fs::write(sandbox.at("m").join(round.to_string()), "x").unwrap();
        if round % 2 == 0 {
            sandbox.ok(&["umount", "m"]);
        } else {
            // Without the program's own waiting, the next mount has to wait.
            assert_eq!(sandbox.script("umount \"$BOX/m\"").status, 0);
        }
    }
}

#[test]
fn in_front_it_tells_and_ends_with_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let sandbox = Sandbox::new();
        let mut child = sandbox.start(&["mount", "-f", "m", "--data", "d"]);
        wait_for("the mount", || sandbox.is_mounted("m"));
        // Once it has said so, it takes signals.
        let mut said = vec![0; 10];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(said, b"mounted at");
        fs::write(sandbox.at("m/file"), "x").unwrap();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(!sandbox.is_mounted("m"));
        assert!(ended.err.contains("the daemon ends"), "{ended:?}");
    }
}

#[test]
fn a_signal_ends_it_even_while_files_are_open() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    let pid = sandbox.pid("d").unwrap();
    fs::write(sandbox.at("m/file"), "kept").unwrap();
    let open = fs::File::open(sandbox.at("m/file")).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    wait_for("the daemon's end", || sandbox.pid("d").is_none());
    assert!(!sandbox.is_mounted("m"));
    drop(open);
    sandbox.ok(&["mount", "m", "--data", "d"]);
    assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "kept");
}

#[test]
fn what_was_acknowledged_survives_a_crash_and_the_dead_mount_is_cleared() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    for number in 0..200 {
        fs::write(sandbox.at("m").join(format!("file {number}")), format!("content {number}")).unwrap();
    }
    sandbox.crash("d");
    let status = sandbox.run(&["status", "m"]);
    assert_eq!(status.status, 1, "{status:?}");
    assert!(status.out.contains("NOT WELL"), "{status:?}");
    sandbox.ok(&["umount", "m"]);
    assert!(!sandbox.is_mounted("m"), "a dead mount can be unmounted");
    sandbox.ok(&["mount", "m", "--data", "d"]);
    sandbox.crash("d");
    let said = sandbox.ok(&["mount", "m", "--data", "d"]);
    assert!(said.contains("a dead daemon's mount was cleared away"), "{said}");
    let here = mounts().into_iter().filter(|(target, _, _)| *target == sandbox.at("m")).count();
    assert_eq!(here, 1);
    for number in 0..200 {
        let text = fs::read_to_string(sandbox.at("m").join(format!("file {number}"))).unwrap();
        assert_eq!(text, format!("content {number}"));
    }
    sandbox.ok(&["umount", "m"]);
    sandbox.ok(&["fsck", "--deep", "./d"]);
}

#[test]
fn a_busy_mount_stays_unless_it_is_detached() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    fs::write(sandbox.at("m/file"), "x").unwrap();
    let open = fs::File::open(sandbox.at("m/file")).unwrap();
    sandbox.run(&["umount", "m"]).failed(1, &["in use", "--lazy"]);
    assert!(sandbox.is_mounted("m"));
    sandbox.ok(&["umount", "--lazy", "m"]);
    assert!(!sandbox.is_mounted("m"));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "x", "who has it open reads on");
    drop(open);
    wait_for("the daemon's end", || sandbox.pid("d").is_none());
}

#[test]
fn several_volumes_are_mounted_at_once() {
    let sandbox = Sandbox::new();
    for name in ["1", "2", "3"] {
        sandbox.ok(&["mount", &format!("m{name}"), "--data", &format!("d{name}")]);
        fs::write(sandbox.at(&format!("m{name}/own")), name).unwrap();
    }
    let status = sandbox.run(&["status"]).out;
    for name in ["1", "2", "3"] {
        assert!(status.contains(&format!("{}: healthy", sandbox.at(&format!("m{name}")).display())), "{status}");
        assert_eq!(fs::read_to_string(sandbox.at(&format!("m{name}/own"))).unwrap(), name);
    }
}

#[test]
fn a_throwaway_volume_begins_empty_each_time() {
    for (variable, value) in [("NEXUS_METASTORE", "memory"), ("NEXUS_OBJECT_STORE", "memory")] {
        let sandbox = Sandbox::new();
        for _ in 0..2 {
            let mut command = sandbox.command(super::sandbox::PROGRAM);
            command.args(["mount", "m", "--data", "d"]).env(variable, value);
            let ended = Ended::of(command.output().unwrap());
            assert_eq!(ended.status, 0, "{ended:?}");
            assert!(ended.out.contains("gone once it is unmounted"), "{ended:?}");
            assert_eq!(fs::read_dir(sandbox.at("m")).unwrap().count(), 0, "{variable}");
            fs::write(sandbox.at("m/file"), "x").unwrap();
            assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "x");
            sandbox.ok(&["umount", "m"]);
        }
    }
}

#[test]
fn the_log_is_reopened_on_request() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    let log = sandbox.at("d/daemon.log");
    assert!(fs::read_to_string(&log).unwrap().contains("is mounted at"));
    fs::rename(&log, sandbox.at("old.log")).unwrap();
    rustix::process::kill_process(sandbox.pid("d").unwrap(), Signal::HUP).unwrap();
    wait_for("a new log", || log.exists());
    sandbox.ok(&["umount", "m"]);
    assert!(fs::read_to_string(&log).unwrap().contains("the daemon ends"));
}

#[test]
fn a_data_folder_may_have_a_very_long_path() {
    let sandbox = Sandbox::new();
    let data = format!("{}/{}/d", "x".repeat(200), "y".repeat(200));
    sandbox.ok(&["mount", "m", "--data", &data]);
    let status = sandbox.ok(&["status", "m"]);
    assert!(status.contains("healthy"), "{status}");
    sandbox.ok(&["umount", "m"]);
}

#[test]
fn the_daemon_lets_go_of_the_terminal_and_the_folder() {
    let sandbox = Sandbox::new();
    // A pipe that the daemon kept open would keep the reader waiting.
    let ended = sandbox.script("\"$PROGRAM\" mount m --data d 2>&1 | cat");
    assert_eq!(ended.status, 0, "{ended:?}");
    let pid = sandbox.pid("d").unwrap().as_raw_nonzero();
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), std::path::Path::new("/"));
    for fd in 0..3 {
        let leads_nowhere =
            || fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap() == std::path::Path::new("/dev/null");
        wait_for(&format!("descriptor {fd} to be let go"), leads_nowhere);
    }
    let locked = sandbox.script("exec 9>lock; flock 9; \"$PROGRAM\" mount m2 --data d2; exec 9>&-; flock -n lock true");
    assert_eq!(locked.status, 0, "a lock of the caller's is not kept: {locked:?}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string(), "it leads a session of its own");
    assert!(stat.contains("(nexus-fuse)"), "{stat}");
}
