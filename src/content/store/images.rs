//! Copies of content for the log: given away in place of a sync, and taken back by recovery.

use nexus_kernel::content::{Image, ImageLimits};
use nexus_kernel::{Error, Result};

use super::SegmentStore;
use super::unsynced::Written;

impl SegmentStore {
    pub(super) fn give_images(
        &self,
        limits: ImageLimits,
        keep: &mut dyn FnMut(Image<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.poison.check()?;
        // An image needs a file to go back to. Where the lock is held, names change or are synced.
        let written = match self.new_names.try_lock() {
            Some(new_names) if !*new_names => self.unsynced.give_away(limits.total),
            Some(_) | None => None,
        };
        let Some(written) = written else { return Ok(false) };
        let given = give(&written, limits.each, keep);
        if !matches!(given, Ok(true)) {
            self.unsynced.not_taken();
        }
        given
    }

    pub(super) fn take_back(&self, image: Image<'_>) -> Result<()> {
        // The names of segments are durable before they have images. One that is not there
        // was sealed, and was durable before that, or was deleted.
        let Some(segment) = self.segments.read().get(&image.blob).cloned() else { return Ok(()) };
        let mut there = vec![0; image.bytes.len()];
        match self.disk.open(segment.path())?.read_at(&mut there, image.offset) {
            Ok(()) if there == image.bytes => return Ok(()),
            Ok(()) | Err(Error::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        segment.extend_tail(image.offset.saturating_add(image.bytes.len() as u64));
        self.patches.add(image.blob, image.offset, image.bytes);
        Ok(())
    }
}

/// Whether all could be read; an error is `keep`'s.
fn give(written: &Written, each: usize, keep: &mut dyn FnMut(Image<'_>) -> Result<()>) -> Result<bool> {
    let mut buf = Vec::new();
    for (segment, offset, len) in written.parts(each) {
        // A segment that lets go of its file is durable.
        let Some(file) = segment.held_file() else { continue };
        buf.resize(len, 0);
        if file.read_at(&mut buf, offset).is_err() {
            return Ok(false);
        }
        keep(Image { blob: segment.id(), offset, bytes: &buf })?;
    }
    Ok(true)
}
