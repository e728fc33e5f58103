//! Tests of [`super`]: which source wins, and what is said about bad values.

use super::*;

fn root() -> Surroundings {
    Surroundings { root: true, ..Surroundings::default() }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn flags_beat_the_file_and_the_file_beats_the_environment() {
    let environment = Settings::from_environment(|name| match name {
        "NEXUS_METASTORE" | "NEXUS_OBJECT_STORE" => Some("memory".into()),
        "NEXUS_MEMORY" => Some("64M".into()),
        "NEXUS_OPTIONS" => Some("ro".into()),
        "NEXUS_LOG" => Some(OsString::new()),
        _ => None,
    })
    .unwrap();
    let (_dir, path) = file("object_store = 'local'\nmemory = \"128M\"\nlog = 'debug'\noptions = 'noatime'\n");
    let flags = Settings { memory: Some(ByteSize(1 << 30)), ..Settings::default() };
    let config = environment.under(Settings::from_file(&path).unwrap()).under(flags).decide(&root()).unwrap();
    assert_eq!(
        config,
        Config {
            data: "/var/lib/nexus/default".into(),
            drivers: Drivers { metastore: MetastoreKind::Memory, object_store: ObjectStoreKind::Local },
            cloud: None,
            endpoint: None,
            region: None,
            volatile: false,
            store_cache: DEFAULT_STORE_CACHE,
            store_compression: None,
            store_key: None,
            store_fsync: nexus_kernel::model::FsyncLevel::Store,
            store_limits: LimitsChange::default(),
            memory: 1 << 30,
            cache: None,
            log: log::LevelFilter::Debug,
            options: "ro,noatime".to_owned(),
        }
    );
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("unknown key", "memory = 67108864\n\ncolour = 'red'\n", &["line 3", "unknown field `colour`", "`metastore`"]),
        ("bad metastore", "metastore = 'sled'\n", &["line 1", "\"sled\" is no metastore", "redb or memory"]),
        ("bad object store", "\nobject_store = 's4'\n", &["line 2", "\"s4\" is no object store"]),
        ("bad size", "memory = 'lots'\n", &["line 1", "\"lots\" is no size"]),
        ("negative size", "memory = -1\n", &["line 1", "never negative"]),
        ("bad level", "log = 'loud'\n", &["line 1", "\"loud\" is no log level"]),
        ("wrong type", "data = 7\n", &["line 1", "invalid type"]),
        ("twice", "log = 'info'\nlog = 'info'\n", &["line 2", "duplicate key"]),
        ("no toml", "data = \"/srv\n", &["line 1"]),
    ];
    for (case, text, expected) in cases {
        let (_dir, path) = file(text);
        let error = Settings::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("config.toml"), "{case}: {error}");
        assert!(!error.contains('\n'), "{case}: {error}");
        for part in expected {
            assert!(error.contains(part), "{case}: {error}");
        }
    }
}

#[test]
fn a_file_of_bytes_or_of_any_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, b"log = 'info'\ndata = '\xff'\n").unwrap();
    let error = Settings::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("line 2: this is not UTF-8"), "{error}");
    std::fs::write(&path, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    let error = Settings::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("1 MiB"), "{error}");
    let error = Settings::from_file(&dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(error.contains("none.toml"), "{error}");
}

#[test]
fn bad_variables_are_refused_by_name() {
    for (name, value) in
        [("NEXUS_METASTORE", "sled"), ("NEXUS_OBJECT_STORE", "tape"), ("NEXUS_MEMORY", "12X"), ("NEXUS_LOG", "loud")]
    {
        let error = Settings::from_environment(|asked| (asked == name).then(|| value.into())).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains(value), "{error}");
    }
}

#[test]
fn sizes_are_read_and_written_as_people_do() {
    for (text, bytes) in
        [("0", 0), ("1048576", 1 << 20), ("64M", 64 << 20), ("1GiB", 1 << 30), ("3k", 3072), ("2tb", 2 << 40)]
    {
        assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
    }
    for text in ["", "M", "-1", "1.5G", "1 G", "12X", "99999999999T", "18446744073709551616", "１"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (256 << 20, "256 MiB")] {
        assert_eq!(ByteSize(bytes).to_string(), text);
    }
}

#[test]
fn too_little_memory_is_refused() {
    let settings = Settings { memory: Some(ByteSize(1 << 20)), ..Settings::default() };
    let error = settings.decide(&root()).unwrap_err().to_string();
    assert!(error.contains("1 MiB is too little") && error.contains("32 MiB"), "{error}");
}

#[test]
fn too_much_cache_is_refused() {
    let with =
        |cache| Settings { memory: Some(ByteSize(64 << 20)), cache: Some(ByteSize(cache)), ..Settings::default() };
    assert_eq!(with(32 << 20).decide(&root()).unwrap().cache, Some(32 << 20));
    let error = with(33 << 20).decide(&root()).unwrap_err().to_string();
    assert!(error.contains("33 MiB is too much for caches") && error.contains("32 MiB"), "{error}");
}

#[test]
fn volumes_are_found_by_name_or_path() {
    let user = Surroundings { home: Some("/home/ann".into()), ..Surroundings::default() };
    let state = Surroundings { state_home: Some("/state".into()), ..user.clone() };
    assert_eq!(root().volume(Path::new("photos")).unwrap(), Path::new("/var/lib/nexus/photos"));
    assert_eq!(user.volume(Path::new("photos")).unwrap(), Path::new("/home/ann/.local/state/nexus/photos"));
    assert_eq!(state.volume(Path::new("photos")).unwrap(), Path::new("/state/nexus/photos"));
    assert_eq!(state.volume(Path::new("/srv/x")).unwrap(), Path::new("/srv/x"));
    assert!(root().volume(Path::new("..")).is_err());
    assert!(root().volume(Path::new("")).is_err());
    assert!(Surroundings::default().volume(Path::new("photos")).is_err());
    assert_eq!(user.config_file().unwrap(), Path::new("/home/ann/.config/nexus/config.toml"));
}

#[test]
fn a_store_in_the_cloud_is_a_place_without_secrets() {
    let (_dir, path) =
        file("store = 's3://b/p'\nendpoint = 'https://h:9000'\nregion = 'eu-west-1'\nstore_cache = '1G'\n");
    let config = Settings::from_file(&path).unwrap().decide(&root()).unwrap();
    assert_eq!(config.drivers.object_store, ObjectStoreKind::Cloud);
    assert_eq!(config.store_cache, 1 << 30);
    let place = config.cloud.unwrap();
    assert_eq!((place.url.to_string().as_str(), place.region.as_deref()), ("s3://b/p", Some("eu-west-1")));
    for (text, says) in [
        ("store = 's3://'\n", "names no bucket"),
        ("store = 's3://b'\nmetastore = 'memory'\n", "needs metadata that stays"),
        ("object_store = 'cloud'\n", "--store tells"),
        ("store = 's3://b'\nendpoint = 'host:9000'\n", "is no address"),
        ("store = 's3://b'\nendpoint = 'http://me:secret@h'\n", "no user and no password"),
        ("store = 's3://b'\nregion = 'a b'\n", "is no region"),
    ] {
        let (_dir, path) = file(text);
        let refused = Settings::from_file(&path).and_then(|settings| settings.decide(&root())).unwrap_err().to_string();
        assert!(refused.contains(says) && !refused.contains("secret@"), "{text}: {refused}");
    }
}
