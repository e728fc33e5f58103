//! Sizes at the edge: many files, many open files, large and sparse files, long and odd
//! names, a full disk; and the daemon's memory under them (I7).

mod directory;
mod disk_full;
mod files;

use crate::failure::{Check, ensure};
use crate::lab::Place;
use crate::report::Case;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("many-files", directory::many_files),
        Case::new("listing-while-changing", directory::listing_while_changing),
        Case::new("names", directory::names),
        Case::new("open-files", files::open_files),
        Case::new("large-write", files::large_write),
        Case::new("sparse-8-tib", files::sparse),
        Case::new("disk-full", disk_full::run),
    ]
}

/// The memory limit that the daemon is given here, in MiB.
const MEMORY_MIB: u64 = 128;

/// Its mount option.
fn memory_option() -> String {
    format!("memory={MEMORY_MIB}M")
}

/// The daemon keeps its own memory under its limit.
fn check_memory(place: &mut Place) -> Check {
    if let Some(mount) = place.mount() {
        let mib = mount.memory_kib()? >> 10;
        ensure!(mib <= MEMORY_MIB, "the daemon takes {mib} MiB of memory, its limit is {MEMORY_MIB}");
    }
    Ok(())
}
