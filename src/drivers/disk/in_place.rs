//! A file that is written in place through a shared mapping: a write is a copy in memory.
//!
//! The bytes are in the page cache as if pwrite(2) had put them there: they belong to the
//! file, not to this process, so they survive its death, and fdatasync(2) brings them to the
//! medium and tells what failed on the way. A process that dies within a copy leaves any part
//! of it.
//!
//! Syncing makes the pages of a mapping read-only again, and the fault of the next copy costs
//! more than a pwrite(2). So the first few writes after a sync go the usual way: where each
//! write is synced, nothing is copied, and where many come between two syncs, nearly all are.
//!
//! A copy makes the whole piece of page cache dirty that holds it, not only the bytes, and the
//! next sync writes all of it. The kernel keeps a file in pieces as large as those in which it
//! was written or read ahead. So whoever makes such a file should write it a page at a time,
//! and here nothing is read ahead.
//!
//! What a mapping can't do is to answer an error: where the kernel can't give a page, the
//! process dies of SIGBUS. With every block written before and a file system that overwrites
//! blocks where they are, that takes a medium that can't be read, a file system that has shut
//! itself down, or somebody who cuts the file.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{Advice, MmapRaw};
use nexus_kernel::disk::DiskFile;
use nexus_kernel::error::{Error, Result};
use parking_lot::Mutex;

use super::real::RealFile;

/// File systems that overwrite a written block where it is, so that a write needs no space;
/// by their numbers in statfs(2).
const OVERWRITING: [u32; 3] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x0102_1994, // tmpfs
];

/// Writes after a sync that go the usual way. A fault costs about one and a half of them, and
/// makes the sync that follows a little slower.
const WRITES_AFTER_SYNC: u32 = 4;

/// A file whose length does not change.
pub(super) struct InPlaceFile {
    file: RealFile,
    len: u64,
    /// Held while bytes are copied in. `None` where the file can't be mapped.
    map: Option<Mutex<MmapRaw>>,
    /// Writes that are still to go the usual way.
    usual: AtomicU32,
}

impl InPlaceFile {
    /// Maps the file, if that is safe on its file system; else writes go the usual way.
    pub(super) fn of(file: RealFile) -> Result<InPlaceFile> {
        let len = file.len()?;
        let overwrites =
            rustix::fs::fstatfs(&file.file).is_ok_and(|stat| OVERWRITING.iter().any(|kind| same(*kind, stat.f_type)));
        let map = if overwrites && len > 0 { MmapRaw::map_raw(&file.file).ok() } else { None };
        if let Some(map) = &map {
            // Only a hint.
            let _ = map.advise(Advice::Random);
        }
        // A length that changed meanwhile would be for somebody else to explain.
        let map = map.filter(|map| map.len() as u64 == len).map(Mutex::new);
        Ok(InPlaceFile { file, len, map, usual: AtomicU32::new(0) })
    }
}

impl DiskFile for InPlaceFile {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.len) {
            return Err(Error::Invalid);
        }
        let Some(map) = &self.map else { return self.file.write_at(data, offset) };
        let left = self.usual.load(Ordering::Relaxed);
        if left > 0 {
            // Two threads may count one write; it is only about speed.
            self.usual.store(left - 1, Ordering::Relaxed);
            return self.file.write_at(data, offset);
        }
        let map = map.lock();
        #[expect(unsafe_code, reason = "memory that other processes may change is no slice")]
        // SAFETY: the range lies within the mapping, whose length is `self.len`, and which
        // lives as long as `map`. `data` is no part of it, since nobody gets a reference into
        // it. All copies into it are made here, one at a time because of the lock.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), map.as_mut_ptr().add(offset as usize), data.len());
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Err(Error::Invalid)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(Error::Invalid)
    }

    fn punch_hole(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(Error::Invalid)
    }

    fn sync_data(&self) -> Result<()> {
        self.usual.store(WRITES_AFTER_SYNC, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<()> {
        self.file.start_writeback(offset, len)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }
}

/// Compares with a number whose type differs from machine to machine.
fn same(number: u32, found: impl TryInto<i128>) -> bool {
    found.try_into().is_ok_and(|found| found == i128::from(number))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;

    use nexus_kernel::disk::Disk;

    use super::*;
    use crate::disk::RealDisk;

    const VICTIM: &str = "NEXUS_TEST_IN_PLACE_VICTIM";

    fn file_of(path: &Path, bytes: &[u8]) -> RealFile {
        RealDisk::new().create(path).unwrap().write_at(bytes, 0).unwrap();
        RealFile::open(path).unwrap()
    }

    /// Runs itself once more in a process that writes and kills itself.
    #[test]
    fn what_was_written_outlives_a_killed_process() {
        if let Some(path) = std::env::var_os(VICTIM) {
            let file = RealDisk::new().open_in_place(path.as_ref()).unwrap();
            for page in 0..4u64 {
                file.write_at(&[page as u8 + 1; 100], page * 4096 + 4050).unwrap();
            }
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            unreachable!("SIGKILL was survived");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        file_of(&path, &[0; 5 * 4096]);
        let name = std::thread::current().name().unwrap().to_owned();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", &name]).env(VICTIM, &path).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let bytes = std::fs::read(&path).unwrap();
        for page in 0..4 {
            let at = page * 4096 + 4050;
            assert!(bytes[at..at + 100].iter().all(|byte| usize::from(*byte) == page + 1), "page {page}");
        }
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 400);
    }

    #[test]
    fn what_can_not_be_mapped_is_written_the_usual_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = InPlaceFile { file: file_of(&path, &[0; 100]), len: 100, map: None, usual: AtomicU32::new(0) };
        file.write_at(&[1; 10], 90).unwrap();
        assert_eq!(file.write_at(&[1; 10], 91), Err(Error::Invalid));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes.iter().filter(|byte| **byte == 1).count()), (100, 10));
    }

    #[test]
    fn files_on_ordinary_file_systems_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let file = file_of(&folder.path().join("f"), &[0; 100]);
        let kind = rustix::fs::fstatfs(&file.file).unwrap().f_type;
        let expected = OVERWRITING.iter().any(|number| same(*number, kind));
        assert_eq!(InPlaceFile::of(file).unwrap().map.is_some(), expected, "file system {kind:#x}");
        assert!(InPlaceFile::of(file_of(&folder.path().join("empty"), &[])).unwrap().map.is_none());
    }
}
