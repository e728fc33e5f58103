//! `nexus-fuse fsck`: through the daemon if there is one, else on the data folder itself.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nexus::Config;

use super::args::FsckArgs;
use super::find;
use crate::control::{ControlError, Reply, Request};
use crate::daemon::logger;

/// A deep check reads everything.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Looks for damage, prints what it finds, and answers the exit status: 0 none, 1 some.
pub fn run(args: &FsckArgs) -> Result<ExitCode, String> {
    logger::init(log::LevelFilter::Error);
    let volume = find::by_name(args.target.as_deref(), args.config.as_deref())?;
    let (findings, checked) = match volume.ask(&Request::Check { deep: args.deep }, PATIENCE) {
        Ok(Reply::Findings { findings, checked }) => (findings, checked),
        Ok(other) => return Err(format!("the daemon answered something else: {other:?}")),
        Err(ControlError::NobodyThere(_)) => match &volume.data {
            Some(data) => offline(data, args)?,
            None => return Err(format!("{}: its data folder is not known", volume.name())),
        },
        Err(error) => return Err(error.to_string()),
    };
    for finding in &findings {
        println!("{finding}");
    }
    let damage = findings.iter().filter(|finding| !finding.starts_with("note: ")).count();
    if damage == 0 {
        println!("{}: no damage ({checked})", volume.name());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: DAMAGED, {damage} findings ({checked})", volume.name());
    Ok(ExitCode::from(1))
}

/// Checks a volume that no daemon has. Damage so bad that it cannot even be opened is a
/// finding, too.
fn offline(data: &Path, args: &FsckArgs) -> Result<(Vec<String>, String), String> {
    let settings = nexus::Settings { data: Some(data.to_owned()), ..nexus::Settings::default() };
    let config = Config::load(args.config.as_deref(), settings).map_err(|error| error.to_string())?;
    match nexus::check::offline(&config, args.deep) {
        Ok(report) => Ok((report.findings, report.checked)),
        Err(nexus::Error::Damaged { problem, .. }) => Ok((
            vec![format!("damage: {problem}")],
            "the volume cannot be opened, so nothing else was looked at".to_owned(),
        )),
        Err(error) => Err(error.to_string()),
    }
}
