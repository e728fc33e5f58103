//! The messages: one line of JSON each, with the protocol's version in front.
//!
//! ```text
//! > {"version":1,"request":{"do":"status"}}
//! < {"version":1,"reply":{"is":"status", ...}}
//! < {"version":1,"error":"what went wrong"}
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the protocol; both sides refuse another.
pub const VERSION: u32 = 1;
/// Longest request in bytes, its line end included.
pub const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// Longest reply in bytes, its line end included.
pub const MAX_REPLY_BYTES: u64 = 16 << 20;

/// What the daemon can be asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// Make everything durable.
    Sync,
    /// Write the newest state into the metastore and give log space back.
    Checkpoint,
    /// Give the space of dead content back, now.
    Gc,
    /// Count what [`Request::Gc`] would free.
    Garbage,
    /// Read a part of all sealed content back and hold it against its checksums; to be asked
    /// again, with where the last answer stopped, until there is no more.
    Scrub {
        /// Blobs up to this one were read.
        #[serde(default)]
        after: u64,
    },
    /// Seal a part of what is not sealed, which sends it to a store in the cloud; to be asked
    /// again, with the mark of the first answer, until nothing is left.
    Flush {
        /// What of the content is meant; all that there is if nothing is said.
        #[serde(default)]
        mark: Option<u64>,
    },
    /// Count what of files is meant for a store elsewhere and is only here, and send a part of
    /// it; to be asked again, with the mark of the first answer, until nothing is left.
    FlushFiles {
        /// Their inode numbers.
        inodes: Vec<u64>,
        /// What of the content is meant; all that there is if nothing is said.
        #[serde(default)]
        mark: Option<u64>,
        /// Whether to send, or only to count.
        send: bool,
    },
    /// Look for damage; `deep` reads all content too.
    Check {
        /// Read content.
        deep: bool,
    },
    /// Add a store to the volume.
    StoreAdd {
        /// What it is to be called.
        name: String,
        /// Where it is, and how content is stored there.
        place: StorePlace,
        /// What fsync waits for: store, local or remote.
        fsync: String,
        /// What it may be asked for.
        #[serde(default)]
        limits: StoreLimitsText,
    },
    /// Change limits of a store; answered with [`Reply::Done`].
    StoreSet {
        /// What it is called.
        name: String,
        /// What is to change.
        limits: StoreLimitsText,
    },
    /// Take a store away that holds nothing; answered with [`Reply::Done`], or with [`Reply::Text`] that
    /// tells what is left there.
    StoreRemove {
        /// What it is called.
        name: String,
    },
    /// Say where new content of files, or of what is made in directories, goes.
    Place {
        /// Their inode numbers, as stat tells them.
        inodes: Vec<u64>,
        /// The store; as it is if not said.
        #[serde(default)]
        store: Option<String>,
        /// What fsync waits for; as it is if not said.
        #[serde(default)]
        fsync: Option<String>,
    },
    /// Tell where new content of a file, or of what is made in a directory, goes.
    Placement {
        /// Its inode number.
        inode: u64,
    },
    /// Move a part of what files have elsewhere to a store; to be asked again until there is
    /// no more.
    Migrate {
        /// The files' inode numbers.
        inodes: Vec<u64>,
        /// The store.
        store: String,
    },
    /// Tell where the bytes of files are.
    Residency {
        /// Their inode numbers.
        inodes: Vec<u64>,
    },
    /// Fetch a part of what of files is not on this disk; to be asked again, with where the
    /// last answer stopped, until there is no more.
    Warm {
        /// The files' inode numbers.
        inodes: Vec<u64>,
        /// Which of them to go on with.
        #[serde(default)]
        file: usize,
        /// Where in it.
        #[serde(default)]
        offset: u64,
    },
    /// Throw out what is kept on this disk of files' content that is elsewhere.
    Evict {
        /// The files' inode numbers.
        inodes: Vec<u64>,
    },
    /// Take these mount options from now on, comma-separated.
    Remount {
        /// As after `-o remount,`.
        options: String,
    },
    /// Show a bucket's objects as files at a directory of the mount, from now on.
    Attach {
        /// The directory, absolute and without links.
        target: PathBuf,
        /// The bucket; its path is not looked at.
        spec: crate::attach::Spec,
    },
    /// Have such a bucket be asked for no more than this.
    AttachmentSet {
        /// The directory.
        target: PathBuf,
        /// What changes.
        limits: StoreLimitsText,
    },
    /// Take such a bucket away, and forget it.
    Detach {
        /// The directory.
        target: PathBuf,
    },
    /// Take all attached buckets away, for the mount is about to go; they stay remembered.
    Suspend {
        /// Whether they may be in use.
        lazy: bool,
    },
    /// Bring them back, for the mount stays.
    Resume,
    /// Something about zones.
    Zone {
        /// What.
        ask: super::zones::ZoneAsk,
    },
    /// Unmount, and end once the volume is closed.
    Unmount,
}

/// Where a store is, and how content is stored there. Keys are named, never sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePlace {
    /// Bucket and prefix.
    pub url: String,
    /// Where its service answers, if not at its usual address.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default)]
    pub region: Option<String>,
    /// How content is compressed.
    #[serde(default)]
    pub compression: Option<String>,
    /// Where the key is that encrypts it.
    #[serde(default)]
    pub key: Option<String>,
    /// The file with its own credentials, which the daemon reads.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// The profile in that file.
    #[serde(default)]
    pub profile: Option<String>,
}

/// Limits of a store as the command line takes them; as they are where nothing is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreLimitsText {
    /// Requests at once, or `none`.
    #[serde(default)]
    pub max_requests: Option<String>,
    /// Bytes sent a second, or `none`.
    #[serde(default)]
    pub upload: Option<String>,
    /// Bytes fetched a second, or `none`.
    #[serde(default)]
    pub download: Option<String>,
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// Answer to [`super::ZoneAsk::Changes`].
    Changes {
        /// Where to go on.
        next: u64,
        /// What there was.
        changes: Vec<super::ZoneChange>,
    },
    /// Answer to [`Request::AttachmentSet`].
    Limits {
        /// What holds now.
        limits: crate::attach::SpecLimits,
    },
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// Answer to [`Request::Gc`].
    Reclaimed {
        /// Bytes given back.
        bytes: u64,
    },
    /// Answer to [`Request::Garbage`].
    Garbage {
        /// Blobs that nothing refers to.
        dead: u64,
        /// Bytes of them.
        dead_bytes: u64,
        /// Blobs that would be emptied because little of them is live.
        sparse: u64,
        /// Bytes of those that are dead.
        sparse_bytes: u64,
        /// Files and objects that belong to nothing.
        unknown: u64,
    },
    /// Answer to [`Request::Scrub`].
    Scrubbed {
        /// Where to go on; nothing if all was read.
        after: Option<u64>,
        /// Blobs that were read.
        blobs: u64,
        /// Bytes of them.
        bytes: u64,
        /// Bytes that are left.
        left_bytes: u64,
        /// What is wrong, a sentence each.
        damage: Vec<String>,
    },
    /// Answer to [`Request::Flush`] and [`Request::FlushFiles`].
    Flushed {
        /// Bytes of what was meant that are still only on the local disk.
        left_bytes: u64,
        /// What is meant.
        mark: u64,
    },
    /// Answer to [`Request::Place`].
    Placed {
        /// How many were placed elsewhere before.
        changed: u64,
    },
    /// Answer to [`Request::Placement`].
    Placement {
        /// The store.
        store: String,
        /// What fsync waits for: store, local or remote.
        fsync: String,
    },
    /// Answer to [`Request::Migrate`].
    Migrated {
        /// Bytes that were moved.
        bytes: u64,
        /// Whether there are more.
        more: bool,
    },
    /// Answer to [`Request::Residency`].
    Residency {
        /// Bytes in all, without holes.
        bytes: u64,
        /// Bytes on this disk that are in their store, too.
        cached: u64,
        /// Bytes that are nowhere but on this disk, though their store is elsewhere.
        only_here: u64,
        /// Most bytes that are kept here; nothing if no store is elsewhere.
        limit: Option<u64>,
    },
    /// Answer to [`Request::Warm`].
    Warmed {
        /// Bytes that are here now, of those looked at.
        bytes: u64,
        /// Which file to go on with, and where in it; nothing if that was all.
        next: Option<(usize, u64)>,
    },
    /// Answer to [`Request::Evict`].
    Evicted {
        /// Bytes that are not here any more.
        bytes: u64,
    },
    /// Answer to questions about zones.
    Zones {
        /// How they are.
        zones: Vec<super::zones::ZoneView>,
        /// Those that can't be opened.
        #[serde(default)]
        closed: Vec<super::zones::ClosedView>,
        /// Those that stand in the mount, and that this node takes no part in.
        #[serde(default)]
        elsewhere: Vec<super::zones::ElsewhereView>,
    },
    /// An invitation, or another text to be handed on, as what is left of a store.
    Text {
        /// The text.
        text: String,
    },
    /// Answer to [`Request::Check`]: a line for each finding.
    Findings {
        /// The damage; empty is well.
        findings: Vec<String>,
        /// What was looked at, in a few words.
        checked: String,
    },
}

/// How a daemon is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_sec: u64,
    /// The data folder.
    pub data: PathBuf,
    /// The volume's id.
    pub volume: String,
    /// Driver of the metadata.
    pub metastore: String,
    /// Driver of sealed content.
    pub object_store: String,
    /// Whether all is well.
    pub health: Health,
    /// Where the volume is mounted.
    pub mounts: Vec<MountStatus>,
    /// Buckets that are attached to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentStatus>,
    /// Its zones.
    pub zones: Vec<ZoneStatus>,
    /// Zones that stand in it, and that this node takes no part in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<super::zones::ElsewhereView>,
    /// Content.
    pub content: ContentStatus,
    /// The store in the cloud, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// Stores that were added since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreStatus>,
    /// The disk below.
    pub space: SpaceStatus,
    /// Memory limit in bytes.
    pub memory_limit_bytes: u64,
    /// Memory that the daemon has in use, in bytes.
    pub memory_used_bytes: u64,
    /// Services that are loaded.
    pub services: Vec<String>,
}

/// Whether all is well.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Nothing is wrong.
    pub ok: bool,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub target: PathBuf,
    /// What /proc/mounts shows as the source.
    pub source: String,
    /// Options, as given.
    pub options: String,
    /// Whether changes are refused.
    pub read_only: bool,
    /// What carries the kernel's requests: `device` or `io_uring`.
    pub transport: String,
    /// Why that is not io_uring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_note: Option<String>,
}

/// An attached bucket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentStatus {
    /// Where.
    pub target: PathBuf,
    /// Bucket and prefix.
    pub url: String,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether it is mounted there.
    pub mounted: bool,
    /// What the bucket may be asked for, where there is a limit.
    #[serde(default, skip_serializing_if = "crate::attach::SpecLimits::is_empty")]
    pub limits: crate::attach::SpecLimits,
    /// What it was asked for, by the name of the directory.
    #[serde(default)]
    pub store: StoreStatus,
}

/// A zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// Its place in the mount table; 0 is the root zone.
    pub index: u16,
    /// Its id.
    pub id: String,
    /// Inodes.
    pub inodes: u64,
    /// Bytes of content that files have.
    pub content_bytes: u64,
    /// Last command in the log.
    pub log_last: u64,
    /// Last command that is durable.
    pub log_durable: u64,
    /// Last command that the metastore has.
    pub log_checkpoint: u64,
    /// Bytes of log files.
    pub log_bytes: u64,
    /// Bytes of changes that the metastore does not have yet.
    pub pending_bytes: u64,
    /// Bytes of the metastore.
    pub metastore_bytes: u64,
}

/// Content on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ContentStatus {
    /// Segments that are open for writing.
    pub segments: u64,
    /// Bytes in them.
    pub segment_bytes: u64,
    /// Sealed blobs.
    pub blobs: u64,
    /// Bytes in them.
    pub blob_bytes: u64,
    /// Bytes of both that files refer to.
    pub live_bytes: u64,
}

/// A store in the cloud: what it costs since the daemon started, and what it does not have yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// What the volume calls it.
    #[serde(default)]
    pub name: String,
    /// Which.
    pub url: String,
    /// Whether it is in memory, and gone when the daemon ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volatile: bool,
    /// Most requests at once; not there if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Most bytes sent a second, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_limit: Option<u64>,
    /// Most bytes fetched a second, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_limit: Option<u64>,
    /// Bytes of content that are only on the local disk.
    pub waiting_bytes: u64,
    /// Bytes of its content that are kept on the local disk too.
    pub cached_bytes: u64,
    /// Requests that store bytes.
    pub puts: u64,
    /// Requests that read bytes.
    pub gets: u64,
    /// Requests for an object's length.
    pub heads: u64,
    /// Requests for a list of objects.
    pub lists: u64,
    /// Requests that delete.
    pub deletes: u64,
    /// Requests that failed after all tries.
    pub failures: u64,
    /// Tries that got no answer, or one that asks to try again.
    #[serde(default)]
    pub failed_tries: u64,
    /// Requests that waited for the store's limits.
    #[serde(default)]
    pub throttled: u64,
    /// Milliseconds that they waited, all together.
    #[serde(default)]
    pub throttled_ms: u64,
    /// Reads that were answered from this disk alone.
    #[serde(default)]
    pub cache_hits: u64,
    /// Bytes of those.
    #[serde(default)]
    pub cache_hit_bytes: u64,
    /// Reads that waited for the store.
    #[serde(default)]
    pub cache_misses: u64,
    /// Bytes of those.
    #[serde(default)]
    pub cache_miss_bytes: u64,
    /// Bytes stored.
    pub bytes_up: u64,
    /// Bytes read.
    pub bytes_down: u64,
}

/// Space of the disk below, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// In all.
    pub total_bytes: u64,
    /// Free for the daemon's user.
    pub available_bytes: u64,
}

/// A request as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RequestLine {
    pub version: u32,
    pub request: Request,
}

/// Only the version, to tell a foreign one from a broken line.
#[derive(Debug, Deserialize)]
pub(super) struct VersionOnly {
    pub version: u32,
}

/// A reply as it travels; exactly one of the two is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReplyLine {
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
