//! `nexus-fuse mount`, and what mount(8) calls as `mount.fuse.nexus`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nexus::config::{ByteSize, DEFAULT_VOLUME, Surroundings};
use nexus::{Config, Settings};
use nexus_fuse_transport::Choice;

use super::args::MountArgs;
use super::find;
use super::helper::MountCall;
use crate::control::{Reply, Request};
use crate::daemon::{self, Plan, Ready, Reporter, logger};
use crate::mount::{self, MountError, MountOptions};

/// A daemon takes new options at once.
const REMOUNT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub fn run(args: &MountArgs) -> Result<ExitCode, String> {
    if args.daemon.is_some() {
        return Ok(run_daemon(args));
    }
    let options = args.all_options();
    if parse(&options)?.remount {
        return remount(&args.target, &options).map(|()| ExitCode::SUCCESS);
    }
    let plan = plan(args)?;
    if args.foreground {
        logger::init(plan.config.log);
        let plan = Plan { log_to_file: false, ..plan };
        return daemon::run(&plan, &mut |ready| println!("{}", announce(ready)))
            .map(|()| ExitCode::SUCCESS)
            .map_err(|failure| failure.to_string());
    }
    let ready = daemon::start(&plan)?;
    println!("{}", announce(&ready));
    Ok(ExitCode::SUCCESS)
}

/// What mount(8) wants: the same, quietly.
pub fn run_helper(call: &MountCall) -> Result<(), String> {
    let options = if call.sloppy { known_only(&call.options) } else { call.options.clone() };
    let parsed = parse(&options)?;
    if call.fake {
        return Ok(());
    }
    if parsed.remount {
        return remount(&call.target, &options);
    }
    let volume = super::args::VolumeArgs { volume: Some(call.name.clone()), ..Default::default() };
    let args = MountArgs {
        target: call.target.clone(),
        volume,
        transport: None,
        listen: None,
        advertise: Vec::new(),
        options: vec![options],
        foreground: false,
        daemon: None,
    };
    let ready = daemon::start(&plan(&args)?)?;
    if call.verbose {
        println!("{}", announce(&ready));
    }
    Ok(())
}

/// The daemon that `daemon::start` started.
fn run_daemon(args: &MountArgs) -> ExitCode {
    let reporter = Reporter::begin();
    let result = plan(args).and_then(|plan| {
        logger::init(plan.config.log);
        daemon::run(&plan, &mut |ready| reporter.ready(ready)).map_err(|failure| failure.to_string())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody reads this once the mount has answered; the log has it then.
            reporter.failed(&problem);
            ExitCode::FAILURE
        }
    }
}

fn parse(options: &str) -> Result<MountOptions, String> {
    MountOptions::parse(options).map_err(|error| error.to_string())
}

/// Everything decided, and checked as far as that goes without touching anything.
fn plan(args: &MountArgs) -> Result<Plan, String> {
    let text = |error: nexus::Error| error.to_string();
    let flags = args.settings().map_err(text)?;
    let surroundings = Surroundings::of_process();
    let mut config = if args.daemon.is_some() {
        flags.decide(&surroundings).map_err(text)?
    } else {
        let mut settings = Settings::layered(args.volume.config.as_deref(), flags).map_err(text)?;
        let options = parse(settings.options.as_deref().unwrap_or_default())?;
        // What mount(8) can only say as an option is as strong as a flag.
        settings.data = options.data.or(settings.data);
        settings.memory = options.memory_bytes.map(ByteSize).or(settings.memory);
        settings.cache = options.cache_bytes.map(ByteSize).or(settings.cache);
        settings.decide(&surroundings).map_err(text)?
    };
    let source = source(args, &config, &surroundings);
    let target = std::path::absolute(&args.target)
        .map_err(|error| format!("cannot reach {}: {error}", args.target.display()))?;
    if args.daemon.is_none() {
        config.data = std::path::absolute(&config.data).map_err(|error| error.to_string())?;
    }
    Ok(Plan { target, source, config, log_to_file: true })
}

/// What /proc/mounts shall show as the source: the volume as it was named.
fn source(args: &MountArgs, config: &Config, surroundings: &Surroundings) -> String {
    if let Some(source) = &args.daemon {
        return source.clone();
    }
    let name = args.volume.volume.as_deref().unwrap_or(Path::new(DEFAULT_VOLUME));
    let is_bare = !name.as_os_str().as_encoded_bytes().contains(&b'/');
    match surroundings.volume(name) {
        Ok(data) if is_bare && data == config.data => name.to_string_lossy().into_owned(),
        _ => config.data.to_string_lossy().into_owned(),
    }
}

/// Changes the options of a mount that is there. The kernel refuses writes before the
/// daemon does, and takes them again after it.
fn remount(target: &Path, options: &str) -> Result<(), String> {
    let parsed = parse(options)?;
    let text = |error: MountError| error.to_string();
    let Some(volume) = find::by_mount_point(target)? else {
        return Err(MountError::NotMounted(target.to_owned()).to_string());
    };
    let ask = || {
        let request = Request::Remount { options: options.to_owned() };
        volume.ask(&request, REMOUNT_PATIENCE).map(drop).map_err(|error| format!("cannot remount: {error}"))
    };
    if let Some(wanted) = parsed.transport
        && let Ok(Reply::Status(status)) = volume.ask(&Request::Status, REMOUNT_PATIENCE)
    {
        let here = volume.mount.as_ref().and_then(|here| status.mounts.iter().find(|one| one.target == here.target));
        here.map_or(Ok(()), |mount| keeps_transport(target, wanted, &mount.transport))?;
    }
    if parsed.is_read_only() {
        mount::remount(target, &parsed).map_err(text)?;
        ask()
    } else {
        ask()?;
        mount::remount(target, &parsed).map(drop).map_err(text)
    }
}

/// A mount keeps what its requests come by. mount(8) hands on what fstab says, so that naming what
/// is in use is fine.
fn keeps_transport(target: &Path, wanted: Choice, used: &str) -> Result<(), String> {
    match wanted {
        Choice::Only(wanted) if wanted.to_string() != used => Err(format!(
            "the transport of a mount can't be changed, and {0}'s is {used}: unmount it, and mount it again with transport={wanted}",
            target.display()
        )),
        _ => Ok(()),
    }
}

/// The options that are known, for `mount -s`.
fn known_only(options: &str) -> String {
    let known = |option: &&str| MountOptions::parse(option).is_ok();
    options.split(',').filter(known).collect::<Vec<_>>().join(",")
}

fn announce(ready: &Ready) -> String {
    let target = ready.target.display();
    let mut lines = vec![format!("mounted at   {target}")];
    let made = if ready.made { " (a new volume)" } else { "" };
    lines.push(format!("data lies in {}{made}", ready.data.display()));
    if ready.throwaway {
        lines.push("             all of it is gone once it is unmounted".to_owned());
    }
    lines.extend(ready.notes.iter().map(|note| format!("note:        {note}")));
    lines.push(format!("unmount with nexus-fuse umount {}", quote(&ready.target)));
    lines.join("\n")
}

/// A path as a shell takes it.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%:=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sloppy_leaves_out_what_nobody_knows() {
        assert_eq!(known_only("ro,frobnicate,noatime,uid=x"), "ro,noatime");
        assert_eq!(known_only(""), "");
    }

    #[test]
    fn a_remount_keeps_the_transport() {
        let remount = |wanted: &str, used| keeps_transport(Path::new("/m"), wanted.parse().unwrap(), used);
        for (wanted, used) in [("auto", "device"), ("auto", "io_uring"), ("device", "device"), ("io_uring", "io_uring")]
        {
            assert_eq!(remount(wanted, used), Ok(()));
        }
        let refused = remount("io_uring", "device").unwrap_err();
        assert!(refused.contains("/m's is device") && refused.contains("transport=io_uring"), "{refused}");
        assert!(remount("device", "io_uring").is_err());
    }

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quote(Path::new("/mnt/a-b_1.x")), "/mnt/a-b_1.x");
        assert_eq!(quote(Path::new("/mnt/it's")), "'/mnt/it'\\''s'");
    }
}
