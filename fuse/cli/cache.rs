//! `nexus-fuse warmup`, `evict` and `du`: what is kept on this disk of content that is in the cloud.

use std::path::{Path, PathBuf};

use clap::Args;
use nexus::config::ByteSize;

use super::find;
use super::place::{Kind, ask, end_progress, progress, unexpected, walk};
use crate::control::{Reply, Request};

/// Arguments of all three.
#[derive(Args, Debug, Clone)]
pub struct PathsArgs {
    /// Files, and directories with all below them
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

/// Arguments of `du`.
#[derive(Args, Debug, Clone)]
pub struct DuArgs {
    /// Tell what is kept on this disk (the only way that there is)
    #[arg(long, required = true)]
    pub cached: bool,
    /// Files, and directories with all below them
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

pub const WARMUP_HELP: &str = "\
Examples:
  nexus-fuse warmup /mnt/nexus/project
  nexus-fuse warmup /mnt/nexus/a /mnt/nexus/b && umount-the-network

Fetches what is in a bucket and not in the cache on this disk, so that it is read from there. Refused
if it does not fit (--store-cache of mount). Called again, it only fetches what is missing.";

pub const EVICT_HELP: &str = "\
Examples:
  nexus-fuse evict /mnt/nexus/project

Throws out what the cache on this disk holds of these files, and of others that share objects with
them. What is not in its bucket yet stays.";

pub const DU_HELP: &str = "\
Examples:
  nexus-fuse du --cached /mnt/nexus/project
  nexus-fuse du --cached /mnt/nexus/*

Tells for each argument, and all below it: bytes in all (without holes), on this disk (in their
store, too), and only on this disk (not in their bucket yet).";

/// Sums.
#[derive(Clone, Copy, Default)]
struct Sums {
    bytes: u64,
    cached: u64,
    only_here: u64,
    limit: Option<u64>,
}

fn sums(path: &Path) -> Result<Sums, String> {
    let (volume, path) = find::containing(path)?;
    let mut sums = Sums::default();
    walk(&path, &mut |inodes, kind| {
        if kind == Kind::Directories {
            return Ok(());
        }
        match ask(&volume, &Request::Residency { inodes: inodes.to_vec() })? {
            Reply::Residency { bytes, cached, only_here, limit } => {
                sums.bytes += bytes;
                sums.cached += cached;
                sums.only_here += only_here;
                sums.limit = limit;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    })?;
    Ok(sums)
}

/// Tells what is here.
pub fn du(args: &DuArgs) -> Result<String, String> {
    let mut lines = vec![format!("{:>10} {:>10} {:>10}", "in all", "here", "only here")];
    for path in &args.paths {
        let Sums { bytes, cached, only_here, .. } = sums(path)?;
        let text = |bytes| ByteSize(bytes).to_string();
        lines.push(format!("{:>10} {:>10} {:>10} {}", text(bytes), text(cached), text(only_here), path.display()));
    }
    Ok(lines.join("\n"))
}

/// Fetches what is not here.
pub fn warmup(args: &PathsArgs) -> Result<String, String> {
    let (mut wanted, mut limit) = (0u64, None);
    for path in &args.paths {
        let sums = sums(path)?;
        wanted = wanted.saturating_add(sums.bytes.saturating_sub(sums.only_here));
        limit = limit.or(sums.limit);
    }
    if let Some(limit) = limit.filter(|limit| wanted > *limit) {
        return Err(format!(
            "{} do not fit into the cache, which holds {} at the most: name less, or mount with a larger --store-cache",
            ByteSize(wanted),
            ByteSize(limit)
        ));
    }
    let mut done = 0u64;
    for path in &args.paths {
        let (volume, path) = find::containing(path)?;
        walk(&path, &mut |inodes, kind| {
            let mut next = (kind == Kind::Files).then_some((0, 0));
            while let Some((file, offset)) = next {
                next = match ask(&volume, &Request::Warm { inodes: inodes.to_vec(), file, offset })? {
                    Reply::Warmed { bytes, next } => {
                        done += bytes;
                        next
                    }
                    other => return Err(unexpected(&other)),
                };
                progress(&format!("{} of {}", ByteSize(done), ByteSize(wanted)));
            }
            Ok(())
        })?;
    }
    end_progress(done > 0);
    Ok(format!("{} are on this disk", ByteSize(done)))
}

/// Throws out what is here.
pub fn evict(args: &PathsArgs) -> Result<String, String> {
    let (mut bytes, mut kept) = (0u64, 0u64);
    for path in &args.paths {
        kept = kept.saturating_add(sums(path)?.only_here);
        let (volume, path) = find::containing(path)?;
        walk(&path, &mut |inodes, kind| {
            if kind == Kind::Directories {
                return Ok(());
            }
            match ask(&volume, &Request::Evict { inodes: inodes.to_vec() })? {
                Reply::Evicted { bytes: more } => {
                    bytes += more;
                    Ok(())
                }
                other => Err(unexpected(&other)),
            }
        })?;
    }
    let kept = match kept {
        0 => String::new(),
        kept => format!("; {} that are only here stay", ByteSize(kept)),
    };
    Ok(format!("{} thrown out{kept}", ByteSize(bytes)))
}
