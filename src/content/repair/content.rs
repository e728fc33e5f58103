//! Extents and blobs, against the content that is there.

use std::cell::RefCell;
use std::collections::BTreeMap;

use nexus_kernel::model::{Blob, BlobState, Extent, FileKind, MAX_FILE_BYTES};
use nexus_kernel::{BlobId, Error, Ino, Result};

use super::model::Unreadable;
use super::{Repair, has_data};
use crate::store::{SegmentStore, Where};

/// What is there of blobs; each is asked for once.
pub(super) struct Facts<'a> {
    store: &'a SegmentStore,
    known: RefCell<BTreeMap<BlobId, Option<Fact>>>,
}

/// A blob that is there.
#[derive(Clone, Copy)]
struct Fact {
    len: u64,
    sealed: bool,
}

impl Facts<'_> {
    pub fn new(store: &SegmentStore) -> Facts<'_> {
        Facts { store, known: RefCell::default() }
    }

    /// `None` if it is certain that the blob is not there.
    fn of(&self, blob: BlobId) -> Result<Option<Fact>> {
        if let Some(known) = self.known.borrow().get(&blob) {
            return Ok(*known);
        }
        if !self.store.has_store(blob.store()) {
            return Err(Error::Corrupt(format!(
                "files have content in store {}, which the data folder does not know any more: put its list of stores \
                 back",
                blob.store()
            )));
        }
        let fact = match self.store.blob_len(blob) {
            Ok(len) => Some(Fact { len, sealed: self.store.place_of(blob) == Where::Elsewhere }),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        self.known.borrow_mut().insert(blob, fact);
        Ok(fact)
    }
}

/// What extents need of a blob.
#[derive(Clone, Copy, Default)]
struct Need {
    live: u64,
    end: u64,
}

impl Repair {
    /// Extents that can't be, or whose bytes are not there, then the records of blobs.
    pub(super) fn extents(&mut self, unreadable: &Unreadable, facts: &Facts<'_>) -> Result<()> {
        self.mark_unreadable(unreadable);
        let mut inos: Vec<u64> = self.model.extents.keys().map(|(ino, _)| *ino).collect();
        inos.dedup();
        for ino in inos {
            let extents = self.model.extents_of(ino);
            let has_bytes = extents.iter().any(|(_, extent)| has_data(extent.blob));
            let home = match self.model.inodes.get(&ino).map(|inode| inode.kind) {
                Some(FileKind::Regular) => ino,
                _ if has_bytes => {
                    let home = self.next_ino()?;
                    let inode = self.blank(FileKind::Regular);
                    self.model.inodes.insert(home, inode);
                    self.say(format_args!("inode {ino}: is no regular file; its bytes become inode {home}"));
                    self.adopt(home)?;
                    self.model.note_names();
                    home
                }
                _ => {
                    self.say(format_args!("inode {ino}: is no regular file; what is reserved for it is let go"));
                    self.forget_extents(ino);
                    continue;
                }
            };
            self.forget_extents(ino);
            self.file(home, &extents, facts)?;
        }
        self.blobs(facts)
    }

    /// A range whose record can't be read ends where the next begins, or the file.
    fn mark_unreadable(&mut self, unreadable: &Unreadable) {
        for (ino, at) in &unreadable.extents {
            let next = self.model.extents.range((*ino, *at)..=(*ino, u64::MAX)).next().map(|((_, next), _)| *next);
            let size = self.model.inodes.get(ino).map_or(0, |inode| inode.size);
            let end = next.unwrap_or(size).min(size.max(*at));
            if end > *at {
                let lost = Extent { len: end - at, blob: BlobId::LOST, blob_offset: 0 };
                self.model.extents.insert((*ino, *at), lost);
                self.say(format_args!("inode {ino}: {} bytes at {at} are lost, as their record is", end - at));
                self.lose(*ino, end - at);
            }
        }
    }

    /// One file's extents, put back as far as they can be.
    fn file(&mut self, ino: u64, extents: &[(u64, Extent)], facts: &Facts<'_>) -> Result<()> {
        let mut end = 0u64;
        let mut data_end = 0u64;
        for (at, extent) in extents {
            let (mut at, mut extent) = (*at, *extent);
            let place = format!("inode {ino}, extent at {at}");
            let stop = at.checked_add(extent.len).filter(|stop| extent.len > 0 && *stop <= MAX_FILE_BYTES);
            let Some(stop) = stop else {
                self.say(format_args!("{place}: can't be {} bytes long, and goes", extent.len));
                continue;
            };
            if at < end {
                let cut = end.min(stop) - at;
                self.say(format_args!("{place}: gives up {cut} bytes, which the one before it has"));
                if cut == extent.len {
                    continue;
                }
                (at, extent) = (at + cut, extent.part(cut, extent.len - cut));
            }
            end = stop;
            if has_data(extent.blob) {
                data_end = stop;
            }
            self.bytes(ino, at, extent, facts)?;
        }
        if let Some(inode) = self.model.inodes.get_mut(&ino)
            && data_end > inode.size
        {
            let old = std::mem::replace(&mut inode.size, data_end);
            self.say(format_args!("inode {ino}: has {data_end} bytes, not {old}"));
        }
        Ok(())
    }

    /// Keeps of an extent what is there, and marks the rest.
    fn bytes(&mut self, ino: u64, at: u64, extent: Extent, facts: &Facts<'_>) -> Result<()> {
        let there = match extent.blob.is_some() {
            true => facts.of(extent.blob)?.map_or(0, |fact| fact.len),
            false => u64::MAX,
        };
        let kept = there.saturating_sub(extent.blob_offset).min(extent.len);
        if kept > 0 {
            self.model.extents.insert((ino, at), extent.part(0, kept));
        }
        if kept < extent.len {
            let lost = Extent { len: extent.len - kept, blob: BlobId::LOST, blob_offset: 0 };
            self.model.extents.insert((ino, at + kept), lost);
            self.say(format_args!(
                "{}: {} bytes at {} are lost, as blob {:016x} has {there}; reading them fails from now on",
                self.path(ino),
                lost.len,
                at + kept,
                extent.blob.0
            ));
            self.lose(ino, lost.len);
        }
        Ok(())
    }

    /// Records of blobs, as extents and content have them.
    fn blobs(&mut self, facts: &Facts<'_>) -> Result<()> {
        let mut needs: BTreeMap<BlobId, Need> = BTreeMap::new();
        let mut missing = Vec::new();
        for ((ino, _), extent) in self.model.extents.iter().filter(|(_, extent)| extent.blob.is_some()) {
            let need = needs.entry(extent.blob).or_default();
            need.live = need.live.saturating_add(extent.len);
            need.end = need.end.max(extent.blob_offset.saturating_add(extent.len));
            if !self.model.refs.contains(&(extent.blob.0, *ino)) {
                missing.push((extent.blob.0, *ino));
            }
        }
        missing.dedup();
        for (blob, ino) in missing {
            if self.model.refs.insert((blob, ino)) {
                self.say(format_args!("blob {blob:016x}: knows of inode {ino} again"));
            }
        }
        if self.model.blobs.remove(&BlobId::NONE).is_some() {
            self.say("the record of a blob with the number 0 goes");
        }
        let known: Vec<BlobId> = self.model.blobs.keys().copied().collect();
        for blob in known.into_iter().chain(needs.keys().copied()).collect::<std::collections::BTreeSet<_>>() {
            let need = needs.get(&blob).copied().unwrap_or_default();
            self.blob(blob, need, facts)?;
        }
        let stray: Vec<(u64, u64)> = self
            .model
            .refs
            .iter()
            .copied()
            .filter(|(blob, _)| !self.model.blobs.contains_key(&BlobId(*blob)))
            .collect();
        for (blob, ino) in stray {
            self.model.refs.remove(&(blob, ino));
            self.say(format_args!("blob {blob:016x}: is not known, and knows of inode {ino} no more"));
        }
        Ok(())
    }

    fn blob(&mut self, id: BlobId, need: Need, facts: &Facts<'_>) -> Result<()> {
        let fact = if need.live > 0 || self.model.blobs.contains_key(&id) { facts.of(id)? } else { None };
        let old = self.model.blobs.get(&id).copied();
        let state = match (old, fact) {
            (Some(old), _) => old.state,
            (None, Some(Fact { sealed: true, .. })) => BlobState::Sealed,
            (None, _) => BlobState::Open,
        };
        let recorded = old.map_or(0, |old| old.len);
        let len = match fact {
            Some(fact) if fact.sealed && state == BlobState::Sealed => fact.len,
            Some(fact) => recorded.max(need.end).min(fact.len),
            None => recorded,
        };
        let new = Blob { store: old.map_or(id.store(), |old| old.store), state, len, live: need.live };
        match old {
            None => self.say(format_args!("blob {:016x}: is known again, with {} live bytes", id.0, new.live)),
            Some(old) if old.live != new.live => {
                self.say(format_args!("blob {:016x}: counts {} live bytes, not {}", id.0, new.live, old.live));
            }
            Some(_) => {}
        }
        if let Some(old) = old
            && old.len != new.len
        {
            self.say(format_args!("blob {:016x}: has {} bytes, not {}", id.0, new.len, old.len));
        }
        self.model.blobs.insert(id, new);
        Ok(())
    }

    /// Bytes that a file's extents cover.
    pub(super) fn allocated(&self) -> BTreeMap<u64, u64> {
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        for ((ino, _), extent) in &self.model.extents {
            let sum = sums.entry(*ino).or_default();
            *sum = sum.saturating_add(extent.len);
        }
        sums
    }

    /// Highest inode number in use.
    pub(super) fn highest(&self) -> Ino {
        self.model.inodes.keys().next_back().map_or(Ino::ROOT, |ino| Ino(*ino))
    }

    fn forget_extents(&mut self, ino: u64) {
        for (at, _) in self.model.extents_of(ino) {
            self.model.extents.remove(&(ino, at));
        }
    }
}
