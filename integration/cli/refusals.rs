//! Bad input: each is refused with a clear message and a non-zero exit, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::sandbox::{Ended, PROGRAM, Sandbox};

/// Everything under a folder: modes, and contents of files.
fn picture(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut picture = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            let mut content = Vec::new();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                fs::File::open(entry.path()).unwrap().read_to_end(&mut content).unwrap();
            }
            picture.insert(entry.path(), (metadata.permissions().mode(), content));
        }
    }
    picture
}

/// What differs, by name.
fn changes(before: &BTreeMap<PathBuf, (u32, Vec<u8>)>, after: &BTreeMap<PathBuf, (u32, Vec<u8>)>) -> Vec<PathBuf> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

struct Case {
    name: &'static str,
    /// Shell commands that make the scene.
    scene: &'static str,
    words: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    message: &'static [&'static str],
}

const DEFAULT: Case = Case { name: "", scene: "", words: &["mount", "m", "--data", "d"], env: &[], message: &[] };

#[test]
fn mount_points_and_settings() {
    let cases = [
        Case { name: "a file", scene: "touch m", message: &["m is not a directory"], ..DEFAULT },
        Case {
            name: "below a file",
            scene: "touch f",
            words: &["mount", "f/m", "--data", "d"],
            message: &["f/m can't be made"],
            ..DEFAULT
        },
        Case { name: "not empty", scene: "mkdir m; touch m/x", message: &["m is not empty", "nonempty"], ..DEFAULT },
        Case { name: "a dangling link", scene: "ln -s nowhere m", message: &["can't be made"], ..DEFAULT },
        Case {
            name: "cannot be made",
            words: &["mount", "/proc/nexus", "--data", "d"],
            message: &["/proc/nexus can't be made"],
            ..DEFAULT
        },
        Case {
            name: "data folder cannot be made",
            words: &["mount", "m", "--data", "/proc/nexus"],
            message: &["cannot make the data folder /proc/nexus"],
            ..DEFAULT
        },
        Case {
            name: "data folder is a file",
            scene: "touch d",
            message: &["cannot read the data folder", "/d: Not a directory"],
            ..DEFAULT
        },
        Case {
            name: "foreign folder",
            scene: "mkdir d; echo dear > d/letter",
            message: &["neither empty nor a Nexus volume", "letter"],
            ..DEFAULT
        },
        Case {
            name: "unknown option",
            words: &["mount", "m", "--data", "d", "-o", "ro,frobnicate"],
            message: &["unknown mount option 'frobnicate'"],
            ..DEFAULT
        },
        Case {
            name: "bad option value",
            words: &["mount", "m", "--data", "d", "-o", "uid=joe"],
            message: &["uid=joe", "number"],
            ..DEFAULT
        },
        Case {
            name: "bad size",
            words: &["mount", "m", "--data", "d", "--memory", "lots"],
            message: &["\"lots\" is no size"],
            ..DEFAULT
        },
        Case {
            name: "too little memory",
            words: &["mount", "m", "--data", "d", "--memory", "1M"],
            message: &["1 MiB is too little", "32 MiB"],
            ..DEFAULT
        },
        Case {
            name: "too much cache",
            words: &["mount", "m", "--data", "d", "-o", "memory=64M,cache_size=48M"],
            message: &["48 MiB is too much for caches"],
            ..DEFAULT
        },
        Case {
            name: "two volumes named",
            words: &["mount", "m", "--data", "d", "--volume", "v"],
            message: &["cannot be used with"],
            ..DEFAULT
        },
        Case {
            name: "hidden volume",
            words: &["mount", "m", "--volume", ".v"],
            message: &["does not begin with a dot"],
            ..DEFAULT
        },
        Case {
            name: "unknown metastore",
            env: &[("NEXUS_METASTORE", "sled")],
            message: &["NEXUS_METASTORE", "\"sled\" is no metastore: use redb or memory"],
            ..DEFAULT
        },
        Case {
            name: "unknown object store",
            env: &[("NEXUS_OBJECT_STORE", "tape")],
            message: &["NEXUS_OBJECT_STORE", "use local or memory"],
            ..DEFAULT
        },
        Case {
            name: "unknown key",
            scene: "printf 'memory = \"64M\"\\n\\ncolour = 1\\n' > c.toml",
            words: &["mount", "m", "--data", "d", "--config", "c.toml"],
            message: &["c.toml, line 3", "unknown field `colour`"],
            ..DEFAULT
        },
        Case {
            name: "broken file",
            scene: "printf 'log = \"info\\n' > c.toml",
            words: &["mount", "m", "--data", "d", "--config", "c.toml"],
            message: &["c.toml, line 1"],
            ..DEFAULT
        },
        Case {
            name: "no such file",
            words: &["mount", "m", "--data", "d", "--config", "c.toml"],
            message: &["cannot read the configuration file c.toml"],
            ..DEFAULT
        },
        Case {
            name: "nothing to unmount",
            scene: "mkdir m",
            words: &["umount", "m"],
            message: &["m is not a mount of Nexus"],
            ..DEFAULT
        },
        Case {
            name: "nothing to remount",
            scene: "mkdir m",
            words: &["mount", "m", "-o", "remount,ro"],
            message: &["m is not a mount of Nexus"],
            ..DEFAULT
        },
    ];
    for case in cases {
        let sandbox = Sandbox::new();
        assert_eq!(sandbox.script(case.scene).status, 0, "{}", case.name);
        let before = picture(sandbox.path());
        let mut command = sandbox.command(PROGRAM);
        command.args(case.words).envs(case.env.iter().copied());
        let ended = Ended::of(command.output().unwrap());
        assert!(ended.status == 1 || ended.status == 2, "{}: {ended:?}", case.name);
        ended.failed(ended.status, case.message);
        assert_eq!(changes(&before, &picture(sandbox.path())), Vec::<PathBuf>::new(), "{}", case.name);
    }
}

#[test]
fn what_is_in_use() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    let point = sandbox.at("m").display().to_string();
    let pid = sandbox.pid("d").unwrap().as_raw_nonzero().to_string();
    sandbox.run(&["mount", "m2", "--data", "d"]).failed(1, &["is in use by process", &pid, &point, "umount"]);
    assert!(!sandbox.at("m2").exists());
    sandbox.run(&["mount", "m", "--data", "d2"]).failed(1, &["is mounted on", &point, "already"]);
    assert!(!sandbox.at("d2").exists());
    fs::write(sandbox.at("m/file"), "still served").unwrap();
    // Without a socket nobody can ask the daemon, and nobody else may look.
    fs::remove_file(sandbox.at("d/control.sock")).unwrap();
    sandbox.run(&["fsck", "./d"]).failed(2, &["is in use by process", &pid]);
    sandbox.ok(&["umount", "m"]);
}

/// Harm done to a volume, each of which must be told and left as it is.
type Harm = fn(&Path);

#[test]
fn damage_to_a_volume_at_rest() {
    let cases: [(&str, Harm, &[&str]); 10] = [
        (
            "other version",
            |d| edit(&d.join("FORMAT"), |text| text.replace("format 1", "format 9")),
            &["has volume format \"9\"", "reads format 1"],
        ),
        ("truncated FORMAT", |d| edit(&d.join("FORMAT"), |text| text[..30].to_owned()), &["FORMAT has"]),
        ("empty FORMAT", |d| edit(&d.join("FORMAT"), |_| String::new()), &["FORMAT does not begin"]),
        ("redb gone", |d| fs::remove_file(d.join("meta/root.redb")).unwrap(), &["root.redb is missing"]),
        ("redb cut short", |d| cut(&d.join("meta/root.redb"), 3), &["root.redb"]),
        ("redb emptied", |d| fs::write(d.join("meta/root.redb"), "").unwrap(), &["root.redb"]),
        ("redb header flipped", |d| flip(&d.join("meta/root.redb"), 0), &["root.redb"]),
        ("log gone", |d| fs::remove_dir_all(d.join("log")).unwrap(), &["log"]),
        ("segment gone", |d| fs::remove_file(largest(&d.join("segments"), ".seg")).unwrap(), &["is missing"]),
        ("segment cut short", |d| cut(&largest(&d.join("segments"), ".seg"), 64), &["cut short"]),
    ];
    for (name, harm, message) in cases {
        let sandbox = volume();
        sandbox.ok(&["umount", "m"]);
        fs::remove_dir(sandbox.at("m")).unwrap();
        is_refused(&sandbox, name, harm, message);
    }
}

#[test]
fn damage_to_the_log_after_a_crash() {
    let cases: [(&str, Harm, &[&str]); 3] = [
        ("record flipped", |d| flip(&largest(&d.join("log"), ".log"), 5000), &["log"]),
        ("log cut short", |d| cut(&largest(&d.join("log"), ".log"), 4), &["log"]),
        ("log gone", |d| fs::remove_file(largest(&d.join("log"), ".log")).unwrap(), &["log"]),
    ];
    for (name, harm, message) in cases {
        let sandbox = volume();
        // What is durable, and known to be, so that damage to it can be no torn write.
        for _ in 0..2 {
            let file = fs::File::create(sandbox.at("m/last")).unwrap();
            file.sync_all().unwrap();
        }
        sandbox.crash("d");
        assert_eq!(sandbox.script("umount -l \"$BOX/m\"; rmdir \"$BOX/m\"").status, 0);
        is_refused(&sandbox, name, harm, message);
    }
}

fn is_refused(sandbox: &Sandbox, name: &str, harm: Harm, message: &[&str]) {
    harm(&sandbox.at("d"));
    let before = picture(&sandbox.at("d"));
    let ended = sandbox.run(&["mount", "m", "--data", "d"]);
    assert_eq!(ended.status, 1, "{name}: {ended:?}");
    ended.failed(1, message);
    assert!(!sandbox.is_mounted("m") && !sandbox.at("m").exists(), "{name}");
    let mut changed = changes(&before, &picture(&sandbox.at("d")));
    changed.retain(|path| !is_bookkeeping(name, path));
    assert_eq!(changed, Vec::<PathBuf>::new(), "{name}");
    if name != "other version" {
        let check = sandbox.run(&["fsck", "./d"]);
        assert_eq!(check.status, 1, "{name}: {check:?}");
        assert!(check.out.contains("damage: ") && check.out.contains("DAMAGED"), "{name}: {check:?}");
    }
}

/// What a refusal may touch in a volume: who locked it last, the log of the attempt, and,
/// where the harm is found last, what redb and the log keep for themselves when they open.
fn is_bookkeeping(harm: &str, name: &Path) -> bool {
    let redb = !harm.starts_with("redb") && name.ends_with("root.redb");
    let log = harm.starts_with("segment") && name.parent().is_some_and(|folder| folder.ends_with("log"));
    redb || log || name.ends_with("LOCK") || name.ends_with("daemon.log")
}

#[test]
fn damaged_content_is_found_by_a_deep_check() {
    let sandbox = volume();
    // Sealed content has checksums; the collector seals what it is told to look at.
    fs::write(sandbox.at("m/large"), vec![0x11; 20 << 20]).unwrap();
    sandbox.ok(&["gc", "m"]);
    sandbox.ok(&["umount", "m"]);
    sandbox.ok(&["fsck", "--deep", "./d"]);
    let blob = largest(&sandbox.at("d/blobs"), "");
    flip(&blob, fs::metadata(&blob).unwrap().len() / 2);
    let check = sandbox.run(&["fsck", "--deep", "./d"]);
    assert_eq!(check.status, 1, "{check:?}");
    assert!(check.out.contains("damage: ") && check.out.contains("DAMAGED"), "{check:?}");
}

#[test]
fn other_drivers_than_the_volumes() {
    let sandbox = volume();
    sandbox.ok(&["umount", "m"]);
    let before = picture(&sandbox.at("d"));
    sandbox
        .run(&["mount", "m", "--data", "d", "--metastore", "memory"])
        .failed(1, &["was made with metastore redb and object store local", "not metastore memory"]);
    assert_eq!(changes(&before, &picture(&sandbox.at("d"))), Vec::<PathBuf>::new());
}

#[test]
fn no_fuse_device() {
    let sandbox = Sandbox::new();
    let ended = sandbox.script(
        r#"
        mkdir dev; mknod -m 666 dev/null c 1 3; mknod -m 666 dev/urandom c 1 9
        unshare --mount --propagation private sh -euc 'mount --bind "$BOX/dev" /dev; exec "$PROGRAM" mount m --data d'
        "#,
    );
    ended.failed(1, &["/dev/fuse is missing", "modprobe fuse"]);
    assert!(!sandbox.at("d").exists() && !sandbox.at("m").exists(), "nothing may be made");
}

/// A mounted volume with some files.
fn volume() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    for number in 0..100u8 {
        fs::write(sandbox.at("m").join(number.to_string()), vec![number; 10_000]).unwrap();
    }
    sandbox
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

/// Leaves one part of `parts` of a file.
fn cut(path: &Path, parts: u64) {
    let len = fs::metadata(path).unwrap().size();
    fs::File::options().write(true).open(path).unwrap().set_len(len / parts).unwrap();
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// The largest file with this suffix in a folder, or below it.
fn largest(folder: &Path, suffix: &str) -> PathBuf {
    let files =
        picture(folder).into_iter().filter(|(path, _)| path.is_file() && path.to_string_lossy().ends_with(suffix));
    files.max_by_key(|(path, _)| fs::metadata(path).unwrap().len()).expect("a file to harm").0
}
