//! Syscalls on ranges of a file: fallocate, seek, copy_file_range.

use super::extents::{plan, step_end};
use super::locks::Fence;
use super::{NexusFs, Seek, regular_inode};
use crate::command::{Command, RangeOp};
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, NodeId};
use crate::model::MAX_FILE_BYTES;
use crate::zone::Zone;

/// Extents that one command changes at most, so that none gets huge.
const STEP_EXTENTS: usize = 2048;
/// Extents that a seek looks at in one state.
const SEEK_EXTENTS: usize = 1024;
/// Collapse and insert work in these units.
const UNIT_BYTES: u64 = 4096;

impl NexusFs {
    /// Allocates, punches, zeroes, collapses or inserts a range. Long ranges of files with very
    /// many extents are done in several steps; collapse and insert are always one.
    pub fn fallocate(&self, node: NodeId, op: RangeOp, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        let (zone, ino) = self.router.resolve(node)?;
        let inode = regular_inode(&*zone, ino)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        let end = offset.checked_add(len).filter(|&end| end <= MAX_FILE_BYTES).ok_or(Error::FileTooLarge)?;
        let fence = self.fence(node);
        match op {
            RangeOp::Allocate | RangeOp::AllocateKeepSize => self.content.check_space(len)?,
            RangeOp::PunchHole | RangeOp::ZeroRange | RangeOp::ZeroRangeKeepSize => {}
            RangeOp::Collapse | RangeOp::Insert => {
                if !offset.is_multiple_of(UNIT_BYTES) || !len.is_multiple_of(UNIT_BYTES) {
                    return Err(Error::Invalid);
                }
                let reaches = if op == RangeOp::Collapse { end } else { offset };
                if reaches >= inode.size {
                    return Err(Error::Invalid);
                }
                if op == RangeOp::Insert && inode.size > MAX_FILE_BYTES - len {
                    return Err(Error::FileTooLarge);
                }
                let changed = propose_range(&*zone, fence, ino, op, (offset, len));
                return self.fenced(&*zone, fence, changed);
            }
        }
        let mut at = offset;
        while at < end {
            let next = bounded_end(&*zone, ino, at, end)?;
            let changed = propose_range(&*zone, fence, ino, op, (at, next - at));
            self.fenced(&*zone, fence, changed)?;
            at = next;
        }
        Ok(())
    }

    /// Next data or hole at or after `offset`; reserved zeros count as a hole.
    pub fn seek(&self, node: NodeId, offset: u64, what: Seek) -> Result<u64> {
        let (zone, ino) = self.router.resolve(node)?;
        let size = regular_inode(&*zone, ino)?.size;
        let mut at = offset;
        while at < size {
            let mut seen = None;
            zone.read_written(&mut |state| {
                seen = Some(plan(state, ino, at, size, SEEK_EXTENTS)?);
                Ok(())
            })?;
            let plan = seen.ok_or(Error::Stale)?;
            // What is lost counts as data, so that nobody takes it for zeros.
            for (run_offset, extent) in plan.runs.iter().filter(|(_, extent)| extent.blob != BlobId::NONE) {
                match what {
                    Seek::Data => return Ok((*run_offset).max(offset)),
                    Seek::Hole if *run_offset > at => return Ok(at),
                    Seek::Hole => at = run_offset + extent.len,
                }
            }
            if what == Seek::Hole && at < plan.until {
                return Ok(at);
            }
            at = plan.until;
        }
        match what {
            Seek::Hole if offset < size => Ok(size),
            Seek::Hole | Seek::Data => Err(Error::NoSuchOffset),
        }
    }

    /// Shares a range of one file with another, which copies no bytes; answers how many bytes,
    /// fewer at the source's end or where an error stopped it half-way.
    pub fn copy_file_range(&self, from: NodeId, from_offset: u64, to: NodeId, to_offset: u64, len: u64) -> Result<u64> {
        self.writable()?;
        if from.zone() != to.zone() {
            return Err(Error::CrossZone);
        }
        let zone = self.router.zone(from.zone())?;
        let source_size = regular_inode(&*zone, from.ino())?.size;
        regular_inode(&*zone, to.ino())?;
        let len = len.min(source_size.saturating_sub(from_offset));
        if len == 0 {
            return Ok(0);
        }
        let len = len.min(MAX_FILE_BYTES.saturating_sub(to_offset));
        if len == 0 {
            return Err(Error::FileTooLarge);
        }
        if from == to && from_offset < to_offset + len && to_offset < from_offset + len {
            return Err(Error::Invalid);
        }
        let mut copied = 0;
        while copied < len {
            match self.clone_step(&*zone, (from, from_offset + copied), (to, to_offset + copied), len - copied) {
                Ok(0) => break,
                Ok(count) => copied += count,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    fn clone_step(&self, zone: &dyn Zone, from: (NodeId, u64), to: (NodeId, u64), len: u64) -> Result<u64> {
        let in_source = bounded_end(zone, from.0.ino(), from.1, from.1 + len)? - from.1;
        let in_target = bounded_end(zone, to.0.ino(), to.1, to.1 + in_source)? - to.1;
        let command = Command::Clone {
            from: from.0.ino(),
            from_offset: from.1,
            to: to.0.ino(),
            to_offset: to.1,
            len: in_target,
            kill_privileges: false,
            now: zone.now(),
        };
        let fence = self.fence(to.0);
        Ok(self.fenced(zone, fence, zone.propose(&fence.guard(command)))?.count)
    }
}

fn propose_range(zone: &dyn Zone, fence: Fence, ino: Ino, op: RangeOp, (offset, len): (u64, u64)) -> Result<()> {
    let command = Command::Range { ino, op, offset, len, kill_privileges: false, now: zone.now() };
    zone.propose(&fence.guard(command)).map(|_| ())
}

/// How far from `from` one command may go.
fn bounded_end(zone: &dyn Zone, ino: Ino, from: u64, to: u64) -> Result<u64> {
    let mut end = to;
    zone.read(&mut |state| {
        end = step_end(state, ino, from, to, STEP_EXTENTS)?;
        Ok(())
    })?;
    Ok(end)
}
