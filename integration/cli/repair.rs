//! `fsck --repair`, as a person meets it: a volume that can't be mounted any more can be, and what
//! is lost is named.

use std::fs;

use super::sandbox::Sandbox;

#[test]
fn a_volume_whose_content_is_gone_is_repaired() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["mount", "m", "--data", "d"]);
    fs::write(sandbox.at("m/empty"), "").unwrap();
    fs::write(sandbox.at("m/gone"), vec![1; 100_000]).unwrap();
    sandbox.run(&["fsck", "--repair", "m"]).failed(2, &["unmount it before it is repaired"]);
    sandbox.ok(&["umount", "m"]);
    let said = sandbox.ok(&["fsck", "--repair", "d"]);
    assert!(said.contains("nothing needed a repair") && said.contains("no damage"), "{said}");

    // All content of the one file, wherever it is.
    let find = "find \"$BOX/d/segments\" \"$BOX/d/blobs\" -type f ! -name counter";
    let removed = sandbox.script(&format!("{find} -print -delete"));
    assert_eq!((removed.status, removed.out.lines().count()), (0, 1), "{removed:?}");
    sandbox.run(&["mount", "m", "--data", "d"]).failed(1, &["is missing, though files refer to", "--repair"]);
    assert_eq!(sandbox.run(&["fsck", "d"]).status, 1);
    let dry = sandbox.run(&["fsck", "--repair", "--dry-run", "d"]);
    assert_eq!(dry.status, 1, "{dry:?}");
    assert!(
        dry.out.contains("lost: bytes of /gone would be gone") && dry.out.contains("nothing was changed"),
        "{dry:?}"
    );
    assert_eq!(sandbox.run(&["fsck", "d"]).status, 1, "a dry run has repaired something");

    let repaired = sandbox.run(&["fsck", "--repair", "d"]);
    assert_eq!(repaired.status, 1, "a file has lost bytes: {repaired:?}");
    for part in
        ["repair: /gone: 100000 bytes at 0 are lost", "lost: bytes of /gone are gone", "before-repair-", "no damage"]
    {
        assert!(repaired.out.contains(part), "no {part:?} in {repaired:?}");
    }
    assert!(fs::read_to_string(sandbox.at("d/repair.log")).unwrap().contains("/gone"));
    let again = sandbox.ok(&["fsck", "--deep", "d"]);
    assert!(again.contains("no damage") && again.contains("note: "), "{again}");

    sandbox.ok(&["mount", "m", "--data", "d"]);
    assert_eq!(fs::read(sandbox.at("m/empty")).unwrap(), b"");
    let read = fs::read(sandbox.at("m/gone")).unwrap_err();
    assert_eq!(read.raw_os_error(), Some(5), "{read}");
    assert_eq!(fs::metadata(sandbox.at("m/gone")).unwrap().len(), 100_000);
    fs::write(sandbox.at("m/gone"), "new").unwrap();
    assert_eq!(fs::read(sandbox.at("m/gone")).unwrap(), b"new");
    sandbox.ok(&["umount", "m"]);
    assert!(!sandbox.ok(&["fsck", "d"]).contains("are lost"));
}
