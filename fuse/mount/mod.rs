//! Mounting: options, mount-point rules, the two ways to get a FUSE device mounted, the
//! session that serves it, unmounting and remounting.
//!
//! [`serve`] is what the daemon calls; [`unmount`] and [`remount`] work on any Nexus mount
//! of this machine, from any process.

mod change;
mod device;
mod direct;
mod error;
mod fusermount;

mod options;
mod point;
mod serve;
pub mod table;

use nexus_fuse_transport::Choice;

pub use change::{Unmount, remount, unmount};
pub use error::MountError;
pub use options::{MountOptions, OptionError};
pub use point::{MountPoint, prepare};
pub use serve::{MountSpec, Mounted, resolve_subdir, serve, serve_attached};
pub use table::Entry;

/// File system type of every mount, as /proc/mounts shows it.
pub const FS_TYPE: &str = "fuse.nexus";

/// File system type of a bucket that is attached to a mount.
pub const ATTACHED_TYPE: &str = "fuse.nexus-attached";

/// File system type of a zone that stands somewhere in a mount.
pub const ZONE_TYPE: &str = "fuse.nexus-zone";

/// Whether this process may mount and unmount by itself.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Refuses what can't work on this machine for this user, before anything is made for a mount.
pub fn check_able(options: &MountOptions) -> Result<(), MountError> {
    device::check()?;
    if !is_root() {
        fusermount::program()?;
    }
    match options.transport {
        Some(Choice::Only(transport)) => transport.hindrance().map_or(Ok(()), |why| Err(MountError::NoRing(why))),
        _ => Ok(()),
    }
}
