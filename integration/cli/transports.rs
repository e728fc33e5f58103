//! What carries the kernel's requests: chosen, told, refused.

use std::fs;
use std::io::ErrorKind;

use super::ordinary_user::as_nobody;
use super::sandbox::Sandbox;

/// All that can be had on this machine. Nothing is switched on for these tests.
fn transports() -> Vec<&'static str> {
    let is_on = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|state| state.trim() == "Y");
    if !is_on {
        println!("FUSE over io_uring is not on here: only /dev/fuse is tested");
    }
    if is_on { vec!["device", "io_uring"] } else { vec!["device"] }
}

/// What `status` says of the mount `m`.
fn told(sandbox: &Sandbox) -> (String, serde_json::Value) {
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok(&["status", "--json", "m"])).unwrap();
    (sandbox.ok(&["status", "m"]), json[0]["running"]["mounts"][0].clone())
}

#[test]
fn status_tells_what_was_chosen_by_flag_or_option() {
    for transport in transports() {
        let option = format!("transport={transport}");
        for words in [["--transport", transport], ["-o", &option]] {
            let sandbox = Sandbox::new();
            sandbox.ok(&[&["mount", "m", "--data", "d"][..], &words].concat());
            let (text, mount) = told(&sandbox);
            assert!(text.contains(&format!("transport  {transport}")), "{words:?}: {text}");
            assert_eq!(mount["transport"], transport);
            assert_eq!(mount["transport_note"].is_null(), transport == "io_uring", "{mount}");
            fs::write(sandbox.at("m/file"), "x").unwrap();
            assert_eq!(fs::read_to_string(sandbox.at("m/file")).unwrap(), "x");
            sandbox.ok(&["umount", "m"]);
        }
    }
}

#[test]
fn unknown_ones_are_refused() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["mount", "m", "--data", "d", "--transport", "pigeon"])
        .failed(2, &["pigeon", "auto, device or io_uring"]);
    sandbox.run(&["mount", "m", "--data", "d", "--transport", ""]).failed(2, &["--transport"]);
    sandbox
        .run(&["mount", "m", "--data", "d", "-o", "transport=pigeon"])
        .failed(1, &["transport=pigeon", "auto, device or io_uring"]);
    sandbox.run(&["mount", "m", "--data", "d", "-o", "transport"]).failed(1, &["transport=VALUE"]);
    assert!(!sandbox.at("d").exists() && !sandbox.at("m").exists(), "nothing may be made");
}

/// The kernel's switch is one for the whole machine, so here it only seems to be off, or missing.
#[test]
fn io_uring_where_the_kernel_does_not_offer_it_is_refused() {
    let seem = |disguise: &str, words: &str| {
        let sandbox = Sandbox::new();
        let ended = sandbox.script(&format!(
            r#"
            echo N > switch; mkdir empty
            unshare --mount --propagation private sh -euc '
                cd "$BOX"; {disguise}
                exec "$PROGRAM" mount m --data d {words}
            '
            "#
        ));
        (sandbox, ended)
    };
    let parameters = "/sys/module/fuse/parameters";
    if !fs::exists(format!("{parameters}/enable_uring")).unwrap() {
        let sandbox = Sandbox::new();
        sandbox.run(&["mount", "m", "--data", "d", "--transport", "io_uring"]).failed(1, &["Linux 6.14"]);
        return;
    }
    let off = format!("mount --bind switch {parameters}/enable_uring");
    let none = format!("mount --bind empty {parameters}");
    let how = format!("echo Y | sudo tee {parameters}/enable_uring");
    for (disguise, sentence) in [(&off, how.as_str()), (&none, "the kernel has none (Linux 6.14")] {
        for words in ["--transport io_uring", "-o transport=io_uring", "-f --transport io_uring"] {
            let (sandbox, ended) = seem(disguise, words);
            ended.failed(1, &["no FUSE over io_uring", sentence]);
            assert!(!sandbox.at("d").exists() && !sandbox.at("m").exists(), "nothing may be made: {words}");
        }
    }
}

#[test]
fn both_are_remounted_and_neither_is_changed_by_it() {
    for transport in transports() {
        let sandbox = Sandbox::new();
        sandbox.ok(&["mount", "m", "--data", "d", "--transport", transport]);
        let file = sandbox.at("m/file");
        fs::write(&file, "x").unwrap();
        // What mount(8) hands on from fstab names the transport again.
        sandbox.ok(&["mount", "m", "-o", &format!("remount,ro,transport={transport}")]);
        assert_eq!(fs::write(&file, "y").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        sandbox.ok(&["mount", "m", "-o", "remount,rw,transport=auto"]);
        fs::write(&file, "y").unwrap();

        let other = if transport == "device" { "io_uring" } else { "device" };
        let parts = ["can't be changed", transport, "unmount it", &format!("transport={other}")];
        sandbox.run(&["mount", "m", "-o", &format!("remount,ro,transport={other}")]).failed(1, &parts);
        sandbox.run(&["mount", "m", "-o", "remount,ro", "--transport", other]).failed(1, &parts);
        fs::write(&file, "z").expect("a refused remount changes nothing");
        assert_eq!(told(&sandbox).1["transport"], transport);
    }
}

#[test]
fn ordinary_users_have_both() {
    for transport in transports() {
        let sandbox = Sandbox::new();
        let ended = as_nobody(
            &sandbox,
            "true",
            &format!(
                r#"
                nexus-fuse mount m --transport {transport}
                nexus-fuse status m | grep -q 'transport  {transport}'
                cp -r /etc/ld.so.conf.d m/copy
                diff -r /etc/ld.so.conf.d m/copy
                fusermount3 -u m
                nexus-fuse mount m --transport {transport}
                diff -r /etc/ld.so.conf.d m/copy
                nexus-fuse umount m
                nexus-fuse fsck
                "#
            ),
        );
        assert_eq!(ended.status, 0, "{transport}: {ended:?}");
        assert!(ended.out.contains("no damage"), "{ended:?}");
    }
}
