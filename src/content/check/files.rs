//! Checks of extents against inodes and blobs.

use nexus_kernel::metastore::MetaRead;
use nexus_kernel::model::{self, Blob, Extent, FileKind, Inode, MAX_FILE_BYTES, keys};
use nexus_kernel::{BlobId, Ino, Result, Table};

use super::Checker;

/// A file whose extents are being counted.
#[derive(Default)]
struct File {
    ino: Ino,
    inode: Option<Inode>,
    /// End of the last extent.
    end: u64,
    allocated: u64,
    noted: Option<BlobId>,
}

impl Checker<'_> {
    pub(super) fn list_blobs(&mut self, state: &dyn MetaRead) -> Result<()> {
        self.each(state, Table::Blob, |checker, key, value| {
            let id = BlobId(keys::parse_one(key)?);
            let blob: Blob = model::decode("blob", value)?;
            if !id.is_some() {
                checker.damage("a blob has the number 0");
            }
            checker.summary.blobs += 1;
            checker.blobs.insert(id, (blob, 0));
            Ok(())
        })
    }

    pub(super) fn check_extents(&mut self, state: &dyn MetaRead) -> Result<()> {
        let mut file = File::default();
        self.each(state, Table::Extent, |checker, key, value| {
            let (ino, at) = keys::parse_pair(key)?;
            if Ino(ino) != file.ino {
                let inode = state.inode(Ino(ino))?;
                let done = std::mem::replace(&mut file, File { ino: Ino(ino), inode, ..File::default() });
                checker.check_allocated(&done);
            }
            checker.summary.extents += 1;
            let extent: Extent = model::decode("extent", value)?;
            let place = format!("inode {ino}, extent at {at}");
            let end = at.checked_add(extent.len).filter(|end| extent.len > 0 && *end <= MAX_FILE_BYTES);
            let Some(end) = end else {
                checker.damage(format_args!("{place}: can't be {} bytes long", extent.len));
                return Ok(());
            };
            match &file.inode {
                None => checker.damage(format_args!("{place}: there is no such inode")),
                Some(inode) if inode.kind != FileKind::Regular => {
                    checker.damage(format_args!("{place}: the inode is no regular file"));
                }
                Some(inode) if extent.blob.is_some() && end > inode.size => {
                    checker.damage(format_args!("{place}: goes beyond the file's {} bytes", inode.size));
                }
                Some(_) => {}
            }
            if at < file.end {
                checker.damage(format_args!("{place}: overlaps the one before, which ends at {}", file.end));
            }
            file.end = end;
            file.allocated = file.allocated.saturating_add(extent.len);
            checker.check_extent(state, &mut file, &place, &extent)
        })?;
        self.check_allocated(&file);
        Ok(())
    }

    fn check_extent(&mut self, state: &dyn MetaRead, file: &mut File, place: &str, extent: &Extent) -> Result<()> {
        if extent.blob == BlobId::LOST {
            self.note(format_args!("{place}: {} bytes are lost, and reading them fails", extent.len));
        }
        if !extent.blob.is_some() {
            return Ok(());
        }
        let blob = extent.blob;
        let Some((record, live)) = self.blobs.get_mut(&blob) else {
            self.damage(format_args!("{place}: blob {:016x} is not known", blob.0));
            return Ok(());
        };
        *live = live.saturating_add(extent.len);
        let len = record.len;
        if extent.blob_offset.checked_add(extent.len).is_none_or(|end| end > len) {
            self.damage(format_args!("{place}: goes beyond the {len} bytes of blob {:016x}", blob.0));
        }
        if file.noted != Some(blob) {
            file.noted = Some(blob);
            if state.get(Table::BlobRef, &keys::blob_ref(blob, file.ino))?.is_none() {
                self.damage(format_args!("{place}: blob {:016x} does not know of the file", blob.0));
            }
        }
        Ok(())
    }

    fn check_allocated(&mut self, file: &File) {
        self.marks.change(file.ino, |mark| mark.counted = true);
        if let Some(inode) = file.inode.filter(|inode| inode.allocated != file.allocated) {
            self.damage(format_args!(
                "inode {}: counts {} bytes, its extents have {}",
                file.ino, inode.allocated, file.allocated
            ));
        }
    }

    pub(super) fn check_live(&mut self, state: &dyn MetaRead) -> Result<()> {
        let wrong: Vec<_> = self
            .blobs
            .iter()
            .filter(|(_, (blob, live))| blob.live != *live)
            .map(|(id, (blob, live))| {
                format!("blob {:016x}: counts {} live bytes, extents have {live}", id.0, blob.live)
            })
            .collect();
        for text in wrong {
            self.damage(text);
        }
        self.each(state, Table::BlobRef, |checker, key, _| {
            let (blob, ino) = keys::parse_pair(key)?;
            if !checker.blobs.contains_key(&BlobId(blob)) {
                checker
                    .damage(format_args!("blob {blob:016x}, which is not known, is said to hold bytes of inode {ino}"));
            }
            Ok(())
        })
    }
}
