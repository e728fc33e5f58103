//! What can go wrong with a mount, in sentences for the person who asked for it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::options::OptionError;

/// Why mounting, unmounting or remounting failed. Each message says what went wrong, on
/// what, and what to do.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are the parts of the messages")]
pub enum MountError {
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(
        "/dev/fuse is missing: load the kernel's FUSE support (as root: `modprobe fuse`), or make the device available in this container"
    )]
    NoDevice,
    #[error(
        "cannot open /dev/fuse: {0}; everybody who mounts needs to read and write it (as root: `chmod 666 /dev/fuse`)"
    )]
    DeviceRefused(io::Error),
    #[error("this kernel offers no FUSE over io_uring: {0}; or leave out transport=io_uring")]
    NoRing(String),
    #[error(
        "fusermount3 was not found, and an ordinary user can't mount without it: install the package fuse3, or mount as root"
    )]
    NoFusermount,
    #[error(
        "allow_other is not allowed for ordinary users here: add the line `user_allow_other` to /etc/fuse.conf, or leave allow_other out"
    )]
    AllowOtherForbidden,
    #[error("fusermount3 could not mount on {target}: {message}")]
    Fusermount { target: PathBuf, message: String },
    #[error("fusermount3 could not unmount {target}: {message}")]
    FusermountUnmount { target: PathBuf, message: String },
    #[error("{target} can't be made: {error}; make the folder yourself, or choose another mount point")]
    CannotCreate { target: PathBuf, error: io::Error },
    #[error("{target} can't be used as a mount point: {error}")]
    Unusable { target: PathBuf, error: io::Error },
    #[error("{0} is not a directory: choose a directory as the mount point")]
    NotADirectory(PathBuf),
    #[error("{0} is not empty: choose an empty directory, or mount over it with -o nonempty")]
    NotEmpty(PathBuf),
    #[error(
        "{volume} is mounted on {target} already: unmount it first (`nexus-fuse umount {target}`), or choose another mount point"
    )]
    AlreadyMounted { volume: String, target: PathBuf },
    #[error("the mount on {0} does not answer: its daemon hangs; look at its log, or detach it with `umount -l {0}`")]
    NotAnswering(PathBuf),
    #[error(
        "{target} holds a dead mount of {fs_type}, which is not Nexus's to clear: detach it with `umount -l {target}`"
    )]
    ForeignStale { target: PathBuf, fs_type: String },
    #[error("the dead mount on {target} can't be detached: {error}; try `umount -l {target}` as root")]
    CannotDetach { target: PathBuf, error: io::Error },
    #[error("mount(2) refused to mount on {target}: {error}{}", hint(.error))]
    Refused { target: PathBuf, error: io::Error },
    #[error("{0} is not a mount of Nexus: `nexus-fuse status` lists those there are")]
    NotMounted(PathBuf),
    #[error("{0} is in use: close what is open there (`fuser -vm {0}` tells who), or detach it with --lazy")]
    Busy(PathBuf),
    #[error("{target} can't be unmounted: {error}")]
    CannotUnmount { target: PathBuf, error: io::Error },
    #[error("only root may change the options of a mount; unmount {0} and mount it again instead")]
    RemountNeedsRoot(PathBuf),
    #[error("{target} can't be remounted: {error}{}", busy_hint(.error))]
    CannotRemount { target: PathBuf, error: io::Error },
    #[error("subdir={path}: {error}; the directory must exist in the volume")]
    Subdir { path: PathBuf, error: nexus_kernel::Error },
    #[error("the FUSE session on {target} failed: {error}")]
    Session { target: PathBuf, error: io::Error },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (mounting needs the capability CAP_SYS_ADMIN, which containers often lack)"
        }
        _ if error.raw_os_error() == Some(19) => " (the kernel has no FUSE: `modprobe fuse`)",
        _ => "",
    }
}

fn busy_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ResourceBusy => " (files are open for writing there)",
        _ => "",
    }
}
