//! The command line: its grammar, one file a command, and the names that the program
//! answers to. The commands print; the daemon's own work is in [`crate::daemon`].

mod args;
mod attach;
mod cache;
mod examples;
mod find;
mod flush;
mod fsck;
mod fsck_args;
mod gc;
mod helper;
mod metrics;
mod mount;
mod pages;
mod place;
mod progress;
mod scrub;
mod status;
mod store;
mod umount;
mod zone;
mod zone_args;
mod zone_watch;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::mount::Unmount;
use args::{Cli, Command, StoreCommand};
use helper::{MountCall, UmountCall};

pub use args::MountArgs;

/// Exit status of a mount that failed, as mount(8) documents it.
const MOUNT_FAILED: u8 = 32;
/// Exit status of a helper that was called wrongly, as mount(8) documents it.
const BAD_CALL: u8 = 1;
/// Exit status of fsck when the volume could not be looked at.
const NOT_CHECKED: u8 = 2;

/// Runs the program with these arguments, the first of which is its own name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let name = args.first().map(Path::new).and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let rest = args.iter().skip(1).cloned();
    match name.as_deref() {
        Some("mount.fuse.nexus" | "mount.nexus") => match MountCall::parse(rest) {
            Ok(call) => exit(mount::run_helper(&call).map(|()| ExitCode::SUCCESS), MOUNT_FAILED),
            Err(problem) => exit(Err(problem), BAD_CALL),
        },
        Some("umount.fuse.nexus" | "umount.nexus") => match UmountCall::parse(rest) {
            Ok(call) => {
                let how = if call.lazy { Unmount::Lazy } else { Unmount::WhenIdle };
                exit(umount::run(&call.target, how).map(|()| ExitCode::SUCCESS), MOUNT_FAILED)
            }
            Err(problem) => exit(Err(problem), BAD_CALL),
        },
        _ => run_command(&Cli::parse_from(args).command),
    }
}

fn run_command(command: &Command) -> ExitCode {
    match command {
        Command::Mount(args) => exit(mount::run(args), 1),
        Command::Umount(args) => {
            let how = if args.lazy { Unmount::Lazy } else { Unmount::WhenIdle };
            let sent = if args.wait { umount::send_all(&args.target) } else { Ok(()) };
            exit(sent.and_then(|()| umount::run(&args.target, how)).map(|()| ExitCode::SUCCESS), 1)
        }
        Command::Status(args) => exit(status::run(args), 1),
        Command::Metrics(args) => exit(metrics::run(args).map(|()| ExitCode::SUCCESS), 1),
        Command::Fsck(args) => exit(fsck::run(args), NOT_CHECKED),
        Command::Gc(args) => exit(gc::run(args).map(|text| print(&text)), 1),
        Command::Scrub(args) => exit(scrub::run(args.target.as_deref()), NOT_CHECKED),
        Command::Flush(args) => exit(flush::run(args.target.as_deref()).map(|text| print(&text)), 1),
        Command::Store { command } => exit(run_store(command), 1),
        Command::Place(args) => exit(place::place(args).map(|text| print(&text)), 1),
        Command::Warmup(args) => exit(cache::warmup(args).map(|text| print(&text)), 1),
        Command::Evict(args) => exit(cache::evict(args).map(|text| print(&text)), 1),
        Command::Du(args) => exit(cache::du(args).map(|text| print(&text)), 1),
        Command::Migrate(args) => exit(place::migrate(args).map(|text| print(&text)), 1),
        Command::Attach(args) => exit(attach::attach(args).map(|text| print(&text)), 1),
        Command::Detach(args) => exit(attach::detach(&args.target).map(|text| print(&text)), 1),
        Command::Share(args) => exit(zone::share(args).map(|text| print(&text)), 1),
        Command::Join(args) => exit(zone::join(args).map(|text| print(&text)), 1),
        Command::Zone { command } => exit(zone::run(command).map(|text| print(&text)), 1),
        Command::Completions { shell } => exit(pages::completions(*shell), 1),
        Command::Man { out } => exit(pages::man(out.as_deref()), 1),
    }
}

fn run_store(command: &StoreCommand) -> Result<ExitCode, String> {
    match command {
        StoreCommand::Test(args) => store::test(args),
        StoreCommand::Add(args) => store::add(args).map(|text| print(&text)),
        StoreCommand::Set(args) => store::set(args).map(|text| print(&text)),
        StoreCommand::Ls(args) => store::ls(args.mount.as_deref()).map(|text| print(&text)),
        StoreCommand::Rm(args) => store::rm(args).map(|text| print(&text)),
    }
}

fn print(text: &str) -> ExitCode {
    if !text.is_empty() {
        println!("{text}");
    }
    ExitCode::SUCCESS
}

/// Tells on standard error what went wrong.
fn exit(result: Result<ExitCode, String>, failed: u8) -> ExitCode {
    result.unwrap_or_else(|problem| {
        eprintln!("nexus-fuse: {problem}");
        ExitCode::from(failed)
    })
}
