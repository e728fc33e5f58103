//! `nexus-fuse fsck`: through the daemon if there is one, else on the data folder itself.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nexus::Config;

use super::find;
use super::fsck_args::FsckArgs;
use crate::control::{ControlError, Reply, Request};
use crate::daemon::logger;

/// A deep check reads everything.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Looks for damage, prints what it finds, and answers the exit status: 0 none, 1 some.
pub fn run(args: &FsckArgs) -> Result<ExitCode, String> {
    logger::init(log::LevelFilter::Error);
    let volume = find::by_name(args.target.as_deref(), args.config.as_deref())?;
    if args.repair {
        return repair(&volume, args);
    }
    let (findings, checked) = match volume.ask(&Request::Check { deep: args.deep }, PATIENCE) {
        Ok(Reply::Findings { findings, checked }) => (findings, checked),
        Ok(other) => return Err(format!("the daemon answered something else: {other:?}")),
        Err(ControlError::NobodyThere(_)) => match &volume.data {
            Some(data) => offline(data, args)?,
            None => return Err(format!("{}: its data folder is not known", volume.name())),
        },
        Err(error) => return Err(error.to_string()),
    };
    let sound = tell(volume.name(), &findings, &checked);
    Ok(ExitCode::from(u8::from(!sound)))
}

/// Prints findings; answers whether none is damage.
fn tell(name: impl Display, findings: &[String], checked: &str) -> bool {
    for finding in findings {
        println!("{finding}");
    }
    let damage = findings.iter().filter(|finding| !finding.starts_with("note: ")).count();
    if damage == 0 {
        println!("{name}: no damage ({checked})");
    } else {
        println!("{name}: DAMAGED, {damage} findings ({checked})");
    }
    damage == 0
}

/// Puts right what can be, or tells what that would be. Only where no daemon has the volume.
fn repair(volume: &find::Volume, args: &FsckArgs) -> Result<ExitCode, String> {
    let data = volume.data.as_deref().ok_or_else(|| format!("{}: its data folder is not known", volume.name()))?;
    if let Ok(Some(_)) = nexus::folder::DataFolder::holder(data) {
        return Err(format!("{} is in use: unmount it before it is repaired", volume.name()));
    }
    let config = config(data, args)?;
    if args.dry_run {
        let report = nexus::repair::dry_run(&config).map_err(|error| error.to_string())?;
        list(&report, "would be");
        println!("{}: {} repairs would be made; nothing was changed", volume.name(), report.repairs.len());
        return Ok(ExitCode::from(u8::from(!report.repairs.is_empty())));
    }
    let (report, after) = nexus::repair::repair(&config, args.deep).map_err(|error| error.to_string())?;
    list(&report, "are");
    match &report.backup {
        Some(backup) => {
            println!(
                "{}: {} repairs; the metadata before them is {}",
                volume.name(),
                report.repairs.len(),
                backup.display()
            );
        }
        None => println!("{}: nothing needed a repair", volume.name()),
    }
    let sound = tell(volume.name(), &after.findings, &after.checked);
    Ok(ExitCode::from(u8::from(!sound || !report.lossy.is_empty())))
}

fn list(report: &nexus::repair::RepairReport, are: &str) {
    for line in &report.repairs {
        println!("repair: {line}");
    }
    for file in &report.lossy {
        println!("lost: bytes of {file} {are} gone, and reading them gives EIO: have it from a backup");
    }
}

fn config(data: &Path, args: &FsckArgs) -> Result<Config, String> {
    let settings = nexus::Settings { data: Some(data.to_owned()), ..nexus::Settings::default() };
    Config::load(args.config.as_deref(), settings).map_err(|error| error.to_string())
}

/// Checks a volume that no daemon has. Damage so bad that it cannot even be opened is a
/// finding, too.
fn offline(data: &Path, args: &FsckArgs) -> Result<(Vec<String>, String), String> {
    let config = config(data, args)?;
    match nexus::check::offline(&config, args.deep) {
        Ok(report) => Ok((report.findings, report.checked)),
        Err(nexus::Error::Damaged { problem, .. }) => Ok((
            vec![format!("damage: {problem}")],
            "the volume cannot be opened, so nothing else was looked at".to_owned(),
        )),
        Err(error) => Err(error.to_string()),
    }
}
