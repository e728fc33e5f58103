//! Has content fetched ahead of those who read files in a regular way, where it lies in a store that has to
//! be asked: a file goes on in another blob every few MiB, which the store can't know.

use std::collections::VecDeque;
use std::ops::Range;

use parking_lot::Mutex;

use super::NexusFs;
use super::extents::plan;
use crate::ids::{BlobId, Ino, NodeId};
use crate::readers::Readers;
use crate::zone::Zone;

/// Bytes of a frame, as [`Readers`] count.
const FRAME: u64 = 64 << 10;
/// Files whose readers are remembered; the one not read for longest makes room.
const FILES: usize = 64;
/// Extents that are looked at for one request.
const EXTENTS: usize = 1024;

/// The readers of the files that were read last, the newest at the end.
#[derive(Default)]
pub(super) struct ReadAhead(Mutex<VecDeque<File>>);

struct File {
    node: NodeId,
    frames: u64,
    readers: Readers,
}

impl ReadAhead {
    /// Notes that bytes of a file of `size` are read; answers which to fetch for what will be.
    fn note(&self, node: NodeId, read: &Range<u64>, size: u64) -> Vec<Range<u64>> {
        let frames = size.div_ceil(FRAME);
        let mut files = self.0.lock();
        // A file that has grown or was cut is another one.
        let known = files.iter().position(|file| file.node == node && file.frames == frames);
        let mut file = match known.and_then(|at| files.remove(at)) {
            Some(file) => file,
            None => File { node, frames, readers: Readers::none(frames) },
        };
        let wanted = file.readers.read(&(read.start / FRAME..read.end.min(size).div_ceil(FRAME)));
        files.push_back(file);
        if files.len() > FILES {
            files.pop_front();
        }
        wanted.into_iter().map(|frames| frames.start * FRAME..(frames.end * FRAME).min(size)).collect()
    }

    /// Notes that bytes are not fetched after all.
    fn refused(&self, node: NodeId, range: &Range<u64>) {
        let mut files = self.0.lock();
        if let Some(file) = files.iter_mut().find(|file| file.node == node) {
            file.readers.refused(&(range.start / FRAME..range.end.div_ceil(FRAME)));
        }
    }
}

impl NexusFs {
    /// Notes a read of a file of `size` bytes whose content is fetched.
    pub(super) fn read_ahead(&self, zone: &dyn Zone, (node, ino): (NodeId, Ino), read: &Range<u64>, size: u64) {
        for range in self.ahead.note(node, read, size) {
            let mut runs = None;
            let looked = zone.read(&mut |state| {
                runs = Some(plan(state, ino, range.start, range.end, EXTENTS)?.runs);
                Ok(())
            });
            // Who reads it will be told what is wrong.
            let (Ok(()), Some(runs)) = (looked, runs) else { return };
            let is_there = |blob| blob != BlobId::NONE && blob != BlobId::LOST && self.content.is_fetched(blob);
            let wanted = runs.iter().filter(|(_, extent)| is_there(extent.blob)).all(|(_, extent)| {
                self.content.want(extent.blob, extent.blob_offset..extent.blob_offset.saturating_add(extent.len))
            });
            if !wanted {
                self.ahead.refused(node, &range);
                return;
            }
        }
    }
}
