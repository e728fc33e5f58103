//! The library's own suite of storages, on ours.

use std::path::Path;
use std::sync::Arc;

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::{Metastore, Result, ZoneIndex};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log_store::LogStore;
use super::machine::Machine;
use super::types::TypeConfig;
use crate::raft::{Deaf, Flusher, GroupLog, MemberId, Metastores, Replica, ReplicaConfig};
use crate::{LogConfig, NodeLog};

struct InMemory;

impl Metastores for InMemory {
    fn stage(&self) -> Result<Arc<dyn Metastore>> {
        Ok(Arc::new(MemoryMetastore::new()))
    }

    fn promote(&self, _staged: &Arc<dyn Metastore>) -> Result<()> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> std::result::Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let disk = Arc::new(SimDisk::new());
        let log = NodeLog::open(disk, Path::new("/log"), Arc::new(NoContent), LogConfig::default()).unwrap();
        let log = GroupLog::open(Flusher::start(log).unwrap(), ZoneIndex(1)).unwrap();
        let config = ReplicaConfig { memtable_bytes: 1 << 20, cache_bytes: 1 << 20 };
        let metastore = Arc::new(MemoryMetastore::new());
        let replica = Replica::open(MemberId(1), 1, metastore, Arc::new(InMemory), Arc::new(Deaf), config).unwrap();
        Ok(((), LogStore(Arc::new(log)), Machine(Arc::new(replica))))
    }
}

#[test]
fn the_librarys_suite_of_storages_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(Suite::test_all(Builder)).await }).unwrap().unwrap();
}
