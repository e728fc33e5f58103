//! Why a volume could not be configured, opened or closed, told for the person who asked.

use std::path::PathBuf;

/// What went wrong. Every text says what, on what, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong; `place` is where it was given.
    #[error("{place}: {problem}")]
    Setting {
        /// Environment variable, flag, or file and line.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder holds something else.
    #[error(
        "{} is neither empty nor a Nexus volume (it holds {found:?}): choose another folder with --data",
        path.display()
    )]
    NotAVolume {
        /// The folder.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The folder holds no volume, and none was to be made.
    #[error("{} holds no Nexus volume", .0.display())]
    NoVolume(PathBuf),
    /// The volume was written by another version of Nexus.
    #[error(
        "{} has volume format {found:?}, but this nexus-fuse reads format {known}: use the version of Nexus that made it",
        path.display()
    )]
    OtherVersion {
        /// The folder.
        path: PathBuf,
        /// Its format, as written there.
        found: String,
        /// The format of this build.
        known: u32,
    },
    /// A living process has the volume open.
    #[error("{}", in_use(path, *pid, mounts))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, if it said.
        pid: Option<u32>,
        /// Where it is mounted.
        mounts: Vec<PathBuf>,
    },
    /// The volume was to be opened with other drivers than it was made with.
    #[error(
        "{} was made with {made}, not {wanted}: leave the drivers as they are, or choose another folder with --data",
        path.display()
    )]
    OtherDrivers {
        /// The folder.
        path: PathBuf,
        /// What it was made with.
        made: String,
        /// What was asked for.
        wanted: String,
    },
    /// Part of the volume is damaged.
    #[error("{}: {problem}\nNothing was changed. `nexus-fuse fsck {}` lists all damage, and with \
             --repair --dry-run what could be saved", path.display(), path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// The operating system said no.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// Its answer.
        error: std::io::Error,
    },
    /// The kernel tier said no.
    #[error("cannot {what}: {error}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Its answer.
        error: nexus_kernel::Error,
    },
}

/// Result of this package's operations.
pub type Result<T> = std::result::Result<T, Error>;

fn in_use(path: &std::path::Path, pid: Option<u32>, mounts: &[PathBuf]) -> String {
    let mut text = format!("{} is in use by ", path.display());
    text.push_str(&pid.map_or("another process".to_owned(), |pid| format!("process {pid}")));
    match mounts {
        [] => text.push_str(": wait until it is done, or choose another folder with --data"),
        [first, ..] => {
            let list: Vec<String> = mounts.iter().map(|mount| mount.display().to_string()).collect();
            text.push_str(&format!(
                ", mounted at {}: unmount it first (nexus-fuse umount {}), or choose another folder with --data",
                list.join(", "),
                first.display()
            ));
        }
    }
    text
}

impl Error {
    /// Wraps an answer of the operating system.
    pub fn io(what: impl Into<String>, error: std::io::Error) -> Error {
        Error::Io { what: what.into(), error }
    }

    /// Wraps an answer of the kernel tier for the volume at `path`: damage keeps apart from
    /// what may work another time.
    pub fn kernel(path: &std::path::Path, what: impl Into<String>, error: nexus_kernel::Error) -> Error {
        match error {
            nexus_kernel::Error::Corrupt(problem) | nexus_kernel::Error::UnknownVersion(problem) => {
                Error::Damaged { path: path.to_owned(), problem }
            }
            error => Error::Kernel { what: what.into(), error },
        }
    }
}
