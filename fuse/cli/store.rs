//! `nexus-fuse store`: trying out a bucket, and the stores of a mounted volume.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nexus::cloud::{ProbeStep, probe};
use nexus::coding::{Coding, compression_name};
use nexus::config::{ByteSize, CloudPlace};
use nexus::stores::{DEFAULT_STORE, fsync_name};

use super::args::{LimitArgs, StoreAddArgs, StoreRmArgs, StoreSetArgs, StoreTestArgs};
use super::find;
use crate::attach::SpecLimits;
use crate::control::{ControlError, Reply, Request, StoreLimitsText, StorePlace, StoreStatus};

/// Taking a store away first frees what is dead there.
const PATIENCE: Duration = Duration::from_secs(600);

/// Tries a bucket, prints what came of it, and answers the exit status: 0 if all of it works.
pub fn test(args: &StoreTestArgs) -> Result<ExitCode, String> {
    let place = CloudPlace {
        coding: Coding::default(),
        url: args.url.clone(),
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        credentials: args.credentials()?,
    };
    let steps = probe(&place).map_err(|error| error.to_string())?;
    print!("{}", describe(&steps));
    if steps.iter().all(|step| step.outcome.is_ok()) {
        println!("{} can hold a volume", args.url);
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{} can't hold a volume as it is", args.url))
}

/// Adds a store to a mounted volume.
pub fn add(args: &StoreAddArgs) -> Result<String, String> {
    let volume = find::by_name(args.mount.as_deref(), None)?;
    let credentials = args.place.credentials()?;
    let request = Request::StoreAdd {
        name: args.name.clone(),
        place: StorePlace {
            url: args.place.url.to_string(),
            endpoint: args.place.endpoint.clone(),
            region: args.place.region.clone(),
            compression: args.compression.map(compression_name),
            key: args.key.as_ref().map(ToString::to_string),
            credentials: credentials.as_ref().map(|from| from.file.clone()),
            profile: credentials.as_ref().and_then(|from| from.profile.clone()),
        },
        fsync: fsync_name(args.fsync).to_owned(),
        limits: limits_text(&args.limits),
    };
    ask(&volume, &request)?;
    let (url, name) = (&args.place.url, &args.name);
    let mut said = format!(
        "{url} is store {name} of {}: `nexus-fuse place DIR {name}` has new content of a directory go there",
        volume.name()
    );
    match credentials {
        Some(from) => {
            said.push_str(&format!("\nIts credentials are those in {}, read by the daemon", from.file.display()));
        }
        None if url.is_bucket() => said.push_str(
            "\nIts credentials are those that the daemon was started with, not those of this shell (--credentials-file \
             names others)",
        ),
        None => {}
    }
    if url.is_volatile() {
        said.push_str(
            "\nIt is in memory: content that goes there is GONE when the daemon ends, and the files then give EIO",
        );
    }
    Ok(said)
}

/// Changes limits of a store.
pub fn set(args: &StoreSetArgs) -> Result<String, String> {
    if args.limits.change().is_empty() {
        return Err("say what is to change: --max-requests, --upload-limit or --download-limit".to_owned());
    }
    if args.name.contains('/') {
        let limits = super::attach::set(Path::new(&args.name), limits_text(&args.limits))?;
        return Ok(format!("{}: {}", args.name, limits_of(limits).unwrap_or_else(|| "no limits".to_owned())));
    }
    let volume = find::by_name(args.mount.as_deref(), None)?;
    ask(&volume, &Request::StoreSet { name: args.name.clone(), limits: limits_text(&args.limits) })?;
    let status = match ask(&volume, &Request::Status)? {
        Reply::Status(status) => status,
        other => return Err(format!("the daemon answered something else: {other:?}")),
    };
    let changed = status.store.iter().chain(&status.stores).find(|store| store.name == args.name);
    Ok(format!("store {}: {}", args.name, changed.and_then(limits).unwrap_or_else(|| "no limits".to_owned())))
}

fn limits_text(limits: &LimitArgs) -> StoreLimitsText {
    StoreLimitsText {
        max_requests: limits.max_requests.map(|count| count.to_string()),
        upload: limits.upload_limit.map(|rate| rate.to_string()),
        download: limits.download_limit.map(|rate| rate.to_string()),
    }
}

/// The limits of a store, in words, if it has any.
pub(super) fn limits(store: &StoreStatus) -> Option<String> {
    limits_of(SpecLimits {
        max_requests: store.max_requests,
        upload: store.upload_limit,
        download: store.download_limit,
    })
}

/// The same for limits alone.
pub(super) fn limits_of(limits: SpecLimits) -> Option<String> {
    let requests = limits.max_requests.map(|count| format!("{count} requests at once"));
    let up = limits.upload.map(|rate| format!("{} a second up", ByteSize(rate)));
    let down = limits.download.map(|rate| format!("{} a second down", ByteSize(rate)));
    let all: Vec<String> = [requests, up, down].into_iter().flatten().collect();
    (!all.is_empty()).then(|| format!("at most {}", all.join(", ")))
}

/// What is to be known of a store in memory.
pub(super) fn volatile(store: &StoreStatus) -> &'static str {
    if store.volatile { " (in memory: GONE when the daemon ends)" } else { "" }
}

/// Takes a store away.
pub fn rm(args: &StoreRmArgs) -> Result<String, String> {
    let volume = find::by_name(args.mount.as_deref(), None)?;
    let done = format!("{} has no store {} any more", volume.name(), args.name);
    match ask(&volume, &Request::StoreRemove { name: args.name.clone() })? {
        Reply::Text { text } => Ok(format!("{done}; {text}")),
        _ => Ok(format!("{done}, and its place is free for another volume")),
    }
}

/// Lists the stores of a mounted volume.
pub fn ls(mount: Option<&Path>) -> Result<String, String> {
    let volume = find::by_name(mount, None)?;
    let status = match ask(&volume, &Request::Status)? {
        Reply::Status(status) => status,
        other => return Err(format!("the daemon answered something else: {other:?}")),
    };
    let first = match &status.store {
        Some(store) => line(store),
        None => format!("{:12} {} (in the data folder)", DEFAULT_STORE, status.object_store),
    };
    let lines = std::iter::once(first).chain(status.stores.iter().map(line));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn line(store: &StoreStatus) -> String {
    let (waiting, cached) = (ByteSize(store.waiting_bytes), ByteSize(store.cached_bytes));
    let limits = limits(store).map(|limits| format!("; {limits}")).unwrap_or_default();
    let (name, url, volatile) = (&store.name, &store.url, volatile(store));
    format!("{name:12} {url}{volatile}: {waiting} not there yet, {cached} cached here{limits}")
}

/// Asks the daemon of a volume, which has to be mounted.
fn ask(volume: &find::Volume, request: &Request) -> Result<Reply, String> {
    volume.ask(request, PATIENCE).map_err(|error| match error {
        ControlError::NobodyThere(_) => format!("{} is not mounted: mount it first", volume.name()),
        error => error.to_string(),
    })
}

fn describe(steps: &[ProbeStep]) -> String {
    let width = steps.iter().map(|step| step.what.len()).max().unwrap_or(0);
    let mut out = String::new();
    for step in steps {
        let _ = match &step.outcome {
            Ok(how) => writeln!(out, "ok      {:width$}  {how}", step.what),
            Err(why) => writeln!(out, "FAILED  {:width$}  {why}", step.what),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_words() {
        let mut store = StoreStatus::default();
        assert_eq!(limits(&store), None);
        store.max_requests = Some(4);
        store.download_limit = Some(10 << 20);
        assert_eq!(limits(&store).unwrap(), "at most 4 requests at once, 10 MiB a second down");
    }

    #[test]
    fn each_step_has_a_line() {
        let steps = [
            ProbeStep { what: "list", outcome: Ok("1.5 ms".to_owned()) },
            ProbeStep { what: "store", outcome: Err("access is denied".to_owned()) },
        ];
        assert_eq!(describe(&steps), "ok      list   1.5 ms\nFAILED  store  access is denied\n");
    }
}
