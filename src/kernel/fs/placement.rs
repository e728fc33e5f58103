//! Where content goes, and whether it is there.

use std::collections::BTreeSet;

use super::{NexusFs, live};
use crate::command::Command;
use crate::error::{Error, Result};
use crate::ids::{BlobId, Ino, NodeId};
use crate::machine;
use crate::model::{FileKind, Placement};
use crate::zone::Zone;

/// Extents that are looked at with one read.
const EXTENTS: usize = 4096;

impl NexusFs {
    /// Says where new content goes: of the file, or of what is made in the directory from now
    /// on. What is there stays where it is. [`Error::NoStore`] if there is no such store.
    pub fn place(&self, node: NodeId, placement: Placement) -> Result<()> {
        self.writable()?;
        if !self.content.has_store(placement.store) {
            return Err(Error::NoStore);
        }
        let (zone, ino) = self.router.resolve(node)?;
        if live(&*zone, ino)?.flags.placement() == placement {
            return Ok(());
        }
        zone.propose(&Command::Place { ino, placement, now: zone.now() }).map(drop)
    }

    /// Where new content goes.
    pub fn placement(&self, node: NodeId) -> Result<Placement> {
        let (zone, ino) = self.router.resolve(node)?;
        Ok(live(&*zone, ino)?.flags.placement())
    }

    /// Bytes of a file that are nowhere but on this machine, though their store is elsewhere.
    pub fn bytes_only_here(&self, node: NodeId) -> Result<u64> {
        let (zone, ino) = self.router.resolve(node)?;
        let mut bytes = 0u64;
        self.each_blob(&*zone, ino, &mut |blob, len| {
            if self.content.is_only_here(blob) {
                bytes = bytes.saturating_add(len);
            }
        })?;
        Ok(bytes)
    }

    /// Brings what a file has only on this machine to its store, where its placement has
    /// fsync wait for that.
    pub(super) fn upload_if_asked(&self, zone: &dyn Zone, ino: Ino) -> Result<()> {
        let Some(inode) = zone.inode(ino)? else { return Ok(()) };
        if inode.kind != FileKind::Regular || !self.content.fsync_uploads(inode.flags.placement()) {
            return Ok(());
        }
        let mut waiting = BTreeSet::new();
        self.each_blob(zone, ino, &mut |blob, _| {
            if self.content.is_only_here(blob) {
                waiting.insert(blob);
            }
        })?;
        if waiting.is_empty() {
            return Ok(());
        }
        self.content.upload(&waiting.into_iter().collect::<Vec<_>>())
    }

    /// Visits the blobs of a file's extents, with each extent's bytes.
    fn each_blob(&self, zone: &dyn Zone, ino: Ino, visit: &mut dyn FnMut(BlobId, u64)) -> Result<()> {
        let mut at = 0;
        loop {
            let mut found = Vec::new();
            zone.read(&mut |state| {
                let inode = state.inode(ino)?.ok_or(Error::Stale)?;
                if inode.kind == FileKind::Regular {
                    found = machine::extents(state, ino, at, u64::MAX, EXTENTS)?;
                }
                Ok(())
            })?;
            let Some((start, last)) = found.last() else { return Ok(()) };
            at = start + last.len;
            found.iter().filter(|(_, extent)| extent.blob.is_some()).for_each(|(_, e)| visit(e.blob, e.len));
            if found.len() < EXTENTS {
                return Ok(());
            }
        }
    }
}
