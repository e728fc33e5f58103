//! A file that takes writes into memory and leaves the one below alone: what redb needs to
//! open a database on a disk that takes no writes, so that reads go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::disk::DiskFile;
use nexus_kernel::error::{Error, Result};
use parking_lot::Mutex;

const PAGE: usize = 4096;

/// A file with changes in memory. Holds what opening a database writes: some pages.
pub struct ScratchFile {
    below: Arc<dyn DiskFile>,
    changes: Mutex<Changes>,
}

struct Changes {
    len: u64,
    /// Where the file below has nothing more to say.
    below_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl ScratchFile {
    /// Lies over `below`, which nobody writes meanwhile.
    pub fn new(below: Arc<dyn DiskFile>) -> Result<ScratchFile> {
        let len = below.len()?;
        Ok(ScratchFile { below, changes: Mutex::new(Changes { len, below_len: len, pages: BTreeMap::new() }) })
    }

    /// A page as it is now.
    fn page(&self, changes: &Changes, index: u64) -> Result<Box<[u8; PAGE]>> {
        if let Some(page) = changes.pages.get(&index) {
            return Ok(page.clone());
        }
        let mut page = Box::new([0; PAGE]);
        let start = index * PAGE as u64;
        let there = changes.below_len.saturating_sub(start).min(PAGE as u64) as usize;
        if let Some(part) = page.get_mut(..there).filter(|part| !part.is_empty()) {
            self.below.read_at(part, start)?;
        }
        Ok(page)
    }
}

impl DiskFile for ScratchFile {
    fn len(&self) -> Result<u64> {
        Ok(self.changes.lock().len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let changes = self.changes.lock();
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= changes.len);
        let Some(end) = end else {
            return Err(Error::Corrupt(format!("a file of {} bytes is read beyond its end", changes.len)));
        };
        let mut rest = buf;
        let mut at = offset;
        while at < end {
            let page = self.page(&changes, at / PAGE as u64)?;
            let from = page.get((at % PAGE as u64) as usize..).unwrap_or_default();
            let (head, tail) = rest.split_at_mut(from.len().min(rest.len()));
            head.copy_from_slice(from.get(..head.len()).unwrap_or_default());
            at += head.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut changes = self.changes.lock();
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let index = at / PAGE as u64;
            let mut page = self.page(&changes, index)?;
            let to = page.get_mut((at % PAGE as u64) as usize..).unwrap_or_default();
            let (head, tail) = rest.split_at(to.len().min(rest.len()));
            to.get_mut(..head.len()).unwrap_or_default().copy_from_slice(head);
            changes.pages.insert(index, page);
            at += head.len() as u64;
            rest = tail;
        }
        changes.len = changes.len.max(at);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut changes = self.changes.lock();
        if len < changes.len {
            let edge = len / PAGE as u64;
            let mut page = self.page(&changes, edge)?;
            page.get_mut((len % PAGE as u64) as usize..).unwrap_or_default().fill(0);
            changes.pages.split_off(&edge);
            changes.pages.insert(edge, page);
            changes.below_len = changes.below_len.min(len);
        }
        changes.len = len;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let mut changes = self.changes.lock();
        changes.len = changes.len.max(offset.saturating_add(len));
        Ok(())
    }

    fn punch_hole(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(Error::NotSupported)
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Random, SimDisk};
    use nexus_kernel::disk::Disk;

    #[test]
    fn it_does_as_a_file_does_and_leaves_the_one_below_alone() {
        let disk = SimDisk::new();
        let below = disk.create(Path::new("/below")).unwrap();
        below.write_at(&[5; 10_000], 0).unwrap();
        let other = disk.create(Path::new("/other")).unwrap();
        other.write_at(&[5; 10_000], 0).unwrap();
        let scratch = ScratchFile::new(below.clone()).unwrap();
        let mut random = Random::new(1);
        for step in 0..500 {
            let (offset, len) = (random.up_to(20_000), random.up_to(9000));
            for file in [&scratch as &dyn DiskFile, &*other] {
                match step % 5 {
                    0 => file.set_len(offset).unwrap(),
                    1 => file.allocate(offset, len).unwrap(),
                    _ => file.write_at(&vec![step as u8; len as usize], offset).unwrap(),
                }
            }
            let read = |file: &dyn DiskFile| {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_at(&mut bytes, 0).unwrap();
                bytes
            };
            assert!(read(&scratch) == read(&*other), "step {step}");
        }
        assert!(matches!(scratch.read_at(&mut [0; 2], scratch.len().unwrap() - 1), Err(Error::Corrupt(_))));
        let mut bytes = vec![0; 10_000];
        below.read_at(&mut bytes, 0).unwrap();
        assert!(below.len().unwrap() == 10_000 && bytes.iter().all(|byte| *byte == 5));
    }
}
