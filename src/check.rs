//! Checking a volume that no daemon has open.

use nexus_drivers::disk::RealDisk;
use nexus_drivers::metastore::RedbMetastore;

use crate::boot::{CheckReport, Volume};
use crate::config::{Config, MetastoreKind};
use crate::error::{Error, Result};
use crate::folder::{DataFolder, Layout};

/// Checks the volume at `config.data`, with what its log is ahead of its metastore, and
/// changes no content and no metadata; `deep` reads everything. Damage that keeps the volume from being opened is
/// [`Error::Damaged`].
pub fn offline(config: &Config, deep: bool) -> Result<CheckReport> {
    let folder = DataFolder::open(&config.data)?;
    let root_meta = Layout::of(folder.path()).root_meta;
    if deep && folder.is_finished() && folder.identity().drivers.metastore == MetastoreKind::Redb {
        RedbMetastore::check_integrity(&RealDisk::new(), &root_meta)
            .map_err(|error| Error::kernel(folder.path(), format!("check {}", root_meta.display()), error))?;
    }
    Volume::open_to_check(folder, config)?.check(deep)
}
