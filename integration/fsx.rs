//! fsx (crates.io): one file under random reads, writes, maps, cuts, holes and copies, held
//! against a copy in memory. Its profiles stress one thing each.

use std::fs;

use crate::failure::{Check, During};
use crate::lab::Lab;
use crate::report::Case;
use crate::tool::Tool;

/// A way to stress the file.
#[derive(Clone, Copy)]
struct Profile {
    name: &'static str,
    file_kib: u64,
    op_kib: u64,
    align: u64,
    /// Share of the ordinary number of operations that this profile makes.
    share: f64,
    /// Weights beyond reading, writing and cutting.
    weights: &'static str,
}

const PROFILES: [Profile; 6] = [
    Profile { name: "plain", file_kib: 256, op_kib: 64, align: 1, share: 1.0, weights: "mapread = 0\nmapwrite = 0" },
    Profile {
        name: "mmap",
        file_kib: 256,
        op_kib: 64,
        align: 1,
        share: 1.0,
        weights: "mapread = 10\nmapwrite = 10\ninvalidate = 1\nsendfile = 2",
    },
    Profile {
        name: "punch",
        file_kib: 4096,
        op_kib: 64,
        align: 1,
        share: 1.0,
        weights: "mapread = 2\nmapwrite = 2\npunch_hole = 6\nposix_fallocate = 3",
    },
    Profile {
        name: "copy",
        file_kib: 1024,
        op_kib: 64,
        align: 1,
        share: 1.0,
        weights: "mapread = 1\nmapwrite = 1\ncopy_file_range = 8\npunch_hole = 1",
    },
    Profile {
        name: "blocks",
        file_kib: 1024,
        op_kib: 64,
        align: 4096,
        share: 1.0,
        weights: "mapread = 4\nmapwrite = 4\npunch_hole = 3\ncopy_file_range = 3",
    },
    Profile {
        name: "large",
        file_kib: 64 << 10,
        op_kib: 1024,
        align: 1,
        share: 0.05,
        weights: "mapread = 3\nmapwrite = 3\npunch_hole = 1\ncopy_file_range = 1\nposix_fallocate = 1\nsendfile = 1",
    },
];

/// A profile with each of a few seeds.
pub fn cases(lab: &Lab) -> Vec<Case> {
    let seeds = lab.seed..lab.seed + if lab.zone { 1 } else { lab.scale(2, 4) };
    let pairs = seeds.flat_map(|seed| PROFILES.map(|profile| (profile, seed)));
    pairs
        .map(|(profile, seed)| Case::new(format!("{} seed={seed}", profile.name), move |lab| run(lab, profile, seed)))
        .collect()
}

fn run(lab: &Lab, profile: Profile, seed: u64) -> Check {
    let mut place = lab.place("fsx")?;
    let settings = place.outside().join("fsx.toml");
    fs::write(&settings, configuration(profile))?;
    let file = place.root().join("file");
    // In a zone each change waits for other nodes.
    let share = if lab.zone { profile.share / 8.0 } else { profile.share };
    let operations = (lab.scale(8_000.0, 60_000.0) * share) as u64;
    Tool::new(lab.tools.join("fsx"))
        .limit_s(lab.scale(300, 3600))
        .args(["-q", "-N", &operations.to_string(), "-S", &seed.to_string(), "-f"])
        .arg(&settings)
        .arg("-P")
        .arg(place.outside())
        .arg(&file)
        .ok()
        .during(format!("{operations} operations, seed {seed}"))?;
    // What it leaves must be there after a restart.
    let before = fs::read(&file)?;
    place.remount()?;
    crate::failure::ensure!(fs::read(&file)? == before, "the content differs after a remount");
    place.finish()
}

fn configuration(profile: Profile) -> String {
    format!(
        "flen = {}\n[opsize]\nmax = {}\nmin = 1\nalign = {}\n[weights]\nread = 10\nwrite = 10\ntruncate = 5\n\
         close_open = 1\nfsync = 0.2\nfdatasync = 0.2\nposix_fadvise = 0.5\n{}\n",
        profile.file_kib << 10,
        profile.op_kib << 10,
        profile.align,
        profile.weights
    )
}
