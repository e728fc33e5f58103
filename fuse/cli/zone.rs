//! `nexus-fuse share`, `join` and `zone`: directories that several nodes have.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use nexus::config::ByteSize;
use nexus_kernel::Timestamp;

use super::find;
use super::zone_args::{JoinArgs, MountOnly, ShareArgs, ZoneCommand};
use crate::control::{ClosedView, ControlError, ElsewhereView, Reply, Request, ZoneAsk, ZoneView};
use crate::daemon::logger::rfc3339;

/// A zone of some size takes a while to be made, or to arrive.
const PATIENCE: Duration = Duration::from_secs(3600);
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
    let ask = ZoneAsk::Share { inode, name: name.clone(), ttl_sec, replicas, open: args.open };
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
    if args.witness {
        let [invite] = args.places.as_slice() else {
            return Err("a witness is mounted nowhere: give the invitation alone, and --mount to say which node".into());
        };
        let ask = ZoneAsk::Witness { invite: invite.to_string_lossy().into_owned() };
        let name = text_of(ask_on(&MountOnly { mount: args.mount.clone() }, ask)?)?;
        return Ok(format!("this node is a witness of zone {name}"));
    }
    let (invite, path) = match args.places.as_slice() {
        [path] => (None, path),
        [invite, path] => (Some(invite.to_string_lossy().into_owned()), path),
        _ => return Err("give an invitation and a directory, or the directory of a zone".to_owned()),
    };
    if let Some((address, names)) = invite.as_deref().and_then(path_from_node) {
        let (volume, path, inode) = empty_directory(path)?;
        let name = text_of(ask_volume(&volume, ZoneAsk::JoinByPath { address, names, inode })?)?;
        return Ok(format!("zone {name} is at {}", path.display()));
    }
    if invite.is_none() && !path.exists() {
        return Err(format!("{} is not there: give an invitation and a directory", path.display()));
    }
    let (volume, path, inode) = empty_directory(path)?;
    let ask = ZoneAsk::Join { invite, inode };
    let name = text_of(ask_volume(&volume, ask)?)?;
    Ok(format!("zone {name} is at {}", path.display()))
}

/// The node and the names of `nexus://HOST:PORT/PATH`, where that is no invitation.
fn path_from_node(text: &str) -> Option<(String, Vec<String>)> {
    let (address, path) = text.strip_prefix("nexus://")?.split_once('/')?;
    let names: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let is_invitation = names.first().is_some_and(|name| name == "join");
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { address.to_owned() } else { format!("{address}:{}", nexus::zones::DEFAULT_PORT) };
    (!is_invitation && !names.is_empty()).then_some((address, names))
}

/// An empty directory on a mount, or one that a zone stands at which was not joined; made if it is
/// missing. The mount, its path, and its inode number.
fn empty_directory(wanted: &std::path::Path) -> Result<(find::Volume, PathBuf, u64), String> {
    if !wanted.exists() {
        // Nothing is made where nothing can be joined.
        let around = wanted.parent().filter(|parent| !parent.as_os_str().is_empty());
        find::containing_zones(around.unwrap_or(std::path::Path::new(".")))?;
        std::fs::create_dir(wanted).map_err(|error| format!("cannot make {}: {error}", wanted.display()))?;
    }
    let (volume, path) = find::containing_zones(wanted)?;
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
    Ok((volume, path, metadata.ino()))
}

/// Runs a command about zones.
pub fn run(command: &ZoneCommand) -> Result<String, String> {
    match command {
        ZoneCommand::Ls(args) if args.trash => {
            let (zones, ..) = list(&args.on)?;
            let lines: Vec<String> = zones.iter().filter_map(trash_line).collect();
            Ok(if lines.is_empty() { "nothing is in the trash".to_owned() } else { lines.join("\n") })
        }
        ZoneCommand::Ls(args) => {
            let (zones, closed, elsewhere) = list(&args.on)?;
            let lines = zones.iter().filter(|zone| zone.trashed_since.is_none()).map(line);
            let lines = lines.chain(closed.iter().map(closed_line));
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
            let (name, ttl_sec) = (args.named.zone.clone(), args.ttl.as_secs());
            let ask = ZoneAsk::Invite { name, ttl_sec, witness: args.witness };
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
        ZoneCommand::Open(args) => {
            ask_on(&args.on, ZoneAsk::Open { name: args.zone.clone(), open: !args.no })?;
            Ok(match args.no {
                true => format!("zone {} is joined by invitation alone", args.zone),
                false => format!("members of the zones that it stands in may join zone {}", args.zone),
            })
        }
        ZoneCommand::Create(args) => {
            let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let id = text_of(ask_on(&args.on, ZoneAsk::Create { name: args.name.clone(), owner })?)?;
            Ok(format!("zone {} ({id}) is there, and stands nowhere yet: `nexus-fuse zone mount`", args.name))
        }
        ZoneCommand::Mount(args) | ZoneCommand::Restore(args) => {
            let (volume, path, inode) = empty_directory(&args.path)?;
            ask_volume(&volume, ZoneAsk::Mount { name: args.zone.clone(), inode })?;
            Ok(format!("zone {} is at {}", args.zone, path.display()))
        }
        ZoneCommand::Unmount(args) => {
            let (volume, path) = find::containing_zones(&args.path)?;
            let what = text_of(ask_volume(&volume, ZoneAsk::Unmount { path: path.clone() })?)?;
            Ok(format!("no zone is at {} any more; {what}", path.display()))
        }
        ZoneCommand::Destroy(args) => {
            if !args.yes {
                return Err(format!(
                    "all files of zone {} would be gone {}, and nothing brings them back: say --yes if that is meant",
                    args.zone,
                    if args.here { "here" } else { "for all its members" }
                ));
            }
            let user = rustix::process::getuid().as_raw();
            let ask = ZoneAsk::Destroy { name: args.zone.clone(), here: args.here, user };
            Ok(format!("zone {}: {}", args.zone, text_of(ask_on(&args.on, ask)?)?))
        }
        ZoneCommand::Recover(args) => {
            let (user, name) = (rustix::process::getuid().as_raw(), args.zone.clone());
            let ask = ZoneAsk::Recover { name, keep: args.keep.clone(), yes: args.yes, user };
            Ok(format!("zone {}: {}", args.zone, text_of(ask_on(&args.on, ask)?)?))
        }
        ZoneCommand::Watch(args) => super::zone_watch::watch(args),
        ZoneCommand::Audit(on) => text_of(ask_on(on, ZoneAsk::Audit)?).map(|text| text.trim_end().to_owned()),
        ZoneCommand::Leave(named) => {
            ask_on(&named.on, ZoneAsk::Leave { name: named.zone.clone() })?;
            Ok(format!("this node has left zone {}", named.zone))
        }
        ZoneCommand::Digest(named) => text_of(ask_on(&named.on, ZoneAsk::Digest { name: named.zone.clone() })?),
    }
}

pub(super) type Listed = (Vec<ZoneView>, Vec<ClosedView>, Vec<ElsewhereView>);

pub(super) fn list(on: &MountOnly) -> Result<Listed, String> {
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

fn trash_line(zone: &ZoneView) -> Option<String> {
    let since = Timestamp { sec: zone.trashed_since?, nsec: 0 };
    Some(format!("{}  {}  since {}", zone.name, zone.id, rfc3339(since)))
}

fn line(zone: &ZoneView) -> String {
    let quorum = if zone.has_quorum { "" } else { ", NO QUORUM" };
    let places: Vec<String> = zone.mounts.iter().map(|path| path.display().to_string()).collect();
    let places = if zone.witness {
        "witness, mounted nowhere".to_owned()
    } else if places.is_empty() {
        "not mounted".to_owned()
    } else {
        places.join(", ")
    };
    format!("{}  {} members, {}{quorum}  {places}", zone.name, zone.members.len(), zone.role)
}

fn describe(zone: &ZoneView) -> String {
    let mut out = String::new();
    let number = |at: Option<u64>| at.map_or_else(|| "none".to_owned(), |at| at.to_string());
    let quorum = if zone.has_quorum { "a majority is there" } else { "NO MAJORITY: changes wait" };
    let quorum = if zone.witness { format!("witness, {quorum}") } else { quorum.to_owned() };
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
    let keepers = zone.members.iter().filter(|member| !member.witness).count();
    let copies = if keepers < zone.replicas as usize {
        format!("{} wanted, more than there are members that keep files", zone.replicas)
    } else if zone.lacking_bytes > 0 {
        format!("{} wanted; {} written here have too few yet", zone.replicas, ByteSize(zone.lacking_bytes))
    } else {
        format!("{} wanted", zone.replicas)
    };
    let _ = writeln!(out, "  copies     {copies}; {} kept here for others", ByteSize(zone.mirror_bytes));
    let _ = writeln!(out, "  commands   up to version {}, which all members know", zone.commands);
    let joined =
        if zone.open { "by members of the zones that it stands in, and by invitation" } else { "by invitation" };
    let _ = writeln!(out, "  joined     {joined}");
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
        words.extend(member.witness.then(|| "witness".to_owned()));
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

pub(super) fn ask_on(on: &MountOnly, ask: ZoneAsk) -> Result<Reply, String> {
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

pub(super) fn unexpected(reply: &Reply) -> String {
    format!("the daemon answered something else: {reply:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_from_a_node_is_no_invitation() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(path_from_node("nexus://a:1/x/y/"), Some(("a:1".into(), names(&["x", "y"]))));
        assert_eq!(path_from_node("nexus://a/x"), Some(("a:7420".into(), names(&["x"]))));
        assert_eq!(path_from_node("nexus://[::1]:9//x"), Some(("[::1]:9".into(), names(&["x"]))));
        for other in ["nexus://a:1/join/AAAA", "nexus://a:1/", "nexus://a:1", "/x/y"] {
            assert_eq!(path_from_node(other), None, "{other}");
        }
    }
}
