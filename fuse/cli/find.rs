//! From what the user names (a mount point, a data folder, a volume) to a data folder.

use std::path::{Path, PathBuf};

use nexus::config::Surroundings;
use nexus::folder::{DataFolder, Found, Layout};

use crate::control::{Client, ControlError, Reply, Request};
use crate::mount::table::{self, Entry};

/// A volume, a mount, or both.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The data folder; `None` for a mount whose folder only its owner can tell.
    pub data: Option<PathBuf>,
    /// The mount, if it was found that way.
    pub mount: Option<Entry>,
}

impl Volume {
    /// Asks its daemon.
    pub fn ask(&self, request: &Request, patience: std::time::Duration) -> Result<Reply, ControlError> {
        match &self.data {
            Some(data) => Client::new(&Layout::of(data).socket).ask(request, patience),
            None => {
                Err(ControlError::Refused("the mount belongs to another user, who alone can ask its daemon".to_owned()))
            }
        }
    }

    /// What to call it in a message.
    pub fn name(&self) -> String {
        let path = self.mount.as_ref().map(|mount| &mount.target).or(self.data.as_ref());
        path.map_or_else(String::new, |path| path.display().to_string())
    }
}

/// Every mount of Nexus that this process sees.
pub fn mounted() -> Result<Vec<Volume>, String> {
    let surroundings = Surroundings::of_process();
    let entries = table::nexus_mounts().map_err(|error| format!("cannot read the mount table: {error}"))?;
    Ok(entries.into_iter().map(|entry| Volume { data: data_of(&surroundings, &entry), mount: Some(entry) }).collect())
}

/// The data folder of a mount: its source is the volume as it was named. Bare names mean
/// folders of the user who mounted.
fn data_of(surroundings: &Surroundings, entry: &Entry) -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw().to_string();
    let is_mine = entry.super_options.split(',').filter_map(|word| word.strip_prefix("user_id=")).any(|id| id == user);
    if !is_mine && !entry.source.contains('/') {
        return None;
    }
    surroundings.volume(Path::new(&entry.source)).ok()
}

/// The newest mount of Nexus at `target`.
pub fn by_mount_point(target: &Path) -> Result<Option<Volume>, String> {
    let target = resolve(target);
    Ok(mounted()?.into_iter().rev().find(|volume| volume.mount.as_ref().is_some_and(|mount| mount.target == target)))
}

/// The mount that `path`, which must be there, lies in.
pub fn containing(path: &Path) -> Result<(Volume, PathBuf), String> {
    within(path, Entry::is_nexus)
}

/// The same for a path that may be in a zone, too.
pub fn containing_zones(path: &Path) -> Result<(Volume, PathBuf), String> {
    within(path, |entry| entry.is_nexus() || entry.is_zone())
}

fn within(path: &Path, is_meant: impl Fn(&Entry) -> bool) -> Result<(Volume, PathBuf), String> {
    let path = path.canonicalize().map_err(|error| format!("cannot reach {}: {error}", path.display()))?;
    let entries = table::mounts().map_err(|error| format!("cannot read the mount table: {error}"))?;
    // The deepest, and of several at one place the newest.
    let over = entries.iter().enumerate().filter(|(_, entry)| path.starts_with(&entry.target));
    let deepest = over.max_by_key(|(place, entry)| (entry.target.components().count(), *place));
    match deepest {
        Some((_, entry)) if is_meant(entry) => {
            Ok((Volume { data: data_of(&Surroundings::of_process(), entry), mount: Some(entry.clone()) }, path))
        }
        _ => Err(format!("{} is not on a mount of Nexus", path.display())),
    }
}

/// The volume that `name` means: a mount point, else a volume by name or data folder; the
/// one that `mount` would take, with this configuration file, if there is no name.
pub fn by_name(name: Option<&Path>, file: Option<&Path>) -> Result<Volume, String> {
    let Some(name) = name else {
        let config = nexus::Config::load(file, nexus::Settings::default()).map_err(|error| error.to_string())?;
        return existing(config.data);
    };
    if let Some(volume) = by_mount_point(name)? {
        return Ok(volume);
    }
    let by_path = std::path::absolute(name).map_err(|error| format!("cannot reach {}: {error}", name.display()))?;
    match Surroundings::of_process().volume(name) {
        Ok(data) if data.is_dir() || !by_path.exists() => existing(data),
        _ => existing(by_path),
    }
}

/// Whether a volume is in this folder.
pub fn is_data_folder(path: &Path) -> bool {
    let found = if path.is_dir() { DataFolder::inspect(path) } else { Ok(Found::Nothing) };
    matches!(found, Ok(Found::Volume(_) | Found::Unfinished(_)) | Err(nexus::Error::Damaged { .. }))
}

fn existing(data: PathBuf) -> Result<Volume, String> {
    match DataFolder::inspect(&data) {
        Ok(Found::Nothing) => Err(format!("{} is neither a mount point of Nexus nor a volume", data.display())),
        Ok(Found::Volume(_) | Found::Unfinished(_)) | Err(nexus::Error::Damaged { .. }) => {
            Ok(Volume { data: Some(data), mount: None })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// `path` as the mount table writes it. The root of a dead mount cannot be looked at, but
/// the folder that it stands in can.
fn resolve(path: &Path) -> PathBuf {
    let through_parent = || {
        let absolute = std::path::absolute(path).ok()?;
        Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
    };
    path.canonicalize().ok().or_else(through_parent).unwrap_or_else(|| path.to_owned())
}
