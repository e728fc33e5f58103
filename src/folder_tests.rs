//! Tests of [`super`]: making, locking, refusing.

use super::*;

#[test]
fn a_volume_is_made_finished_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    assert_eq!(DataFolder::inspect(&path).unwrap(), Found::Nothing);
    let mut folder = DataFolder::open_or_make(&path, Drivers::default()).unwrap();
    let identity = folder.identity().clone();
    assert!(!folder.is_finished());
    assert_eq!(DataFolder::inspect(&path).unwrap(), Found::Unfinished(identity.clone()));
    folder.finish().unwrap();
    drop(folder);
    assert_eq!(DataFolder::inspect(&path).unwrap(), Found::Volume(identity.clone()));
    let again = DataFolder::open(&path).unwrap();
    assert!(again.is_finished());
    assert_eq!(again.identity(), &identity);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_making_that_was_cut_short_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let first = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap().identity().clone();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    let again = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap();
    assert_eq!(again.identity(), &first);
    assert!(!again.is_finished());
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap();
    let mount = PathBuf::from(OsString::from_vec(b"/mnt/a\nb\\ \xff".to_vec()));
    folder.note_mounts(std::slice::from_ref(&mount)).unwrap();
    match DataFolder::open_or_make(dir.path(), Drivers::default()) {
        Err(Error::InUse { pid, mounts, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert_eq!(mounts, vec![mount.clone()]);
        }
        other => panic!("{other:?}"),
    }
    let holder = DataFolder::holder(dir.path()).unwrap().unwrap();
    assert_eq!(holder.mounts, vec![mount]);
    drop(folder);
    assert_eq!(DataFolder::holder(dir.path()).unwrap(), None);
}

#[test]
fn a_folder_of_other_things_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap_err();
    assert!(matches!(&error, Error::NotAVolume { found, .. } if found == "letter.txt"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn other_versions_and_damage_are_refused_and_left_alone() {
    let good = format_text(&Identity { id: [7; 16], writer: 9, drivers: Drivers::default(), cloud: None });
    let cases: [(&str, String, &str); 9] = [
        ("newer", good.replace("format 1", "format 2"), "volume format \"2\""),
        ("no number", good.replace("format 1", "format one"), "volume format \"one\""),
        ("empty", String::new(), "does not begin"),
        ("cut in the id", good.get(..40).unwrap().to_owned(), "an id that is none"),
        ("cut after the id", good.get(..63).unwrap().to_owned(), "no writer line"),
        ("cut at the end", good.trim_end().to_owned(), "does not end"),
        ("writer too large", good.replace("writer 9", "writer 16777216"), "writer id out of range"),
        ("unknown driver", good.replace("redb", "sled"), "\"sled\" is no metastore"),
        ("more", format!("{good}more\n"), "does not end"),
    ];
    for (case, text, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FORMAT), &text).unwrap();
        let error = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{case}: {error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{case}: nothing may be added");
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT)).unwrap(), text, "{case}");
    }
}

#[test]
fn a_volume_keeps_the_drivers_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap());
    let memory = Drivers { metastore: MetastoreKind::Memory, ..Drivers::default() };
    let error = DataFolder::open_or_make(dir.path(), memory).unwrap_err().to_string();
    assert!(error.contains("made with metastore redb") && error.contains("not metastore memory"), "{error}");
    assert_eq!(DataFolder::open(dir.path()).unwrap().identity().drivers, Drivers::default());
}

#[test]
fn opening_needs_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(DataFolder::open(dir.path()), Err(Error::NoVolume(_))));
    assert!(matches!(DataFolder::open(&dir.path().join("none")), Err(Error::NoVolume(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_volume_knows_where_in_the_cloud_its_content_is() {
    let key = crate::coding::KeyUse { source: "command:pass show x".parse().unwrap(), mark: "00ff".to_owned() };
    let coding = crate::coding::Coding { compression: crate::coding::Compression::Zstd(3), key: Some(key) };
    let place = |url: &str| CloudPlace {
        coding: Default::default(),
        url: url.parse().unwrap(),
        endpoint: Some("http://127.0.0.1:9000".to_owned()),
        region: Some("eu-west-1".to_owned()),
        credentials: None,
    };
    let cloud = Drivers { object_store: ObjectStoreKind::Cloud, ..Drivers::default() };
    for place in [
        place("s3://b/p"),
        CloudPlace { endpoint: None, ..place("gs://b") },
        CloudPlace { coding: coding.clone(), ..place("s3://b/coded") },
        CloudPlace { endpoint: None, region: None, coding, ..place("s3://b/coded") },
        CloudPlace { region: None, ..place("az://b/x/y") },
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open_or_make_with(dir.path(), cloud, Some(place.clone())).unwrap());
        // Nobody has to say it again, but nobody may say something else.
        let again = DataFolder::open_or_make(dir.path(), Drivers::default()).unwrap();
        assert_eq!(again.identity().cloud.as_ref(), Some(&place));
        drop(again);
        let other = CloudPlace { url: "s3://other".parse().unwrap(), ..place };
        let refused = DataFolder::open_or_make_with(dir.path(), cloud, Some(other)).unwrap_err().to_string();
        assert!(refused.contains("s3://other") && refused.contains("leave the drivers"), "{refused}");
        let memory = Drivers { object_store: ObjectStoreKind::Memory, ..Drivers::default() };
        assert!(DataFolder::open_or_make(dir.path(), memory).is_err());
    }
    let local = tempfile::tempdir().unwrap();
    drop(DataFolder::open_or_make(local.path(), Drivers::default()).unwrap());
    assert!(DataFolder::open_or_make_with(local.path(), cloud, Some(place("s3://b"))).is_err());
}

#[test]
fn a_damaged_place_in_the_cloud_is_refused() {
    let path = Path::new("/v");
    let good = "nexus volume format 1\nid 07070707-0707-0707-0707-070707070707\nwriter 9\nmetastore redb\n\
                object_store cloud\nstore s3://b/p\nregion x\n";
    assert!(parse_format(path, good.as_bytes()).is_ok());
    for bad in [
        good.replace("store s3://b/p\n", ""),
        good.replace("s3://b/p", "s3:/b"),
        good.replace("region x\n", "region x\nregion y\n"),
        good.replace("region x\n", "endpoint http://user:secret@host\n"),
        good.replace("object_store cloud", "object_store local"),
    ] {
        assert!(matches!(parse_format(path, bad.as_bytes()), Err(Error::Damaged { .. })), "{bad}");
    }
}
