//! How content is stored in a bucket beside its place: compressed, and encrypted with a key
//! that comes from a file, the environment or a command, and is never written down here.

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nexus_drivers::object_store::{CodedStore, KeyRing};
use nexus_kernel::ObjectStore;

pub use nexus_drivers::object_store::Compression;

/// Longest keys that are read.
const MOST_KEY_BYTES: usize = 64 << 10;
/// Level of zstd if nobody says.
const ZSTD_LEVEL: u8 = 3;
/// How long a command may take to print keys if nobody says, and at the most.
const COMMAND_SECONDS: u32 = 30;
const MOST_COMMAND_SECONDS: u32 = 3600;

/// How content is coded on its way to a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coding {
    /// How new content is compressed.
    pub compression: Compression,
    /// What it is encrypted with, if it is.
    pub key: Option<KeyUse>,
}

/// Where a store's keys come from, and what tells them from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyUse {
    /// Where from.
    pub source: KeySource,
    /// The mark of the key that hides names, in hex; empty until the store is first used.
    pub mark: String,
}

/// Where keys come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// An environment variable of the daemon.
    Environment(String),
    /// What a command prints.
    Command(KeyCommand),
}

/// A command that prints keys, run by `sh -c`. It is ended, with all that it started, if it takes too long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyCommand {
    /// What the shell is given.
    pub line: String,
    /// How long it may take.
    pub seconds: u32,
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<KeySource, String> {
        let bad = || {
            format!(
                "{text:?} is no source of keys: use file:/PATH, env:NAME, command:COMMAND, or command+60s:COMMAND for \
                 one that may take longer than {COMMAND_SECONDS} seconds"
            )
        };
        if text.contains(['\n', '\r']) {
            return Err(bad());
        }
        match text.split_once(':') {
            Some(("file", path)) if path.starts_with('/') => Ok(KeySource::File(path.into())),
            Some(("file", path)) if !path.is_empty() => {
                std::path::absolute(path).map(KeySource::File).map_err(|error| format!("cannot reach {path}: {error}"))
            }
            Some(("env", name)) if !name.is_empty() && !name.contains('=') => {
                Ok(KeySource::Environment(name.to_owned()))
            }
            Some((how, line)) if !line.is_empty() => {
                let seconds = match how.strip_prefix("command").ok_or_else(bad)? {
                    "" => Some(COMMAND_SECONDS),
                    limit => limit.strip_prefix('+').and_then(|limit| limit.strip_suffix('s')?.parse().ok()),
                };
                let seconds = seconds.filter(|seconds| (1..=MOST_COMMAND_SECONDS).contains(seconds)).ok_or_else(bad)?;
                Ok(KeySource::Command(KeyCommand { line: line.to_owned(), seconds }))
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "file:{}", path.display()),
            KeySource::Environment(name) => write!(f, "env:{name}"),
            KeySource::Command(KeyCommand { line, seconds: COMMAND_SECONDS }) => write!(f, "command:{line}"),
            KeySource::Command(KeyCommand { line, seconds }) => write!(f, "command+{seconds}s:{line}"),
        }
    }
}

impl KeySource {
    /// Reads the keys.
    pub fn load(&self) -> Result<KeyRing, String> {
        let text = match self {
            KeySource::File(path) => std::fs::read(path).map_err(|error| error.to_string()),
            KeySource::Environment(name) => std::env::var_os(name)
                .map(|value| value.into_encoded_bytes())
                .ok_or_else(|| "it is not set for the daemon".to_owned()),
            KeySource::Command(command) => run(command),
        };
        let text = text.map_err(|problem| format!("the key from {self} can't be read: {problem}"))?;
        let text = String::from_utf8(text).ok().filter(|text| text.len() <= MOST_KEY_BYTES);
        let text = text.ok_or_else(|| format!("the key from {self} is not text"))?;
        KeyRing::parse(&text).map_err(|problem| format!("the key from {self}: {problem}"))
    }
}

fn run(command: &KeyCommand) -> Result<Vec<u8>, String> {
    let mut shell = Command::new("sh");
    // A group of its own, so that all of it can be ended.
    shell.arg("-c").arg(&command.line).process_group(0);
    let spawned = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = spawned.map_err(|error| error.to_string())?;
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::Builder::new().name("nexus-key".to_owned()).spawn(move || {
        let mut text = Vec::new();
        let read = child.stdout.take().map(|out| out.take(MOST_KEY_BYTES as u64 + 1).read_to_end(&mut text));
        // Nobody may listen any more.
        let _ = ended.send((read, text, child.wait()));
    });
    waiter.map_err(|error| error.to_string())?;
    match end.recv_timeout(Duration::from_secs(command.seconds.into())) {
        Ok((Some(Err(error)), ..) | (_, _, Err(error))) => Err(error.to_string()),
        Ok((_, text, Ok(status))) if status.success() => Ok(text),
        Ok((.., Ok(status))) => Err(format!("it ended with {status}")),
        Err(_) => {
            if let Some(group) = group {
                // It may just have ended by itself.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(format!(
                "it took longer than {} seconds and was ended: see that it asks nobody for anything, or give it more \
                 time with command+{}s:COMMAND",
                command.seconds,
                command.seconds.saturating_mul(4).min(MOST_COMMAND_SECONDS)
            ))
        }
    }
}

impl Coding {
    /// Whether content is stored as it is.
    pub fn is_plain(&self) -> bool {
        *self == Coding::default()
    }

    /// These with the mark of the keys as they are now, for a store that is used for the first time.
    pub fn marked(mut self) -> Result<Coding, String> {
        if let Some(key) = &mut self.key {
            key.mark = mark(&key.source.load()?);
        }
        Ok(self)
    }

    /// The keys, if they are those that the store was first used with.
    pub fn keys(&self) -> Result<Option<KeyRing>, String> {
        let Some(key) = &self.key else { return Ok(None) };
        let ring = key.source.load()?;
        if mark(&ring) != key.mark {
            return Err(format!(
                "the last key from {} is not the one that this store was first used with (mark {})",
                key.source, key.mark
            ));
        }
        Ok(Some(ring))
    }

    /// `store`, which is not a plain one, with this coding and its `keys` before it. `scratch` is a
    /// folder for content on its way.
    pub fn over(
        &self,
        store: Arc<dyn ObjectStore>,
        keys: Option<KeyRing>,
        scratch: &Path,
    ) -> Result<Arc<dyn ObjectStore>, String> {
        let coded = CodedStore::new(store, self.compression, keys, scratch).map_err(|error| error.to_string())?;
        Ok(Arc::new(coded))
    }
}

fn mark(ring: &KeyRing) -> String {
    ring.names_id().unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A compression by its name: none, lz4, zstd, zstd:LEVEL.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    let bad = || format!("{text:?} is no compression: use none, lz4, zstd or zstd:LEVEL, with a level of 1 to 19");
    match text.split_once(':').unwrap_or((text, "")) {
        ("none", "") => Ok(Compression::None),
        ("lz4", "") => Ok(Compression::Lz4),
        ("zstd", "") => Ok(Compression::Zstd(ZSTD_LEVEL)),
        ("zstd", level) => {
            let level = level.parse().ok().filter(|level| (1..=19).contains(level));
            level.map(Compression::Zstd).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

/// As [`parse_compression`] takes it.
pub fn compression_name(compression: Compression) -> String {
    match compression {
        Compression::None => "none".to_owned(),
        Compression::Lz4 => "lz4".to_owned(),
        Compression::Zstd(level) => format!("zstd:{level}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for text in ["none", "lz4", "zstd:1", "zstd:19"] {
            assert_eq!(compression_name(parse_compression(text).unwrap()), text);
        }
        for text in ["", "zip", "lz4:1", "zstd:0", "zstd:20", "zstd:x"] {
            assert!(parse_compression(text).is_err(), "{text}");
        }
        for text in ["file:/a b", "env:NAME", "command:pass show nexus", "command+90s:pass show nexus", "command:a:b"] {
            assert_eq!(text.parse::<KeySource>().unwrap().to_string(), text);
        }
        let bad_limits = ["command+:x", "command+0s:x", "command+5:x", "command+3601s:x", "command5s:x"];
        for text in ["", "file:", "env:", "env:a=b", "command:", "key:abc", "file:/a\nb"].into_iter().chain(bad_limits)
        {
            assert!(text.parse::<KeySource>().is_err(), "{text}");
        }
    }

    fn command(line: &str, seconds: u32) -> KeySource {
        KeySource::Command(KeyCommand { line: line.to_owned(), seconds })
    }

    /// Also what it has started, and that it still holds the pipe.
    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let began = std::time::Instant::now();
        let slow = command(&format!("sleep 1000 & echo $! > '{}'; wait; echo x", pid.display()), 1);
        let problem = slow.load().unwrap_err();
        assert!(problem.contains("longer than 1 seconds") && problem.contains("command+4s:"), "{problem}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().map(|rest| rest.starts_with(|c| "RSD".contains(c))).unwrap_or(false)
        };
        while state() {
            assert!(began.elapsed() < Duration::from_secs(60), "process {pid} lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn keys_come_from_all_sources_and_wrong_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let line = format!("k:{}", "0f".repeat(32));
        std::fs::write(&path, &line).unwrap();
        let from_file = KeySource::File(path.clone());
        let from_command = command(&format!("cat '{}'", path.display()), 30);
        let of = |source: &KeySource| mark(&source.load().unwrap());
        assert_eq!(of(&from_file), of(&from_command));
        assert_eq!(of(&from_file).len(), 16);
        for (source, says) in [
            (KeySource::File("/nowhere/key".into()), "can't be read"),
            (KeySource::Environment("NEXUS_NO_SUCH_KEY".to_owned()), "not set"),
            (command("exit 3", 30), "exit status: 3"),
            (command("echo x", 30), "64 hex digits"),
            (command("yes", 30), "ended with"),
        ] {
            let problem = source.load().unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
        let store: Arc<dyn ObjectStore> = Arc::new(nexus_drivers::object_store::MemoryStore::new());
        let key = KeyUse { source: from_file, mark: String::new() };
        let coding = Coding { compression: Compression::Lz4, key: Some(key) }.marked().unwrap();
        assert!(coding.over(store, coding.keys().unwrap(), folder.path()).is_ok());
        std::fs::write(&path, format!("k:{}", "1f".repeat(32))).unwrap();
        let problem = coding.keys().err().unwrap();
        assert!(problem.contains("is not the one"), "{problem}");
    }
}
