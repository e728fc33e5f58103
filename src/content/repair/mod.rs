//! Puts metadata right that contradicts itself or the content that is there. It only plans: what
//! to change, and a sentence for each thing, so that a dry run and a repair are the same.
//!
//! Nothing that may be somebody's data goes: what has lost its name gets one in `/lost+found`, what
//! has lost its inode gets a new one, and a range whose bytes are gone is marked with
//! [`BlobId::LOST`](nexus_kernel::BlobId::LOST), so that reading it fails instead of giving zeros.
//! Blobs are neither written nor deleted. All of the metadata is held in memory meanwhile.

mod attributes;
mod content;
mod counts;
mod model;
mod mounts;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use nexus_kernel::metastore::Key;
use nexus_kernel::model::{FileKind, Inode, InodeFlags};
use nexus_kernel::{BlobId, Error, Ino, Result, Table, Timestamp, Zone};

use crate::store::SegmentStore;
use content::Facts;
use model::Model;

/// What is to be done.
#[derive(Clone, Default, Debug)]
pub struct RepairPlan {
    /// Changes of the metastore, to be made at once.
    pub writes: Vec<(Table, Key, Option<Bytes>)>,
    /// What they put right, a sentence each.
    pub repairs: Vec<String>,
    /// Paths of files that have lost bytes, in order.
    pub lossy: Vec<String>,
}

/// Plans the repair of a zone that nobody changes meanwhile. An error means that nothing can be
/// said, such as [`Error::Unavailable`] where a store does not answer: what can't be asked for is
/// never taken for lost.
pub fn plan_repair(zone: &dyn Zone, store: &SegmentStore) -> Result<RepairPlan> {
    let mut plan = RepairPlan::default();
    let now = zone.now();
    zone.read(&mut |state| {
        let (model, unreadable) = Model::load(state)?;
        let facts = Facts::new(store);
        let mut repair = Repair { model, now, said: Vec::new(), lost_found: None, lossy: BTreeMap::new() };
        for text in &unreadable.texts {
            repair.say(text);
        }
        repair.numbers()?;
        repair.inodes(&unreadable)?;
        repair.missing_inodes(&unreadable)?;
        repair.dentries()?;
        repair.directories();
        repair.nameless()?;
        repair.extents(&unreadable, &facts)?;
        repair.attributes();
        repair.counts();
        repair.model.put_mounts_back();
        let lossy: std::collections::BTreeSet<String> = repair.lossy.keys().map(|ino| repair.path(*ino)).collect();
        plan = RepairPlan {
            writes: repair.model.changes(state)?,
            repairs: repair.said,
            lossy: lossy.into_iter().collect(),
        };
        Ok(())
    })?;
    Ok(plan)
}

/// A repair at work.
struct Repair {
    model: Model,
    now: Timestamp,
    said: Vec<String>,
    lost_found: Option<u64>,
    /// Bytes lost, by inode.
    lossy: BTreeMap<u64, u64>,
}

impl Repair {
    fn say(&mut self, text: impl fmt::Display) {
        self.said.push(text.to_string());
    }

    /// An inode in the place of one that is gone: nobody's but root's.
    fn blank(&self, kind: FileKind) -> Inode {
        let directory = kind == FileKind::Directory;
        Inode {
            kind,
            mode: if directory { 0o700 } else { 0o600 },
            uid: 0,
            gid: 0,
            nlink: if directory { 2 } else { 0 },
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            parent: if directory { Ino::ROOT } else { Ino(0) },
            flags: InodeFlags::default(),
        }
    }

    fn next_ino(&mut self) -> Result<u64> {
        let highest = self.model.inodes.keys().next_back().copied().unwrap_or(0);
        let next = self.model.usage.next_ino.0.max(highest.saturating_add(1));
        if next > Ino::MAX.0 {
            return Err(Error::NoSpace);
        }
        self.model.usage.next_ino = Ino(next + 1);
        Ok(next)
    }

    /// The path of an inode's first name, as far as it leads up.
    fn path(&self, ino: u64) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT.0 && parts.len() < 4096 {
            let Some((parent, name)) = self.model.first_name(at) else {
                return format!("inode {ino}");
            };
            parts.push(String::from_utf8_lossy(name).into_owned());
            at = parent;
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    fn lose(&mut self, ino: u64, bytes: u64) {
        let sum = self.lossy.entry(ino).or_default();
        *sum = sum.saturating_add(bytes);
    }
}

/// Whether an extent stands for bytes that somebody wrote.
fn has_data(blob: BlobId) -> bool {
    blob != BlobId::NONE
}
