//! [`Reclaimer`]: seals segments that are full or idle, forgets and deletes blobs that are
//! dead, and empties those of which little is live, or that are small and far away. How a blob is
//! emptied is in `compact` and `batch`, what is worth to be merged in `merge`, the thread that runs
//! passes in `thread`, when a segment takes no more in `close`.
//!
//! Every step can be cut short by a crash; the next pass sees from the metadata and the
//! files what is left to do:
//!
//! | Found | Means | Done |
//! |---|---|---|
//! | settled segment, record open | not sealed yet | seal, `SealBlob` |
//! | sealed file, record open | `SealBlob` is missing | `SealBlob` |
//! | record sealed, no live bytes | dead | after a grace `DropBlob` |
//! | file, no record | dropped, or never known | deleted once the zones are settled, unless a zone that is not open may refer to it |
//! | record sealed, few live bytes | sparse | extents copied, `Relocate` |
//! | many small records, far away | synced one by one | the same, into one blob |
//! | object in a store, no record, made by a copier | `Relocate` is missing | deleted, as at the next start nobody knows it |

mod adopt;
mod batch;
mod close;
mod compact;
mod memory;
mod merge;
mod migrate;
mod seal;
mod survey;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexus_kernel::failpoint::reach;
use nexus_kernel::model::{Blob, BlobState};
use nexus_kernel::{BlobId, Clock, Command, ContentStore, Error, Interest, Result, StoreId, Zone};
use parking_lot::Mutex;

use crate::config::ReclaimConfig;
use crate::metadata::{find_blob, zone_blobs};
use crate::store::{SegmentStore, Where};
use crate::time::now_ms;
use crate::zones::{ZoneSet, is_own};

use memory::Memory;

pub use migrate::Migrated;
pub use survey::{Garbage, Scrubbed};
pub use thread::ReclaimHandle;

/// What one pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Segments sealed.
    pub sealed: u64,
    /// Those of them that went to a store that is far away, which this disk hardly notices.
    pub sent: u64,
    /// Blobs that the metadata forgot.
    pub dropped: u64,
    /// Blob files deleted.
    pub deleted: u64,
    /// Bytes of the files deleted.
    pub freed_bytes: u64,
    /// Bytes copied out of sparse blobs.
    pub copied_bytes: u64,
    /// Bytes of files that now lie elsewhere; content that files share counts for each.
    pub moved_bytes: u64,
    /// Whether the pass stopped at its budget, so that another one finds work.
    pub more: bool,
}

/// How much a pass is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Within the budget, after the graces.
    Calm,
    /// Writers wait for room: everything that gives some back, now.
    Room,
    /// Somebody asked for all that can be had, and waits for it.
    Gc,
}

/// How much more than its usual budget a pass may copy when room is needed.
const ROOM_BUDGETS: u64 = 4;
/// Percentage of live bytes below which a blob is compacted when room is needed.
const ROOM_BELOW_PERCENT: u64 = 80;

/// Blobs that are deleted at once.
const DELETE_BLOBS: usize = 1000;

/// Seals segments, drops dead blobs and empties sparse ones.
pub struct Reclaimer {
    store: Arc<SegmentStore>,
    zones: ZoneSet,
    clock: Arc<dyn Clock>,
    config: ReclaimConfig,
    memory: Mutex<Memory>,
    /// Where content is read that is to be copied.
    source: Arc<dyn ContentStore>,
}

impl Progress {
    fn add(&mut self, other: Progress) {
        self.sealed += other.sealed;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.deleted += other.deleted;
        self.freed_bytes += other.freed_bytes;
        self.copied_bytes += other.copied_bytes;
        self.moved_bytes += other.moved_bytes;
        self.more |= other.more;
    }
}

impl Reclaimer {
    /// A collector for the content of `zones`, which must be all that use the store, and
    /// be attached to it.
    pub fn new(store: Arc<SegmentStore>, zones: ZoneSet, clock: Arc<dyn Clock>, config: ReclaimConfig) -> Reclaimer {
        let source = store.clone();
        Reclaimer { store, zones, clock, config, memory: Mutex::default(), source }
    }

    /// The same, which reads what it copies from `source`: content of other nodes, too.
    pub fn reading(self, source: Arc<dyn ContentStore>) -> Reclaimer {
        Reclaimer { source, ..self }
    }

    /// One pass, within the budget.
    pub fn run_once(&self) -> Result<Progress> {
        self.pass(Need::Calm)
    }

    /// One pass that gives back all the space it can, in far stores as well, without graces.
    pub fn make_room(&self) -> Result<Progress> {
        self.pass(Need::Gc)
    }

    /// Seals what is not sealed, within the budget, and lets go of what is dead, but copies
    /// nothing: whoever waits for that waits for no more.
    pub fn seal_once(&self) -> Result<Progress> {
        let _alone = self.store.collecting().lock();
        let mut memory = self.memory.lock();
        memory.end_pass();
        let mut progress = Progress::default();
        let mut budget = self.config.pass_bytes;
        self.close_segments(Need::Calm, &mut memory)?;
        self.seal_settled(Need::Calm, &mut budget, &mut memory, &mut progress)?;
        self.finish_seals()?;
        // What is dead already is never sent; it goes now, or it would look as if it waited.
        self.drop_dead(Need::Room, &mut memory, &mut progress)?;
        self.delete_condemned(&mut memory, &mut progress)?;
        memory.end_pass().map_or(Ok(progress), Err)
    }

    fn pass(&self, need: Need) -> Result<Progress> {
        let _alone = self.store.collecting().lock();
        let mut memory = self.memory.lock();
        memory.end_pass();
        let mut progress = Progress::default();
        let mut budget = match need {
            Need::Calm => self.config.pass_bytes,
            Need::Room | Need::Gc => self.config.pass_bytes.saturating_mul(ROOM_BUDGETS),
        };
        self.decide()?;
        // What is dead already costs nothing and makes room for the rest.
        self.drop_dead(need, &mut memory, &mut progress)?;
        self.delete_condemned(&mut memory, &mut progress)?;
        self.close_segments(need, &mut memory)?;
        self.seal_settled(need, &mut budget, &mut memory, &mut progress)?;
        self.finish_seals()?;
        loop {
            self.compact(need, &mut budget, &mut memory, &mut progress)?;
            let before = progress.freed_bytes;
            self.drop_dead(need, &mut memory, &mut progress)?;
            self.delete_condemned(&mut memory, &mut progress)?;
            // Copies need room themselves: what was given back may be what the next ones take.
            let again = need != Need::Calm && progress.freed_bytes > before && budget > 0;
            if !again || self.store.wake().is_stopped() {
                return memory.end_pass().map_or(Ok(progress), Err);
            }
        }
    }

    fn is_own(&self, id: BlobId) -> bool {
        is_own(self.store.config().writer, id)
    }

    /// Decides on what was left over by an earlier run, once all zones tell what they know.
    fn decide(&self) -> Result<()> {
        if !self.store.is_undecided() || self.zones.holds_everything() {
            return Ok(());
        }
        if self.zones.all().iter().all(|zone| zone.be_current(Interest::Anything).is_ok()) {
            self.store.decide(&self.zones)?;
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        now_ms(&*self.clock)
    }

    /// Each zone's record of a blob.
    fn records(&self, id: BlobId) -> Result<Vec<(Arc<dyn Zone>, Blob)>> {
        let mut records = Vec::new();
        for zone in self.zones.all() {
            records.extend(find_blob(&*zone, id)?.map(|blob| (zone, blob)));
        }
        Ok(records)
    }

    /// Tells the metadata of blobs that were sealed without that.
    fn finish_seals(&self) -> Result<()> {
        for zone in &self.zones.all() {
            for (id, blob) in zone_blobs(&**zone)? {
                if !self.is_own(id) || blob.state != BlobState::Open || self.store.place_of(id) != Where::Elsewhere {
                    continue;
                }
                let len = match self.store.len_as_sealed(id) {
                    Ok(len) => len.max(blob.len),
                    // Lost with nothing in it; forgotten as any other dead blob.
                    Err(Error::NotFound) if blob.live == 0 => blob.len,
                    // Lost with content. Readers are told, and so is who runs fsck.
                    Err(Error::NotFound) => continue,
                    Err(error) => return Err(error),
                };
                match zone.propose(&Command::SealBlob { blob: id, len }) {
                    // Sealed, and maybe dropped, since it was listed.
                    Ok(_) | Err(Error::NotFound | Error::Invalid) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Has the metadata forget dead blobs. Their files are only noted.
    fn drop_dead(&self, need: Need, memory: &mut Memory, progress: &mut Progress) -> Result<()> {
        let now = self.now_ms();
        let mut dead = BTreeSet::new();
        let mut dropped = BTreeSet::new();
        for zone in &self.zones.all() {
            for (id, blob) in zone_blobs(&**zone)? {
                if !self.is_own(id) || blob.state != BlobState::Sealed || blob.live != 0 {
                    continue;
                }
                dead.insert(id);
                let since = *memory.dead_since.entry(id).or_insert(now);
                if need == Need::Calm && now.saturating_sub(since) < self.config.drop_grace_ms {
                    continue;
                }
                match zone.propose(&Command::DropBlob { blob: id }) {
                    Ok(_) => {
                        reach("drop.told");
                        dropped.insert(id)
                    }
                    Err(Error::Conflict | Error::NotFound) => continue,
                    Err(error) => return Err(error),
                };
                if self.records(id)?.is_empty() && !self.zones.holds(id) {
                    self.store.condemn([id]);
                }
            }
        }
        memory.dead_since.retain(|id, _| dead.contains(id) && !dropped.contains(id));
        memory.wrong.retain(|id| !dropped.contains(id));
        progress.dropped += dropped.len() as u64;
        Ok(())
    }

    /// Deletes the files of blobs that no zone knows, nor any recovery will ask for. Those of a store
    /// that does not answer wait for a later pass.
    fn delete_condemned(&self, memory: &mut Memory, progress: &mut Progress) -> Result<()> {
        let condemned = self.store.condemned();
        if condemned.is_empty() || self.zones.holds_everything() {
            return Ok(());
        }
        for zone in &self.zones.all() {
            zone.settle()?;
        }
        let mut by_store: BTreeMap<StoreId, Vec<BlobId>> = BTreeMap::new();
        for id in condemned.into_iter().filter(|id| !self.zones.holds(*id)) {
            // I5, held once more where it would be broken.
            if !self.records(id)?.is_empty() {
                return Err(Error::Corrupt(format!("blob {:016x} was to be deleted, but a zone knows it", id.0)));
            }
            by_store.entry(id.store()).or_default().push(id);
        }
        for (store, blobs) in by_store {
            for some in blobs.chunks(DELETE_BLOBS) {
                if memory.is_away(store) {
                    break;
                }
                match self.store.delete_blobs(store, some) {
                    Ok(freed) => {
                        progress.freed_bytes += freed;
                        progress.deleted += some.len() as u64;
                    }
                    Err(error) => memory.pass_over_store(store, error)?,
                }
            }
        }
        Ok(())
    }
}
