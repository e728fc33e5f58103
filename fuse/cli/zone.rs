//! `nexus-fuse share`, `join` and `zone`: directories that several nodes have.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use nexus::config::ByteSize;

use super::find;
use crate::control::{ClosedView, ControlError, ElsewhereView, Reply, Request, ZoneAsk, ZoneView};

/// A zone of some size takes a while to be made, or to arrive.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Most nodes that content is kept on.
const MOST_REPLICAS: i64 = 16;

pub(super) const SHARE_HELP: &str = "\
Examples:
  nexus-fuse share /mnt/nexus/project          make it a zone, and print an invitation
  nexus-fuse share /mnt/nexus/project --name p --ttl 7d
  nexus-fuse share /mnt/nexus/project --replicas 3

What is in the directory stays as it is, for everybody on this machine; other nodes have it from
when they join. What is written is on the disks of --replicas nodes before it counts as written,
so that no loss of one disk loses it; others fetch it as they read it. All changes are agreed on by
a majority of the nodes, so with two of them both must be there for a change, with three one
may be away. The daemon listens for the others at the address that `mount --listen` gave, else
at port 7420. Files of the directory should not be open meanwhile.";

pub(super) const JOIN_HELP: &str = "\
Examples:
  mkdir -p /mnt/nexus/work/project
  nexus-fuse join nexus://10.0.0.1:7420/join/... /mnt/nexus/work/project

An invitation works once, for one node; `nexus-fuse zone invite` makes another. The members must
be able to reach each other, in both directions, at the ports where they listen.";

pub(super) const ZONE_HELP: &str = "\
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

const INVITE_HELP: &str = "\
Examples:
  nexus-fuse zone invite project
  nexus-fuse zone invite project --ttl 30m";

const LS_HELP: &str = "\
Examples:
  nexus-fuse zone ls
  nexus-fuse zone ls --mount /mnt/nexus";

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
}

/// Arguments of `join`.
#[derive(Args, Debug, Clone)]
pub struct JoinArgs {
    /// The invitation, as `share` or `zone invite` printed it
    pub invite: String,
    /// An empty directory on a mount of Nexus; made if missing
    pub path: PathBuf,
}

/// Commands about zones.
#[derive(Subcommand, Debug, Clone)]
pub enum ZoneCommand {
    /// List the zones that this node takes part in
    #[command(after_help = LS_HELP)]
    Ls(MountOnly),
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

/// Makes a directory a zone.
pub fn share(args: &ShareArgs) -> Result<String, String> {
    let (volume, path) = find::containing_zones(&args.path)?;
    let metadata = path.symlink_metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = args.name.clone().or(own).ok_or("the root of a volume can't be shared: share a directory below it")?;
    let users = open_below(&path);
    if let Some(user) = users.first() {
        return Err(format!(
            "{} is in use by {user}{}: end it first, or what it writes from now on would be lost",
            path.display(),
            if users.len() > 1 { format!(" and {} more", users.len() - 1) } else { String::new() }
        ));
    }
    // What programs wrote through mmap is a part of it.
    let synced = std::fs::File::open(&path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    synced.map_err(|error| format!("cannot flush {}: {error}", path.display()))?;
    let (inode, ttl_sec, replicas) = (metadata.ino(), args.ttl.as_secs(), args.replicas);
    let ask = ZoneAsk::Share { inode, name: name.clone(), ttl_sec, replicas };
    let invite = text_of(ask_volume(&volume, ask)?)?;
    eprintln!("{} is zone {name} from now on. To join it, elsewhere:", path.display());
    eprintln!("  nexus-fuse join INVITE DIRECTORY        with this invitation, which works once:");
    Ok(invite)
}

/// Processes with open files or their working directory at or below a path, as far as this
/// user can tell.
fn open_below(path: &std::path::Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let links = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let links = links.map(|entry| entry.path()).chain([process.path().join("cwd")]);
        if links.filter_map(|link| std::fs::read_link(link).ok()).any(|target| target.starts_with(path)) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (process {pid})", name.trim()));
        }
    }
    found
}

/// Joins a zone.
pub fn join(args: &JoinArgs) -> Result<String, String> {
    if !args.path.exists() {
        // Nothing is made where nothing can be joined.
        let around = args.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        find::containing_zones(around.unwrap_or(std::path::Path::new(".")))?;
        std::fs::create_dir(&args.path).map_err(|error| format!("cannot make {}: {error}", args.path.display()))?;
    }
    let (volume, path) = find::containing_zones(&args.path)?;
    let failed = |error| format!("{}: {error}", path.display());
    let metadata = path.symlink_metadata().map_err(failed)?;
    let first = std::fs::read_dir(&path).and_then(|mut entries| entries.next().transpose());
    let is_empty = match first {
        Ok(first) => first.is_none(),
        // Where the zone stands already, it is only to be joined.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::REMOTE.raw_os_error()) => true,
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_dir() || !is_empty {
        return Err(format!("{} is not an empty directory", path.display()));
    }
    let ask = ZoneAsk::Join { invite: args.invite.clone(), inode: metadata.ino() };
    let name = text_of(ask_volume(&volume, ask)?)?;
    Ok(format!("zone {name} is at {}", path.display()))
}

/// Runs a command about zones.
pub fn run(command: &ZoneCommand) -> Result<String, String> {
    match command {
        ZoneCommand::Ls(on) => {
            let (zones, closed, elsewhere) = list(on)?;
            let lines = zones.iter().map(line).chain(closed.iter().map(closed_line));
            let lines: Vec<String> = lines.chain(elsewhere.iter().map(elsewhere_line)).collect();
            Ok(if lines.is_empty() { "no zones".to_owned() } else { lines.join("\n") })
        }
        ZoneCommand::Status(named) => {
            let (zones, closed, _) = list(&named.on)?;
            if let Some(zone) = closed.iter().find(|zone| zone.name == named.zone) {
                return Err(closed_line(zone));
            }
            let matches = |zone: &&ZoneView| zone.name == named.zone || zone.id.starts_with(&named.zone);
            let found: Vec<_> = zones.iter().filter(matches).collect();
            match found.as_slice() {
                [] => Err(format!("this node takes part in no zone {}: see `nexus-fuse zone ls`", named.zone)),
                zones => Ok(zones.iter().map(|zone| describe(zone)).collect::<Vec<_>>().join("\n")),
            }
        }
        ZoneCommand::Invite(args) => {
            let ask = ZoneAsk::Invite { name: args.named.zone.clone(), ttl_sec: args.ttl.as_secs() };
            text_of(ask_on(&args.named.on, ask)?)
        }
        ZoneCommand::RemoveMember(args) => {
            let (name, member) = (args.zone.clone(), args.member.clone());
            ask_on(&args.on, ZoneAsk::RemoveMember { name, member })?;
            Ok(format!("{} is no member of {} any more", args.member, args.zone))
        }
        ZoneCommand::TransferLeader(args) => {
            let (name, member) = (args.zone.clone(), args.member.clone());
            ask_on(&args.on, ZoneAsk::TransferLeader { name, member })?;
            Ok(format!("{} leads {}", args.member, args.zone))
        }
        ZoneCommand::Replicas(args) => {
            ask_on(&args.on, ZoneAsk::SetReplicas { name: args.zone.clone(), replicas: args.count })?;
            Ok(format!("content of {} is kept on {} nodes from now on", args.zone, args.count))
        }
        ZoneCommand::Leave(named) => {
            ask_on(&named.on, ZoneAsk::Leave { name: named.zone.clone() })?;
            Ok(format!("this node has left zone {}", named.zone))
        }
        ZoneCommand::Digest(named) => text_of(ask_on(&named.on, ZoneAsk::Digest { name: named.zone.clone() })?),
    }
}

type Listed = (Vec<ZoneView>, Vec<ClosedView>, Vec<ElsewhereView>);

fn list(on: &MountOnly) -> Result<Listed, String> {
    match ask_on(on, ZoneAsk::List)? {
        Reply::Zones { zones, closed, elsewhere } => Ok((zones, closed, elsewhere)),
        other => Err(unexpected(&other)),
    }
}

fn closed_line(zone: &ClosedView) -> String {
    format!("{}  CAN'T BE OPENED: {}", zone.name, zone.why)
}

fn elsewhere_line(zone: &ElsewhereView) -> String {
    format!("{}  not joined: `nexus-fuse status` tells how  {}", zone.name, zone.path.display())
}

fn line(zone: &ZoneView) -> String {
    let quorum = if zone.has_quorum { "" } else { ", NO QUORUM" };
    let places: Vec<String> = zone.mounts.iter().map(|path| path.display().to_string()).collect();
    let places = if places.is_empty() { "not mounted".to_owned() } else { places.join(", ") };
    format!("{}  {} members, {}{quorum}  {places}", zone.name, zone.members.len(), zone.role)
}

fn describe(zone: &ZoneView) -> String {
    let mut out = String::new();
    let number = |at: Option<u64>| at.map_or_else(|| "none".to_owned(), |at| at.to_string());
    let quorum = if zone.has_quorum { "a majority is there" } else { "NO MAJORITY: changes wait" };
    let rests = if zone.resting { ", at rest" } else { "" };
    let _ = writeln!(out, "{} ({}): {}, term {}, {quorum}{rests}", zone.name, zone.id, zone.role, zone.term);
    for path in &zone.mounts {
        let _ = writeln!(out, "  mounted    {}", path.display());
    }
    let _ = writeln!(
        out,
        "  log        last {}, committed {}, applied {}, checkpoint {}; {} kept for others",
        number(zone.last),
        number(zone.committed),
        number(zone.applied),
        zone.checkpoint,
        ByteSize(zone.log_bytes)
    );
    let _ = writeln!(out, "  metadata   {}", ByteSize(zone.metastore_bytes));
    let copies = if zone.members.len() < zone.replicas as usize {
        format!("{} wanted, more than there are members", zone.replicas)
    } else if zone.lacking_bytes > 0 {
        format!("{} wanted; {} written here have too few yet", zone.replicas, ByteSize(zone.lacking_bytes))
    } else {
        format!("{} wanted", zone.replicas)
    };
    let _ = writeln!(out, "  copies     {copies}; {} kept here for others", ByteSize(zone.mirror_bytes));
    for member in &zone.members {
        let mut words = vec![
            if member.leads {
                "leads"
            } else if member.votes {
                "votes"
            } else {
                "learns"
            }
            .to_owned(),
        ];
        words.extend(member.here.then(|| "this node".to_owned()));
        words.extend(member.lag.map(|lag| format!("{lag} behind")));
        let _ = writeln!(
            out,
            "  member     {} {} ({}) at {}",
            member.id,
            member.name,
            words.join(", "),
            member.addresses.join(", ")
        );
    }
    out.trim_end().to_owned()
}

fn ask_on(on: &MountOnly, ask: ZoneAsk) -> Result<Reply, String> {
    let volume = match &on.mount {
        Some(path) => find::by_name(Some(path), None)?,
        None => {
            let mut mounted = find::mounted()?;
            match (mounted.pop(), mounted.is_empty()) {
                (Some(only), true) => only,
                (Some(_), false) => return Err("several volumes are mounted: say which with --mount".to_owned()),
                (None, _) => return Err("no volume is mounted".to_owned()),
            }
        }
    };
    ask_volume(&volume, ask)
}

fn ask_volume(volume: &find::Volume, ask: ZoneAsk) -> Result<Reply, String> {
    volume.ask(&Request::Zone { ask }, PATIENCE).map_err(|error| match error {
        ControlError::NobodyThere(_) => format!("the daemon of {} is gone: mount it again", volume.name()),
        error => error.to_string(),
    })
}

fn text_of(reply: Reply) -> Result<String, String> {
    match reply {
        Reply::Text { text } => Ok(text),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> String {
    format!("the daemon answered something else: {reply:?}")
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
