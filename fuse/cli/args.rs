//! The command line's grammar and help. What the commands do stands beside, a file each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use nexus::Settings;
use nexus::coding::{Compression, KeySource, parse_compression};
use nexus::config::{ByteSize, CredentialsFile, MetastoreKind, ObjectStoreKind, StoreUrl, parse_level};
use nexus::limits::{Count, LimitsChange, Rate};
use nexus::stores::parse_fsync;
use nexus_kernel::model::FsyncLevel;

use super::fsck_args::{FSCK_HELP, FsckArgs};
use super::{cache, examples, zone_args as zone};

/// A POSIX file system whose metadata and content lie in one folder.
#[derive(Parser, Debug)]
#[command(
    name = "nexus-fuse",
    version,
    about = "A POSIX file system whose metadata and content lie in one folder",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  nexus-fuse mount /mnt/nexus            make or open the default volume, and mount it
  nexus-fuse status                      what is mounted, how large, how well
  nexus-fuse umount /mnt/nexus           unmount, and wait until all is on disk

`nexus-fuse help COMMAND` tells more about each."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Mount a volume; folder and volume are made if missing
    #[command(after_help = examples::MOUNT_HELP)]
    Mount(Box<MountArgs>),
    /// Unmount, and wait until the volume is closed
    #[command(after_help = examples::UMOUNT_HELP, visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Tell what is mounted, how large it is and how well
    #[command(after_help = examples::STATUS_HELP)]
    Status(StatusArgs),
    /// Print figures of mounted volumes and their stores for Prometheus
    #[command(after_help = examples::METRICS_HELP)]
    Metrics(MetricsArgs),
    /// Look for damage in a volume
    #[command(after_help = FSCK_HELP)]
    Fsck(FsckArgs),
    /// Give the space of deleted content back now
    #[command(after_help = examples::GC_HELP)]
    Gc(GcArgs),
    /// Read all sealed content back from where it is, and hold it against its checksums
    #[command(after_help = examples::SCRUB_HELP)]
    Scrub(ScrubArgs),
    /// Send what is only on this disk to the volume's store now, and wait
    #[command(after_help = examples::FLUSH_HELP)]
    Flush(FlushArgs),
    /// Add stores in the cloud to a mounted volume, list them, take them away; try out a bucket
    #[command(after_help = examples::STORE_HELP, subcommand_required = true, arg_required_else_help = true)]
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Say which store new content of a directory goes to, and what fsync waits for there
    #[command(after_help = examples::PLACE_HELP)]
    Place(PlaceArgs),
    /// Move what files have elsewhere to a store
    #[command(after_help = examples::MIGRATE_HELP)]
    Migrate(MigrateArgs),
    /// Fetch content of files that is in a bucket, so that it is read from this disk
    #[command(after_help = cache::WARMUP_HELP)]
    Warmup(cache::PathsArgs),
    /// Throw out what is kept on this disk of files whose content is in a bucket
    #[command(after_help = cache::EVICT_HELP)]
    Evict(cache::PathsArgs),
    /// Tell how much of files is kept on this disk
    #[command(after_help = cache::DU_HELP)]
    Du(cache::DuArgs),
    /// Show the objects of an existing bucket as files, at a directory of a mounted volume
    #[command(after_help = examples::ATTACH_HELP)]
    Attach(AttachArgs),
    /// Take an attached bucket away; what is in it stays
    #[command(after_help = examples::DETACH_HELP)]
    Detach(DetachArgs),
    /// Make a directory a zone, which other nodes can join
    #[command(after_help = zone::SHARE_HELP)]
    Share(zone::ShareArgs),
    /// Join the zone of an invitation
    #[command(after_help = zone::JOIN_HELP)]
    Join(zone::JoinArgs),
    /// Look after zones: list them, invite to them, remove members, leave
    #[command(after_help = zone::ZONE_HELP, subcommand_required = true, arg_required_else_help = true)]
    Zone {
        /// What to do.
        #[command(subcommand)]
        command: zone::ZoneCommand,
    },
    /// Print the completion script of a shell
    #[command(after_help = examples::COMPLETIONS_HELP)]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands
    #[command(after_help = examples::MAN_HELP)]
    Man {
        /// Write nexus-fuse.1 and a page for each command into this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Which volume, and with which settings.
#[derive(Args, Debug, Clone, Default)]
pub struct VolumeArgs {
    /// Folder that holds the volume [default: the volume named "default"]
    #[arg(long, value_name = "DIR", conflicts_with = "volume")]
    pub data: Option<PathBuf>,
    /// Volume by name: /var/lib/nexus/NAME for root, else ~/.local/state/nexus/NAME
    #[arg(long, value_name = "NAME")]
    pub volume: Option<PathBuf>,
    /// Configuration file to read instead of the usual one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Memory limit of the daemon, 32M or more [default: 256M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// How much of that is for caches, half of it at the most [default: 3/8 of it]
    #[arg(long, value_name = "SIZE")]
    pub cache: Option<ByteSize>,
    /// Driver of the metadata: redb, memory [default: redb]
    #[arg(long, value_name = "DRIVER")]
    pub metastore: Option<MetastoreKind>,
    /// Driver of sealed content: local, memory [default: local]
    #[arg(long, value_name = "DRIVER")]
    pub object_store: Option<ObjectStoreKind>,
    /// Keep the sealed content of a new volume in the cloud: s3://BUCKET/PREFIX, gs:// or az://; in
    /// a folder: file:///PATH; or in memory: memory://. A volume that is there already knows where its
    /// content is
    #[arg(long, value_name = "URL", conflicts_with = "object_store")]
    pub store: Option<StoreUrl>,
    /// Make a volume whose content is in memory (--store memory://): all of it is gone when the
    /// daemon ends
    #[arg(long)]
    pub volatile: bool,
    /// Where the store's service answers, if not at its usual address
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The store's region, where that counts
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// How much of the store's content is kept on this disk [default: 10G]
    #[arg(long, value_name = "SIZE")]
    pub store_cache: Option<ByteSize>,
    /// Compress content on its way to the store: none, lz4, zstd or zstd:LEVEL (1 to 19)
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    pub store_compression: Option<Compression>,
    /// Encrypt it with the key from file:/PATH, env:NAME or command:COMMAND, which has 30 seconds
    /// (command+90s:COMMAND: 90); see docs/encryption.md
    #[arg(long, value_name = "SOURCE")]
    pub store_key: Option<KeySource>,
    /// What fsync of content in the store waits for: remote (until it is there), local (until it
    /// is durable on this disk) [default: remote]
    #[arg(long, value_name = "LEVEL", value_parser = parse_fsync)]
    pub store_fsync: Option<FsyncLevel>,
    /// Most requests to the store at once, or none for no limit; remembered, as are the next two
    #[arg(long, value_name = "COUNT")]
    pub store_max_requests: Option<Count>,
    /// Most bytes sent to the store in a second, or none
    #[arg(long, value_name = "RATE")]
    pub store_upload_limit: Option<Rate>,
    /// Most bytes fetched from the store in a second, or none
    #[arg(long, value_name = "RATE")]
    pub store_download_limit: Option<Rate>,
    /// How much to log: off, error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub log: Option<log::LevelFilter>,
}

/// Arguments of `mount`.
#[derive(Args, Debug, Clone)]
pub struct MountArgs {
    /// Where to mount; made if missing
    pub target: PathBuf,
    /// Which volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// What carries the kernel's requests: auto (io_uring where the kernel offers it), device or
    /// io_uring; the same as -o transport=
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<nexus_fuse_transport::Choice>,
    /// Answer other nodes of this volume's zones at this address and port, as 0.0.0.0:7420; the
    /// same as -o listen=
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
    /// Tell other nodes to come to this host and port, if not to where it listens; may be given
    /// several times
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// Mount options, comma-separated: ro, allow_other, noatime, ... (see README)
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Stay in front and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// For the daemon that `mount` starts: all settings are given, and standard output is
    /// where it reports.
    #[arg(long, hide = true, value_name = "SOURCE")]
    pub daemon: Option<String>,
}

/// Arguments of `umount`.
#[derive(Args, Debug, Clone)]
pub struct UmountArgs {
    /// Where it is mounted
    pub target: PathBuf,
    /// Detach now, even if files are open; the daemon ends when the last is closed
    #[arg(short, long)]
    pub lazy: bool,
    /// First wait until all that is only on this disk is in its store; Ctrl-C leaves it mounted
    #[arg(short, long, conflicts_with = "lazy")]
    pub wait: bool,
}

/// Arguments of `status`.
#[derive(Args, Debug, Clone)]
pub struct StatusArgs {
    /// A mount point or a data folder [default: all mounts of Nexus]
    pub target: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `metrics`.
#[derive(Args, Debug, Clone)]
pub struct MetricsArgs {
    /// A mount point or a data folder [default: all mounts of Nexus]
    pub target: Option<PathBuf>,
    /// Write them to this file, in place of what it held, in one step
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `scrub`.
#[derive(Args, Debug, Clone)]
pub struct ScrubArgs {
    /// A mount point, a data folder or a volume's name [default: the default volume]
    pub target: Option<PathBuf>,
}

/// Arguments of `gc`.
#[derive(Args, Debug, Clone)]
pub struct GcArgs {
    /// Only tell what would be freed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// A mount point, a data folder or a volume's name [default: the default volume]
    pub target: Option<PathBuf>,
}

/// The commands of `store`.
#[derive(Subcommand, Debug, Clone)]
pub enum StoreCommand {
    /// Try all that a volume asks of a bucket, and tell how fast it is
    #[command(after_help = examples::STORE_TEST_HELP)]
    Test(StoreTestArgs),
    /// Add a store to a mounted volume
    #[command(after_help = examples::STORE_ADD_HELP)]
    Add(StoreAddArgs),
    /// Change the limits of a store of a mounted volume
    #[command(after_help = examples::STORE_SET_HELP)]
    Set(StoreSetArgs),
    /// List the stores of a mounted volume
    #[command(after_help = examples::STORE_LS_HELP)]
    Ls(StoreLsArgs),
    /// Take a store away that holds nothing of the volume
    #[command(after_help = examples::STORE_RM_HELP)]
    Rm(StoreRmArgs),
}

/// Arguments of `store add`.
#[derive(Args, Debug, Clone)]
pub struct StoreAddArgs {
    /// What to call it
    pub name: String,
    /// Where it is.
    #[command(flatten)]
    pub place: StoreTestArgs,
    /// What fsync of content that goes there waits for: remote (until it is there) or local
    /// (until it is durable on this disk)
    #[arg(long, value_name = "LEVEL", default_value = "remote", value_parser = parse_fsync)]
    pub fsync: FsyncLevel,
    /// Compress content on its way there: lz4, zstd or zstd:LEVEL (1 to 19)
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    pub compression: Option<Compression>,
    /// Encrypt it with the key from file:/PATH, env:NAME or command:COMMAND (of the daemon), which
    /// has 30 seconds (command+90s:COMMAND: 90)
    #[arg(long, value_name = "SOURCE")]
    pub key: Option<KeySource>,
    /// What it may be asked for.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// A mount point, a data folder or a volume's name [default: the default volume]
    #[arg(long, value_name = "VOLUME")]
    pub mount: Option<PathBuf>,
}

/// Limits of a store.
#[derive(Args, Debug, Clone)]
pub struct LimitArgs {
    /// Most requests at once, or none for no limit
    #[arg(long, value_name = "COUNT")]
    pub max_requests: Option<Count>,
    /// Most bytes sent in a second: 10M, 512K/s, or none
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<Rate>,
    /// Most bytes fetched in a second, or none
    #[arg(long, value_name = "RATE")]
    pub download_limit: Option<Rate>,
}

impl LimitArgs {
    /// What is said of limits.
    pub fn change(&self) -> LimitsChange {
        LimitsChange { max_requests: self.max_requests, upload: self.upload_limit, download: self.download_limit }
    }
}

/// Arguments of `store set`.
#[derive(Args, Debug, Clone)]
pub struct StoreSetArgs {
    /// What it is called; `default` is the store that the volume was made with, and a path with a
    /// slash the directory at which a bucket is attached
    pub name: String,
    /// What it may be asked for.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// A mount point, a data folder or a volume's name [default: the default volume]
    #[arg(long, value_name = "VOLUME")]
    pub mount: Option<PathBuf>,
}

/// Arguments of `store ls`.
#[derive(Args, Debug, Clone)]
pub struct StoreLsArgs {
    /// A mount point, a data folder or a volume's name [default: the default volume]
    #[arg(long, value_name = "VOLUME")]
    pub mount: Option<PathBuf>,
}

/// Arguments of `store rm`.
#[derive(Args, Debug, Clone)]
pub struct StoreRmArgs {
    /// What it is called
    pub name: String,
    /// A mount point, a data folder or a volume's name [default: the default volume]
    #[arg(long, value_name = "VOLUME")]
    pub mount: Option<PathBuf>,
}

/// Arguments of `place`.
#[derive(Args, Debug, Clone)]
pub struct PlaceArgs {
    /// A directory, with all below it, or a file
    pub path: PathBuf,
    /// The store's name; `default` is the one that the volume was made with
    pub store: Option<String>,
    /// What fsync waits for: local (this disk), remote (the store), store (what the store says)
    #[arg(long, value_name = "LEVEL", value_parser = parse_fsync)]
    pub fsync: Option<FsyncLevel>,
}

/// Arguments of `migrate`.
#[derive(Args, Debug, Clone)]
pub struct MigrateArgs {
    /// A directory, with all below it, or a file
    pub path: PathBuf,
    /// The store's name; `default` is the one that the volume was made with
    pub store: String,
}

/// Arguments of `store test`.
#[derive(Args, Debug, Clone)]
pub struct StoreTestArgs {
    /// Bucket and prefix: s3://BUCKET/PREFIX, gs:// or az://; a folder: file:///PATH; or memory://
    pub url: StoreUrl,
    /// Where the service answers, if not at its usual address
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The bucket's region, where that counts
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Take its credentials from this file, and from nowhere else: for S3 one like
    /// ~/.aws/credentials, for Google the JSON of a service account, for Azure lines like
    /// AZURE_STORAGE_ACCOUNT_NAME=NAME
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// The profile in that file, for S3 [default: default]
    #[arg(long, value_name = "NAME", requires = "credentials_file")]
    pub profile: Option<String>,
}

impl StoreTestArgs {
    /// Where the store's own credentials are, by an absolute path.
    pub fn credentials(&self) -> Result<Option<CredentialsFile>, String> {
        let Some(file) = &self.credentials_file else { return Ok(None) };
        let file = std::path::absolute(file).map_err(|error| format!("cannot reach {}: {error}", file.display()))?;
        Ok(Some(CredentialsFile { file, profile: self.profile.clone() }))
    }
}

/// Arguments of `attach`.
#[derive(Args, Debug, Clone)]
pub struct AttachArgs {
    /// Where it is.
    #[command(flatten)]
    pub place: StoreTestArgs,
    /// An empty directory of a mounted volume
    pub target: PathBuf,
    /// Changes made elsewhere are seen within so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub refresh: u64,
    /// Refuse changes
    #[arg(long)]
    pub read_only: bool,
    /// What the bucket may be asked for.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Arguments of `detach`.
#[derive(Args, Debug, Clone)]
pub struct DetachArgs {
    /// Where the bucket is attached
    pub target: PathBuf,
}

/// Arguments of `flush`.
#[derive(Args, Debug, Clone)]
pub struct FlushArgs {
    /// A file or directory of a mounted volume, or all of one: a mount point, a data folder or a
    /// volume's name [default: the default volume]
    pub target: Option<PathBuf>,
}

impl VolumeArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> nexus::Result<Settings> {
        let data = match &self.volume {
            Some(name) => Some(nexus::config::Surroundings::of_process().volume(name)?),
            None => self.data.clone(),
        };
        Ok(Settings {
            data,
            metastore: self.metastore,
            object_store: self.object_store,
            store: self.store.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            volatile: self.volatile,
            store_cache: self.store_cache,
            store_fsync: self.store_fsync,
            store_compression: self.store_compression,
            store_key: self.store_key.clone(),
            store_max_requests: self.store_max_requests,
            store_upload_limit: self.store_upload_limit,
            store_download_limit: self.store_download_limit,
            memory: self.memory,
            cache: self.cache,
            log: self.log,
            options: None,
        })
    }
}

impl MountArgs {
    /// All mount options, comma-separated.
    pub fn all_options(&self) -> String {
        let mut options = self.options.clone();
        options.extend(self.transport.map(|choice| format!("transport={choice}")));
        options.extend(self.listen.map(|address| format!("listen={address}")));
        options.extend(self.advertise.iter().map(|address| format!("advertise={address}")));
        options.join(",")
    }

    /// The settings among these flags.
    pub fn settings(&self) -> nexus::Result<Settings> {
        let options = Some(self.all_options()).filter(|options| !options.is_empty());
        Ok(Settings { options, ..self.volume.settings()? })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        let cli = Cli::command();
        for command in
            cli.get_subcommands().flat_map(|command| std::iter::once(command).chain(command.get_subcommands()))
        {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  "), "{}", command.get_name());
        }
    }

    #[test]
    fn a_volume_is_named_or_placed_but_not_both() {
        let parse = |words: &[&str]| Cli::try_parse_from(["nexus-fuse", "mount", "/m"].iter().chain(words));
        assert!(parse(&["--data", "/d", "--volume", "v"]).is_err());
        assert!(parse(&["--memory", "lots"]).is_err());
        let cli = parse(&["--volume", "v", "-o", "ro", "-o", "noatime", "--memory", "64M"]).unwrap();
        let Command::Mount(args) = cli.command else { panic!("mount was parsed as something else") };
        assert_eq!(args.options, ["ro", "noatime"]);
        assert_eq!(args.volume.memory, Some(ByteSize(64 << 20)));
    }
}
