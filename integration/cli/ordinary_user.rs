//! Ordinary users, through fusermount3. /dev/fuse may be root's alone on the machine that runs
//! the tests, so they run in a mount namespace with a /dev of their own.

use super::sandbox::{Ended, Sandbox};

/// Runs `text` as the user "nobody", in the sandbox, with a copy of the program.
pub fn as_nobody(sandbox: &Sandbox, before: &str, text: &str) -> Ended {
    let script = format!(
        r#"
        mkdir dev home
        mknod -m 666 dev/null c 1 3; mknod -m 666 dev/urandom c 1 9; mknod -m 666 dev/fuse c 10 229
        chown 65534:65534 home
        cp "$PROGRAM" nexus-fuse; chmod 755 nexus-fuse
        cat > script <<'END'
cd "$BOX/home"; export HOME="$BOX/home"
alias nexus-fuse="$BOX/nexus-fuse"
{text}
END
        unshare --mount --propagation private sh -euc '
            mount --bind "$BOX/dev" /dev
            {before}
            exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -eu "$BOX/script"
        '
        "#
    );
    sandbox.script(&script)
}

#[test]
fn they_mount_use_and_unmount() {
    let sandbox = Sandbox::new();
    let ended = as_nobody(
        &sandbox,
        "true",
        r#"
        nexus-fuse mount m
        grep " $HOME/m fuse.nexus " /proc/mounts
        echo content > m/file
        test "$(stat -c %u m/file)" = 65534
        nexus-fuse status
        nexus-fuse status m | grep -q healthy
        nexus-fuse umount m
        nexus-fuse mount m --volume default
        cat m/file
        fusermount3 -u m
        nexus-fuse mount m
        nexus-fuse umount m
        nexus-fuse fsck
        "#,
    );
    assert_eq!(ended.status, 0, "{ended:?}");
    for part in [".local/state/nexus/default", "healthy", "content", "no damage"] {
        assert!(ended.out.contains(part), "no {part:?} in {ended:?}");
    }
}

#[test]
fn without_fusermount3_they_are_told() {
    let sandbox = Sandbox::new();
    let hide = "for f in fusermount3 fusermount; do ! test -e /usr/bin/$f || mount --bind /dev/null /usr/bin/$f; done";
    let ended = as_nobody(&sandbox, hide, "PATH=/nowhere; $BOX/nexus-fuse mount m --data d");
    ended.failed(1, &["fusermount3 was not found", "package fuse3"]);
    assert!(!sandbox.at("home/d").exists() && !sandbox.at("home/m").exists(), "nothing may be made");
}

#[test]
fn they_are_not_let_in_where_root_did_not_allow_it() {
    let sandbox = Sandbox::new();
    let ended = as_nobody(
        &sandbox,
        "printf \"\\n\" > $BOX/fuse.conf; ! test -e /etc/fuse.conf || mount --bind $BOX/fuse.conf /etc/fuse.conf",
        "nexus-fuse mount m -o allow_other",
    );
    ended.failed(1, &["user_allow_other", "/etc/fuse.conf"]);
}
