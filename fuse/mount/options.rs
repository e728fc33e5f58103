//! The `-o` list, as users of mount(8) write it.

use std::path::PathBuf;
use std::time::Duration;

use nexus::config::ByteSize;
use nexus::{RoomPolicy, WhenFull};
use nexus_fuse_transport::Choice;
use nexus_kernel::fs::{AtimePolicy, Consistency};
use rustix::mount::MountFlags;
use thiserror::Error;

/// Most seconds that changes of zones may be told to wait.
const MOST_TIMEOUT: u64 = 3600;

/// Why an option list is refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OptionError {
    /// Nobody knows this option.
    #[error("unknown mount option '{0}' (`nexus-fuse mount --help` lists the options)")]
    Unknown(String),
    /// `name=` or plain `name` where a value belongs.
    #[error("mount option '{0}' needs a value: {0}=VALUE")]
    MissingValue(String),
    /// `name=value` where none belongs.
    #[error("mount option '{0}' takes no value")]
    UnwantedValue(String),
    /// The value makes no sense.
    #[error("mount option '{name}={value}': {why}")]
    BadValue {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Parsed mount options. `None` means "not named": the default, or at a remount "as it is".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// `ro`, `rw`.
    pub read_only: Option<bool>,
    /// `allow_other`: others than the mounting user may use the mount; the default for root.
    pub allow_other: Option<bool>,
    /// `noatime`, `relatime`, `strictatime`.
    pub atime: Option<AtimePolicy>,
    /// `nodiratime`, `diratime`.
    pub nodiratime: Option<bool>,
    /// `noexec`, `exec`.
    pub noexec: Option<bool>,
    /// `nosuid`, `suid`.
    pub nosuid: Option<bool>,
    /// `nodev`, `dev`.
    pub nodev: Option<bool>,
    /// `sync`, `async`.
    pub sync: Option<bool>,
    /// `dirsync`.
    pub dirsync: Option<bool>,
    /// `uid=N`: everything seems to belong to this user.
    pub uid: Option<u32>,
    /// `gid=N`: everything seems to belong to this group.
    pub gid: Option<u32>,
    /// `subdir=PATH`: mount this directory of the volume instead of its root.
    pub subdir: Option<PathBuf>,
    /// `data=PATH`: the volume's data folder.
    pub data: Option<PathBuf>,
    /// `cache_size=SIZE`, bytes.
    pub cache_bytes: Option<u64>,
    /// `memory=SIZE`: the daemon's memory limit, bytes.
    pub memory_bytes: Option<u64>,
    /// `max_read=N`: largest read request, bytes.
    pub max_read: Option<u32>,
    /// `transport=auto|device|io_uring`: what carries the kernel's requests.
    pub transport: Option<Choice>,
    /// `listen=HOST:PORT`: where other nodes of the volume's zones may come to.
    pub listen: Option<std::net::SocketAddr>,
    /// `advertise=HOST:PORT`, several times: where they are told to come to.
    pub advertise: Vec<String>,
    /// `consistency=close-to-open|strict|relaxed`: what readers of zones may miss.
    pub consistency: Option<Consistency>,
    /// `zone_timeout=SECONDS`: how long changes of zones wait for a majority.
    pub zone_timeout: Option<Duration>,
    /// `zone_errno=EIO|EROFS`: what they fail with then; whether by EROFS.
    pub zone_read_only: Option<bool>,
    /// `backlog=SIZE`: most content that may wait for stores that are far away, bytes.
    pub backlog_bytes: Option<u64>,
    /// `full=enospc|wait`: what a write does where there is no room for it.
    pub when_full: Option<WhenFull>,
    /// `nonempty`: mount over a directory that has entries.
    pub nonempty: bool,
    /// `remount`: change a mount that is there.
    pub remount: bool,
}

impl MountOptions {
    /// Parses one list.
    pub fn parse(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.merge(list)?;
        Ok(options)
    }

    /// Takes in one more list; of contradicting options the last wins. A comma in a value
    /// is written `\,`.
    pub fn merge(&mut self, list: &str) -> Result<(), OptionError> {
        for option in split(list) {
            self.set(&option)?;
        }
        Ok(())
    }

    fn set(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        if is_for_mount_only(name) {
            return Ok(());
        }
        match name {
            "uid" => self.uid = Some(number(name, value)?),
            "gid" => self.gid = Some(number(name, value)?),
            "subdir" => self.subdir = Some(needed(name, value)?.into()),
            "data" => self.data = Some(needed(name, value)?.into()),
            "cache_size" => self.cache_bytes = Some(size(name, value)?),
            "memory" => self.memory_bytes = Some(size(name, value)?),
            "transport" => {
                let choice = needed(name, value)?.parse();
                self.transport = Some(choice.map_err(|why: String| bad(name, value, &why))?);
            }
            "listen" => {
                let address = needed(name, value)?.parse();
                self.listen =
                    Some(address.map_err(|_| bad(name, value, "must be an address and a port, as 0.0.0.0:7420"))?);
            }
            "advertise" => self.advertise.push(needed(name, value)?.to_owned()),
            "consistency" => {
                self.consistency = Some(match needed(name, value)? {
                    "close-to-open" => Consistency::CloseToOpen,
                    "strict" => Consistency::Strict,
                    "relaxed" => Consistency::Relaxed,
                    _ => return Err(bad(name, value, "must be close-to-open, strict or relaxed")),
                });
            }
            "zone_timeout" => {
                let seconds = needed(name, value)?.parse().ok().filter(|seconds| (1..=MOST_TIMEOUT).contains(seconds));
                let seconds = seconds.ok_or_else(|| bad(name, value, "must be 1 to 3600 seconds"))?;
                self.zone_timeout = Some(Duration::from_secs(seconds));
            }
            "zone_errno" => {
                self.zone_read_only = Some(match needed(name, value)? {
                    "EIO" => false,
                    "EROFS" => true,
                    _ => return Err(bad(name, value, "must be EIO or EROFS")),
                });
            }
            "backlog" => self.backlog_bytes = Some(size(name, value)?),
            "full" => {
                self.when_full = Some(match needed(name, value)? {
                    "enospc" => WhenFull::Refuse,
                    "wait" => WhenFull::Wait,
                    _ => return Err(bad(name, value, "must be enospc or wait")),
                });
            }
            "max_read" => {
                let bytes = size(name, value)?;
                let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes >= 4096);
                self.max_read = Some(bytes.ok_or_else(|| bad(name, value, "must be 4096 to 4294967295 bytes"))?);
            }
            _ => {
                if !self.set_flag(name) {
                    return Err(OptionError::Unknown(option.to_owned()));
                }
                if value.is_some() {
                    return Err(OptionError::UnwantedValue(name.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Sets an option that takes no value; `false` if there is none of this name.
    fn set_flag(&mut self, name: &str) -> bool {
        match name {
            "ro" => self.read_only = Some(true),
            "rw" => self.read_only = Some(false),
            "allow_other" => self.allow_other = Some(true),
            "noatime" => self.atime = Some(AtimePolicy::Never),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => self.atime = Some(AtimePolicy::Relatime),
            "strictatime" => self.atime = Some(AtimePolicy::Strict),
            "nodiratime" => self.nodiratime = Some(true),
            "diratime" => self.nodiratime = Some(false),
            "noexec" => self.noexec = Some(true),
            "exec" => self.noexec = Some(false),
            "nosuid" => self.nosuid = Some(true),
            "suid" => self.nosuid = Some(false),
            "nodev" => self.nodev = Some(true),
            "dev" => self.nodev = Some(false),
            "sync" => self.sync = Some(true),
            "async" => self.sync = Some(false),
            "dirsync" => self.dirsync = Some(true),
            "nonempty" => self.nonempty = true,
            "remount" => self.remount = true,
            // Always on.
            "default_permissions" => {}
            _ => return false,
        }
        true
    }

    /// What writes do where there is no room, changed from `base` where an option was named.
    pub fn room_policy(&self, base: RoomPolicy) -> RoomPolicy {
        RoomPolicy {
            backlog_bytes: self.backlog_bytes.or(base.backlog_bytes),
            when_full: self.when_full.unwrap_or(base.when_full),
        }
    }

    /// Whether the mount refuses changes.
    pub fn is_read_only(&self) -> bool {
        self.read_only == Some(true)
    }

    /// When reads are noted.
    pub fn atime_policy(&self) -> AtimePolicy {
        self.atime.unwrap_or_default()
    }

    /// Whether others than the mounting user are let in.
    pub fn lets_others_in(&self, as_root: bool) -> bool {
        self.allow_other.unwrap_or(as_root)
    }

    /// The flags of mount(2): those of `base`, changed where an option was named.
    pub fn flags(&self, base: MountFlags) -> MountFlags {
        let mut flags = base;
        for (named, flag) in [
            (self.read_only, MountFlags::RDONLY),
            (self.nodiratime, MountFlags::NODIRATIME),
            (self.noexec, MountFlags::NOEXEC),
            (self.nosuid, MountFlags::NOSUID),
            (self.nodev, MountFlags::NODEV),
            (self.sync, MountFlags::SYNCHRONOUS),
            (self.dirsync, MountFlags::DIRSYNC),
        ] {
            if let Some(on) = named {
                flags.set(flag, on);
            }
        }
        if let Some(atime) = self.atime {
            flags.remove(MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::STRICTATIME);
            flags.insert(match atime {
                AtimePolicy::Never => MountFlags::NOATIME,
                AtimePolicy::Relatime => MountFlags::RELATIME,
                AtimePolicy::Strict => MountFlags::STRICTATIME,
            });
        }
        flags
    }

    /// The same, as words for fusermount3, which knows no `relatime` (the kernel's default).
    pub fn flag_words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        for (named, on, off) in [
            (self.read_only, "ro", "rw"),
            (self.noexec, "noexec", "exec"),
            (self.nosuid, "nosuid", "suid"),
            (self.nodev, "nodev", "dev"),
            (self.sync, "sync", "async"),
        ] {
            match named {
                Some(true) => words.push(on),
                Some(false) => words.push(off),
                None => {}
            }
        }
        if self.dirsync == Some(true) {
            words.push("dirsync");
        }
        if self.atime == Some(AtimePolicy::Never) {
            words.push("noatime");
        }
        words
    }
}

/// Options that mount(8), systemd and their kin keep for themselves but hand on.
fn is_for_mount_only(name: &str) -> bool {
    const EXACT: [&str; 24] = [
        "",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "defaults",
        "comment",
        "helper",
        "uhelper",
        "silent",
        "loud",
        "lazytime",
        "nolazytime",
        "iversion",
        "noiversion",
        "mand",
        "nomand",
        "fuse",
        "fsc",
    ];
    // What /proc/mounts shows of a FUSE mount; mount(8) hands it back with a remount.
    const SHOWN: [&str; 5] = ["user_id", "group_id", "rootmode", "fd", "blksize"];
    EXACT.contains(&name) || SHOWN.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Splits at commas, except those after a backslash.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(',')) => {
                chars.next();
                push(&mut parts, ',');
            }
            (',', _) => parts.push(String::new()),
            (c, _) => push(&mut parts, c),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn push(parts: &mut [String], c: char) {
    if let Some(last) = parts.last_mut() {
        last.push(c);
    }
}

fn needed<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, OptionError> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| OptionError::MissingValue(name.to_owned()))
}

fn number(name: &str, value: Option<&str>) -> Result<u32, OptionError> {
    let id = needed(name, value)?.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| bad(name, value, "must be a number from 0 to 4294967294"))
}

fn size(name: &str, value: Option<&str>) -> Result<u64, OptionError> {
    needed(name, value)?.parse().map(|ByteSize(bytes)| bytes).map_err(|error: String| bad(name, value, &error))
}

fn bad(name: &str, value: Option<&str>, why: &str) -> OptionError {
    OptionError::BadValue { name: name.to_owned(), value: value.unwrap_or_default().to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_everything() {
        let options = MountOptions::parse(
            "ro,allow_other,default_permissions,noatime,nodiratime,noexec,nosuid,nodev,sync,dirsync,uid=1000,gid=0,\
             subdir=/a/b,data=/srv/x,cache_size=64M,memory=2G,max_read=128K,consistency=strict,\
             zone_timeout=5,zone_errno=EROFS,backlog=1G,full=wait,nonempty",
        )
        .unwrap();
        let expected = MountOptions {
            read_only: Some(true),
            allow_other: Some(true),
            atime: Some(AtimePolicy::Never),
            nodiratime: Some(true),
            noexec: Some(true),
            nosuid: Some(true),
            nodev: Some(true),
            sync: Some(true),
            dirsync: Some(true),
            uid: Some(1000),
            gid: Some(0),
            subdir: Some("/a/b".into()),
            data: Some("/srv/x".into()),
            cache_bytes: Some(64 << 20),
            memory_bytes: Some(2 << 30),
            max_read: Some(128 << 10),
            transport: None,
            listen: None,
            advertise: Vec::new(),
            consistency: Some(Consistency::Strict),
            zone_timeout: Some(Duration::from_secs(5)),
            zone_read_only: Some(true),
            backlog_bytes: Some(1 << 30),
            when_full: Some(WhenFull::Wait),
            nonempty: true,
            remount: false,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn last_one_wins_and_lists_add_up() {
        let mut options = MountOptions::parse("ro,exec,noatime").unwrap();
        options.merge("rw,strictatime").unwrap();
        assert_eq!(options.read_only, Some(false));
        assert_eq!(options.noexec, Some(false));
        assert_eq!(options.atime, Some(AtimePolicy::Strict));
    }

    #[test]
    fn words_of_mount_are_passed_over() {
        let list = "defaults,auto,noauto,user,user=joe,users,nofail,_netdev,x-systemd.automount,X-mount.mkdir=0755,comment=hi,,";
        assert_eq!(MountOptions::parse(list), Ok(MountOptions::default()));
        assert_eq!(MountOptions::parse(""), Ok(MountOptions::default()));
    }

    #[test]
    fn a_remount_takes_back_what_proc_mounts_shows() {
        let shown =
            MountOptions::parse("rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,ro");
        assert_eq!(shown.map(|options| (options.remount, options.read_only)), Ok((true, Some(true))));
    }

    #[test]
    fn errors_name_the_option() {
        let message = |list| MountOptions::parse(list).unwrap_err().to_string();
        assert!(message("rw,frobnicate").contains("'frobnicate'"));
        assert!(message("frob=1").contains("'frob=1'"));
        assert!(message("uid").contains("uid=VALUE"));
        assert!(message("subdir=").contains("subdir=VALUE"));
        assert!(message("ro=1").contains("'ro' takes no value"));
        assert!(message("uid=joe").contains("uid=joe"));
        assert!(message("uid=4294967295").contains("0 to 4294967294"));
        assert!(message("memory=lots").contains("lots"));
        assert!(message("max_read=1").contains("max_read=1"));
        assert!(message("full=maybe").contains("enospc or wait"));
        assert!(message("consistency=some").contains("close-to-open"));
        assert!(message("zone_timeout=0").contains("1 to 3600"));
        assert!(message("zone_timeout=3601").contains("1 to 3600"));
        assert!(message("zone_errno=EPERM").contains("EROFS"));
    }

    #[test]
    fn commas_can_stand_in_values() {
        let options = MountOptions::parse(r"subdir=/a\,b,data=/x\y,ro").unwrap();
        assert_eq!(options.subdir, Some("/a,b".into()));
        assert_eq!(options.data, Some(r"/x\y".into()));
        assert!(options.is_read_only());
    }

    #[test]
    fn flags_change_only_what_is_named() {
        let base = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY | MountFlags::RELATIME;
        assert_eq!(MountOptions::default().flags(base), base);
        let options = MountOptions::parse("rw,noexec,suid,noatime").unwrap();
        assert_eq!(options.flags(base), MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME);
        assert_eq!(options.flag_words(), ["rw", "noexec", "suid", "noatime"]);
    }
}
