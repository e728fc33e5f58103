//! The commands that look and tell: status, fsck, gc, completions, man.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::sandbox::Sandbox;

#[test]
fn status_tells_sizes_as_text_and_json() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d", "--memory", "64M", "-o", "noatime"]);
    fs::write(sandbox.at("m/file"), vec![7; 1 << 20]).unwrap();
    let text = sandbox.ok(&["status", "m"]);
    for part in ["healthy", "limit 64 MiB", "redb", "local", "2 inodes, 1 MiB of files", "options: noatime"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok(&["status", "--json", "m"])).unwrap();
    let running = &json[0]["running"];
    assert_eq!(running["health"]["ok"], true);
    assert_eq!(running["memory_limit_bytes"], 64 << 20);
    assert_eq!(running["zones"][0]["inodes"], 2);
    assert_eq!(running["zones"][0]["content_bytes"], 1 << 20);
    assert_eq!(running["mounts"][0]["target"], sandbox.at("m").to_str().unwrap());
    assert_eq!(running["data"], sandbox.at("d").to_str().unwrap());
    assert_eq!(running["pid"], sandbox.pid("d").unwrap().as_raw_nonzero().get());
    let socket = fs::metadata(sandbox.at("d/control.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    sandbox.ok(&["umount", "m"]);
    let text = sandbox.ok(&["status", "./d"]);
    assert!(text.contains("not mounted"), "{text}");
    sandbox.run(&["status", "nothing/here"]).failed(1, &["neither a mount point of Nexus nor a volume"]);
}

#[test]
fn fsck_looks_at_volumes_in_use_and_not() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    for number in 0..50 {
        fs::write(sandbox.at("m").join(number.to_string()), vec![number; 100_000]).unwrap();
    }
    for words in [vec!["fsck", "m"], vec!["fsck", "--deep", "m"], vec!["fsck", "./d"]] {
        let said = sandbox.ok(&words);
        assert!(said.contains("no damage") && said.contains("51 inodes"), "{words:?}: {said}");
    }
    sandbox.ok(&["umount", "m"]);
    for words in [vec!["fsck", "./d"], vec!["fsck", "--deep", "./d"]] {
        let said = sandbox.ok(&words);
        assert!(said.contains("no damage") && said.contains("51 inodes"), "{words:?}: {said}");
    }
    sandbox.run(&["fsck", "./nothing"]).failed(2, &["neither a mount point of Nexus nor a volume"]);
    fs::create_dir(sandbox.at("other")).unwrap();
    fs::write(sandbox.at("other/letter"), "dear").unwrap();
    sandbox.run(&["fsck", "./other"]).failed(2, &["letter"]);
}

#[test]
fn gc_gives_space_back() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    for number in 0..20u8 {
        fs::write(sandbox.at("m").join(number.to_string()), vec![number; 1 << 20]).unwrap();
    }
    let full = content_bytes(&sandbox);
    assert!(full >= 20 << 20, "{full}");
    for number in 0..20u8 {
        fs::remove_file(sandbox.at("m").join(number.to_string())).unwrap();
    }
    let said = sandbox.ok(&["gc", "m"]);
    assert!(said.contains("given back"), "{said}");
    let left = content_bytes(&sandbox);
    assert!(left < 4 << 20, "{left} bytes are left; gc said {said}");
    sandbox.ok(&["umount", "m"]);
    sandbox.run(&["gc", "./d"]).failed(1, &["not mounted"]);
}

/// Bytes that content takes on disk.
fn content_bytes(sandbox: &Sandbox) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut folders: Vec<PathBuf> = vec![sandbox.at("d/segments"), sandbox.at("d/blobs")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => bytes += metadata.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

#[test]
fn pages_and_completions_cover_every_command() {
    let sandbox = Sandbox::new();
    let commands = ["mount", "umount", "status", "fsck", "gc", "completions", "man"];
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.ok(&["completions", shell]);
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    assert!(sandbox.ok(&["man"]).contains(".TH nexus-fuse"));
    sandbox.ok(&["man", "--out", "pages"]);
    for command in commands {
        let page = fs::read_to_string(sandbox.at(&format!("pages/nexus-fuse-{command}.1"))).unwrap();
        assert!(page.contains("Examples"), "{command}");
    }
    assert!(fs::read_to_string(sandbox.at("pages/nexus-fuse-mount.1")).unwrap().contains("memory"));
}

#[test]
fn help_and_version_are_there() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&["--version"]).starts_with("nexus-fuse "));
    assert!(sandbox.ok(&["mount", "--help"]).contains("fuse.nexus"));
    sandbox.run(&["mount"]).failed(2, &["required"]);
    sandbox.run(&["frobnicate"]).failed(2, &["frobnicate"]);
}
