//! Messages about zones.

use serde::{Deserialize, Serialize};

/// What can be asked of a daemon about zones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "zone", rename_all = "snake_case", deny_unknown_fields)]
pub enum ZoneAsk {
    /// Make a directory a zone; answered with an invitation.
    Share {
        /// The directory's inode number.
        inode: u64,
        /// What to call the zone.
        name: String,
        /// For how many seconds the invitation is to hold.
        ttl_sec: u64,
        /// On how many nodes content is to be, if that is said.
        replicas: Option<u32>,
        /// Whether members of the zone around it may join it without an invitation.
        open: bool,
    },
    /// Join a zone, and mount it on an empty directory.
    Join {
        /// The invitation; none for a zone that stands there and is open to members of the zone around it.
        invite: Option<String>,
        /// The directory's inode number.
        inode: u64,
    },
    /// Join the zone that stands at a path, from the root of a zone that has a member at an address, and mount it.
    JoinByPath {
        /// The address, `HOST:PORT`.
        address: String,
        /// The names that lead there.
        names: Vec<String>,
        /// The inode number of an empty directory.
        inode: u64,
    },
    /// Join a zone as a witness, which is mounted nowhere.
    Witness {
        /// The invitation.
        invite: String,
    },
    /// Say whether members of the zones that it stands in may join a zone without an invitation.
    Open {
        /// The zone.
        name: String,
        /// Whether.
        open: bool,
    },
    /// Tell of all zones.
    List,
    /// Invite one more node.
    Invite {
        /// The zone: its name, or the beginning of its id.
        name: String,
        /// For how many seconds the invitation is to hold.
        ttl_sec: u64,
        /// Whether for a witness.
        #[serde(default)]
        witness: bool,
    },
    /// Take a member out.
    RemoveMember {
        /// The zone.
        name: String,
        /// The member: its name, or the beginning of its id.
        member: String,
    },
    /// Have another member lead.
    TransferLeader {
        /// The zone.
        name: String,
        /// The member.
        member: String,
    },
    /// Have content on so many nodes from now on.
    SetReplicas {
        /// The zone.
        name: String,
        /// How many, the writer among them.
        replicas: u32,
    },
    /// Make an empty zone that stands nowhere yet.
    Create {
        /// What to call it.
        name: String,
        /// Who its root belongs to: user and group.
        owner: (u32, u32),
    },
    /// Have a zone stand at an empty directory.
    Mount {
        /// The zone.
        name: String,
        /// The directory's inode number.
        inode: u64,
    },
    /// Take a zone away from where it stands.
    Unmount {
        /// Where.
        path: std::path::PathBuf,
    },
    /// Delete a zone.
    Destroy {
        /// The zone.
        name: String,
        /// Only what this node has of it, whatever others have.
        here: bool,
        /// Who asks, for the record.
        user: u32,
    },
    /// Go on with a zone whose majority is lost for good.
    Recover {
        /// The zone.
        name: String,
        /// Members that are left beside this node.
        keep: Vec<String>,
        /// Whether to do it, and not only tell what it would do.
        yes: bool,
        /// Who asks, for the record.
        user: u32,
    },
    /// What was done to zones that can't be undone.
    Audit,
    /// Leave a zone.
    Leave {
        /// The zone.
        name: String,
    },
    /// The next changes of a zone.
    Changes {
        /// The zone.
        name: String,
        /// From this index of its log on; none: from now on.
        from: Option<u64>,
        /// The member to ask; none: this node.
        member: Option<String>,
        /// How long to wait for a change.
        wait_ms: u64,
    },
    /// A sum over the zone's state, the same at every member that is up to date.
    Digest {
        /// The zone.
        name: String,
    },
}

/// How a zone is, from this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneView {
    /// What people call it.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Where it is mounted.
    pub mounts: Vec<std::path::PathBuf>,
    /// What this node does in it: leader, follower, candidate, learner, stopped.
    pub role: String,
    /// Whether it is a witness.
    #[serde(default)]
    pub witness: bool,
    /// Since when it is in the trash, if it is, in seconds since 1970.
    #[serde(default)]
    pub trashed_since: Option<i64>,
    /// Whether a majority of its members is known to be there.
    pub has_quorum: bool,
    /// Whether its group rests, as nothing happens in it.
    pub resting: bool,
    /// The term.
    pub term: u64,
    /// The last entry in this node's log.
    pub last: Option<u64>,
    /// The last entry that is committed, as far as this node knows.
    pub committed: Option<u64>,
    /// The last entry that is applied here.
    pub applied: Option<u64>,
    /// The last entry that this node's metastore has.
    pub checkpoint: u64,
    /// Bytes of entries that are kept for the others.
    pub log_bytes: u64,
    /// Bytes of the metastore.
    pub metastore_bytes: u64,
    /// On how many nodes each byte of content is to be.
    pub replicas: u32,
    /// Bytes that this node has written, of which there are too few copies.
    pub lacking_bytes: u64,
    /// Bytes of copies that this node keeps for others.
    pub mirror_bytes: u64,
    /// The newest version of commands that all members know.
    pub commands: u8,
    /// Whether members of the zones that it stands in may join without an invitation.
    pub open: bool,
    /// Its members.
    pub members: Vec<ZoneMember>,
}

/// A zone that can't be opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClosedView {
    /// Its name, or what else is known of it.
    pub name: String,
    /// Its id, if that is known.
    pub id: Option<String>,
    /// Why it can't be opened, and what to do about it.
    pub why: String,
}

/// A zone that stands in the mount, and that this node takes no part in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ElsewhereView {
    /// Where.
    pub path: std::path::PathBuf,
    /// What people call it.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Where members of it were heard of.
    pub addresses: Vec<String>,
}

impl ElsewhereView {
    /// What it is, and how to take part in it.
    pub fn advice(&self) -> String {
        let ElsewhereView { path, name, addresses, .. } = self;
        let (path, members) = (
            path.display(),
            if addresses.is_empty() { String::new() } else { format!(" (at {})", addresses.join(", ")) },
        );
        format!(
            "zone {name} stands at {path}, and this node takes no part in it: `nexus-fuse join {path}` if it is open \
             to members of the zone around it; else ask a member{members} for an invitation (`nexus-fuse zone invite \
             {name}` there), then `nexus-fuse join INVITATION {path}`"
        )
    }
}

/// What an entry of a zone's log changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneChange {
    /// Where to go on after it: one more than the entry's index.
    pub next: u64,
    /// What happened: `made`, `removed`, `changed`, or `missed` where changes were left out.
    pub change: String,
    /// Where, from the zone's root on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The inode, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

/// A member of a zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneMember {
    /// Its id in the zone.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it has none of the files.
    #[serde(default)]
    pub witness: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it is this node.
    pub here: bool,
    /// Entries that it lags behind the leader; only the leader knows.
    pub lag: Option<u64>,
}
