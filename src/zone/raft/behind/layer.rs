//! [`Layer`]: writes of one file that no member has been told of yet, and the file as it is with them.

use std::collections::BTreeMap;

use nexus_kernel::behind::FileWrite;
use nexus_kernel::command::FileRange;
use nexus_kernel::model::{Extent, FileKind, Inode, Piece};
use nexus_kernel::{Command, Ino, StoreId, Timestamp};
use smallvec::SmallVec;

/// Writes, in their order, and what of the file they cover.
#[derive(Clone, Default)]
pub struct Layer {
    writes: Vec<FileRange>,
    /// What they cover, by offset in the file, the newest where they overlap.
    runs: BTreeMap<u64, Extent>,
    /// The furthest end of any.
    end: u64,
    bytes: u64,
    store: StoreId,
    kill_privileges: bool,
    /// When the newest was made.
    now: Timestamp,
    handles: SmallVec<[u64; 2]>,
}

impl Layer {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many there are, not counting those that go on where the last one ended.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The open files that they were made through.
    pub fn handles(&self) -> &[u64] {
        &self.handles
    }

    /// Whether a write can be one of these: all go into one store.
    pub fn takes(&self, write: &FileWrite) -> bool {
        self.is_empty() || self.store == write.store
    }

    /// Adds a write, behind all others.
    pub fn add(&mut self, write: &FileWrite) {
        let mut at = write.offset;
        for piece in &write.pieces {
            self.cover(at, Extent { len: piece.len, blob: piece.blob, blob_offset: piece.blob_offset });
            at += piece.len;
        }
        self.end = self.end.max(at);
        self.bytes += at - write.offset;
        (self.store, self.now) = (write.store, write.now);
        self.kill_privileges |= write.kill_privileges;
        if !self.handles.contains(&write.handle) {
            self.handles.push(write.handle);
        }
        if !self.goes_on(write) {
            self.writes.push(FileRange { offset: write.offset, pieces: write.pieces.clone() });
        }
    }

    /// Lengthens the last write by one that goes on where it ended, in the file and in its blob.
    fn goes_on(&mut self, write: &FileWrite) -> bool {
        let [next] = write.pieces.as_slice() else { return false };
        let Some(last) = self.writes.last_mut() else { return false };
        let len: u64 = last.pieces.iter().map(|piece| piece.len).sum();
        let Some(piece) = last.pieces.last_mut() else { return false };
        let follows = last.offset + len == write.offset
            && piece.blob == next.blob
            && piece.blob_offset + piece.len == next.blob_offset;
        let Some(next_len) = usize::try_from(next.len).ok().filter(|_| follows) else { return false };
        let crc = crc32c::crc32c_combine(piece.crc, next.crc, next_len);
        *piece = Piece { len: piece.len + next.len, crc, ..*piece };
        true
    }

    /// Has `[at, at + extent.len)` covered by `extent`, instead of what covered it.
    fn cover(&mut self, at: u64, extent: Extent) {
        let end = at + extent.len;
        let before = self.runs.range(..at).next_back().map(|(&start, &run)| (start, run));
        if let Some((start, run)) = before.filter(|(start, run)| start + run.len > at) {
            self.runs.insert(start, run.part(0, at - start));
            if start + run.len > end {
                self.runs.insert(end, run.part(end - start, start + run.len - end));
            }
        }
        while let Some((&start, &run)) = self.runs.range(at..end).next() {
            self.runs.remove(&start);
            if start + run.len > end {
                self.runs.insert(end, run.part(end - start, start + run.len - end));
            }
        }
        if let Some((&start, run)) = self.runs.range_mut(..at).next_back()
            && start + run.len == at
            && run.continues_with(&extent)
        {
            run.len += extent.len;
            return;
        }
        self.runs.insert(at, extent);
    }

    /// The commands that make the file so for all members, one after the other: a single one, where members know
    /// that by the version that they go by.
    pub fn commands(&self, ino: Ino, version: u8) -> Vec<Command> {
        let (store, kill_privileges, now) = (self.store, self.kill_privileges, self.now);
        if self.writes.len() > 1 {
            let writes = self.writes.clone();
            let many = Command::WriteMany { ino, writes, store, kill_privileges, now };
            if many.version() <= version {
                return vec![many];
            }
        }
        let one = |FileRange { offset, pieces }: &FileRange| {
            let (offset, pieces) = (*offset, pieces.clone());
            Command::Write { ino, offset, pieces, store, kill_privileges, now }
        };
        self.writes.iter().map(one).collect()
    }

    /// The inode as it is with these. What fills holes is counted as allocated only later.
    pub fn over(&self, below: Inode) -> Inode {
        if self.is_empty() || below.kind != FileKind::Regular {
            return below;
        }
        let beyond = |(start, run): (&u64, &Extent)| (start + run.len).saturating_sub(below.size.max(*start));
        let grown: u64 = self.runs.range(..).rev().map(beyond).take_while(|grown| *grown > 0).sum();
        Inode {
            size: below.size.max(self.end),
            allocated: below.allocated + grown,
            mtime: self.now,
            ctime: self.now,
            ..below
        }
    }

    /// What these cover from `from` on and before `to`, by where it begins.
    pub fn runs(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = (u64, Extent)> {
        let range = (from < to).then(|| self.runs.range(from..to));
        range.into_iter().flatten().map(|(start, run)| (*start, *run))
    }

    /// The parts of an extent below that these leave to be seen, in order.
    pub fn leaves(&self, at: u64, extent: Extent) -> SmallVec<[(u64, Extent); 2]> {
        let (mut left, end, mut from) = (SmallVec::new(), at + extent.len, at);
        let before = self.runs.range(..=at).next_back().map(|(&start, run)| start + run.len);
        from = from.max(before.unwrap_or(0));
        while from < end {
            let next = self.runs.range(from..end).next().map(|(&start, run)| (start, start + run.len));
            let (stop, after) = next.unwrap_or((end, end));
            if stop > from {
                left.push((from, extent.part(from - at, stop - from)));
            }
            from = after;
        }
        left
    }
}
