//! The `nexus-fuse` program; everything it does is in the library.

fn main() -> std::process::ExitCode {
    nexus_fuse::cli::run(std::env::args_os())
}
