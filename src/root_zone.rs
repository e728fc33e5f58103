//! Opening the root zone of a data folder: its metastore, then the zone over that and the log.

use std::sync::Arc;

use nexus_drivers::metastore::{MemoryMetastore, RedbMetastore, RedbOptions};
use nexus_kernel::disk::Disk;
use nexus_kernel::{Metastore, StoreId};
use nexus_zone::{LocalZone, NewZone, ZoneConfig, ZoneParts};

use crate::config::MetastoreKind;
use crate::error::{Error, Result};
use crate::folder::{DataFolder, Layout, random_u64};
use crate::memory::MemoryPlan;

/// Mode of the root directory of a new volume.
const ROOT_MODE: u32 = 0o755;

/// Removes what an earlier run of a throwaway volume left.
pub fn clear(layout: &Layout) -> Result<()> {
    let cache = layout.cache_of(StoreId(0));
    for folder in [&layout.log, &layout.meta, &layout.segments, &layout.sums, &layout.blobs, &cache] {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("clear {}", folder.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the root zone's metastore. Only a volume that is still being made may have none.
pub fn open_metastore(
    folder: &DataFolder,
    layout: &Layout,
    disk: &Arc<dyn Disk>,
    plan: &MemoryPlan,
) -> Result<Arc<dyn Metastore>> {
    let failed = |error| Error::kernel(folder.path(), format!("open {}", layout.root_meta.display()), error);
    let drivers = folder.identity().drivers;
    match drivers.metastore {
        MetastoreKind::Memory => Ok(Arc::new(MemoryMetastore::new())),
        MetastoreKind::Redb => {
            let options = RedbOptions {
                cache_bytes: usize::try_from(plan.metastore_cache).unwrap_or(usize::MAX),
                ..RedbOptions::default()
            };
            if !may_be_new(folder) {
                return match RedbMetastore::open(disk.clone(), &layout.root_meta, options) {
                    Ok(metastore) => Ok(Arc::new(metastore)),
                    Err(nexus_kernel::Error::NotFound) => Err(Error::Damaged {
                        path: folder.path().to_owned(),
                        problem: format!("{} is missing", layout.root_meta.display()),
                    }),
                    Err(error) => Err(failed(error)),
                };
            }
            disk.create_dir_all(&layout.meta).map_err(failed)?;
            let metastore = RedbMetastore::open_or_create(disk.clone(), &layout.root_meta, options).map_err(failed)?;
            Ok(Arc::new(metastore))
        }
    }
}

/// Opens the root zone over its log and metastore. Only a volume that is still being made,
/// or that begins anew each time, may have none.
pub fn open_zone(folder: &DataFolder, parts: ZoneParts, config: ZoneConfig) -> Result<LocalZone> {
    let failed =
        |error| Error::kernel(folder.path(), format!("open the root zone of {}", folder.path().display()), error);
    match LocalZone::open(parts.clone(), config.clone()) {
        Err(nexus_kernel::Error::NotFound) if may_be_new(folder) => {
            let new = NewZone {
                id: folder.identity().id,
                hash_seed: random_u64().map_err(|error| Error::io("read random numbers", error))?,
                mode: ROOT_MODE,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            };
            LocalZone::create(parts, config, &new).map_err(failed)
        }
        Err(nexus_kernel::Error::NotFound) => {
            Err(Error::Damaged { path: folder.path().to_owned(), problem: "the metastore has no root zone".to_owned() })
        }
        other => other.map_err(failed),
    }
}

/// Whether what is missing is to be made.
fn may_be_new(folder: &DataFolder) -> bool {
    !folder.is_finished() || folder.identity().is_throwaway()
}
