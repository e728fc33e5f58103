//! `nexus-fuse place` and `nexus-fuse migrate`: which store the content of a subtree goes to.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexus::config::ByteSize;
use nexus::stores::fsync_name;

use super::args::{MigrateArgs, PlaceArgs};
use super::find;
use crate::control::{ControlError, Reply, Request};

/// One step of a migration may have to send some segments over a slow line.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Inodes that one request names: a request is at most 64 KiB.
const BATCH: usize = 1024;

/// Says where new content goes, or tells where it does.
pub fn place(args: &PlaceArgs) -> Result<String, String> {
    let (volume, path) = find::containing(&args.path)?;
    let fsync = args.fsync.map(|level| fsync_name(level).to_owned());
    if args.store.is_none() && fsync.is_none() {
        let inode = path.symlink_metadata().map_err(|error| failed(&path, &error))?.ino();
        return match ask(&volume, &Request::Placement { inode })? {
            Reply::Placement { store, fsync } => Ok(format!("store {store}, fsync waits for: {fsync}")),
            other => Err(unexpected(&other)),
        };
    }
    let (mut seen, mut changed) = (0u64, 0u64);
    walk(&path, &mut |inodes, _| {
        let request = Request::Place { inodes: inodes.to_vec(), store: args.store.clone(), fsync: fsync.clone() };
        match ask(&volume, &request)? {
            Reply::Placed { changed: more } => changed += more,
            other => return Err(unexpected(&other)),
        }
        seen += inodes.len() as u64;
        progress(&format!("{seen} files and directories"));
        Ok(())
    })?;
    end_progress(seen > 0);
    Ok(format!("{changed} of {seen} files and directories were placed elsewhere before"))
}

/// Moves what is there.
pub fn migrate(args: &MigrateArgs) -> Result<String, String> {
    let (volume, path) = find::containing(&args.path)?;
    let (mut files, mut moved) = (0u64, 0u64);
    walk(&path, &mut |inodes, kind| {
        if kind == Kind::Directories {
            return Ok(());
        }
        loop {
            let request = Request::Migrate { inodes: inodes.to_vec(), store: args.store.clone() };
            let more = match ask(&volume, &request)? {
                Reply::Migrated { bytes, more } => {
                    moved += bytes;
                    more
                }
                other => return Err(unexpected(&other)),
            };
            progress(&format!("{} moved, {files} files done", ByteSize(moved)));
            if !more {
                break;
            }
        }
        files += inodes.len() as u64;
        Ok(())
    })?;
    end_progress(moved > 0);
    let (moved, store) = (ByteSize(moved), &args.store);
    Ok(format!("{moved} of {files} files moved to store {store}; `nexus-fuse flush` waits until it is there"))
}

/// What a batch of inodes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Directories.
    Directories,
    /// Regular files.
    Files,
}

/// Takes a batch of inode numbers.
pub(super) type Visit<'a> = dyn FnMut(&[u64], Kind) -> Result<(), String> + 'a;

/// Visits `path` and all below it on the same mount, directories before what is in them, in
/// batches.
pub(super) fn walk(path: &Path, visit: &mut Visit<'_>) -> Result<(), String> {
    let top = path.symlink_metadata().map_err(|error| failed(path, &error))?;
    if !top.is_dir() {
        return visit(&[top.ino()], Kind::Files);
    }
    visit(&[top.ino()], Kind::Directories)?;
    let mut open: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            // Removed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| failed(&dir, &error))?,
        };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(|error| failed(&dir, &error))?;
            let kind = entry.file_type().map_err(|error| failed(&entry.path(), &error))?;
            if kind.is_file() {
                files.push(entry.ino());
            } else if kind.is_dir() && is_on(&entry.path(), top.dev()) {
                directories.push(entry.ino());
                open.push(entry.path());
            }
            for (batch, kind) in [(&mut files, Kind::Files), (&mut directories, Kind::Directories)] {
                if batch.len() >= BATCH {
                    visit(batch, kind)?;
                    batch.clear();
                }
            }
        }
        for (batch, kind) in [(directories, Kind::Directories), (files, Kind::Files)] {
            if !batch.is_empty() {
                visit(&batch, kind)?;
            }
        }
    }
    Ok(())
}

fn is_on(path: &Path, device: u64) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.dev() == device)
}

pub(super) fn ask(volume: &find::Volume, request: &Request) -> Result<Reply, String> {
    volume.ask(request, PATIENCE).map_err(|error| match error {
        ControlError::NobodyThere(_) => format!("the daemon of {} does not answer", volume.name()),
        error => error.to_string(),
    })
}

pub(super) fn unexpected(reply: &Reply) -> String {
    format!("the daemon answered something else: {reply:?}")
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Tells on a terminal how far it is.
pub(super) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text}   ");
        let _ = std::io::stderr().flush();
    }
}

pub(super) fn end_progress(shown: bool) {
    if shown && std::io::stderr().is_terminal() {
        eprintln!();
    }
}
