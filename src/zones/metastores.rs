//! [`RedbZones`]: the metastores of a volume's zones, and what is read of them alone.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::{MemoryMetastore, RedbMetastore, RedbOptions};
use nexus_kernel::disk::Disk;
use nexus_kernel::metastore::Table;
use nexus_kernel::{Ino, Metastore, Result as KernelResult, Zone, ZoneIndex};
use nexus_zone::node::ZoneMetastores;
use nexus_zone::raft::Metastores;
use parking_lot::Mutex;

/// Metastores that somebody still has, by zone and generation: a zone that is closed and opened anew while
/// readers of the old one are at work goes on in the same.
type Open = Mutex<HashMap<(ZoneIndex, u64), Weak<dyn Metastore>>>;

/// Metastores of zones: `zone-<index>-<generation>.redb` in the folder of metastores, of which
/// `zone-<index>.current` says which counts.
pub struct RedbZones {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cache_bytes: usize,
    open: Arc<Open>,
}

impl RedbZones {
    /// In `folder`, each with a cache of that size.
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf, cache_bytes: u64) -> RedbZones {
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        RedbZones { disk, folder, cache_bytes, open: Arc::default() }
    }

    fn slot(&self, index: ZoneIndex) -> Slot {
        let RedbZones { disk, folder, cache_bytes, open } = self;
        Slot { disk: disk.clone(), folder: folder.clone(), cache_bytes: *cache_bytes, open: open.clone(), index }
    }
}

/// One zone's files.
struct Slot {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cache_bytes: usize,
    open: Arc<Open>,
    index: ZoneIndex,
}

impl Slot {
    fn current_path(&self) -> PathBuf {
        self.folder.join(format!("zone-{}.current", self.index))
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("zone-{}-{generation}.redb", self.index))
    }

    fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> nexus_kernel::Error {
        let what = format!("write {}", path.display());
        move |error| nexus_kernel::Error::from_io(what, &error)
    }

    fn generation(&self) -> KernelResult<u64> {
        let path = self.current_path();
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| nexus_kernel::Error::Corrupt(format!("{} is no number", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(nexus_kernel::Error::from_io(format_args!("read {}", path.display()), &error)),
        }
    }

    fn open(&self, generation: u64) -> KernelResult<Arc<dyn Metastore>> {
        let mut open = self.open.lock();
        if let Some(metastore) = open.get(&(self.index, generation)).and_then(Weak::upgrade) {
            return Ok(metastore);
        }
        self.disk.create_dir_all(&self.folder)?;
        let options = RedbOptions { cache_bytes: self.cache_bytes, ..RedbOptions::default() };
        let metastore = RedbMetastore::open_or_create(self.disk.clone(), &self.path(generation), options)?;
        let metastore: Arc<dyn Metastore> = Arc::new(metastore);
        open.retain(|_, other| other.strong_count() > 0);
        open.insert((self.index, generation), Arc::downgrade(&metastore));
        Ok(metastore)
    }

    fn remove(&self, generation: u64) -> KernelResult<()> {
        self.open.lock().remove(&(self.index, generation));
        match self.disk.remove(&self.path(generation)) {
            Err(nexus_kernel::Error::NotFound) => Ok(()),
            other => other,
        }
    }
}

impl Metastores for Slot {
    fn stage(&self) -> KernelResult<Arc<dyn Metastore>> {
        let next = self.generation()? + 1;
        self.remove(next)?;
        self.open(next)
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> KernelResult<()> {
        let (old, path) = (self.generation()?, self.current_path());
        let new = path.with_extension("new");
        let written = fs::write(&new, format!("{}\n", old + 1)).and_then(|()| fs::File::open(&new)?.sync_all());
        written.and_then(|()| fs::rename(&new, &path)).map_err(Self::failed(&path))?;
        self.disk.sync_dir(&self.folder)?;
        self.remove(old)
    }
}

impl ZoneMetastores for RedbZones {
    fn open(&self, index: ZoneIndex) -> KernelResult<(Arc<dyn Metastore>, Arc<dyn Metastores>)> {
        let slot = self.slot(index);
        let metastore = slot.open(slot.generation()?)?;
        Ok((metastore, Arc::new(slot)))
    }

    fn remove(&self, index: ZoneIndex) -> KernelResult<()> {
        let slot = self.slot(index);
        let generation = slot.generation()?;
        slot.remove(generation)?;
        slot.remove(generation + 1)?;
        match fs::remove_file(slot.current_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Self::gone(&error)),
            _ => Ok(()),
        }
    }
}

impl RedbZones {
    /// A zone's metastore, to be looked at and no more; one that was never drained is empty. With
    /// `deep`, its pages are held against their checksums first.
    pub(super) fn open_to_check(&self, index: ZoneIndex, deep: bool) -> KernelResult<Arc<dyn Metastore>> {
        let slot = self.slot(index);
        let path = slot.path(slot.generation()?);
        if !path.exists() {
            return Ok(Arc::new(MemoryMetastore::new()));
        }
        if deep {
            RedbMetastore::check_integrity(&RealDisk::new(), &path)?;
        }
        let options = RedbOptions { cache_bytes: self.cache_bytes, ..RedbOptions::default() };
        Ok(Arc::new(RedbMetastore::open_read_only(self.disk.clone(), &path, options)?))
    }

    fn gone(error: &std::io::Error) -> nexus_kernel::Error {
        nexus_kernel::Error::from_io("remove a zone's metastore", error)
    }
}

/// All files and directories of a zone but its root.
pub(super) fn inodes_below_root(zone: &dyn Zone) -> KernelResult<Vec<Ino>> {
    let mut found = Vec::new();
    zone.read(&mut |state| {
        found.clear();
        state.scan(Table::Inode, &[], &[0xff; 9], &mut |key, _| {
            found.extend(key.try_into().ok().map(u64::from_be_bytes).map(Ino).filter(|ino| *ino != Ino::ROOT));
            ControlFlow::Continue(())
        })
    })?;
    Ok(found)
}
