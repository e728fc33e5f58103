//! Commands on content: which bytes of which blob a file's ranges are, and what of each
//! blob is live.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::command::{FileRange, Outcome, RangeOp, Relocation};
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, StoreId};
use crate::machine::txn::Txn;
use crate::metastore::{MetaRead, Table};
use crate::model::{self, Blob, BlobState, Extent, FileKind, Inode, MAX_FILE_BYTES, Piece, Placement, keys};

/// Collapse and insert take multiples of this, as ext4 does with its blocks.
const BLOCK_BYTES: u64 = 4096;

/// An extent, and where it is in its file.
type Placed = (u64, Extent);

/// Extents of `ino` that touch `[start, end)`, in order, whole. At most `limit`.
pub fn extents(state: &dyn MetaRead, ino: Ino, start: u64, end: u64, limit: usize) -> Result<Vec<(u64, Extent)>> {
    let mut found = Vec::new();
    if start >= end {
        return Ok(found);
    }
    let mut failed = Ok(());
    let mut parse = |key: &[u8], value: &[u8]| -> Option<(u64, Extent)> {
        match keys::parse_pair(key).and_then(|(_, at)| Ok((at, model::decode::<Extent>("extent", value)?))) {
            Ok(pair) => Some(pair),
            Err(error) => {
                failed = Err(error);
                None
            }
        }
    };
    if start > 0 {
        state.scan_back(Table::Extent, &keys::extent(ino, 0), &keys::extent(ino, start), &mut |key, value| {
            found.extend(parse(key, value).filter(|(at, extent)| at + extent.len > start));
            ControlFlow::Break(())
        })?;
    }
    state.scan(Table::Extent, &keys::extent(ino, start), &keys::extent(ino, end), &mut |key, value| match parse(
        key, value,
    ) {
        Some(pair) if found.len() < limit => {
            found.push(pair);
            ControlFlow::Continue(())
        }
        Some(_) | None => ControlFlow::Break(()),
    })?;
    failed.map(|()| found)
}

impl Txn<'_> {
    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        pieces: &[Piece],
        store: StoreId,
        kill: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut inode = self.regular(ino)?;
        let len = pieces.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.len)).ok_or(Error::FileTooLarge)?;
        let end = end_of(offset, len)?;
        if pieces.iter().any(|piece| piece.len == 0 || !piece.blob.is_some()) {
            return Err(Error::Invalid);
        }
        let mut before = self.remove_extents(ino, &mut inode, offset, end)?;
        let mut at = offset;
        for piece in pieces {
            let extent = Extent { len: piece.len, blob: piece.blob, blob_offset: piece.blob_offset };
            self.birth_blob(&extent, store)?;
            before = Some(self.add_extent_after(before, ino, &mut inode, at, extent)?);
            at += piece.len;
        }
        inode.size = inode.size.max(end);
        self.changed(ino, inode, kill, now)
    }

    pub(super) fn write_many(
        &mut self,
        ino: Ino,
        writes: &[FileRange],
        store: StoreId,
        kill: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut outcome = Err(Error::Invalid);
        for FileRange { offset, pieces } in writes {
            outcome = Ok(self.write(ino, *offset, pieces, store, kill, now)?);
        }
        outcome
    }

    pub(super) fn append(
        &mut self,
        ino: Ino,
        pieces: &[Piece],
        store: StoreId,
        kill: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let end = self.regular(ino)?.size;
        self.write(ino, end, pieces, store, kill, now)
    }

    pub(super) fn range(
        &mut self,
        ino: Ino,
        op: RangeOp,
        offset: u64,
        len: u64,
        kill: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut inode = self.regular(ino)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        let end = end_of(offset, len)?;
        match op {
            RangeOp::Allocate | RangeOp::AllocateKeepSize => self.reserve(ino, &mut inode, offset, end)?,
            RangeOp::PunchHole => drop(self.remove_extents(ino, &mut inode, offset, end)?),
            RangeOp::ZeroRange | RangeOp::ZeroRangeKeepSize => {
                self.remove_extents(ino, &mut inode, offset, end)?;
                self.reserve(ino, &mut inode, offset, end)?;
            }
            RangeOp::Collapse => {
                aligned(offset, len)?;
                if end >= inode.size {
                    return Err(Error::Invalid);
                }
                self.remove_extents(ino, &mut inode, offset, end)?;
                self.shift(ino, &mut inode, end, |at| Ok(at - len))?;
                inode.size -= len;
            }
            RangeOp::Insert => {
                aligned(offset, len)?;
                if offset >= inode.size {
                    return Err(Error::Invalid);
                }
                let size = end_of(inode.size, len)?;
                self.shift(ino, &mut inode, offset, |at| end_of(at, len))?;
                inode.size = size;
            }
        }
        if matches!(op, RangeOp::Allocate | RangeOp::ZeroRange) {
            inode.size = inode.size.max(end);
        }
        self.changed(ino, inode, kill, now)
    }

    pub(super) fn clone_range(
        &mut self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        kill: bool,
        now: Timestamp,
    ) -> Result<Outcome> {
        let source = self.regular(from)?;
        self.regular(to)?;
        let len = len.min(source.size.saturating_sub(from_offset));
        if len == 0 {
            return Ok(Outcome::default());
        }
        let (from_end, to_end) = (end_of(from_offset, len)?, end_of(to_offset, len)?);
        if from == to && from_offset < to_end && to_offset < from_end {
            return Err(Error::Invalid);
        }
        let shared = extents(self, from, from_offset, from_end, usize::MAX)?;
        let mut inode = self.regular(to)?;
        self.remove_extents(to, &mut inode, to_offset, to_end)?;
        for (at, extent) in shared {
            let (start, end) = (at.max(from_offset), (at + extent.len).min(from_end));
            let part = extent.part(start - at, end - start);
            self.add_extent(to, &mut inode, to_offset + (start - from_offset), part)?;
        }
        inode.size = inode.size.max(to_end);
        let outcome = self.changed(to, inode, kill, now)?;
        Ok(Outcome { count: len, ..outcome })
    }

    pub(super) fn seal_blob(&mut self, blob: BlobId, len: u64) -> Result<Outcome> {
        let old = self.find_blob(blob)?.ok_or(Error::NotFound)?;
        if len < old.len || old.state == BlobState::Sealed {
            return Err(Error::Invalid);
        }
        self.put_blob(blob, Some(Blob { state: BlobState::Sealed, len, ..old }));
        Ok(Outcome::default())
    }

    pub(super) fn drop_blob(&mut self, blob: BlobId) -> Result<Outcome> {
        let old = self.find_blob(blob)?.ok_or(Error::NotFound)?;
        if old.live != 0 || old.state != BlobState::Sealed {
            return Err(Error::Conflict);
        }
        self.put_blob(blob, None);
        let (start, end) = keys::prefix(blob.0);
        let mut refs = Vec::new();
        self.scan(Table::BlobRef, &start, &end, &mut |key, _| {
            refs.push(key.into());
            ControlFlow::Continue(())
        })?;
        for key in refs {
            self.delete(Table::BlobRef, key);
        }
        Ok(Outcome::default())
    }

    pub(super) fn relocate(&mut self, from: BlobId, store: StoreId, moves: &[Relocation]) -> Result<Outcome> {
        let mut moved = 0;
        for relocation in moves {
            let Some(mut inode) = self.find_inode(relocation.ino)? else { continue };
            let piece = relocation.to;
            let end = end_of(relocation.offset, piece.len)?;
            for (at, extent) in extents(self, relocation.ino, relocation.offset, end, usize::MAX)? {
                let (start, stop) = (at.max(relocation.offset), (at + extent.len).min(end));
                let part = extent.part(start - at, stop - start);
                let skip = start - relocation.offset;
                if extent.blob != from || part.blob_offset != relocation.from_offset + skip {
                    continue;
                }
                let place = Extent { len: part.len, blob: piece.blob, blob_offset: piece.blob_offset + skip };
                self.remove_extents(relocation.ino, &mut inode, start, stop)?;
                self.birth_blob(&place, store)?;
                self.add_extent(relocation.ino, &mut inode, start, place)?;
                moved += part.len;
            }
            self.put_inode(relocation.ino, Some(inode));
        }
        Ok(Outcome { count: moved, ..Outcome::default() })
    }

    /// Frees an inode without names with all it has, using up at most `budget` extents.
    /// Answers whether it is gone.
    pub(super) fn free_inode(&mut self, ino: Ino, budget: &mut u32) -> Result<bool> {
        let Some(mut inode) = self.find_inode(ino)? else { return Ok(true) };
        if inode.kind == FileKind::Regular && inode.allocated > 0 {
            let limit = usize::try_from(*budget).unwrap_or(usize::MAX);
            let listed = extents(self, ino, 0, u64::MAX, limit.saturating_add(1))?;
            for (at, extent) in listed.iter().take(limit) {
                self.delete(Table::Extent, keys::extent(ino, *at));
                self.release(&mut inode, extent)?;
                *budget -= 1;
            }
            if listed.len() > limit {
                self.put_inode(ino, Some(inode));
                return Ok(false);
            }
        }
        if inode.kind == FileKind::Symlink {
            self.delete(Table::Symlink, keys::ino(ino));
        }
        if inode.flags.placed(Placement::default()).0 != 0 {
            let (start, end) = keys::prefix(ino.0);
            let mut names = Vec::new();
            self.scan(Table::Xattr, &start, &end, &mut |key, _| {
                names.push(key.into());
                ControlFlow::Continue(())
            })?;
            for key in names {
                self.delete(Table::Xattr, key);
            }
        }
        self.put_inode(ino, None);
        let usage = self.usage_mut()?;
        usage.inodes = usage.inodes.saturating_sub(1);
        Ok(true)
    }

    /// Makes `[start, end)` a hole. Answers the extent before it, if there is one.
    pub(super) fn remove_extents(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        start: u64,
        end: u64,
    ) -> Result<Option<Placed>> {
        if inode.allocated == 0 {
            return Ok(None);
        }
        let (mut before, touched) = self.extents_and_before(ino, start, end)?;
        for (at, extent) in touched.into_iter().rev() {
            let stop = at + extent.len;
            if at < start {
                let rest = extent.part(0, start - at);
                self.put_extent(ino, at, &rest)?;
                before = Some((at, rest));
            } else {
                self.delete(Table::Extent, keys::extent(ino, at));
            }
            if stop > end {
                self.put_extent(ino, end, &extent.part(end - at, stop - end))?;
            }
            let cut = stop.min(end) - at.max(start);
            self.release(inode, &Extent { len: cut, ..extent })?;
        }
        Ok(before)
    }

    /// The last extent that ends at or before `start`, and, the last one first, those that
    /// touch `[start, end)`, by one scan.
    fn extents_and_before(&self, ino: Ino, start: u64, end: u64) -> Result<(Option<Placed>, SmallVec<[Placed; 4]>)> {
        let (mut before, mut touched, mut failed) = (None, SmallVec::new(), Ok(()));
        if start >= end {
            return Ok((before, touched));
        }
        self.scan_back(Table::Extent, &keys::extent(ino, 0), &keys::extent(ino, end), &mut |key, value| {
            match keys::parse_pair(key).and_then(|(_, at)| Ok((at, model::decode::<Extent>("extent", value)?))) {
                Ok((at, extent)) if at + extent.len > start => touched.push((at, extent)),
                Ok(placed) => before = Some(placed),
                Err(error) => failed = Err(error),
            }
            if before.is_some() || failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map(|()| (before, touched))
    }

    /// Fills the holes of `[start, end)` with reserved zeros.
    fn reserve(&mut self, ino: Ino, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        for (next, extent) in extents(self, ino, start, end, usize::MAX)? {
            if next > at {
                self.add_extent(ino, inode, at, Extent { len: next - at, blob: BlobId::NONE, blob_offset: 0 })?;
            }
            at = at.max(next + extent.len);
        }
        if at < end {
            self.add_extent(ino, inode, at, Extent { len: end - at, blob: BlobId::NONE, blob_offset: 0 })?;
        }
        Ok(())
    }

    /// Moves all that lies at or after `start` to where `to` says, cutting the extent that
    /// reaches across.
    fn shift(&mut self, ino: Ino, inode: &mut Inode, start: u64, to: impl Fn(u64) -> Result<u64>) -> Result<()> {
        let moved = extents(self, ino, start, u64::MAX, usize::MAX)?;
        self.remove_extents(ino, inode, start, u64::MAX)?;
        for (at, extent) in moved {
            let skip = start.saturating_sub(at);
            let part = extent.part(skip, extent.len - skip);
            let at = to(at + skip)?;
            end_of(at, part.len)?;
            self.add_extent(ino, inode, at, part)?;
        }
        Ok(())
    }

    /// Adds an extent where there is a hole; one that goes on where the one before it ends,
    /// in file and blob, becomes part of it.
    fn add_extent(&mut self, ino: Ino, inode: &mut Inode, at: u64, extent: Extent) -> Result<()> {
        let before = if at > 0 && inode.allocated > 0 { self.extents_and_before(ino, at, at + 1)?.0 } else { None };
        self.add_extent_after(before, ino, inode, at, extent).map(drop)
    }

    /// As `add_extent`, where the extent before it is known. Answers the one that now holds
    /// what was added.
    fn add_extent_after(
        &mut self,
        before: Option<Placed>,
        ino: Ino,
        inode: &mut Inode,
        at: u64,
        extent: Extent,
    ) -> Result<Placed> {
        inode.allocated += extent.len;
        self.usage_mut()?.allocated += extent.len;
        if extent.blob.is_some() {
            let mut blob = self.find_blob(extent.blob)?.ok_or_else(|| {
                Error::Corrupt(format!("inode {ino} refers to blob {}, which is not known", extent.blob))
            })?;
            blob.live += extent.len;
            self.put_blob(extent.blob, Some(blob));
            if before.is_none_or(|(_, before)| before.blob != extent.blob) {
                self.put(Table::BlobRef, keys::blob_ref(extent.blob, ino), bytes::Bytes::new());
            }
        }
        let placed = match before {
            Some((start, last)) if start + last.len == at && last.continues_with(&extent) => {
                (start, Extent { len: last.len + extent.len, ..last })
            }
            _ => (at, extent),
        };
        self.put_extent(ino, placed.0, &placed.1)?;
        Ok(placed)
    }

    fn put_extent(&mut self, ino: Ino, at: u64, extent: &Extent) -> Result<()> {
        let value = model::encode(extent)?;
        self.put(Table::Extent, keys::extent(ino, at), value);
        Ok(())
    }

    /// Takes an extent's bytes off the counters.
    fn release(&mut self, inode: &mut Inode, extent: &Extent) -> Result<()> {
        inode.allocated = inode.allocated.saturating_sub(extent.len);
        let usage = self.usage_mut()?;
        usage.allocated = usage.allocated.saturating_sub(extent.len);
        if extent.blob.is_some() {
            let mut blob = self
                .find_blob(extent.blob)?
                .ok_or_else(|| Error::Corrupt(format!("blob {} is referred to, but not known", extent.blob)))?;
            blob.live = blob
                .live
                .checked_sub(extent.len)
                .ok_or_else(|| Error::Corrupt(format!("blob {} has fewer live bytes than its extents", extent.blob)))?;
            self.put_blob(extent.blob, Some(blob));
        }
        Ok(())
    }

    /// Makes the blob of freshly written bytes known.
    fn birth_blob(&mut self, extent: &Extent, store: StoreId) -> Result<()> {
        let end = end_of(extent.blob_offset, extent.len)?;
        let blob = match self.find_blob(extent.blob)? {
            Some(blob) if blob.state == BlobState::Open => Blob { len: blob.len.max(end), ..blob },
            Some(blob) if end <= blob.len => blob,
            Some(_) => return Err(Error::Invalid),
            None => Blob { store, state: BlobState::Open, len: end, live: 0 },
        };
        self.put_blob(extent.blob, Some(blob));
        Ok(())
    }

    fn regular(&mut self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        match inode.kind {
            FileKind::Regular => Ok(inode),
            FileKind::Directory | FileKind::Mount => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    fn changed(&mut self, ino: Ino, mut inode: Inode, kill: bool, now: Timestamp) -> Result<Outcome> {
        inode.mtime = now;
        inode.ctime = now;
        if kill {
            self.kill_privileges(ino, &mut inode);
        }
        self.put_inode(ino, Some(inode));
        Ok(Outcome { inode: Some((ino, inode)), ..Outcome::default() })
    }
}

fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= MAX_FILE_BYTES).ok_or(Error::FileTooLarge)
}

fn aligned(offset: u64, len: u64) -> Result<()> {
    if offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES) { Ok(()) } else { Err(Error::Invalid) }
}
