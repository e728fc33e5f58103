//! What carries the kernel's requests to the daemon under test, and whether this machine has it.

use std::fmt;
use std::fs;

use clap::ValueEnum;

use crate::failure::{Check, Stop};

/// Where the kernel keeps the switch for FUSE over io_uring.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// Who may use io_uring at all: 0 everybody, 2 nobody.
const ALLOWED: &str = "/proc/sys/kernel/io_uring_disabled";

/// As `nexus-fuse mount --transport` has them.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum Transport {
    /// read and write on /dev/fuse.
    Device,
    /// io_uring.
    #[value(name = "io_uring")]
    Ring,
}

impl Transport {
    /// Skips the case where this machine has no such transport.
    pub fn needed(self) -> Check {
        match self.missing() {
            Some(why) => Err(Stop::Skipped(why)),
            None => Ok(()),
        }
    }

    fn missing(self) -> Option<String> {
        let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        match (self, read(SWITCH).as_deref()) {
            (Transport::Device, _) => None,
            (Transport::Ring, None) => Some("this kernel has no FUSE over io_uring".to_owned()),
            (Transport::Ring, Some("Y")) => {
                (read(ALLOWED).as_deref() == Some("2")).then(|| format!("io_uring is forbidden here, see {ALLOWED}"))
            }
            (Transport::Ring, Some(_)) => Some(format!("FUSE over io_uring is switched off, see {SWITCH}")),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Device => "device",
            Transport::Ring => "io_uring",
        })
    }
}
