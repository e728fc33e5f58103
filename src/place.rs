//! What an open volume does with its stores: adds and takes them away, says where content
//! goes, and moves what is there.

use std::ops::ControlFlow;

pub use nexus_content::{Garbage, Migrated, Scrubbed};
use nexus_content::{ReclaimConfig, RoomPolicy};
use nexus_drivers::object_store::Limiter;
use nexus_kernel::metastore::Table;
use nexus_kernel::model::{Blob, FsyncLevel, Inode, Placement, decode};
use nexus_kernel::object_store::Traffic;
use nexus_kernel::{BlobId, Ino, NodeId, StoreId, Zone};

use crate::boot::Volume;
use crate::cloud::{self, Access};
use crate::config::CloudPlace;
use crate::error::{Error, Result};
use crate::folder::{Layout, id_text};
use crate::limits::StoreLimits;
use crate::stores::{NamedStore, StoreList, fsync_name};

/// Bytes that one step of a migration moves at the most.
const MIGRATE_BYTES: u64 = 32 << 20;
/// Bytes that one step of a scrub reads, about.
const SCRUB_BYTES: u64 = 64 << 20;
/// Bytes on their way to a store above which a migration first sends some of them.
const WAITING_BYTES: u64 = 256 << 20;

/// A store, and how it is.
#[derive(Clone, Debug)]
pub struct StoreState {
    /// Which.
    pub store: NamedStore,
    /// Bytes that are to go there and are only on this disk.
    pub waiting_bytes: u64,
    /// What it may be asked for.
    pub limits: StoreLimits,
    /// What it was asked for since the start.
    pub traffic: Traffic,
}

impl Volume {
    /// The stores beside the one that the volume was made with.
    pub fn stores(&self) -> Vec<StoreState> {
        let stores = self.stores.lock();
        let state = |store: &NamedStore| StoreState {
            waiting_bytes: self.content.unsealed_bytes_of(store.id),
            limits: self.limits(store.id),
            traffic: self.content.traffic(store.id).unwrap_or_default(),
            store: store.clone(),
        };
        stores.stores().iter().map(state).collect()
    }

    /// What was asked of a store in the cloud since the start; `None` for one on this disk.
    pub fn traffic(&self) -> Option<Traffic> {
        self.content.traffic(StoreId(0))
    }

    /// Bytes of content that are only on this disk, if it is to go elsewhere.
    pub fn waiting_bytes(&self) -> u64 {
        self.content.unsealed_bytes_of(StoreId(0))
    }

    /// What writes do where this disk has no room for more, and how much may wait for stores.
    pub fn room_policy(&self) -> RoomPolicy {
        self.content.room_policy()
    }

    /// Changes that, also for writes that wait.
    pub fn set_room_policy(&self, policy: RoomPolicy) {
        self.content.set_room_policy(policy);
    }

    /// Adds a store, from now on and for all later mounts. It has to answer, and to belong to
    /// no other volume.
    pub fn add_store(&self, name: &str, place: CloudPlace, fsync: FsyncLevel, limits: StoreLimits) -> Result<()> {
        let refused = |problem| Error::Setting { place: format!("store {name}"), problem };
        let mut stores = self.stores.lock();
        let store = stores.propose(name, cloud::marked(place)?, fsync, limits).map_err(refused)?;
        let made = crate::folders::prepare(&store.place, self.path())?;
        match cloud::owner(self.path(), &store.place)? {
            Some(owner) if owner != id_text(&self.identity().id) => {
                let problem =
                    format!("volume {owner} has its content in {}: choose a prefix of its own", store.place.url);
                return Err(refused(problem));
            }
            Some(_) => {}
            None => cloud::try_changes(self.path(), &store.place)?,
        }
        let layout = Layout::of(self.path());
        let access = Access::Change { new: true };
        let limiter = Limiter::new(limits);
        let place = (store.id, &store.place);
        let share = cloud::Share { limiter: limiter.clone(), memory: self.transfers.share() };
        let opened = cloud::open_place(&self.folder, &self.config, place, &layout, access, share)?;
        // Known before content can go there.
        stores.add(store.clone())?;
        made.keep();
        self.limiters.lock().insert(store.id, limiter);
        let mounted = self.content.mount_store(store.id, opened.objects, cloud::shape(store.fsync, &store.place));
        mounted.map_err(|error| self.failed("mount a store of", error))
    }

    /// Takes a store away that holds nothing of the volume, and where nothing is to go. What says
    /// there whose it is goes, too; answers a sentence if it had to stay.
    pub fn remove_store(&self, name: &str) -> Result<Option<String>> {
        let refused = |problem| Error::Setting { place: format!("store {name}"), problem };
        let id = match self.stores.lock().id(name) {
            Some(StoreId(0)) => return Err(refused("the volume was made with it".to_owned())),
            Some(id) => id,
            None => return Err(refused("there is no such store".to_owned())),
        };
        // What is dead there does not count, once it is gone.
        self.reclaim()?;
        let mut stores = self.stores.lock();
        let (placed, bytes) = self.uses_of(id)?;
        if bytes > 0 {
            let bytes = crate::config::ByteSize(bytes);
            return Err(refused(format!("{bytes} of content are there: move them with `nexus-fuse migrate` first")));
        }
        if placed > 0 {
            return Err(refused(format!(
                "{placed} files and directories are placed there: place them elsewhere with `nexus-fuse place` first"
            )));
        }
        // Once more, now that nothing can begin to go there.
        let taken = self.content.unmount_store(id);
        let uses = self.uses_of(id);
        if !matches!(uses, Ok((0, 0)))
            && let Some((objects, shape)) = taken
        {
            let again = self.content.mount_store(id, objects, shape);
            again.map_err(|error| self.failed("mount a store of", error))?;
            uses?;
            return Err(refused("something was written there just now: try again".to_owned()));
        }
        let url = stores.stores().iter().find(|store| store.id == id).map(|store| store.place.url.to_string());
        // First, so that no start looks for a claim that is gone.
        stores.remove(id)?;
        let released = taken.map_or(Ok(()), |(objects, _)| nexus_kernel::block_on(objects.release()));
        let note = released.err().map(|error| match error {
            nexus_kernel::Error::Conflict => format!(
                "{0} still has objects that no file refers to, so it stays marked as this volume's: delete what is below \
                 {0} before another volume uses it",
                url.unwrap_or_default()
            ),
            error => format!(
                "{0} stays marked as this volume's, as that could not be changed there ({error}): delete the object NEXUS \
                 in {0} before another volume uses it",
                url.unwrap_or_default()
            ),
        });
        self.limiters.lock().remove(&id);
        let layout = Layout::of(self.path());
        if let Err(error) = std::fs::remove_file(layout.claim_of(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("what store {name} was told can't be removed: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(layout.cache_of(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("the cache of store {name} can't be removed: {error}");
        }
        Ok(note)
    }

    /// Bytes of the blobs that are in a store; none if nobody can tell.
    pub(crate) fn blob_bytes_of(&self, id: StoreId) -> u64 {
        self.uses_of(id).map_or(0, |(_, bytes)| bytes)
    }

    /// How many inodes are placed in a store, and how many bytes its blobs have.
    fn uses_of(&self, id: StoreId) -> Result<(u64, u64)> {
        let (mut placed, mut bytes) = (0u64, 0u64);
        let counted = self.root.read(&mut |state| {
            (placed, bytes) = (0, 0);
            let mut bad = None;
            let mut keep = |found: nexus_kernel::Result<()>| match found {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    bad = Some(error);
                    ControlFlow::Break(())
                }
            };
            state.scan(Table::Inode, &[], &[0xff; 9], &mut |_, value| {
                keep(decode::<Inode>("inode", value).map(|inode| {
                    placed += u64::from(inode.flags.placement().store == id);
                }))
            })?;
            state.scan(Table::Blob, &[], &[0xff; 9], &mut |_, value| {
                keep(decode::<Blob>("blob", value).map(|blob| {
                    bytes += if blob.store == id { blob.len.max(1) } else { 0 };
                }))
            })?;
            bad.map_or(Ok(()), Err)
        });
        counted.map_err(|error| self.failed("look for content in", error))?;
        Ok((placed, bytes.max(self.content.unsealed_bytes_of(id))))
    }

    /// Has new content of these files, or of what is made in these directories, go to a store,
    /// and fsync wait for `fsync`; `None` leaves either as it is. Answers how many changed.
    pub fn place(&self, nodes: &[NodeId], store: Option<&str>, fsync: Option<FsyncLevel>) -> Result<u64> {
        // Held, so that no store is taken away meanwhile.
        let stores = self.stores.lock();
        let store = store.map(|name| self.store_id(&stores, name)).transpose()?;
        let mut changed = 0;
        for node in nodes {
            let one = || -> nexus_kernel::Result<bool> {
                let before = self.fs.placement(*node)?;
                let after = Placement { store: store.unwrap_or(before.store), fsync: fsync.unwrap_or(before.fsync) };
                self.fs.place(*node, after).map(|()| after != before)
            };
            match one() {
                Ok(now) => changed += u64::from(now),
                // Deleted since somebody listed it.
                Err(nexus_kernel::Error::Stale) => {}
                Err(error) => return Err(self.failed("place content of", error)),
            }
        }
        Ok(changed)
    }

    /// Where new content of a file or directory goes, in words: the store's name and what
    /// fsync waits for.
    pub fn placement(&self, node: NodeId) -> Result<(String, &'static str)> {
        let placement = self.fs.placement(node).map_err(|error| self.failed("look up a file in", error))?;
        let name = self.stores.lock().name(placement.store).unwrap_or("a store that is gone").to_owned();
        Ok((name, fsync_name(placement.fsync)))
    }

    /// Moves a part of what these files have elsewhere to a store; to be called again with the
    /// same files while there is more.
    pub fn migrate(&self, nodes: &[NodeId], store: &str) -> Result<Migrated> {
        let target = self.store_id(&self.stores.lock(), store)?;
        let config = ReclaimConfig { idle_seal_ms: 0, idle_seal_bytes: 1, ..cloud::reclaim_config() };
        let collector = self.collector(config);
        // What waits to be sent takes space of this disk.
        while self.content.unsealed_bytes_of(target) > WAITING_BYTES {
            let sent = collector.seal_once().map_err(|error| self.failed("migrate content of", error))?;
            if sent.sealed == 0 {
                break;
            }
        }
        let zone: std::sync::Arc<dyn Zone> = self.root.clone();
        let inos: Vec<Ino> = nodes.iter().map(|node| node.ino()).collect();
        collector.migrate(&zone, &inos, target, MIGRATE_BYTES).map_err(|error| self.failed("migrate content of", error))
    }

    /// What a collection would free.
    pub fn garbage(&self) -> Result<Garbage> {
        self.collector(ReclaimConfig::default()).survey().map_err(|error| self.failed("look for garbage in", error))
    }

    /// Reads a part of the sealed content above blob `after` back from where it is.
    pub fn scrub(&self, after: BlobId) -> Result<Scrubbed> {
        let collector = self.collector(ReclaimConfig::default());
        collector.scrub(after, SCRUB_BYTES).map_err(|error| self.failed("scrub", error))
    }

    pub(crate) fn store_id(&self, stores: &StoreList, name: &str) -> Result<StoreId> {
        stores.id(name).ok_or_else(|| {
            let known = stores.stores().iter().map(|store| format!(", {}", store.name)).collect::<String>();
            let problem = format!("there is no such store; there are: {}{known}", crate::stores::DEFAULT_STORE);
            Error::Setting { place: format!("store {name}"), problem }
        })
    }
}
