//! Content that a crash kept in the log, but not in its segment: seen by every read, and
//! written to the segments before anything else is synced. Empty but while recovery runs, or
//! where a volume is only looked at.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_kernel::disk::DiskFile;
use nexus_kernel::{BlobId, Error, Result};
use parking_lot::RwLock;

/// Bytes by blob and offset. Those that overlap agree where they do.
#[derive(Default)]
pub struct Patches {
    any: AtomicBool,
    blobs: RwLock<HashMap<BlobId, Blob>>,
}

#[derive(Default)]
struct Blob {
    parts: BTreeMap<u64, Vec<u8>>,
    longest: u64,
}

impl Patches {
    /// Adds bytes of a blob.
    pub fn add(&self, blob: BlobId, offset: u64, bytes: &[u8]) {
        let mut blobs = self.blobs.write();
        let blob = blobs.entry(blob).or_default();
        blob.longest = blob.longest.max(bytes.len() as u64);
        let part = blob.parts.entry(offset).or_default();
        if part.len() < bytes.len() {
            *part = bytes.to_vec();
        }
        self.any.store(true, Ordering::Release);
    }

    /// Fills `buf` from the file of a blob that has patches; `None` if it has none.
    pub fn read(&self, blob: BlobId, file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> Option<Result<()>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let blobs = self.blobs.read();
        blobs.get(&blob).map(|blob| blob.read(file, buf, offset))
    }

    /// End of the last byte of a blob's patches.
    pub fn end(&self, blob: BlobId) -> u64 {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        let blobs = self.blobs.read();
        let ends = blobs.get(&blob).into_iter().flat_map(|blob| blob.parts.iter());
        ends.map(|(start, bytes)| start + bytes.len() as u64).max().unwrap_or(0)
    }

    /// Writes everything to where `open` finds it, and forgets it.
    pub fn write_back(&self, open: impl Fn(BlobId) -> Result<std::sync::Arc<dyn DiskFile>>) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut blobs = self.blobs.write();
        for (id, blob) in &*blobs {
            let file = open(*id)?;
            for (offset, bytes) in &blob.parts {
                file.write_at(bytes, *offset)?;
            }
        }
        blobs.clear();
        self.any.store(false, Ordering::Release);
        Ok(())
    }
}

impl Blob {
    fn read(&self, file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(Error::Invalid)?;
        let there = file.len()?.clamp(offset, end);
        let (front, rest) = buf.split_at_mut_checked((there - offset) as usize).ok_or(Error::Invalid)?;
        if !front.is_empty() {
            file.read_at(front, offset)?;
        }
        rest.fill(0);
        let mut covered = there;
        for (start, bytes) in self.parts.range(offset.saturating_sub(self.longest)..end) {
            let stop = start + bytes.len() as u64;
            let (from, to) = ((*start).max(offset), stop.min(end));
            if from >= to {
                continue;
            }
            let target = buf.get_mut((from - offset) as usize..(to - offset) as usize);
            let source = bytes.get((from - start) as usize..(to - start) as usize);
            if let (Some(target), Some(source)) = (target, source) {
                target.copy_from_slice(source);
            }
            if from <= covered {
                covered = covered.max(to);
            }
        }
        if covered < end {
            return Err(Error::Corrupt(format!("a segment ends at byte {covered}, before byte {end}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nexus_drivers::disk::SimDisk;
    use nexus_kernel::disk::Disk;

    use super::*;

    #[test]
    fn reads_see_patches_over_and_behind_the_file() {
        let disk = SimDisk::new();
        let file = disk.create(Path::new("/s")).unwrap();
        file.write_at(&[1; 10], 0).unwrap();
        let (patches, id) = (Patches::default(), BlobId(3));
        let read = |patches: &Patches, from: u64, len: usize| {
            let mut buf = vec![9; len];
            patches.read(id, &*file, &mut buf, from).map(|done| done.map(|()| buf))
        };
        assert!(read(&patches, 0, 4).is_none());
        patches.add(id, 4, &[2; 3]);
        patches.add(id, 8, &[3; 4]);
        patches.add(id, 8, &[3; 2]);
        assert_eq!(read(&patches, 0, 12).unwrap().unwrap(), [1, 1, 1, 1, 2, 2, 2, 1, 3, 3, 3, 3]);
        assert_eq!(read(&patches, 5, 1).unwrap().unwrap(), [2]);
        assert_eq!(read(&patches, 11, 1).unwrap().unwrap(), [3]);
        assert!(matches!(read(&patches, 0, 13).unwrap(), Err(Error::Corrupt(_))));
        patches.add(id, 14, &[4]);
        assert!(matches!(read(&patches, 11, 4).unwrap(), Err(Error::Corrupt(_))), "a gap");
        assert_eq!((patches.end(id), patches.end(BlobId(4))), (15, 0));
        patches.write_back(|_| Ok(file.clone())).unwrap();
        assert!(read(&patches, 0, 4).is_none());
        let mut bytes = [0; 15];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [1, 1, 1, 1, 2, 2, 2, 1, 3, 3, 3, 3, 0, 0, 4]);
    }
}
