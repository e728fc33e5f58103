//! The mount helpers: as mount(8) calls them, and through mount(8) and umount(8) themselves.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use super::sandbox::{Ended, PROGRAM, Sandbox, mounts};

fn helper(sandbox: &Sandbox, words: &[&str]) -> Ended {
    let path = sandbox.at("mount.fuse.nexus");
    if !path.exists() {
        symlink(PROGRAM, &path).unwrap();
    }
    Ended::of(sandbox.command(&path).args(words).output().unwrap())
}

#[test]
fn a_volume_by_path_is_mounted_remounted_and_shown() {
    let sandbox = Sandbox::new();
    let data = sandbox.at("vol");
    let data = data.to_str().unwrap();
    let mounted = helper(&sandbox, &[data, "m", "-o", "rw,noatime,user=joe,x-systemd.automount"]);
    assert_eq!((mounted.status, mounted.out.as_str()), (0, ""), "{mounted:?}");
    let shown = mounts().into_iter().find(|(target, _, _)| *target == sandbox.at("m")).unwrap();
    assert_eq!((shown.1.as_str(), shown.2.as_str()), ("fuse.nexus", data));
    fs::write(sandbox.at("m/file"), "x").unwrap();

    assert_eq!(helper(&sandbox, &[data, "m", "-o", "remount,ro"]).status, 0);
    let error = fs::write(sandbox.at("m/file"), "y").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(sandbox.ok(&["status", "m"]).contains("read-only"));
    assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "x");

    assert_eq!(helper(&sandbox, &[data, "m", "-o", "remount,rw"]).status, 0);
    fs::write(sandbox.at("m/file"), "y").unwrap();
    assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "y");
    assert!(!sandbox.ok(&["status", "m"]).contains("read-only"));
}

#[test]
fn access_times_follow_a_remount() {
    let sandbox = Sandbox::new();
    let data = sandbox.at("vol");
    let data = data.to_str().unwrap();
    assert_eq!(helper(&sandbox, &[data, "m", "-o", "noatime"]).status, 0);
    let file = sandbox.at("m/file");
    fs::write(&file, "x").unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let times = fs::FileTimes::new().set_accessed(long_ago);
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().accessed().unwrap(), long_ago);
    assert_eq!(helper(&sandbox, &[data, "m", "-o", "remount,relatime"]).status, 0);
    // The kernel keeps the page, so only a read that gets to the daemon is noted.
    fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    fs::write(&file, "y").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    sandbox.script("echo 2 > /proc/sys/vm/drop_caches");
    fs::read(&file).unwrap();
    sandbox.script("echo 2 > /proc/sys/vm/drop_caches");
    assert!(fs::metadata(&file).unwrap().accessed().unwrap() > long_ago);
}

#[test]
fn wrong_calls_are_refused() {
    let sandbox = Sandbox::new();
    helper(&sandbox, &["only-one"]).failed(1, &["usage: mount.fuse.nexus NAME DIR"]);
    helper(&sandbox, &["./v", "m", "-o", "frobnicate"]).failed(32, &["unknown mount option 'frobnicate'"]);
    helper(&sandbox, &["./v", "m", "-o", "remount,ro"]).failed(32, &["not a mount of Nexus"]);
    assert!(!sandbox.at("v").exists() && !sandbox.at("m").exists(), "nothing may be made");
    assert_eq!(helper(&sandbox, &["./v", "m", "-f", "-o", "ro"]).status, 0, "a fake mount");
    assert!(!sandbox.at("v").exists() && !sandbox.at("m").exists(), "nothing may be made");
    let sloppy = helper(&sandbox, &["./v", "m", "-s", "-v", "-o", "frobnicate,noexec"]);
    assert_eq!(sloppy.status, 0, "{sloppy:?}");
    assert!(sloppy.out.contains("mounted at"), "{sloppy:?}");
}

#[test]
fn options_can_name_folder_and_memory() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "-o", &format!("data={},memory=48M,cache_size=8M,subdir=/", sandbox.at("d").display())]);
    assert!(sandbox.ok(&["status", "m"]).contains("limit 48 MiB"));
    fs::create_dir_all(sandbox.at("m/a/b")).unwrap();
    fs::write(sandbox.at("m/a/b/file"), "x").unwrap();
    sandbox.ok(&["umount", "m"]);
    sandbox.ok(&["mount", "m", "--data", "d", "-o", "subdir=/a/b"]);
    assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "x");
    sandbox.ok(&["umount", "m"]);
    sandbox.run(&["mount", "m", "--data", "d", "-o", "subdir=/a/none"]).failed(1, &["subdir=/a/none"]);
    assert!(!sandbox.is_mounted("m"));
}

/// In a mount namespace of its own, with the helpers laid over /usr/sbin and an fstab of its own.
#[test]
fn mount_8_and_fstab_find_the_helper() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.at("over/up")).unwrap();
    fs::create_dir_all(sandbox.at("over/work")).unwrap();
    fs::create_dir(sandbox.at("m")).unwrap();
    let ended = sandbox.script(
        r#"
        unshare --mount --propagation private sh -euc '
            mount -t tmpfs none "$BOX/over"
            mkdir "$BOX/over/up" "$BOX/over/work"
            sbin=$(readlink -f /sbin)
            mount -t overlay none -o "lowerdir=$sbin,upperdir=$BOX/over/up,workdir=$BOX/over/work" "$sbin"
            ln -sf "$PROGRAM" /sbin/mount.fuse.nexus
            ln -sf "$PROGRAM" /sbin/umount.fuse.nexus
            printf "%s %s fuse.nexus noatime,nofail 0 0\n" "$BOX/vol" "$BOX/m" > "$BOX/fstab"
            mount --bind "$BOX/fstab" /etc/fstab
            mount "$BOX/m"
            grep " $BOX/m fuse.nexus " /proc/mounts
            echo kept > "$BOX/m/file"
            umount "$BOX/m"
            mount -t fuse.nexus "$BOX/vol" "$BOX/m" -o ro
            cat "$BOX/m/file"
            ! touch "$BOX/m/file" 2>/dev/null
            mount -o remount,rw "$BOX/m"
            touch "$BOX/m/file"
            mount -o remount,ro "$BOX/m"
            ! touch "$BOX/m/file" 2>/dev/null
            umount "$BOX/m"
            mount "$BOX/m"
            touch "$BOX/m/file"
            umount -l "$BOX/m"
        '
        "#,
    );
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.out.contains("kept"), "{ended:?}");
}
