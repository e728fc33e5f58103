//! Syscalls on attributes: getattr, setattr with truncation, statfs.

use std::ops::ControlFlow;

use super::locks::Fence;
use super::{Attr, Caller, FsStats, NexusFs, answered, live, regular};
use crate::command::{AttrChange, Command, Interest, RangeOp};
use crate::error::{Error, Result};
use crate::ids::{Ino, NodeId};
use crate::metastore::Table;
use crate::model::{Inode, MAX_FILE_BYTES, keys, mode};
use crate::zone::Zone;

/// Extents that one step of a truncation frees at most, so that no command gets huge.
const STEP_EXTENTS: usize = 4096;
/// Bytes of metadata that a small file takes on disk, after churn: what tells how many
/// more fit.
const BYTES_PER_INODE: u64 = 400;

impl NexusFs {
    /// Attributes.
    pub fn getattr(&self, node: NodeId) -> Result<Attr> {
        let (zone, ino) = self.router.resolve(node)?;
        self.freshen_if_strict(&*zone, Interest::Inode(ino))?;
        Ok(Attr { node, inode: live(&*zone, ino)? })
    }

    /// Changes attributes. That the caller may do so has been checked on its side.
    pub fn setattr(&self, _caller: &Caller, node: NodeId, change: &AttrChange) -> Result<Attr> {
        self.writable()?;
        let (zone, ino) = self.router.resolve(node)?;
        if change.mode.is_some_and(|bits| bits & !mode::PERMISSIONS != 0) {
            return Err(Error::Invalid);
        }
        if let Some(size) = change.size {
            let inode = live(&*zone, ino)?;
            regular(&inode)?;
            if size > MAX_FILE_BYTES {
                return Err(Error::FileTooLarge);
            }
            let fence = self.fence(node);
            let command = fence.guard(Command::SetAttr { ino, change: *change, now: zone.now() });
            let cut = shrink_in_steps(&*zone, fence, (ino, &inode), size, change.kill_privileges);
            let cut = cut.and_then(|()| zone.propose(&command));
            return answered(node.zone(), &self.fenced(&*zone, fence, cut)?);
        }
        let outcome = zone.propose(&Command::SetAttr { ino, change: *change, now: zone.now() })?;
        answered(node.zone(), &outcome)
    }

    /// Numbers of the volume that holds `node`.
    pub fn statfs(&self, node: NodeId) -> Result<FsStats> {
        let (zone, _) = self.router.resolve(node)?;
        let (usage, space) = (zone.usage()?, self.content.space()?);
        let numbers_left = Ino::MAX.0.saturating_sub(usage.next_ino.0);
        let fit = if space.total == 0 { numbers_left } else { space.available / BYTES_PER_INODE };
        Ok(FsStats {
            total_bytes: space.total,
            free_bytes: space.free,
            available_bytes: space.available,
            used_inodes: usage.inodes,
            free_inodes: fit.min(numbers_left),
        })
    }
}

/// Cuts a file that has very many extents beyond `target` until few are left there.
fn shrink_in_steps(
    zone: &dyn Zone,
    fence: Fence,
    (ino, inode): (Ino, &Inode),
    target: u64,
    kill_privileges: bool,
) -> Result<()> {
    if inode.allocated == 0 {
        return Ok(());
    }
    while let Some(cut) = cut_point(zone, ino, target)? {
        let size = live(zone, ino)?.size;
        let now = zone.now();
        let step = if cut < size {
            let change = AttrChange { size: Some(cut), kill_privileges, ..AttrChange::default() };
            Command::SetAttr { ino, change, now }
        } else {
            let len = MAX_FILE_BYTES - cut;
            Command::Range { ino, op: RangeOp::PunchHole, offset: cut, len, kill_privileges, now }
        };
        zone.propose(&fence.guard(step))?;
    }
    Ok(())
}

/// Where to cut first, if more than a step's extents start beyond `target`.
fn cut_point(zone: &dyn Zone, ino: Ino, target: u64) -> Result<Option<u64>> {
    let mut cut = None;
    zone.read(&mut |state| {
        cut = None;
        let (mut seen, mut bad) = (0, None);
        let (start, end) = (keys::extent(ino, target.saturating_add(1)), keys::prefix(ino.0).1);
        state.scan_back(Table::Extent, &start, &end, &mut |key, _| {
            seen += 1;
            if seen < STEP_EXTENTS {
                return ControlFlow::Continue(());
            }
            match keys::parse_pair(key) {
                Ok((_, offset)) => cut = Some(offset),
                Err(error) => bad = Some(error),
            }
            ControlFlow::Break(())
        })?;
        bad.map_or(Ok(()), Err)
    })?;
    Ok(cut)
}
