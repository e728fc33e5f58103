//! `nexus-fuse attach` and `nexus-fuse detach`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::AttachArgs;
use super::find;
use crate::attach::{Spec, SpecLimits};
use crate::control::{ControlError, Reply, Request, StoreLimitsText};

/// Longest that a daemon asks a bucket whether it answers, and then some.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attaches a bucket; answers what to print.
pub fn attach(args: &AttachArgs) -> Result<String, String> {
    let target = absolute(&args.target)?;
    let place = &args.place;
    let credentials = place.credentials()?;
    let spec = Spec {
        path: PathBuf::new(),
        url: place.url.to_string(),
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        profile: credentials.as_ref().and_then(|from| from.profile.clone()),
        credentials: credentials.map(|from| from.file),
        refresh_sec: args.refresh,
        read_only: args.read_only,
        limits: args.limits.change().over(Default::default()).into(),
    };
    ask(&target, &Request::Attach { target: target.clone(), spec })?;
    Ok(format!("{} is attached at {}", place.url, target.display()))
}

/// Detaches what is attached at `target`; answers what to print.
pub fn detach(target: &Path) -> Result<String, String> {
    let target = absolute(target)?;
    ask(&target, &Request::Detach { target: target.clone() })?;
    Ok(format!("{} is detached; the bucket is as it was", target.display()))
}

/// Changes the limits of what is attached at `target`; answers them.
pub fn set(target: &Path, limits: StoreLimitsText) -> Result<SpecLimits, String> {
    let target = absolute(target)?;
    match ask(&target, &Request::AttachmentSet { target: target.clone(), limits })? {
        Reply::Limits { limits } => Ok(limits),
        other => Err(format!("the daemon answered something else: {other:?}")),
    }
}

/// The absolute path without links, as the mount table writes it.
fn absolute(target: &Path) -> Result<PathBuf, String> {
    // The root of an attached bucket that does not answer need not be looked at.
    let parent = || {
        let absolute = std::path::absolute(target).ok()?;
        Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
    };
    let path = target.canonicalize().or_else(|error| parent().ok_or(error));
    path.map_err(|error| format!("{} can't be used: {error}", target.display()))
}

fn ask(target: &Path, request: &Request) -> Result<Reply, String> {
    let mounted = find::mounted()?;
    let point = |volume: &find::Volume| volume.mount.as_ref().map(|mount| mount.target.clone());
    let around = mounted.into_iter().filter(|volume| point(volume).is_some_and(|point| target.starts_with(point)));
    let volume = around.max_by_key(|volume| point(volume).map_or(0, |point| point.components().count()));
    let volume = volume.ok_or_else(|| format!("{} is not below a mount of Nexus", target.display()))?;
    match volume.ask(request, PATIENCE) {
        Ok(reply) => Ok(reply),
        Err(ControlError::NobodyThere(_)) => Err(format!("the daemon of {} is gone: mount it again", volume.name())),
        Err(error) => Err(error.to_string()),
    }
}
