//! Syscalls on content: read and write.

use super::extents::plan;
use super::locks::Fence;
use super::{Consistency, NexusFs, regular, regular_inode};
use crate::behind::{FileWrite, WriteBehind};
use crate::command::{Command, Outcome};
use crate::content::{Staged, WriteHint};
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, NodeId};
use crate::model::{Inode, MAX_FILE_BYTES};
use crate::zone::Zone;

/// Extents that are resolved at once.
const PLAN_EXTENTS: usize = 128;
/// How often a read resolves again because a blob was gone by the time it got there.
const READ_RETRIES: usize = 8;
/// Bytes that one command makes content; longer writes take several.
const WRITE_CHUNK: usize = 8 << 20;

impl NexusFs {
    /// Fills `out` with the bytes from `offset` on and answers how many there were: fewer than
    /// fit only at the end of the file. Holes are zeros.
    pub fn read(&self, node: NodeId, _handle: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        let (zone, ino) = self.router.resolve(node)?;
        let asked = !out.is_empty();
        let (inode, len) = self.read_into(&*zone, (node, ino), offset, out)?;
        if asked {
            self.touch(&*zone, ino, &inode);
        }
        Ok(len)
    }

    fn read_into(
        &self,
        zone: &dyn Zone,
        (node, ino): (NodeId, Ino),
        offset: u64,
        out: &mut [u8],
    ) -> Result<(Inode, usize)> {
        let asked_end = offset.saturating_add(out.len() as u64);
        let mut at = offset;
        let mut retries = 0;
        'resolve: loop {
            let mut seen = None;
            zone.read_written(&mut |state| {
                let inode = state.inode(ino)?.ok_or(Error::Stale)?;
                regular(&inode)?;
                let end = asked_end.min(inode.size).max(offset);
                seen = Some((inode, end, plan(state, ino, at, end, PLAN_EXTENTS)?));
                Ok(())
            })?;
            // The file may have been cut or have grown since the last pass.
            let (inode, end, plan) = seen.ok_or(Error::Stale)?;
            if at == offset && retries == 0 && plan.runs.iter().any(|(_, extent)| self.content.is_fetched(extent.blob))
            {
                self.read_ahead(zone, (node, ino), &(offset..end), inode.size);
            }
            for (run_offset, extent) in &plan.runs {
                slice(out, offset, at, *run_offset)?.fill(0);
                at = *run_offset;
                let run = slice(out, offset, at, at + extent.len)?;
                let read = match extent.blob {
                    BlobId::NONE => {
                        run.fill(0);
                        Ok(())
                    }
                    BlobId::LOST => Err(Error::Io(format!(
                        "{} bytes of inode {ino} at {run_offset} are lost: a repair of the volume found their blob gone",
                        extent.len
                    ))),
                    blob => self.content.read(blob, extent.blob_offset, run),
                };
                match read {
                    Ok(()) => at += extent.len,
                    Err(Error::NotFound) if retries < READ_RETRIES => {
                        // The extent was moved, or freed, after it was resolved.
                        retries += 1;
                        continue 'resolve;
                    }
                    Err(Error::NotFound) => {
                        return Err(Error::Corrupt(format!(
                            "inode {ino} has content at {run_offset} in blob {}, which is not there",
                            extent.blob
                        )));
                    }
                    Err(error) => return Err(error),
                }
            }
            slice(out, offset, at, plan.until)?.fill(0);
            at = at.max(plan.until);
            if at >= end {
                return Ok((inode, (end - offset) as usize));
            }
        }
    }

    /// Writes; answers how many bytes, fewer than given only where the largest file ends or
    /// where an error stopped a very long write half-way. Where several nodes have the file, they are told
    /// later: an error can be that of an earlier write through the same open file.
    pub fn write(&self, node: NodeId, handle: u64, offset: u64, data: &[u8], kill_privileges: bool) -> Result<usize> {
        self.writable()?;
        self.check_locks(node, handle)?;
        let (zone, ino) = self.router.resolve(node)?;
        let mut inode = regular_inode(&*zone, ino)?;
        if data.is_empty() {
            return Ok(0);
        }
        let room = MAX_FILE_BYTES.saturating_sub(offset);
        if room == 0 {
            return Err(Error::FileTooLarge);
        }
        let data = data.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(data);
        let store = inode.flags.placement().store;
        // Whoever looks next is to see that privileges are gone.
        let takes_privileges = kill_privileges && inode.has_privileges();
        let mut written = 0;
        for chunk in data.chunks(WRITE_CHUNK) {
            let at = offset + written as u64;
            let hint = WriteHint { ino, offset: at, size: inode.size, store };
            let fence = self.fence(node);
            let written_chunk = match self.behind(&*zone, fence).filter(|_| !takes_privileges) {
                Some(behind) => self.put_off(&*zone, behind, (handle, hint), chunk, kill_privileges),
                None => self.write_chunk(&*zone, fence, hint, chunk, kill_privileges),
            };
            match self.fenced(&*zone, fence, written_chunk) {
                Ok(size) => inode.size = size,
                Err(_) if written > 0 => return Ok(written),
                Err(error) => return Err(error),
            }
            written += chunk.len();
        }
        Ok(written)
    }

    /// Writes at the end of the file, wherever that is by then: what O_APPEND promises, among several
    /// nodes too. Answers as [`NexusFs::write`] does; only what exceeds 8 MiB can be torn apart by others.
    pub fn append(&self, node: NodeId, handle: u64, data: &[u8], kill_privileges: bool) -> Result<usize> {
        self.writable()?;
        self.check_locks(node, handle)?;
        let (zone, ino) = self.router.resolve(node)?;
        let inode = regular_inode(&*zone, ino)?;
        let store = inode.flags.placement().store;
        let mut written = 0;
        for chunk in data.chunks(WRITE_CHUNK) {
            // Where it will be is only known later; for placing the bytes this is near enough.
            let hint = WriteHint { ino, offset: inode.size + written as u64, size: inode.size, store };
            let staged = self.content.write(hint, chunk)?;
            let (pieces, store) = (staged.pieces, staged.store);
            let command = Command::Append { ino, pieces, store, kill_privileges, now: zone.now() };
            let fence = self.fence(node);
            let appended = propose_content(&*zone, &fence.guard(command), staged.pin);
            match self.fenced(&*zone, fence, appended) {
                Ok(_) => written += chunk.len(),
                Err(_) if written > 0 => return Ok(written),
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Writes one chunk; answers the file's size after it.
    fn write_chunk(
        &self,
        zone: &dyn Zone,
        fence: Fence,
        hint: WriteHint,
        data: &[u8],
        kill_privileges: bool,
    ) -> Result<u64> {
        let WriteHint { ino, offset, size, .. } = hint;
        let staged = self.content.write(hint, data)?;
        let (pieces, store) = (staged.pieces, staged.store);
        let command = Command::Write { ino, offset, pieces, store, kill_privileges, now: zone.now() };
        let outcome = propose_content(zone, &fence.guard(command), staged.pin)?;
        Ok(outcome.inode.map_or(size, |(_, inode)| inode.size))
    }
}

impl NexusFs {
    /// Writes one chunk that is proposed later; answers the file's size after it.
    fn put_off(
        &self,
        zone: &dyn Zone,
        behind: &dyn WriteBehind,
        (handle, hint): (u64, WriteHint),
        data: &[u8],
        kill_privileges: bool,
    ) -> Result<u64> {
        let staged = self.content.write(hint, data)?;
        let (WriteHint { ino, offset, .. }, now) = (hint, zone.now());
        let Staged { pieces, store, pin } = staged;
        Ok(behind.write(FileWrite { ino, handle, offset, pieces, store, kill_privileges, now, pin })?.size)
    }

    /// Where a write is taken note of, if it may be put off: not where nothing may be missed elsewhere,
    /// nor where it depends on a lock.
    fn behind<'a>(&self, zone: &'a dyn Zone, fence: Fence) -> Option<&'a dyn WriteBehind> {
        let waits = self.consistency() != Consistency::Strict && !fence.is_held();
        zone.behind().filter(|_| waits)
    }
}

/// Proposes a command with content, which `pin` keeps.
fn propose_content(zone: &dyn Zone, command: &Command, pin: Box<dyn Send>) -> Result<Outcome> {
    let proposed = zone.propose(command);
    if zone.is_replicated() && proposed.as_ref().is_err_and(Error::is_unclear) {
        // It may be taken after all, so its bytes must stay as long as this process knows.
        std::mem::forget(pin);
        return proposed;
    }
    // Only now may the pieces' blobs be sealed or dropped.
    drop(pin);
    proposed
}

/// The part of `out`, which holds a file from `offset` on, for `[from, to)`; empty if it ends
/// before it begins.
fn slice(out: &mut [u8], offset: u64, from: u64, to: u64) -> Result<&mut [u8]> {
    let from = from.saturating_sub(offset) as usize;
    let to = (to.saturating_sub(offset) as usize).max(from);
    out.get_mut(from..to).ok_or(Error::Invalid)
}
