//! Arguments of `nexus-fuse share`, `join` and `zone`, and what their help says.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// Most nodes that content is kept on.
const MOST_REPLICAS: i64 = 16;

pub(in crate::cli) const SHARE_HELP: &str = "\
Examples:
  nexus-fuse share /mnt/nexus/project          make it a zone, and print an invitation
  nexus-fuse share /mnt/nexus/project --name p --ttl 7d
  nexus-fuse share /mnt/nexus/project --replicas 3
  nexus-fuse share /mnt/nexus/work/plans --open

What is in the directory stays as it is, for everybody on this machine; other nodes have it from
when they join. What is written is on the disks of --replicas nodes before it counts as written,
so that no loss of one disk loses it; others fetch it as they read it. All changes are agreed on by
a majority of the nodes, so with two of them both must be there for a change, with three one
may be away. The daemon listens for the others at the address that `mount --listen` gave, else
at port 7420. Files of the directory should not be open meanwhile.";

pub(in crate::cli) const JOIN_HELP: &str = "\
Examples:
  mkdir -p /mnt/nexus/work/project
  nexus-fuse join nexus://10.0.0.1:7420/join/... /mnt/nexus/work/project
  nexus-fuse join /mnt/nexus/work/project/plans    a zone within that one, if it is open
  nexus-fuse join nexus://10.0.0.1:7420/plans/2026 /mnt/nexus/2026
  nexus-fuse join --witness nexus://10.0.0.1:7420/join/...    votes, and has none of the files

An invitation works once, for one node; `nexus-fuse zone invite` makes another. The members must
be able to reach each other, in both directions, at the ports where they listen. A path from a node,
nexus://HOST:PORT/PATH, is for members of a zone that this node is in, from whose root it leads, over zones
that are open to the members of those around them; all on the way are joined. A witness lets two
others go on without one of them: it holds the zone's log, and is mounted nowhere.";

pub(in crate::cli) const ZONE_HELP: &str = "\
Examples:
  nexus-fuse zone ls                           the zones of all mounts
  nexus-fuse zone status project               members, roles, how far each is
  nexus-fuse zone invite project               an invitation for one more node
  nexus-fuse zone remove-member project bob    its certificate counts for nothing from then on
  nexus-fuse zone transfer-leader project bob
  nexus-fuse zone replicas project 3           have content on three nodes
  nexus-fuse zone digest project               the same at every member that is up to date
  nexus-fuse zone leave project                the others go on without this node";

const MEMBER_HELP: &str = "\
Examples:
  nexus-fuse zone remove-member project bob
  nexus-fuse zone transfer-leader project 3fa9";

const NAMED_HELP: &str = "\
Examples:
  nexus-fuse zone status project
  nexus-fuse zone leave project
  nexus-fuse zone digest 4f2a --mount /mnt/nexus";

const REPLICAS_HELP: &str = "\
Examples:
  nexus-fuse zone replicas project 3

What is written from then on is on so many nodes before it counts as written; what is there
already is brought to them in the background, which `zone status` tells of.";

const OPEN_HELP: &str = "\
Examples:
  nexus-fuse zone open plans                   members of the zone around it may `join DIRECTORY`
  nexus-fuse zone open plans --no              by invitation alone

They ask a member of both zones, which invites them. A zone in no other zone is joined by invitation alone.";

const INVITE_HELP: &str = "\
Examples:
  nexus-fuse zone invite project
  nexus-fuse zone invite project --ttl 30m
  nexus-fuse zone invite project --witness     for a node that only votes: `join --witness`";

const LS_HELP: &str = "\
Examples:
  nexus-fuse zone ls
  nexus-fuse zone ls --trash                   those that stand nowhere any more
  nexus-fuse zone ls --mount /mnt/nexus";

const CREATE_HELP: &str = "\
Examples:
  nexus-fuse zone create notes
  nexus-fuse zone mount notes /mnt/nexus/notes
  nexus-fuse zone invite notes";

const MOUNT_HELP: &str = "\
Examples:
  nexus-fuse zone mount notes /mnt/nexus/notes

A zone may stand in several places, but not within itself. The directory may be in another zone:
then all members of that see that it stands there.";

const UNMOUNT_HELP: &str = "\
Examples:
  nexus-fuse zone unmount /mnt/nexus/notes

The directory is empty then. Where the zone stands nowhere else, this node leaves it, as with
`zone leave`; if nobody else has it, it goes to the trash: `zone ls --trash`, `zone restore`.";

const RESTORE_HELP: &str = "\
Examples:
  nexus-fuse zone ls --trash
  nexus-fuse zone restore notes /mnt/nexus/notes";

const DESTROY_HELP: &str = "\
Examples:
  nexus-fuse zone destroy notes --yes          for all its members; needs a majority of them
  nexus-fuse zone destroy notes --here --yes   what this node has of it, no more

All its files are gone then, and nothing brings them back. With --here, so does a zone that can't be
opened, or that has lost its majority; members that are left keep what they have, and to them this
node is one that does not answer. `zone audit` tells who has destroyed what, and when.";

const RECOVER_HELP: &str = "\
Examples:
  nexus-fuse zone recover project              what it would do, and what is lost
  nexus-fuse zone recover project --yes
  nexus-fuse zone recover project --keep bob --yes

Only where a majority of the members is gone for good: this node goes on, alone or with those that
--keep names, from what it has. Of several nodes that are left, take the one whose last log entry, in
`zone status`, is the highest. The others are no members any more, whatever they bring back; should they
come back, `zone destroy --here` there, then they may join anew. `zone audit` keeps a record of it.";

const WATCH_HELP: &str = "\
Examples:
  nexus-fuse zone watch /mnt/nexus/project     until it is interrupted
  nexus-fuse zone watch project --from 1042    from there on, as a line before has told
  nexus-fuse zone watch project --member bob --json --count 10

A line for each name that came (`made`) or went (`removed`), and for each inode that is
`changed` otherwise, with where to go on after it. Who is too slow, or asks for what is too
long ago, is told `missed`: changes were left out, and whatever was known of the zone before
is to be looked at anew. Nobody waits for a watcher.";

const AUDIT_HELP: &str = "\
Examples:
  nexus-fuse zone audit
  nexus-fuse zone audit --mount /mnt/nexus";

/// Arguments of `share`.
#[derive(Args, Debug, Clone)]
pub struct ShareArgs {
    /// The directory, on a mount of Nexus
    pub path: PathBuf,
    /// What to call the zone [default: the directory's name]
    #[arg(long)]
    pub name: Option<String>,
    /// How long the invitation holds: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    pub ttl: Duration,
    /// On how many nodes' disks each byte is to be, this one's among them [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_REPLICAS))]
    pub replicas: Option<u32>,
    /// Let members of the zone around it join it without an invitation
    #[arg(long)]
    pub open: bool,
}

/// Arguments of `join`.
#[derive(Args, Debug, Clone)]
pub struct JoinArgs {
    /// The invitation, as `share` or `zone invite` printed it, and an empty directory on a mount of Nexus, made
    /// if missing; a path from a node in place of the invitation; or only the directory of a zone that stands in
    /// another and is open to its members
    #[arg(value_names = ["INVITATION", "DIRECTORY"], num_args = 1..=2, required = true)]
    pub places: Vec<PathBuf>,
    /// Be a witness: only vote, and have none of the files; takes an invitation alone
    #[arg(long)]
    pub witness: bool,
    /// With --witness, the mount whose node is meant [default: the only one]
    #[arg(long, value_name = "MOUNT", requires = "witness")]
    pub mount: Option<PathBuf>,
}

/// Commands about zones.
#[derive(Subcommand, Debug, Clone)]
pub enum ZoneCommand {
    /// List the zones that this node takes part in
    #[command(after_help = LS_HELP)]
    Ls(LsArgs),
    /// Tell how a zone is: members, roles, how far each is
    #[command(after_help = NAMED_HELP)]
    Status(Named),
    /// Print an invitation for one more node
    #[command(after_help = INVITE_HELP)]
    Invite(InviteArgs),
    /// Take a member out, a dead one too
    #[command(after_help = MEMBER_HELP)]
    RemoveMember(MemberArgs),
    /// Have another member lead
    #[command(after_help = MEMBER_HELP)]
    TransferLeader(MemberArgs),
    /// Set on how many nodes content is kept
    #[command(after_help = REPLICAS_HELP)]
    Replicas(ReplicasArgs),
    /// Let members of the zones that it stands in join a zone without an invitation
    #[command(after_help = OPEN_HELP)]
    Open(OpenArgs),
    /// Make an empty zone that stands nowhere yet
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// Have a zone stand at an empty directory
    #[command(after_help = MOUNT_HELP)]
    Mount(PlaceArgs),
    /// Take a zone away from where it stands
    #[command(after_help = UNMOUNT_HELP)]
    Unmount(UnmountArgs),
    /// Take a zone out of the trash, to an empty directory
    #[command(after_help = RESTORE_HELP)]
    Restore(PlaceArgs),
    /// Delete a zone, for all its members or here alone
    #[command(after_help = DESTROY_HELP)]
    Destroy(DestroyArgs),
    /// Go on with a zone whose majority is lost for good
    #[command(after_help = RECOVER_HELP)]
    Recover(RecoverArgs),
    /// Print what changes in a zone, as it does
    #[command(after_help = WATCH_HELP)]
    Watch(WatchArgs),
    /// Print what was done to zones that can't be undone
    #[command(after_help = AUDIT_HELP)]
    Audit(MountOnly),
    /// Leave a zone; the others go on without this node
    #[command(after_help = NAMED_HELP)]
    Leave(Named),
    /// Print a sum over the zone's state
    #[command(after_help = NAMED_HELP)]
    Digest(Named),
}

/// Which mount is meant.
#[derive(Args, Debug, Clone)]
pub struct MountOnly {
    /// The mount whose zones are meant [default: the only one]
    #[arg(long, value_name = "MOUNT")]
    pub mount: Option<PathBuf>,
}

/// Arguments of `zone ls`.
#[derive(Args, Debug, Clone)]
pub struct LsArgs {
    /// Only those in the trash
    #[arg(long)]
    pub trash: bool,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// Arguments of `zone create`.
#[derive(Args, Debug, Clone)]
pub struct CreateArgs {
    /// What to call it
    pub name: String,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// A zone, and where it is to stand.
#[derive(Args, Debug, Clone)]
pub struct PlaceArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// An empty directory on a mount of Nexus; made if missing
    pub path: PathBuf,
}

/// Arguments of `zone unmount`.
#[derive(Args, Debug, Clone)]
pub struct UnmountArgs {
    /// Where the zone stands
    pub path: PathBuf,
}

/// Arguments of `zone destroy`.
#[derive(Args, Debug, Clone)]
pub struct DestroyArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// Delete only what this node has of it
    #[arg(long)]
    pub here: bool,
    /// Really do it
    #[arg(long)]
    pub yes: bool,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// Arguments of `zone recover`.
#[derive(Args, Debug, Clone)]
pub struct RecoverArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// A member that is left, too: its name, or the beginning of its id; may be given several times
    #[arg(long, value_name = "MEMBER")]
    pub keep: Vec<String>,
    /// Really do it
    #[arg(long)]
    pub yes: bool,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// A zone.
#[derive(Args, Debug, Clone)]
pub struct Named {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// Arguments of `zone invite`.
#[derive(Args, Debug, Clone)]
pub struct InviteArgs {
    /// Which zone.
    #[command(flatten)]
    pub named: Named,
    /// How long the invitation holds: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    pub ttl: Duration,
    /// For a witness alone, which votes and has none of the files
    #[arg(long)]
    pub witness: bool,
}

/// Arguments of `zone watch`.
#[derive(Args, Debug, Clone)]
pub struct WatchArgs {
    /// Where the zone stands, its name, or the beginning of its id
    pub zone: PathBuf,
    /// Go on from here, as a line before has told [default: from now on]
    #[arg(long, value_name = "NEXT")]
    pub from: Option<u64>,
    /// Have this member tell: its name, or the beginning of its id [default: this node]
    #[arg(long)]
    pub member: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Print a JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// Arguments of `zone open`.
#[derive(Args, Debug, Clone)]
pub struct OpenArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// Do not, from now on
    #[arg(long)]
    pub no: bool,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// Arguments of `zone replicas`.
#[derive(Args, Debug, Clone)]
pub struct ReplicasArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// On how many nodes' disks each byte is to be, the writer's among them
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MOST_REPLICAS))]
    pub count: u32,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// A zone's member.
#[derive(Args, Debug, Clone)]
pub struct MemberArgs {
    /// The zone's name, or the beginning of its id
    pub zone: String,
    /// The member's name, or the beginning of its id
    pub member: String,
    /// Which mount.
    #[command(flatten)]
    pub on: MountOnly,
}

/// A time as people write it.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write it as 90s, 30m, 24h or 7d");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|time| *time > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("7d"), Ok(Duration::from_secs(7 * 86400)));
        for wrong in ["", "7", "d", "-1h", "0m", "1w", "99999999999999999999d", "1é"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
