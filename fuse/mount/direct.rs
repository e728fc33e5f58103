//! Mounting with mount(2), as root.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

use super::device;
use super::error::MountError;
use super::options::MountOptions;

/// Mounts a new connection on `target`; answers its device.
pub fn mount(fs_type: &str, source: &str, target: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = device::open()?;
    let refused = |error| MountError::Refused { target: target.to_owned(), error };
    let data = CString::new(data(device.as_raw_fd(), options)).map_err(|error| refused(error.into()))?;
    let flags = options.flags(MountFlags::empty());
    rustix::mount::mount(source, target, fs_type, flags, data.as_c_str())
        .map_err(|errno| refused(io::Error::from(errno)))?;
    Ok(device)
}

/// The file system's own options.
fn data(fd: i32, options: &MountOptions) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},default_permissions");
    if options.lets_others_in(true) {
        data.push_str(",allow_other");
    }
    if let Some(bytes) = options.max_read {
        data.push_str(&format!(",max_read={bytes}"));
    }
    data
}

/// Takes the mount at `target` away; `lazy` at once from the tree, the rest once nobody uses it.
pub fn unmount(target: &Path, lazy: bool) -> io::Result<()> {
    let how = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(target, how | UnmountFlags::NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_let_in_and_permissions_checked_by_the_kernel() {
        let plain = data(7, &MountOptions::default());
        assert!(plain.starts_with("fd=7,rootmode=40000,user_id="));
        assert!(plain.ends_with(",default_permissions,allow_other"));
        let read = data(7, &MountOptions::parse("max_read=64K").unwrap());
        assert!(read.ends_with(",max_read=65536"));
    }
}
