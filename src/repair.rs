//! Repairing a volume that no daemon has open: a copy of the metastore first, then what
//! [`nexus_content::plan_repair`] says, in one commit, with a line for each thing in `repair.log`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nexus_content::RepairPlan;

use crate::boot::{CheckReport, Volume};
use crate::config::{Config, MetastoreKind};
use crate::error::{Error, Result};
use crate::folder::{DataFolder, Layout};

/// Name, in the data folder, of the file that tells what repairs did.
pub const LOG: &str = "repair.log";

/// What a repair did, or would do.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// A sentence for each thing that was put right.
    pub repairs: Vec<String>,
    /// Paths of files that have lost bytes; reading those gives EIO.
    pub lossy: Vec<String>,
    /// The copy of the metastore as it was before; `None` if nothing was changed.
    pub backup: Option<PathBuf>,
}

/// What would be done for the volume at `config.data`. Changes nothing.
pub fn dry_run(config: &Config) -> Result<RepairReport> {
    let folder = folder_of(config)?;
    let plan = Volume::repair(&folder, config, None)?;
    Ok(RepairReport { repairs: plan.repairs, lossy: plan.lossy, backup: None })
}

/// Repairs the volume at `config.data`, and checks it again; `deep` as in [`crate::check::offline`].
/// [`Error::Damaged`] if it can't even be opened for that; a store that does not answer is an error,
/// too, before anything is changed.
pub fn repair(config: &Config, deep: bool) -> Result<(RepairReport, CheckReport)> {
    let folder = folder_of(config)?;
    let mut backup = None;
    let plan = Volume::repair(
        &folder,
        config,
        Some(&mut |plan| {
            let copy = back_up(folder.path())?;
            note(folder.path(), &copy, plan)?;
            backup = Some(copy);
            Ok(())
        }),
    )?;
    drop(folder);
    let checked = crate::check::offline(config, deep)?;
    Ok((RepairReport { repairs: plan.repairs, lossy: plan.lossy, backup }, checked))
}

fn folder_of(config: &Config) -> Result<DataFolder> {
    let folder = DataFolder::open(&config.data)?;
    let refused = |problem: &str| Error::Setting { place: "--repair".to_owned(), problem: problem.to_owned() };
    if !folder.is_finished() {
        return Err(refused("the volume was never finished, so there is nothing in it: mount it"));
    }
    if folder.identity().drivers.metastore != MetastoreKind::Redb {
        return Err(refused("the volume keeps its metadata in memory, so nothing of it is left"));
    }
    Ok(folder)
}

/// Copies the metastore beside itself, durably.
fn back_up(folder: &Path) -> Result<PathBuf> {
    let original = Layout::of(folder).root_meta;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let base = format!("{}.before-repair-{seconds}", original.display());
    let names = (1u32..).map(|number| PathBuf::from(format!("{base}.{number}")));
    let free = std::iter::once(PathBuf::from(&base)).chain(names).find(|path| !path.exists());
    let copy = free.unwrap_or_else(|| PathBuf::from(&base));
    let copied = fs::copy(&original, &copy).and_then(|_| File::open(&copy)?.sync_all());
    let synced = copied.and_then(|()| copy.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()));
    synced.map_err(|error| {
        let _ = fs::remove_file(&copy);
        Error::io(format!("copy {} before the repair; nothing was changed", original.display()), error)
    })?;
    Ok(copy)
}

/// Says in the data folder what is about to be done.
fn note(folder: &Path, backup: &Path, plan: &RepairPlan) -> Result<()> {
    let path = folder.join(LOG);
    let mut text = format!("-- metastore as it was before: {}\n", backup.display());
    for line in &plan.repairs {
        text.push_str(&format!("{line}\n"));
    }
    for file in &plan.lossy {
        text.push_str(&format!("bytes are lost of {file}\n"));
    }
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Error::io(format!("write {}; nothing was changed", path.display()), error))
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
