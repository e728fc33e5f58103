//! The FUSE device.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::error::MountError;

const PATH: &str = "/dev/fuse";

/// Opens it for a new connection.
pub fn open() -> Result<OwnedFd, MountError> {
    rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => MountError::NoDevice,
        errno => MountError::DeviceRefused(io::Error::from(errno)),
    })
}

/// Whether this user may open it, for callers that let somebody else do so.
pub fn check() -> Result<(), MountError> {
    open().map(drop)
}
