//! Copies of content on their way to another blob, until the metadata knows of them. What goes to a
//! store on this machine is told as it comes. What goes to one that is far away is there before the
//! metadata is told: somebody may have been promised that it is, and the blob that it comes from goes
//! then.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_kernel::command::Relocation;
use nexus_kernel::content::Staged;
use nexus_kernel::failpoint::reach;
use nexus_kernel::model::Piece;
use nexus_kernel::{BlobId, Command, Error, Result, StoreId, Zone};

use super::{Progress, Reclaimer};
use crate::store::Carrier;

/// Most bytes on this machine that one `Relocate` waits for.
const COMMAND_BYTES: u64 = 4 << 20;
/// Most moves that wait for one blob to be sent.
const MOST_MOVES: usize = 1 << 16;

/// A move that the metadata does not know of yet.
struct Move {
    zone: Arc<dyn Zone>,
    from: BlobId,
    relocation: Relocation,
}

/// Moves to one store.
pub(super) struct Batch {
    target: StoreId,
    moves: Vec<Move>,
    bytes: u64,
    staged: Vec<Staged>,
    carrier: Option<Carrier>,
}

/// Batches by the store that they are for.
pub(super) type Batches = BTreeMap<StoreId, Batch>;

impl Batch {
    pub(super) fn new(target: StoreId) -> Batch {
        Batch { target, moves: Vec::new(), bytes: 0, staged: Vec::new(), carrier: None }
    }

    /// Notes that a part of the bytes that were stored last is a file's.
    pub(super) fn add(&mut self, zone: &Arc<dyn Zone>, from: BlobId, relocation: Relocation) {
        self.bytes += relocation.to.len;
        self.moves.push(Move { zone: zone.clone(), from, relocation });
    }
}

impl Reclaimer {
    /// Stores bytes for a batch, which keeps them until it ends; answers where.
    pub(super) fn store_copy(&self, batch: &mut Batch, data: &[u8], progress: &mut Progress) -> Result<Piece> {
        if !self.store.is_far_store(batch.target) {
            let staged = self.store.write_copy(batch.target, data)?;
            // No copy is longer than what a write keeps in one piece.
            let piece = match staged.pieces[..] {
                [piece] => piece,
                _ => return Err(Error::Invalid),
            };
            batch.staged.push(staged);
            return Ok(piece);
        }
        if let Some(carrier) = &mut batch.carrier {
            if let Some(piece) = self.store.load(carrier, data)? {
                return Ok(piece);
            }
            self.finish(batch, progress)?;
        }
        let carrier = batch.carrier.insert(self.store.carrier(batch.target, data.len() as u64)?);
        self.store.load(carrier, data)?.ok_or(Error::Invalid)
    }

    /// Ends a batch that has grown enough; `blob_ends` where nothing more of a blob comes.
    pub(super) fn finish_large(&self, batch: &mut Batch, blob_ends: bool, progress: &mut Progress) -> Result<()> {
        let most = self.config.moves_per_command.max(1);
        let is_large = match batch.carrier {
            Some(_) => batch.moves.len() >= MOST_MOVES,
            None => {
                blob_ends || batch.bytes >= COMMAND_BYTES || batch.moves.len() >= most || batch.staged.len() >= most
            }
        };
        if is_large { self.finish(batch, progress) } else { Ok(()) }
    }

    /// Brings copies to where they are to be, tells the metadata, and lets go of them. What can't be
    /// brought there stays where it was.
    pub(super) fn finish(&self, batch: &mut Batch, progress: &mut Progress) -> Result<()> {
        let (moves, staged) = (std::mem::take(&mut batch.moves), std::mem::take(&mut batch.staged));
        let carrier = batch.carrier.take();
        batch.bytes = 0;
        if let Some(carrier) = &carrier {
            reach("relocate.loaded");
            self.store.deliver(carrier)?;
            progress.sent += 1;
        }
        let mut waiting = moves.into_iter().peekable();
        while let Some(first) = waiting.next() {
            let (zone, from, mut moves) = (first.zone, first.from, vec![first.relocation]);
            while moves.len() < self.config.moves_per_command.max(1)
                && let Some(next) = waiting.next_if(|next| next.from == from && Arc::ptr_eq(&next.zone, &zone))
            {
                moves.push(next.relocation);
            }
            reach("relocate.copied");
            let outcome = zone.propose(&Command::Relocate { from, store: batch.target, moves })?;
            reach("relocate.told");
            progress.moved_bytes += outcome.count;
        }
        drop(staged);
        match carrier {
            // All of it was deleted or written anew meanwhile.
            Some(carrier) if self.records(carrier.blob())?.is_empty() => self.store.condemn([carrier.blob()]),
            Some(_) => self.store.wake().work(),
            None => {}
        }
        Ok(())
    }
}
