//! The few system calls that safe crates do not offer: all of this crate's unsafe code is in
//! this folder.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)`.
const CLONE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);

/// Makes `new`, a fresh descriptor of /dev/fuse, one of the same connection as `of`.
#[allow(unsafe_code, reason = "the ioctl has no safe wrapper")]
pub fn clone_device(new: &OwnedFd, of: &OwnedFd) -> io::Result<()> {
    let mut source = of.as_raw_fd() as u32;
    // SAFETY: the ioctl reads a u32, a descriptor's number, from where its argument points.
    let request = unsafe { rustix::ioctl::Updater::<CLONE, u32>::new(&mut source) };
    // SAFETY: as above; it changes nothing but the kernel's own state.
    unsafe { rustix::ioctl::ioctl(new, request) }.map_err(io::Error::from)
}

/// Memory that the kernel reads and writes by its address while a ring lives: never moves,
/// begins at a page, takes up room only where it was used.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, as that of a Vec does.
#[allow(unsafe_code, reason = "a raw pointer to own memory")]
unsafe impl Send for Pages {}

#[allow(unsafe_code, reason = "own mapping of memory")]
impl Pages {
    /// `len` bytes of zeros.
    pub fn new(len: usize) -> io::Result<Pages> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { start, len })
    }

    /// The bytes. The kernel does not touch them while their owner does: it hands them over with
    /// a completion and takes them back with a submission.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and initialised, with zeros at first.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed by one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Gives the memory back to the system; what was in it is zeros then.
    pub fn release(&mut self) {
        // SAFETY: own private memory, no reference to which is out.
        let _ = unsafe { rustix::mm::madvise(self.start.as_ptr().cast::<c_void>(), self.len, Advice::LinuxDontNeed) };
    }
}

#[allow(unsafe_code, reason = "own mapping of memory")]
impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
    }
}
