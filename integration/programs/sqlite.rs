//! SQLite: several processes write one database while others read it.

use crate::failure::Check;
use crate::lab::Lab;
use crate::tool::Tool;

/// With one of SQLite's journal modes.
pub fn run(lab: &Lab, journal: &str) -> Check {
    let mut place = lab.place("sqlite")?;
    let python = |what: &str| {
        Tool::python(include_str!("sqlite.py"))
            .args([what, journal, lab.scale("150", "3000")])
            .arg(place.root().join("database"))
            .limit_s(600)
            .ok()
    };
    python("write")?;
    python("check")?;
    place.kill_and_remount()?;
    let python = |what: &str| {
        Tool::python(include_str!("sqlite.py")).args([what, journal, "0"]).arg(place.root().join("database")).ok()
    };
    python("check")?;
    place.finish()
}
