//! Which transports the bench compares, and the kernel's switch for FUSE over io_uring.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;
use nexus_bench::{Context, Failure};

/// Where the kernel keeps it.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// 2 forbids io_uring to everybody.
const FORBIDDEN: &str = "/proc/sys/kernel/io_uring_disabled";

/// What carries the requests of Nexus and of the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// io_uring if the kernel has it.
    Auto,
    /// read and write on /dev/fuse.
    Device,
    /// io_uring, a queue for each processor.
    #[value(name = "io_uring")]
    Ring,
    /// Each in turn, as subjects of their own.
    Both,
}

/// The switch, turned on for as long as this lives if it was off.
pub struct Switch {
    path: PathBuf,
    on: bool,
    restore: bool,
}

impl Switch {
    /// Turns it on where it can be, if `wanted` has use for it, and says so.
    pub fn turn_on_for(wanted: Wanted) -> Result<Self, Failure> {
        let mut switch = Switch::at(SWITCH.into(), wanted)?;
        let forbidden = fs::read_to_string(FORBIDDEN).is_ok_and(|value| value.trim() == "2");
        switch.on &= !forbidden;
        Ok(switch)
    }

    fn at(path: PathBuf, wanted: Wanted) -> Result<Self, Failure> {
        // No such file: the kernel is older than 6.14, or the module is not loaded.
        let state = fs::read_to_string(&path).ok();
        let is_on = state.as_deref().map(|state| state.trim() == "Y");
        let restore = wanted != Wanted::Device && is_on == Some(false);
        if restore {
            eprintln!("switching {} on for this run; it goes off again after it", path.display());
            fs::write(&path, "Y").during(|| format!("switching {} on", path.display()))?;
        }
        Ok(Switch { path, on: restore || is_on == Some(true), restore })
    }

    /// The transports to measure, as the programs' options name them.
    pub fn transports(&self, wanted: Wanted) -> Result<Vec<&'static str>, Failure> {
        const DEVICE: &str = "device";
        const RING: &str = "io_uring";
        match wanted {
            Wanted::Device => Ok(vec![DEVICE]),
            Wanted::Auto => Ok(vec![if self.on { RING } else { DEVICE }]),
            Wanted::Ring | Wanted::Both if !self.on => {
                Err(Failure::new(format!("--transport: this kernel has no FUSE over io_uring (see {SWITCH})")))
            }
            Wanted::Ring => Ok(vec![RING]),
            Wanted::Both => Ok(vec![RING, DEVICE]),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if !self.restore {
            return;
        }
        match fs::write(&self.path, "N") {
            Ok(()) => eprintln!("{} is off again", self.path.display()),
            Err(error) => eprintln!("{} stays on: {error}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_for_the_run_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switch");
        let state = || fs::read_to_string(&path).unwrap();
        fs::write(&path, "N\n").unwrap();
        {
            let device = Switch::at(path.clone(), Wanted::Device).unwrap();
            assert_eq!((state().as_str(), device.transports(Wanted::Device).unwrap()), ("N\n", vec!["device"]));
        }
        {
            let auto = Switch::at(path.clone(), Wanted::Auto).unwrap();
            assert_eq!((state().as_str(), auto.transports(Wanted::Auto).unwrap()), ("Y", vec!["io_uring"]));
            assert_eq!(auto.transports(Wanted::Both).unwrap(), ["io_uring", "device"]);
        }
        assert_eq!(state(), "N");
        fs::write(&path, "Y\n").unwrap();
        drop(Switch::at(path.clone(), Wanted::Ring).unwrap());
        assert_eq!(state(), "Y\n", "what was on stays on");
    }

    #[test]
    fn without_the_switch_the_device_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let none = Switch::at(dir.path().join("none"), Wanted::Auto).unwrap();
        assert_eq!(none.transports(Wanted::Auto).unwrap(), ["device"]);
        assert!(none.transports(Wanted::Ring).is_err() && none.transports(Wanted::Both).is_err());
    }
}
