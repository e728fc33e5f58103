//! Making a directory a zone of its own, in the volume itself or in another zone: its records are
//! copied while nothing changes around it, then a mount entry takes its place, for all nodes at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_content::ReclaimConfig;
use nexus_kernel::failpoint::reach;
use nexus_kernel::metastore::Table;
use nexus_kernel::model::{self, MountTarget};
use nexus_kernel::scan::zone_blobs;
use nexus_kernel::{BlobId, Command, Ino, MetaRead, NodeId, Result as KernelResult, Zone};
use nexus_zone::node::{JoinedZone, NewRoot, ZoneNode};
use nexus_zone::raft::Pause;
use nexus_zone::{ExportError, export};

use super::metastores::inodes_below_root;
use crate::boot::Volume;
use crate::error::{Error, Result};

/// How long files of the directory may stay open on other nodes before it can't be shared.
const OPEN_ELSEWHERE: Duration = Duration::from_secs(3);

/// Why a directory was not shared.
enum Refused {
    /// A file of this name has another one outside.
    Linked(String),
    /// A member of the zone around it has a file open.
    InUse(String),
    /// Something failed; nothing has changed.
    Failed(nexus_kernel::Error),
    /// It is not known whether the zone stands in the directory's place.
    Unclear(nexus_kernel::Error),
}

impl From<nexus_kernel::Error> for Refused {
    fn from(error: nexus_kernel::Error) -> Refused {
        Refused::Failed(error)
    }
}

impl From<ExportError> for Refused {
    fn from(error: ExportError) -> Refused {
        match error {
            ExportError::Failed(error) => Refused::Failed(error),
            ExportError::Linked { name, .. } => Refused::Linked(String::from_utf8_lossy(&name).into_owned()),
        }
    }
}

/// A directory on its way to be a zone.
struct Sharing<'a> {
    volume: &'a Volume,
    node: Arc<ZoneNode>,
    dir: NodeId,
    joined: Arc<JoinedZone>,
    /// Has programs find the zone in the directory's place.
    show: &'a dyn Fn(&Arc<JoinedZone>),
}

impl Volume {
    /// Makes the directory `dir`, with all that is in it, a zone of its own. `show` is called once
    /// that is filled, right before it is put in place, to have programs see it there.
    pub fn share(&self, dir: NodeId, name: &str, show: &dyn Fn(&Arc<JoinedZone>)) -> Result<Arc<JoinedZone>> {
        let refused = |problem: String| Error::Setting { place: name.to_owned(), problem };
        let failed = |error| self.failed("share a directory of", error);
        if dir.ino() == Ino::ROOT {
            return Err(refused(
                "only a directory below the root of this volume, or of a zone, can be shared: give the directory \
                 that is to be a zone"
                    .to_owned(),
            ));
        }
        let _alone = self.sharing.lock();
        let inode = self.fs.getattr(dir).map_err(failed)?.inode;
        if !inode.is_dir() {
            return Err(refused("no directory".to_owned()));
        }
        let (around, _) = self.fs.router().resolve(dir).map_err(failed)?;
        let node = self.node()?;
        let outer = node.zones().into_iter().find(|joined| joined.index() == dir.zone());
        let info = around.info();
        let root = NewRoot {
            hash_seed: info.hash_seed,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            within: Some(info.id),
        };
        let joined = node.found(name, root).map_err(failed)?;
        // Before files of the zone refer to content, so that none of it is taken for garbage.
        self.zones.add(joined.zone().clone());
        let sharing = Sharing { volume: self, node: node.clone(), dir, joined: joined.clone(), show };
        let shared = match &outer {
            Some(outer) => sharing.within_zone(outer, &around),
            None => sharing.within_volume(),
        };
        if let Err(why) = shared {
            if !matches!(why, Refused::Unclear(_))
                && let Err(error) = self.take_back(&joined)
            {
                log::warn!("what was made of the zone can't be removed: {error}");
            }
            return Err(match why {
                Refused::Linked(file) => refused(format!(
                    "{file:?} has another name outside of the directory (a hard link), which a zone can't have: \
                     remove one of the two first"
                )),
                Refused::InUse(whom) => refused(format!(
                    "a file of it is open on {whom}: end what uses it first, or what that writes from now on would \
                     be lost"
                )),
                Refused::Failed(error) => failed(error),
                Refused::Unclear(error) => refused(format!(
                    "it is not known whether the directory is a zone now ({error}): `nexus-fuse zone ls` tells, once \
                     a majority of the zone around it is there"
                )),
            });
        }
        node.made(&joined).map_err(failed)?;
        if let Err(error) = self.fs.empty_detached(dir.zone()) {
            log::warn!("what was shared is not removed from its old place yet: {error}");
        }
        Ok(joined)
    }

    /// Removes a zone that was made for a directory, and did not take its place.
    pub(super) fn take_back(&self, joined: &Arc<JoinedZone>) -> KernelResult<()> {
        let _ = self.fs.router().detach(joined.index());
        let zone: Arc<dyn Zone> = joined.zone().clone();
        self.zones.remove(&zone);
        match self.node_if_any() {
            Some(node) => node.leave(joined),
            None => Ok(()),
        }
    }

    /// Copies what a zone's files have in these blobs of other nodes into blobs of this one.
    fn take_over(&self, zone: &Arc<dyn Zone>, blobs: &[BlobId]) -> KernelResult<u64> {
        self.collector(ReclaimConfig::default()).reading(self.shared.clone()).take_over(zone, blobs)
    }

    fn is_foreign(&self, blob: BlobId) -> bool {
        blob.origin().0 != self.identity().writer
    }
}

impl Sharing<'_> {
    /// A directory of the volume: no change of that is made meanwhile.
    fn within_volume(&self) -> std::result::Result<(), Refused> {
        let root = &self.volume.root;
        let mut why = None;
        let mut inner = None;
        let done = root.propose_alone(|| {
            let mut filled = Ok(());
            root.read(&mut |state| {
                filled = self.fill(state);
                Ok(())
            })?;
            let shown = filled.and_then(|()| Ok(self.put_up()?));
            match shown {
                Ok(pause) => inner = Some(pause),
                Err(error) => {
                    why = Some(error);
                    return Err(nexus_kernel::Error::Invalid);
                }
            }
            let (parent, name, target) = self.place()?;
            Ok(Command::MountZone { parent, name, replace: true, target, now: root.now() })
        });
        if let Some(why) = why {
            return Err(why);
        }
        done?;
        root.sync().map_err(Refused::Unclear)?;
        reach("share.mounted");
        Ok(())
    }

    /// A directory of another zone: all its members pause, and what they wrote is copied, as they
    /// need not take part in the new one.
    fn within_zone(&self, outer: &Arc<JoinedZone>, around: &Arc<dyn Zone>) -> std::result::Result<(), Refused> {
        // Most of it before changes have to wait.
        let (_, state) = outer.zone().replica().snapshot(true)?;
        let mut foreign = BTreeSet::new();
        export(&*state, self.dir.ino(), &mut |pairs| {
            let blobs = pairs.iter().filter(|(table, ..)| *table == Table::Blob as u8);
            let ids = blobs.filter_map(|(_, key, _)| Some(BlobId(u64::from_be_bytes(key.as_slice().try_into().ok()?))));
            foreign.extend(ids.filter(|blob| self.volume.is_foreign(*blob)));
            Ok(())
        })?;
        drop(state);
        self.volume.take_over(around, &foreign.into_iter().collect::<Vec<_>>())?;
        let pause = Pause::begin(outer.zone(), self.joined.id().0).map_err(|error| match error {
            nexus_kernel::Error::Busy => {
                nexus_kernel::Error::Unavailable("another directory of the zone is being shared: try again".into())
            }
            other => other,
        })?;
        let (_, state) = outer.zone().replica().snapshot(true)?;
        self.fill(&*state)?;
        let inner: Arc<dyn Zone> = self.joined.zone().clone();
        let blobs = zone_blobs(&*inner)?.into_keys();
        let foreign: Vec<BlobId> = blobs.filter(|blob| self.volume.is_foreign(*blob)).collect();
        self.volume.take_over(&inner, &foreign)?;
        self.wait_unused(outer)?;
        pause.check()?;
        let (parent, name, target) = self.place()?;
        let inner = self.put_up()?;
        let now = outer.zone().now();
        let placed = pause.end_with(|mark| Command::MountFilled { parent, name, mark, target, now });
        drop(inner);
        match placed {
            Ok(()) => {
                reach("share.mounted");
                Ok(())
            }
            Err(error) if error.is_unclear() => Err(Refused::Unclear(error)),
            Err(error) => Err(Refused::Failed(error)),
        }
    }

    /// Copies the directory's records into the zone.
    fn fill(&self, state: &dyn MetaRead) -> std::result::Result<(), Refused> {
        let zone = self.joined.zone();
        export(state, self.dir.ino(), &mut |pairs| zone.propose(&Command::Import { pairs, done: false }).map(drop))?;
        zone.propose(&Command::Import { pairs: Vec::new(), done: true })?;
        reach("share.filled");
        Ok(())
    }

    /// Has programs find the zone where the directory is. Its changes wait as long as what this
    /// answers is kept, so that none is made before it is known that the zone stays there.
    fn put_up(&self) -> KernelResult<Pause> {
        let pause = Pause::begin(self.joined.zone(), self.joined.id().0)?;
        self.volume.fs.attach_at(self.joined.index(), self.joined.zone().clone())?;
        (self.show)(&self.joined);
        Ok(pause)
    }

    /// Where the mount entry is to stand, and what it says.
    fn place(&self) -> KernelResult<(Ino, nexus_kernel::command::SmallBytes, Vec<u8>)> {
        let (parent, entry) = self.volume.fs.place_of(self.dir)?;
        let joined = &self.joined;
        let target =
            MountTarget { zone: joined.id().0, name: joined.name().to_owned(), addresses: self.node.addresses() };
        Ok((parent.ino(), entry.as_ref().into(), model::encode(&target)?.to_vec()))
    }

    /// Waits until no other member has a file of the directory open.
    fn wait_unused(&self, outer: &JoinedZone) -> std::result::Result<(), Refused> {
        let inodes = inodes_below_root(&**self.joined.zone())?;
        let until = Instant::now() + OPEN_ELSEWHERE;
        while let Some(whom) = self.node.held_elsewhere(outer, &inodes) {
            if Instant::now() >= until {
                return Err(Refused::InUse(whom));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
