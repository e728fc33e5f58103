//! `nexus-fuse status`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nexus::config::ByteSize;
use nexus::stores::DEFAULT_STORE;
use serde::Serialize;

use super::args::StatusArgs;
use super::find;
use crate::control::{ControlError, Reply, Request, Status, StoreStatus};

/// A daemon answers this at once, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a volume.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Known {
    /// Its daemon said this.
    Running(Box<Status>),
    /// It is not mounted.
    NotMounted { name: String },
    /// It belongs to another user, who alone can ask its daemon.
    Foreign { name: String },
    /// It is mounted, but its daemon cannot be asked.
    Silent { name: String, data: Option<PathBuf>, problem: String },
}

/// Asks every daemon, or the one that is named; prints, and answers the exit status: 0 if
/// all is well.
pub fn run(args: &StatusArgs) -> Result<ExitCode, String> {
    let volumes = match &args.target {
        Some(target) => vec![find::by_name(Some(target), None)?],
        None => find::mounted()?,
    };
    let known: Vec<Known> = volumes.iter().map(ask).collect();
    if args.json {
        let text = serde_json::to_string_pretty(&known).map_err(|error| error.to_string())?;
        println!("{text}");
    } else if known.is_empty() {
        println!("nothing is mounted (nexus-fuse mount DIR mounts the default volume)");
    } else {
        let texts: Vec<String> = known.iter().map(describe).collect();
        print!("{}", texts.join("\n"));
    }
    let well = known.iter().all(|known| match known {
        Known::Running(status) => status.health.ok,
        Known::NotMounted { .. } | Known::Foreign { .. } => true,
        Known::Silent { .. } => false,
    });
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn ask(volume: &find::Volume) -> Known {
    if volume.data.is_none() {
        return Known::Foreign { name: volume.name() };
    }
    let problem = match volume.ask(&Request::Status, PATIENCE) {
        Ok(Reply::Status(status)) => return Known::Running(status),
        Ok(other) => format!("the daemon answered something else: {other:?}"),
        Err(ControlError::NotOurs(_)) => return Known::Foreign { name: volume.name() },
        Err(ControlError::NobodyThere(_)) if volume.mount.is_none() => {
            return Known::NotMounted { name: volume.name() };
        }
        Err(ControlError::NobodyThere(_)) => {
            "its daemon is dead or out of reach; mounting the volume again recovers it".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Known::Silent { name: volume.name(), data: volume.data.clone(), problem }
}

fn describe(known: &Known) -> String {
    match known {
        Known::Running(status) => describe_running(status),
        Known::Foreign { name } => format!("{name}: belongs to another user, who alone can ask its daemon\n"),
        Known::NotMounted { name } => format!("{name}: not mounted\n"),
        Known::Silent { name, data, problem } => {
            let data = data.as_ref().map(|data| format!("  data       {}\n", data.display())).unwrap_or_default();
            format!("{name}: NOT WELL: {problem}\n{data}")
        }
    }
}

fn describe_running(status: &Status) -> String {
    let mut out = String::new();
    let health = if status.health.ok {
        "healthy".to_owned()
    } else {
        format!("NOT WELL: {}", status.health.problems.join("; "))
    };
    for mount in &status.mounts {
        let read_only = if mount.read_only { ", read-only" } else { "" };
        let _ = writeln!(out, "{}: {health}{read_only}", mount.target.display());
        let options = if mount.options.is_empty() { "none" } else { &mount.options };
        let _ = writeln!(out, "  source     {} (options: {options})", mount.source);
    }
    for mount in &status.mounts {
        let note = mount.transport_note.as_ref().map(|why| format!("; not io_uring: {why}")).unwrap_or_default();
        let _ = writeln!(out, "  transport  {}{note}", mount.transport);
    }
    let _ = writeln!(out, "  data       {}", status.data.display());
    let _ = writeln!(out, "  volume     {} ({}, {})", status.volume, status.metastore, status.object_store);
    let _ = writeln!(
        out,
        "  daemon     process {}, version {}, up {}",
        status.pid,
        status.version,
        duration(status.uptime_sec)
    );
    let _ = writeln!(
        out,
        "  memory     {} in use, limit {}",
        ByteSize(status.memory_used_bytes),
        ByteSize(status.memory_limit_bytes)
    );
    let _ = writeln!(
        out,
        "  disk       {} available of {}",
        ByteSize(status.space.available_bytes),
        ByteSize(status.space.total_bytes)
    );
    let content = &status.content;
    let _ = writeln!(
        out,
        "  content    {} in {} segments, {} in {} blobs; {} of it live",
        ByteSize(content.segment_bytes),
        content.segments,
        ByteSize(content.blob_bytes),
        content.blobs,
        ByteSize(content.live_bytes)
    );
    for store in status.store.iter().chain(&status.stores) {
        let name = if store.name == DEFAULT_STORE { String::new() } else { format!("{} ", store.name) };
        let _ = writeln!(
            out,
            "  store      {name}{}{}: {} not there yet, {} cached here",
            store.url,
            super::store::volatile(store),
            ByteSize(store.waiting_bytes),
            ByteSize(store.cached_bytes)
        );
        if let Some(limits) = super::store::limits(store) {
            let _ = writeln!(out, "    limits   {limits}");
        }
        requests(&mut out, store);
        let (hits, misses) = (store.cache_hits, store.cache_misses);
        if hits + misses > 0 {
            let (here, there) = (ByteSize(store.cache_hit_bytes), ByteSize(store.cache_miss_bytes));
            let _ =
                writeln!(out, "    reads    {hits} from this disk ({here}), {misses} waited for the store ({there})");
        }
        tries(&mut out, store);
    }
    for attached in &status.attachments {
        let read_only = if attached.read_only { ", read-only" } else { "" };
        let missing = if attached.mounted { "" } else { ", NOT MOUNTED (see the log)" };
        let _ = writeln!(out, "  attached   {} at {}{read_only}{missing}", attached.url, attached.target.display());
        if let Some(limits) = super::store::limits_of(attached.limits) {
            let _ = writeln!(out, "    limits   {limits}");
        }
        requests(&mut out, &attached.store);
        tries(&mut out, &attached.store);
    }
    for zone in &status.zones {
        let _ =
            writeln!(out, "  zone {:<5} {} inodes, {} of files", zone.index, zone.inodes, ByteSize(zone.content_bytes));
        let _ = writeln!(
            out,
            "    log      at {}, durable to {}, checkpoint at {}; {} on disk",
            zone.log_last,
            zone.log_durable,
            zone.log_checkpoint,
            ByteSize(zone.log_bytes)
        );
        let _ = writeln!(
            out,
            "    metadata {} on disk, {} waiting in memory",
            ByteSize(zone.metastore_bytes),
            ByteSize(zone.pending_bytes)
        );
    }
    for zone in &status.elsewhere {
        let _ = writeln!(out, "  elsewhere  {}", zone.advice());
    }
    if !status.services.is_empty() {
        let _ = writeln!(out, "  services   {}", status.services.join(", "));
    }
    out
}

fn duration(sec: u64) -> String {
    match (sec / 86_400, sec / 3600 % 24, sec / 60 % 60, sec % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

/// What a store was asked for.
fn requests(out: &mut String, store: &StoreStatus) {
    let _ = writeln!(
        out,
        "    requests {} to put ({}), {} to get ({}), {} heads, {} lists, {} deletes; {} failed",
        store.puts,
        ByteSize(store.bytes_up),
        store.gets,
        ByteSize(store.bytes_down),
        store.heads,
        store.lists,
        store.deletes,
        store.failures
    );
}

/// What had to wait, or to be tried again.
fn tries(out: &mut String, store: &StoreStatus) {
    if store.throttled + store.failed_tries > 0 {
        let waited = duration(store.throttled_ms / 1000);
        let (throttled, failed) = (store.throttled, store.failed_tries);
        let _ = writeln!(out, "    tries    {failed} failed; {throttled} requests waited {waited} for the limits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_two_units() {
        for (sec, text) in [(5, "5 s"), (65, "1 min 5 s"), (3_700, "1 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(sec), text);
        }
    }
}
