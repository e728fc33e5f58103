//! `nexus-fuse completions` and `nexus-fuse man`: both made from the grammar.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;

const PROGRAM: &str = "nexus-fuse";

/// Prints a completion script.
pub fn completions(shell: Shell) -> Result<ExitCode, String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    print(&script)
}

/// Prints the manual page, or writes all of them into `out`.
pub fn man(out: Option<&Path>) -> Result<ExitCode, String> {
    let mut command = Cli::command();
    command.build();
    let Some(out) = out else {
        return print(&page(&command).map_err(|error| error.to_string())?);
    };
    let write = || -> io::Result<()> {
        fs::create_dir_all(out)?;
        fs::write(out.join(format!("{PROGRAM}.1")), page(&command)?)?;
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{PROGRAM}-{}", sub.get_name());
            fs::write(out.join(format!("{name}.1")), page(&sub.clone().display_name(name.clone()))?)?;
            for part in sub.get_subcommands().filter(|part| part.get_name() != "help") {
                let name = format!("{name}-{}", part.get_name());
                fs::write(out.join(format!("{name}.1")), page(&part.clone().display_name(name.clone()))?)?;
            }
        }
        Ok(())
    };
    write().map_err(|error| format!("cannot write manual pages into {}: {error}", out.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}

/// A reader that has seen enough is no error.
fn print(bytes: &[u8]) -> Result<ExitCode, String> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
