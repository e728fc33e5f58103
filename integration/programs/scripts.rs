//! Mapped files and locks: what only a program with raw memory and raw system calls can
//! ask, and so is asked in Python.

use crate::failure::Check;
use crate::lab::Lab;
use crate::tool::Tool;

/// Shared and private mappings, against each other and against read and write.
pub fn mmap(lab: &Lab) -> Check {
    let mut place = lab.place("mmap")?;
    Tool::python(include_str!("mmap.py")).arg("write").arg(place.root()).ok()?;
    place.remount()?;
    Tool::python(include_str!("mmap.py")).arg("check").arg(place.root()).ok()?;
    place.finish()
}

/// flock, fcntl and OFD locks, between processes and within one.
pub fn locks(lab: &Lab) -> Check {
    let place = lab.place("locks")?;
    Tool::python(include_str!("locks.py")).arg(place.root()).ok()?;
    place.finish()
}
